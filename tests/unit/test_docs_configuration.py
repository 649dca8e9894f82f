"""docs/configuration.md: it is what the generator writes, and its examples are accepted."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs import configuration
from docs.markdown import prose, rewritten, slug
from exporter.settings import DoctorSettings, RecordSettings, flag_table
from exporter.simulator.settings import SimulatorSettings
from exporter.web import config_file
from tests.unit.certificates import make_authority, make_certificate

PAGE = Path(configuration.__file__).with_name("configuration.md")
ROWS = {row.key: row for row in flag_table()}
PIECES = {key: note.example for key, note in configuration.NOTES.items() if note.example}
WEB_CONFIG = "# /etc/phonic-exporter/web.yml"


def example(language: str, first_line: str) -> str:
    """The block of the page that begins with this line."""
    [found] = re.findall(rf"```{language}\n({first_line}\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return str(found)


def leaves(table: dict[str, Any], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in table.items():
        key = f"{prefix}{name}"
        found |= leaves(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return found


def test_the_page_is_what_the_generator_writes() -> None:
    """Else: ``make docs``."""
    text = PAGE.read_text(encoding="utf-8")
    assert text == rewritten(text, configuration.parts())


def test_every_flag_has_an_entry_with_its_variable_and_default() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for row in ROWS.values():
        assert f"\n### `{row.flag}`\n" in page
        assert f"(#{slug(row.flag)})" in page
        entry = page.partition(f"\n### `{row.flag}`\n")[2].partition("\n#")[0]
        assert f"| `{row.variable}` |" in entry
        computed = " " in row.default
        default = prose(row.default) if computed else f"`{row.default}`" if row.default else "none"
        assert f" | {default} |\n" in entry
    others = [
        *flag_table(SimulatorSettings, prefix="simulator"),
        *configuration.own_flags(DoctorSettings),
        *configuration.own_flags(RecordSettings),
    ]
    for row in others:
        assert f"| `{row.flag}` |" in page


def test_a_number_says_its_unit() -> None:
    for row in ROWS.values():
        if row.takes == "NUMBER":
            assert configuration.NOTES[row.key].value, row.flag


@pytest.mark.parametrize("key", PIECES)
def test_an_example_of_a_flag_sets_that_flag(key: str) -> None:
    assert set(leaves(tomllib.loads(PIECES[key]))) == {key}


def test_a_note_on_a_flag_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "NOTES", {"watch.unicorns": configuration.Note()})
    with pytest.raises(ValueError, match=r"watch\.unicorns"):
        configuration.parts()


def test_a_group_without_a_title_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "GROUPS", {})
    with pytest.raises(ValueError, match="phonic"):
        configuration.parts()


def test_check_config_accepts_the_example(tmp_path: Path) -> None:
    """As it stands on the page, but for the folders."""
    text = example("toml", "# /etc/phonic-exporter/exporter.toml")
    for folder in ("/etc/phonic-exporter", "/run/secrets", "/var/lib/phonic-exporter"):
        text = text.replace(f'"{folder}/', f'"{tmp_path}/')
    (tmp_path / "exporter.toml").write_text(text)
    (tmp_path / "web.yml").write_text(example("yaml", WEB_CONFIG))
    (tmp_path / "phonic-api-key").write_text("ph_example\n")
    make_authority(tmp_path)
    make_certificate(tmp_path, "server", sans="DNS:localhost")
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "check-config", f"--config.file={tmp_path}/exporter.toml"],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("PHONIC_")},
    )
    assert (done.returncode, done.stderr) == (0, "")
    for key, value in leaves(tomllib.loads(text)).items():
        shown = ",".join(value) if isinstance(value, list) else str(value)
        shown = f"{value:.1f}" if key == "watch.interval" else shown
        assert f"--{key} = {shown}\n" in done.stdout


def test_the_example_of_a_web_configuration_file_has_every_section() -> None:
    known = {"tls_server_config", "http_server_config", "basic_auth_users", "rate_limit"}
    assert set(yaml.safe_load(example("yaml", WEB_CONFIG))) == known
    parsed = config_file.parse(example("yaml", WEB_CONFIG), Path("/etc/phonic-exporter"))
    assert parsed.tls is not None
    assert parsed.rate_limit == config_file.RateLimit(0.1, 40)
    assert list(parsed.users) == ["prometheus"]


def test_the_cost_of_workspaces_is_as_measured() -> None:
    result = json.loads((PAGE.parents[1] / "benchmarks/results/workspaces.json").read_text(encoding="utf-8"))
    (one, one_share), (many, many_share) = result["data"].values()
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"took {one:.0f} MB and {one_share:.1f} % of a core in one process" in text
    assert f"and {many:,.0f} MB and {many_share:.0f} % in a process for each" in text
