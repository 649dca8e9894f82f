"""The sdist and the wheel, the page of an index, the image's commands, and the make targets of the documents."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from html.parser import HTMLParser
from importlib.metadata import entry_points, version
from pathlib import Path

import attrs
import pytest
import yaml
from packaging.metadata import Metadata
from readme_renderer import markdown

from exporter import __version__, cli
from exporter.settings import Settings

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Each instruction as one line: name and arguments.
DOCKERFILE = [
    line.split(maxsplit=1)
    for line in (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]


# What the repository has and the sdist has not: of use to git only.
NOT_IN_SDIST = {".gitignore"}
# What setuptools writes into an sdist.
WRITTEN = re.compile(r"PKG-INFO|setup\.cfg|phonic_exporter\.egg-info/.+")


@attrs.frozen
class Built:
    """What one build of the sources has made: names of files, and the metadata that an index reads."""

    sources: set[str]
    sdist: set[str]
    wheel: set[str]
    metadata: Metadata


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist, made of what git knows of, and the wheel, made of the sdist."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no repository")
    folder = tmp_path_factory.mktemp("sources")
    sources = {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}
    for name in sources:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", f"--outdir={out}", str(folder)],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [sdist], [wheel] = out.glob("*.tar.gz"), out.glob("*.whl")
    with tarfile.open(sdist) as archive:
        in_sdist = {each.name.partition("/")[2] for each in archive.getmembers() if each.isfile()}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
        [name] = (each for each in in_wheel if each.endswith(".dist-info/METADATA"))
        metadata = Metadata.from_email(archive.read(name))
    return Built(sources, in_sdist, in_wheel, metadata)


def test_sdist_has_all_that_the_repository_has(built: Built) -> None:
    assert built.sources - built.sdist == NOT_IN_SDIST
    assert not [name for name in built.sdist - built.sources if not WRITTEN.fullmatch(name)]


def test_wheel_has_the_packages_and_what_they_read_and_nothing_of_the_sources_beside_them(built: Built) -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    shipped = set()
    for package in setuptools["packages"]:
        folder = ROOT / package.replace("exporter.dashboards", "dashboards").replace(".", "/")
        for pattern in ("*.py", *setuptools["package-data"].get(package, ())):
            shipped |= {f"{package.replace('.', '/')}/{file.relative_to(folder)}" for file in folder.glob(pattern)}
    assert {name for name in built.wheel if ".dist-info/" not in name} == shipped


class Links(HTMLParser):
    """Where links and pictures of a page lead."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, _: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found |= {value for name, value in attributes if name in ("href", "src", "srcset") and value}


def test_index_page_is_the_whole_readme_and_its_links_lead_to_the_release(built: Built) -> None:
    assert built.metadata.description_content_type == "text/markdown"
    text = built.metadata.description or ""
    readme = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) == len(readme.splitlines())
    warnings = io.StringIO()
    page = markdown.render(text, stream=warnings)
    assert page is not None, warnings.getvalue()
    assert page.count("<h2") == len(re.findall(r"^## ", readme, re.MULTILINE))
    links = Links()
    links.feed(page)
    assert not {link for link in links.found if not link.startswith(("https://", "#"))}
    # Each that leads to the repository leads to something that is there.
    there = f"{PROJECT['project']['urls']['Repository']}/"
    own = {link.removeprefix(there) for link in links.found if link.startswith(there)}
    assert own
    for link in own:
        kind, ref, path = link.partition("#")[0].split("/", 2)
        assert ref == f"v{__version__}"
        assert (ROOT / path).exists(), link
        assert kind == ("raw" if path.endswith(".png") else "blob")


def test_metadata_says_where_the_project_is_and_what_it_runs_on(built: Built) -> None:
    urls = built.metadata.project_urls or {}
    assert urls == PROJECT["project"]["urls"]
    assert set(urls) == {"Repository", "Changelog", "Documentation", "Issues"}
    assert all(url.startswith(urls["Repository"]) for url in urls.values())
    assert built.metadata.license_expression == "Apache-2.0"
    assert built.metadata.license_files == ["LICENSE"]
    pythons = {
        each.rpartition(" ")[2] for each in built.metadata.classifiers or () if re.search(r":: 3\.\d+$", each)
    }
    ci = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert pythons == set(ci["jobs"]["fast"]["strategy"]["matrix"]["python"])


def test_no_other_file_says_where_the_repository_is(built: Built) -> None:
    place = PROJECT["project"]["urls"]["Repository"].removeprefix("https://")
    texts = (name for name in built.sources if Path(name).suffix not in (".png", ".sqlite", ".gz"))
    said = {name for name in texts if place in (ROOT / name).read_text(errors="replace")}
    assert said == {"pyproject.toml"}


def instructions(name: str) -> list[str]:
    """Return the arguments of this instruction in the last stage of the Dockerfile."""
    start = max(at for at, (each, _) in enumerate(DOCKERFILE) if each == "FROM")
    return [rest for each, rest in DOCKERFILE[start:] if each == name]


def test_wheel_holds_the_whole_package_and_nothing_else() -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    assert setuptools["package-dir"] == {"exporter.dashboards": "dashboards"}
    sources = [
        file for file in (ROOT / "exporter").rglob("*") if file.is_file() and "__pycache__" not in file.parts
    ]
    folders = {".".join(file.parent.relative_to(ROOT).parts) for file in sources if file.suffix == ".py"}
    packages = set(setuptools["packages"])
    assert {name for name in packages if not name.startswith("exporter.dashboards")} == folders
    assert packages - folders == {"exporter.dashboards", "exporter.dashboards.boards"}
    data = {file.relative_to(ROOT / "exporter").as_posix() for file in sources if file.suffix != ".py"}
    assert {each for each in data if not each.startswith("web/templates/")} == {"py.typed"}
    assert setuptools["package-data"] == {
        "exporter": ["py.typed"],
        "exporter.web": ["templates/*"],
        "exporter.dashboards": ["RUNBOOK.md", "slo.yml"],
    }


def test_installed_command_is_the_program_of_this_version() -> None:
    [command] = entry_points(group="console_scripts", name="phonic-exporter")
    assert (
        command.value == "exporter.__main__:main"
    )  # not loaded, because that would install signal handlers in this process
    assert version("phonic-exporter") == __version__
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "exporter.__version__"}


def needed() -> list[str]:
    """Requirements of the program, with those of the extra that it runs with."""
    project = PROJECT["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["postgres"]]


def test_every_dependency_has_a_lowest_version() -> None:
    for requirement in needed():
        assert re.match(r"[\w-]+(\[\w+\])?>=\d", requirement), requirement


def test_lowest_versions_that_are_tested_are_those_that_are_allowed() -> None:
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    allowed = (re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)(,<[\d.]+)?", each) for each in needed())
    assert tested == {found[1]: found[2] for found in allowed if found}
    assert len(tested) == len(needed())


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


def test_image_is_built_from_every_folder_that_has_packages_and_what_the_build_reads() -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    roots = {name.partition(".")[0] for name in setuptools["packages"]} | set(setuptools["package-dir"].values())
    copied = [rest.split()[:-1] for name, rest in DOCKERFILE if name == "COPY"]
    roots |= {"pyproject.toml", "setup.py", "README.md", "LICENSE"}
    assert roots <= {name for names in copied for name in names}
    assert roots <= {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}


def test_make_targets_that_the_documents_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md", "docs/releasing.md", ".ci/run", ".github/workflows/ci.yml"):
        text = (ROOT / document).read_text()
        named = set(re.findall(r"(?:^|`|\n|- run: )make ([a-z]+)", text))
        assert named, document
        assert named <= targets, document
    [phony] = re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE)
    assert set(phony.split()) == targets
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
