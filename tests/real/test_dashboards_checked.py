"""Rules, routing and flags before the programs that will read them: promtool, amtool, Prometheus, Alertmanager."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import files
from dashboards.slo import Slo
from tests.real.prometheus import needs

pytestmark = pytest.mark.real

ROOT = Path(files.__file__).parent
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT.parent / "compose.yaml").read_text())["services"]


def said(program: str, *arguments: str | Path) -> str:
    """What a program says that must end well."""
    done = subprocess.run(
        [needs(program), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=110
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    return text


def test_promtool_accepts_configuration_and_rules() -> None:
    prometheus = ROOT / "prometheus"
    said("promtool", "check", "rules", prometheus / "recording.yml", prometheus / "alerts.yml")
    assert "2 rule files found" in said("promtool", "check", "config", prometheus / "prometheus.yml")


@pytest.mark.parametrize("stem", sorted(path.stem for path in (ROOT / "prometheus/tests").glob("*.yml")))
def test_alerts_fire_stay_silent_and_recover_as_their_tests_say(stem: str) -> None:
    said("promtool", "test", "rules", ROOT / f"prometheus/tests/{stem}.yml")


def test_rules_of_other_objectives_pass_the_tests_generated_for_them(tmp_path: Path) -> None:
    """The generator is right for any numbers, not for the shipped ones by chance."""
    text = (ROOT / "slo.yml").read_text(encoding="utf-8")
    for old, new in (
        ("objective: 0.95", "objective: 0.9"),
        ("threshold_seconds: 1.5", "threshold_seconds: 2"),
        ("minimum: 10", "minimum: 60"),
        ("budget: 0.02", "budget: 0.01"),
        ("ratio: 0.2, minimum: 5", "ratio: 0.3, minimum: 8"),
        ("seconds: 5, callers: 2", "seconds: 8, callers: 3"),
        ("ratio: 0.8", "ratio: 0.6"),
        ("window: 5m, ratio: 0.5, minimum: 10", "window: 10m, ratio: 0.3, minimum: 4"),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    for name, content in files.render(Slo.parse(text)).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    tests = tmp_path / "prometheus/tests"
    said("promtool", "test", "rules", *(tests / f"{stem}.yml" for stem in ("callers", "budgets-fast", "exporter")))


@pytest.mark.parametrize(
    ("service", "program"), [("prometheus", "prometheus"), ("alertmanager", "prometheus-alertmanager")]
)
def test_every_flag_of_the_stack_exists(service: str, program: str) -> None:
    text = said(program, "--help")
    for flag in SERVICES[service]["command"]:
        name, _, value = flag.partition("=")
        assert re.search(rf"^\s+{re.escape(name)}\b", text, re.MULTILINE), flag
        if name == "--enable-feature":
            assert value in text


def test_amtool_accepts_the_routing() -> None:
    said("amtool", "check-config", ROOT / "alertmanager/alertmanager.yml")
