"""Who may import whom: dependencies point one way, and each library is known to as few modules as can be."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "exporter"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Each part, and the parts it may import besides itself. A part is a module or a package, and a module listed
# here by its full name is a part of its own. No part may import what is above it: there are no cycles.
PARTS: dict[str, set[str]] = {
    # At the bottom: words, errors and plain values.
    "__init__": set(),
    "errors": set(),
    "enums": set(),
    "filelimit": set(),
    "files": set(),
    "logs": set(),
    "scrape_rule": set(),
    "shares": set(),
    "signals": set(),
    # What Phonic sends, what it adds, what was counted.
    "phonic.wire": set(),
    "phonic.schema": {"enums"},
    "phonic": {"phonic.schema", "phonic.wire", "enums", "errors", "__init__"},
    "counting": {"enums", "phonic.schema", "phonic.wire"},
    "state.history": {"counting"},
    "state.rows": {"state.history"},
    "state": {"counting", "enums", "errors", "files", "state.history", "state.rows"},
    "metrics.formats": set(),
    "metrics.catalog": {"counting", "enums"},
    "metrics": {"metrics.catalog", "metrics.formats", "counting", "enums", "shares", "state.rows"},
    "entry": {"counting", "enums", "metrics", "metrics.catalog", "shares", "state", "state.history"},
    "feed_counters": {"enums", "metrics", "metrics.catalog"},
    "conversations": {
        "counting", "entry", "enums", "feed_counters", "metrics", "metrics.catalog", "phonic.schema", "shares",
        "state",
        "state.history",
        "state.rows",
    },
    "reports": {"conversations", "enums", "phonic.schema"},
    # What waits. The watching side knows neither numbers nor HTTP servers.
    "watch": {"counting", "enums", "errors", "files", "logs", "phonic", "phonic.schema", "phonic.wire"},
    "web": {"counting", "enums", "errors", "files", "logs", "metrics.formats", "phonic.wire"},
    "recording.file": set(),
    "simulator": {"errors", "recording.file"},
    # At the top: how it all fits.
    "settings": {"counting", "errors", "metrics.catalog", "phonic", "phonic.wire"},
    "shutdown": {"signals"},
    "diagnosis": {"__init__", "enums", "phonic", "phonic.wire", "settings"},
    "recording": {"__init__", "diagnosis", "enums", "phonic", "recording.file", "settings"},
    "watching": {
        "conversations", "enums", "metrics.catalog", "phonic", "reports", "settings", "shares", "watch",
    },
    "workspaces": {"conversations", "counting", "enums", "phonic", "phonic.wire", "settings", "watch", "watching"},
    "gauges": {
        "__init__", "conversations", "counting", "enums", "metrics", "metrics.catalog", "phonic", "shares",
        "state", "watch", "watching", "web", "workspaces",
    },
    "api": {
        "__init__", "conversations", "enums", "metrics", "metrics.catalog", "metrics.formats", "settings",
        "watching", "web", "workspaces",
    },
    "people": {
        "conversations", "counting", "entry", "metrics", "metrics.catalog", "state", "state.history", "watch",
        "watching", "web", "workspaces",
    },
    "process": {"filelimit", "metrics", "phonic", "settings", "web"},
    "assembly": {
        "api", "conversations", "gauges", "metrics", "metrics.catalog", "people", "settings", "state",
        "state.rows", "web", "workspaces",
    },
    "standby": {"counting", "enums", "phonic", "state", "web"},
    "shards": {
        "__init__", "api", "assembly", "conversations", "counting", "enums", "errors", "gauges", "metrics",
        "metrics.catalog", "process", "standby", "state", "state.rows", "web", "workspaces",
    },
    "app": {
        "__init__", "assembly", "conversations", "enums", "errors", "metrics", "metrics.catalog", "phonic",
        "process", "settings", "shards", "shutdown", "state", "web", "workspaces",
    },
    "demo": {"app", "phonic", "settings", "shutdown", "simulator"},
    "completion": set(),
    "cli": {
        "__init__", "app", "completion", "demo", "diagnosis", "errors", "logs", "metrics.catalog", "phonic",
        "recording", "scrape_rule", "settings", "simulator", "state", "web",
    },
    "__main__": {"cli", "signals"},
}  # fmt: skip

# The only modules (or packages, with a dot at the end) that may import a library.
LIBRARIES: dict[str, set[str]] = {
    "trio_websocket": {"phonic.live.client"},
    "httpx": {"phonic.rest"},
    "prometheus_client": {"metrics.client_exposition", "metrics.process"},
    "sqlite3": {"state.sqlite"},
    "psycopg": {"state.postgres"},
    "hypercorn": {"simulator.server"},
    "h11": {"web.http1"},
    "jinja2": {"web.pages"},
    "markupsafe": {"web.pages"},
    "wsproto": {"diagnosis.raw_feed"},
    "starlette": {"web.", "simulator."},
    "bcrypt": {"web.security"},
    "yaml": {"web.config_file"},
    "platformdirs": {"settings"},
    "cyclopts": {"cli", "completion", "settings", "simulator.settings"},
    "msgspec": {
        "phonic.decode",
        "phonic.schema",
        "phonic.listing",
        "metrics.numbers",
        "state.blob",
        "state.history",
        "state.postgres",
        "state.sqlite",
        "watch.watch_file",
        "web.endpoints",
        "simulator.",
    },
    "structlog": {
        "logs",
        "conversations",
        "feed_counters",
        "cli",
        "app",
        "demo",
        "shutdown",
        "shards",
        "state.file",
        "state.keeper",
        "state.registrar",
        "watching",
        "workspaces",
        "phonic.rest",
        "watch.",
        "web.",
    },
    "trio": {
        "api",
        "app",
        "assembly",
        "process",
        "shards",
        "standby",
        "state.patience",
        "state.registrar",
        "cli",
        "demo",
        "diagnosis.",
        "people",
        "recording.",
        "shutdown",
        "watching",
        "workspaces",
        "state.keeper",
        "metrics.publisher",
        "metrics.loop_lag",
        "phonic.budget",
        "phonic.rest",
        "phonic.live.batching",
        "phonic.live.client",
        "phonic.live.connection",
        "phonic.live.mailbox",
        "phonic.live.tunnel",
        "watch.",
        "web.",
        "simulator.",
    },
}
EVERYWHERE = {"attrs"}
# Their work is arithmetic on values: no clock, no file, no socket, no task.
PURE = """
    enums errors counting.derive counting.finish counting.increments counting.labels counting.retention
    phonic.address phonic.body phonic.decode phonic.proxies phonic.schema phonic.walker phonic.wire
    phonic.live.errors phonic.live.fast_path phonic.live.layout
    state.blob state.ended state.rows
    metrics.catalog metrics.exposition metrics.formats metrics.numbers
    scrape_rule
""".split()
IMPURE = set(
    "trio time os socket pathlib io random threading subprocess asyncio ssl sqlite3 logging structlog".split()
)


def name_of(path: Path) -> str:
    """A module's name inside the package; a sub-package's own file has the name of the sub-package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}
modules = pytest.mark.parametrize("path", MODULES, ids=name_of)


def part_of(name: str) -> str:
    return name if name in PARTS else name.split(".", maxsplit=1)[0]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Import | ast.ImportFrom)]


def own_imports(path: Path) -> set[str]:
    """Modules of the package that a module imports."""
    here = path.relative_to(PACKAGE).parent.parts
    found = set()
    for node in imports(path):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*here[: len(here) - node.level + 1], *(node.module or "").split(".")]
            package = ".".join(filter(None, base))
            for alias in node.names:
                inside = f"{package}.{alias.name}" if package else alias.name
                found.add(inside if inside in NAMES else package or "__init__")
    return found


def libraries(path: Path) -> set[str]:
    """Top-level names of what a module imports from elsewhere."""
    found = set()
    for node in imports(path):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif not node.level:
            found.add((node.module or "").split(".")[0])
    return found


def is_allowed(name: str, allowed: set[str]) -> bool:
    return any(name == each or (each.endswith(".") and f"{name}.".startswith(each)) for each in allowed)


@modules
def test_every_module_has_a_place(path: Path) -> None:
    assert part_of(name_of(path)) in PARTS, "give it a line in PARTS"


@modules
def test_imports_point_one_way(path: Path) -> None:
    own = part_of(name_of(path))
    imported = {part_of(each) for each in own_imports(path)} - {own}
    assert imported <= PARTS[own]


def test_the_arrows_have_no_cycle() -> None:
    seen: set[str] = set()
    for part, below in PARTS.items():  # every part stands below those that it imports
        assert below <= seen | {part}, part
        seen.add(part)


@modules
def test_a_library_is_known_to_the_modules_that_may_know_it(path: Path) -> None:
    name = name_of(path)
    foreign = {each for each in libraries(path) if each in LIBRARIES or each not in sys.stdlib_module_names}
    foreign -= EVERYWHERE
    assert {each for each in foreign if not is_allowed(name, LIBRARIES.get(each, set()))} == set()


@pytest.mark.parametrize("library", LIBRARIES)
def test_no_library_is_listed_for_a_module_that_does_without(library: str) -> None:
    users = {name_of(path) for path in MODULES if library in libraries(path)}
    idle = {each for each in LIBRARIES[library] if not any(is_allowed(name, {each}) for name in users)}
    assert idle == set()


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_nothing_that_waits_or_looks_outside(name: str) -> None:
    assert name in NAMES
    assert libraries(PACKAGE / f"{name.replace('.', '/')}.py") & IMPURE == set()


@modules
def test_imports_inside_the_package_are_relative(path: Path) -> None:
    assert "exporter" not in libraries(path)


# `cli` is left out: help need not wait for what only one command uses. So are `app` and `state.installed`: the
# library for PostgreSQL is an extra.
@pytest.mark.parametrize(
    "path", [each for each in MODULES if name_of(each) not in ("app", "cli", "state.installed")], ids=name_of
)
def test_nothing_is_imported_inside_a_function(path: Path) -> None:
    for function in ast.walk(parsed(path)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            assert not [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]


@modules
def test_the_first_word_of_a_module_says_its_layer(path: Path) -> None:
    docstring = ast.get_docstring(parsed(path)) or ""
    if path.name not in ("__init__.py", "__main__.py"):
        assert docstring.split(":")[0] in ("Pure", "State", "Edge", "Tasks", "Wiring")


def test_declared_packages_are_the_ones_there_are() -> None:
    pyproject = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    packages = {".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in PACKAGE.rglob("__init__.py")}
    assert all(f'"{package}"' in pyproject for package in packages)
