"""Tasks: which conversations this process watches when it shares them with others: those assigned to its shard.

Theory of operation
-------------------
Everything that finds a conversation (rounds, sweeps, flags, files, the push API) finds it for all processes. So it
does not start a watcher: it *offers* the conversation, with a `Word` of what is known, to the shards. The offer is
assigned once, and the holder of that shard *receives* it:

    LIVE     watch it; while the watch limit keeps it out, try again at each reply
    CHECK    unless it is watched, read its record, which tells
    ENDED    close its feed, or read its record

What this process has offered is remembered, so that a row that is listed every few seconds is offered once for
each word. To the lists, a conversation that was offered is watched: somebody does. Its end is told by a row, and
offered too.
"""

from collections.abc import Callable

import trio

from ..enums import Started, Word
from ..phonic.wire import is_conversation_id
from .backfill import Backfill
from .interfaces import Requester, Sharing, Sink
from .supervisor import Supervisor

MOST_OFFERED = 300_000
"""Conversations remembered, about 40 MB. One that is forgotten is offered again, which changes nothing."""
PASS_INTERVAL = 60.0
"""Seconds after which records that were not complete are read again."""
_PASS_DELAY = 1.0  # seconds in which conversations to check are collected


class AssignedTargets:
    """Offers conversations, and watches those received. Implements `Targets` and `EndedUnwatched`."""

    def __init__(
        self,
        supervisor: Supervisor,
        sharing: Sharing,
        *,
        sink: Sink,
        backfill: Backfill | None,
        is_up: Callable[[], bool] = lambda: True,
    ) -> None:
        """``backfill``: None without REST; then what is offered as over is taken for over.

        ``is_up``: whether REST answers. While it does not, no record is read, or failures would pass for the
        record's.
        """
        self._supervisor = supervisor
        self._sharing = sharing
        self._sink = sink
        self._backfill = backfill
        self._is_up = is_up
        self._offered: dict[str, Word] = {}
        self._waiting: dict[str, None] = {}  # received, and kept out by the watch limit
        self._has_work = trio.Event()

    # --- targets

    def start(self, conversation_id: str, requester: Requester) -> Started:
        """Offer a conversation, or add a requester to one that is watched here.

        Returns `Started.STARTED` where it is left to whoever holds its shard.
        """
        if self._supervisor.is_watched(conversation_id) or self._sink.is_finished(conversation_id):
            return self._supervisor.start(conversation_id, requester)
        self._offer(conversation_id, Word.LIVE)
        return Started.STARTED

    def withdraw(self, conversation_id: str, requester: Requester) -> None:
        self._supervisor.withdraw(conversation_id, requester)

    def over(self, conversation_id: str) -> None:
        if self._supervisor.is_watched(conversation_id):
            self._supervisor.over(conversation_id)
        elif conversation_id in self._offered:
            self._offer(conversation_id, Word.ENDED)

    def is_watched(self, conversation_id: str) -> bool:
        return (
            self._supervisor.is_watched(conversation_id)
            or self._offered.get(conversation_id, Word.ENDED) < Word.ENDED
        )

    def is_over_limit(self, conversation_id: str) -> bool:
        return self._supervisor.is_over_limit(conversation_id)

    # --- ended unwatched

    def add(self, conversation_id: str, *, is_over: bool = False) -> None:
        self._offer(conversation_id, Word.ENDED if is_over else Word.CHECK)

    async def run_pass(self) -> None:
        """Do nothing: `run` counts what was received."""

    def _offer(self, conversation_id: str, word: Word) -> None:
        if not is_conversation_id(conversation_id):
            return
        if self._offered.get(conversation_id, -1) >= word:
            return
        self._offered.pop(conversation_id, None)
        if len(self._offered) >= MOST_OFFERED:
            del self._offered[next(iter(self._offered))]
        self._offered[conversation_id] = word
        self._sharing.offer(conversation_id, word)

    # --- what belongs to the shard of this process

    def receive(self, conversation_id: str, word: Word) -> None:
        """A conversation was assigned to the shard that this process holds. Idempotent."""
        if self._sink.is_finished(conversation_id):
            return
        is_watched = self._supervisor.is_watched(conversation_id)
        if word is Word.LIVE:
            self._waiting[conversation_id] = None
            self.start_waiting()
        elif is_watched and word is Word.ENDED:
            self._supervisor.over(conversation_id)
        elif not is_watched and self._backfill is not None:
            self._waiting.pop(conversation_id, None)
            self._backfill.add(conversation_id)
            self._has_work.set()
        elif not is_watched and word is Word.ENDED:
            self._supervisor.complete(conversation_id)

    def left_over(self) -> dict[str, Word]:
        """What was received and is not finished, for whoever goes on with it."""
        left = dict.fromkeys(self._backfill.conversation_ids if self._backfill else (), Word.CHECK)
        left |= dict.fromkeys([each.conversation_id for each in self._supervisor.watches()], Word.LIVE)
        return left | dict.fromkeys(self._waiting, Word.LIVE)

    def start_waiting(self) -> None:
        """Watch those that the watch limit has kept out, as far as there is room."""
        started = []
        for conversation_id in self._waiting:
            if self._supervisor.start(conversation_id, Requester.DISCOVERY) is Started.LIMIT_REACHED:
                break
            started.append(conversation_id)
        for conversation_id in started:
            del self._waiting[conversation_id]

    async def run(self) -> None:
        """Read the records of those that are, or may be, over. Never returns."""
        while True:
            if self._backfill is None or self._backfill.is_empty:
                await self._has_work.wait()
                await trio.sleep(_PASS_DELAY)
            else:
                with trio.move_on_after(PASS_INTERVAL):
                    await self._has_work.wait()
                    await trio.sleep(_PASS_DELAY)
            self._has_work = trio.Event()
            if self._backfill is not None and self._is_up():
                await self._backfill.run_pass()
