"""Tasks: decides when a REST request may be sent: one queue for all, a rate, and a bound on open requests.

The queue has two lanes, which alternate while both have waiting requests. So the few requests that find
conversations do not wait behind thousands of records after many calls ended at once, and records do not wait
behind a long list. Records may not use all places for open requests, so slow records do not block the other lane.
"""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum
from math import inf

import attrs
import trio

LOWEST = 1.0  # requests a second, however often Phonic answers 429
GROWTH = 1.0  # requests a second by which the rate grows every second
AT_ONCE, RECORDS_AT_ONCE = 32, 24  # open requests: all, and those for records


class Lane(Enum):
    """The lane of a request."""

    FINDING = "finding"
    RECORD = "record"


@attrs.define(eq=False)
class _Waiting:
    lane: Lane
    since: float  # Unix time
    woken: trio.Event = attrs.field(factory=trio.Event)


class Budget:
    """Lets requests pass in order, at most ``most`` a second."""

    def __init__(self, most: float, *, now: Callable[[], float] = time.time) -> None:
        """``now`` gives Unix time, for `waiting_since`."""
        self._most = most
        self._now = now
        self._allowed = most
        self._allowed_at = -inf  # when that was set, in trio's time
        self._passed_at = -inf
        self._paused_until = -inf
        self._lanes: dict[Lane, OrderedDict[_Waiting, None]] = {lane: OrderedDict() for lane in Lane}
        self._last_lane = Lane.RECORD
        self._under_way = dict.fromkeys(Lane, 0)

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return sum(map(len, self._lanes.values()))

    @property
    def waiting_since(self) -> float | None:
        """Unix time since which the longest waiting request waits; None when none waits."""
        return min((next(iter(lane)).since for lane in self._lanes.values() if lane), default=None)

    @property
    def allowed_per_second(self) -> float:
        """Requests a second that may pass now."""
        grown = self._allowed + GROWTH * max(0.0, trio.current_time() - self._allowed_at)
        return min(self._most, grown)

    def refused(self) -> None:
        """Halve the rate, because Phonic answered 429; it grows again."""
        self._allowed = max(self.allowed_per_second / 2, min(LOWEST, self._most))
        self._allowed_at = trio.current_time()

    def pause(self, seconds: float) -> None:
        """Let no request pass for so many seconds."""
        self._paused_until = max(self._paused_until, trio.current_time() + seconds)

    @asynccontextmanager
    async def turn(self, lane: Lane) -> AsyncIterator[None]:
        """Wait until a request may be sent; it counts as open until the block ends.

        Cancellation: leaves the queue.
        """
        await self._pass(lane)
        self._under_way[lane] += 1
        self._wake()
        try:
            yield
        finally:
            self._under_way[lane] -= 1
            self._wake()

    async def _pass(self, lane: Lane) -> None:
        mine = _Waiting(lane, self._now())
        self._lanes[lane][mine] = None
        has_passed = False
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            while (delay := self._delay(mine)) > 0:
                mine.woken = trio.Event()
                with trio.move_on_after(delay):
                    await mine.woken.wait()
            has_passed = True
            self._passed_at = trio.current_time()
            self._last_lane = lane
        finally:
            del self._lanes[lane][mine]
            if not has_passed:
                self._wake()

    def _delay(self, mine: _Waiting) -> float:
        """Seconds until this request may pass; infinite while another one is first."""
        if self._next() is not mine:
            return inf
        opens_at = max(self._paused_until, self._passed_at + 1 / self.allowed_per_second)
        return opens_at - trio.current_time()

    def _next(self) -> _Waiting | None:
        under_way = sum(self._under_way.values())
        if under_way >= AT_ONCE:
            return None
        order = sorted(Lane, key=lambda lane: lane is self._last_lane)
        for lane in order:
            if lane is Lane.RECORD and self._under_way[lane] >= RECORDS_AT_ONCE:
                continue
            if self._lanes[lane]:
                return next(iter(self._lanes[lane]))
        return None

    def _wake(self) -> None:
        chosen = self._next()
        if chosen is not None:
            chosen.woken.set()
