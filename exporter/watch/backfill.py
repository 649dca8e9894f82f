"""Tasks: counting conversations that ended unwatched, from their REST records (semantics 7).

`sweep.py` finds them and adds them here. Each stays until its end has been counted or a watcher has it:

    added -> record complete                                              -> counted
          -> record incomplete or missing for `INCOMPLETE_TIMEOUT`         -> counted with what there is
          -> record has no end                                            -> given to the supervisor
          -> record not readable in `MAX_FAILURES` passes while others are -> counted without a record

A *pass* reads each record once. A pass follows each sweep, which is also how often an incomplete record is read
again.

Rules for this file: every check is repeated after an await, because meanwhile a watcher may have started or
finished the conversation; a record that cannot be read, or that crashes us, delays no other.
"""

from collections.abc import Awaitable, Callable, Collection
from random import Random

import attrs
import trio

from ..counting import retention
from ..counting.derive import parse_time
from ..counting.finish import decide_end
from ..enums import Reconciled, Started, Task
from ..phonic.rest import RestFailed
from ..phonic.schema import Snapshot
from .backoff import backoff
from .crash_guard import CrashGuard
from .interfaces import Requester, Sink, Targets
from .reconcile import INCOMPLETE_TIMEOUT, is_complete

FAILURES_IN_A_ROW = 5  # reads that fail before a pass ends, because REST has stopped working
MAX_FAILURES = 10  # reads of one record that fail in a row, before it is given up
RETRY_FIRST, RETRY_LONGEST = 1.0, 8.0  # seconds after a failed read


def is_handled(conversation_id: str, targets: Targets, sink: Sink) -> bool:
    """Whether the end of a conversation was counted, or its watcher will count it."""
    return targets.is_watched(conversation_id) or sink.is_finished(conversation_id)


@attrs.define(eq=False)
class _Pending:
    """One conversation to count. ``incomplete_since``: trio time. ``failures``: failed reads in a row."""

    incomplete_since: float | None = None
    failures: int = 0


class Backfill:
    """The conversations that are over, as far as is known, and whose end has not been counted."""

    def __init__(
        self,
        read: Callable[[str], Awaitable[Snapshot | None]],
        *,
        targets: Targets,
        sink: Sink,
        rng: Random,
        now: Callable[[], float],
    ) -> None:
        """``read`` is `RestApi.record`. ``now`` gives Unix time by Phonic's clock."""
        self._read = read
        self._targets = targets
        self._sink = sink
        self._rng = rng
        self._now = now
        self._guard = CrashGuard(Task.RECORDS, sink.task_crashed)
        self._pending: dict[str, _Pending] = {}

    def add(self, conversation_id: str, *, is_over: bool = False) -> None:  # noqa: ARG002  # its record is asked
        """Have the end of a conversation counted. Idempotent."""
        self._pending.setdefault(conversation_id, _Pending())

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be counted."""
        return not self._pending

    @property
    def conversation_ids(self) -> Collection[str]:
        """Those to count."""
        return self._pending.keys()

    async def run_pass(self) -> None:
        """Read each record once and count those that are final. Stops early when REST stops working.

        One caller at a time. Failed reads and crashes are not raised. Cancellation: at any read; nothing is lost,
        and nothing will be counted twice.
        """
        delays = backoff(self._rng, first=RETRY_FIRST, longest=RETRY_LONGEST)
        failures = 0
        for conversation_id, pending in list(self._pending.items()):
            if self._is_handled(conversation_id):
                del self._pending[conversation_id]
                continue
            try:
                record = await self._read(conversation_id)
            except Exception as failed:
                if not isinstance(failed, RestFailed):
                    self._guard.report(failed)
                failures += 1
                if failures == FAILURES_IN_A_ROW:
                    return
                self._put_off(conversation_id, pending)
                await trio.sleep(next(delays))
                continue
            # Again, because it may have been watched or finished during the read.
            try:
                is_settled = self._is_handled(conversation_id) or self._settles(conversation_id, pending, record)
            except Exception as crash:
                self._guard.report(crash)
                self._put_off(conversation_id, pending)
                continue
            failures = pending.failures = 0
            if is_settled:
                del self._pending[conversation_id]

    def _is_handled(self, conversation_id: str) -> bool:
        return is_handled(conversation_id, self._targets, self._sink)

    def _put_off(self, conversation_id: str, pending: _Pending) -> None:
        """Move a conversation to the end of the queue; after `MAX_FAILURES` count it without a record."""
        del self._pending[conversation_id]
        pending.failures += 1
        if pending.failures < MAX_FAILURES:
            self._pending[conversation_id] = pending
        elif not self._is_handled(conversation_id):
            self._finish(conversation_id, None, Reconciled.UNAVAILABLE)

    def _settles(self, conversation_id: str, pending: _Pending, record: Snapshot | None) -> bool:
        """Act on a record. Returns False if it must be read again."""
        if record is not None and is_complete(record):
            self._finish(conversation_id, record, Reconciled.COMPLETE)
            return True
        if record is not None and record.conversation.ended_at is None:
            return self._hand_over(conversation_id, record)
        if pending.incomplete_since is None:
            pending.incomplete_since = trio.current_time()
        if trio.current_time() - pending.incomplete_since < INCOMPLETE_TIMEOUT:
            return False
        self._finish(conversation_id, record, Reconciled.INCOMPLETE if record else Reconciled.NOT_FOUND)
        return True

    def _hand_over(self, conversation_id: str, record: Snapshot) -> bool:
        """Have a conversation without an end watched. Returns False if the watch limit prevents that.

        One that began too long ago to be live was never closed by Phonic. It is dropped, and dismissed unless its
        progress is remembered: as long as it is assigned to a shard, that cannot be drained.
        """
        started = parse_time(record.conversation.started_at)
        if started is not None and started < (self._now() - retention.OLDEST_LIVE) * 1e6:
            if not self._sink.has_seen(conversation_id):
                self._sink.dismiss(conversation_id)
            return True
        return self._targets.start(conversation_id, Requester.DISCOVERY) is not Started.LIMIT_REACHED

    def _finish(self, conversation_id: str, record: Snapshot | None, result: Reconciled) -> None:
        decision = decide_end(
            record.conversation if record else None,
            seen=self._sink.has_seen(conversation_id),
            history_ends=retention.history_ends(self._sink.first_start, self._now()),
            was_found=result is not Reconciled.NOT_FOUND,
            over_limit=self._targets.is_over_limit(conversation_id),
        )
        self._sink.reconciled(result)
        if decision.counts:
            self._sink.finish(conversation_id, record, decision.lost)
        else:
            self._sink.dismiss(conversation_id)
