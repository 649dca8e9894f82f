"""What is shipped and promised: the packages of the wheel, the image's commands, the README's make targets."""

import json
import os
import re
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

from exporter import __version__, cli
from exporter.settings import Settings

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Each instruction as one line: its name and the rest.
DOCKERFILE = [
    line.split(maxsplit=1)
    for line in (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]


def instructions(name: str) -> list[str]:
    """What the last stage of the Dockerfile says under this name."""
    start = max(at for at, (each, _) in enumerate(DOCKERFILE) if each == "FROM")
    return [rest for each, rest in DOCKERFILE[start:] if each == name]


def test_wheel_holds_the_whole_package_and_nothing_else() -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    assert setuptools["package-dir"] == {"exporter.dashboards": "dashboards"}
    sources = [
        file for file in (ROOT / "exporter").rglob("*") if file.is_file() and "__pycache__" not in file.parts
    ]
    folders = {".".join(file.parent.relative_to(ROOT).parts) for file in sources}
    packages = set(setuptools["packages"])
    assert {name for name in packages if not name.startswith("exporter.dashboards")} == folders
    assert packages - folders == {"exporter.dashboards", "exporter.dashboards.boards"}
    data = {file.relative_to(ROOT / "exporter").as_posix() for file in sources if file.suffix != ".py"}
    assert data == {"py.typed"}
    assert setuptools["package-data"] == {
        "exporter": sorted(data),
        "exporter.dashboards": ["RUNBOOK.md", "slo.yml"],
    }


def test_installed_command_is_the_program_of_this_version() -> None:
    [command] = entry_points(group="console_scripts", name="phonic-exporter")
    assert command.value == "exporter.__main__:main"  # not loaded: it would take this process's signals
    assert version("phonic-exporter") == __version__
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "exporter.__version__"}


def test_lowest_versions_that_are_tested_are_those_that_are_allowed() -> None:
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    allowed = (re.fullmatch(r"([\w-]+)>=([\d.]+)(,<[\d.]+)?", each) for each in PROJECT["project"]["dependencies"])
    assert tested == {found[1]: found[2] for found in allowed if found}
    assert len(tested) == len(PROJECT["project"]["dependencies"])


def test_image_runs_the_program_itself_without_root_and_checks_its_health() -> None:
    assert [json.loads(each) for each in instructions("ENTRYPOINT")] == [["phonic-exporter"]]
    [user] = instructions("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    [health] = instructions("HEALTHCHECK")
    program, command = json.loads(health.partition("CMD ")[2])
    assert program == "phonic-exporter"
    assert command in cli.app
    [port] = instructions("EXPOSE")
    assert Settings().web.listen_address == (f":{port}",)
    [state] = instructions("VOLUME")
    assert any(f"STATE_DIRECTORY={state}" in each for each in instructions("ENV"))


def test_image_is_built_from_files_that_exist() -> None:
    copied = [rest.split()[:-1] for name, rest in DOCKERFILE if name == "COPY" and "--from" not in rest]
    assert copied
    for names in copied:
        for name in names:
            assert (ROOT / name).exists(), name


def test_image_is_built_from_every_folder_that_has_packages() -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    roots = {name.partition(".")[0] for name in setuptools["packages"]} | set(setuptools["package-dir"].values())
    copied = [rest.split()[:-1] for name, rest in DOCKERFILE if name == "COPY"]
    assert roots <= {name for names in copied for name in names}
    assert roots <= {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}


def test_make_targets_that_the_documents_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for document in ("README.md", ".ci/run"):
        text = (ROOT / document).read_text()
        named = set(re.findall(r"(?:^|`|\n)make ([a-z]+)", text))
        assert named, document
        assert named <= targets, document
    [phony] = re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE)
    assert set(phony.split()) == targets
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
