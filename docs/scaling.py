"""Pure: the arithmetic of ``scaling.md``: what concurrent calls take, from assumptions for one shard."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from exporter.metrics.catalog import SERIES_OF_A_TOOL, Scope, series_of
from exporter.settings import Settings

from .markdown import table

_DEFAULTS = Settings()


def _assumed(value: float, unit: str, what: str, source: str) -> float:
    """Declare an assumption as the page shows it. ``source`` is Markdown."""
    return attrs.field(default=value, metadata={"unit": unit, "what": what, "source": source})


@attrs.frozen(kw_only=True)
class Assumptions:
    """What the table rests on. Times in seconds, sizes in bytes unless a name says otherwise."""

    call: float = _assumed(180, "s", "length of a call", "assumed")
    update: float = _assumed(2, "s", "between two updates of a call", "assumed, as in the benchmark of capacity")
    turns: float = _assumed(10, "", "turns in the mean snapshot: half of those of the whole call", "assumed")
    calls_of_shard: float = _assumed(
        _DEFAULTS.watch.limit,
        "",
        "concurrent calls in a shard",
        "default of `--watch.limit`; what [one core follows](../benchmarks/results/capacity.md)",
    )
    cores: float = _assumed(
        0.5, "cores", "process of a full shard", "[measured](../benchmarks/results/capacity.md) with a state file"
    )
    memory_mb: float = _assumed(
        667, "MB", "the same", "[measured](../benchmarks/results/capacity.md) with a state file"
    )
    spare_memory_mb: float = _assumed(60, "MB", "process that stands by", "measured by hand")
    record_reads: float = _assumed(
        2.5, "", "reads of the record of an ended call", "usually the second or third is complete"
    )
    page_rows: float = _assumed(100, "rows", "page of a list", "Phonic's limit")
    sweep: float = _assumed(60, "s", "between two sweeps", "constant")
    overlap: float = _assumed(300, "s", "read again by each sweep", "constant")
    allowance: float = _assumed(
        500, "1/s", "REST requests of an organisation", "[documented](phonic-api.md#34-limits)"
    )
    snapshot_head: float = _assumed(2100, "B", "snapshot without its turns", "Phonic's documented fields")
    snapshot_turn: float = _assumed(780, "B", "turn in a snapshot", "Phonic's documented fields")
    label_sets: float = _assumed(100, "", "label sets in each shard, such as agents", "assumed")
    tools: float = _assumed(4, "", "tools of each", "assumed")
    scrape: float = _assumed(15, "s", "between two scrapes", "assumed")
    write_cores: float = _assumed(
        0.058,
        "cores",
        "PostgreSQL, for the writes of a shard",
        "[measured](../benchmarks/results/storing.md): 58 ms for 2,500 changed calls, each second",
    )
    wal_mb: tuple[float, float] = _assumed(  # type: ignore[assignment]
        (1.4, 4.4),  # type: ignore[arg-type]
        "MB/s",
        "write-ahead log of a shard",
        "[measured](../benchmarks/results/storing.md): 4.4 with calls of 15 to 30 turns; a prototype with shorter "
        "ones: 1.4",
    )
    ended_row: float = _assumed(
        225, "B", "ended call, kept for a day, with its indexes", "measured by hand: PostgreSQL 15, a million rows"
    )
    spares: float = _assumed(0.1, "", "spare processes for each shard, at least one", "assumed")


@attrs.frozen(kw_only=True)
class Needs:
    """What so many concurrent calls take."""

    calls: int
    assumed: Assumptions = Assumptions()

    @property
    def ends(self) -> float:
        """Calls that end in a second; as many begin."""
        return self.calls / self.assumed.call

    @property
    def record_requests(self) -> float:
        """In a second."""
        return self.ends * self.assumed.record_reads

    @property
    def list_requests(self) -> float:
        """In a second: rounds read each new row once, sweeps those of their own minute and of the overlap."""
        times = 1 + (self.assumed.sweep + self.assumed.overlap) / self.assumed.sweep
        return self.ends * times / self.assumed.page_rows

    @property
    def requests(self) -> float:
        """In a second."""
        return self.record_requests + self.list_requests

    @property
    def organisations(self) -> int:
        """That these requests take."""
        return math.ceil(self.requests / self.assumed.allowance)

    @property
    def shards(self) -> int:
        return math.ceil(self.calls / self.assumed.calls_of_shard)

    @property
    def spares(self) -> int:
        return max(1, math.ceil(self.shards * self.assumed.spares))

    @property
    def cores(self) -> float:
        return self.calls / self.assumed.calls_of_shard * self.assumed.cores

    @property
    def memory_gb(self) -> float:
        return (self.shards * self.assumed.memory_mb + self.spares * self.assumed.spare_memory_mb) / 1000

    @property
    def traffic_mb(self) -> float:
        """Of all feeds, in a second."""
        size = self.assumed.snapshot_head + self.assumed.turns * self.assumed.snapshot_turn
        return self.calls / self.assumed.update * size / 1e6

    @property
    def samples(self) -> float:
        """In a second."""
        sets = self.assumed.label_sets * (series_of(Scope.CONVERSATIONS) + self.assumed.tools * SERIES_OF_A_TOOL)
        live = _DEFAULTS.metrics.per_conversation_limit * series_of(Scope.LIVE)
        return self.shards * (sets + live) / self.assumed.scrape

    @property
    def database_cores(self) -> float:
        return self.shards * self.assumed.write_cores

    @property
    def wal_mb(self) -> tuple[float, float]:
        """In a second: the least and the most."""
        least, most = self.assumed.wal_mb
        return self.shards * least, self.shards * most

    @property
    def ended_gb(self) -> float:
        """Of the calls that ended in a day."""
        return self.ends * 86_400 * self.assumed.ended_row / 1e9


def largest_organisation(assumed: Assumptions = Assumptions()) -> int:  # frozen
    """Concurrent calls with which the REST requests of one organisation are used up."""
    return int(assumed.allowance / Needs(calls=1, assumed=assumed).requests)


SHOWN: Final[Sequence[int]] = (5_000, 20_000, 35_000, 100_000)
"""Concurrent calls in the columns of the table."""


def parts() -> dict[str, str]:
    """The generated parts of the page, by the names of their markers."""
    return {"assumptions": _assumptions(), "needs": _needs()}


def _assumptions() -> str:
    rows = []
    for field in attrs.fields(Assumptions):
        values = field.default if isinstance(field.default, tuple) else (field.default,)
        value = " to ".join(f"{each:,g}" for each in values)
        rows.append(
            (field.metadata["what"], f"{value} {field.metadata['unit']}".strip(), field.metadata["source"])
        )
    return table(("assumption", "value", "from"), rows)


def _needs() -> str:
    columns = [Needs(calls=calls) for calls in SHOWN]
    return table(("concurrent calls", *(f"{each.calls:,}" for each in columns)), list(_rows(columns)))


def _rows(columns: Sequence[Needs]) -> Iterator[tuple[str, ...]]:
    yield ("calls that end in a second", *(_short(each.ends) for each in columns))
    yield ("**REST requests in a second**", *(f"**{_short(each.requests)}**" for each in columns))
    yield ("of these for records", *(_short(each.record_requests) for each in columns))
    yield ("of these for lists, by one process", *(_short(each.list_requests) for each in columns))
    yield ("organisations that this takes", *(str(each.organisations) for each in columns))
    yield ("shards, and spares", *(f"{each.shards} + {each.spares}" for each in columns))
    yield ("cores for exporters", *(_short(each.cores) for each in columns))
    yield ("memory for exporters, GB", *(_short(each.memory_gb) for each in columns))
    yield ("traffic of the feeds, MB/s", *(_short(each.traffic_mb) for each in columns))
    yield ("PostgreSQL, cores", *(_short(each.database_cores) for each in columns))
    yield (
        "PostgreSQL, write-ahead log, MB/s",
        *(" to ".join(_short(part) for part in each.wal_mb) for each in columns),
    )
    yield ("PostgreSQL, calls that ended in a day, GB", *(_short(each.ended_gb) for each in columns))
    yield ("Prometheus, samples in a second", *(_short(each.samples) for each in columns))


def _short(number: float) -> str:
    """Two significant digits: the assumptions have no more."""
    rounded = float(f"{number:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"
