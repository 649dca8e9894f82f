"""Gauges by project: one row for each name, and no more names than the label limit allows."""

from hypothesis import given
from hypothesis import strategies as st

from exporter.gauges import by_project


@given(st.lists(st.tuples(st.text(max_size=3), st.none() | st.integers(0, 9).map(float))), st.integers(0, 5))
def test_each_project_has_one_row_and_the_sum_is_kept(numbers: list[tuple[str, float | None]], limit: int) -> None:
    rows = by_project([("", *each) for each in numbers], limit)
    names = [name for _, name, _ in rows]
    assert len(names) == len(set(names)) <= limit + 1
    assert sum(number for *_, number in rows) == sum(number or 0 for _, number in numbers)
