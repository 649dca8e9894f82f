"""State: the accumulators behind a series, each with the text of its labels made once.

Rules for this file: an accumulator only grows; its labels never change, so the text before each value is
built when the series is born and a scrape formats nothing but numbers. Sums are whole billionths, so that a
total does not depend on the order in which its parts arrived.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from math import inf
from typing import NamedTuple

from .catalogue import Family
from .digits import number_text, repr_text

NANO = 1_000_000_000
EXEMPLAR_RUNES = 128  # Prometheus drops an exemplar whose label names and values are longer, without a word
EXEMPLAR_LIFE = 60.0  # seconds for which the slowest observation of a bucket is shown: a few scrapes

_SMALL = tuple(f"{count}.0" for count in range(1000))
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})


def labels_text(names: Sequence[str], values: Sequence[str]) -> str:
    """``{a="x",b="y"}`` sorted by name, as Prometheus' own client writes it; empty without labels."""
    if not names:
        return ""
    pairs = sorted(zip(names, values, strict=True))
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs) + "}"


def count_text(count: int) -> str:
    """`number_text` of a whole number from 0: most are small, and their texts are kept."""
    return _SMALL[count] if count < len(_SMALL) else number_text(count)


class Exemplar(NamedTuple):
    """The conversation behind an observation: ``labels`` is exposition text, ``at`` Unix time."""

    labels: str
    value: float
    at: float

    @property
    def text(self) -> str:
        return f" # {self.labels} {number_text(self.value)} {repr_text(self.at)}"


class Counter:
    """A sum that only grows."""

    __slots__ = ("family", "labels", "prefix", "total")

    def __init__(self, family: Family, names: Sequence[str], labels: tuple[str, ...]) -> None:
        self.family = family
        self.labels = labels
        self.total: int = 0
        self.prefix = f"{family.sample_name}{labels_text(names, labels)} "

    def add(self, amount: int) -> None:
        self.total += amount

    def copy(self) -> "Counter":
        """The numbers of this moment, with the same texts."""
        copy = Counter.__new__(Counter)
        copy.family, copy.labels, copy.prefix, copy.total = self.family, self.labels, self.prefix, self.total
        return copy

    def dump(self) -> list[int]:
        return [self.total]

    def load(self, dumped: Sequence[int]) -> None:
        (self.total,) = dumped

    def write(self, out: list[str], *, exemplars: bool) -> None:  # noqa: ARG002  # same call as a histogram's
        out.append(f"{self.prefix}{count_text(self.total)}\n")


class Histogram:
    """Counts per bucket, the exact sum, and the slowest recent observation of each bucket."""

    __slots__ = (
        "bounds", "bucket_prefixes", "count_prefix", "counts", "exemplars", "family", "labels", "nanos",
        "sum_prefix",
    )  # fmt: skip

    def __init__(self, family: Family, names: Sequence[str], labels: tuple[str, ...]) -> None:
        self.family = family
        self.labels = labels
        self.bounds = family.buckets
        self.counts = [0] * (len(self.bounds) + 1)
        self.nanos = 0
        self.exemplars: list[Exemplar | None] = [None] * len(self.counts)
        own = labels_text(names, labels)
        self.count_prefix = f"{family.name}_count{own} "
        self.sum_prefix = f"{family.name}_sum{own} "
        self.bucket_prefixes = [
            f"{family.name}_bucket{labels_text((*names, 'le'), (*labels, number_text(bound)))} "
            for bound in (*self.bounds, inf)
        ]

    def observe(self, value: float, exemplar_labels: str, at: float) -> None:
        """Count ``value`` (base unit of the family). ``exemplar_labels`` empty: no exemplar."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.nanos += round(value * NANO)
        if exemplar_labels:
            shown = self.exemplars[bucket]
            if shown is None or value >= shown.value or abs(at - shown.at) > EXEMPLAR_LIFE:
                self.exemplars[bucket] = Exemplar(exemplar_labels, value, round(at, 3))

    def copy(self) -> "Histogram":
        """The numbers of this moment, with the same texts."""
        copy = Histogram.__new__(Histogram)
        copy.family, copy.labels, copy.bounds = self.family, self.labels, self.bounds
        copy.counts, copy.nanos, copy.exemplars = self.counts[:], self.nanos, self.exemplars[:]
        copy.bucket_prefixes = self.bucket_prefixes
        copy.count_prefix, copy.sum_prefix = self.count_prefix, self.sum_prefix
        return copy

    def dump(self) -> list[int]:
        return [self.nanos, *self.counts]

    def load(self, dumped: Sequence[int]) -> None:
        self.nanos, *self.counts = dumped

    def write(self, out: list[str], *, exemplars: bool) -> None:
        total = 0
        if exemplars:
            for prefix, total, exemplar in zip(
                self.bucket_prefixes, accumulate(self.counts), self.exemplars, strict=True
            ):
                tail = exemplar.text if exemplar else ""
                out.append(f"{prefix}{count_text(total)}{tail}\n")
        else:
            for prefix, total in zip(self.bucket_prefixes, accumulate(self.counts), strict=True):
                out.append(f"{prefix}{count_text(total)}\n")
        out.append(f"{self.count_prefix}{count_text(total)}\n")
        out.append(f"{self.sum_prefix}{number_text(self.nanos / NANO)}\n")


Series = Counter | Histogram


@lru_cache(maxsize=8192)
def exemplar_labels(conversation_id: str) -> str:
    """Exemplar label text for a conversation; empty where Prometheus would drop it for its length."""
    name = "conversation_id"
    if len(name) + len(conversation_id) > EXEMPLAR_RUNES:
        return ""
    return labels_text((name,), (conversation_id,))


Sample = tuple[str, float]
"""Label text and value of one gauge series."""


class Column(NamedTuple):
    """The gauge series of one family side by side.

    Two lists in place of a tuple for each sample: a page of 1,000 live conversations takes 14 % less.
    """

    labels: Sequence[str]
    values: Sequence[float]

    @classmethod
    def present(cls, labels: Sequence[str], values: Sequence[float | None]) -> "Column":
        """Those that have a value."""
        return cls(
            [text for text, value in zip(labels, values, strict=True) if value is not None],
            [value for value in values if value is not None],
        )

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> "Column":
        pairs = list(samples)
        return cls([text for text, _ in pairs], [value for _, value in pairs])


def samples(family: Family, rows: Iterable[tuple[tuple[str, ...], float]]) -> list[Sample]:
    """Rows of label values and number, as gauge samples of ``family``."""
    return [(labels_text(family.labels, labels), value) for labels, value in rows]
