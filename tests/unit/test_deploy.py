"""What ``deploy/`` has for Kubernetes and systemd: what can be known of it without their programs."""

import configparser
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import slo
from deploy import files
from exporter import __version__
from exporter.scrape_rule import RELABELINGS
from exporter.settings import flag_table
from tests.manifests import assert_restricted, assert_valid, assert_watched_over, flags, of_kind, parsed

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
SHARDS = KUBERNETES / "shards"
CHART = DEPLOY / "helm/phonic-exporter"
SYSTEMD = DEPLOY / "systemd"
SLO = slo.load()
RENDERED = files.render(SLO)
ROWS = {row.key: row for row in flag_table()}


def of(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def kustomizations(folder: Path) -> dict[Path, dict[str, Any]]:
    """A kustomization and all that it leads to, by their folders."""
    found = of(folder / "kustomization.yaml")
    below = [*found.get("resources", ()), *found.get("components", ())]
    return {
        folder: found,
        **{
            at: each
            for name in below
            if (folder / name).is_dir()
            for at, each in kustomizations(folder / name).items()
        },
    }


MANIFESTS = {
    f"{folder.name}/{name}": manifest
    for folder, each in kustomizations(KUBERNETES).items()
    for name in each.get("resources", ())
    if (folder / name).is_file()
    for manifest in parsed((folder / name).read_text(encoding="utf-8"))
}
POD = of_kind(MANIFESTS.values(), "StatefulSet")["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", RENDERED)
def test_generated_file_is_as_the_generator_writes_it(name: str) -> None:
    assert (DEPLOY / name).read_text(encoding="utf-8") == RENDERED[name], "run `make dashboards`"


def test_nothing_generated_is_left_over() -> None:
    for folder in ("kubernetes/grafana", "helm/phonic-exporter/files"):
        there = {path.relative_to(DEPLOY).as_posix() for path in (DEPLOY / folder).rglob("*") if path.is_file()}
        assert there == {name for name in RENDERED if name.startswith(f"{folder}/")}


def test_kustomizations_name_files_that_exist_and_every_one_of_them() -> None:
    for folder, each in kustomizations(KUBERNETES).items():
        generated = [file for generator in each.get("configMapGenerator", ()) for file in generator["files"]]
        named = [*each.get("resources", ()), *each.get("components", ()), *generated]
        there = {path.name for path in folder.iterdir()} - {"kustomization.yaml"}
        if folder == KUBERNETES:
            there.remove(SHARDS.name)  # in place of it, not part of it
        assert set(named) == there, folder
        assert len(named) == len(there)


def test_shards_are_an_overlay_of_all_the_rest() -> None:
    everything, shards = of(KUBERNETES / "kustomization.yaml"), of(SHARDS / "kustomization.yaml")
    for kind in ("resources", "components"):
        assert shards[kind] == [f"../{name}" for name in everything[kind]]
    patches = {each["path"] for each in shards["patches"] if "path" in each}
    assert patches | {"kustomization.yaml"} == {path.name for path in SHARDS.iterdir()}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_is_valid(name: str) -> None:
    assert_valid(MANIFESTS[name])


def test_pod_is_restricted_and_watched_over() -> None:
    assert_restricted(POD)
    assert_watched_over(POD)
    namespace = of_kind(MANIFESTS.values(), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_flags_of_the_pod_exist_and_its_key_is_a_mounted_file() -> None:
    given = dict(flag.split("=") for flag in flags(POD))
    assert set(given) <= {row.flag for row in ROWS.values()}
    [container] = POD["containers"]
    [mount] = [each for each in container["volumeMounts"] if each["name"] == "secret"]
    assert given["--phonic.api-key-file"] == f"{mount['mountPath']}/api-key"
    assert mount["readOnly"] is True
    assert "env" not in container
    assert not [each for each in MANIFESTS.values() if each["kind"] == "Secret"], "a key is not committed"


def test_volume_is_where_the_image_keeps_its_state() -> None:
    [claim] = of_kind(MANIFESTS.values(), "StatefulSet")["spec"]["volumeClaimTemplates"]
    [mount] = [each for each in POD["containers"][0]["volumeMounts"] if each["name"] == claim["metadata"]["name"]]
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"STATE_DIRECTORY={mount['mountPath']}" in dockerfile
    assert f"USER {POD['securityContext']['runAsUser']}:{POD['securityContext']['fsGroup']}" in dockerfile


def test_only_one_exporter_runs_at_a_time() -> None:
    workload = of_kind(MANIFESTS.values(), "StatefulSet")
    assert workload["spec"]["replicas"] == 1
    assert of_kind(MANIFESTS.values(), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_limits_hold_what_was_measured() -> None:
    """5,000 live conversations, the default of ``--watch.limit``, and the bound on messages not yet whole."""
    results = json.loads((ROOT / "benchmarks/results/capacity.json").read_text(encoding="utf-8"))
    resident = next(float(value) for name, value in _pairs(results) if name == "resident MB")
    [container] = POD["containers"]
    limit, request = (container["resources"][each]["memory"] for each in ("limits", "requests"))
    assert _mebibytes(limit) * 2**20 >= resident * 1e6 + 256 * 2**20
    assert _mebibytes(request) <= _mebibytes(limit)
    assert ROWS["watch.limit"].default == "5000"
    storage = of_kind(MANIFESTS.values(), "StatefulSet")["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]
    assert storage == {"requests": {"storage": "1Gi"}}


def _pairs(node: Any) -> list[tuple[str, Any]]:
    """Every pair of a name and a value in a result, in lists or tables."""
    if isinstance(node, dict):
        return [pair for item in node.items() for pair in (item, *_pairs(item[1]))]
    if isinstance(node, list):
        own = [(node[0], node[1])] if len(node) == 2 and isinstance(node[0], str) else []
        return own + [pair for item in node for pair in _pairs(item)]
    return []


def _mebibytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {"Mi": 1, "Gi": 1024}[unit]


def test_prometheus_gives_the_series_the_job_that_the_rules_ask_for_and_an_instance_that_survives_a_restart() -> (
    None
):
    monitor = of_kind(MANIFESTS.values(), "ServiceMonitor")["spec"]
    service = of_kind(MANIFESTS.values(), "Service")
    assert service["metadata"]["labels"][monitor["jobLabel"]] == SLO.job
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    [endpoint] = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert slo.seconds(endpoint["scrapeTimeout"]) <= slo.seconds(endpoint["interval"]) <= 15
    assert {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"} in endpoint["relabelings"]
    assert endpoint["metricRelabelings"] == [each.in_service_monitor for each in RELABELINGS]
    assert service["spec"]["publishNotReadyAddresses"] is True


def test_versions_are_those_of_the_program() -> None:
    chart = of(CHART / "Chart.yaml")
    assert chart["appVersion"] == chart["version"] == __version__
    [image] = kustomizations(KUBERNETES)[KUBERNETES / "base"]["images"]
    assert image["newTag"] == __version__


def test_links_that_the_chart_replaces_are_those_of_the_rules() -> None:
    values = of(CHART / "values.yaml")["prometheusRule"]
    assert values["runbookUrl"] == SLO.links.runbook
    assert values["grafanaUrl"] == SLO.links.grafana
    assert values["exporterUrl"] == SLO.links.exporter
    template = (CHART / "templates/prometheusrule.yaml").read_text(encoding="utf-8")
    for link in (SLO.links.runbook, SLO.links.grafana, SLO.links.exporter):
        assert f'replace "{link}"' in template
        assert link in RENDERED["helm/phonic-exporter/files/rules.yml"]


def unit(name: str) -> configparser.ConfigParser:
    """A unit file; a key that is given more than once has its values in lines."""

    class Lines(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            if isinstance(value, list) and key in self:
                self[key].extend(value)
            else:
                super().__setitem__(key, value)

    parser = configparser.ConfigParser(
        strict=False, interpolation=None, dict_type=Lines, comment_prefixes=("#",), delimiters=("=",)
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((SYSTEMD / name).read_text(encoding="utf-8"))
    return parser


def test_service_gives_flags_that_exist_and_the_key_as_a_credential() -> None:
    service = unit("phonic-exporter.service")["Service"]
    program, *arguments = service["ExecStart"].split()
    given = dict(argument.split("=") for argument in arguments)
    assert program.endswith("/bin/phonic-exporter")
    assert set(given) <= {row.flag for row in ROWS.values()}
    name, _, source = service["LoadCredential"].partition(":")
    assert given["--phonic.api-key-file"] == f"%d/{name}"
    assert source == "/etc/phonic-exporter/api-key"
    assert given["--config.file"] == "/etc/phonic-exporter/phonic-exporter.toml"


def test_service_is_not_restarted_for_wrong_settings_and_may_stop_in_order() -> None:
    service = unit("phonic-exporter.service")["Service"]
    assert service["RestartPreventExitStatus"] == "2"
    assert int(service["TimeoutStopSec"]) > 10
    assert service["DynamicUser"] == "yes"
    assert service["StateDirectory"] == "phonic-exporter"
    assert int(service["LimitNOFILE"]) >= int(ROWS["watch.limit"].default) + 500


def test_socket_is_on_the_port_of_the_exporter_and_the_service_takes_it() -> None:
    assert unit("phonic-exporter.socket")["Socket"]["ListenStream"] == ROWS["web.listen-address"].default.lstrip(
        ":"
    )
    drop_in = unit("phonic-exporter.service.d/socket.conf")
    name, _, value = drop_in["Service"]["Environment"].partition("=")
    assert name == ROWS["web.systemd-socket"].variable
    assert value == "true"
    assert drop_in["Unit"]["Requires"] == drop_in["Unit"]["After"] == "phonic-exporter.socket"


def test_shards_get_the_password_of_postgresql_as_a_credential() -> None:
    drop_in = unit("phonic-exporter.service.d/shards.conf")["Service"]
    variable, _, value = drop_in["Environment"].partition("=")
    name, _, source = drop_in["LoadCredential"].partition(":")
    assert variable == ROWS["state.password-file"].variable
    assert value == f"%d/{name}"
    assert source.startswith("/etc/phonic-exporter/")


def test_variables_of_the_example_exist() -> None:
    text = (SYSTEMD / "phonic-exporter.default").read_text(encoding="utf-8")
    named = {name for name in re.findall(r"^#?(\w+)=", text, re.MULTILINE) if name.startswith("PHONIC_EXPORTER_")}
    assert named
    assert named <= {row.variable for row in ROWS.values()}


def uncommented() -> str:
    """The example of a configuration file with every setting in force."""
    return re.sub(r"^#(?=[a-z])", "", RENDERED["systemd/phonic-exporter.toml"], flags=re.MULTILINE)


def test_configuration_file_shows_every_setting_and_no_other() -> None:
    keys = set()
    for group, members in tomllib.loads(uncommented()).items():
        for name, value in members.items():
            keys |= {f"{group}.{name}.{sub}" for sub in value} if isinstance(value, dict) else {f"{group}.{name}"}
    assert keys == set(ROWS) - {"phonic.api-key-file", "config.file"}


def test_configuration_file_says_nothing_until_it_is_edited() -> None:
    document = tomllib.loads(RENDERED["systemd/phonic-exporter.toml"])
    assert set(document) == {key.partition(".")[0] for key in ROWS} - {"config"}
    assert not any(document.values())


def test_documents_name_files_that_exist() -> None:
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"deploy/[\w./-]*\w", text)) | {
        f"deploy/{link}" for link in re.findall(r"\]\((?!https?:|\.\./|#)([^)#]+)", text)
    }
    assert named
    for name in named:
        assert (ROOT / name).exists(), name
