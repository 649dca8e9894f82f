"""The benchmarks measure what they say: calls have their size, and the two pages are one."""

import pytest

from benchmarks import calls, pages
from benchmarks.__main__ import CASES
from benchmarks.cases import decoding
from benchmarks.report import Goal, Report, Table, ratio
from exporter.metrics.formats import Format


def test_calls_have_the_size_they_are_named_for() -> None:
    short, long = (sum(map(len, calls.snapshots(turns))) / turns for turns in (40, 200))
    assert short == pytest.approx(18_000, rel=0.07)
    assert long == pytest.approx(81_000, rel=0.07)


@pytest.mark.parametrize("non_ascii", [False, True])
def test_settled_turns_are_skipped_without_a_difference(non_ascii: bool) -> None:
    decoding.check(calls.snapshots(40, non_ascii=non_ascii))


@pytest.mark.parametrize("form", [Format.TEXT_0_0_4, Format.OPENMETRICS_1_0_0])
def test_library_renders_the_same_page(form: Format) -> None:
    rendered = pages.page(pages.filled(live=3, agents=5)).render(form)
    assert pages.Library(rendered, form).render() == rendered


def test_ratio_is_taken_round_by_round() -> None:
    assert ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]).median == 2.0


def test_report_shows_a_goal_that_is_not_met() -> None:
    table = Table(title="T", columns=("a", "b"), rows=[("x", "1")])
    goal = Goal(what="ratio", measured=1.5, at_most=1.3)
    page = Report(name="n", title="N", method="How.", tables=[table], goals=[goal]).markdown({"Python": "3"}, [])
    assert "| x | 1 |" in page
    assert "| ratio | ≤ 1.3 | 1.5 | **no** |" in page


def test_every_case_has_a_name_that_can_be_a_file() -> None:
    assert all(name.replace("-", "").isalpha() for name in CASES)
