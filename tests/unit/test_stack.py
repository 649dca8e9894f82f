"""The stack to try: what can be known of it without a container engine."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import files, slo, stack
from dashboards.alerts import alerts
from exporter.settings import Settings

ROOT = Path(files.__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SLO = slo.load()
EVERY_SERVICE = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


@EVERY_SERVICE
def test_service_is_hardened_and_has_a_health_check(service: dict[str, Any]) -> None:
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["healthcheck"]["test"][0] == "CMD"


@EVERY_SERVICE
def test_ports_are_published_on_loopback_only(service: dict[str, Any]) -> None:
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@EVERY_SERVICE
def test_images_are_pinned_to_a_full_version(service: dict[str, Any]) -> None:
    assert service.get("build") == "." or re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])


@EVERY_SERVICE
def test_mounts_exist_and_are_read_only_unless_they_are_volumes(service: dict[str, Any]) -> None:
    for mount in service.get("volumes", ()):
        source, _, *mode = mount.split(":")
        if source.startswith("./"):
            assert (ROOT / source).exists()
            assert mode == ["ro"]
        else:
            assert source in COMPOSE["volumes"]


@EVERY_SERVICE
def test_services_depend_on_services_that_tell_their_health(service: dict[str, Any]) -> None:
    for name, condition in service.get("depends_on", {}).items():
        assert condition == {"condition": "service_healthy"}
        assert "healthcheck" in SERVICES[name]


def test_what_was_counted_survives_the_container() -> None:
    [mount] = SERVICES["exporter"]["volumes"]
    volume, _, folder = mount.partition(":")
    assert volume in COMPOSE["volumes"]
    assert f"STATE_DIRECTORY={folder}" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert slo.seconds(SERVICES["exporter"]["stop_grace_period"]) > 10, "the exporter may take 10 s to stop"


def test_real_calls_are_watched_with_the_key_of_whoever_starts_the_stack() -> None:
    real = yaml.safe_load((ROOT / "compose.real.yaml").read_text(encoding="utf-8"))
    assert set(real) == {"services"}
    assert set(real["services"]) == {"exporter"}
    exporter = real["services"]["exporter"]
    assert exporter["command"] == []
    assert exporter["environment"]["PHONIC_API_KEY"].startswith("${PHONIC_API_KEY:?")


def _inside(service: str, path: str) -> Path:
    """The file on this machine that a path inside the container is."""
    for mount in SERVICES[service]["volumes"]:
        source, target, *_ = mount.split(":")
        if path == target or path.startswith(f"{target}/"):
            return Path(ROOT / source / path.removeprefix(target).lstrip("/"))
    raise AssertionError(f"{path} is not mounted")


def test_paths_named_in_flags_and_settings_are_mounted() -> None:
    assert _inside("prometheus", "/etc/prometheus/prometheus.yml").is_file()
    assert _inside("alertmanager", "/etc/alertmanager/alertmanager.yml").is_file()
    assert _inside("prometheus", "/etc/prometheus-runbook/RUNBOOK.md").is_file()
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert _inside("grafana", home).is_file()
    [provider] = stack.dashboards()["providers"]
    assert list(_inside("grafana", provider["options"]["path"]).glob("*.json"))
    for name in stack.prometheus(SLO)["rule_files"]:
        assert _inside("prometheus", f"/etc/prometheus/{name}").is_file()


def test_runbook_is_served_where_alerts_say() -> None:
    [assets] = [flag for flag in SERVICES["prometheus"]["command"] if flag.startswith("--web.user-assets=")]
    assert _inside("prometheus", assets.partition("=")[2] + "/RUNBOOK.md").is_file()
    assert SLO.links.runbook == "http://localhost:9090/user/RUNBOOK.md"
    assert "127.0.0.1:9090:9090" in SERVICES["prometheus"]["ports"]
    assert SLO.links.grafana == "http://localhost:3000"
    assert "127.0.0.1:3000:3000" in SERVICES["grafana"]["ports"]


def test_services_find_each_other() -> None:
    config = stack.prometheus(SLO)
    targets = [
        target
        for part in (config["scrape_configs"], config["alerting"]["alertmanagers"])
        for entry in part
        for static in entry["static_configs"]
        for target in static["targets"]
    ]
    targets.append(stack.datasources(SLO)["datasources"][0]["url"].removeprefix("http://"))
    for target in targets:
        name, _, port = target.partition(":")
        assert any(published.endswith(f":{port}") for published in SERVICES[name]["ports"])


def test_budgets_are_kept_longer_than_their_period() -> None:
    [flag] = [f for f in SERVICES["prometheus"]["command"] if "retention.time" in f]
    assert slo.seconds(flag.partition("=")[2]) > slo.seconds(SLO.period)


def test_data_source_leads_from_exemplars_to_the_conversation() -> None:
    [source] = stack.datasources(SLO)["datasources"]
    [destination] = source["jsonData"]["exemplarTraceIdDestinations"]
    assert destination["name"] == "conversation_id"
    assert destination["url"] == f"{SLO.links.exporter}/conversations/$${{__value.raw}}"
    assert SLO.links.exporter == "http://localhost:10058"
    assert "127.0.0.1:10058:10058" in SERVICES["exporter"]["ports"]
    assert source["jsonData"]["timeInterval"] == stack.prometheus(SLO)["global"]["scrape_interval"]
    assert source["type"] == "prometheus"
    version = SERVICES["prometheus"]["image"].partition(":v")[2]
    assert source["jsonData"]["prometheusVersion"] == version


def test_routing_names_only_alerts_and_receivers_that_exist() -> None:
    config = stack.alertmanager()
    receivers = {receiver["name"] for receiver in config["receivers"]}
    routes = [config["route"], *config["route"]["routes"]]
    assert {route["receiver"] for route in routes} == receivers
    named = {
        name
        for rule in config["inhibit_rules"]
        for matcher in (*rule["source_matchers"], *rule["target_matchers"])
        for name in re.findall(r"Phonic\w+", matcher)
    }
    assert named <= {alert.name for alert in alerts(SLO)}


@pytest.mark.parametrize("name", ["README.md", "dashboards/README.md"])
def test_every_example_of_a_prometheus_configuration_names_an_evaluation_interval(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(# prometheus\.yml.*?)```", text, re.DOTALL)
    assert examples
    for example in examples:
        assert slo.seconds(yaml.safe_load(example)["global"]["evaluation_interval"]) <= 15


def test_what_wakes_somebody_is_one_notification_for_all_agents() -> None:
    routes = {route["receiver"]: route for route in stack.alertmanager()["route"]["routes"]}
    assert routes["pager"]["matchers"] == ['severity="critical"']
    assert routes["pager"]["group_by"] == ["alertname", "job"]


def test_waiting_callers_hold_back_the_burn_alerts_of_their_agent_and_of_no_other() -> None:
    [rule] = [r for r in stack.alertmanager()["inhibit_rules"] if "CallersWaiting" in r["source_matchers"][0]]
    held = set(re.findall(r"Phonic\w+", rule["target_matchers"][0]))
    assert held == {alert.name for alert in alerts(SLO) if "BudgetBurn" in alert.name} | {"PhonicCallersGivingUp"}
    assert rule["equal"] == ["job", "workspace", "project", "agent"]


@pytest.mark.parametrize("cause", ["PhonicCredentialRefused", "PhonicUpstreamUnreachable", "PhonicDiscoveryStale"])
def test_what_happens_to_one_workspace_silences_no_other(cause: str) -> None:
    [rule] = [r for r in stack.alertmanager()["inhibit_rules"] if f'alertname="{cause}"' in r["source_matchers"]]
    assert rule["equal"] == ["job", "workspace"]


def test_no_alert_holds_back_itself_or_what_holds_it_back() -> None:
    """Else two alerts of one cause could silence each other."""
    causes: dict[str, set[str]] = {}
    for rule in stack.alertmanager()["inhibit_rules"]:
        [cause] = re.findall(r"Phonic\w+", rule["source_matchers"][0])
        causes.setdefault(cause, set()).update(re.findall(r"Phonic\w+", rule["target_matchers"][0]))
    for cause in causes:
        reached: set[str] = set()
        todo = [cause]
        while todo:
            for consequence in causes.get(todo.pop(), set()) - reached:
                reached.add(consequence)
                todo.append(consequence)
        assert cause not in reached


def test_the_watchdog_is_delivered_often_enough_to_be_missed() -> None:
    [route] = [r for r in stack.alertmanager()["route"]["routes"] if r["receiver"] == "watchdog"]
    assert route["matchers"] == ['alertname="PhonicWatchdog"']
    assert slo.seconds(route["repeat_interval"]) <= 300


def test_threshold_is_the_default_of_the_exporter() -> None:
    assert Settings().metrics.slo_response == SLO.response.threshold_seconds
