"""Pure: whether a number that was sampled again and again grows, and by how much an hour beyond its noise.

Strategy: what comes and goes (pages being written, clients, feeds) makes a saw-tooth, of which a leak lifts the
floor. So the samples are cut into blocks, the lowest of each is kept, and a line is laid through these by
least squares. Neighbours resemble each other, which makes the usual standard error of a slope too small: it is
widened by what the residuals' own correlation says.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import inf, sqrt

import attrs

BLOCKS = 15
"""Floors that a line is laid through, of as many samples each as there are."""
STANDARD_ERRORS = 3
"""By which a slope may be off; one line in about 700 is off by more to this side."""
SETTLED_S = 600.0
"""Seconds of samples from which on they tell what grows for ever from what fills up once."""
_MOST_ALIKE = 0.9  # correlation of neighbours beyond which nothing is known about a slope
_HOUR = 3600.0

Samples = Sequence[tuple[float, float]]
"""Seconds from any beginning, and the value then."""


@attrs.frozen
class Slope:
    """Growth in an hour, and by how much it may be off."""

    per_hour: float
    noise: float

    @property
    def certain(self) -> float:
        """Growth in an hour that noise does not explain; 0 where it explains all."""
        return max(0.0, self.per_hour - self.noise)


@attrs.frozen(kw_only=True)
class Bound:
    """How much may be gained in an hour; in a short run also as much as ``at_once``, for caches that fill up."""

    per_hour: float
    at_once: float

    def over(self, seconds: float) -> float:
        """The bound in an hour for samples that span so many seconds."""
        if seconds >= SETTLED_S:
            return self.per_hour
        return max(self.per_hour, self.at_once * _HOUR / seconds) if seconds else inf


def second_half(samples: Samples) -> Samples:
    """What was sampled in the later half of the time."""
    if not samples:
        return samples
    middle = (samples[0][0] + samples[-1][0]) / 2
    return [each for each in samples if each[0] >= middle]


def floors(samples: Samples, blocks: int = BLOCKS) -> Samples:
    """The lowest sample of each block of neighbours; all samples where there are not twice as many as blocks."""
    size = max(1, len(samples) // blocks)
    return [
        min(samples[at : at + size], key=lambda each: each[1]) for at in range(0, len(samples) - size + 1, size)
    ]


def slope(samples: Samples) -> Slope:
    """The line through the samples. Nothing is certain of fewer than four, or of one moment."""
    number = len(samples)
    if number < 4:
        return Slope(0.0, inf)
    mean_at = sum(at for at, _ in samples) / number
    mean = sum(value for _, value in samples) / number
    spread = sum((at - mean_at) ** 2 for at, _ in samples)
    if not spread:
        return Slope(0.0, inf)
    steepness = sum((at - mean_at) * (value - mean) for at, value in samples) / spread
    left = [value - mean - steepness * (at - mean_at) for at, value in samples]
    squares = sum(each * each for each in left)
    alike = sum(one * next_one for one, next_one in pairwise(left)) / squares if squares else 0.0
    alike = min(max(alike, 0.0), _MOST_ALIKE)
    error = sqrt(squares / (number - 2) / spread * (1 + alike) / (1 - alike))
    return Slope(steepness * _HOUR, STANDARD_ERRORS * error * _HOUR)
