"""Every "API 2.3" and "semantics 7" in the code leads to a section of the documents."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CODE = [
    path
    for folder in ("exporter", "tests", "benchmarks", "dashboards", "docs")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != Path(__file__)
]

_NUMBER = r"\d+(?:\.\d+)*"
_NUMBERS = rf"({_NUMBER}(?:(?:,? and |, | to ){_NUMBER})*)"
_CITATIONS = {
    "phonic-api.md": re.compile(rf"\bAPI {_NUMBERS}"),
    "semantics.md": re.compile(rf"\b[Ss]emantics {_NUMBERS}"),
}
# A citation may be broken over two lines of a docstring or a comment.
_LINE_BREAK = re.compile(r"\s*\n\s*(?:#\s*)?")
_SECTION = re.compile(rf"^#+ ({_NUMBER}) ", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_MARK = re.compile(r"(?:documented|shown|inferred|unknown)(?:, (?:documented|shown|inferred|unknown))*(?: .*)?")
_BOUND = re.compile(r"^\| [^|]+ \| ([\d,]+)(?: m?s)? \| `([\w.]+)\.(\w+)` \|$", re.MULTILINE)


def cited(text: str, page: str) -> Iterator[str]:
    """The sections of ``page`` that a text cites; of a range its two ends."""
    for found in _CITATIONS[page].finditer(_LINE_BREAK.sub(" ", text)):
        yield from re.findall(_NUMBER, found[1])


def sections(page: str) -> list[str]:
    return _SECTION.findall((DOCS / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", _CITATIONS)
def test_every_citation_leads_to_a_section(page: str) -> None:
    known = set(sections(page))
    broken = {
        f"{path.relative_to(ROOT)}: {section}"
        for path in CODE
        for section in cited(path.read_text(encoding="utf-8"), page)
        if section not in known
    }
    assert broken == set()


@pytest.mark.parametrize("page", _CITATIONS)
def test_section_numbers_are_unique_and_rise(page: str) -> None:
    numbers = [tuple(map(int, each.split("."))) for each in sections(page)]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    ("text", "page", "found"),
    [
        ("(API 1.4): 1000 is the end", "phonic-api.md", ["1.4"]),
        ("(API 1), carried by", "phonic-api.md", ["1"]),
        ("(API 3.1, 3.2).", "phonic-api.md", ["3.1", "3.2"]),
        ("(API 2.1 to 2.3, SDK 0.32.42)", "phonic-api.md", ["2.1", "2.3"]),
        ("(API 2.3, 4)", "phonic-api.md", ["2.3", "4"]),
        ("some words (API\n    2.3): more", "phonic-api.md", ["2.3"]),
        ("some words (API\n# 2.3): more", "phonic-api.md", ["2.3"]),
        ("50 requests to the REST API, 10 at once", "phonic-api.md", []),
        ("(design, Semantics 1 to 6):", "semantics.md", ["1", "6"]),
        ("(semantics 7, 9 and 10)", "semantics.md", ["7", "9", "10"]),
        ("no citation of semantics at all", "semantics.md", []),
    ],
)
def test_a_citation_is_read_in_all_its_forms(text: str, page: str, found: list[str]) -> None:
    assert list(cited(text, page)) == found


def test_every_decision_record_is_in_the_index() -> None:
    index = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    listed = set(_LINK.findall(index))
    assert {path.name for path in (DOCS / "decisions").glob("[0-9]*.md")} <= listed


def test_every_fact_about_the_api_says_how_well_it_is_known() -> None:
    unmarked = []
    is_of_facts = False
    for line in (DOCS / "phonic-api.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            is_of_facts = False
        elif cells[-1] == "mark":
            is_of_facts = True
        elif is_of_facts and not cells[-1].startswith("---") and not _MARK.fullmatch(cells[-1]):
            unmarked.append(line)
    assert unmarked == []


def test_the_bounds_of_the_semantics_are_those_of_the_code() -> None:
    bounds = _BOUND.findall((DOCS / "semantics.md").read_text(encoding="utf-8"))
    assert len(bounds) > 10
    for number, module, name in bounds:
        assert getattr(import_module(module), name) == float(number.replace(",", "")), name
