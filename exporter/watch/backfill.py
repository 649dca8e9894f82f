"""Tasks: counting the conversations that ended without ever being watched, from their records."""

from collections.abc import Awaitable, Callable
from random import Random

import attrs
import trio

from ..counting import retention
from ..counting.derive import parse_time
from ..counting.finish import judge
from ..enums import Reconciled, Started, Task
from ..phonic.rest import RestFailed
from ..phonic.schema import Snapshot
from .backoff import backoff
from .crash_guard import CrashGuard
from .interfaces import Requester, Sink, Targets
from .reconcile import PATIENCE, is_complete

FAILURES_IN_A_ROW = 5  # that end a pass: REST has stopped working
MOST_FAILURES = 10  # passes in a row in which one record could not be read while REST worked: it is given up
RETRY_FIRST, RETRY_LONGEST = 1.0, 8.0  # seconds after a failure


def is_known(conversation_id: str, targets: Targets, sink: Sink) -> bool:
    """Whether the end of a conversation was counted, or a watcher will see to that."""
    return targets.is_watched(conversation_id) or sink.is_finished(conversation_id)


@attrs.define(eq=False)
class _Due:
    incomplete_since: float | None = None
    failures: int = 0


class Backfill:
    """Conversations that are over, as far as anybody knows, and whose end nobody has counted.

    Each stays here until it was counted or somebody watches it: passes come every minute or so, and that is also
    the pace at which an incomplete record is read again.
    """

    def __init__(
        self,
        read: Callable[[str], Awaitable[Snapshot | None]],
        *,
        targets: Targets,
        sink: Sink,
        rng: Random,
        now: Callable[[], float],
    ) -> None:
        """``read`` is `RestApi.record`."""
        self._read = read
        self._targets = targets
        self._sink = sink
        self._rng = rng
        self._now = now
        self._guard = CrashGuard(Task.RECORDS, sink.task_crashed)
        self._due: dict[str, _Due] = {}

    def add(self, conversation_id: str) -> None:
        """Idempotent."""
        self._due.setdefault(conversation_id, _Due())

    async def count(self) -> None:
        """One pass: read each record once, count those that are final. Stops early when REST stops working.

        One caller at a time. A cancelled pass has lost and repeated nothing.
        """
        delays = backoff(self._rng, first=RETRY_FIRST, longest=RETRY_LONGEST)
        failures = 0
        for conversation_id, due in list(self._due.items()):
            if self._is_known(conversation_id):
                del self._due[conversation_id]
                continue
            try:
                record = await self._read(conversation_id)
            except Exception as failed:
                if not isinstance(failed, RestFailed):  # a record that we cannot read holds up no other
                    self._guard.report(failed)
                failures += 1
                if failures == FAILURES_IN_A_ROW:
                    return
                self._put_off(conversation_id, due)
                await trio.sleep(next(delays))
                continue
            # Asked again after the wait: it may be watched or finished by now.
            try:
                is_settled = self._is_known(conversation_id) or self._settles(conversation_id, due, record)
            except Exception as crash:
                self._guard.report(crash)
                self._put_off(conversation_id, due)
                continue
            failures = due.failures = 0
            if is_settled:
                del self._due[conversation_id]

    def _is_known(self, conversation_id: str) -> bool:
        return is_known(conversation_id, self._targets, self._sink)

    def _put_off(self, conversation_id: str, due: _Due) -> None:
        """To the end of the queue, so that it does not hold up the others; given up after many failures."""
        del self._due[conversation_id]
        due.failures += 1
        if due.failures < MOST_FAILURES:
            self._due[conversation_id] = due
        elif not self._is_known(conversation_id):
            self._finish(conversation_id, None, Reconciled.UNAVAILABLE)

    def _settles(self, conversation_id: str, due: _Due, record: Snapshot | None) -> bool:
        """Act on a record. False if it must be read again."""
        if record is not None and is_complete(record):
            self._finish(conversation_id, record, Reconciled.COMPLETE)
            return True
        if record is not None and record.conversation.ended_at is None:
            return self._is_live(conversation_id, record)
        if due.incomplete_since is None:
            due.incomplete_since = trio.current_time()
        if trio.current_time() - due.incomplete_since < PATIENCE:
            return False
        self._finish(conversation_id, record, Reconciled.INCOMPLETE if record else Reconciled.NOT_FOUND)
        return True

    def _is_live(self, conversation_id: str, record: Snapshot) -> bool:
        """It goes on after all: a case for a watcher, unless that is refused or it was never closed."""
        started = parse_time(record.conversation.started_at)
        if started is not None and started < (self._now() - retention.OLDEST_LIVE) * 1e6:
            return True
        return self._targets.start(conversation_id, Requester.DISCOVERY) is not Started.LIMIT_REACHED

    def _finish(self, conversation_id: str, record: Snapshot | None, result: Reconciled) -> None:
        verdict = judge(
            record.conversation if record else None,
            seen=self._sink.has_seen(conversation_id),  # watched for a while, at least
            history_ends=retention.history_ends(self._sink.first_start, self._now()),
            was_found=result is not Reconciled.NOT_FOUND,
            over_limit=self._targets.is_over_limit(conversation_id),
        )
        self._sink.reconciled(result)
        if verdict.counts:
            self._sink.finish(conversation_id, record, verdict.lost)
