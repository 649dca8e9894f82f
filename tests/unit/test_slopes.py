"""Slopes of the soak's samples: leaks are detected in noise, and noise is not reported as a leak."""

import random
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak.slopes import Bound, Slope, floors, second_half, slope

SMALL = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


@given(start=SMALL, steepness=SMALL, count=st.integers(4, 50))
def test_a_straight_line_has_its_own_slope_and_hardly_any_noise(
    start: float, steepness: float, count: int
) -> None:
    found = slope([(at * 5.0, start + steepness * at * 5.0 / 3600) for at in range(count)])
    assert found.per_hour == pytest.approx(steepness, rel=1e-6, abs=0.1)
    assert found.noise < 1


@pytest.mark.parametrize("samples", [[], [(0.0, 1.0)], [(at, 7.0) for at in (0.0, 1.0, 2.0)], [(5.0, 1.0)] * 9])
def test_no_growth_is_certain_from_few_samples_or_one_moment(samples: list[tuple[float, float]]) -> None:
    assert slope(samples) == Slope(0.0, inf)
    assert slope(samples).certain == 0


def test_noise_is_rarely_reported_as_growth() -> None:
    rng = random.Random(1)
    runs = [[(at * 5.0, rng.gauss(100, 10)) for at in range(180)] for _ in range(300)]
    assert sum(slope(run).certain > 0 for run in runs) <= 3


def test_a_random_walk_is_noisier_than_its_steps() -> None:
    rng, at = random.Random(2), 0.0
    walk = [(number * 5.0, at := 0.9 * at + rng.gauss(0, 1)) for number in range(180)]
    shuffled = [(when, value) for (when, _), (_, value) in zip(walk, rng.sample(walk, len(walk)), strict=True)]
    assert slope(walk).noise > 2 * slope(shuffled).noise


def test_a_leak_is_detected_in_a_saw_tooth() -> None:
    """12 descriptors per hour, with up to 250 clients that come and go."""
    rng = random.Random(3)
    run = [(at * 5.0, float(int(40 + at * 5 / 300) + rng.choice((0, 0, 0, 250)))) for at in range(180)]
    assert slope(floors(run)).certain > 6


def test_temporary_values_do_not_change_the_floor() -> None:
    rng = random.Random(4)
    run = [(at * 5.0, float(40 + rng.choice((0, 0, 0, 250)))) for at in range(180)]
    assert slope(floors(run)) == Slope(0.0, 0.0)


def test_the_second_half_is_by_time() -> None:
    assert second_half([]) == []
    assert second_half([(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (10.0, 4.0)]) == [(10.0, 4.0)]


def test_a_short_run_may_grow_by_at_once_in_addition() -> None:
    bound = Bound(per_hour=20, at_once=3)
    assert bound.over(30) == 360
    assert bound.over(599) == 20 == bound.over(1800)
    assert bound.over(0) == inf
