"""Tasks: cost of the state in PostgreSQL, and how long nobody shows a shard when its holder ends."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import trio

from exporter.conversations import Conversations
from exporter.metrics.store import LabelLimits, MetricStore
from exporter.state.keeper import StateKeeper
from exporter.state.postgres import Registry, Shard

from ..engine import Engine, engine
from ..load import Load
from ..options import Options
from ..processes import START_SECONDS, Failed
from ..report import Goal, Report, Table, number, spread
from ..rig import EXPORTER, Client, Server, following, scrape, serving
from .checkpointing import FIRST_TURN, change, played_calls

_LEASE: Final = 60.0
_SMALL_WRITES: Final = 200
_LEASES: Final = (2, 5)
_HELD: Final = b"\nphonic_exporter_shard_held 1"


def storing(options: Options) -> Report:
    """Write a shard after a second in which 1,000, 2,500 or 5,000 conversations changed."""
    rows, data, goals = [], {}, []
    for count in (100,) if options.quick else (1000, 2500, 5000):
        with engine() as store:
            costs = trio.run(_cost, store, count, 4 if options.quick else 16)
        for what, values in costs.items():
            rows.append((f"{count:,}: {what}", str(spread(values)) if len(values) > 1 else number(values[0])))
        data[str(count)] = costs
        goals.append(
            Goal(
                what=f"Write of a shard, {count:,} changed",
                measured=spread(costs["duration of a write, ms"]).median,
                at_most=1000,
                unit="ms",
            )
        )
    return Report(
        name="storing",
        title="State in PostgreSQL, each second",
        method="Conversations of 15 to 30 turns, each with one more turn since the last write; the first write "
        "(everything) is not counted. PostgreSQL is on the same machine, with fsync and 16 MB of shared buffers; "
        "a write waits for its log to be on disk.",
        tables=[Table(title="A write", columns=("what", "value"), rows=rows)],
        goals=goals,
        data=data,
    )


async def _cost(store: Engine, count: int, writes: int) -> dict[str, list[float]]:
    conversations = Conversations(MetricStore(LabelLimits(shard="0")), live_limit=1000, now=time.time)
    shard = _taken(store)
    keeper = StateKeeper(shard, now=time.time)
    played = played_calls(FIRST_TURN + writes)
    durations, cpu = [], []
    engine_cpu, log = store.cpu_seconds, store.log_bytes
    for turn in range(FIRST_TURN, FIRST_TURN + writes):
        change(conversations, count, played, turn)
        start, own = time.perf_counter(), time.process_time()
        await keeper.write_now(conversations, on_error=_fail)
        durations.append((time.perf_counter() - start) * 1000)
        cpu.append((time.process_time() - own) * 1000)
        if turn == FIRST_TURN:
            engine_cpu, log = store.cpu_seconds, store.log_bytes
    engine_cpu, log = store.cpu_seconds - engine_cpu, store.log_bytes - log
    small: list[float] = []
    for _ in range(_SMALL_WRITES):
        change(conversations, 1, played, FIRST_TURN + len(small) % writes)
        start = time.perf_counter()
        await keeper.write_now(conversations, on_error=_fail)
        small.append((time.perf_counter() - start) * 1000)
    await keeper.close()
    return {
        "duration of a write, ms": durations[1:],
        "CPU in the exporter, both threads, ms": cpu[1:],
        "CPU in PostgreSQL, mean, ms": [engine_cpu * 1000 / (writes - 1)],
        "write-ahead log, mean, MB": [log / (writes - 1) / 1e6],
        "duration of a write of one conversation, ms": small,
        "such writes a second, one after another": [1000 * len(small) / sum(small)],
    }


def _taken(store: Engine) -> Shard:
    registry = Registry(store.server, holder="benchmark", patience=_LEASE)
    registry.prepare(1)
    taken = registry.take(_LEASE)
    registry.close()
    assert taken is not None
    return Shard(store.server, taken, lease=_LEASE, label_names=LabelLimits().names, remembers=False)


def _fail() -> None:
    raise AssertionError("the shard was not written")


def failing_over(options: Options) -> Report:
    """End the holder of a shard; measure when the other process shows the shard."""
    rows, data, goals = [], {}, []
    for lease in (1,) if options.quick else _LEASES:
        for what, end in (("crash", _crash), ("stop", _stop)):
            seconds = _fail_over(options, lease, end)
            rows.append((f"{what}, lease of {lease} s", str(spread(seconds))))
            data[f"{what}, {lease}"] = seconds
            goals.append(
                Goal(
                    what=f"Shard not shown after a {what}, lease of {lease} s",
                    measured=max(seconds),
                    at_most=lease + 0.5 if what == "crash" else 1.0,
                    unit="s",
                )
            )
    return Report(
        name="failing-over",
        title="From the end of the holder to the page of the next one",
        method="Two exporters and 200 live conversations; PostgreSQL on the same machine. The one that holds the "
        "shard is killed, or told to stop; the page of the other is asked for every 20 ms.",
        tables=[Table(title="Seconds", columns=("how the holder ends", "s"), rows=rows)],
        goals=goals,
        data=data,
    )


def _fail_over(options: Options, lease: int, end: Callable[[Client], None]) -> list[float]:
    load = Load(conversations=200, turns=40, first=14, updates=20, period=10.0)
    seconds = []
    with engine() as store, serving(load, options.folder) as server, ExitStack() as processes:
        holder = _exporter(options, processes, server, store, lease)
        _wait_shown(holder)
        holder.open(load.conversations)
        server.wait_open(load.conversations)
        server.go()
        for _ in range(options.rounds_or(8)):
            other = _exporter(options, processes, server, store, lease)
            start = time.monotonic()
            end(holder)
            _wait_shown(other)
            seconds.append(time.monotonic() - start)
            holder = other
    return seconds


def _exporter(options: Options, processes: ExitStack, server: Server, store: Engine, lease: int) -> Client:
    folder = options.folder / f"exporter-{time.monotonic_ns()}"
    folder.mkdir()
    flags = ("--state.url", store.url, "--shard.lease", str(lease))
    return processes.enter_context(following(EXPORTER, server, folder, *flags))


def _crash(holder: Client) -> None:
    holder.process.kill()


def _stop(holder: Client) -> None:
    holder.process.terminate()


def _wait_shown(client: Client) -> None:
    deadline = time.monotonic() + START_SECONDS
    while _HELD not in scrape(client.metrics_url).page:
        if time.monotonic() > deadline:
            raise Failed(f"{client.metrics_url} never showed the shard")
        time.sleep(0.02)
