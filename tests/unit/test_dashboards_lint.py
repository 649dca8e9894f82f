"""The rules of grafana/dashboard-linter under their own names, stricter where its code overlooks something.

Extended: rules about panels and targets hold for every kind of panel, units must be the panel's default, rate
intervals are asked of ``increase`` too, and counters are recognised by the catalog. Exceptions are in ``.lint``.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from dashboards import queries
from dashboards.boards import BOARDS
from exporter.metrics.catalog import Kind
from tests.unit.promql_reading import family_of, selectors
from tests.unit.test_dashboards import LOADED, ROOT, SLO

Board = dict[str, Any]
Problems = Iterator[str]

# Units of Grafana that these dashboards use; a misspelt one would be shown as text behind the number.
UNITS = {"s", "dthms", "short", "percentunit", "bytes", "Bps", "cps", "cpm"}
WINDOWS = {
    SLO.burn.fast.windows[0].long,
    *(
        getattr(SLO.alerts, name).window
        for name in ("callers_giving_up", "error_endings", "tool_failures", "conversations_lost")
    ),
}
EXCLUSIONS = yaml.safe_load((ROOT / "grafana/.lint").read_text(encoding="utf-8"))["exclusions"]


def _variable(board: Board, name: str) -> Any:
    return next(v for v in board["templating"]["list"] if v["name"] == name)


def _targets(board: Board) -> Iterator[tuple[Any, Any]]:
    return ((panel, target) for panel in queries.panels(board) for target in panel["targets"])


def _query_variables(board: Board) -> list[Any]:
    return [v for v in board["templating"]["list"] if v["type"] == "query"]


def template_datasource_rule(board: Board) -> Problems:
    variable = _variable(board, "datasource")
    if (variable["type"], variable["label"], variable["query"]) != ("datasource", "Data source", "prometheus"):
        yield "datasource variable"


def _target_variable(board: Board, name: str) -> Problems:
    variable = _variable(board, name)
    wanted = {"type": "query", "multi": True, "includeAll": True, "allValue": ".+", "label": name.capitalize()}
    yield from (f"{name}.{key}" for key, value in wanted.items() if variable[key] != value)
    if variable["datasource"]["uid"] != "${datasource}":
        yield f"{name}.datasource"


def template_job_rule(board: Board) -> Problems:
    yield from _target_variable(board, "job")


def template_instance_rule(board: Board) -> Problems:
    yield from _target_variable(board, "instance")


def template_label_promql_rule(board: Board) -> Problems:
    for variable in _query_variables(board):
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
        if match is None:
            yield variable["name"]
        else:
            [selector] = selectors(queries.substituted(match[1]))
            names = selector.matchers.get("__name__", "").removeprefix("=~").split("|")
            for name in [selector.name] if selector.name else names:
                if family_of(name) is None:
                    yield f"{variable['name']} reads {name}"


def template_on_time_change_reload_rule(board: Board) -> Problems:
    yield from (v["name"] for v in _query_variables(board) if v["refresh"] != 2)


def panel_datasource_rule(board: Board) -> Problems:
    wanted = {"type": "prometheus", "uid": "${datasource}"}
    for panel, target in _targets(board):
        if panel["datasource"] != wanted or target["datasource"] != wanted:
            yield panel["title"]


def panel_title_description_rule(board: Board) -> Problems:
    yield from (str(p["id"]) for p in queries.panels(board) if not (p.get("title") and p.get("description")))


def panel_no_targets_rule(board: Board) -> Problems:
    yield from (p["title"] for p in queries.panels(board) if not p.get("targets"))


def panel_units_rule(board: Board) -> Problems:
    for panel in queries.panels(board):
        units = {panel["fieldConfig"]["defaults"]["unit"]} | {
            value["value"]
            for override in panel["fieldConfig"]["overrides"]
            for value in override["properties"]
            if value["id"] == "unit"
        }
        if panel["type"] == "heatmap":
            units.add(panel["options"]["yAxis"]["unit"])
        yield from (f"{panel['title']}: {unit}" for unit in units - UNITS - {"string"})


def target_promql_rule(board: Board) -> Problems:
    for query in queries.panel_queries(board):
        try:
            promql_parser.parse(query.expr)
        except ValueError as exc:
            yield f"{query.panel}: {exc}"


def target_rate_interval_rule(board: Board) -> Problems:
    """Rates over $__rate_interval; an increase may span $__range where a table sums up the whole time range.

    Or where it only selects what happened within that at all. What an alert looks at is shown over its window.
    """
    for panel, target in _targets(board):
        for function, window in re.findall(r"\b(i?rate|increase)\([^()]*\[([^\]]+)\]\)", target["expr"]):
            selects = re.search(
                r" and sum by \(\w+\) \((max without \(instance, pod\) \()?increase\([^()]*\[\$__range\]\)+ > 0$",
                target["expr"],
            )
            whole = function == "increase" and window == "$__range" and (panel["type"] == "table" or selects)
            if window not in {"$__rate_interval", *WINDOWS} and not whole:
                yield f"{panel['title']}: {function}[{window}]"


def _selects(board: Board, label: str) -> Problems:
    for panel, target in _targets(board):
        marked = {**queries.EVERYTHING, label: "@@"}
        for selector in selectors(queries.substituted(target["expr"], marked)):
            if selector.matchers.get(label) != "=~@@":
                yield panel["title"]


def target_job_rule(board: Board) -> Problems:
    yield from _selects(board, "job")


def target_instance_rule(board: Board) -> Problems:
    yield from _selects(board, "instance")


def target_counter_agg_rule(board: Board) -> Problems:
    for query in queries.panel_queries(board):
        for selector in selectors(query.expr):
            family = family_of(selector.name)
            counts = family is not None and family.kind is not Kind.GAUGE
            if (counts or selector.name.endswith("_total")) and not (
                {"rate", "irate", "increase"} & set(selector.functions)
            ):
                yield f"{query.panel}: {selector.name}"


def target_logql_rule(board: Board) -> Problems:
    """Only for Loki, which these dashboards do not use."""
    yield from (p["title"] for p, t in _targets(board) if t["datasource"]["type"] == "loki")


def target_logql_auto_rule(board: Board) -> Problems:
    """Only for Loki: its queries would need [$__auto]."""
    yield from (p["title"] for p, t in _targets(board) if "$__auto" in t["expr"])


def uneditable_dashboard(board: Board) -> Problems:
    if board["editable"]:
        yield "editable"


RULES: dict[str, Callable[[Board], Problems]] = {
    "template-datasource-rule": template_datasource_rule,
    "template-job-rule": template_job_rule,
    "template-instance-rule": template_instance_rule,
    "template-label-promql-rule": template_label_promql_rule,
    "template-on-time-change-reload-rule": template_on_time_change_reload_rule,
    "panel-datasource-rule": panel_datasource_rule,
    "panel-title-description-rule": panel_title_description_rule,
    "panel-no-targets-rule": panel_no_targets_rule,
    "panel-units-rule": panel_units_rule,
    "target-promql-rule": target_promql_rule,
    "target-rate-interval-rule": target_rate_interval_rule,
    "target-job-rule": target_job_rule,
    "target-instance-rule": target_instance_rule,
    "target-counter-agg-rule": target_counter_agg_rule,
    "target-logql-rule": target_logql_rule,
    "target-logql-auto-rule": target_logql_auto_rule,
    "uneditable-dashboard": uneditable_dashboard,
}


def excluded(rule: str, board: Board) -> set[str]:
    return {
        entry["panel"]
        for entry in EXCLUSIONS.get(rule, {}).get("entries", ())
        if entry["dashboard"] == board["title"]
    }


@pytest.mark.parametrize("name", BOARDS)
@pytest.mark.parametrize("rule", RULES)
def test_dashboard_passes(rule: str, name: str) -> None:
    board = LOADED[name]
    assert set(RULES[rule](board)) == excluded(rule, board)


def test_exceptions_have_a_reason_and_name_a_rule() -> None:
    for rule, exception in EXCLUSIONS.items():
        assert rule in RULES
        assert exception["reason"].endswith(".")
