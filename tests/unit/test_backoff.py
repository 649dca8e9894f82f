"""Delays grow, are jittered, and stay within their bounds."""

from itertools import islice
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from exporter.watch.backoff import LOWEST_SHARE, backoff


@given(seed=st.integers(), first=st.floats(0.01, 60), factor=st.floats(1, 1000))
def test_each_delay_is_drawn_from_the_upper_half_of_a_step_that_doubles_up_to_the_longest(
    seed: int, first: float, factor: float
) -> None:
    longest = first * factor
    step = first
    for delay in islice(backoff(Random(seed), first=first, longest=longest), 20):
        assert LOWEST_SHARE * step <= delay <= step
        step = min(2 * step, longest)


def test_delays_differ_between_watchers_and_repeat_with_a_seed() -> None:
    def delays(seed: int) -> list[float]:
        return list(islice(backoff(Random(seed), first=0.5, longest=30), 8))

    assert delays(1) == delays(1)
    assert len({delay for seed in range(50) for delay in delays(seed)}) == 400
