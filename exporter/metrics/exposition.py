"""Pure: the page in the three formats that Prometheus reads, byte for byte as prometheus_client would write it.

Each series keeps the text before its value (`exporter.metrics.series`), so rendering only formats numbers and
joins strings. That makes a page of ten thousand samples cheap enough for the event loop: see docs/decisions/0006
and benchmarks/results/rendering.md. `exporter.metrics.client_exposition` writes the same page with
prometheus_client.
"""

from collections.abc import Iterable, Iterator

from .catalog import Family, Kind
from .formats import Format
from .numbers import number_texts
from .series import Column, Numbers, Series

Block = tuple[Family, Iterable[tuple[Series, Numbers]] | Column]
"""A family with its series: accumulators with the numbers to write, or the column of a gauge."""

EOF = b"# EOF\n"


def render(blocks: Iterable[Block], form: Format) -> Iterator[bytes]:
    """The text of ``blocks``, one piece per family, without the end mark that `finish` adds.

    Families without series are left out.
    """
    openmetrics = form is Format.OPENMETRICS_1_0_0
    for family, rows in blocks:
        out = [_header(family, openmetrics=openmetrics)]
        if isinstance(rows, Column):
            name, texts = family.name, number_texts(rows.values)
            out += [f"{name}{labels} {text}\n" for labels, text in zip(rows.labels, texts, strict=True)]
        else:
            for series, numbers in rows:
                series.write(out, numbers, exemplars=openmetrics)  # type: ignore[arg-type]  # numbers of its kind
        # Encode each family on its own: one label that is not ASCII makes Python store the whole string with wider
        # characters, which slows down joining and encoding.
        if len(out) > 1:
            yield "".join(out).encode()


def finish(parts: Iterable[bytes], form: Format) -> Iterator[bytes]:
    """The pieces of a page, and the end mark where the format has one."""
    yield from parts
    if form is Format.OPENMETRICS_1_0_0:
        yield EOF


def _header(family: Family, *, openmetrics: bool) -> str:
    meaning = family.help.replace("\\", r"\\").replace("\n", r"\n")
    name = family.sample_name
    if openmetrics:
        meaning = meaning.replace('"', r"\"")
        name = family.name
    return f"# HELP {name} {meaning}\n# TYPE {name} {family.kind.value}\n"


def has_samples_named(family: Family, names: frozenset[str]) -> bool:
    """Whether ``names`` from ``?name[]=`` include this family, by family or by sample name."""
    if family.name in names or family.sample_name in names:
        return True
    if family.kind is Kind.HISTOGRAM:
        return any(f"{family.name}{suffix}" in names for suffix in ("_bucket", "_count", "_sum"))
    return False
