"""Tasks: cost of the state file, each second and at the start."""

import time
from collections.abc import Sequence
from pathlib import Path

import attrs
import trio

from exporter.conversations import Conversations
from exporter.metrics.store import LabelLimits, MetricStore
from exporter.phonic.decode import decode
from exporter.phonic.schema import Snapshot
from exporter.state.keeper import StateKeeper
from exporter.state.rows import Changes

from ..calls import calls
from ..load import Load
from ..options import Options
from ..pages import newest, started_calls
from ..report import Goal, Report, Spread, Table, number, spread
from ..rig import EXPORTER, following, scrape, serving
from .updates import Unequal

_LABELS = LabelLimits()
_AGENTS = 20
FIRST_TURN = 15


def restoring(options: Options) -> Report:
    """Restore 10,000 unfinished conversations."""
    count = 1000 if options.quick else 10_000
    file = options.folder / "restore.db"
    before = Conversations(MetricStore(_LABELS), live_limit=1000, now=time.time)
    for identity, snapshot in started_calls(count, _AGENTS, newest(20)):
        before.update(identity, snapshot)
    trio.run(_write, file, before)
    size = file.stat().st_size
    taken, after = trio.run(_restore, file)
    if _numbers(after) != _numbers(before):
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
    """Write the state after a second in which 1,000 or 5,000 conversations changed."""
    rows, data, goals = [], {}, []
    for count in (100,) if options.quick else (1000, 5000):
        collecting, costs, size = _cost(options, count)
        rows += [
            (f"{count:,}: CPU ms of a write, both threads", str(costs)),
            (f"{count:,}: of these on the event loop, ms", str(collecting)),
            (f"{count:,}: size of the file with its log, MB", number(size / 1e6)),
        ]
        data[str(count)] = {"CPU ms": attrs.asdict(costs), "loop ms": attrs.asdict(collecting), "bytes": size}
        goals.append(
            Goal(
                what=f"Checkpoint of {count:,} conversations: loop",
                measured=collecting.median,
                at_most=2,
                unit="ms",
            )
        )
    return Report(
        name="checkpointing",
        title="Checkpoint, each second",
        method="Conversations of about 20 turns, each with one more turn since the last write; the first write "
        "(everything) is not counted. By default there is one a second, and one for each scrape.",
        tables=[Table(title="A write", columns=("what", "value"), rows=rows)],
        goals=goals,
        data=data,
    )


def _cost(options: Options, count: int) -> tuple[Spread, Spread, int]:
    writes = 3 if options.quick else 10
    conversations = Conversations(MetricStore(_LABELS), live_limit=1000, now=time.time)
    played = played_calls(FIRST_TURN + writes)
    file = options.folder / f"cost-{count}.db"
    return trio.run(_checkpoint, file, conversations, played, count, writes)


def _snapshots(call: Sequence[bytes]) -> list[Snapshot]:
    decoded = (decode(message).snapshot for message in call)
    return [snapshot for snapshot in decoded if snapshot is not None]


async def _write(file: Path, conversations: Conversations) -> None:
    opened = await _open(file)
    await opened.write_now(conversations, on_error=_fail)
    await opened.close()


async def _restore(file: Path) -> tuple[float, Conversations]:
    """Restore a state file; return the seconds it took, and the conversations."""
    start = time.perf_counter()
    conversations = Conversations(MetricStore(_LABELS), live_limit=1000, now=time.time)
    opened = await StateKeeper.open(file, label_names=_LABELS.names, now=time.time)
    assert opened.saved is not None
    conversations.restore(opened.saved)
    seconds = time.perf_counter() - start
    await opened.keeper.close()
    return seconds, conversations


async def _checkpoint(
    file: Path, conversations: Conversations, played: Sequence[Sequence[Snapshot]], count: int, writes: int
) -> tuple[Spread, Spread, int]:
    """Return milliseconds on the event loop, CPU milliseconds of all threads, and size in bytes."""
    checkpoint = await _open(file)
    source = _Timed(conversations)
    costs: list[float] = []
    for turn in range(FIRST_TURN, FIRST_TURN + writes):
        change(conversations, count, played, turn)
        start = time.process_time()
        await checkpoint.write_now(source, on_error=_fail)
        costs.append((time.process_time() - start) * 1000)
    await checkpoint.close()
    return spread(source.loop[1:]), spread(costs[1:]), checkpoint.size_bytes or 0


def change(conversations: Conversations, count: int, played: Sequence[Sequence[Snapshot]], turn: int) -> None:
    """Give each of ``count`` conversations its snapshot with so many turns."""
    for identity, snapshot in started_calls(count, _AGENTS, [call[turn] for call in played]):
        conversations.update(identity, snapshot)


def played_calls(turns: int) -> list[list[Snapshot]]:
    """The snapshots of different calls, one after each turn."""
    return [_snapshots(call) for call in calls(turns)]


class _Timed:
    """Wraps conversations, and records how many milliseconds of the event loop each write takes."""

    def __init__(self, conversations: Conversations) -> None:
        self.loop: list[float] = []
        self._conversations = conversations

    def changes(self, *, everything: bool = False) -> Changes:
        start = time.perf_counter()
        changes = self._conversations.changes(everything=everything)
        self.loop.append((time.perf_counter() - start) * 1000)
        return changes

    def committed(self, changes: Changes) -> None:
        start = time.perf_counter()
        self._conversations.committed(changes)
        self.loop[-1] += (time.perf_counter() - start) * 1000

    def put_back(self, changes: Changes) -> None:
        self._conversations.put_back(changes)


def _numbers(conversations: Conversations) -> list[str]:
    return sorted(map(repr, conversations.store.freeze(everything=True).rows()))


async def _open(file: Path) -> StateKeeper:
    return (await StateKeeper.open(file, label_names=_LABELS.names, now=time.time)).keeper


def _fail() -> None:
    raise AssertionError("the checkpoint was not written")
