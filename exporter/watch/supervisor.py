"""Tasks: one watcher task for each conversation, from the first request to watch it to its finished record.

Theory of operation
===================

A conversation's watcher goes through the states of `WatcherState` (metric `phonic_exporter_watchers`):

    CONNECTING, LIVE, WAITING    `watcher.watch` follows the feed, and opens it again when it is lost.
    REFUSED                      The feed was refused, or not found three times. REST decides (semantics 10):
                                   the conversation is over        -> FINISHING
                                   REST does not know it           -> forgotten
                                   it is live, or REST is silent   -> try the feed again, after 1 s growing to
                                                                      30 s; after 24 h it is forgotten
    FINISHING                    The conversation is over. Its record is read and its end counted (semantics 7).

What ends a conversation: its feed says so; a list row, a record or a snapshot says so; or `complete` is called
after a restart. An open feed does not prove that a conversation is live. So what is over according to REST or a
snapshot is finished `GRACE` seconds later, in which its feed may still bring the last snapshot; and REST is asked
about a conversation whose open feed has brought no snapshot for `IDLE_AFTER` seconds.

Invariants:

- ``_watches`` has exactly one `Watch` for each watched conversation, and each has one task, except that a task
  which was stopped may still be closing its feed after its `Watch` is gone. Such a task changes nothing that
  belongs to a `Watch` started since.
- ``_with_feed`` holds those that have not ended. Only these count against the watch limit, so that finishing
  conversations keep no new one out.
- A conversation is watched while a `Requester` asks for it, and until its end is counted once it has ended.

Rules for this file: only the supervisor's task owns the nursery; `_follow_guarded` is the one place that contains
a watcher's crash; what happens to one conversation does not affect another.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from math import inf
from random import Random

import attrs
import structlog
import trio

from ..counting import retention
from ..counting.finish import decide_end
from ..enums import Started, Task, WatcherState
from ..logs import frames
from .backoff import backoff
from .crash_guard import keep_running
from .interfaces import OpenFeed, Records, RecordState, Requester, Sink
from .watcher import Outcome, Retry, watch

log = structlog.get_logger("exporter.watch")

GRACE = 30.0  # seconds from learning that a conversation is over until its open feed is closed
# Seconds before a refused feed is tried again, unless REST says that the conversation is over.
REFUSED_FIRST, REFUSED_LONGEST = 1.0, 30.0
ASK_AGAIN = 60.0  # seconds between two REST reads about one refused conversation
# Seconds without a snapshot on an open feed before REST is asked about the conversation, between two such reads,
# and between two looks for such feeds.
IDLE_AFTER, IDLE_AGAIN, IDLE_EVERY = 120.0, 300.0, 15.0
CRASH_FIRST, CRASH_LONGEST = 30.0, 600.0  # seconds before a crashed watcher is started again
MAX_OVER_LIMIT = 300_000  # ids remembered, about 45 MB; beyond, the oldest may be counted again


@attrs.define(eq=False)
class Watch:
    """One watched conversation."""

    conversation_id: str
    requesters: set[Requester]
    state: WatcherState
    since: float  # trio time of the last change of state
    has_ended: bool = False  # only its record is still to be read
    is_over: bool = False  # REST or a snapshot says so; its feed may still be open
    snapshot_at: float = -inf  # trio time of its latest snapshot
    checked_at: float = -inf  # trio time of the latest REST read because its feed was idle
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    feed_scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)  # its deadline ends the feed

    def set_state(self, state: WatcherState) -> None:
        if state is not self.state:
            self.state = state
            self.since = trio.current_time()


class Supervisor:
    """Starts, stops and finishes watchers. Implements `exporter.watch.interfaces.Targets`.

    Use it on the trio thread only.
    """

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
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        """``records`` is None where REST cannot be used (with a session token).

        ``limit``: conversations watched at most (``--watch.limit``). ``now`` gives Unix time by Phonic's clock.
        ``has_room``: whether the others that share the limit leave room for another conversation.
        """
        self._open_feed = open_feed
        self._sink = sink
        self._records = records
        self._limit = limit
        self._retry = retry or Retry()
        self._rng = rng or Random()  # noqa: S311  # jitter
        self._watches: dict[str, Watch] = {}
        self._with_feed: set[Watch] = set()  # those that have not ended: they count against the limit
        self._now = now
        self._has_room = has_room
        self._over_limit: dict[str, None] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the watchers until cancelled. ``task_status`` is started once `start` can be called.

        Cancellation: stops every watcher; what was counted stays counted.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await keep_running(Task.RECORDS, self._check_idle_feeds, self._sink.task_crashed, self._rng)
            finally:
                self._nursery = None

    # --- targets

    def start(self, conversation_id: str, requester: Requester) -> Started:
        """Watch a conversation. Idempotent: a further requester is added to those that keep it watched.

        Returns what was done. Before and after `run` it is `Started.LIMIT_REACHED`.
        """
        known = self._watches.get(conversation_id)
        if known is not None:
            known.requesters.add(requester)
            if requester is not Requester.CHECKPOINT:
                # It stood in for the requesters that had not asked again since the restart.
                known.requesters.discard(Requester.CHECKPOINT)
            return Started.ALREADY_WATCHED
        if self._sink.is_finished(conversation_id):
            return Started.FINISHED
        if self._nursery is None:
            return Started.LIMIT_REACHED
        if self.watched_count >= self._limit or not self._has_room():
            if conversation_id not in self._over_limit:
                self._note_over_limit(conversation_id)
            return Started.LIMIT_REACHED
        self._over_limit.pop(conversation_id, None)
        self._begin(
            self._nursery, Watch(conversation_id, {requester}, WatcherState.CONNECTING, trio.current_time())
        )
        return Started.STARTED

    def _note_over_limit(self, conversation_id: str) -> None:
        if len(self._over_limit) >= MAX_OVER_LIMIT:
            del self._over_limit[next(iter(self._over_limit))]
        self._over_limit[conversation_id] = None
        self._sink.over_limit(conversation_id)

    def complete(self, conversation_id: str) -> None:
        """Finish a conversation that has ended, from its record, without opening a feed. Idempotent."""
        if self._nursery is not None and conversation_id not in self._watches:
            requesters, now = {Requester.CHECKPOINT}, trio.current_time()
            self._begin(
                self._nursery,
                Watch(conversation_id, requesters, WatcherState.FINISHING, now, has_ended=True),
            )

    def over(self, conversation_id: str) -> None:
        """REST has the end of the conversation: finish it, an open feed `GRACE` seconds from now.

        Idempotent; does not put off an end that was told before.
        """
        known = self._watches.get(conversation_id)
        if known is None or known.has_ended:
            return
        if known.state in (WatcherState.WAITING, WatcherState.REFUSED):  # no feed
            self._stop(known)
            self.complete(conversation_id)
        else:
            self._close_after_grace(known)

    def _close_after_grace(self, known: Watch) -> None:
        if not known.is_over:
            known.is_over = True
            known.feed_scope.deadline = trio.current_time() + GRACE

    def _begin(self, nursery: trio.Nursery, watched: Watch) -> None:
        self._watches[watched.conversation_id] = watched
        if not watched.has_ended:
            self._with_feed.add(watched)
        nursery.start_soon(self._follow, watched)

    def stop(self, conversation_id: str) -> bool:
        """Stop watching a conversation, whichever requesters it has.

        Returns False if it was not watched, or has ended already; its record is then read to the end.
        """
        known = self._watches.get(conversation_id)
        if known is None or known.has_ended:
            return False
        self._stop(known)
        return True

    def withdraw(self, conversation_id: str, requester: Requester) -> None:
        """This requester no longer asks for the conversation.

        Without any requester it is stopped, unless it has ended.
        """
        known = self._watches.get(conversation_id)
        if known is None:
            self._over_limit.pop(conversation_id, None)
            return
        known.requesters.discard(requester)
        if not known.requesters and not known.has_ended:
            self._stop(known)

    def _stop(self, known: Watch) -> None:
        del self._watches[known.conversation_id]  # now, so that it can be started again now
        self._with_feed.discard(known)
        known.scope.cancel()

    def is_watched(self, conversation_id: str) -> bool:
        return conversation_id in self._watches

    def is_over_limit(self, conversation_id: str) -> bool:
        """Whether the watch limit has kept the conversation from being watched so far."""
        return conversation_id in self._over_limit

    # --- reading

    @property
    def watched_count(self) -> int:
        """How many conversations count against the limit: those that have not ended."""
        return len(self._with_feed)

    def watches(self) -> Iterable[Watch]:
        return self._watches.values()

    def watch_of(self, conversation_id: str) -> Watch | None:
        """The watch of a conversation; None if it is not watched."""
        return self._watches.get(conversation_id)

    def states(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Label values and value of each row of `phonic_exporter_watchers`."""
        counts = dict.fromkeys(WatcherState, 0)
        for each in self._watches.values():
            counts[each.state] += 1
        return (((state.value,), float(count)) for state, count in counts.items())

    # --- one conversation, from start to finish

    async def _follow(self, watched: Watch) -> None:
        try:
            with watched.scope:
                await self._follow_guarded(watched)
        finally:  # without await, so that it runs when cancelled too
            self._with_feed.discard(watched)
            if self._watches.get(watched.conversation_id) is watched:
                del self._watches[watched.conversation_id]
            if watched.conversation_id not in self._watches:  # else it was started again
                self._sink.stopped(watched.conversation_id)

    async def _follow_guarded(self, watched: Watch) -> None:
        """Follow a conversation to its end. A crash is counted, and the watcher starts again much later."""
        delays = backoff(self._rng, first=CRASH_FIRST, longest=CRASH_LONGEST)
        while True:
            try:
                await self._follow_to_end(watched)
                return
            except Exception as crash:  # not BaseException, so that Cancelled passes
                log.error(
                    "watcher crashed",
                    conversation=watched.conversation_id,
                    error=type(crash).__name__,
                    at=frames(crash),
                )
                self._sink.crashed(watched.conversation_id)
            watched.set_state(WatcherState.WAITING)
            await trio.sleep(next(delays))

    async def _follow_to_end(self, watched: Watch) -> None:
        if watched.has_ended:
            await self._finish(watched)
            return
        refused_delays = backoff(self._rng, first=REFUSED_FIRST, longest=REFUSED_LONGEST)
        given_up_at, asked_at = inf, -inf
        while True:
            outcome = await self._follow_feed(watched)
            if outcome is Outcome.ENDED:
                await self._finish(watched)
                return
            watched.set_state(WatcherState.REFUSED)
            self._sink.stopped(watched.conversation_id)
            now = trio.current_time()
            given_up_at = min(given_up_at, now + retention.REFUSED)
            state = RecordState.UNAVAILABLE
            if outcome is Outcome.NOT_FOUND or now - asked_at >= ASK_AGAIN:
                state = await self._record_state(watched.conversation_id, outcome)
                asked_at = now
            if state is RecordState.ENDED:
                await self._finish(watched)
                return
            if state is RecordState.NOT_FOUND or now >= given_up_at:
                log.warning("conversation given up", conversation=watched.conversation_id, record=state.value)
                self._sink.forget(watched.conversation_id)
                return
            delay = next(refused_delays)
            # Warn when it begins only: thousands may be refused, and each is tried again twice a minute.
            write = log.warning if asked_at == now and given_up_at == now + retention.REFUSED else log.debug
            write(
                "conversation refused",
                conversation=watched.conversation_id,
                record=state.value,
                retry_in=round(delay, 1),
            )
            await trio.sleep(delay)

    async def _follow_feed(self, watched: Watch) -> Outcome:
        """Follow the feed until it says the end, is refused, or the grace after an end said elsewhere is over."""

        def on_snapshot(is_over: bool) -> None:
            watched.snapshot_at = trio.current_time()
            if is_over:
                self._close_after_grace(watched)

        deadline = trio.current_time() + GRACE if watched.is_over else inf
        with trio.CancelScope(deadline=deadline) as watched.feed_scope:
            return await watch(
                watched.conversation_id,
                open_feed=self._open_feed,
                sink=self._sink,
                retry=self._retry,
                rng=self._rng,
                set_state=watched.set_state,
                on_snapshot=on_snapshot,
            )
        return Outcome.ENDED

    async def _record_state(self, conversation_id: str, outcome: Outcome) -> RecordState:
        """What REST says. Without REST, a feed that was not found is all there is to go by."""
        if self._records is not None:
            return await self._records.state(conversation_id)
        return RecordState.NOT_FOUND if outcome is Outcome.NOT_FOUND else RecordState.UNAVAILABLE

    async def _check_idle_feeds(self) -> None:
        """Ask REST about conversations whose open feed is idle, in case they are over. Never returns."""
        while True:
            await trio.sleep(IDLE_EVERY)
            if self._records is None:
                continue
            now = trio.current_time()
            idle = [
                each
                for each in self._watches.values()
                if each.state is WatcherState.LIVE
                and now - max(each.since, each.snapshot_at) >= IDLE_AFTER
                and now - each.checked_at >= IDLE_AGAIN
            ]
            for each in idle:
                each.checked_at = now
                if await self._records.state(each.conversation_id) is RecordState.ENDED:
                    self.over(each.conversation_id)

    async def _finish(self, watched: Watch) -> None:
        watched.has_ended = True
        self._with_feed.discard(watched)
        watched.set_state(WatcherState.FINISHING)
        conversation_id = watched.conversation_id
        self._sink.ended(conversation_id)
        record = await self._records.complete(conversation_id) if self._records else None
        decision = decide_end(
            record.conversation if record else None,
            seen=self._sink.has_seen(conversation_id),
            history_ends=retention.history_ends(self._sink.first_start, self._now()),
        )
        if decision.counts:
            self._sink.finish(conversation_id, record, decision.lost)
        else:
            self._sink.dismiss(conversation_id)
            log.info("conversation is history", conversation=conversation_id)
