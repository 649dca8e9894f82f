"""The queue of REST requests: its rate, its fairness, and its numbers."""

from collections.abc import Callable
from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.abc import Clock

from exporter.phonic.budget import AT_ONCE, RECORDS_AT_ONCE, Budget, Lane

# pytest-trio looks for a clock among the arguments of a test.


async def ask(
    budget: Budget, lane: Lane, seconds: float = 0.0, passed: Callable[[Lane], None] = lambda _: None
) -> None:
    async with budget.turn(lane):
        passed(lane)
        await trio.sleep(seconds)


async def test_a_429_halves_the_rate_down_to_one_a_second_and_it_grows_again(autojump_clock: Clock) -> None:
    del autojump_clock
    budget = Budget(50.0)
    assert budget.allowed_per_second == 50.0
    budget.refused()
    assert budget.allowed_per_second == 25.0
    await trio.sleep(5)
    assert budget.allowed_per_second == pytest.approx(30.0)
    for _ in range(10):
        budget.refused()
    assert budget.allowed_per_second == pytest.approx(1.0)
    await trio.sleep(100)
    assert budget.allowed_per_second == 50.0


@pytest.mark.parametrize("most", [0.1, 0.5, 1.0])
async def test_a_setting_below_one_a_second_is_kept(most: float, autojump_clock: Clock) -> None:
    del autojump_clock
    budget = Budget(most)
    budget.refused()
    assert budget.allowed_per_second == most


async def test_the_rate_is_kept_while_it_grows(autojump_clock: Clock) -> None:
    begun = autojump_clock.current_time()
    budget, times = Budget(50.0), list[float]()
    for _ in range(10):
        budget.refused()
    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(
                partial(ask, budget, Lane.RECORD, passed=lambda _: times.append(trio.current_time()))
            )
    for second in range(20):
        within = sum(begun + second <= at < begun + second + 1 for at in times)
        assert within <= second + 2.5


async def test_the_lanes_alternate_while_thousands_of_records_wait(autojump_clock: Clock) -> None:
    del autojump_clock
    budget, order = Budget(50.0), list[Lane]()
    async with trio.open_nursery() as nursery:
        for _ in range(2000):
            nursery.start_soon(partial(ask, budget, Lane.RECORD, passed=order.append))
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(10):
            nursery.start_soon(partial(ask, budget, Lane.FINDING, passed=order.append))
    assert max(at for at, lane in enumerate(order) if lane is Lane.FINDING) <= 22
    assert len(order) == 2010


async def test_slow_records_do_not_block_the_finding_lane(autojump_clock: Clock) -> None:
    del autojump_clock
    budget = Budget(1000.0)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(ask, budget, Lane.RECORD, 60.0)
        await trio.sleep(1)
        assert budget.waiting == 100 - RECORDS_AT_ONCE
        begun = trio.current_time()
        await ask(budget, Lane.FINDING)
        assert trio.current_time() - begun < 0.01
        nursery.cancel_scope.cancel()


async def test_open_requests_are_bounded(autojump_clock: Clock) -> None:
    del autojump_clock
    budget = Budget(1000.0)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(ask, budget, Lane.FINDING, 10.0)
        await trio.sleep(1)
        assert budget.waiting == 100 - AT_ONCE
        await trio.sleep(10)
        assert budget.waiting == 100 - 2 * AT_ONCE
        nursery.cancel_scope.cancel()


async def test_the_queue_reports_its_length_and_since_when_the_first_request_waits(autojump_clock: Clock) -> None:
    epoch = 1e9 - autojump_clock.current_time()
    budget = Budget(1.0, now=lambda: epoch + trio.current_time())
    assert (budget.waiting, budget.waiting_since) == (0, None)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask, budget, Lane.RECORD)
        await trio.sleep(0.5)
        nursery.start_soon(ask, budget, Lane.FINDING)
        await trio.sleep(0.1)
        assert budget.waiting == 3
        assert budget.waiting_since == pytest.approx(1e9)
    assert (budget.waiting, budget.waiting_since) == (0, None)


async def test_a_pause_stops_all_requests_and_can_be_extended(autojump_clock: Clock) -> None:
    begun = autojump_clock.current_time()
    budget, times = Budget(1000.0), list[float]()
    budget.pause(3)
    async with trio.open_nursery() as nursery:
        for lane in Lane:
            nursery.start_soon(partial(ask, budget, lane, passed=lambda _: times.append(trio.current_time())))
        await trio.sleep(2)
        budget.pause(5)
    assert [at - begun for at in times] == pytest.approx([7, 7], abs=0.01)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(Lane), st.floats(0, 5), st.floats(0, 30), st.floats(0.1, 20)), max_size=60
    )
)
def test_a_cancelled_request_blocks_no_other(steps: list[tuple[Lane, float, float, float]]) -> None:
    async def main() -> None:
        budget, passed = Budget(5.0), 0

        async def impatient(lane: Lane, begins: float, lasts: float, patience: float) -> None:
            await trio.sleep(begins)
            with trio.move_on_after(patience):
                await ask(budget, lane, lasts)

        async with trio.open_nursery() as nursery:
            for step in steps:
                nursery.start_soon(impatient, *step)
        begun = trio.current_time()
        await ask(budget, Lane.RECORD)
        await ask(budget, Lane.FINDING)
        assert trio.current_time() - begun <= 0.4 + 1e-9
        assert (passed, budget.waiting, budget.waiting_since) == (0, 0, None)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
