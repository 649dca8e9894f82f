"""What every Kubernetes manifest of ours must keep, whichever tool it comes from."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from exporter.settings import Settings

Manifest = dict[str, Any]

# The oldest and the newest that the manifests are for.
KUBERNETES = ("1.27", "1.37")
_OPERATOR = "monitoring.coreos.com/v1"
_SCHEMAS = Path(__file__).parent / "data/prometheus-operator-schema"


def parsed(text: str) -> list[Manifest]:
    return [each for each in yaml.safe_load_all(text) if each]


def of_kind(manifests: Iterable[Manifest], kind: str) -> Manifest:
    """The only one of its kind."""
    [found] = [each for each in manifests if each["kind"] == kind]
    return found


def assert_valid(manifest: Manifest) -> None:
    """By Kubernetes' own schemas without unknown fields, or by that of the operator's resource."""
    if manifest["apiVersion"] == _OPERATOR:
        assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
        schema = json.loads((_SCHEMAS / f"{manifest['kind']}.json").read_text(encoding="utf-8"))
        jsonschema.Draft7Validator(schema).validate(manifest["spec"])
        return
    for version in KUBERNETES:
        kubernetes_validate.validate(manifest, version, strict=True)


def assert_restricted(pod: Manifest) -> None:
    """Pod Security Standards, "restricted", and what this pod can do without besides."""
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False, "a Service's variables would look like settings"
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {kind for volume in pod["volumes"] for kind in volume} <= {"name", "secret", "emptyDir"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def assert_watched_over(pod: Manifest) -> None:
    """It has every probe, at the port that the exporter serves, time to stop, and requests and limits."""
    [container] = pod["containers"]
    [port] = container["ports"]
    assert f":{port['containerPort']}" == Settings().web.listen_address[0]
    for probe, path in (("startup", "/-/healthy"), ("readiness", "/-/ready"), ("liveness", "/-/healthy")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": port["name"]}
    assert pod["terminationGracePeriodSeconds"] > 10, "the exporter may take 10 s to stop"
    assert set(container["resources"]["limits"]) == {"cpu", "memory"} == set(container["resources"]["requests"])


def flags(pod: Manifest) -> list[str]:
    return list(pod["containers"][0]["args"])
