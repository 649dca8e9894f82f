"""Pure: converts a panel and its data into the input of `components/app.jsx`, for the panels that it draws."""

import math
from collections.abc import Mapping
from typing import Any

from ..queries import substituted
from .asking import Ask, Window
from .values import legend

Json = Mapping[str, Any]


def expression(target: Json, window: Window) -> str:
    """Return the query with the window's variables. Its own smallest step replaces the rate interval."""
    rate = target.get("interval") or window.variables["__rate_interval"]
    return substituted(target["expr"], {**window.variables, "__rate_interval": rate})


def rows(panel: Json, window: Window, ask: Ask) -> list[dict[str, Any]]:
    """Return the rows of a table, merged by labels, as values by source column."""
    merged: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for target in panel["targets"]:
        for each in ask.at_the_end(expression(target, window)):
            row = merged.setdefault(tuple(sorted(each["metric"].items())), dict(each["metric"]))
            row[f"Value #{target['refId']}"] = float(each["value"][1])
    return list(merged.values())


def payload(panel: Json, window: Window, ask: Ask) -> dict[str, Any] | None:
    """Return the input, or None without data or for a kind of panel without a component."""
    made = _MADE.get(panel["type"])
    content = made(panel, window, ask) if made else None
    if content is None:
        return None
    return {"panel": {key: panel[key] for key in ("title", "type", "options", "fieldConfig")}, **content}


def _number(panel: Json, window: Window, ask: Ask) -> Json:
    [target] = panel["targets"]
    found = ask.at_the_end(expression(target, window))
    return {"value": _finite(found[0]["value"][1]) if found else None}


def _trend(panel: Json, window: Window, ask: Ask) -> Json | None:
    series = [
        {
            "name": legend(target, each["metric"]),
            "times": [1000 * float(time) for time, _ in each["values"]],
            "values": [_finite(value) for _, value in each["values"]],
        }
        for target in panel["targets"]
        for each in ask.over_time(expression(target, window))
    ]
    series = [each for each in series if any(value is not None for value in each["values"])]
    return {"range": [1000 * window.start, 1000 * window.end], "series": series} if series else None


def _listing(panel: Json, window: Window, ask: Ask) -> Json | None:
    found = rows(panel, window, ask)
    organize = next(each["options"] for each in panel["transformations"] if each["id"] == "organize")
    names, order = organize["renameByName"], organize["indexByName"]
    columns = [
        {
            "title": names[source],
            "kind": "number" if source.startswith("Value #") else "string",
            "values": [_cell(row.get(source)) for row in found],
        }
        for source in sorted(names, key=order.__getitem__)
    ]
    return {"columns": columns} if found else None


def _cell(value: str | float | None) -> str | float | None:
    return value if value is None or isinstance(value, str) else _finite(value)


def _finite(value: str | float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


_MADE = {"stat": _number, "timeseries": _trend, "table": _listing}
