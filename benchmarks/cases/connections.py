"""Tasks: cost of open feeds: memory, time to open them, and the capacity of one core."""

import statistics
import time

from ..engine import engine
from ..load import Load
from ..options import Options
from ..report import Goal, Plot, Report, Table, number
from ..rig import EXPORTER, FLOOR, OPENMETRICS, Client, following, scrape, serving
from .updates import Unequal

_COUNTS = (100, 1000, 5000)


def opening(options: Options) -> Report:
    rows, data = [], {}
    lines: dict[str, list[tuple[float, float]]] = {}
    goals = []
    for tls in (False, True):
        for count in _COUNTS[:1] if options.quick else _COUNTS:
            each = {variant: _open(variant, count, tls, options) for variant in (FLOOR, EXPORTER)}
            for variant, found in each.items():
                name = f"{variant}, {'TLS' if tls else 'plain'}"
                rows.append((f"{name}, {count:,}", *(number(value) for value in found.values())))
                lines.setdefault(name, []).append((count, found["idle KB"]))
                data[f"{name}, {count}"] = found
            if tls and count == 1000:
                ratio = each[EXPORTER]["idle KB"] / each[FLOOR]["idle KB"]
                goals.append(
                    Goal(what="Memory of an idle TLS feed, exporter to floor", measured=ratio, at_most=1.3)
                )
    columns = ("client and feeds", "KB each, idle", "KB each, after a snapshot", "seconds to open", "CPU ms each")
    return Report(
        name="opening",
        title="Open feeds: memory and time",
        method="Resident memory beyond that of the process without feeds, before a first message and after one "
        "snapshot of 20 turns (the floor keeps nothing of it). Time from the first to the last handshake.",
        tables=[Table(title="Open feeds", columns=columns, rows=rows)],
        plots=[Plot(title="Memory of an idle feed", x_label="feeds", y_label="KB", lines=lines)],
        goals=goals,
        data=data,
    )


def _open(variant: str, count: int, tls: bool, options: Options) -> dict[str, float]:
    load = Load(conversations=count, turns=20, first=20, updates=1, tls=tls)
    with serving(load, options.folder) as server, following(variant, server, options.folder) as client:
        process = client.process
        process.settle()
        memory, cpu = process.resident_bytes, process.cpu_seconds
        client.open(count)
        played = server.wait_open(count)
        process.settle()
        idle, cpu = process.resident_bytes - memory, process.cpu_seconds - cpu
        server.go()
        server.wait_sent(count)
        process.settle()
        used = process.resident_bytes - memory
        if client.updates(count) != count:
            raise Unequal(f"{variant} received {client.updates()} of {count} updates")
    return {
        "idle KB": idle / count / 1024,
        "used KB": used / count / 1024,
        "seconds": played.opening,
        "CPU ms": cpu / count * 1000,
    }


def _clocks(client: Client) -> tuple[float, float]:
    """Return the seconds that the client ran, and that it waited for the core."""
    return client.process.cpu_seconds, client.process.waited_seconds


def capacity(options: Options) -> Report:
    """Follow 5,000 live conversations on one core over TLS, the default watch limit."""
    count, found = _capacity(options)
    return _capacity_report(
        "capacity", f"{count:,} live", f"{count:,} live conversations on one core", count, found
    )


def capacity_postgres(options: Options) -> Report:
    """The same with the state in PostgreSQL, written each second and for each page."""
    with engine() as store:
        cpu, log, start = store.cpu_seconds, store.log_bytes, time.monotonic()
        count, found = _capacity(options, "--state.url", store.url)
        seconds = time.monotonic() - start
        found |= {
            "PostgreSQL: share of a core, from start to stop, %": (store.cpu_seconds - cpu) / seconds * 100,
            "PostgreSQL: write-ahead log, MB/s": (store.log_bytes - log) / seconds / 1e6,
        }
    return _capacity_report(
        "capacity-postgres",
        f"{count:,} live, PostgreSQL",
        f"{count:,} live conversations on one core, state in PostgreSQL",
        count,
        found,
        aim_of_scrapes=300,
    )


def _capacity(options: Options, *flags: str) -> tuple[int, dict[str, float]]:
    """Follow many conversations; return how many, and what was measured."""
    count = 250 if options.quick else 5000
    updates = 6 if options.quick else 14
    load = Load(conversations=count, turns=40, first=14, updates=updates, period=2.0, tls=True)
    pages = []
    with serving(load, options.folder) as server, following(EXPORTER, server, options.folder, *flags) as client:
        client.open(count)
        server.wait_open(count)
        client.process.settle()
        server.go()
        server.wait_sent(2 * count)
        first, cpu, waited, start = server.played(), *_clocks(client), time.monotonic()
        end = start + (load.updates - 3) * load.period
        while time.monotonic() < end:
            pages.append(scrape(client.metrics_url, accept=OPENMETRICS, gzip=True).seconds * 1000)
            time.sleep(max(0.0, min(5.0, end - time.monotonic())))
        last, seconds = server.played(), time.monotonic() - start
        cpu, waited = (now - before for now, before in zip(_clocks(client), (cpu, waited), strict=True))
        server.wait_sent(load.total)
        client.process.settle()
        received = client.updates(load.total)
        memory = client.process.resident_bytes
    sent = last.sent - first.sent
    found = {
        "share of a core, %": cpu / seconds * 100,
        "kept waiting for the core by other programs, %": waited / seconds * 100,
        "updates a second": sent / seconds,
        "CPU µs an update": cpu / sent * 1e6,
        "latest update sent behind its time, s": last.behind,
        "updates lost": float(load.total - received),
        "scrape, median ms": statistics.median(pages),
        "scrape, longest ms": max(pages),
        "resident MB": memory / 2**20,
    }
    return count, found


def _capacity_report(
    name: str, what: str, title: str, count: int, found: dict[str, float], *, aim_of_scrapes: float = 100
) -> Report:
    return Report(
        name=name,
        title=title,
        method=f"{count:,} conversations over TLS, an update each every 2 s, from 14 turns on one more each; a "
        "page in OpenMetrics, packed, every 5 s. An update is sent behind its time when the client's sockets are "
        "full.",
        tables=[
            Table(
                title="Exporter", columns=("what", "value"), rows=[(name, number(found[name])) for name in found]
            )
        ],
        goals=[
            Goal(what=f"{what}: updates lost", measured=found["updates lost"], at_most=0),
            Goal(
                what=f"{what}: updates behind their time",
                measured=found["latest update sent behind its time, s"],
                at_most=1.0,
                unit="s",
            ),
            Goal(
                what=f"{what}: longest scrape",
                measured=found["scrape, longest ms"],
                at_most=aim_of_scrapes,
                unit="ms",
            ),
        ],
        data=found,
    )
