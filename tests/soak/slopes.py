"""Pure: estimates whether a sampled value grows, and by how much per hour beyond its noise.

Temporary use (pages being rendered, clients, feeds) makes a saw-tooth; a leak raises its minimum. So the samples
are cut into blocks, and a line is fitted by least squares to the minimum of each block. Neighbouring samples are
correlated, so that the usual standard error of the slope would be too small: it is increased by the correlation of
the residuals.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import inf, sqrt

import attrs

BLOCKS = 15
"""Number of blocks whose minima the line is fitted to."""
STANDARD_ERRORS = 3
"""Standard errors by which a slope may be off; about one line in 700 is off by more in this direction."""
SETTLED_S = 600.0
"""Seconds of samples needed to distinguish steady growth from caches that fill up once."""
_MOST_ALIKE = 0.9  # correlation of neighbours beyond which the slope is unknown
_HOUR = 3600.0

Samples = Sequence[tuple[float, float]]
"""Pairs of time in seconds and value."""


@attrs.frozen
class Slope:
    """Growth per hour, and its possible error."""

    per_hour: float
    noise: float

    @property
    def certain(self) -> float:
        """Growth per hour that noise does not explain; 0 if noise explains all of it."""
        return max(0.0, self.per_hour - self.noise)


@attrs.frozen(kw_only=True)
class Bound:
    """Allowed growth per hour, and in a short run ``at_once`` in addition, for caches that fill up."""

    per_hour: float
    at_once: float

    def over(self, seconds: float) -> float:
        """Return the allowed growth per hour for samples that span ``seconds``."""
        if seconds >= SETTLED_S:
            return self.per_hour
        return max(self.per_hour, self.at_once * _HOUR / seconds) if seconds else inf


def second_half(samples: Samples) -> Samples:
    """Return the samples of the second half of the time."""
    if not samples:
        return samples
    middle = (samples[0][0] + samples[-1][0]) / 2
    return [each for each in samples if each[0] >= middle]


def floors(samples: Samples, blocks: int = BLOCKS) -> Samples:
    """Return the lowest sample of each block, or all samples if there are fewer than two per block."""
    size = max(1, len(samples) // blocks)
    return [
        min(samples[at : at + size], key=lambda each: each[1]) for at in range(0, len(samples) - size + 1, size)
    ]


def slope(samples: Samples) -> Slope:
    """Fit a line to the samples. The error is infinite for fewer than four samples, or for a single moment."""
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
