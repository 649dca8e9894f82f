"""Manifests as kubectl and helm make them of ``deploy/``: valid, restricted, and the same from both."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import files, slo
from dashboards.boards import BOARDS
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


def pod_of(manifests: list[Manifest]) -> Manifest:
    pod: Manifest = of_kind(manifests, "StatefulSet")["spec"]["template"]["spec"]
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
