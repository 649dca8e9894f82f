"""Pure: renders every generated file as text, by its path below ``dashboards/``. Deterministic."""

from typing import Any

import yaml

from . import alerts, classic, frame, rule_tests, rules, shard_tests, stack, v2, workspace_tests
from .boards import BOARDS
from .slo import Slo

_HEADER = "# Generated from slo.yml by `make dashboards`; changes made here are lost.\n"


def render(slo: Slo) -> dict[str, str]:
    """Return all generated files."""
    tests = rule_tests.rule_tests(
        slo, {"shards": shard_tests.cases(slo), "workspaces": workspace_tests.cases(slo)}
    )
    return {
        **_everywhere(slo),
        **{f"prometheus/tests/{stem}.yml": to_yaml(each) for stem, each in tests.items()},
        "prometheus/prometheus.yml": to_yaml(stack.prometheus(slo)),
        "provisioning/datasources/phonic.yml": to_yaml(stack.datasources(slo)),
        "provisioning/dashboards/phonic.yml": to_yaml(stack.dashboards()),
    }


def shipped(slo: Slo) -> dict[str, str]:
    """Return the files that ``phonic-exporter dashboards export`` writes."""
    config = stack.prometheus(slo, exporter="localhost:10058", alertmanager="localhost:9093")
    return {**_everywhere(slo), "prometheus/prometheus.yml": to_yaml(config)}


def _everywhere(slo: Slo) -> dict[str, str]:
    boards = {name: build(slo) for name, build in BOARDS.items()}
    return {
        "prometheus/recording.yml": to_yaml(rules.recording(slo)),
        "prometheus/alerts.yml": to_yaml(alerts.alerting(slo)),
        "alertmanager/alertmanager.yml": to_yaml(stack.alertmanager()),
        **{f"grafana/{name}.json": frame.to_json(classic.render(board)) for name, board in boards.items()},
        **{f"grafana-v2/{name}.json": frame.to_json(v2.render(board)) for name, board in boards.items()},
    }


def to_yaml(document: dict[str, Any]) -> str:
    """Format YAML for readers: keys in order, multi-line expressions as blocks, no aliases."""
    return _HEADER + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
