"""The documents: links lead somewhere, and what operations.md quotes from the program exists."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from docs.markdown import slug
from exporter.metrics.catalog import CATALOG, Kind
from exporter.settings import DoctorSettings, HealthcheckSettings, RecordSettings, Settings, flag_table
from exporter.simulator.settings import SimulatorSettings

ROOT = Path(__file__).parents[2]
LEFT_OUT = {".venv", "build", "dist", "node_modules"}
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*.md")
    if not any(part in LEFT_OUT or part.startswith(".") for part in path.relative_to(ROOT).parts[:-1])
)
QUOTING = ("README.md", "docs/configuration.md", "docs/operations.md")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


@cache
def without_code(page: str) -> str:
    """The text without blocks of code and comments, in which nothing is a link or a heading."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


@cache
def anchors(page: str) -> frozenset[str]:
    """The anchors that GitHub makes for headings, and those written as HTML."""
    text = without_code(page)
    found: set[str] = set(re.findall(r'<a id="([^"]+)">', text))
    times: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.*?) *#*$", text, re.MULTILINE):
        name = slug(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading))
        found.add(f"{name}-{times[name]}" if name in times else name)
        times[name] = times.get(name, 0) + 1
    return frozenset(found)


def links(page: str) -> Iterator[str]:
    """The targets of links and pictures, without a title."""
    text = re.sub(r"`[^`\n]*`(\]?)", lambda span: span[0] if span[1] else "", without_code(page))
    yield from (target.split()[0] for target in re.findall(r"\]\(([^)\s]+(?: \"[^\"]*\")?)\)", text))
    yield from re.findall(r"^\[[^\]]+\]: +(\S+)", text, re.MULTILINE)
    yield from re.findall(r'<(?:img|a)[^>]* (?:src|href)="([^"]+)"', text)


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_of_the_repository_and_an_anchor_in_it(page: str) -> None:
    wrong = []
    for link in links(page):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent.joinpath(unquote(path)).resolve() if path else ROOT / page
        if not target.is_relative_to(ROOT) or not target.exists():
            wrong.append(f"{link}: no such file")
        elif anchor and unquote(anchor) not in anchors(target.relative_to(ROOT).as_posix()):
            wrong.append(f"{link}: no such anchor")
    assert wrong == []


def test_links_and_anchors_are_found() -> None:
    """Else the test above says nothing."""
    assert {"README.md", "docs/operations.md", "dashboards/RUNBOOK.md", "benchmarks/results/README.md"} <= set(
        PAGES
    )
    assert "docs/overview.png" in set(links("README.md"))
    assert "../benchmarks/results/capacity.md" in set(links("docs/operations.md"))
    assert {"#phonic_turns_total", "#phonic_exporter_messages_total", "#turns"} <= set(links("docs/metrics.md"))
    assert {"phonic_turns_total", "all-metrics"} <= anchors("docs/metrics.md")
    assert "PhonicUpstreamUnreachable" in anchors("dashboards/RUNBOOK.md")


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def test_the_help_text_on_the_front_page_is_that_of_the_metric() -> None:
    helps = {family.name: family.help for family in CATALOG}
    said = re.findall(r"^# HELP (\w+) (.*)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert said
    assert [(name, helps[name]) for name, _ in said] == said


def code(text: str) -> Iterator[str]:
    """Spans of code, each on one line."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose))


@cache
def strings() -> frozenset[str]:
    """Every string in the program, concatenated ones as one."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "exporter").rglob("*.py")]
    constants = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return frozenset(node.value for node in constants if isinstance(node.value, str))


def test_every_log_event_in_operations_is_one_of_the_program() -> None:
    named = [name for span in code(OPERATIONS) for name in re.findall(r'event="([^"]+)"', span)]
    assert len(set(named)) > 20
    assert [name for name in named if name not in strings()] == []


def test_every_metric_that_the_documents_name_exists() -> None:
    series = {family.sample_name for family in CATALOG}
    series |= {
        f"{family.name}_{part}"
        for family in CATALOG
        if family.kind is Kind.HISTOGRAM
        for part in ("bucket", "sum", "count")
    }
    pages = (*QUOTING, "SECURITY.md", "dashboards/README.md", "dashboards/RUNBOOK.md")
    named = {
        name
        for page in pages
        for name in re.findall(r"(?<!\w)phonic_\w+", (ROOT / page).read_text(encoding="utf-8"))
        if not name.endswith("_")
    }
    assert len(named) > 30
    assert named <= series


def test_every_label_value_in_operations_is_one_that_its_metric_has() -> None:
    values = {
        (family.sample_name, label): set(closed)
        for family in CATALOG
        for label, closed in zip(family.labels, family.values, strict=False)
    }
    matched = re.findall(r'(phonic_\w+)\{(\w+)="([^"]+)"\}', OPERATIONS)
    assert matched
    for name, label, value in matched:
        if (name, label) in values:
            assert value in values[name, label]


def test_every_reason_for_a_lost_feed_has_advice() -> None:
    [family] = [each for each in CATALOG if each.name == "phonic_exporter_feed_errors"]
    table = OPERATIONS.partition("### `phonic_exporter_feed_errors_total` rises")[2].partition("\n###")[0]
    advised = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE))))
    assert advised == set(family.values[0]) - {"http_4xx", "http_other", "closed_other"}


def test_every_flag_that_the_documents_name_exists() -> None:
    rows = [
        *flag_table(Settings),
        *flag_table(DoctorSettings),
        *flag_table(HealthcheckSettings),
        *flag_table(RecordSettings),
        *flag_table(SimulatorSettings, prefix="simulator"),
    ]
    known = {row.flag for row in rows} | {
        f"--{row.key.rpartition('.')[0]}.no-{row.key.rpartition('.')[2]}" for row in rows if not row.takes
    }
    for page in QUOTING:
        named = re.findall(r"--[a-z]+\.[a-z.-]*[a-z]", (ROOT / page).read_text(encoding="utf-8"))
        assert [flag for flag in named if flag not in known] == [], page


def exporter(*argv: str) -> str:
    """What the program says on stdout, with nothing but defaults and a key."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PHONIC_")}
    command = [sys.executable, "-m", "exporter", *argv]
    environment["PHONIC_API_KEY"] = "ph_example"
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_the_number_of_series_is_what_check_config_says() -> None:
    line = exporter("check-config", "--state.file=").splitlines()[-1]
    assert f"```\n{line}\n```" in OPERATIONS


def test_every_figure_that_sizing_quotes_is_on_the_page_that_it_links() -> None:
    """Figures of benchmarks go stale otherwise."""
    section = OPERATIONS.partition("## Sizing\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if "benchmarks/results/" in line and line[0] == "|"]
    assert len(rows) > 5
    for row in rows:
        pages = re.findall(r"\]\(\.\./(benchmarks/[^)]+)\)", row[-1])
        text = "".join((ROOT / page).read_text(encoding="utf-8") for page in pages)
        figures = re.findall(r"[\d.,]*\d", row[2])
        assert figures
        assert [figure for figure in figures if figure not in text and f"{figure}.0" not in text] == [], row[0]


def test_every_symptom_says_what_to_look_at_and_what_to_do() -> None:
    section = OPERATIONS.partition("## Troubleshooting\n")[2]
    symptoms = re.findall(r"^### (.+)$", section, re.MULTILINE)
    assert len(symptoms) >= 15
    for entry in section.split("\n### ")[1:]:
        assert "**Look at**" in entry
        assert "**Do.**" in entry or "| what to do |" in entry


def test_every_command_is_on_the_front_page_and_in_the_configuration() -> None:
    listed = exporter("--help").partition("Commands ")[2].partition("\n\n")[0]
    commands = re.findall(r"^  ([a-z-]+)$", listed, re.MULTILINE)
    assert "check-config" in commands
    for page in ("README.md", "docs/configuration.md"):
        table = re.findall(
            r"^\| `phonic-exporter ([a-z-]+)", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE
        )
        assert set(commands) <= set(table), page
