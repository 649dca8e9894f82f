"""Supervisor with a virtual clock: what is watched and for how long; conversations do not affect each other."""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random

import attrs
import pytest
import structlog
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from exporter.counting import retention
from exporter.enums import FeedError, Lost, Started, WatcherState
from exporter.phonic.live.errors import FeedEnded, FeedLost, FeedNotFound, FeedRefused
from exporter.phonic.schema import Conversation, Snapshot
from exporter.watch.interfaces import RecordState, Requester
from exporter.watch.supervisor import ASK_AGAIN, GRACE, MAX_OVER_LIMIT, Supervisor
from tests.feeds import AUDIO, ENDED, RecordingSink, Script, ScriptedFeed, ScriptedFeeds, ScriptedRecords, snapshot

A, B, C = "conv_a", "conv_b", "conv_c"
LOST = FeedLost(FeedError.CLOSED_ABNORMALLY)
REFUSED = FeedRefused(FeedError.HTTP_401)
NOT_FOUND = FeedNotFound(FeedError.HTTP_404)
NOW = 1_780_000_000.0
FLAG, FILE, PUSH, DISCOVERY = Requester.FLAG, Requester.FILE, Requester.PUSH, Requester.DISCOVERY


def in_virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test with a clock that jumps as soon as all tasks are blocked."""

    @functools.wraps(test)
    def run(**arguments: object) -> None:
        trio.run(functools.partial(test, **arguments), clock=MockClock(autojump_threshold=0))

    return run


@attrs.define
class Scene:
    """A running supervisor and what surrounds it."""

    supervisor: Supervisor
    feeds: ScriptedFeeds
    sink: RecordingSink
    scope: trio.CancelScope

    def states(self) -> dict[str, int]:
        """The number of watchers in each state that has any."""
        return {labels[0]: int(count) for labels, count in self.supervisor.states() if count}

    def watched(self) -> set[str]:
        return {each.conversation_id for each in self.supervisor.watches()}


@asynccontextmanager
async def scene(
    feeds: ScriptedFeeds | None = None,
    *,
    sink: RecordingSink | None = None,
    records: ScriptedRecords | None = None,
    limit: int = 100,
) -> AsyncIterator[Scene]:
    feeds = feeds or ScriptedFeeds([])
    sink = sink or RecordingSink()
    supervisor = Supervisor(
        open_feed=feeds.open, sink=sink, records=records, limit=limit, rng=Random(3), now=lambda: NOW
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        yield Scene(supervisor, feeds, sink, nursery.cancel_scope)
        nursery.cancel_scope.cancel()


async def settle() -> None:
    """Wait until all tasks are blocked until a later time."""
    await wait_all_tasks_blocked()


# --- targets


@in_virtual_time
async def test_start_is_idempotent_and_stop_returns_whether_it_was_watched() -> None:
    async with scene() as on:
        assert on.supervisor.start(A, FLAG) is Started.STARTED
        assert on.supervisor.start(A, FLAG) is Started.ALREADY_WATCHED
        await settle()
        assert len(on.feeds.opened[A]) == 1
        assert on.supervisor.stop(A) is True
        assert on.supervisor.stop(A) is False
        assert not on.supervisor.is_watched(A)
        await settle()
        assert on.feeds.open_now[A] == 0
        assert on.watched() == set()


@in_virtual_time
async def test_conversation_is_stopped_when_its_last_requester_withdraws() -> None:
    async with scene() as on:
        on.supervisor.start(A, FILE)
        on.supervisor.start(A, DISCOVERY)
        on.supervisor.withdraw(A, PUSH)
        on.supervisor.withdraw(A, FILE)
        await settle()
        assert on.supervisor.is_watched(A)
        on.supervisor.withdraw(A, DISCOVERY)
        assert not on.supervisor.is_watched(A)
        on.supervisor.withdraw(A, DISCOVERY)


@in_virtual_time
async def test_conversation_resumed_after_a_restart_is_kept_only_by_requesters_that_ask_again() -> None:
    async with scene() as on:
        on.supervisor.start(A, Requester.CHECKPOINT)
        on.supervisor.start(A, FILE)
        on.supervisor.withdraw(A, FILE)
        assert not on.supervisor.is_watched(A)


@in_virtual_time
async def test_stopped_conversation_can_be_started_again_at_once_and_stays_live() -> None:
    async with scene(ScriptedFeeds([snapshot(A)])) as on:
        on.supervisor.start(A, FILE)
        await settle()
        on.supervisor.withdraw(A, FILE)
        assert on.supervisor.start(A, PUSH) is Started.STARTED
        await settle()
        assert on.supervisor.is_watched(A)
        assert on.sink.live == {A}
        assert (on.feeds.open_now[A], len(on.feeds.opened[A])) == (1, 2)


class LingeringFeeds(ScriptedFeeds):
    """Feeds that take a second to close."""

    @asynccontextmanager
    async def open(self, conversation_id: str) -> AsyncIterator[ScriptedFeed]:
        async with super().open(conversation_id) as feed:
            try:
                yield feed
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)


@in_virtual_time
async def test_watcher_that_is_slow_to_stop_takes_nothing_from_the_one_started_since() -> None:
    async with scene(LingeringFeeds([snapshot(A)])) as on:
        on.supervisor.start(A, FILE)
        await settle()
        on.supervisor.stop(A)
        on.supervisor.start(A, PUSH)
        await trio.sleep(2)
        assert on.supervisor.is_watched(A)
        assert on.sink.live == {A}


@in_virtual_time
async def test_conversation_over_the_limit_is_counted_once_and_started_when_there_is_room() -> None:
    async with scene(limit=2) as on:
        started = [on.supervisor.start(each, DISCOVERY) for each in (A, B, C, C, A)]
        assert started == [
            Started.STARTED,
            Started.STARTED,
            Started.LIMIT_REACHED,
            Started.LIMIT_REACHED,
            Started.ALREADY_WATCHED,
        ]
        assert on.sink.calls(C) == ["over_limit"]
        assert on.supervisor.is_over_limit(C)
        on.supervisor.stop(A)
        assert on.supervisor.start(C, DISCOVERY) is Started.STARTED
        assert not on.supervisor.is_over_limit(C)
        assert on.supervisor.watched_count == 2


@in_virtual_time
async def test_conversation_over_the_limit_is_forgotten_when_withdrawn() -> None:
    async with scene(limit=0) as on:
        on.supervisor.start(A, FILE)
        on.supervisor.withdraw(A, FILE)
        assert not on.supervisor.is_over_limit(A)


@in_virtual_time
async def test_stopped_watchers_do_not_count_against_the_limit() -> None:
    feeds = ScriptedFeeds(conv_a=[[ENDED]], conv_b=[NOT_FOUND] * 3, conv_c=[[]])
    async with scene(feeds, limit=3) as on:
        for each in (A, B, C):
            on.supervisor.start(each, DISCOVERY)
        assert on.supervisor.watched_count == 3
        on.supervisor.stop(C)
        on.supervisor.start(C, DISCOVERY)
        await settle()
        assert on.supervisor.watched_count == 2
        await trio.sleep(60)
        assert on.supervisor.watched_count == 1
        on.supervisor.withdraw(C, DISCOVERY)
        assert on.supervisor.watched_count == 0


@in_virtual_time
async def test_memory_of_conversations_over_the_limit_is_bounded() -> None:
    async with scene(limit=0) as on:
        for number in range(MAX_OVER_LIMIT + 2):
            on.supervisor.start(f"conv_{number}", FILE)
        assert [on.supervisor.is_over_limit(f"conv_{number}") for number in range(4)] == [False, False, True, True]


@in_virtual_time
async def test_conversation_being_finished_does_not_count_against_the_limit() -> None:
    records = ScriptedRecords(RecordState.ENDED, takes=20.0)
    async with scene(ScriptedFeeds(conv_a=[[ENDED]], conv_b=[[]]), records=records, limit=1) as on:
        on.supervisor.start(A, DISCOVERY)
        await settle()
        assert on.states() == {"finishing": 1}
        assert on.supervisor.start(B, DISCOVERY) is Started.STARTED
        await settle()
        assert on.states() == {"finishing": 1, "live": 1}


@in_virtual_time
async def test_finished_conversation_is_not_started_again() -> None:
    async with scene(ScriptedFeeds([snapshot(A), ENDED])) as on:
        on.supervisor.start(A, DISCOVERY)
        await settle()
        assert on.supervisor.start(A, DISCOVERY) is Started.FINISHED


@in_virtual_time
async def test_stopped_supervisor_starts_nothing_and_raises_nothing() -> None:
    async with scene() as on:
        on.supervisor.start(A, FLAG)
    assert on.supervisor.start(B, PUSH) is Started.LIMIT_REACHED
    on.supervisor.complete(B)
    on.supervisor.withdraw(A, FLAG)
    assert on.supervisor.stop(A) is False
    assert on.sink.calls(B) == []


# --- a conversation's end


@in_virtual_time
async def test_end_is_reported_at_once_and_counted_once_its_record_is_read() -> None:
    records = ScriptedRecords(RecordState.ENDED, takes=7.0)
    async with scene(ScriptedFeeds([snapshot(A, 2), ENDED]), records=records) as on:
        on.supervisor.start(A, FLAG)
        await settle()
        assert on.sink.calls(A) == ["connected", "update", "ended"]
        assert on.sink.live == set()
        assert on.sink.of("finish") == []
        await trio.sleep(7.5)
        [(record, lost)] = on.sink.of("finish")
        assert (record.conversation.id, lost) == (A, None)
        assert on.sink.calls(A) == ["connected", "update", "ended", "finish", "stopped"]
        assert on.watched() == set()


@in_virtual_time
async def test_withdrawal_and_stop_let_a_record_be_completed() -> None:
    async with scene(ScriptedFeeds([ENDED]), records=ScriptedRecords(RecordState.ENDED, takes=7.0)) as on:
        on.supervisor.start(A, FILE)
        await settle()
        on.supervisor.withdraw(A, FILE)
        assert on.supervisor.stop(A) is False
        await trio.sleep(7.5)
        assert len(on.sink.of("finish", A)) == 1


@in_virtual_time
async def test_conversation_that_was_over_before_a_snapshot_came_was_never_live() -> None:
    async with scene(ScriptedFeeds(FeedEnded()), records=ScriptedRecords(RecordState.ENDED)) as on:
        on.supervisor.start(A, FLAG)
        await settle()
        [(record, lost)] = on.sink.of("finish", A)
        assert record is not None
        assert lost is Lost.NEVER_LIVE


@pytest.mark.parametrize(
    ("ended_at", "is_counted"),
    [
        (None, True),
        ("2026-05-28T20:26:39Z", True),  # a second before NOW
        ("2026-05-27T20:37:00Z", True),
        ("2026-05-27T20:36:00Z", False),  # 24 h ago, less 10 minutes
        ("2020-01-01T00:00:00Z", False),
    ],
)
@in_virtual_time
async def test_unwatched_conversation_is_history_once_its_end_may_be_forgotten(
    ended_at: str | None, is_counted: bool
) -> None:
    async with scene(ScriptedFeeds(NOT_FOUND), records=Recorded(ended_at)) as on:
        on.supervisor.start(A, FILE)
        await trio.sleep(60)
        assert len(on.sink.of("finish", A)) == is_counted
        assert on.watched() == set()


@in_virtual_time
async def test_what_ended_before_the_first_start_is_history() -> None:
    sink = RecordingSink()
    sink.first_start = NOW - 60
    async with scene(ScriptedFeeds(FeedEnded()), records=Recorded("2026-05-28T20:25:00Z"), sink=sink) as on:
        on.supervisor.start(A, FILE)
        await settle()
        assert on.sink.of("finish", A) == []


class Recorded(ScriptedRecords):
    """Records of conversations that ended at ``ended_at``."""

    def __init__(self, ended_at: str | None) -> None:
        super().__init__(RecordState.ENDED)
        self._ended_at = ended_at

    async def complete(self, conversation_id: str) -> Snapshot | None:
        await trio.lowlevel.checkpoint()
        return Snapshot(conversation=Conversation(conversation_id, ended_at=self._ended_at))


@pytest.mark.parametrize("has_rest", [True, False])
@in_virtual_time
async def test_completion_after_a_restart_opens_no_feed(has_rest: bool) -> None:
    records = ScriptedRecords(RecordState.ENDED, takes=7.0) if has_rest else None
    async with scene(records=records) as on:
        on.supervisor.complete(A)
        on.supervisor.complete(A)
        assert on.states() == {"finishing": 1}
        assert on.supervisor.start(A, FLAG) is Started.ALREADY_WATCHED
        await trio.sleep(7.5)
        assert len(on.sink.of("finish", A)) == 1
        assert on.feeds.opened == {}


@in_virtual_time
async def test_end_known_from_rest_finishes_a_watcher_without_a_feed_at_once() -> None:
    feeds = ScriptedFeeds(conv_a=[[snapshot(A), LOST], LOST], conv_b=[[snapshot(B)]], conv_c=[[]])
    async with scene(feeds, records=ScriptedRecords(RecordState.ENDED, takes=1.0)) as on:
        on.supervisor.start(A, FLAG)
        on.supervisor.start(B, FLAG)
        await trio.sleep(120)
        for each in (A, A, B, C):
            on.supervisor.over(each)
        tries = len(on.feeds.opened[A])
        await trio.sleep(2)
        assert len(on.sink.of("finish", A)) == 1
        assert len(on.feeds.opened[A]) == tries
        assert on.sink.live == {B}
        assert on.watched() == {B}


# --- refused and not found


@in_virtual_time
async def test_refused_conversation_that_is_over_is_finished() -> None:
    records = ScriptedRecords(RecordState.ENDED)
    async with scene(ScriptedFeeds([snapshot(A), REFUSED]), records=records) as on:
        on.supervisor.start(A, FLAG)
        await settle()
        assert len(on.sink.of("finish", A)) == 1


@pytest.mark.parametrize("records", [RecordState.LIVE, RecordState.UNAVAILABLE, None])
@in_virtual_time
async def test_refused_conversation_that_may_go_on_is_tried_after_1_second_growing_to_30(
    records: RecordState | None,
) -> None:
    rest = ScriptedRecords(records) if records else None
    async with scene(ScriptedFeeds(*[REFUSED] * 9, [snapshot(A)]), records=rest) as on:
        on.supervisor.start(A, FLAG)
        await settle()
        assert on.states() == {"refused": 1}
        assert on.sink.calls(A) == ["feed_error", "stopped"]  # no live series without a feed
        await trio.sleep(300)
        assert on.states() == {"live": 1}
        pauses = [after - before for before, after in pairwise(on.feeds.opened[A])]
        assert 0.5 <= pauses[0] <= 1
        assert all(pause <= 30 for pause in pauses)
        assert pauses[-1] >= 15
        assert on.sink.of("forget", A) == []


@in_virtual_time
async def test_rest_is_asked_about_a_refused_conversation_once_a_minute_at_most() -> None:
    records = ScriptedRecords(RecordState.LIVE)
    async with scene(ScriptedFeeds(REFUSED), records=records) as on:
        on.supervisor.start(A, FLAG)
        await trio.sleep(600)
        assert len(on.feeds.opened[A]) >= 20
        assert all(after - before >= ASK_AGAIN for before, after in pairwise(records.asked))
        assert len(records.asked) >= 6


# --- over, although the feed is open


OVER = [snapshot(A, ended_at="2026-04-13T10:00:05Z"), snapshot(A, is_live=False)]


@pytest.mark.parametrize("last", OVER, ids=["ended_at", "is_live"])
@in_virtual_time
async def test_conversation_that_a_snapshot_calls_over_is_finished_after_the_grace(last: str) -> None:
    async with scene(ScriptedFeeds([snapshot(A), last]), records=ScriptedRecords(RecordState.ENDED)) as on:
        on.supervisor.start(A, FLAG)
        await trio.sleep(GRACE - 1)
        assert on.states() == {"live": 1}
        await trio.sleep(2)
        assert len(on.sink.of("finish", A)) == 1
        assert on.watched() == set()


@in_virtual_time
async def test_open_feed_of_a_conversation_that_rest_calls_over_may_still_bring_its_last_snapshot() -> None:
    feeds = ScriptedFeeds([snapshot(A), 50.0, snapshot(A, 2)])
    async with scene(feeds, records=ScriptedRecords(RecordState.ENDED)) as on:
        on.supervisor.start(A, FLAG)
        await trio.sleep(40)
        on.supervisor.over(A)
        await trio.sleep(5)
        on.supervisor.over(A)  # a second time does not put it off
        await trio.sleep(GRACE - 4)
        assert on.sink.of("update", A) == [1, 2]
        assert len(on.sink.of("finish", A)) == 1


@in_virtual_time
async def test_idle_feed_is_checked_and_finished_when_rest_has_the_end() -> None:
    records = ScriptedRecords(RecordState.LIVE, RecordState.ENDED)
    async with scene(ScriptedFeeds([snapshot(A)]), records=records) as on:
        on.supervisor.start(A, FLAG)
        await trio.sleep(300)
        assert len(records.asked) == 1
        assert on.states() == {"live": 1}
        await trio.sleep(300 + GRACE)
        assert len(on.sink.of("finish", A)) == 1


@in_virtual_time
async def test_feed_with_snapshots_is_not_checked() -> None:
    records = ScriptedRecords(RecordState.ENDED)
    async with scene(ScriptedFeeds([each for at in range(20) for each in (snapshot(A, at + 1), 30.0)])) as on:
        on.supervisor.start(A, FLAG)
        await trio.sleep(599)
        assert records.asked == []


@in_virtual_time
async def test_feed_without_a_first_snapshot_is_lost_after_30_seconds() -> None:
    async with scene(ScriptedFeeds([AUDIO, 29.0, AUDIO], [snapshot(A)])) as on:
        on.supervisor.start(A, FLAG)
        await trio.sleep(29.5)
        assert on.sink.of("feed_error", A) == []
        await trio.sleep(2)
        assert on.sink.of("feed_error", A) == [FeedError.NO_SNAPSHOT]
        assert on.sink.live == {A}


@in_virtual_time
async def test_conversation_that_feed_and_rest_do_not_know_is_forgotten() -> None:
    async with scene(ScriptedFeeds(NOT_FOUND), records=ScriptedRecords(RecordState.NOT_FOUND)) as on:
        on.supervisor.start(A, FLAG)
        await trio.sleep(60)
        assert len(on.feeds.opened[A]) == 3
        assert on.sink.calls(A)[-2:] == ["forget", "stopped"]
        assert on.watched() == set()


@in_virtual_time
async def test_without_rest_not_found_three_times_is_forgotten() -> None:
    async with scene(ScriptedFeeds(NOT_FOUND)) as on:
        on.supervisor.start(A, FLAG)
        await trio.sleep(60)
        assert len(on.feeds.opened[A]) == 3
        assert len(on.sink.of("forget", A)) == 1


@pytest.mark.parametrize("state", [RecordState.LIVE, RecordState.UNAVAILABLE])
@in_virtual_time
async def test_conversation_whose_socket_is_not_there_yet_is_tried_again_soon(state: RecordState) -> None:
    records = ScriptedRecords(state)
    async with scene(ScriptedFeeds(*[NOT_FOUND] * 6, [snapshot(A)]), records=records) as on:
        on.supervisor.start(A, DISCOVERY)
        await trio.sleep(30)
        assert on.states() == {"live": 1}
        pauses = [after - before for before, after in zip(records.asked, on.feeds.opened[A][3::3], strict=True)]
        assert 0.5 <= pauses[0] <= 1 <= pauses[1] <= 2


# --- conversations do not affect each other


@pytest.mark.parametrize("script", [REFUSED, NOT_FOUND])
@pytest.mark.parametrize("seen", [True, False])
@in_virtual_time
async def test_conversation_that_is_over_limit_for_a_day_is_forgotten(
    script: FeedRefused | FeedNotFound, seen: bool
) -> None:
    before: list[Script] = [[snapshot(A), LOST]] if seen else []
    feeds = ScriptedFeeds(*before, script)
    async with scene(feeds, records=ScriptedRecords(RecordState.LIVE)) as on:
        on.supervisor.start(A, DISCOVERY)
        with structlog.testing.capture_logs():  # thousands of lines
            await trio.sleep(retention.REFUSED - 60)
            assert on.supervisor.is_watched(A)
            await trio.sleep(600)
        assert not on.supervisor.is_watched(A)
        assert on.sink.calls(A)[-1] == "stopped"
        assert "forget" in on.sink.calls(A)


@in_virtual_time
async def test_crash_is_counted_and_its_watcher_starts_again_later_while_others_go_on() -> None:
    bad: Script = [snapshot(A, 1), snapshot(A, 9), snapshot(A, 2)]
    good: Script = [snapshot(B, 1), 10.0, snapshot(B, 2), 10.0, snapshot(B, 3), ENDED]
    sink = RecordingSink(crash_on=9)
    async with scene(ScriptedFeeds(conv_a=[bad, bad, [snapshot(A, 4)]], conv_b=[good]), sink=sink) as on:
        with structlog.testing.capture_logs() as logged:
            on.supervisor.start(A, FLAG)
            on.supervisor.start(B, FLAG)
            await settle()
            assert on.states() == {"waiting": 1, "live": 1}
            await trio.sleep(100)
        assert sink.calls(A).count("crashed") == 2
        assert sink.of("update", A) == [1, 1, 4]
        first, second, third = on.feeds.opened[A]
        assert 15 <= second - first <= 30 <= third - second <= 60
        assert sink.of("update", B) == [1, 2, 3]
        assert len(sink.of("finish", B)) == 1
        assert on.states() == {"live": 1}
    crashes = [each for each in logged if each["event"] == "watcher crashed"]
    assert [each["error"] for each in crashes] == ["KeyError"] * 2
    assert "5550101" not in str(logged)


@in_virtual_time
async def test_crash_while_finishing_finishes_later_and_opens_no_feed() -> None:
    class Once(ScriptedRecords):
        async def complete(self, conversation_id: str) -> Snapshot | None:
            if not self.asked:
                await self.state(conversation_id)
                raise KeyError("ours")
            return await super().complete(conversation_id)

    async with scene(ScriptedFeeds([snapshot(A), ENDED]), records=Once(RecordState.ENDED)) as on:
        on.supervisor.start(A, FLAG)
        await trio.sleep(60)
        assert (len(on.sink.of("crashed", A)), len(on.sink.of("finish", A))) == (1, 1)
        assert len(on.feeds.opened[A]) == 1


@pytest.mark.parametrize(
    ("script", "records", "state"),
    [
        pytest.param([[snapshot(A)]], None, "live", id="reading"),
        pytest.param([[snapshot(A), LOST]], None, "waiting", id="waiting to reconnect"),
        pytest.param([[snapshot(A), REFUSED]], RecordState.LIVE, "refused", id="waiting for the credential"),
        pytest.param([[snapshot(A), ENDED]], RecordState.ENDED, "finishing", id="waiting for the record"),
        pytest.param([[snapshot(A), snapshot(A, 9)]], None, "waiting", id="waiting after a crash"),
    ],
)
@in_virtual_time
async def test_cancellation_at_any_wait_leaves_no_watch_and_no_live_series(
    script: list[Script], records: RecordState | None, state: str
) -> None:
    rest = ScriptedRecords(records, takes=20.0) if records else None
    async with scene(ScriptedFeeds(*script), sink=RecordingSink(crash_on=9), records=rest) as on:
        on.supervisor.start(A, FLAG)
        await settle()
        assert on.states() == {state: 1}
        on.scope.cancel()
    assert on.watched() == set()
    assert on.sink.live == set()
    assert on.feeds.open_now[A] == 0
    assert on.sink.calls(A)[-1] == "stopped"
    assert on.sink.of("finish") == on.sink.of("forget") == []


@in_virtual_time
async def test_states_count_every_watcher_and_tell_since_when() -> None:
    feeds = ScriptedFeeds(conv_a=[[]], conv_b=[LOST], conv_c=[REFUSED])
    async with scene(feeds) as on:
        for each in (A, B, C):
            on.supervisor.start(each, FLAG)
        assert on.states() == {"connecting": 3}
        await settle()
        assert on.states() == {"live": 1, "waiting": 1, "refused": 1}
        assert sorted(labels[0] for labels, _ in on.supervisor.states()) == sorted(WatcherState)
        begun = trio.current_time()
        await trio.sleep(5)
        [since] = [each.since for each in on.supervisor.watches() if each.conversation_id == A]
        assert since == pytest.approx(begun)
