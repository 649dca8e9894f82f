"""One watcher with a virtual clock: when it reconnects, when it stops, and what a bad message costs."""

import json
import sys
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from random import Random

import attrs
import pytest
import structlog
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from exporter.enums import Drift, FeedError, Invalid, MessageType, WatcherState
from exporter.phonic.live.errors import FeedClosed, FeedEnded, FeedLost, FeedNotFound, FeedRefused
from exporter.watch.backoff import backoff
from exporter.watch.watcher import Outcome, Retry, watch
from tests.feeds import (
    AUDIO,
    ENDED,
    NESTED_ERROR,
    OTHER_ERROR,
    SAVED,
    TOP_LEVEL_ERROR,
    RecordingSink,
    Script,
    ScriptedFeeds,
    snapshot,
)

ID = "conv_1"
SEED = 7
LOST = FeedLost(FeedError.CLOSED_ABNORMALLY)
DOWN = FeedLost(FeedError.CONNECT)
NOT_FOUND = FeedNotFound(FeedError.HTTP_404)


@attrs.define
class Watched:
    """What a watcher did: its connections, calls of the sink, states, and outcome."""

    feeds: ScriptedFeeds
    sink: RecordingSink
    states: list[WatcherState]
    outcome: Outcome | None = None
    seconds: float = 0.0
    over: list[bool] = attrs.Factory(list)

    @property
    def waits(self) -> list[float]:
        times = self.feeds.opened[ID]
        return [after - before for before, after in pairwise(times)]

    @property
    def errors(self) -> list[FeedError]:
        return self.sink.of("feed_error")


def watched(*scripts: Script, seconds: float = 3600.0) -> Watched:
    """Run one watcher to its end, at most for so many virtual seconds."""

    async def run() -> Watched:
        result = Watched(ScriptedFeeds(*scripts), RecordingSink(), [])
        with trio.move_on_after(seconds):
            result.outcome = await watch(
                ID,
                open_feed=result.feeds.open,
                sink=result.sink,
                retry=Retry(),
                rng=Random(SEED),
                set_state=result.states.append,
                on_snapshot=result.over.append,
            )
        result.seconds = trio.current_time() - result.feeds.opened[ID][0]
        return result

    return trio.run(run, clock=MockClock(autojump_threshold=0))


def schedule(count: int) -> list[float]:
    """The first delays that a watcher with the test's seed draws."""
    return list(islice(backoff(Random(SEED), first=0.5, longest=30.0), count))


# --- how it ends


@pytest.mark.parametrize("last", [ENDED, SAVED, FeedEnded()], ids=["ended", "saved", "close 1000"])
def test_each_way_of_saying_the_end_ends_it(last: str | FeedClosed) -> None:
    result = watched([snapshot(ID, 2), AUDIO, last])
    assert result.outcome is Outcome.ENDED
    assert result.errors == []
    assert result.sink.of("update") == [2]
    assert result.states == [WatcherState.CONNECTING, WatcherState.LIVE]


def test_close_1000_at_the_handshake_ends_it() -> None:
    result = watched(FeedEnded())
    assert (result.outcome, result.errors) == (Outcome.ENDED, [])


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (FeedRefused(FeedError.HTTP_401), FeedError.HTTP_401),
        (FeedRefused(FeedError.HTTP_403), FeedError.HTTP_403),
        ([FeedRefused(FeedError.CLOSED_POLICY)], FeedError.CLOSED_POLICY),
        ([NESTED_ERROR], FeedError.ERROR_MESSAGE),
        ([snapshot(ID), TOP_LEVEL_ERROR], FeedError.ERROR_MESSAGE),
    ],
)
def test_refusal_ends_the_watcher(
    script: Script,
    reason: FeedError,
) -> None:
    result = watched(script)
    assert result.outcome is Outcome.REFUSED
    assert result.errors == [reason]
    assert len(result.feeds.opened[ID]) == 1


def test_not_found_three_times_in_a_row_gives_up() -> None:
    result = watched(NOT_FOUND)
    assert result.outcome is Outcome.NOT_FOUND
    assert result.errors == [FeedError.HTTP_404] * 3
    assert result.waits == schedule(2)


def test_first_failure_of_a_feed_is_logged_as_info_and_its_repetitions_as_debug() -> None:
    with structlog.testing.capture_logs() as logged:
        watched(DOWN, DOWN, [LOST], DOWN, DOWN, [ENDED])
    assert [(each["log_level"], each["reason"]) for each in logged] == [
        ("info", DOWN.reason), ("debug", DOWN.reason),
        ("info", LOST.reason), ("debug", DOWN.reason), ("debug", DOWN.reason),
    ]  # fmt: skip


def test_only_not_found_in_a_row_gives_up() -> None:
    result = watched(NOT_FOUND, NOT_FOUND, DOWN, NOT_FOUND, NOT_FOUND, [LOST], NOT_FOUND, [ENDED])
    assert result.outcome is Outcome.ENDED


# --- when it reconnects


def test_delays_grow_with_jitter_to_the_longest() -> None:
    result = watched(DOWN, seconds=300)
    waits = result.waits
    assert waits == pytest.approx(schedule(len(waits)))
    steps = [0.5, 1, 2, 4, 8, 16] + [30] * 99
    assert all(step / 2 <= wait <= step for wait, step in zip(waits, steps, strict=False))
    assert 12 <= len(waits) <= 24
    assert set(result.errors) == {FeedError.CONNECT}


def test_delays_grow_when_connections_close_at_once() -> None:
    result = watched([snapshot(ID), LOST], seconds=300)
    assert result.waits == pytest.approx(schedule(len(result.waits)))


@pytest.mark.parametrize(("lasted", "is_stable"), [(29.9, False), (30.0, True), (100.0, True)])
def test_delays_begin_anew_only_after_a_stable_connection(
    lasted: float,
    is_stable: bool,
) -> None:
    result = watched(DOWN, DOWN, DOWN, DOWN, [snapshot(ID), lasted, LOST], [ENDED])
    after = result.waits[-1] - lasted
    assert (0.25 <= after <= 0.5) if is_stable else (4 <= after <= 8)


@pytest.mark.parametrize(
    ("asked", "shortest", "longest"), [(0.0, 0.25, 0.5), (7.0, 7.25, 7.5), (300.0, 24, 30), (99999.0, 24, 30)]
)
def test_retry_after_is_honoured_up_to_30_seconds_and_jittered(
    asked: float, shortest: float, longest: float
) -> None:
    result = watched(FeedLost(FeedError.HTTP_429, asked), [ENDED])
    [wait] = result.waits
    assert shortest <= wait <= longest


def test_states_follow_the_connection() -> None:
    result = watched(DOWN, [snapshot(ID), LOST], [ENDED])
    connecting, live, waiting = WatcherState.CONNECTING, WatcherState.LIVE, WatcherState.WAITING
    assert result.states == [connecting, waiting, connecting, live, waiting, connecting, live]
    assert result.sink.calls(ID) == ["feed_error", "connected", "update", "feed_error", "connected"]


def test_error_message_without_a_refusal_is_retried() -> None:
    result = watched([OTHER_ERROR], [ENDED])
    assert (result.outcome, result.errors) == (Outcome.ENDED, [FeedError.ERROR_MESSAGE])


# --- what a message costs

BAD = {
    "not json": Invalid.NOT_JSON,
    "": Invalid.NOT_JSON,
    "[]": Invalid.WRONG_SHAPE,
    '{"type": 7}': Invalid.WRONG_SHAPE,
    '{"type": "conversation-updated"}': Invalid.WRONG_SHAPE,
    '{"type": "conversation-updated", "conversation": null}': Invalid.WRONG_SHAPE,
    snapshot("conv_other", 5): Invalid.WRONG_CONVERSATION,
}


@pytest.mark.parametrize(("bad", "reason"), BAD.items())
def test_bad_message_costs_only_itself(bad: str, reason: Invalid) -> None:
    result = watched([snapshot(ID, 1), bad, bad, snapshot(ID, 2), ENDED])
    assert result.outcome is Outcome.ENDED
    assert result.sink.of("invalid") == [reason] * 2
    assert result.sink.of("update") == [1, 2]
    assert len(result.feeds.opened[ID]) == 1


def test_binary_and_unknown_messages_are_counted_and_survived() -> None:
    unknown = '{"type": "conversation-whispered"}'
    result = watched([b"\xff\x00", snapshot(ID).encode(), unknown, AUDIO, ENDED])
    assert result.sink.of("invalid") == [Invalid.NOT_JSON]
    assert result.sink.of("update") == [1]
    assert [kind for kind, _ in result.sink.of("message")] == [
        MessageType.CONVERSATION_UPDATED,
        MessageType.OTHER,
        MessageType.CONVERSATION_AUDIO,
        MessageType.CONVERSATION_ENDED,
    ]
    assert result.sink.of("message")[0][1] == len(snapshot(ID))


def test_unknown_fields_are_searched_once_for_each_connection() -> None:
    odd = snapshot(ID, mood="good")
    result = watched([snapshot(ID), odd, LOST], ["{}", odd, odd, ENDED])
    assert result.sink.of("drift") == [set(), {(Drift.CONVERSATION, "mood")}]


def test_documented_example_has_no_unknown_field() -> None:
    example = Path(__file__).parents[1] / "data" / "payloads" / "live_conversation_updated.co.json"
    document = json.loads(example.read_text())
    document["conversation"]["id"] = ID
    result = watched([json.dumps(document), ENDED])
    assert result.sink.of("drift") == [set()]
    assert result.sink.of("update") == [len(document["conversation"]["items"])]


def test_cancellation_leaves_at_once_and_opens_nothing_more() -> None:
    result = watched([snapshot(ID)], seconds=100)
    assert result.outcome is None
    assert result.seconds == pytest.approx(100)
    assert result.feeds.open_now[ID] == 0


def test_idle_feed_does_not_keep_its_last_message() -> None:
    frame = snapshot(ID, 2)

    async def run() -> tuple[int, int]:
        feeds, sink = ScriptedFeeds([frame]), RecordingSink()
        before = sys.getrefcount(frame)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(
                    watch,
                    ID,
                    open_feed=feeds.open,
                    sink=sink,
                    retry=Retry(),
                    rng=Random(SEED),
                    set_state=lambda _: None,
                    on_snapshot=lambda _: None,
                )
            )
            await wait_all_tasks_blocked()
            assert sink.of("update") == [2]
            after = sys.getrefcount(frame)
            nursery.cancel_scope.cancel()
        return before, after

    before, after = trio.run(run)
    assert after == before
