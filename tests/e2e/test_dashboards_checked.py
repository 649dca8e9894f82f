"""Rules, routing and flags, checked with promtool, amtool, Prometheus and Alertmanager."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import files
from dashboards.slo import Slo
from tests.e2e.prometheus import INSTALLED, RELEASES, Release, needs

pytestmark = pytest.mark.e2e

ROOT = Path(files.__file__).parent
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT.parent / "compose.yaml").read_text())["services"]

EVERY_RELEASE = pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)


def said(program: str, *arguments: str | Path, release: Release = INSTALLED) -> str:
    """Run a program that must succeed; return its output."""
    done = subprocess.run(
        [needs(program, release), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=110
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    return text


@EVERY_RELEASE
def test_promtool_accepts_configuration_and_rules(release: Release) -> None:
    prometheus = ROOT / "prometheus"
    said("promtool", "check", "rules", prometheus / "recording.yml", prometheus / "alerts.yml", release=release)
    told = said("promtool", "check", "config", prometheus / "prometheus.yml", release=release)
    assert "2 rule files found" in told


def test_rules_of_other_objectives_pass_the_tests_generated_for_them(tmp_path: Path) -> None:
    """The generator must be right for other numbers than the shipped ones too."""
    text = (ROOT / "slo.yml").read_text(encoding="utf-8")
    for old, new in (
        ("objective: 0.95", "objective: 0.9"),
        ("budget: 0.0025", "budget: 0.0015"),
        ("budget: 0.0065", "budget: 0.003"),
        ("threshold_seconds: 1.5", "threshold_seconds: 2"),
        ("minimum: 10", "minimum: 60"),
        ("ratio: 0.2, minimum: 5", "ratio: 0.3, minimum: 8"),
        ("seconds: 5, callers: 2", "seconds: 8, callers: 3"),
        ("ratio: 0.8", "ratio: 0.6"),
        ("seconds: 120", "seconds: 300"),
        ("window: 5m, ratio: 0.5, minimum: 10", "window: 10m, ratio: 0.3, minimum: 4"),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    for name, content in files.render(Slo.parse(text)).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    tests = tmp_path / "prometheus/tests"
    stems = ("waiting", "callers", "replicas", "budgets-fast", "pages", "exporter")
    said("promtool", "test", "rules", *(tests / f"{stem}.yml" for stem in stems))


@EVERY_RELEASE
@pytest.mark.parametrize(
    ("service", "program"), [("prometheus", "prometheus"), ("alertmanager", "prometheus-alertmanager")]
)
def test_every_flag_of_the_stack_exists(service: str, program: str, release: Release) -> None:
    text = said(program, "--help", release=release)
    for flag in SERVICES[service]["command"]:
        name, _, value = flag.partition("=")
        assert re.search(rf"^\s+--(\[no-\])?{re.escape(name[2:])}\b", text, re.MULTILINE), flag
        if name == "--enable-feature":
            assert value in text


@EVERY_RELEASE
def test_amtool_accepts_the_routing(release: Release) -> None:
    said("amtool", "check-config", ROOT / "alertmanager/alertmanager.yml", release=release)
