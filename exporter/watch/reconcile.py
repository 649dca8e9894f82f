"""Tasks: the REST read after the end of a conversation, repeated until the record is complete."""

from collections.abc import Awaitable, Callable
from random import Random

import structlog
import trio

from ..enums import Reconciled, RestError
from ..phonic.rest import RestFailed
from ..phonic.schema import Snapshot
from .backoff import backoff
from .interfaces import RecordState, Sink

log = structlog.get_logger("exporter.watch")

PATIENCE = 30.0  # seconds; the documented webhooks came 6.6 s after the end
ENDURANCE = 600.0  # seconds; also bounds how many can wait, where more end than the rate limit lets be read
FIRST_DELAY, LONGEST_DELAY = 3.0, 15.0  # usually the second read, at the latest the third, finds all


def is_complete(record: Snapshot) -> bool:
    """Whether REST has all it will ever have of a conversation: the end, who ended it, the analysis."""
    conversation = record.conversation
    return None not in (conversation.ended_at, conversation.ended_by, conversation.analysis)


class Reconciler:
    """Records of single conversations. Implements `interfaces.Records`; may be cancelled at any time."""

    def __init__(
        self,
        read: Callable[[str], Awaitable[Snapshot | None]],
        *,
        sink: Sink,
        rng: Random,
        patience: float = PATIENCE,
        endurance: float = ENDURANCE,
    ) -> None:
        """``read`` is `RestApi.record`.

        ``patience``: seconds to wait for an incomplete record, from the first read that found it so.
        ``endurance``: seconds to wait for REST, from the start of the first attempt that failed, or for a turn
        to ask; long, for nothing is lost by waiting.
        """
        self._read = read
        self._sink = sink
        self._rng = rng
        self._patience = patience
        self._endurance = endurance

    async def state(self, conversation_id: str) -> RecordState:
        """Whether the conversation is still going on, by one read."""
        try:
            record = await self._read_in_turn(conversation_id)
        except RestFailed:
            return RecordState.UNAVAILABLE
        if record is None:
            return RecordState.NOT_FOUND
        return RecordState.LIVE if record.conversation.ended_at is None else RecordState.ENDED

    async def complete(self, conversation_id: str) -> Snapshot | None:
        """The record of an ended conversation, the last one read if it did not become complete in time.

        A record that calls the conversation running is incomplete (the end is known from elsewhere), and so is
        a missing one (it may not be saved yet). None if there never was one: then what only REST has (who ended
        it, interruptions, tool failures) is lost, and what was seen live stays counted. Counts how it went.
        """
        delays = backoff(self._rng, first=FIRST_DELAY, longest=LONGEST_DELAY)
        record: Snapshot | None = None
        result = Reconciled.UNAVAILABLE
        since: dict[bool, float] = {}  # when REST answered too little, and when not at all, for the first time
        while True:
            asked = trio.current_time()
            try:
                found = await self._read_in_turn(conversation_id)
            except RestFailed:
                has_answered = False
            else:
                has_answered = True
                record = found or record
                result = Reconciled.INCOMPLETE if record else Reconciled.NOT_FOUND
                if found and is_complete(found):
                    result = Reconciled.COMPLETE
                    break
            first = since.setdefault(has_answered, trio.current_time() if has_answered else asked)
            left = first + (self._patience if has_answered else self._endurance) - trio.current_time()
            if left <= 0:
                log.info("record not complete", conversation=conversation_id, result=result.value)
                break
            await trio.sleep(min(next(delays), left))
        self._sink.reconciled(result)
        return record

    async def _read_in_turn(self, conversation_id: str) -> Snapshot | None:
        """Raises `RestFailed`, also when no turn comes: all requests wait in one queue."""
        with trio.move_on_after(self._endurance):
            return await self._read(conversation_id)
        raise RestFailed(RestError.TIMEOUT)
