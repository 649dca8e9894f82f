"""Pure: the page, in the three formats Prometheus reads, byte for byte as its own client would write it.

Strategy: each series keeps the finished text before its value (`series.py`), so a scrape appends numbers and
joins once. Against ``prometheus_client.generate_latest`` on the same numbers this is 7 (text) to 13 times
(OpenMetrics) faster with 1,000 live conversations, which is what lets a page of ten thousand samples be written
on the event loop; ``tests`` hold it to the client's bytes.
"""

from collections.abc import Iterable
from typing import cast

from .catalogue import Family, Kind
from .digits import number_text
from .formats import Format
from .series import Sample, Series

Block = tuple[Family, Iterable[Series] | Iterable[Sample]]
"""A family and its series: accumulators, or label text and value."""

EOF = b"# EOF\n"


def render(blocks: Iterable[Block], form: Format) -> bytes:
    """The page of ``blocks`` without its end mark: see `finish`. Families without series are left out."""
    openmetrics = form is Format.OPENMETRICS_1_0_0
    out: list[str] = []
    for family, rows in blocks:
        start = len(out)
        out.append(_header(family, openmetrics=openmetrics))
        if family.kind is Kind.GAUGE:
            samples = cast("Iterable[Sample]", rows)
            out += [f"{family.name}{labels} {number_text(value)}\n" for labels, value in samples]
        else:
            for series in cast("Iterable[Series]", rows):
                series.write(out, exemplars=openmetrics)
        if len(out) == start + 1:
            out.pop()
    return "".join(out).encode()


def finish(parts: Iterable[bytes], form: Format) -> bytes:
    """Join pages of disjoint families into one."""
    body = b"".join(parts)
    return body + EOF if form is Format.OPENMETRICS_1_0_0 else body


def _header(family: Family, *, openmetrics: bool) -> str:
    meaning = family.help.replace("\\", r"\\").replace("\n", r"\n")
    name = family.sample_name
    if openmetrics:
        meaning = meaning.replace('"', r"\"")
        name = family.name
    return f"# HELP {name} {meaning}\n# TYPE {name} {family.kind.value}\n"


def has_samples_named(family: Family, names: frozenset[str]) -> bool:
    """Whether ``?name[]=`` asks for this family, by family or by sample name."""
    if family.name in names or family.sample_name in names:
        return True
    if family.kind is Kind.HISTOGRAM:
        return any(f"{family.name}{suffix}" in names for suffix in ("_bucket", "_count", "_sum"))
    return False
