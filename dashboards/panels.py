"""Pure: the few kinds of panel the dashboards are made of, each with one look.

Rules for this file: no panel without title, description, unit and data source; every legend is a table with last
and max; a stat shows now (an instant query), never the last value that once was; colours mean green fine, orange
look, red act.
"""

from collections.abc import Sequence
from typing import Any

import attrs
from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as dashboard_builders
from grafana_foundation_sdk.builders import heatmap as heatmap_builders
from grafana_foundation_sdk.builders import histogram as histogram_builders
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.builders import table as table_builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common, dashboard, heatmap
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, ORANGE, RED, BLUE, GREY = "green", "orange", "red", "blue", "text"

Steps = Sequence[tuple[float | None, str]]
"""Lower bounds and their colours; the first bound is None."""

PanelBuilder = Builder[dashboard.Panel]

# A stat is about now, but a p95 of the last few seconds of a quiet agent is noise.
NOW = "5m"


@attrs.frozen
class Query:
    """One query of a panel and the name of its series."""

    expr: str
    legend: str
    exemplar: bool = False


@attrs.frozen(kw_only=True)
class Column:
    """One column of a table: a query, or with an empty ``expr`` a label, shown under ``title``."""

    title: str
    expr: str = ""
    label: str = ""
    unit: str = "short"
    steps: Steps = ()
    decimals: int | None = None
    link: str = ""
    width: int | None = None


def thresholds(steps: Steps) -> dashboard_builders.ThresholdsConfig:
    """Absolute thresholds."""
    return (
        dashboard_builders.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([dashboard.Threshold(value=value, color=color) for value, color in steps])
    )


def rising(orange: float, red: float) -> Steps:
    """The more the worse."""
    return ((None, GREEN), (orange, ORANGE), (red, RED))


def falling(red_below: float, green_from: float) -> Steps:
    """The less the worse."""
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
) -> PanelBuilder:
    """One coloured number. ``names`` maps values to a text and a colour; NaN and absence read as ``empty``."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .span(width)
        .height(4)
        .unit(unit)
        .no_value(empty)
        .thresholds(thresholds(steps))
        .color_scheme(dashboard_builders.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
        .color_mode(common.BigValueColorMode.BACKGROUND)
        .graph_mode(common.BigValueGraphMode.NONE)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
        .mappings([_nan(empty), *([_named(names)] if names else [])])
        .with_target(_target(Query(expr, title), "A").instant().interval(NOW))
    )
    return panel.decimals(decimals) if decimals is not None else panel


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
) -> PanelBuilder:
    """Lines over time, or stacked areas. ``steps`` are drawn as dashed lines: objectives and limits."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .span(width)
        .height(8)
        .unit(unit)
        .min(0)
        .color_scheme(dashboard_builders.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .line_width(1)
        .fill_opacity(40 if stacked else 5)
        .show_points(common.VisibilityMode.AUTO)
        .tooltip(
            common_builders.VizTooltipOptions()
            .mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
        .legend(
            common_builders.VizLegendOptions()
            .show_legend(True)
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "max"])
            .sort_by("Last *")
            .sort_desc(True)
        )
    )
    if stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if steps:
        panel.thresholds(thresholds(steps)).thresholds_style(
            common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        )
    if ceiling is not None:
        panel.axis_soft_max(ceiling)
    if decimals is not None:
        panel.decimals(decimals)
    for ref, query in zip(_REFS, queries, strict=False):
        panel.with_target(_target(query, ref).range())
    return panel


def heat(title: str, description: str, expr: str, *, width: int = 12) -> PanelBuilder:
    """Heatmap of a latency histogram in seconds, exemplars as diamonds that lead to the conversation."""
    return (
        heatmap_builders.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .span(width)
        .height(8)
        .unit("short")
        .calculate(False)
        .cell_gap(1)
        .color(
            heatmap_builders.HeatmapColorOptions()
            .mode(heatmap.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .scale(heatmap.HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
        )
        .filter_values(heatmap_builders.FilterValueRange().le(1e-9))
        .y_axis(heatmap_builders.YAxisConfig().unit("s").axis_placement(common.AxisPlacement.LEFT))
        .tooltip(heatmap_builders.HeatmapTooltip().mode(common.TooltipDisplayMode.SINGLE).y_histogram(True))
        .show_legend()
        .exemplars_color("rgba(31, 96, 196, 0.9)")
        .with_target(_target(Query(expr, "{{le}}", exemplar=True), "A").range().format(PromQueryFormat.HEATMAP))
    )


def spread(title: str, description: str, expr: str, unit: str, *, width: int = 8) -> PanelBuilder:
    """How the values of many series are distributed right now."""
    return (
        histogram_builders.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .span(width)
        .height(8)
        .unit(unit)
        .combine(True)
        .color_scheme(dashboard_builders.FieldColor().mode(dashboard.FieldColorModeId.FIXED).fixed_color(BLUE))
        .legend(common_builders.VizLegendOptions().show_legend(False))
        .with_target(_target(Query(expr, title), "A").instant())
    )


def listing(
    title: str, description: str, columns: Sequence[Column], *, sort: str, height: int = 10
) -> PanelBuilder:
    """Table over the full width: one row for each combination of the label columns, sorted by ``sort``."""
    panel = (
        table_builders.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .span(24)
        .height(height)
        .unit("short")
        .no_value("-")
        .mappings([_nan("-")])
        .cell_height(common.TableCellHeight.SM)
        .sort_by([common_builders.TableSortByFieldState().display_name(sort).desc(True)])
    )
    measured = [column for column in columns if column.expr]
    names = {column.label: column.title for column in columns if column.label}
    for ref, column in zip(_REFS, measured, strict=False):
        panel.with_target(_target(Query(column.expr, column.title), ref).instant().format(PromQueryFormat.TABLE))
        # A single query yields a column called Value, several yield one called by its query each.
        names[f"Value #{ref}"] = column.title
    panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        dashboard.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True},
                "indexByName": {
                    next(source for source, title in names.items() if title == column.title): index
                    for index, column in enumerate(columns)
                },
                "renameByName": names,
            },
        )
    )
    for column in columns:
        panel.override_by_name(column.title, _properties(column))
    return panel


def _properties(column: Column) -> list[dashboard.DynamicConfigValue]:
    properties: list[tuple[str, Any]] = [("unit", column.unit)] if column.expr else [("unit", "string")]
    if column.decimals is not None:
        properties.append(("decimals", column.decimals))
    if column.width is not None:
        properties.append(("custom.width", column.width))
    if column.steps:
        properties += [
            ("thresholds", thresholds(column.steps).build()),
            ("custom.cellOptions", {"type": "color-background", "mode": "basic"}),
        ]
    if column.link:
        properties.append(("links", [{"title": f"Open {column.title.lower()}", "url": column.link}]))
    return [dashboard.DynamicConfigValue(id_val=name, value=value) for name, value in properties]


_REFS = "ABCDEFGHIJ"


def _target(query: Query, ref: str) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .datasource(DATASOURCE)
        .expr(query.expr)
        .legend_format(query.legend)
        .exemplar(query.exemplar)
        .ref_id(ref)
    )


def _nan(text: str) -> dashboard.ValueMapping:
    return dashboard.SpecialValueMap(
        options=dashboard.DashboardSpecialValueMapOptions(
            match=dashboard.SpecialValueMatch.NULL_AND_NAN,
            result=dashboard.ValueMappingResult(text=text, color=GREY),
        )
    )


def _named(names: dict[str, tuple[str, str]]) -> dashboard.ValueMapping:
    return dashboard.ValueMap(
        options={
            value: dashboard.ValueMappingResult(text=text, color=color) for value, (text, color) in names.items()
        }
    )
