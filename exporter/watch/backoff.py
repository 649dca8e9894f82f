"""Pure: delays between retries, growing and jittered."""

from collections.abc import Iterator
from random import Random

LOWEST_SHARE = 0.5  # of a step: enough jitter to spread clients that failed together, and still a real delay


def backoff(rng: Random, *, first: float, longest: float) -> Iterator[float]:
    """Yield delays in seconds without end.

    Each is drawn by ``rng`` from [half a step, a step]. The step starts at ``first`` seconds and doubles up to
    ``longest``.
    """
    step = first
    while True:
        yield rng.uniform(LOWEST_SHARE * step, step)
        step = min(2 * step, longest)
