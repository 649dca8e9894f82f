"""Delays of the event loop: measured when it is blocked, and forgotten after a minute."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from exporter.metrics.loop_lag import WINDOW, LoopLag


@asynccontextmanager
async def measured(lag: LoopLag) -> AsyncIterator[LoopLag]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        await wait_all_tasks_blocked()
        yield lag
        nursery.cancel_scope.cancel()


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def hold(self, seconds: float) -> None:
        """Block the loop for so many seconds."""
        self.now += seconds
        await wait_all_tasks_blocked()

    def wait(self, seconds: float) -> None:
        """Let time pass while nothing runs."""
        self.now += seconds


async def test_a_blocked_loop_is_measured() -> None:
    async with measured(LoopLag()) as lag:
        time.sleep(0.3)  # noqa: ASYNC251  # blocks the loop on purpose
        await wait_all_tasks_blocked()
        assert 0.3 <= lag.largest() < 10


async def test_waiting_for_io_is_no_delay() -> None:
    clock = Clock()
    async with measured(LoopLag(clock=clock)) as lag:
        for _ in range(3):
            await trio.sleep(0.01)
        assert lag.largest() == 0.0


async def test_delays_below_a_millisecond_are_ignored() -> None:
    clock = Clock()
    async with measured(LoopLag(clock=clock)) as lag:
        for _ in range(5000):
            lag.after_io_wait(0.0)
            clock.wait(0.0009)
            lag.before_io_wait(0.0)
        assert lag.largest() == 0.0


async def test_a_wait_that_ends_late_is_measured() -> None:
    clock = Clock()
    lag = LoopLag(clock=clock)
    lag.before_io_wait(2.0)
    clock.wait(5.0)
    lag.after_io_wait(2.0)
    assert lag.largest() == pytest.approx(3.0)
    lag.before_io_wait(9.0)
    clock.wait(5.0)
    lag.after_io_wait(9.0)
    assert lag.largest() == pytest.approx(3.0)


async def test_the_longest_delay_is_kept_for_a_minute() -> None:
    clock = Clock()
    async with measured(LoopLag(clock=clock)) as lag:
        await clock.hold(2.0)
        assert lag.largest() == pytest.approx(2.0)
        for _ in range(3):
            lag.after_io_wait(WINDOW)
            lag.before_io_wait(WINDOW)
            clock.wait(WINDOW / 4)
        lag.after_io_wait(WINDOW)
        await clock.hold(1.0)
        assert lag.largest() == pytest.approx(2.0)
        clock.wait(WINDOW / 4)
        assert lag.largest() == pytest.approx(1.0)
        clock.wait(WINDOW)
        assert lag.largest() == 0.0


async def test_memory_stays_bounded_and_nothing_is_measured_after_the_end() -> None:
    clock = Clock()
    async with measured(LoopLag(clock=clock)) as lag:
        for number in range(10_000):
            lag.after_io_wait(0.0)
            clock.wait(0.02 + number % 7 / 1000)
            lag.before_io_wait(0.0)
        assert len(lag._late) <= 7  # the memory that could leak
    clock.wait(2 * WINDOW)
    assert lag.largest() == 0.0
    await clock.hold(5.0)
    assert lag.largest() == 0.0
