"""Manifests as kubectl and helm make them of ``deploy/``: valid, restricted, and the same from both."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from dashboards import files, slo
from dashboards.boards import BOARDS
from exporter.settings import flag_table
from tests.e2e.prometheus import NEXT, Release, needs
from tests.manifests import (
    Manifest,
    assert_restricted,
    assert_valid,
    assert_watched_over,
    flags,
    of_kind,
    parsed,
)

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/phonic-exporter"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
TOOLS = Release(
    "kubernetes-tools",
    ".ci/kubernetes-tools unpacks it",
    Path(os.environ.get("PHONIC_KUBERNETES_TOOLS") or _CACHE / "phonic-exporter-tests/kubernetes-tools"),
)
SHIPPED = files.shipped(slo.load())

# Every value that differs from its default, so that every branch of every template is rendered.
OTHER_VALUES: dict[str, Any] = {
    "image": {"repository": "registry.example.com/phonic", "digest": "sha256:" + "0" * 64},
    "imagePullSecrets": [{"name": "registry"}],
    "apiKey": {"secretName": "phonic", "key": "production"},
    "args": ["--watch.project=main", "--metrics.labels=agent"],
    "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "persistence": {"size": "2Gi", "storageClassName": "fast"},
    "serviceMonitor": {"labels": {"release": "monitoring"}, "interval": "5s", "scrapeTimeout": "5s"},
    "prometheusRule": {
        "labels": {"release": "monitoring"},
        "exporterUrl": "https://exporter.example.com/phonic/",
        "grafanaUrl": "https://grafana.example.com/",
        "runbookUrl": "https://runbooks.example.com/phonic",
    },
    "dashboards": {"labels": {"grafana_dashboard": "yes"}, "annotations": {"grafana_folder": "Phonic"}},
    "networkPolicy": {"from": [{"podSelector": {"matchLabels": {"app": "vmagent"}}}], "egressPorts": [443, 3128]},
    "podLabels": {"team": "voice"},
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "priorityClassName": "important",
}


# The same for exporters that share the conversations.
SHARED_VALUES: dict[str, Any] = {
    "state": {
        "url": "postgresql://exporter@db.example.com:6432/exporter?sslmode=verify-full",
        "password": {"secretName": "db-app", "key": "secret"},
    },
    "shard": {"count": 3},
    "replicaCount": 5,
    "topologySpreadConstraints": [
        {"maxSkew": 2, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
    ],
}


def run(*command: str | Path, expected: int = 0) -> str:
    """What a program that must end with this code has written."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout + (done.stderr if expected else "")


def kustomized(folder: str = "deploy/kubernetes") -> list[Manifest]:
    return parsed(run(needs("kubectl", TOOLS), "kustomize", ROOT / folder))


def charted(*options: str | Path, release: str = "phonic-exporter") -> list[Manifest]:
    helm = needs("helm", TOOLS)
    return parsed(run(helm, "template", release, CHART, "--namespace", "phonic-exporter", *options))


@pytest.fixture
def others(tmp_path: Path) -> Path:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(OTHER_VALUES), encoding="utf-8")
    return path


def workload_of(manifests: list[Manifest]) -> Manifest:
    [found] = [each for each in manifests if each["kind"] in ("StatefulSet", "Deployment")]
    return found


def pod_of(manifests: list[Manifest]) -> Manifest:
    pod: Manifest = workload_of(manifests)["spec"]["template"]["spec"]
    return pod


def boards_of(manifests: list[Manifest]) -> dict[str, str]:
    """The dashboards in ConfigMaps, by the names of the ConfigMaps."""
    found = {}
    for each in manifests:
        if each["kind"] == "ConfigMap":
            assert each["metadata"]["labels"]["grafana_dashboard"]
            [text] = each["data"].values()
            found[each["metadata"]["name"]] = text
    return found


def assert_good(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        assert_valid(manifest)
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "phonic-exporter"
    assert_restricted(pod_of(manifests))
    assert_watched_over(pod_of(manifests))


def test_kustomize_makes_valid_manifests_with_every_dashboard() -> None:
    manifests = kustomized()
    assert_good(manifests)
    assert boards_of(manifests) == {
        f"phonic-exporter-dashboard-{name}": SHIPPED[f"grafana/{name}.json"] for name in BOARDS
    }


def test_base_of_kustomize_needs_no_operator() -> None:
    manifests = kustomized("deploy/kubernetes/base")
    assert_good(manifests)
    assert not [each for each in manifests if "monitoring.coreos.com" in each["apiVersion"]]


def test_helm_makes_what_kustomize_makes() -> None:
    manifests, same = charted(), kustomized()
    assert_good(manifests)
    pod = pod_of(manifests)
    assert pod["containers"][0].pop("imagePullPolicy") == "IfNotPresent"
    assert pod == pod_of(same)
    assert boards_of(manifests) == boards_of(same)
    for kind in ("PrometheusRule", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor", "Service"):
        assert without_instance(of_kind(manifests, kind)["spec"]) == of_kind(same, kind)["spec"], kind
    assert {each["kind"] for each in same} - {each["kind"] for each in manifests} == {"Namespace"}


def test_shards_of_kustomize_are_a_deployment_without_a_volume_and_with_a_spare() -> None:
    manifests = kustomized("deploy/kubernetes/shards")
    assert_good(manifests)
    workload = workload_of(manifests)
    assert workload["kind"] == "Deployment"
    pod = pod_of(manifests)
    given = dict(flag.split("=", 1) for flag in flags(pod))
    assert set(given) <= {row.flag for row in flag_table()}
    assert workload["spec"]["replicas"] == int(given["--shard.count"]) + 1
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    assert "state" not in mounts
    assert given["--state.password-file"] == f"{mounts['database']}/password"
    assert {each["topologyKey"] for each in pod["topologySpreadConstraints"]} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }
    for each in pod["topologySpreadConstraints"]:
        assert each["labelSelector"]["matchLabels"].items() <= workload["spec"]["selector"]["matchLabels"].items()
    ports = [
        port["port"] for rule in of_kind(manifests, "NetworkPolicy")["spec"]["egress"] for port in rule["ports"]
    ]
    assert urlsplit(given["--state.url"]).port in ports
    others = [each for each in kustomized() if each["kind"] not in ("StatefulSet", "NetworkPolicy")]
    assert all(each in manifests for each in others)


def test_helm_makes_the_shards_that_kustomize_makes() -> None:
    same = kustomized("deploy/kubernetes/shards")
    [url] = [flag.partition("=")[2] for flag in flags(pod_of(same)) if flag.startswith("--state.url=")]
    manifests = charted("--set", f"state.url={url}", "--set", "replicaCount=2")
    assert_good(manifests)
    pod = pod_of(manifests)
    assert pod["containers"][0].pop("imagePullPolicy") == "IfNotPresent"
    assert without_instance(workload_of(manifests)["spec"]) == workload_of(same)["spec"]
    for kind in ("PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor", "Service"):
        assert without_instance(of_kind(manifests, kind)["spec"]) == of_kind(same, kind)["spec"], kind


def without_instance(node: Any) -> Any:
    """The same without the label that tells releases of a chart apart."""
    if isinstance(node, dict):
        return {key: without_instance(value) for key, value in node.items() if key != "app.kubernetes.io/instance"}
    return [without_instance(each) for each in node] if isinstance(node, list) else node


def test_helm_accepts_its_chart_and_refuses_values_that_it_does_not_know(others: Path) -> None:
    helm = needs("helm", TOOLS)
    run(helm, "lint", "--strict", CHART)
    run(helm, "lint", "--strict", CHART, "--values", others)
    for wrong in ("replicas=2", "image.digest=latest", "serviceMonitor.interval=often", "args[0]=-x"):
        [group] = re.findall(r"^\w+", wrong)
        assert group in run(helm, "template", "x", CHART, "--set", wrong, expected=1)


def test_helm_obeys_every_value(others: Path) -> None:
    manifests = charted("--values", others, release="b")
    assert_good(manifests)
    pod = pod_of(manifests)
    [container] = pod["containers"]
    assert container["image"] == f"registry.example.com/phonic@sha256:{'0' * 64}"
    assert flags(pod)[0] == "--phonic.api-key-file=/etc/phonic-exporter/secret/production"
    assert flags(pod)[-2:] == OTHER_VALUES["args"]
    assert container["env"] == OTHER_VALUES["env"]
    assert [each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each] == ["phonic"]
    for name in ("imagePullSecrets", "nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert pod[name] == OTHER_VALUES[name]
    workload = of_kind(manifests, "StatefulSet")
    assert workload["metadata"]["name"] == "b-phonic-exporter"
    assert workload["spec"]["template"]["metadata"]["labels"]["team"] == "voice"
    assert workload["spec"]["template"]["metadata"]["annotations"] == {"a": "b"}
    [claim] = workload["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"]["requests"]["storage"] == "2Gi"
    [endpoint] = of_kind(manifests, "ServiceMonitor")["spec"]["endpoints"]
    assert (endpoint["interval"], endpoint["scrapeTimeout"]) == ("5s", "5s")
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert of_kind(manifests, kind)["metadata"]["labels"]["release"] == "monitoring"
    rules = yaml.safe_dump(of_kind(manifests, "PrometheusRule")["spec"])
    assert "localhost" not in rules
    assert "https://grafana.example.com/d/" in rules
    assert "https://runbooks.example.com/phonic#" in rules
    assert "https://exporter.example.com/phonic/conversations?q=" in rules
    boards = yaml.safe_dump([each for each in manifests if each["kind"] == "ConfigMap"])
    assert "localhost" not in boards
    policy = of_kind(manifests, "NetworkPolicy")["spec"]
    assert policy["ingress"][0]["from"] == OTHER_VALUES["networkPolicy"]["from"]
    assert [each["port"] for each in policy["egress"][1]["ports"]] == [443, 3128]


def test_both_can_mount_a_key_for_each_workspace(tmp_path: Path) -> None:
    """The overlay is the one of deploy/README.md."""
    readme = (ROOT / "deploy/README.md").read_text(encoding="utf-8").partition("## Several workspaces")[2]
    [overlay] = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "kustomization.yaml").write_text(
        overlay.replace("../deploy", os.path.relpath(ROOT, tmp_path) + "/deploy")
    )
    same = parsed(run(needs("kubectl", TOOLS), "kustomize", "--load-restrictor=LoadRestrictionsNone", tmp_path))
    for manifests in (same, charted("--set", "apiKey.key=")):
        assert_good(manifests)
        pod = pod_of(manifests)
        assert flags(pod)[0] == "--phonic.api-key-dir=/etc/phonic-exporter/secret"
        assert not any("api-key-file" in flag for flag in flags(pod))
        [mount] = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "secret"]
        assert "subPath" not in mount, "what is mounted by subPath never changes"


def test_helm_obeys_every_value_of_shards(others: Path, tmp_path: Path) -> None:
    path = tmp_path / "shared.yaml"
    path.write_text(yaml.safe_dump(SHARED_VALUES), encoding="utf-8")
    run(needs("helm", TOOLS), "lint", "--strict", CHART, "--values", others, "--values", path)
    manifests = charted("--values", others, "--values", path, release="b")
    assert_good(manifests)
    pod = pod_of(manifests)
    given = dict(flag.split("=", 1) for flag in flags(pod))
    assert given["--state.url"] == SHARED_VALUES["state"]["url"]
    assert given["--state.password-file"] == "/etc/phonic-exporter/database/secret"
    assert given["--shard.count"] == "3"
    assert flags(pod)[-2:] == OTHER_VALUES["args"]
    assert [each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each] == ["phonic", "db-app"]
    assert pod["topologySpreadConstraints"] == SHARED_VALUES["topologySpreadConstraints"]
    assert pod["tolerations"] == OTHER_VALUES["tolerations"]
    assert workload_of(manifests)["spec"]["replicas"] == 5
    egress = of_kind(manifests, "NetworkPolicy")["spec"]["egress"]
    assert [port["port"] for port in egress[2]["ports"]] == [6432]
    url = ("--set", "state.url=postgresql://exporter@db/exporter", "--set", "state.password.secretName=")
    trusted = charted(*url)
    assert not [each for each in flags(pod_of(trusted)) if "password" in each]
    assert of_kind(trusted, "NetworkPolicy")["spec"]["egress"][2]["ports"] == [{"protocol": "TCP", "port": 5432}]


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("postgresql://u@db/p", [5432]),
        ("postgresql://u@db:6432/p?application_name=a:7@b", [6432]),
        ("postgres://u@[fd00::1]:6432/p", [6432]),
        ("postgresql://u@db1:6432,db2:6433/p?target_session_attrs=read-write", [6432, 6433]),
        ("postgresql://u@db1:6432,db2,db3:6432/p", [6432, 5432]),
        ("postgresql://u@/p?host=db1&port=6432", [6432]),
        ("postgresql://u@/p?host=db1,db2&port=6432,6433&connect_timeout=3", [6432, 6433]),
        ("postgresql://u@/p?port=6432%2C6433", [6432, 6433]),
        ("postgresql://db1/p?host=db2", [5432]),
    ],
)
def test_helm_opens_each_port_that_the_url_of_the_database_names(
    url: str, ports: list[int], tmp_path: Path
) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump({"state": {"url": url}}), encoding="utf-8")
    manifests = charted("--values", path)
    assert_good(manifests)
    egress = of_kind(manifests, "NetworkPolicy")["spec"]["egress"]
    assert egress[2]["ports"] == [{"protocol": "TCP", "port": port} for port in ports]


def test_helm_refuses_numbers_of_replicas_that_would_count_twice_or_not_at_all() -> None:
    helm = needs("helm", TOOLS)
    assert "needs state.url" in run(helm, "template", "x", CHART, "--set", "replicaCount=2", expected=1)
    too_few = ("--set", "state.url=postgresql://a@db/x", "--set", "shard.count=3", "--set", "replicaCount=2")
    assert "at least shard.count" in run(helm, "template", "x", CHART, *too_few, expected=1)


@pytest.mark.parametrize(
    ("part", "kinds"),
    [
        ("serviceMonitor", {"ServiceMonitor"}),
        ("prometheusRule", {"PrometheusRule"}),
        ("dashboards", {"ConfigMap"}),
        ("networkPolicy", {"NetworkPolicy"}),
        ("podDisruptionBudget", {"PodDisruptionBudget"}),
    ],
)
def test_helm_leaves_out_what_is_turned_off(part: str, kinds: set[str]) -> None:
    everything = {each["kind"] for each in charted()}
    assert {each["kind"] for each in charted("--set", f"{part}.enabled=false")} == everything - kinds


@pytest.mark.parametrize("release", [None, NEXT], ids=["installed", "next"])
def test_promtool_accepts_the_rules_of_both(release: Release | None, tmp_path: Path) -> None:
    promtool = needs("promtool", release) if release else needs("promtool")
    for name, manifests in (("kustomize", kustomized()), ("helm", charted())):
        path = tmp_path / f"{name}.yml"
        path.write_text(yaml.safe_dump(of_kind(manifests, "PrometheusRule")["spec"]), encoding="utf-8")
        run(promtool, "check", "rules", path)
