"""Pure: what all dashboards share: variables, annotations, links, and panels laid out in rows."""

from collections.abc import Sequence

import attrs
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from exporter.metrics import catalogue as c

from . import promql
from .panels import DATASOURCE, PanelBuilder

TAG = "phonic"

RESTARTS = f"process_start_time_seconds{{{promql.SELECTED}}} * 1000"
VERSIONS = (
    f"max by (version) ({promql.series(c.BUILD_INFO)}) "
    f"unless max by (version) ({promql.series(c.BUILD_INFO)} offset 5m)"
)


@attrs.frozen
class Row:
    """A heading and the panels below it, which fill lines of 24 columns."""

    title: str
    panels: Sequence[PanelBuilder]


def board(
    *,
    uid: str,
    title: str,
    description: str,
    rows: Sequence[Row],
    since: str = "now-1h",
    refresh: str = "30s",
    variables: Sequence[builders.TextBoxVariable] = (),
) -> dashboard.Dashboard:
    """A dashboard; the first row stands without its heading at the top."""
    result = (
        builders.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .time(since, "now")
        .refresh(refresh)
        .links(
            [
                builders.DashboardLink("Phonic")
                .type(dashboard.DashboardLinkType.DASHBOARDS)
                .tags([TAG])
                .as_dropdown(False)
                .include_vars(True)
                .keep_time(True)
            ]
        )
        .variables([*_variables(), *variables])
        .annotations([_annotation("Restarts", RESTARTS, "orange", at_value=True), _version_changes()])
    )
    first, *others = rows
    for panel in first.panels:
        result.with_panel(panel)
    for row in others:
        result.with_row(builders.Row(row.title))
        for panel in row.panels:
            result.with_panel(panel)
    built = result.build()
    for number, placed in enumerate(built.panels or (), start=1):
        placed.id_val = number
    return built


def to_json(built: dashboard.Dashboard) -> str:
    """The dashboard as Grafana imports it; the same bytes for the same dashboard."""
    return JSONEncoder(indent=2, ensure_ascii=False).encode(built) + "\n"


def _variables() -> list[builders.DatasourceVariable | builders.QueryVariable]:
    conversations = c.CONVERSATIONS.sample_name
    return [
        builders.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        _query("job", "Job", f"label_values({c.BUILD_INFO.name}, job)", ".+"),
        _query("instance", "Instance", f'label_values({c.BUILD_INFO.name}{{job=~"$job"}}, instance)', ".+"),
        # `.*` also selects series without the label: --metrics.labels may leave project or agent out.
        _query("project", "Project", f"label_values({conversations}{{{promql.SELECTED}}}, project)", ".*"),
        _query(
            "agent",
            "Agent",
            f'label_values({conversations}{{{promql.SELECTED},project=~"$project"}}, agent)',
            ".*",
        ),
    ]


def _query(name: str, label: str, query: str, every: str) -> builders.QueryVariable:
    return (
        builders.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(query)
        .definition(query)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
        .multi(True)
        .include_all(True)
        .all_value(every)
        .current(dashboard.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _annotation(name: str, expr: str, color: str, *, at_value: bool) -> builders.AnnotationQuery:
    return (
        builders.AnnotationQuery()
        .name(name)
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color(color)
        .expr(expr)
        .step("60s")
        .use_value_for_time(at_value)
        .title_format(name.rstrip("s"))
        .text_format("{{instance}}")
    )


def _version_changes() -> builders.AnnotationQuery:
    return _annotation("New versions", VERSIONS, "blue", at_value=False).text_format("{{version}}")
