"""Generates the README's tables from the code: ``python -m tests.readme_tables`` updates the README."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from exporter.metrics.catalog import CATALOG, Family, Scope
from exporter.settings import flag_table

README = Path(__file__).parents[1] / "README.md"


def metric_table() -> str:
    rows = [
        (f"`{family.sample_name}`", family.kind.value, labels(family), quoted(family.help), family.derived)
        for family in CATALOG
    ]
    return table(("metric", "type", "labels", "meaning", "derived from"), rows)


def labels(family: Family) -> str:
    """Return ``L`` for the labels of ``--metrics.labels``, then the family's own labels."""
    chosen = ("L",) if family.scope is Scope.CONVERSATIONS else ()
    return ", ".join((*chosen, *(f"`{label}`" for label in family.labels)))


def quoted(text: str) -> str:
    """Convert plain text to Markdown: mark words with an underscore as code, else they would be emphasis."""
    return re.sub(r"[\w.\[\]]*_[\w.\[\]]*\w", r"`\g<0>`", text)


def flags_table() -> str:
    rows = [
        (f"`{row.flag}`", f"`{row.default}`" if row.default else "", quoted(row.meaning)) for row in flag_table()
    ]
    return table(("flag", "default", "meaning"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


TABLES = {"metrics": metric_table, "flags": flags_table}


def between(name: str, text: str) -> str:
    """Return the text between the markers of a table. Raises: ValueError unless they occur exactly once."""
    (found,) = re.findall(f"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->\n", text, re.DOTALL)
    return str(found)


def rewritten(text: str) -> str:
    """Return the README with generated tables."""
    for name, write in TABLES.items():
        marks = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->\n"
        text = text.replace(between(name, text).join(marks), write().join(marks))
    return text


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text()))
