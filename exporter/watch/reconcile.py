"""Tasks: reading the REST record of a conversation after its end, until the record is complete (semantics 7).

The record follows the end with a delay: it may be missing at first, call the conversation running, or lack who
ended it or the analysis (API 2.2, 3.2). What only the record has (who ended the conversation, interruptions,
failures of tools) is lost if it never becomes complete; what was seen live stays counted.
"""

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

# Seconds to wait for an incomplete record. In Phonic's example the webhooks come 6.6 s after the end (API 3.2).
INCOMPLETE_TIMEOUT = 30.0
# Seconds to wait for an answer of REST. Also bounds how many reads can queue, where more conversations end than
# the rate limit allows to read.
REST_TIMEOUT = 600.0
FIRST_DELAY, LONGEST_DELAY = 3.0, 15.0  # seconds between reads; usually the second or third is complete


def is_complete(record: Snapshot) -> bool:
    """Whether a record has all that REST will ever have: the end, who ended the conversation, the analysis."""
    conversation = record.conversation
    return None not in (conversation.ended_at, conversation.ended_by, conversation.analysis)


class Reconciler:
    """Reads records of single conversations. Implements `exporter.watch.interfaces.Records`."""

    def __init__(
        self,
        read: Callable[[str], Awaitable[Snapshot | None]],
        *,
        sink: Sink,
        rng: Random,
        incomplete_timeout: float = INCOMPLETE_TIMEOUT,
        rest_timeout: float = REST_TIMEOUT,
    ) -> None:
        """``read`` is `RestApi.record`.

        ``incomplete_timeout``: seconds to wait for an incomplete record, from the first read that found it so.
        ``rest_timeout``: seconds to wait for REST, from the start of the first read that failed, and for one read
        to leave the queue of requests. It is long because nothing is lost by waiting.
        """
        self._read = read
        self._sink = sink
        self._rng = rng
        self._incomplete_timeout = incomplete_timeout
        self._rest_timeout = rest_timeout

    async def state(self, conversation_id: str) -> RecordState:
        """Read the record once, to see whether the conversation is still going on. Cancellation: at any time."""
        try:
            record = await self._read_queued(conversation_id)
        except RestFailed:
            return RecordState.UNAVAILABLE
        if record is None:
            return RecordState.NOT_FOUND
        return RecordState.LIVE if record.conversation.ended_at is None else RecordState.ENDED

    async def complete(self, conversation_id: str) -> Snapshot | None:
        """Read the record of an ended conversation until it is complete.

        A record that calls the conversation running counts as incomplete, because its end is known from elsewhere;
        so does a missing one, because Phonic may not have saved it yet. Returns the last record read, None if
        there never was one, and reports the outcome to the sink.

        Cancellation: at any time; nothing is reported then.
        """
        delays = backoff(self._rng, first=FIRST_DELAY, longest=LONGEST_DELAY)
        record: Snapshot | None = None
        result = Reconciled.UNAVAILABLE
        # When a read first returned an incomplete record (True), and when one first failed (False).
        since: dict[bool, float] = {}
        while True:
            asked = trio.current_time()
            try:
                found = await self._read_queued(conversation_id)
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
            timeout = self._incomplete_timeout if has_answered else self._rest_timeout
            left = first + timeout - trio.current_time()
            if left <= 0:
                log.info("record not complete", conversation=conversation_id, result=result.value)
                break
            await trio.sleep(min(next(delays), left))
        self._sink.reconciled(result)
        return record

    async def _read_queued(self, conversation_id: str) -> Snapshot | None:
        """Raises: `RestFailed`, also if the read does not leave the queue of requests in time."""
        with trio.move_on_after(self._rest_timeout):
            return await self._read(conversation_id)
        raise RestFailed(RestError.TIMEOUT)
