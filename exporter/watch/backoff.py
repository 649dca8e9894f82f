"""Pure: growing, jittered delays."""

from collections.abc import Iterator
from random import Random

LOWEST_SHARE = 0.5  # of a step: enough jitter to spread a storm, enough delay to mean something


def backoff(rng: Random, *, first: float, longest: float) -> Iterator[float]:
    """Endless delays in seconds: each drawn from [half a step, a step], the step doubling up to ``longest``."""
    step = first
    while True:
        yield rng.uniform(LOWEST_SHARE * step, step)
        step = min(2 * step, longest)
