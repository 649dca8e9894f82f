"""Reconciler: how long it reads a record until it is complete, and what it returns if that never happens."""

from random import Random
from typing import Any

import attrs
import pytest
import trio
from trio.abc import Clock

from exporter.enums import Reconciled, RestError
from exporter.phonic.rest import RestFailed
from exporter.phonic.schema import Analysis, Conversation, Snapshot
from exporter.watch.interfaces import RecordState
from exporter.watch.reconcile import Reconciler, is_complete

END = "2026-01-01T00:00:00Z"
COMPLETE = Conversation("c", ended_at=END, ended_by="user", analysis=Analysis())
DOWN = RestFailed(RestError.CONNECT)
Reply = Conversation | RestFailed | None


@attrs.define
class Sink:
    """Keeps what is reported to it; `Reconciler` calls no other method."""

    results: list[Reconciled] = attrs.field(factory=list)

    def reconciled(self, result: Reconciled) -> None:
        self.results.append(result)


@attrs.define
class Rest:
    """Gives ``replies`` one after the other, and then the last one again; each takes ``latency`` seconds."""

    replies: list[Reply]
    latency: float = 0.0
    times: list[float] = attrs.field(factory=list)
    under_way: int = 0
    most_under_way: int = 0

    async def record(self, conversation_id: str) -> Snapshot | None:
        assert conversation_id == "c"
        self.times.append(trio.current_time())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await trio.sleep(self.latency)
        self.under_way -= 1
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, RestFailed):
            raise reply
        return None if reply is None else Snapshot(conversation=reply)


def reconciler(rest: Rest, sink: Sink) -> Reconciler:
    return Reconciler(rest.record, sink=sink, rng=Random(0))  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["ended_at", "ended_by", "analysis"])
def test_record_without_its_end_or_analysis_is_incomplete(field: str) -> None:
    changes: dict[str, Any] = {field: None}
    assert is_complete(Snapshot(conversation=COMPLETE))
    assert not is_complete(Snapshot(conversation=attrs.evolve(COMPLETE, **changes)))


INCOMPLETE = attrs.evolve(COMPLETE, analysis=None)
RUNNING = Conversation("c")


@pytest.mark.parametrize(
    ("replies", "record", "result", "seconds"),
    [
        pytest.param([COMPLETE], COMPLETE, Reconciled.COMPLETE, (0, 0), id="at once"),
        pytest.param([INCOMPLETE, COMPLETE], COMPLETE, Reconciled.COMPLETE, (1.5, 3), id="analysis comes late"),
        pytest.param([None, COMPLETE], COMPLETE, Reconciled.COMPLETE, (1.5, 3), id="saved late"),
        pytest.param([RUNNING, COMPLETE], COMPLETE, Reconciled.COMPLETE, (1.5, 3), id="REST lags"),
        pytest.param([INCOMPLETE], INCOMPLETE, Reconciled.INCOMPLETE, (30, 30), id="analysis never comes"),
        pytest.param([RUNNING], RUNNING, Reconciled.INCOMPLETE, (30, 30), id="never closed"),
        pytest.param([None], None, Reconciled.NOT_FOUND, (30, 30), id="never there"),
        pytest.param([INCOMPLETE, None], INCOMPLETE, Reconciled.INCOMPLETE, (30, 30), id="deleted meanwhile"),
        pytest.param([DOWN] * 9 + [COMPLETE], COMPLETE, Reconciled.COMPLETE, (40, 120), id="long outage"),
        pytest.param([INCOMPLETE] + [DOWN] * 9 + [COMPLETE], COMPLETE, Reconciled.COMPLETE, (40, 120), id="both"),
        pytest.param([DOWN], None, Reconciled.UNAVAILABLE, (600, 600), id="outage without end"),
        pytest.param([INCOMPLETE, DOWN], INCOMPLETE, Reconciled.INCOMPLETE, (600, 604), id="then an outage"),
    ],
)
async def test_record_is_read_until_it_is_complete_or_the_time_is_up(
    replies: list[Reply],
    record: Conversation | None,
    result: Reconciled,
    seconds: tuple[float, float],
    autojump_clock: Clock,  # noqa: ARG001  # pytest-trio looks among the arguments
) -> None:
    sink, begun = Sink(), trio.current_time()
    found = await reconciler(Rest(list(replies)), sink).complete("c")
    assert (found and found.conversation, sink.results) == (record, [result])
    shortest, longest = seconds
    assert shortest <= trio.current_time() - begun <= longest + 1e-9


async def test_time_in_the_request_queue_does_not_count_against_an_incomplete_record(
    autojump_clock: Clock,  # noqa: ARG001  # pytest-trio looks among the arguments
) -> None:
    sink = Sink()
    await reconciler(Rest([INCOMPLETE, COMPLETE], latency=100.0), sink).complete("c")
    assert sink.results == [Reconciled.COMPLETE]


async def test_incomplete_record_is_read_few_times(
    autojump_clock: Clock,  # noqa: ARG001  # pytest-trio looks among the arguments
) -> None:
    rest = Rest([INCOMPLETE])
    await reconciler(rest, Sink()).complete("c")
    assert len(rest.times) <= 6


async def test_cancelled_wait_reports_nothing(
    autojump_clock: Clock,  # noqa: ARG001  # pytest-trio looks among the arguments
) -> None:
    sink = Sink()
    with trio.move_on_after(10) as scope:
        await reconciler(Rest([INCOMPLETE]), sink).complete("c")
    assert scope.cancelled_caught
    assert sink.results == []


async def test_read_that_does_not_leave_the_request_queue_is_given_up(
    autojump_clock: Clock,  # noqa: ARG001  # pytest-trio looks among the arguments
) -> None:
    sink, begun = Sink(), trio.current_time()
    await reconciler(Rest([COMPLETE], latency=10_000.0), sink).complete("c")
    assert sink.results == [Reconciled.UNAVAILABLE]
    assert trio.current_time() - begun <= 610


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        (COMPLETE, RecordState.ENDED),
        (INCOMPLETE, RecordState.ENDED),
        (RUNNING, RecordState.LIVE),
        (None, RecordState.NOT_FOUND),
        (DOWN, RecordState.UNAVAILABLE),
    ],
)
async def test_state_is_one_read(reply: Reply, state: RecordState) -> None:
    rest = Rest([reply])
    assert await reconciler(rest, Sink()).state("c") is state
    assert len(rest.times) == 1
