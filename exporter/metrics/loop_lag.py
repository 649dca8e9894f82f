"""State: how late the event loop was in the last minute, which is how long anything else waited for its turn.

Strategy: trio tells an instrument when it begins and ends to wait for I/O. Between two waits it runs every task
that is ready, and a timer that is due meanwhile is late by as long as that takes; a wait that ends later than it
should (the process was stopped, or had no CPU) makes timers late, too. So nothing needs to wake up to be measured:
a timer of its own, ten times a second, would cost an idle process 0.3 % of a core.
"""

from collections import deque
from collections.abc import Callable
from time import perf_counter

import trio

WINDOW = 60.0
"""Seconds for which a lateness is remembered."""
_SHORTEST = 0.001  # seconds; less is not remembered: a busy loop waits for I/O thousands of times a second


class LoopLag(trio.abc.Instrument):
    """The largest lateness of a timer in the last minute, while `run` runs."""

    def __init__(self, *, clock: Callable[[], float] = perf_counter) -> None:
        """``clock`` tells seconds from any beginning."""
        self._clock = clock
        self._since = clock()  # when the wait for I/O, or the tasks after it, began
        # (when, lateness), with falling lateness: one that a later one exceeds is never the largest again.
        self._late: deque[tuple[float, float]] = deque()

    async def run(self) -> None:
        """Measure until cancelled."""
        self._since = self._clock()
        trio.lowlevel.add_instrument(self)
        try:
            await trio.sleep_forever()
        finally:
            trio.lowlevel.remove_instrument(self)

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002
        """Called by trio: all ready tasks have run."""
        self._note(0.0)

    def after_io_wait(self, timeout: float) -> None:
        """Called by trio: the wait is over; it should have taken ``timeout`` seconds at most."""
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
        """Seconds; 0 while the loop was never late by a millisecond."""
        self._forget(self._clock())
        return self._late[0][1] if self._late else 0.0
