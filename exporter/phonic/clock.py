"""State: estimates Phonic's clock from the ``Date`` headers of its replies.

A ``Date`` header has a resolution of a second: Phonic's time was within that second at some moment between sending
the request and receiving the reply. So each reply bounds the difference of the two clocks from both sides, and
several replies together give bounds narrower than a second.
"""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import attrs

RESOLUTION = 1.0  # seconds; of the header
DRIFT = 1e-4  # seconds a second by which two clocks may drift apart; ten times the usual


@attrs.frozen
class _Bounds:
    """Bounds of our clock minus Phonic's, in seconds."""

    low: float
    high: float

    def wider(self, by: float) -> "_Bounds":
        return _Bounds(self.low - by, self.high + by)

    def within(self, other: "_Bounds") -> "_Bounds | None":
        low, high = max(self.low, other.low), min(self.high, other.high)
        return _Bounds(low, high) if low <= high else None


class PhonicClock:
    """Phonic's time; ``own`` gives Unix time by our own clock."""

    def __init__(self, own: Callable[[], float] = time.time) -> None:
        self._own = own
        self._bounds: _Bounds | None = None
        self._heard_at = 0.0
        self._suspect: _Bounds | None = None

    def heard(self, date: str | None, sent_at: float, received_at: float) -> None:
        """Learn from the ``Date`` header of a reply; both times are Unix times by our own clock.

        A reply that contradicts the bounds is ignored until the next one agrees with it, because then a clock was
        set. A header that cannot be parsed is ignored.
        """
        try:
            second = parsedate_to_datetime(date or "").timestamp()
        except (ValueError, OverflowError):
            return
        found = _Bounds(min(sent_at, received_at) - second - RESOLUTION, max(sent_at, received_at) - second)
        if self._bounds is None:
            self._take(found, received_at)
            return
        known = self._bounds.wider(DRIFT * abs(received_at - self._heard_at))
        narrower = known.within(found)
        if narrower is not None:
            self._take(narrower, received_at)
        elif self._suspect is not None and (agreed := self._suspect.within(found)) is not None:
            self._take(agreed, received_at)
        else:
            self._suspect = found

    def _take(self, bounds: _Bounds, at: float) -> None:
        self._bounds, self._heard_at, self._suspect = bounds, at, None

    @property
    def offset(self) -> float | None:
        """Seconds by which our clock is ahead of Phonic's; None before the first reply."""
        return None if self._bounds is None else (self._bounds.low + self._bounds.high) / 2

    def now(self) -> float:
        """Unix time by Phonic's clock; by our own before the first reply."""
        return self._own() - (self.offset or 0.0)
