"""Pure: every generated file below ``deploy/`` as text, by its path there. Same input, same bytes.

The shipped rules and dashboards where Kubernetes needs them (neither kustomize nor helm reads files outside of its
own folder), and a configuration file that shows every setting.
"""

import json
import textwrap
from collections.abc import Iterator
from itertools import groupby

from dashboards import alerts, files, rules
from dashboards.slo import Slo
from exporter.settings import FlagRow, Settings, describe, flag_table

_BOARDS = "grafana/"
_WIDTH = 100

_TOML_HEADER = """\
# Settings of phonic-exporter: a copy of this file is /etc/phonic-exporter/phonic-exporter.toml.
# Everything is commented out and shows the default, or an example where there is none. This prints
# what the exporter would run with:
#
#   phonic-exporter check-config --config.file=/etc/phonic-exporter/phonic-exporter.toml
#
# Made by `make dashboards` from the flags of the exporter.
"""
# phonic-exporter.service gives the key itself; the file cannot name itself.
_NOT_IN_TOML = ("phonic.api-key-file", "config.file")
# Where there is no default, or none that can be written down.
_EXAMPLES: dict[str, object] = {
    "phonic.api-key-dir": "/etc/phonic-exporter/api-keys",
    "phonic.session-token-file": "/etc/phonic-exporter/session-token",
    "phonic.ca-file": "/etc/ssl/certs/ca-certificates.crt",
    "watch.conversation": ["conv_12cf6e88-c254-4d3e-a149-ddf1bdd2254c"],
    "watch.file": "/etc/phonic-exporter/conversations",
    "watch.discover": True,
    "watch.project": ["main"],
    "state.file": "/var/lib/phonic-exporter/phonic-exporter.db",
    "state.password-file": "/etc/phonic-exporter/database-password",
    "web.external-url": "https://example.com/phonic",
    "web.route-prefix": "/phonic",
    "web.config.file": "/etc/phonic-exporter/web-config.yml",
}


def render(slo: Slo) -> dict[str, str]:
    """All generated files."""
    groups = {"groups": [*rules.recording(slo)["groups"], *alerts.alerting(slo)["groups"]]}
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "phonic-exporter", "labels": {"app.kubernetes.io/name": "phonic-exporter"}},
        "spec": groups,
    }
    boards = {
        name.removeprefix(_BOARDS): text for name, text in files.shipped(slo).items() if name.startswith(_BOARDS)
    }
    return {
        "kubernetes/prometheus-operator/prometheusrule.yaml": files.to_yaml(rule),
        "kubernetes/grafana/kustomization.yaml": files.to_yaml(_dashboards(list(boards))),
        **{f"kubernetes/grafana/{name}": text for name, text in boards.items()},
        "helm/phonic-exporter/files/rules.yml": files.to_yaml(groups),
        **{f"helm/phonic-exporter/files/dashboards/{name}": text for name, text in boards.items()},
        "systemd/phonic-exporter.toml": _toml(),
    }


def _dashboards(names: list[str]) -> dict[str, object]:
    """ConfigMaps with the label that Grafana's sidecar looks for."""
    return {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "namespace": "phonic-exporter",
        "generatorOptions": {
            "disableNameSuffixHash": True,
            "labels": {"app.kubernetes.io/name": "phonic-exporter", "grafana_dashboard": "1"},
        },
        "configMapGenerator": [
            {"name": f"phonic-exporter-dashboard-{name.removesuffix('.json')}", "files": [name]} for name in names
        ],
    }


def _toml() -> str:
    rows = [row for row in flag_table() if row.key not in _NOT_IN_TOML]
    lines = [_TOML_HEADER]
    for group, members in groupby(rows, key=lambda row: row.key.partition(".")[0]):
        lines.append(f"\n[{group}]\n")
        lines += [line for row in members for line in _setting(row)]
    return "".join(lines)


def _setting(row: FlagRow) -> Iterator[str]:
    defaults = describe(Settings())
    value = _EXAMPLES[row.key] if row.key in _EXAMPLES else defaults[row.key]
    if isinstance(value, tuple):
        value = list(value)
    for line in textwrap.wrap(row.meaning, _WIDTH):
        yield f"# {line}\n"
    # Strings, numbers, booleans and lists of strings are written in JSON as they are in TOML.
    yield f"#{row.key.partition('.')[2]} = {json.dumps(value, ensure_ascii=False)}\n\n"
