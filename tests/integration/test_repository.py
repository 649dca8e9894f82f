"""What GitHub reads: workflows and forms are valid, safe and pinned, and the changelog has releases with dates."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from exporter import __version__

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
SCHEMAS = {
    "github-workflows": WORKFLOWS,
    "dependabot": [GITHUB / "dependabot.yml"],
    "github-issue-forms": [GITHUB / "ISSUE_TEMPLATE" / "bug.yml"],
    "github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
}


def tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program of the development environment at the root of the tree."""
    command = [str(Path(sys.executable).parent / name), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_are_as_the_schemas_of_github_say(schema: str) -> None:
    done = tool("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *SCHEMAS[schema])
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_have_none_of_the_known_weaknesses() -> None:
    done = tool("zizmor", "--offline", "--no-progress", "--color=never", GITHUB)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_and_say_which_version_that_is(workflow: Path) -> None:
    used = re.findall(r"uses: (.+)", workflow.read_text())
    assert used
    for action in used:
        if not action.startswith("./"):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_both_workflows_pin_an_action_to_the_same_version() -> None:
    used = {each for path in WORKFLOWS for each in re.findall(r"uses: (\w\S+@.+)", path.read_text())}
    names = [each.partition("@")[0] for each in used]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_have_no_permissions_but_those_they_name_and_end_by_themselves(workflow: Path) -> None:
    document = yaml.safe_load(workflow.read_text())
    assert document["permissions"] == {}
    for name, job in document["jobs"].items():
        assert "permissions" in job, name
        assert "uses" in job or "timeout-minutes" in job, name


def test_changelog_has_versions_with_dates_newest_first() -> None:
    heads = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == "Unreleased"
    released = [re.fullmatch(r"(\d+)\.(\d+)\.(\d+) - (\d{4}-\d\d-\d\d)", head) for head in heads[1:]]
    assert all(released), heads
    versions = [(tuple(map(int, each.groups()[:3])), each[4]) for each in released if each]
    for newer, older in pairwise(versions):
        assert newer[0] > older[0]
        assert newer[1] >= older[1]


def test_release_notes_are_the_section_of_the_version_and_only_its_tag_gets_them() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    if re.search(rf"^## {re.escape(__version__)} - ", changelog, re.MULTILINE):
        done = tool("python", ROOT / ".ci" / "release-notes", f"v{__version__}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("- [")
        assert done.stdout.strip() in changelog
        assert "\n## " not in done.stdout
    done = tool("python", ROOT / ".ci" / "release-notes", "v99.0.0")
    assert done.returncode == 1
    assert "the tag is v99.0.0" in done.stderr


def test_hooks_before_a_commit_are_what_lint_runs() -> None:
    document = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {
        hook["entry"].removesuffix(" --force-exclude") for repo in document["repos"] for hook in repo["hooks"]
    }
    [lint] = re.findall(r"^lint: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    run = re.findall(r"^\t\$\(BIN\)/(.+)$", lint, re.MULTILINE)
    assert {hook.removeprefix(".venv/bin/") for hook in hooks} == {
        line.replace(" --check", "").removesuffix(" .") for line in run
    }


def test_everything_that_ci_names_is_there() -> None:
    for path in (*WORKFLOWS, ROOT / ".ci" / "run", ROOT / ".ci" / "dependencies"):
        text = path.read_text()
        for script in re.findall(r"(?:^|\s)(\.ci/[\w-]+)", text):
            assert (ROOT / script).exists(), script
        for folder, names in re.findall(r"(tests/\w+)/test_\{([\w,]+)\}\.py", text):
            for name in names.split(","):
                assert (ROOT / folder / f"test_{name}.py").exists(), name
        for file in re.findall(r"tests/\w+/\w+\.py", text):
            assert (ROOT / file).exists(), file
