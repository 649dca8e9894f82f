"""Tasks: one watcher task per conversation in one nursery, from the first wish to watch it to its finished record.

A conversation's life, each step in its own small method:

    start -> CONNECTING/LIVE/WAITING (`watch`) -> ended              -> FINISHING (record from REST) -> finished
                                               -> refused, not found -> ask REST: over  -> FINISHING
                                                                        live  -> REFUSED, a slow retry for a day
                                                                        gone  -> finished or forgotten

Rules for this file: only the supervisor's task touches its nursery; exactly one place contains a crash; whatever
happens to one conversation, the others do not notice.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from math import inf
from random import Random

import attrs
import structlog
import trio

from ..derive import parse_time
from ..logs import frames
from ..phonic.model import Snapshot
from ..vocabulary import Lost, Started, WatcherState
from .backoff import backoff
from .ports import OpenFeed, Records, RecordState, Sink, Source
from .unwatched import history_ends
from .watcher import Outcome, Retry, watch

log = structlog.get_logger("exporter.watch")

# Seconds before a refused conversation that REST calls live is tried again: 401, 403 or 1008 mean that the
# credential is the problem, where hurry only makes a storm; 404 may be a call whose socket is not up yet.
REFUSED_RETRY = 300.0
NOT_FOUND_FIRST, NOT_FOUND_LONGEST = 4.0, 60.0
# Seconds since its first refusal after which a conversation is tried no more. Phonic never closed it, or the token
# that could see it is gone: without an end to the trying, those that pile up would use up the rate limit.
PERSISTENCE = 24 * 3600.0
CRASH_FIRST, CRASH_LONGEST = 30.0, 600.0  # seconds before a crashed watcher is tried again
MOST_REFUSED = 100_000  # ids remembered that met the watch limit: 15 MB; beyond, the first ones may count twice


@attrs.define(eq=False)
class Watch:
    """One conversation being followed."""

    conversation_id: str
    sources: set[Source]
    state: WatcherState
    since: float  # trio time of the last change of state
    has_ended: bool = False  # only its record is still to come
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def set_state(self, state: WatcherState) -> None:
        if state is not self.state:
            self.state = state
            self.since = trio.current_time()


class Supervisor:
    """Starts, stops and finishes watchers. Implements `exporter.watch.ports.Targets`."""

    def __init__(
        self,
        *,
        open_feed: OpenFeed,
        sink: Sink,
        records: Records | None,
        limit: int,
        retry: Retry | None = None,
        rng: Random | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """``records`` is None without REST (a session token); ``limit`` is ``--watch.limit``.

        ``now`` gives Unix time.
        """
        self._open_feed = open_feed
        self._sink = sink
        self._records = records
        self._limit = limit
        self._retry = retry or Retry()
        self._rng = rng or Random()  # noqa: S311  # jitter
        self._watches: dict[str, Watch] = {}
        self._wanted: set[Watch] = set()  # of these, those that count against the limit
        self._now = now
        self._refused: dict[str, None] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the watchers' nursery until cancelled, which stops every watcher."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    # --- targets

    def start(self, conversation_id: str, source: Source) -> Started:
        """Watch a conversation. Idempotent: a further source only joins those that keep it watched.

        A supervisor that is being stopped takes on nothing more, as if its limit were reached.
        """
        known = self._watches.get(conversation_id)
        if known is not None:
            known.sources.add(source)
            if source is not Source.CHECKPOINT:
                known.sources.discard(Source.CHECKPOINT)  # it spoke for those that had yet to ask after a restart
            return Started.ALREADY_WATCHED
        if self._sink.is_finished(conversation_id):
            return Started.FINISHED
        if self._nursery is None:
            return Started.LIMIT_REACHED
        if self.watched_count >= self._limit:
            if conversation_id not in self._refused:
                self._refuse(conversation_id)
            return Started.LIMIT_REACHED
        self._refused.pop(conversation_id, None)
        self._begin(self._nursery, Watch(conversation_id, {source}, WatcherState.CONNECTING, trio.current_time()))
        return Started.STARTED

    def _refuse(self, conversation_id: str) -> None:
        if len(self._refused) >= MOST_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refused[conversation_id] = None
        self._sink.refused(conversation_id)

    def complete(self, conversation_id: str) -> None:
        """Finish a conversation that ended before a restart, from its record."""
        if self._nursery is not None and conversation_id not in self._watches:
            ended = Watch(
                conversation_id, {Source.CHECKPOINT}, WatcherState.FINISHING, trio.current_time(), has_ended=True
            )
            self._begin(self._nursery, ended)

    def over(self, conversation_id: str) -> None:
        """REST has its end. Idempotent; an open feed is left to tell the end itself, after its last snapshot."""
        known = self._watches.get(conversation_id)
        has_no_feed = (WatcherState.WAITING, WatcherState.REFUSED)
        if known is not None and not known.has_ended and known.state in has_no_feed:
            self._stop(known)
            self.complete(conversation_id)

    def _begin(self, nursery: trio.Nursery, following: Watch) -> None:
        self._watches[following.conversation_id] = following
        if not following.has_ended:
            self._wanted.add(following)
        nursery.start_soon(self._follow, following)

    def stop(self, conversation_id: str) -> bool:
        """Stop watching, whoever asked for it. False if it was not, or is over: a record is completed."""
        known = self._watches.get(conversation_id)
        if known is None or known.has_ended:
            return False
        self._stop(known)
        return True

    def withdraw(self, conversation_id: str, source: Source) -> None:
        """One source no longer asks for it; the last one stops it, unless its record is being completed."""
        known = self._watches.get(conversation_id)
        if known is None:
            self._refused.pop(conversation_id, None)
            return
        known.sources.discard(source)
        if not known.sources and not known.has_ended:
            self._stop(known)

    def _stop(self, known: Watch) -> None:
        del self._watches[known.conversation_id]  # at once, so that it can be started again at once
        self._wanted.discard(known)
        known.scope.cancel()

    def is_watched(self, conversation_id: str) -> bool:
        return conversation_id in self._watches

    def is_refused(self, conversation_id: str) -> bool:
        """Whether the watch limit has kept it from being watched so far."""
        return conversation_id in self._refused

    # --- reading

    @property
    def watched_count(self) -> int:
        """Conversations that count against the limit: those whose feed is wanted."""
        return len(self._wanted)

    def watches(self) -> Iterable[Watch]:
        return self._watches.values()

    def states(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Rows of the gauge of watchers by state."""
        counts = dict.fromkeys(WatcherState, 0)
        for each in self._watches.values():
            counts[each.state] += 1
        return (((state.value,), float(count)) for state, count in counts.items())

    # --- one conversation's life

    async def _follow(self, following: Watch) -> None:
        try:
            with following.scope:
                await self._contained(following)
        finally:  # sync: runs even when cancelled; the live series die here
            self._wanted.discard(following)
            if self._watches.get(following.conversation_id) is following:
                del self._watches[following.conversation_id]
            if following.conversation_id not in self._watches:  # stopped and started again, it is another's by now
                self._sink.stopped(following.conversation_id)

    async def _contained(self, following: Watch) -> None:
        """The one place that contains a watcher's crash: it is counted, and tried again much later."""
        delays = backoff(self._rng, first=CRASH_FIRST, longest=CRASH_LONGEST)
        while True:
            try:
                await self._live(following)
                return
            except Exception as crash:  # not BaseException: Cancelled must pass
                log.error(
                    "watcher crashed",
                    conversation=following.conversation_id,
                    error=type(crash).__name__,
                    at=frames(crash),
                )
                self._sink.crashed(following.conversation_id)
            following.set_state(WatcherState.WAITING)
            await trio.sleep(next(delays))

    async def _live(self, following: Watch) -> None:
        if following.has_ended:
            await self._finish(following)
            return
        not_found_delays = backoff(self._rng, first=NOT_FOUND_FIRST, longest=NOT_FOUND_LONGEST)
        given_up_at = inf
        while True:
            outcome = await watch(
                following.conversation_id,
                open_feed=self._open_feed,
                sink=self._sink,
                retry=self._retry,
                rng=self._rng,
                set_state=following.set_state,
            )
            if outcome is Outcome.ENDED:
                await self._finish(following)
                return
            following.set_state(WatcherState.REFUSED)
            self._sink.stopped(following.conversation_id)
            state = await self._ask(following.conversation_id, outcome)
            delay = REFUSED_RETRY * self._rng.uniform(0.8, 1.2)
            if outcome is Outcome.NOT_FOUND:
                delay = next(not_found_delays)
            if state is RecordState.ENDED:
                await self._finish(following)
                return
            given_up_at = min(given_up_at, trio.current_time() + PERSISTENCE)
            if state is RecordState.NOT_FOUND or trio.current_time() >= given_up_at:
                log.warning("conversation given up", conversation=following.conversation_id, record=state.value)
                self._sink.forget(following.conversation_id)
                return
            log.warning(
                "conversation refused",
                conversation=following.conversation_id,
                record=state.value,
                retry_in=round(delay, 1),
            )
            await trio.sleep(delay)

    async def _ask(self, conversation_id: str, outcome: Outcome) -> RecordState:
        """What REST says; without REST, not to be found is all there is to know."""
        if self._records is not None:
            return await self._records.state(conversation_id)
        return RecordState.NOT_FOUND if outcome is Outcome.NOT_FOUND else RecordState.UNAVAILABLE

    async def _finish(self, following: Watch) -> None:
        following.has_ended = True
        self._wanted.discard(following)
        following.set_state(WatcherState.FINISHING)
        self._sink.ended(following.conversation_id)
        record = await self._records.complete(following.conversation_id) if self._records else None
        if self._sink.has_seen(following.conversation_id):
            self._sink.finish(following.conversation_id, record)
        elif record is not None and self._is_history(record):
            log.info("conversation is history", conversation=following.conversation_id)
        else:
            self._sink.finish(following.conversation_id, record, Lost.NEVER_LIVE)

    def _is_history(self, record: Snapshot) -> bool:
        ended = parse_time(record.conversation.ended_at)
        return ended is not None and ended / 1e6 < history_ends(self._sink, self._now())
