"""Tasks: one watcher task per conversation in one nursery, from the first wish to watch it to its finished record.

A conversation's life, each step in its own small method:

    start -> CONNECTING/LIVE/WAITING (`watch`) -> ended              -> FINISHING (record from REST) -> finished
                                               -> refused, not found -> ask REST: over  -> FINISHING
                                                                        live  -> REFUSED, tried again within 30 s
                                                                        gone  -> finished or forgotten

An open socket does not prove that a conversation is live. What a list row, a record or a snapshot calls over is
finished `GRACE` seconds later, in which its feed may still bring the last snapshot; and of a feed that has been
silent for long, REST is asked.

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

from ..counting import retention
from ..counting.finish import judge
from ..enums import Started, Task, WatcherState
from ..logs import frames
from .backoff import backoff
from .crash_guard import keep_running
from .interfaces import OpenFeed, Records, RecordState, Requester, Sink
from .watcher import Outcome, Retry, watch

log = structlog.get_logger("exporter.watch")

GRACE = 30.0  # seconds from the news of an end to the end of an open feed
# Seconds before a refused conversation is tried again that REST calls live, or of which it says nothing.
REFUSED_FIRST, REFUSED_LONGEST = 1.0, 30.0
ASK_AGAIN = 60.0  # seconds between two questions to REST about one refused conversation
# An open feed without a snapshot for so long is doubted: REST is asked, and then again, after so many seconds.
DOUBT_AFTER, DOUBT_AGAIN, DOUBT_EVERY = 120.0, 300.0, 15.0
CRASH_FIRST, CRASH_LONGEST = 30.0, 600.0  # seconds before a crashed watcher is tried again
MAX_OVER_LIMIT = 300_000  # ids remembered that met the watch limit: 45 MB; beyond, the first ones may count twice


@attrs.define(eq=False)
class Watch:
    """One conversation being followed."""

    conversation_id: str
    requesters: set[Requester]
    state: WatcherState
    since: float  # trio time of the last change of state
    has_ended: bool = False  # only its record is still to come
    is_over: bool = False  # REST or a snapshot says so, while its feed may still be open
    heard_at: float = -inf  # trio time of its latest snapshot
    doubted_at: float = -inf  # and of the latest question to REST whether it is still live
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    feed_scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)  # its deadline ends the feed

    def set_state(self, state: WatcherState) -> None:
        if state is not self.state:
            self.state = state
            self.since = trio.current_time()


class Supervisor:
    """Starts, stops and finishes watchers. Implements `exporter.watch.interfaces.Targets`."""

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
        self._over_limit: dict[str, None] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the watchers' nursery until cancelled, which stops every watcher."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await keep_running(Task.RECORDS, self._doubt_silent_feeds, self._sink.task_crashed, self._rng)
            finally:
                self._nursery = None

    # --- targets

    def start(self, conversation_id: str, requester: Requester) -> Started:
        """Watch a conversation. Idempotent: a further requester only joins those that keep it watched.

        A supervisor that is being stopped takes on nothing more, as if its limit were reached.
        """
        known = self._watches.get(conversation_id)
        if known is not None:
            known.requesters.add(requester)
            if requester is not Requester.CHECKPOINT:
                known.requesters.discard(
                    Requester.CHECKPOINT
                )  # it spoke for those that had yet to ask after a restart
            return Started.ALREADY_WATCHED
        if self._sink.is_finished(conversation_id):
            return Started.FINISHED
        if self._nursery is None:
            return Started.LIMIT_REACHED
        if self.watched_count >= self._limit:
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
        """Finish a conversation that ended before a restart, from its record."""
        if self._nursery is not None and conversation_id not in self._watches:
            ended = Watch(
                conversation_id,
                {Requester.CHECKPOINT},
                WatcherState.FINISHING,
                trio.current_time(),
                has_ended=True,
            )
            self._begin(self._nursery, ended)

    def over(self, conversation_id: str) -> None:
        """REST has its end. Idempotent; an open feed has `GRACE` seconds to bring the last snapshot."""
        known = self._watches.get(conversation_id)
        if known is None or known.has_ended:
            return
        if known.state in (WatcherState.WAITING, WatcherState.REFUSED):  # no feed
            self._stop(known)
            self.complete(conversation_id)
        else:
            self._is_over(known)

    def _is_over(self, known: Watch) -> None:
        if not known.is_over:
            known.is_over = True
            known.feed_scope.deadline = trio.current_time() + GRACE

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

    def withdraw(self, conversation_id: str, requester: Requester) -> None:
        """One requester no longer asks for it; the last one stops it, unless its record is being completed."""
        known = self._watches.get(conversation_id)
        if known is None:
            self._over_limit.pop(conversation_id, None)
            return
        known.requesters.discard(requester)
        if not known.requesters and not known.has_ended:
            self._stop(known)

    def _stop(self, known: Watch) -> None:
        del self._watches[known.conversation_id]  # at once, so that it can be started again at once
        self._wanted.discard(known)
        known.scope.cancel()

    def is_watched(self, conversation_id: str) -> bool:
        return conversation_id in self._watches

    def is_over_limit(self, conversation_id: str) -> bool:
        """Whether the watch limit has kept it from being watched so far."""
        return conversation_id in self._over_limit

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
        refused_delays = backoff(self._rng, first=REFUSED_FIRST, longest=REFUSED_LONGEST)
        given_up_at, asked_at = inf, -inf
        while True:
            outcome = await self._watch(following)
            if outcome is Outcome.ENDED:
                await self._finish(following)
                return
            following.set_state(WatcherState.REFUSED)
            self._sink.stopped(following.conversation_id)
            now = trio.current_time()
            given_up_at = min(given_up_at, now + retention.REFUSED)
            state = RecordState.UNAVAILABLE
            if outcome is Outcome.NOT_FOUND or now - asked_at >= ASK_AGAIN:
                state = await self._ask(following.conversation_id, outcome)
                asked_at = now
            if state is RecordState.ENDED:
                await self._finish(following)
                return
            if state is RecordState.NOT_FOUND or now >= given_up_at:
                log.warning("conversation given up", conversation=following.conversation_id, record=state.value)
                self._sink.forget(following.conversation_id)
                return
            delay = next(refused_delays)
            # One line when it begins: a workspace may have thousands, each tried again twice a minute.
            say = log.warning if asked_at == now and given_up_at == now + retention.REFUSED else log.debug
            say(
                "conversation refused",
                conversation=following.conversation_id,
                record=state.value,
                retry_in=round(delay, 1),
            )
            await trio.sleep(delay)

    async def _watch(self, following: Watch) -> Outcome:
        """Follow the feed until it tells the end, is refused, or may be closed because REST has the end."""

        def heard(is_over: bool) -> None:
            following.heard_at = trio.current_time()
            if is_over:
                self._is_over(following)

        deadline = trio.current_time() + GRACE if following.is_over else inf
        with trio.CancelScope(deadline=deadline) as following.feed_scope:
            return await watch(
                following.conversation_id,
                open_feed=self._open_feed,
                sink=self._sink,
                retry=self._retry,
                rng=self._rng,
                set_state=following.set_state,
                heard=heard,
            )
        return Outcome.ENDED

    async def _ask(self, conversation_id: str, outcome: Outcome) -> RecordState:
        """What REST says; without REST, not to be found is all there is to know."""
        if self._records is not None:
            return await self._records.state(conversation_id)
        return RecordState.NOT_FOUND if outcome is Outcome.NOT_FOUND else RecordState.UNAVAILABLE

    async def _doubt_silent_feeds(self) -> None:
        """Ask REST about conversations whose open feed has brought no snapshot for long. Never returns."""
        while True:
            await trio.sleep(DOUBT_EVERY)
            if self._records is None:
                continue
            now = trio.current_time()
            silent = [
                each
                for each in self._watches.values()
                if each.state is WatcherState.LIVE
                and now - max(each.since, each.heard_at) >= DOUBT_AFTER
                and now - each.doubted_at >= DOUBT_AGAIN
            ]
            for each in silent:
                each.doubted_at = now
                if await self._records.state(each.conversation_id) is RecordState.ENDED:
                    self.over(each.conversation_id)

    async def _finish(self, following: Watch) -> None:
        following.has_ended = True
        self._wanted.discard(following)
        following.set_state(WatcherState.FINISHING)
        conversation_id = following.conversation_id
        self._sink.ended(conversation_id)
        record = await self._records.complete(conversation_id) if self._records else None
        verdict = judge(
            record.conversation if record else None,
            seen=self._sink.has_seen(conversation_id),
            history_ends=retention.history_ends(self._sink.first_start, self._now()),
        )
        if verdict.counts:
            self._sink.finish(conversation_id, record, verdict.lost)
        else:
            log.info("conversation is history", conversation=conversation_id)
