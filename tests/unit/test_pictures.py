"""Pictures of dashboards: numbers as Grafana writes them, every panel drawn, with data and without."""

import json
import math
import re
from collections.abc import Mapping
from html import unescape
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards import classic, frame, queries
from dashboards.boards import BOARDS
from dashboards.pictures.asking import Results, Window
from dashboards.pictures.page import CAPTION, COMPONENTS_CAPTION, page
from dashboards.pictures.values import COLORS, color, mapped, shown, ticks
from dashboards.slo import load

WINDOW = Window(start=1_000_000.0, end=1_000_060.0, variables=queries.EVERYTHING)
LOADED: dict[str, Mapping[str, Any]] = {
    name: json.loads(frame.to_json(classic.render(build(load())))) for name, build in BOARDS.items()
}


class Nothing:
    """A Prometheus without data."""

    def over_time(self, expr: str) -> Results:  # noqa: ARG002
        return []

    at_the_end = exemplars = over_time


class Flat:
    """A Prometheus in which everything is one series with one value, at times without one."""

    def __init__(self, value: float) -> None:
        self._value = str(value)
        self._labels = {"le": "1.0", "agent": "<b>&", "project": "main"}

    def over_time(self, expr: str) -> Results:  # noqa: ARG002
        times = [WINDOW.start, WINDOW.start + 1, WINDOW.end]
        return [{"metric": self._labels, "values": [[at, self._value] for at in times]}]

    def at_the_end(self, expr: str) -> Results:  # noqa: ARG002
        return [{"metric": self._labels, "value": [WINDOW.end, self._value]}]

    def exemplars(self, expr: str) -> Results:  # noqa: ARG002
        return [{"exemplars": [{"labels": {}, "value": "0.5", "timestamp": WINDOW.start + 3}]}]


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "text"),
    [
        (0.4567, "s", None, "457 ms"),
        (1.5, "s", None, "1.5 s"),
        (90.0, "s", None, "1.5 min"),
        (7200.0, "s", 0, "2 h"),
        (3723.9, "dthms", None, "01:02:03"),
        (0.0, "s", None, "0 s"),
        (0.123, "percentunit", 1, "12.3%"),
        (-6.2, "percentunit", 0, "-620%"),
        (12.345, "cpm", None, "12.3 /min"),
        (1500.0, "short", None, "1.5 K"),
        (3 * 2**20, "bytes", None, "3 MiB"),
        (159_000.0, "Bps", None, "159 KB/s"),
        (math.nan, "s", None, "-"),
    ],
)
def test_numbers_are_written_as_grafana_does(value: float, unit: str, decimals: int | None, text: str) -> None:
    assert shown(value, unit, decimals) == text


def test_a_threshold_colours_from_its_value_on() -> None:
    steps: list[dict[str, Any]] = [{"value": None, "color": "green"}, {"value": 2.0, "color": "red"}]
    assert [color(value, steps) for value in (-1, 1.99, 2, 3)] == [
        COLORS[c] for c in ("green", "green", "red", "red")
    ]


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_is_missing_is_said_in_grey(value: float | None) -> None:
    assert mapped(value, {"unit": "s", "noValue": "no turns"}) == ("no turns", COLORS["text"])


@given(st.floats(1e-6, 1e12), st.sampled_from(["s", "bytes", "short"]), st.integers(2, 12))
def test_ticks_are_few_and_reach_from_0_to_the_top(top: float, unit: str, most: int) -> None:
    found = ticks(top, unit, most)
    assert found[0] == 0
    assert 2 <= len(found) <= most + 1
    assert found[-1] <= top * (1 + 1e-6) < 2.6 * (found[-1] + found[1])


@pytest.mark.parametrize("name", LOADED)
@pytest.mark.parametrize(
    "ask",
    [Nothing(), Flat(0.0), Flat(7.5), Flat(math.nan), Flat(math.inf)],
    ids=["nothing", "zero", "some", "nan", "infinite"],
)
def test_every_panel_is_drawn_whatever_the_answers(name: str, ask: Nothing | Flat) -> None:
    text = page(LOADED[name], WINDOW, ask)
    assert text.count("<h3>") == len(list(queries.panels(LOADED[name])))
    assert "<b>&" not in text


@pytest.mark.parametrize("name", BOARDS)
def test_components_get_every_panel_that_they_can_draw_with_its_answers(name: str) -> None:
    text = page(LOADED[name], WINDOW, Flat(7.5), "file:///bundle")
    assert '<script type="module" src="file:///bundle/app.js"></script>' in text
    assert COMPONENTS_CAPTION in text
    found = [json.loads(unescape(each)) for each in re.findall(r'data-panel="([^"]*)"', text)]
    drawn = {each["panel"]["title"]: each for each in found}
    kinds = ("stat", "timeseries", "table")
    drawable = [panel for panel in queries.panels(LOADED[name]) if panel["type"] in kinds]
    assert set(drawn) == {panel["title"] for panel in drawable}
    for each in drawn.values():
        match each["panel"]["type"]:
            case "timeseries":
                assert each["series"]
                assert all(len(one["times"]) == len(one["values"]) for one in each["series"])
            case "table":
                assert len({len(column["values"]) for column in each["columns"]}) == 1
            case _:
                assert isinstance(each["value"], float)


def test_without_components_nothing_of_them_is_loaded() -> None:
    text = page(LOADED["overview"], WINDOW, Flat(7.5))
    assert "<script" not in text
    assert CAPTION in text
