"""``dashboards export`` of the installed wheel, without the source tree."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from dashboards import files
from dashboards.slo import PATH, Slo
from tests.e2e.prometheus import needs

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 300


def run(*command: str | Path, cwd: Path, expected: int = 0) -> str:
    """Run a program that must end with this exit code; return its standard output."""
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that the source tree does not change."""
    source = tmp_path_factory.mktemp("source")
    for name in ("exporter", "dashboards"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        source / "dist",
        ".",
        cwd=source,
    )
    [built] = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install only the wheel into a new environment; return its command."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=True)
    pip = (home / "bin/python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt")
    run(*pip, wheel, cwd=home)
    return home / "bin/phonic-exporter"


def test_wheel_has_one_package_at_the_top(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        top = {name.partition("/")[0] for name in archive.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"exporter"}


def test_export_writes_what_the_source_tree_generates_and_promtool_accepts(program: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(program, "dashboards", "export", out, cwd=tmp_path)
    written = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    generated = files.shipped(Slo.parse(PATH.read_text(encoding="utf-8")))
    assert {name: written[name].read_text(encoding="utf-8") for name in generated} == generated
    assert set(written) - set(generated) == {"slo.yml", "RUNBOOK.md"}
    rules = [out / "prometheus/recording.yml", out / "prometheus/alerts.yml"]
    run(needs("promtool"), "check", "rules", *rules, cwd=out)
    run(needs("promtool"), "check", "config", out / "prometheus/prometheus.yml", cwd=out)
    run(needs("amtool"), "check-config", out / "alertmanager/alertmanager.yml", cwd=out)
    assert run(program, "dashboards", "export", out, "--check", cwd=tmp_path) == ""


@pytest.mark.parametrize("command", [("dashboards",), ("dashboards", "export")], ids=" ".join)
def test_help_is_plain_text_as_that_of_the_other_commands(
    program: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    text = run(program, *command, "--help", cwd=tmp_path)
    assert text.isascii()
    assert "export" in text


def test_objectives_job_and_links_reach_rules_and_tiles(program: Path, tmp_path: Path) -> None:
    mine, out = tmp_path / "mine.yml", tmp_path / "out"
    text = PATH.read_text(encoding="utf-8")
    old = "threshold_seconds: 1.5"
    assert old in text
    mine.write_text(text.replace(old, "threshold_seconds: 2"), encoding="utf-8")
    flags = (
        "--slo",
        mine,
        "--job",
        "voice",
        "--grafana-url",
        "https://g.example/",
        "--runbook-url",
        "https://r.example/R",
        "--exporter-url",
        "https://x.example/phonic/",
    )
    run(program, "dashboards", "export", out, *flags, cwd=tmp_path)
    alerts = (out / "prometheus/alerts.yml").read_text(encoding="utf-8")
    assert 'up{job="voice"}' in alerts
    assert "dashboard_url: https://g.example/d/phonic-" in alerts
    assert "runbook_url: https://r.example/R#phonic" in alerts
    assert "conversations_url: https://x.example/phonic/conversations?q=" in alerts
    assert 'le="2.0"' in (out / "prometheus/recording.yml").read_text(encoding="utf-8")
    board = json.loads((out / "grafana/overview.json").read_text(encoding="utf-8"))
    tile = next(panel for panel in board["panels"] if panel["title"] == "Response p95")
    assert [step["value"] for step in tile["fieldConfig"]["defaults"]["thresholds"]["steps"]] == [None, 2, 4]
    run(needs("promtool"), "check", "rules", out / "prometheus/alerts.yml", cwd=out)


def test_an_edited_slo_file_in_the_folder_is_kept_and_used(program: Path, tmp_path: Path) -> None:
    run(program, "dashboards", "export", tmp_path, cwd=tmp_path)
    own = tmp_path / "slo.yml"
    edited = own.read_text(encoding="utf-8").replace("threshold_seconds: 1.5", "threshold_seconds: 2")
    own.write_text(edited, encoding="utf-8")
    said = run(program, "dashboards", "export", tmp_path, "--check", cwd=tmp_path, expected=1)
    assert f"differs: {tmp_path / 'prometheus/recording.yml'}" in said.splitlines()
    run(program, "dashboards", "export", tmp_path, cwd=tmp_path)
    assert own.read_text(encoding="utf-8") == edited
    (tmp_path / "RUNBOOK.md").unlink()
    said = run(program, "dashboards", "export", tmp_path, "--check", cwd=tmp_path, expected=1)
    assert said == f"missing: {tmp_path / 'RUNBOOK.md'}\n"


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--slo", "nowhere.yml"), "--slo: cannot read"),
        (("--job", 'a"b'), "slo.yml job: must be plain text"),
        (("--slo", os.devnull), "slo.yml"),
    ],
)
def test_wrong_flag_is_one_line_and_exit_code_2(
    program: Path, tmp_path: Path, flags: tuple[str, ...], reason: str
) -> None:
    done = subprocess.run(
        [program, "dashboards", "export", tmp_path / "out", *flags],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert reason in line
    assert not (tmp_path / "out").exists()
