"""Generated files: committed as they are generated, and the dashboards complete, readable and in step."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dashboards import files, queries
from dashboards.alerts import alerting, alerts
from dashboards.boards import BOARDS
from dashboards.promql import bound
from dashboards.slo import PATH, Slo, load
from exporter.metrics.catalog import CATALOG, RESPONSE, Kind, Scope
from tests.unit.promql_reading import family_of, problems, selectors

SLO = load()
ROOT = Path(files.__file__).parent
RENDERED = files.render(SLO)
LOADED: dict[str, dict[str, Any]] = {name: json.loads(RENDERED[f"grafana/{name}.json"]) for name in BOARDS}
EVERY_BOARD = pytest.mark.parametrize("board", LOADED.values(), ids=LOADED)
PANELS = [
    pytest.param(panel, id=f"{name}-{panel['title']}")
    for name, board in LOADED.items()
    for panel in queries.panels(board)
]
EVERY_PANEL = pytest.mark.parametrize("panel", PANELS)


@pytest.mark.parametrize("name", RENDERED)
def test_committed_file_is_what_is_generated(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == RENDERED[name], "run `make dashboards`"


def test_nothing_generated_is_left_behind() -> None:
    kept = {
        str(path.relative_to(ROOT))
        for folder in ("prometheus", "grafana", "grafana-v2", "alertmanager", "provisioning")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    }
    assert kept - set(RENDERED) == {"grafana/.lint"}


def test_same_input_gives_same_bytes() -> None:
    assert files.render(load()) == RENDERED


def test_one_change_of_the_objective_reaches_rules_and_dashboards() -> None:
    changed = Slo.parse(PATH.read_text(encoding="utf-8").replace("threshold_seconds: 1.5", "threshold_seconds: 2"))
    rendered = files.render(changed)
    for name in ("prometheus/recording.yml", "grafana/overview.json", "grafana/latency.json"):
        assert (
            f"le={json.dumps(bound(2)) if name.endswith('yml') else chr(92) + chr(34) + '2.0'}" in rendered[name]
        )
        assert 'le="1.5"' not in rendered[name].replace("\\", "")


def test_cost_is_shown_where_a_price_is_known() -> None:
    """A tile and a column, in the currency of slo.yml."""
    text = PATH.read_text(encoding="utf-8")
    priced = Slo.parse(text.replace("price_per_minute: 0, currency: USD", "price_per_minute: 0.12, currency: EUR"))
    overview = json.loads(files.render(priced)["grafana/overview.json"])
    asked = {q.panel: q.expr for q in queries.panel_queries(overview) if q.unit == "currencyEUR"}
    assert set(asked) == {"Cost an hour", "Agents, the slowest first"}
    assert all(expr.startswith("0.12 * ") and problems(expr, priced) == [] for expr in asked.values())
    assert not any(q.unit.startswith("currency") for q in queries.panel_queries(LOADED["overview"]))
    test_panels_lie_on_the_grid_without_overlap_or_gap(overview)


def test_ids_of_live_calls_lead_to_the_page_of_the_call() -> None:
    [table] = [panel for panel in queries.panels(LOADED["live"]) if panel["type"] == "table"]
    [links] = [
        wanted["value"]
        for override in table["fieldConfig"]["overrides"]
        for wanted in override["properties"]
        if wanted["id"] == "links"
    ]
    assert links[0]["url"] == f"{SLO.links.exporter}/conversations/${{__value.raw}}"


@EVERY_BOARD
def test_panels_lie_on_the_grid_without_overlap_or_gap(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells
    assert len(taken) == 24 * (1 + max(y for _, y in taken)), "a line of panels is not full"


@EVERY_BOARD
def test_panel_ids_are_unique_and_titles_too_within_a_dashboard(board: dict[str, Any]) -> None:
    for key in ("id", "title"):
        values = [panel[key] for panel in board["panels"] if panel["type"] != "row"]
        assert len(values) == len(set(values))


def test_dashboards_have_stable_uids_that_the_links_use() -> None:
    assert {board["uid"] for board in LOADED.values()} == {f"phonic-{name}" for name in BOARDS}
    for text in RENDERED.values():
        for uid in re.findall(r"/d/([a-z-]+)", text):
            assert uid.removeprefix("phonic-") in BOARDS


@EVERY_BOARD
def test_dashboards_link_to_each_other_and_keep_time_and_variables(board: dict[str, Any]) -> None:
    [link] = board["links"]
    assert (link["type"], link["tags"]) == ("dashboards", ["phonic"])
    assert link["includeVars"]
    assert link["keepTime"]
    assert board["tags"] == link["tags"]
    assert board["graphTooltip"] == 1


@EVERY_BOARD
def test_restarts_and_new_versions_are_marked(board: dict[str, Any]) -> None:
    expressions = [annotation["expr"] for annotation in board["annotations"]["list"]]
    assert any("process_start_time_seconds" in expr for expr in expressions)
    assert any("phonic_exporter_build_info" in expr for expr in expressions)
    for expr in expressions:
        assert problems(queries.substituted(expr), SLO) == []


@EVERY_BOARD
def test_queries_name_only_metrics_and_labels_that_exist(board: dict[str, Any]) -> None:
    for query in queries.panel_queries(board):
        assert problems(query.expr, SLO) == [], query.panel


@EVERY_PANEL
def test_legends_are_tables_with_last_and_max(panel: dict[str, Any]) -> None:
    if panel["type"] == "timeseries":
        legend = panel["options"]["legend"]
        assert (legend["displayMode"], legend["showLegend"]) == ("table", True)
        assert legend["calcs"] == ["lastNotNull", "max"]


@EVERY_PANEL
def test_descriptions_are_sentences(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert len(panel["description"]) > 20


@EVERY_PANEL
def test_a_number_is_about_now_and_says_when_there_is_none(panel: dict[str, Any]) -> None:
    if panel["type"] == "stat":
        [target] = panel["targets"]
        assert target["instant"]
        assert panel["fieldConfig"]["defaults"]["noValue"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]


@EVERY_PANEL
def test_series_by_agent_or_conversation_are_bounded(panel: dict[str, Any]) -> None:
    if panel["type"] == "timeseries":
        for target in panel["targets"]:
            if "{{agent}}" in target["legendFormat"] or "{{conversation_id}}" in target["legendFormat"]:
                assert target["expr"].startswith("topk(10, ")


def test_latency_panels_show_exemplars() -> None:
    latencies = {f.name for f in CATALOG if f.kind is Kind.HISTOGRAM and f.buckets == RESPONSE.buckets}
    for name in ("overview", "latency", "tools"):
        for panel in queries.panels(LOADED[name]):
            if panel["type"] in ("heatmap", "timeseries") and any(
                selector.name.removesuffix("_bucket") in latencies
                for target in panel["targets"]
                if "quantile" in target["expr"] or panel["type"] == "heatmap"
                for selector in selectors(queries.substituted(target["expr"]))
            ):
                assert any(target["exemplar"] for target in panel["targets"]), panel["title"]


def test_objective_is_drawn_where_responses_are() -> None:
    for name in ("overview", "latency"):
        steps = [
            step["value"]
            for panel in queries.panels(LOADED[name])
            for step in panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", ())
        ]
        assert SLO.response.threshold_seconds in steps


@pytest.mark.parametrize(
    "family",
    [f for f in CATALOG if f.scope in (Scope.CONVERSATIONS, Scope.LIVE)],
    ids=lambda family: family.name,
)
def test_every_family_about_conversations_is_shown_or_alerted_on(family: Any) -> None:
    assert family in {family_of(name) for name in asked()}


@cache
def asked() -> set[str]:
    """The series that dashboards and alerts read."""
    expressions = [query.expr for board in LOADED.values() for query in queries.panel_queries(board)]
    expressions += [alert.expr for alert in alerts(SLO)]
    return {selector.name for expr in expressions for selector in selectors(expr)}


def test_every_alert_is_in_exactly_one_group() -> None:
    names = [rule["alert"] for group in alerting(SLO)["groups"] for rule in group["rules"]]
    assert sorted(names) == sorted(alert.name for alert in alerts(SLO))


def test_columns_are_found_by_the_query_that_fills_them() -> None:
    found = {(q.panel, q.unit) for q in queries.panel_queries(LOADED["live"]) if q.kind == "table"}
    assert {unit for _, unit in found} == {"s", "dthms", "short"}


def test_a_variable_that_is_not_given_is_an_error() -> None:
    with pytest.raises(KeyError):
        queries.substituted('up{job=~"$unknown"}')
