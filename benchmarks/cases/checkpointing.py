"""Tasks: what the checkpoint costs: each second, and at the start."""

import time
from collections.abc import Sequence
from pathlib import Path

import attrs
import trio

from exporter.checkpoint import Checkpoint
from exporter.metrics.ledger import LabelLimits, Ledger
from exporter.phonic.decode import decode
from exporter.phonic.model import Snapshot
from exporter.saved import Changes
from exporter.tally import Tally

from ..calls import calls
from ..load import Load
from ..options import Options
from ..pages import conversations, newest
from ..report import Report, Spread, Table, number, spread
from ..rig import EXPORTER, following, scrape, serving
from .updates import Unequal

_LABELS = LabelLimits()
_AGENTS = 20


def restoring(options: Options) -> Report:
    """10,000 unfinished conversations in the checkpoint."""
    count = 1000 if options.quick else 10_000
    file = options.folder / "restore.db"
    before = Tally(Ledger(_LABELS), live_limit=1000, now=time.time)
    for identity, snapshot in conversations(count, _AGENTS, newest(20)):
        before.update(identity, snapshot)
    trio.run(_write, file, before)
    size = file.stat().st_size
    taken, after = trio.run(_restore, file)
    if sorted(after.ledger.changes(everything=True), key=repr) != sorted(
        before.ledger.changes(everything=True), key=repr
    ):
        raise Unequal("what was restored is not what was written")
    pages: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(options.rounds_or(3)):
        for kind, flags in (("without", ()), ("with", ("--state.file", str(file)))):
            with serving(Load(conversations=count), options.folder) as server:
                start = time.perf_counter()
                with following(EXPORTER, server, options.folder, *flags) as client:
                    scrape(client.metrics_url)
                    pages[kind].append(time.perf_counter() - start)
    rows = [
        ("size of the file, MB", number(size / 1e6)),
        ("reading and taking it over, s", number(taken)),
        ("first page of a process without a checkpoint, s", str(spread(pages["without"]))),
        ("first page of a process with it, s", str(spread(pages["with"]))),
    ]
    return Report(
        name="restoring",
        title="Restoring a checkpoint",
        method=f"{count:,} unfinished conversations of 20 turns, {_AGENTS} agents; the numbers restored are "
        "compared with those written.",
        tables=[Table(title="Restoring", columns=("what", "value"), rows=rows)],
        data={"bytes": size, "seconds": taken, "first page": pages},
    )


def checkpointing(options: Options) -> Report:
    """The checkpoint of a second in which 1,000 conversations changed."""
    count = 100 if options.quick else 1000
    writes = 3 if options.quick else 10
    tally = Tally(Ledger(_LABELS), live_limit=1000, now=time.time)
    played = [_snapshots(call) for call in calls(15 + writes)]
    collecting, costs, size = trio.run(_checkpoint, options.folder / "cost.db", tally, played, count, writes)
    rows = [
        ("CPU ms of a write, both threads", str(costs)),
        ("of these on the event loop, ms", str(collecting)),
        ("size of the file with its log, MB", number(size / 1e6)),
    ]
    return Report(
        name="checkpointing",
        title="Checkpoint, each second",
        method=f"{count:,} conversations of about 20 turns, each with one more turn since the last write; "
        f"{writes} writes, the first of which (everything) is not counted. By default there is one a second.",
        tables=[Table(title="A write", columns=("what", "value"), rows=rows)],
        data={"CPU ms": attrs.asdict(costs), "loop ms": attrs.asdict(collecting), "bytes": size},
    )


def _snapshots(call: Sequence[bytes]) -> list[Snapshot]:
    decoded = (decode(message).snapshot for message in call)
    return [snapshot for snapshot in decoded if snapshot is not None]


async def _write(file: Path, tally: Tally) -> None:
    opened = await _open(file)
    await opened.write_now(tally.changes, on_error=_fail)
    await opened.close()


async def _restore(file: Path) -> tuple[float, Tally]:
    """Seconds, and what was restored."""
    start = time.perf_counter()
    tally = Tally(Ledger(_LABELS), live_limit=1000, now=time.time)
    opened = await Checkpoint.open(file, label_names=_LABELS.names, now=time.time)
    assert opened.saved is not None
    tally.restore(opened.saved)
    seconds = time.perf_counter() - start
    await opened.checkpoint.close()
    return seconds, tally


async def _checkpoint(
    file: Path, tally: Tally, played: Sequence[Sequence[Snapshot]], count: int, writes: int
) -> tuple[Spread, Spread, int]:
    """Milliseconds on the loop, CPU milliseconds altogether, and bytes."""
    checkpoint = await _open(file)
    collecting: list[float] = []
    costs: list[float] = []

    def collect(*, everything: bool) -> Changes:
        start = time.perf_counter()
        changes = tally.changes(everything=everything)
        collecting.append((time.perf_counter() - start) * 1000)
        return changes

    for turn in range(15, 15 + writes):
        for identity, snapshot in conversations(count, _AGENTS, [call[turn] for call in played]):
            tally.update(identity, snapshot)
        start = time.process_time()
        await checkpoint.write_now(collect, on_error=_fail)
        costs.append((time.process_time() - start) * 1000)
    await checkpoint.close()
    return spread(collecting[1:]), spread(costs[1:]), checkpoint.size_bytes


async def _open(file: Path) -> Checkpoint:
    return (await Checkpoint.open(file, label_names=_LABELS.names, now=time.time)).checkpoint


def _fail() -> None:
    raise AssertionError("the checkpoint was not written")
