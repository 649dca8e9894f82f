"""State: one counter or histogram series: its counted and shown numbers, and the text of its labels.

A series only grows. Its labels never change, so the text before each value is built once, and a scrape formats
nothing but numbers. Sums are integers of billionths: a total does not depend on the order in which its parts were
added.

`exporter.metrics.store` explains counted and shown numbers, and series that are held back.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from math import inf
from typing import NamedTuple

from .catalog import Family
from .numbers import number_text, repr_text

NANO = 1_000_000_000
EXEMPLAR_RUNES = 128  # Prometheus silently drops an exemplar whose label names and values are longer
EXEMPLAR_LIFE = 60.0  # seconds for which the slowest observation of a bucket is kept: a few scrapes

_SMALL = tuple(f"{count}.0" for count in range(1000))
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})


def labels_text(names: Sequence[str], values: Sequence[str]) -> str:
    """``{a="x",b="y"}``, sorted by name as prometheus_client does; empty without labels."""
    if not names:
        return ""
    pairs = sorted(zip(names, values, strict=True))
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs) + "}"


def with_shard(shard: str, names: Sequence[str], values: Sequence[str]) -> str:
    """`labels_text`, with the label ``shard`` unless that is empty."""
    return labels_text(("shard", *names), (shard, *values)) if shard else labels_text(names, values)


def count_text(count: int) -> str:
    """`number_text` of an integer from 0. The texts of small ones, which most are, are cached."""
    return _SMALL[count] if count < len(_SMALL) else number_text(count)


class Exemplar(NamedTuple):
    """The conversation behind an observation. ``labels`` is exposition text, ``at`` is Unix time."""

    labels: str
    value: float
    at: float

    @property
    def text(self) -> str:
        return f" # {self.labels} {number_text(self.value)} {repr_text(self.at)}"


class Counter:
    """A counter series. Its numbers are one int."""

    __slots__ = ("family", "is_held_back", "labels", "prefix", "shown", "total")

    def __init__(self, family: Family, names: Sequence[str], labels: tuple[str, ...], *, shard: str = "") -> None:
        self.family = family
        self.labels = labels
        self.total: int = 0
        self.shown: int = 0
        self.is_held_back = False
        self.prefix = f"{family.sample_name}{with_shard(shard, names, labels)} "

    def add(self, amount: int) -> None:
        self.total += amount

    def freeze(self) -> int:
        """A copy of the counted numbers."""
        return self.total

    def hold_back(self) -> None:
        """Be shown at 0 until the store clears ``is_held_back``."""
        self.is_held_back = True
        self.shown = 0

    def load(self, saved: Sequence[int]) -> None:
        """Take over numbers from a state file (`saved_numbers`), as counted and as shown."""
        (self.total,) = saved
        self.shown = self.total

    def write(self, out: list[str], shown: int, *, exemplars: bool) -> None:  # noqa: ARG002  # same signature as Histogram.write
        out.append(f"{self.prefix}{count_text(shown)}\n")


HistogramNumbers = tuple[int, list[int], "list[Exemplar | None]"]
"""Sum in billionths, count of each bucket (not cumulative), and slowest recent observation of each bucket."""


class Histogram:
    """A histogram series: counts per bucket, exact sum, and the slowest recent observation of each bucket."""

    __slots__ = (
        "bounds", "bucket_prefixes", "count_prefix", "counts", "exemplars", "family", "is_held_back", "labels",
        "nanos", "shown", "sum_prefix",
    )  # fmt: skip

    def __init__(self, family: Family, names: Sequence[str], labels: tuple[str, ...], *, shard: str = "") -> None:
        self.family = family
        self.labels = labels
        self.bounds = family.buckets
        self.counts = [0] * (len(self.bounds) + 1)
        self.nanos = 0
        self.exemplars: list[Exemplar | None] = [None] * len(self.counts)
        self.shown: HistogramNumbers = self.freeze()
        self.is_held_back = False
        own = with_shard(shard, names, labels)
        self.count_prefix = f"{family.name}_count{own} "
        self.sum_prefix = f"{family.name}_sum{own} "
        self.bucket_prefixes = [
            f"{family.name}_bucket{with_shard(shard, (*names, 'le'), (*labels, number_text(bound)))} "
            for bound in (*self.bounds, inf)
        ]

    def observe(self, value: float, exemplar_labels: str, at: float) -> None:
        """Count ``value``, in the base unit of the family, at Unix time ``at``.

        ``exemplar_labels`` is the label text of its exemplar; empty for none.
        """
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.nanos += round(value * NANO)
        if exemplar_labels:
            known = self.exemplars[bucket]
            if known is None or value >= known.value or abs(at - known.at) > EXEMPLAR_LIFE:
                self.exemplars[bucket] = Exemplar(exemplar_labels, value, round(at, 3))

    def freeze(self) -> HistogramNumbers:
        """A copy of the counted numbers, with their exemplars."""
        return self.nanos, self.counts[:], self.exemplars[:]

    def hold_back(self) -> None:
        """Be shown at 0 until the store clears ``is_held_back``."""
        self.is_held_back = True
        self.shown = 0, [0] * len(self.counts), [None] * len(self.counts)

    def load(self, saved: Sequence[int]) -> None:
        """Take over numbers from a state file (`saved_numbers`), as counted and as shown."""
        self.nanos, *self.counts = saved
        self.shown = self.freeze()

    def write(self, out: list[str], shown: HistogramNumbers, *, exemplars: bool) -> None:
        nanos, counts, slowest = shown
        total = 0
        if exemplars:
            for prefix, total, exemplar in zip(self.bucket_prefixes, accumulate(counts), slowest, strict=True):
                tail = exemplar.text if exemplar else ""
                out.append(f"{prefix}{count_text(total)}{tail}\n")
        else:
            for prefix, total in zip(self.bucket_prefixes, accumulate(counts), strict=True):
                out.append(f"{prefix}{count_text(total)}\n")
        out.append(f"{self.count_prefix}{count_text(total)}\n")
        out.append(f"{self.sum_prefix}{number_text(nanos / NANO)}\n")


Series = Counter | Histogram
Numbers = int | HistogramNumbers
"""What ``freeze`` of a series returns. It is never changed."""


def saved_numbers(numbers: Numbers) -> tuple[int, ...]:
    """What a state file keeps: the total of a counter, or the sum and the count of each bucket of a histogram."""
    return (numbers,) if isinstance(numbers, int) else (numbers[0], *numbers[1])


def rebucketed(layout: Sequence[float], saved: Sequence[int], bounds: Sequence[float]) -> list[int]:
    """The `saved_numbers` of a histogram whose buckets were ``layout``, for the buckets ``bounds``.

    Each count goes to the bucket that holds the upper bound of its old one. So the sum, the total and the
    cumulative counts at bounds that both have stay the same, and no series that continues falls.
    """
    nanos, *counts = saved
    moved = [0] * (len(bounds) + 1)
    for bound, count in zip((*layout, inf), counts, strict=True):
        moved[bisect_left(bounds, bound)] += count
    return [nanos, *moved]


@lru_cache(maxsize=8192)
def exemplar_labels(conversation_id: str) -> str:
    """Label text of a conversation's exemplar; empty if it is so long that Prometheus would drop it."""
    name = "conversation_id"
    if len(name) + len(conversation_id) > EXEMPLAR_RUNES:
        return ""
    return labels_text((name,), (conversation_id,))


Sample = tuple[str, float]
"""Label text and value of a gauge series."""


class Column(NamedTuple):
    """The gauge series of one family: a list of label texts and a list of values.

    Two lists rather than one of pairs, because `number_texts` writes a list of values at once.
    """

    labels: Sequence[str]
    values: Sequence[float]

    @classmethod
    def present(cls, labels: Sequence[str], values: Sequence[float | None]) -> "Column":
        """The series that have a value."""
        return cls(
            [text for text, value in zip(labels, values, strict=True) if value is not None],
            [value for value in values if value is not None],
        )

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> "Column":
        pairs = list(samples)
        return cls([text for text, _ in pairs], [value for _, value in pairs])


def samples(names: Sequence[str], rows: Iterable[tuple[tuple[str, ...], float]]) -> list[Sample]:
    """Gauge samples from rows of label values and number. ``names`` are those of the labels."""
    return [(labels_text(names, labels), value) for labels, value in rows]
