"""Tasks: when a REST request may be sent: one queue for all, a pace, and a bound on those under way.

Two lanes, of which each gets every other turn while both wait: the few requests with which conversations are
found are not held up by the thousands of records that a wave of ends asks for, nor these by those. Some of the
places for requests under way are out of reach for records, so slow ones do not take them all.
"""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum
from math import inf

import attrs
import trio

LOWEST = 1.0  # requests a second, whatever was refused
GROWTH = 1.0  # requests a second by which the pace grows every second
AT_ONCE, RECORDS_AT_ONCE = 32, 24  # requests under way


class Lane(Enum):
    """What a request is for."""

    FINDING = "finding"
    RECORD = "record"


@attrs.define(eq=False)
class _Waiting:
    lane: Lane
    since: float  # Unix time
    woken: trio.Event = attrs.field(factory=trio.Event)


class Budget:
    """Lets requests pass in their order, at most ``most`` a second."""

    def __init__(self, most: float, *, now: Callable[[], float] = time.time) -> None:
        """``now`` gives Unix time, for `waiting_since`."""
        self._most = most
        self._now = now
        self._allowed = most
        self._allowed_at = -inf  # when that was
        self._passed_at = -inf
        self._paused_until = -inf
        self._lanes: dict[Lane, OrderedDict[_Waiting, None]] = {lane: OrderedDict() for lane in Lane}
        self._last_lane = Lane.RECORD
        self._under_way = dict.fromkeys(Lane, 0)

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return sum(map(len, self._lanes.values()))

    @property
    def waiting_since(self) -> float | None:
        """Unix time at which the one that waits longest began to; None while none does."""
        return min((next(iter(lane)).since for lane in self._lanes.values() if lane), default=None)

    @property
    def allowed_per_second(self) -> float:
        """The pace now."""
        grown = self._allowed + GROWTH * max(0.0, trio.current_time() - self._allowed_at)
        return min(self._most, grown)

    def refused(self) -> None:
        """Phonic answered 429: half the pace from now on, growing again."""
        self._allowed = max(self.allowed_per_second / 2, min(LOWEST, self._most))
        self._allowed_at = trio.current_time()

    def pause(self, seconds: float) -> None:
        """Let none pass for so long."""
        self._paused_until = max(self._paused_until, trio.current_time() + seconds)

    @asynccontextmanager
    async def turn(self, lane: Lane) -> AsyncIterator[None]:
        """Wait for a turn; the request is under way until the block is left. Cancellation gives the turn up."""
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
        """Seconds until it may pass, as far as is known; for ever while it is another's turn."""
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
