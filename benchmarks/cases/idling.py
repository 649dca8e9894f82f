"""Tasks: costs besides updates: the start of the process, and discovery."""

import time

from ..load import Load
from ..options import Options
from ..report import Report, Table, number, spread
from ..rig import EXPORTER, FLOOR, following, scrape, serving


def start_up(options: Options) -> Report:
    """Measure the time from the start of the process to its first page."""
    rounds = options.rounds_or(10)
    seconds: dict[str, list[float]] = {FLOOR: [], EXPORTER: []}
    with serving(Load(conversations=1), options.folder) as server:
        for _ in range(rounds):
            for variant, found in seconds.items():
                start = time.perf_counter()
                with following(variant, server, options.folder) as client:
                    if variant == EXPORTER:
                        scrape(client.metrics_url)
                    found.append(time.perf_counter() - start)
    rows = [
        ("floor: interpreter, trio and trio-websocket imported", str(spread(seconds[FLOOR]))),
        ("exporter: first page served", str(spread(seconds[EXPORTER]))),
    ]
    return Report(
        name="start-up",
        title="Start-up time",
        method=f"Seconds from the start of the process; median (lowest to highest) of {rounds} rounds.",
        tables=[Table(title="Start-up", columns=("process", "seconds"), rows=rows)],
        data=seconds,
    )


def discovering(options: Options) -> Report:
    """Run discovery with no live conversation and with 1,000."""
    live = 100 if options.quick else 1000
    short, long = (4.0, 8.0) if options.quick else (15.0, 65.0)
    found = {
        "no discovery, nothing live": _share(Load(conversations=0), short, options, discover=False),
        "discovery, nothing live": _share(Load(conversations=0, listed=True), short, options, discover=True),
        f"no discovery, {live:,} silent feeds": _share(Load(conversations=live), short, options, discover=False),
        f"discovery, {live:,} live rows": _share(
            Load(conversations=live, listed=True), long, options, discover=True
        ),
    }
    return Report(
        name="discovering",
        title="Discovery",
        method=f"Share of a core over {short:g} s, in percent; with live rows {long:g} s, a sweep over all "
        "rows included. A round of discovery is every 5 s, a row is a conversation of 20 turns, feeds are silent.",
        tables=[
            Table(
                title="Discovery", columns=("case", "% of a core"), rows=[(k, number(v)) for k, v in found.items()]
            )
        ],
        data=found,
    )


def _share(load: Load, seconds: float, options: Options, *, discover: bool) -> float:
    with (
        serving(load, options.folder) as server,
        following(EXPORTER, server, options.folder, discover=discover) as client,
    ):
        if load.conversations and not discover:
            client.open(load.conversations)
        server.wait_open(load.conversations)
        client.process.settle()
        before = client.process.cpu_seconds
        time.sleep(seconds)
        return (client.process.cpu_seconds - before) / seconds * 100
