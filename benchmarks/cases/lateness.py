"""Tasks: lateness of the event loop during scrapes."""

import json
import statistics
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path

from ..load import Load
from ..options import Options
from ..report import Goal, Plot, Report, Spread, Table, number
from ..rig import EXPORTER, NAIVE, OPENMETRICS, TEXT, following, scrape, serving

_QUIET, _PAUSE = "without a scrape", 0.05
_KINDS = {"text": (TEXT, False), "OpenMetrics, gzip": (OPENMETRICS, True)}

Window = tuple[float, float]
"""Start and end on the machine's monotonic clock, in seconds."""


def lateness(options: Options) -> Report:
    load = Load(conversations=100 if options.quick else 1000, turns=40, first=20, updates=20, period=1.0)
    seconds = 2.0 if options.quick else 4.0
    rows, data = [], {}
    worst: dict[str, Spread] = {}
    goals = []
    for variant in (NAIVE, EXPORTER):
        for kind, late in _measure(variant, load, seconds, options).items():
            quantiles = statistics.quantiles(late, n=1000, method="inclusive")
            p50, p99, most = quantiles[499], quantiles[989], max(late)
            rows.append((f"{variant}, {kind}", f"{len(late):,}", number(p50), number(p99), number(most)))
            data[f"{variant}, {kind}"] = {"ticks": len(late), "p50": p50, "p99": p99, "max": most}
            worst[f"{variant},\n{kind}"] = Spread(p99, p50, most)
            if variant == EXPORTER and kind != _QUIET:
                goals.append(Goal(what=f"Lateness p99, {kind}", measured=p99, at_most=10, unit="ms"))
    return Report(
        name="lateness",
        title="Lateness of the event loop during scrapes",
        method=f"{load.conversations} live conversations with an update each a second. Milliseconds by which a "
        "ticker of 1 ms is late, of the ticks that were due while a page was being scraped. The naive client "
        "renders in a thread, as prometheus_client's own server does.",
        tables=[Table(title="Milliseconds late", columns=("client", "ticks", "p50", "p99", "max"), rows=rows)],
        plots=[Plot(title="Lateness: p99, from p50 to the highest", y_label="ms", bars=worst)],
        goals=goals,
        data=data,
    )


def _measure(variant: str, load: Load, seconds: float, options: Options) -> dict[str, list[float]]:
    """Return the lateness of ticks in ms, by what was scraped meanwhile."""
    ticks_file = options.folder / "ticks.json"
    windows: dict[str, list[Window]] = {}
    with (
        serving(load, options.folder) as server,
        following(variant, server, options.folder, ticks=ticks_file) as client,
    ):
        client.open(load.conversations)
        server.wait_open(load.conversations)
        server.go()
        server.wait_sent(2 * load.conversations)
        start = time.monotonic()
        time.sleep(seconds)
        windows[_QUIET] = [(start, time.monotonic())]
        for kind, (accept, gzip) in _KINDS.items():
            windows[kind] = []
            end = time.monotonic() + seconds
            while (start := time.monotonic()) < end:
                scrape(client.metrics_url, accept=accept, gzip=gzip)
                windows[kind].append((start, time.monotonic()))
                time.sleep(_PAUSE)
    ticks = read_ticks(ticks_file)
    return {kind: within(ticks, each) for kind, each in windows.items()}


def read_ticks(path: Path) -> list[tuple[float, float]]:
    return [(due, late * 1000) for due, late in json.loads(path.read_text())]


def within(ticks: Sequence[tuple[float, float]], windows: Sequence[Window]) -> list[float]:
    """Return the lateness of the ticks that were due in a window. ``ticks`` must be in order."""
    times = [due for due, _ in ticks]
    chosen = (ticks[bisect_left(times, start) : bisect_right(times, end)] for start, end in windows)
    return [late for some in chosen for _, late in some]
