"""docs/architecture.md and its neighbours name what there is, and draw the arrows that there are."""

import re
from pathlib import Path

import pytest

from tests.unit.test_architecture import MODULES, PACKAGE, name_of, own_imports

ROOT = PACKAGE.parent
DOCS = ROOT / "docs"
HAND_WRITTEN = ("architecture.md", "adding-a-metric.md", "semantics.md", "phonic-api.md", "glossary.md")
TEXT = (DOCS / "architecture.md").read_text(encoding="utf-8")

_PATH = re.compile(r"`((?:exporter|tests|docs|dashboards|benchmarks)/[\w./-]*)`")
_ARROW = re.compile(r"^ +(\w+) --> (\w+)$", re.MULTILINE)

PACKAGES = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
TOP = {name_of(path): path for path in MODULES if path.parent == PACKAGE and path.name != "__init__.py"}


def node(module: str) -> str:
    """The box of the diagram in which a module is; empty for the small modules at the bottom."""
    first = module.split(".")[0]
    return first if first in PACKAGES else _TOP_NODES.get(first, "")


def _packages_imported(path: Path) -> set[str]:
    return {each.split(".")[0] for each in own_imports(path)}


def _top_nodes() -> dict[str, str]:
    """The box of each top-level module: those that know no package are at the bottom."""
    known = {name for name, path in TOP.items() if _packages_imported(path) & PACKAGES}
    helpers = _packages_imported(TOP["conversations"]) & known
    boxes = dict.fromkeys(known, "wiring") | dict.fromkeys({"conversations", *helpers}, "conversations")
    return boxes | {"settings": "settings"}


_TOP_NODES = _top_nodes()


def imported() -> set[tuple[str, str]]:
    """The arrows between boxes that the imports are."""
    arrows = {(node(name_of(path)), node(each)) for path in MODULES for each in own_imports(path)}
    return {(above, below) for above, below in arrows if above and below and above != below}


@pytest.mark.parametrize("page", HAND_WRITTEN)
def test_every_path_that_is_named_exists(page: str) -> None:
    named = _PATH.findall((DOCS / page).read_text(encoding="utf-8"))
    assert [each for each in named if not (ROOT / each).exists()] == []


@pytest.mark.parametrize(
    "package", sorted({path.parent.relative_to(ROOT) for path in MODULES} - {Path("exporter")})
)
def test_every_package_is_named(package: Path) -> None:
    assert f"`{package}/`" in TEXT


@pytest.mark.parametrize("name", sorted(name for name, box in _TOP_NODES.items() if box == "wiring"))
def test_every_module_of_the_wiring_is_named(name: str) -> None:
    assert f"`exporter/{name}.py`" in TEXT


def test_the_arrows_of_the_diagram_are_the_imports() -> None:
    """But for the wiring and the settings, which may import much, and of which the diagram shows only some."""
    drawn, there = set(_ARROW.findall(TEXT)), imported()
    assert drawn - there == set()
    assert {arrow for arrow in there - drawn if arrow[0] not in ("wiring", "settings")} == set()
    assert {above for above, below in there if below == "wiring"} == set()


def test_every_invariant_names_its_test() -> None:
    section = TEXT.partition("\n## Invariants\n")[2].partition("\n## ")[0]
    invariants = re.split(r"^\d+\. ", section, flags=re.MULTILINE)[1:]
    assert len(invariants) > 10
    assert [each for each in invariants if not re.search(r"`tests/[\w/]+\.py`", each)] == []
