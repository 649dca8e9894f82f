"""Pure: renders a dashboard's JSON and its data as one self-contained HTML page in Grafana's dark theme."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any

from . import charts
from .asking import Ask, Results, Window
from .charts import Line
from .payload import expression, payload, rows
from .values import COLORS, PALETTE, color, legend, mapped, shown

Json = Mapping[str, Any]

WIDTH, CELL, GAP, MARGIN, HEAD = 1366, 30, 8, 8, 54
_LEGEND_ROW, _MOST_LEGEND_ROWS, _TITLE = 17, 4, 30
CAPTION = "Drawn from data of a real Prometheus by dashboards.pictures, not by Grafana."
COMPONENTS_CAPTION = (
    "Drawn from data of a real Prometheus: numbers, graphs and tables by Grafana's components, the rest by "
    "dashboards.pictures."
)

_STYLE = """
body { margin: 0; background: #111217; color: #ccccdc; font: 12px Inter, "DejaVu Sans", sans-serif; }
header, footer { position: absolute; left: 16px; }
header b { font-size: 17px; font-weight: 500; margin-right: 18px; }
header span, footer { color: #9fa7b3; margin-right: 14px; }
.panel { position: absolute; background: #181b1f; border: 1px solid #25282d; box-sizing: border-box;
  border-radius: 2px; overflow: hidden; }
.heading { position: absolute; font-size: 15px; padding-top: 5px; }
.panel h3 { margin: 7px 8px 0; font-size: 13px;
  font-weight: 500; height: 20px; line-height: 1.5; white-space: nowrap; overflow: hidden; }
.none { color: #9fa7b3; text-align: center; padding-top: 60px; font-size: 15px; }
.big { color: #fff; font-size: 28px; text-align: center; padding-top: 24px; font-weight: 500; }
.stat h3 { color: #fff; font-size: 11px; }
.legend td:first-child { width: 100%; max-width: 0; overflow: hidden; text-overflow: ellipsis; }
table { border-collapse: collapse; width: 100%; }
td, th { padding: 0 8px; height: 16px; text-align: right; font-weight: normal; white-space: nowrap; }
th { color: #8ab8ff; }
td:first-child, th:first-child { text-align: left; }
.listing td, .listing th { text-align: left; height: 28px; border-bottom: 1px solid #25282d; }
.listing td.colored { color: #fff; }
i { display: inline-block; width: 14px; height: 4px; margin: 0 6px 2px 0; border-radius: 2px; }
svg { display: block; }
"""


def height(board: Json) -> int:
    """Return the height of the whole page in pixels."""
    lowest = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    return int(HEAD + lowest * (CELL + GAP) + 30)


def page(board: Json, window: Window, ask: Ask, components: str = "") -> str:
    """Render the dashboard over ``window``, with the bundle of Grafana's components at ``components``, if any.

    Raises: the errors of ``ask``.
    """
    panels = "".join(_placed(panel, window, ask, components=bool(components)) for panel in board["panels"])
    script = (
        f'<link rel="stylesheet" href="{components}/app.css">'
        f'<script type="module" src="{components}/app.js"></script>'
    )
    chosen = "".join(
        f"<span>{escape(name)}: {escape('All' if value in ('.+', '.*') else value)}</span>"
        for name, value in window.variables.items()
        if not name.startswith("__") and value
    )
    times = " to ".join(datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S") for at in (window.start, window.end))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(board["title"])}</title>'
        f'<style>{_STYLE}</style><header style="top:16px"><b>{escape(board["title"])}</b>{chosen}'
        f"<span>{times} UTC</span></header>{panels}"
        f'<footer style="top:{height(board) - 24}px">{COMPONENTS_CAPTION if components else CAPTION}</footer>'
        f"{script if components else ''}</html>"
    )


def _placed(panel: Json, window: Window, ask: Ask, *, components: bool) -> str:
    place = panel["gridPos"]
    unit = (WIDTH - 2 * MARGIN + GAP) / 24
    left, top = MARGIN + place["x"] * unit, HEAD + place["y"] * (CELL + GAP)
    wide, high = place["w"] * unit - GAP, place["h"] * (CELL + GAP) - GAP
    box = f"left:{left:.0f}px;top:{top}px;width:{wide:.0f}px;height:{high}px"
    title = escape(panel["title"])
    if panel["type"] == "row":
        return f'<div class="heading" style="{box}">{title}</div>'
    drawable = payload(panel, window, ask) if components else None
    if drawable is not None:
        return f'<div style="position:absolute;{box}" data-panel="{escape(json.dumps(drawable))}"></div>'
    if panel["type"] == "stat":
        text, hue = _number(panel, window, ask)
        return (
            f'<div class="panel stat" style="{box};background:{_dimmed(hue)}"><h3>{title}</h3>'
            f'<div class="big">{escape(text)}</div></div>'
        )
    drawn = _DRAWN[panel["type"]](panel, window, ask, (wide - 2, high - _TITLE))
    return f'<div class="panel" style="{box}"><h3>{title}</h3>{drawn or _NOTHING}</div>'


_NOTHING = '<div class="none">No data</div>'


def _dimmed(hue: str) -> str:
    """Return a darker background on which white text is readable."""
    return f"color-mix(in srgb, {hue} 72%, black)" if hue != COLORS["text"] else "#22252b"


def _number(panel: Json, window: Window, ask: Ask) -> tuple[str, str]:
    [target] = panel["targets"]
    found = ask.at_the_end(expression(target, window))
    return mapped(float(found[0]["value"][1]) if found else None, panel["fieldConfig"]["defaults"])


def _trend(panel: Json, window: Window, ask: Ask, size: tuple[float, float]) -> str:
    series, exemplars = [], []
    for target in panel["targets"]:
        expr = expression(target, window)
        series += [Line(legend(target, each["metric"]), _points(each)) for each in ask.over_time(expr)]
        if target.get("exemplar"):
            exemplars += _diamonds(ask.exemplars(expr), window)
    series = [line for line in series if not math.isnan(line.last)]
    if not series:
        return ""
    defaults = panel["fieldConfig"]["defaults"]
    steps = defaults.get("thresholds", {}).get("steps", ()) if "thresholdsStyle" in defaults["custom"] else ()
    rows = _legend(series, defaults)
    shown_rows = 1 + min(len(series), _MOST_LEGEND_ROWS)
    return (
        charts.lines(
            series,
            window,
            (size[0], size[1] - shown_rows * _LEGEND_ROW - 4),
            unit=defaults["unit"],
            stacked=defaults["custom"].get("stacking", {}).get("mode") == "normal",
            limits=[
                (step["value"], COLORS[step["color"]])
                for step in steps
                if step.get("value") is not None and step["color"] != "transparent"
            ],
            exemplars=exemplars,
            ceiling=defaults["custom"].get("axisSoftMax"),
        )
        + rows
    )


def _legend(series: list[Line], defaults: Json) -> str:
    by_last = sorted(enumerate(series), key=lambda each: -each[1].last)
    rows = "".join(
        f'<tr><td><i style="background:{PALETTE[index % len(PALETTE)]}"></i>{escape(line.name)}</td>'
        f"<td>{_value(line.last, defaults)}</td><td>{_value(line.highest, defaults)}</td></tr>"
        for index, line in by_last[:_MOST_LEGEND_ROWS]
    )
    return f'<table class="legend"><tr><th>Name</th><th>Last *</th><th>Max</th></tr>{rows}</table>'


def _value(value: float, defaults: Json) -> str:
    return escape(shown(value, defaults["unit"], defaults.get("decimals")))


def _heat(panel: Json, window: Window, ask: Ask, size: tuple[float, float]) -> str:
    [target] = panel["targets"]
    expr = expression(target, window)
    cumulative = sorted(ask.over_time(expr), key=lambda each: float(each["metric"]["le"]))
    if not cumulative:
        return ""
    by_time: dict[float, list[float]] = {}
    for number, each in enumerate(cumulative):
        for time, value in _points(each):
            by_time.setdefault(time, [0.0] * len(cumulative))[number] = value
    columns = [
        (time, [above - below for above, below in zip(counts, [0.0, *counts], strict=False)])
        for time, counts in sorted(by_time.items())
    ]
    bounds = [each["metric"]["le"] for each in cumulative]
    return charts.heat(bounds, columns, window, size, _diamonds(ask.exemplars(expr), window))


def _spread(panel: Json, window: Window, ask: Ask, size: tuple[float, float]) -> str:
    answers = [each for target in panel["targets"] for each in ask.at_the_end(expression(target, window))]
    values = [value for each in answers if math.isfinite(value := float(each["value"][1]))]
    return charts.spread(values, size, panel["fieldConfig"]["defaults"]["unit"]) if values else ""


def _listing(panel: Json, window: Window, ask: Ask, size: tuple[float, float]) -> str:
    organize = next(each["options"] for each in panel["transformations"] if each["id"] == "organize")
    names, order = organize["renameByName"], organize["indexByName"]
    found = rows(panel, window, ask)
    if not found:
        return ""
    columns = sorted(names, key=order.__getitem__)
    [sort] = panel["options"]["sortBy"]
    by = next(column for column in columns if names[column] == sort["displayName"])
    listed = sorted(found, key=lambda row: _rank(row.get(by)), reverse=sort["desc"])
    fit = int(size[1] / 29) - 1
    head = "".join(f"<th>{escape(names[column])}</th>" for column in columns)
    body = "".join(
        f"<tr>{''.join(_cell(row.get(column), names[column], panel) for column in columns)}</tr>"
        for row in listed[:fit]
    )
    return f'<table class="listing"><tr>{head}</tr>{body}</table>'


def _rank(value: float | None) -> float:
    return -math.inf if value is None or math.isnan(value) else value


def _cell(value: str | float | None, title: str, panel: Json) -> str:
    config = panel["fieldConfig"]
    wanted = next(
        (
            {each["id"]: each["value"] for each in override["properties"]}
            for override in config["overrides"]
            if override["matcher"]["options"] == title
        ),
        {},
    )
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    if value is None or math.isnan(value):
        return "<td>-</td>"
    text = escape(shown(value, wanted.get("unit", config["defaults"]["unit"]), wanted.get("decimals")))
    if "thresholds" not in wanted:
        return f"<td>{text}</td>"
    background = _dimmed(color(value, wanted["thresholds"]["steps"]))
    return f'<td class="colored" style="background:{background}">{text}</td>'


_DRAWN = {"timeseries": _trend, "heatmap": _heat, "histogram": _spread, "table": _listing}


def _points(series: Json) -> list[tuple[float, float]]:
    """Return the points of a series. Infinite values become NaN, which is not drawn."""
    points = ((float(time), float(value)) for time, value in series["values"])
    return [(time, value if math.isfinite(value) else math.nan) for time, value in points]


def _diamonds(found: Results, window: Window) -> list[tuple[float, float]]:
    return [
        (float(each["timestamp"]), float(each["value"]))
        for series in found
        for each in series["exemplars"]
        if window.start <= float(each["timestamp"]) <= window.end
    ]
