"""Pure: the kinds of panels, each with a fixed style.

Rules for this file:

- Every panel has a title, a description, a unit and a data source. - Every legend is a table with last and max. -
A stat shows the current value (an instant query), never an old one. - Green means fine, orange look, red act. If
an alert uses the same expression, red begins at its threshold, and the
  panel uses its window.
- A quantile beyond the last boundary of a histogram is marked as such.
"""

from collections.abc import Sequence

import attrs

from .model import Json, Panel, Query

GREEN, ORANGE, RED, BLUE, GREY = "green", "orange", "red", "blue", "text"

Steps = Sequence[tuple[float | None, str]]
"""Lower bounds with their colours; the first bound is None."""

# Window of the quantiles in stats: shorter ones would be noise for an agent with few calls.
NOW = "5m"


@attrs.frozen(kw_only=True)
class Column:
    """A column of a table: the result of a query, or a label if ``expr`` is empty.

    ``link`` is its place on a dashboard, ``page`` the page of the exporter about it.
    """

    title: str
    expr: str = ""
    label: str = ""
    unit: str = "short"
    steps: Steps = ()
    decimals: int | None = None
    link: str = ""
    page: str = ""
    width: int | None = None
    names: dict[str, tuple[str, str]] = attrs.Factory(dict)
    capped: float | None = None


# Smallest maximum of the axis: if all values are 0, Grafana's axis would reach 100, or 10000 % for a share.
_AT_LEAST = {"percentunit": 0.05, "cpm": 1.0, "cps": 1.0}


def thresholds(steps: Steps) -> Json:
    """Return absolute thresholds."""
    return {"mode": "absolute", "steps": [{"value": _rounded(value), "color": color} for value, color in steps]}


def rising(orange: float, red: float) -> Steps:
    """Return thresholds for a value that is worse if higher."""
    return ((None, GREEN), (orange, ORANGE), (red, RED))


def falling(red_below: float, green_from: float) -> Steps:
    """Return thresholds for a value that is worse if lower."""
    return ((None, RED), (red_below, ORANGE), (green_from, GREEN))


def number(
    title: str,
    description: str,
    expr: str,
    unit: str,
    *,
    steps: Steps = ((None, BLUE),),
    width: int = 3,
    empty: str = "no data",
    decimals: int | None = None,
    names: dict[str, tuple[str, str]] | None = None,
    capped: float | None = None,
) -> Panel:
    """A coloured number. ``names`` maps values to a text and a colour; NaN and absence are shown as ``empty``.

    ``capped`` is the last boundary in seconds of the histogram whose quantile is shown.
    """
    return Panel(
        kind="stat",
        title=title,
        description=description,
        width=width,
        height=4,
        queries=(Query(expr, title, instant=True, interval=NOW),),
        options={
            "graphMode": "none",
            "colorMode": "background",
            "justifyMode": "auto",
            "textMode": "auto",
            "wideLayout": True,
            "showPercentChange": False,
            "percentChangeColorMode": "standard",
            "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"]},
        },
        defaults={
            "unit": unit,
            "noValue": empty,
            "color": {"mode": "thresholds"},
            "mappings": [_nan(empty), *([_named(names)] if names else []), *_capped(capped)],
            "thresholds": thresholds(steps),
            **_decimals(decimals),
        },
    )


def trend(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 12,
    steps: Steps = (),
    stacked: bool = False,
    ceiling: float | None = None,
    decimals: int | None = None,
    capped: float | None = None,
) -> Panel:
    """Lines over time, or stacked areas. ``steps`` (objectives, limits) are drawn as dashed lines."""
    if ceiling is None:
        ceiling = _AT_LEAST.get(unit)
    custom: Json = {
        "lineWidth": 1,
        "fillOpacity": 40 if stacked else 5,
        "showPoints": "auto",
        **({"stacking": {"mode": "normal", "group": "A"}} if stacked else {}),
        **({"thresholdsStyle": {"mode": "dashed"}} if steps else {}),
        **({"axisSoftMax": ceiling} if ceiling is not None else {}),
    }
    return Panel(
        kind="timeseries",
        title=title,
        description=description,
        width=width,
        height=8,
        queries=queries,
        options={
            "legend": {
                "displayMode": "table",
                "placement": "bottom",
                "showLegend": True,
                "calcs": ["lastNotNull", "max"],
                "sortBy": "Last *",
                "sortDesc": True,
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        defaults={
            "unit": unit,
            "min": 0,
            "color": {"mode": "palette-classic-by-name"},
            "custom": custom,
            **({"thresholds": thresholds(steps)} if steps else {}),
            **({"mappings": _capped(capped)} if capped else {}),
            **_decimals(decimals),
        },
    )


def heat(title: str, description: str, expr: str, *, width: int = 12) -> Panel:
    """A heatmap of a latency histogram in seconds, with exemplars as diamonds that link to their conversation."""
    return Panel(
        kind="heatmap",
        title=title,
        description=description,
        width=width,
        height=8,
        queries=(Query(expr, "{{le}}", exemplar=True, shape="heatmap"),),
        options={
            "calculate": False,
            "cellGap": 1,
            "color": {
                "mode": "scheme",
                "scheme": "Oranges",
                "fill": "",
                "scale": "exponential",
                "exponent": 0.5,
                "steps": 64,
                "reverse": False,
            },
            "exemplars": {"color": "rgba(31, 96, 196, 0.9)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "selectionMode": "x",
            "showValue": "auto",
            "tooltip": {"mode": "single", "yHistogram": True},
            "yAxis": {"unit": "s", "axisPlacement": "left"},
        },
        defaults={"unit": "short", "custom": {}},
    )


def spread(title: str, description: str, expr: str, unit: str, *, width: int = 8) -> Panel:
    """A histogram of the current values of many series."""
    return Panel(
        kind="histogram",
        title=title,
        description=description,
        width=width,
        height=8,
        queries=(Query(expr, title, instant=True),),
        options={
            "bucketCount": 30,
            "bucketOffset": 0,
            "combine": True,
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
            "tooltip": {"mode": "single", "sort": "asc"},
        },
        defaults={
            "unit": unit,
            "color": {"mode": "fixed", "fixedColor": BLUE},
            "custom": {"lineWidth": 1, "fillOpacity": 80, "gradientMode": "none"},
        },
    )


def listing(
    title: str,
    description: str,
    columns: Sequence[Column],
    *,
    sort: str,
    height: int = 10,
    width: int = 24,
    empty: str = "-",
    hidden: Sequence[str] = (),
) -> Panel:
    """A table with a row for each combination of the label columns, sorted by ``sort``, without ``hidden``."""
    measured = [column for column in columns if column.expr]
    sources = {column.title: column.label for column in columns if column.label}
    # With several queries Grafana names each value column after its query.
    sources |= {column.title: f"Value #{ref}" for ref, column in zip(_REFS, measured, strict=False)}
    return Panel(
        kind="table",
        title=title,
        description=description,
        width=width,
        height=height,
        queries=tuple(Query(column.expr, column.title, instant=True, shape="table") for column in measured),
        options={
            "frameIndex": 0,
            "showHeader": True,
            "cellHeight": "sm",
            "sortBy": [{"displayName": sort, "desc": True}],
        },
        defaults={
            "unit": "short",
            "noValue": empty,
            "mappings": [_nan("-", "transparent")],
            # With the default minimum of 150 pixels the last of ten columns would be out of view.
            "custom": {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False, "minWidth": 70},
        },
        overrides=tuple(
            {"matcher": {"id": "byName", "options": column.title}, "properties": _properties(column)}
            for column in columns
        ),
        transformations=(
            ("merge", {}),
            (
                "organize",
                {
                    "excludeByName": dict.fromkeys(("Time", *hidden), True),
                    "indexByName": {sources[column.title]: index for index, column in enumerate(columns)},
                    "renameByName": {sources[column.title]: column.title for column in columns},
                },
            ),
        ),
    )


def _properties(column: Column) -> list[Json]:
    properties: Json = {"unit": column.unit if column.expr else "string", **_decimals(column.decimals)}
    if column.width is not None:
        properties["custom.width"] = column.width
    if column.steps:
        properties["thresholds"] = thresholds(column.steps)
        properties["custom.cellOptions"] = {"type": "color-background", "mode": "basic"}
    if column.names:
        properties["mappings"] = [_named(column.names)]
        properties["custom.cellOptions"] = {"type": "color-background", "mode": "basic"}
    if column.capped:
        properties["mappings"] = [_nan("-", "transparent"), *_capped(column.capped)]
    links = [
        *([{"title": f"{column.title} turn by turn", "url": column.page}] if column.page else []),
        *([{"title": f"Open {column.title.lower()}", "url": column.link}] if column.link else []),
    ]
    if links:
        properties["links"] = links
    return [{"id": name, "value": value} for name, value in properties.items()]


_REFS = "ABCDEFGHIJKL"


def _decimals(decimals: int | None) -> Json:
    return {} if decimals is None else {"decimals": decimals}


def _rounded(value: float | None) -> float | None:
    """Round away floating-point errors, as of 1 - 0.95."""
    return None if value is None else float(f"{value:.12g}")


def _nan(text: str, color: str = GREY) -> Json:
    return {"type": "special", "options": {"match": "null+nan", "result": {"text": text, "color": color}}}


def _capped(last: float | None) -> list[Json]:
    """Map the last boundary to a text: quantiles beyond it have that value, which would look measured."""
    if last is None:
        return []
    return [{"type": "value", "options": {f"{last:g}": {"text": f"≥ {last:g} s"}}}]


def _named(names: dict[str, tuple[str, str]]) -> Json:
    return {
        "type": "value",
        "options": {value: {"text": text, "color": hue} for value, (text, hue) in names.items()},
    }
