"""Slopes of what the soak samples: a leak is found beneath noise, and noise is not taken for one."""

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
def test_nothing_is_certain_of_few_samples_or_of_one_moment(samples: list[tuple[float, float]]) -> None:
    assert slope(samples) == Slope(0.0, inf)
    assert slope(samples).certain == 0


def test_noise_is_rarely_taken_for_growth() -> None:
    rng = random.Random(1)
    runs = [[(at * 5.0, rng.gauss(100, 10)) for at in range(180)] for _ in range(300)]
    assert sum(slope(run).certain > 0 for run in runs) <= 3


def test_a_walk_that_leads_nowhere_is_noisier_than_its_steps() -> None:
    rng, at = random.Random(2), 0.0
    walk = [(number * 5.0, at := 0.9 * at + rng.gauss(0, 1)) for number in range(180)]
    shuffled = [(when, value) for (when, _), (_, value) in zip(walk, rng.sample(walk, len(walk)), strict=True)]
    assert slope(walk).noise > 2 * slope(shuffled).noise


def test_a_leak_is_found_beneath_a_saw_tooth() -> None:
    """12 descriptors an hour, with up to 250 clients that come and go."""
    rng = random.Random(3)
    run = [(at * 5.0, float(int(40 + at * 5 / 300) + rng.choice((0, 0, 0, 250)))) for at in range(180)]
    assert slope(floors(run)).certain > 6


def test_what_comes_and_goes_leaves_the_floor_where_it_is() -> None:
    rng = random.Random(4)
    run = [(at * 5.0, float(40 + rng.choice((0, 0, 0, 250)))) for at in range(180)]
    assert slope(floors(run)) == Slope(0.0, 0.0)


def test_the_second_half_is_that_of_the_time() -> None:
    assert second_half([]) == []
    assert second_half([(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (10.0, 4.0)]) == [(10.0, 4.0)]


def test_a_short_run_may_gain_at_once_what_a_long_one_gains_in_an_hour() -> None:
    bound = Bound(per_hour=20, at_once=3)
    assert bound.over(30) == 360
    assert bound.over(599) == 20 == bound.over(1800)
    assert bound.over(0) == inf
