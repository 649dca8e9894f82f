"""Pure: every generated file as text, by its path below ``dashboards/``. Same input, same bytes."""

from typing import Any

import yaml

from . import alerts, frame, rule_tests, rules, stack
from .boards import BOARDS
from .slo import Slo

_HEADER = "# Generated from slo.yml by `make dashboards`; changes made here are lost.\n"


def render(slo: Slo) -> dict[str, str]:
    """All generated files."""
    return {
        "prometheus/recording.yml": to_yaml(rules.recording(slo)),
        "prometheus/alerts.yml": to_yaml(alerts.alerting(slo)),
        **{f"prometheus/tests/{stem}.yml": to_yaml(tests) for stem, tests in rule_tests.rule_tests(slo).items()},
        **{f"grafana/{name}.json": frame.to_json(build(slo)) for name, build in BOARDS.items()},
        "prometheus/prometheus.yml": to_yaml(stack.prometheus(slo)),
        "alertmanager/alertmanager.yml": to_yaml(stack.alertmanager()),
        "provisioning/datasources/phonic.yml": to_yaml(stack.datasources()),
        "provisioning/dashboards/phonic.yml": to_yaml(stack.dashboards()),
    }


def to_yaml(document: dict[str, Any]) -> str:
    """YAML as a person would write it: keys in order, multi-line expressions as blocks, no aliases."""
    return _HEADER + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
