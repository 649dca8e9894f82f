"""Recording rules and alerts: they name what exists, explain themselves, and each has promtool tests."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import files
from dashboards.alerts import Alert, alerting, alerts
from dashboards.boards import BOARDS
from dashboards.rules import indicators, recording
from dashboards.slo import SEVERITIES, load, seconds
from exporter.metrics import catalog
from exporter.metrics.catalog import Scope
from tests.unit.promql_reading import family_of, labels, problems, selectors

SLO = load()
ROOT = Path(files.__file__).parent
RUNBOOK = (ROOT / "RUNBOOK.md").read_text(encoding="utf-8")
ALERTS = pytest.mark.parametrize("alert", alerts(SLO), ids=lambda alert: alert.name)
RECORDED = [(group, rule) for group in recording(SLO)["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("rule", [rule for _, rule in RECORDED], ids=lambda rule: rule["record"])
def test_recording_rules_follow_the_naming_and_aggregate_without_targets(rule: dict[str, str]) -> None:
    assert re.fullmatch(r"agent_project:phonic_[a-z_]+:(ratio_)?rate\d+[mhd]", rule["record"])
    assert problems(rule["expr"], SLO) == []
    if rule["record"].count(":ratio") == 0:
        assert rule["expr"].startswith("sum without (shard) (max without (instance, pod) (")


ADDS_UP = re.compile(r"\b(?:sum|count) (?:without|by) \([^)]*\) \(")
COMPARES = re.compile(r"\s*max (?:without \(instance, pod\)|by \([^)]*\))")
# What a process says of itself alone.
OF_ITSELF = {catalog.SHARD_HELD.name, catalog.SHARD_EPOCH.name, catalog.LEASE_LOSSES.sample_name}


@pytest.mark.parametrize(
    "expr",
    [*(rule["expr"] for _, rule in RECORDED if "ratio" not in rule["record"]), *(a.expr for a in alerts(SLO))],
)
def test_what_exporters_of_the_same_conversations_say_is_never_added_up(expr: str) -> None:
    """A sum is of one exporter (it keeps ``instance``), or of what is left after their numbers were compared."""
    for match in ADDS_UP.finditer(expr):
        grouping = match[0]
        keeps_instance = "without" in grouping and "instance" not in grouping
        keeps_instance |= "by" in grouping and "instance" in grouping
        follows = expr[match.end() :]
        [counted, *_] = re.findall(r"\bphonic_\w+", follows)
        assert keeps_instance or COMPARES.match(follows) or counted in OF_ITSELF, expr


@pytest.mark.parametrize(
    "expr",
    [*(rule["expr"] for _, rule in RECORDED if "ratio" not in rule["record"]), *(a.expr for a in alerts(SLO))],
)
def test_what_shards_count_is_added_up(expr: str) -> None:
    """No query leaves apart, or compares, what several shards count of the conversations."""
    families = [family_of(selector.name) for selector in selectors(expr)]
    if any(family and family.scope in (Scope.CONVERSATIONS, Scope.COUNTED) for family in families):
        assert re.search(r"sum without \(shard\) \(max|sum by \([^)]*\) \(max by \([^)]*shard\)", expr), expr


@pytest.mark.parametrize("alert", alerts(SLO), ids=lambda alert: alert.name)
def test_no_alert_takes_the_age_of_a_sample_for_a_delay(alert: Alert) -> None:
    assert "time()" not in alert.expr


def test_every_group_of_alerts_has_an_interval_of_its_own() -> None:
    """Prometheus' default is a minute, in which callers would wait for the alert about waiting."""
    intervals = {group["name"]: seconds(group["interval"]) for group in alerting(SLO)["groups"]}
    assert intervals["phonic-waiting"] <= 5
    assert max(intervals.values()) <= 15


def test_rules_are_evaluated_often_enough_to_leave_no_holes() -> None:
    lookback = 300
    assert all(seconds(group["interval"]) < lookback for group, _ in RECORDED)


def test_numerator_and_denominator_have_the_same_labels() -> None:
    for indicator in indicators(SLO):
        sides = (indicator.bad, indicator.all_events)
        own = [
            {label for name in selectors_of(side) for label in name} - labels(side) for side in map(plain, sides)
        ]
        assert own[0] == own[1]


def plain(expr: str) -> str:
    return expr.replace("$window", "5m")


def selectors_of(expr: str) -> list[set[str]]:
    """Own labels of every selected family, ``le`` included where buckets are selected."""
    found = []
    for selector in selectors(expr):
        family = family_of(selector.name)
        assert family is not None
        found.append(set(family.labels) | ({"le"} if selector.name.endswith("_bucket") else set()))
    return found


@ALERTS
def test_alert_names_only_what_exists(alert: Alert) -> None:
    assert problems(alert.expr, SLO) == []


@ALERTS
def test_alert_explains_itself(alert: Alert) -> None:
    assert re.fullmatch(r"Phonic([A-Z][a-z]+)+", alert.name)
    assert alert.severity in SEVERITIES or alert.name == "PhonicWatchdog"
    assert alert.summary.endswith(".")
    assert alert.description.endswith(".")
    for label in ("project", "agent"):
        assert f"$labels.{label} }}}}" in alert.summary or label not in alert.labels
    if alert.name != "PhonicWatchdog":
        assert "$labels." in alert.summary
        assert "{{" in alert.description


@pytest.mark.parametrize("alert", [a for a in alerts(SLO) if "Burn" in a.name], ids=lambda alert: alert.name)
def test_shares_are_compared_in_one_unit(alert: Alert) -> None:
    assert "humanizePercentage" in alert.description
    assert alert.description.endswith("; the objective allows 5%.")


@pytest.mark.parametrize(
    "alert", [a for a in alerts(SLO) if re.search(r"increase|/", a.expr)], ids=lambda alert: alert.name
)
def test_what_is_computed_from_rates_keeps_firing_over_a_gap(alert: Alert) -> None:
    """Except what happened within a window of an hour: it is over when the window is."""
    assert alert.keep_firing or alert.expr.endswith("> 0")


@ALERTS
def test_alert_leads_to_a_dashboard_and_its_runbook_entry(alert: Alert) -> None:
    annotations = alert.annotations(SLO)
    uids = {build(SLO).uid for build in BOARDS.values()}
    assert alert.board in uids
    assert annotations["dashboard_url"].startswith(f"{SLO.links.grafana}/d/{alert.board}")
    assert annotations["runbook_url"] == f"{SLO.links.runbook}#{alert.name.lower()}"
    if alert.group in ("phonic-waiting", "phonic-callers", "phonic-budgets") and "Concurrency" not in alert.name:
        assert annotations["conversations_url"].startswith(f"{SLO.links.exporter}/conversations?q={{{{ $labels")
    else:
        assert "conversations_url" not in annotations
    anchor = f'<a id="{alert.name.lower()}"></a>'
    entry = RUNBOOK.split(f"\n{anchor}\n\n## {alert.name}\n")[1].split("\n## ")[0]
    for part in ("**Means.**", "**Check.**", "**Do.**"):
        assert part in entry


def test_runbook_has_no_entries_for_alerts_that_do_not_exist() -> None:
    assert sorted(re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE)) == sorted(alert.name for alert in alerts(SLO))


def test_runbook_names_only_panels_and_alerts_that_exist() -> None:
    titles = {str(build(SLO).title).removeprefix("Phonic / ") for build in BOARDS.values()}
    for build in BOARDS.values():
        for row in build(SLO).rows:
            titles |= {row.title, *(panel.title for panel in row.panels)}
            titles |= {name for panel in row.panels for step in panel.transformations for name in _renamed(*step)}
    legends = {"found", "in progress", "watched", "Refused", "Targets", "Share of slow turns", "Exporter"}
    named = {" ".join(name.split()) for name in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", RUNBOOK)}
    assert named <= titles | legends
    assert set(re.findall(r"Phonic[A-Z]\w+", RUNBOOK)) <= {a.name for a in alerts(SLO)}


def _renamed(_: str, options: dict[str, Any]) -> list[str]:
    return list(options.get("renameByName", {}).values())


@ALERTS
def test_alert_has_tests_in_which_it_fires_and_is_silent(alert: Alert) -> None:
    moments = [bool(moment["exp_alerts"]) for case in _cases(alert.name) for moment in case["alert_rule_test"]]
    assert True in moments
    assert False in moments or alert.name == "PhonicWatchdog"
    if alert.name == "PhonicWatchdog":
        return
    # Recovery: in one and the same case it fires, and later does not.
    assert any(
        [bool(m["exp_alerts"]) for m in case["alert_rule_test"]][-2:] == [True, False]
        for case in _cases(alert.name)
    )


def _cases(alert: str) -> list[dict[str, Any]]:
    return [case for case in _all_cases() if case["alert_rule_test"][0]["alertname"] == alert]


@cache
def _all_cases() -> list[dict[str, Any]]:
    return [
        case
        for path in sorted((ROOT / "prometheus/tests").glob("*.yml"))
        for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]
    ]


@pytest.mark.parametrize("alert", [a for a in alerts(SLO) if "Burn" in a.name], ids=lambda alert: alert.name)
def test_burn_alerts_ask_for_both_windows_and_enough_traffic(alert: Alert) -> None:
    burn = SLO.burn.fast if alert.name.endswith("Fast") else SLO.burn.slow
    assert alert.expr.count(":ratio_rate") == 2 * len(burn.windows)
    for window in burn.windows:
        assert re.search(rf"increase\([a-z_]+(_count|_total)\[{window.long}\]", alert.expr)
