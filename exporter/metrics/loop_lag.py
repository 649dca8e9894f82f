"""State: how late the event loop was in the last minute, which is how long any task had to wait for its turn.

trio calls an instrument before and after each wait for I/O. Between two waits it runs every task that is ready,
and a timer that becomes due meanwhile is late by as long as that takes. A wait that ends later than it should,
because the process was stopped or got no CPU, makes timers late as well. Measuring this needs no timer of its
own, which would keep an idle process awake.
"""

from collections import deque
from collections.abc import Callable
from time import perf_counter

import trio

WINDOW = 60.0
"""Seconds for which a delay is remembered."""
_SHORTEST = (
    0.001  # seconds; shorter delays are ignored, since a busy loop waits for I/O thousands of times a second
)


class LoopLag(trio.abc.Instrument):
    """The longest delay of a timer in the last minute, measured while `run` runs."""

    def __init__(self, *, clock: Callable[[], float] = perf_counter) -> None:
        """``clock`` returns seconds since any fixed time."""
        self._clock = clock
        self._since = clock()  # when the wait for I/O, or the tasks after it, began
        # (when, delay), delays falling: a delay is removed when a later one is as long, as it can't be the
        # longest.
        self._late: deque[tuple[float, float]] = deque()

    async def run(self) -> None:
        """Measure until cancelled. Cancellation: at any time."""
        self._since = self._clock()
        trio.lowlevel.add_instrument(self)
        try:
            await trio.sleep_forever()
        finally:
            trio.lowlevel.remove_instrument(self)

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002
        """Called by trio when all ready tasks have run."""
        self._note(0.0)

    def after_io_wait(self, timeout: float) -> None:
        """Called by trio when the wait is over, which should have taken at most ``timeout`` seconds."""
        self._note(timeout)

    def _note(self, allowed: float) -> None:
        now = self._clock()
        late = now - self._since - allowed
        self._since = now
        if late >= _SHORTEST:
            while self._late and self._late[-1][1] <= late:
                self._late.pop()
            self._late.append((now, late))
            self._forget(now)

    def _forget(self, now: float) -> None:
        while self._late and self._late[0][0] <= now - WINDOW:
            self._late.popleft()

    def largest(self) -> float:
        """The longest delay in seconds; 0 if none was a millisecond or longer."""
        self._forget(self._clock())
        return self._late[0][1] if self._late else 0.0
