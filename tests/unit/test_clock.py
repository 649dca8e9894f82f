"""Phonic's clock from the ``Date`` headers of its replies."""

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.phonic.clock import PhonicClock

NOW = 1_792_567_680.0
SKEWS = st.floats(-1e6, 1e6)


def date(at: float) -> str:
    return formatdate(int(at), usegmt=True)


def test_before_the_first_reply_our_own_clock_is_used() -> None:
    clock = PhonicClock(lambda: NOW)
    assert (clock.offset, clock.now()) == (None, NOW)


@given(skew=SKEWS, trips=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 2), st.floats(0, 2)), min_size=1))
def test_offset_is_wrong_by_less_than_half_a_second_and_half_a_round_trip(
    skew: float, trips: list[tuple[float, float, float]]
) -> None:
    clock, real = PhonicClock(lambda: NOW), NOW
    best = float("inf")
    for pause, there, back in trips:
        real += pause
        clock.heard(date(real + there), real + skew, real + there + back + skew)
        real += there + back
        best = min(best, 0.5 + (there + back) / 2)
        assert clock.offset is not None
        assert abs(clock.offset - skew) <= best + 1e-2


def test_several_replies_narrow_the_bounds_of_one() -> None:
    clock = PhonicClock(lambda: NOW)
    for at in range(100):
        moment = NOW + at * 5.37
        clock.heard(date(moment), moment + 180, moment + 180 + 0.01)
    assert clock.offset == pytest.approx(180, abs=0.06)
    assert clock.now() == pytest.approx(NOW - 180, abs=0.06)


def test_a_clock_that_was_set_is_accepted_at_the_second_reply() -> None:
    clock = PhonicClock(lambda: NOW)
    clock.heard(date(NOW), NOW, NOW)
    clock.heard(date(NOW + 5), NOW + 3605, NOW + 3605)
    assert clock.offset == pytest.approx(0, abs=0.6)
    clock.heard(date(NOW + 10), NOW + 3610, NOW + 3610)
    assert clock.offset == pytest.approx(3600, abs=0.6)


def test_a_single_contradicting_date_changes_nothing() -> None:
    clock = PhonicClock(lambda: NOW)
    clock.heard(date(NOW), NOW, NOW)
    clock.heard(date(0), NOW + 5, NOW + 5)
    clock.heard(date(NOW + 10), NOW + 10, NOW + 10)
    assert clock.offset == pytest.approx(0, abs=0.6)


@pytest.mark.parametrize("text", [None, "", "soon", "Thu, 99 Jan 1970 00:00:00 GMT", "\ud800", "9" * 5000])
def test_an_unreadable_date_is_ignored(text: str | None) -> None:
    clock = PhonicClock(lambda: NOW)
    clock.heard(text, NOW, NOW)
    assert clock.offset is None


@given(st.lists(st.tuples(st.text() | st.integers(0, 2**33).map(date), st.floats(0, 1e10), st.floats(0, 1e10))))
def test_no_sequence_of_dates_stops_the_clock(replies: list[tuple[str, float, float]]) -> None:
    clock = PhonicClock(lambda: NOW)
    for reply in replies:
        clock.heard(*reply)
    assert clock.now() == clock.now()
