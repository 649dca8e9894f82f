"""Numbers as text: what prometheus_client writes, one by one and in batches."""

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.utils import floatToGoString

from exporter.metrics.numbers import number_text, number_texts, repr_text

BOUNDS = [0, 1e-5, 1e-4, 999_999, 999_999.5, 1e6, 1e9, 1e10, 1e15, 10**16 - 1, 1e16, 2**53, inf]
any_number = st.floats() | st.integers(-(10**30), 10**30)
near_a_bound = st.sampled_from(BOUNDS).flatmap(
    lambda bound: st.sampled_from([bound, -bound, bound * (1 - 1e-16), bound * (1 + 3e-16)])
)
measured = st.integers(0, 10**9).map(lambda thousandths: thousandths / 1000)
unix_time = st.floats(1e9, 1e10, exclude_max=True)
rounded_time = st.integers(10**12, 10**13 - 1).map(lambda milliseconds: milliseconds / 1000)
ALIKE = [any_number, near_a_bound, measured, unix_time, rounded_time, measured | st.integers(0, 10**6)]


@given(st.one_of(ALIKE))
def test_any_number_is_written_as_prometheus_client_does(value: float) -> None:
    assert number_text(value) == floatToGoString(value)


@given(st.one_of([st.lists(kind) for kind in (*ALIKE, st.one_of(ALIKE))]))
def test_a_batch_of_numbers_is_written_as_one_by_one(values: list[float]) -> None:
    assert number_texts(values) == [floatToGoString(value) for value in values]


@pytest.mark.parametrize(
    "odd", [nan, inf, -inf, -0.0, 1e-5, 9.9e-5, -1e6, 1e6, 1e9, 2**31, 1e10, 1e16, 10**16 - 1]
)
@pytest.mark.parametrize("like", [0.25, 40, 1_753_920_000.12])
def test_a_batch_with_one_unusual_number_is_written_correctly(odd: float, like: float) -> None:
    values = [like, odd, like]
    assert number_texts(values) == [floatToGoString(value) for value in values]


@given(st.floats())
def test_the_shortest_digits_are_those_of_repr(value: float) -> None:
    assert repr_text(value) == repr(value)


@pytest.mark.parametrize(
    "value",
    [0, -0.0, 1, 999_999, 1e6, 1_000_000.5, 1e9, 1_753_920_000.123, 1e10, 1e15, 1e16, 1e300, nan, inf, -inf],
)
def test_numbers_that_go_and_python_write_differently(value: float) -> None:
    assert number_text(value) == floatToGoString(value)
