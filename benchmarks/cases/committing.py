"""Tasks: duration of a scrape that waits for its commit, and lateness of the event loop with a state file."""

import statistics
import time

from ..load import Load
from ..options import Options
from ..report import Goal, Report, Table, number
from ..rig import EXPORTER, OPENMETRICS, following, scrape, serving
from .lateness import read_ticks, within

_CELLS = (0, 1000, 5000)
_LONGEST_SCRAPE_MS = {1000: 40.0, 5000: 150.0}  # p99
_PERIOD = 2.0
_PAUSE = 0.2


def committing(options: Options) -> Report:
    """Scrape with and without a state file, alternately."""
    rows, data, goals = [], {}, []
    rounds = options.rounds_or(2)
    for live in (0, 50) if options.quick else _CELLS:
        found: dict[str, tuple[list[float], list[float], int]] = {"without": ([], [], 0), "with": ([], [], 0)}
        for _ in range(rounds):
            for kind, (pages, late, lost) in list(found.items()):
                more_pages, more_late, more_lost = _measure(live, options, has_file=kind == "with")
                found[kind] = pages + more_pages, late + more_late, lost + more_lost
        for kind, (pages, late, lost) in found.items():
            p50, p99 = _quantiles(pages)
            _, late_p99 = _quantiles(late)
            name = f"{live:,} live, {kind} a state file"
            rows.append((name, f"{len(pages):,}", number(p50), number(p99), number(late_p99), str(lost)))
            data[name] = {"p50": p50, "p99": p99, "late p99": late_p99, "lost": lost, "pages": pages}
            if kind == "with":
                what = f"Committed, {live:,} live"
                if live in _LONGEST_SCRAPE_MS:
                    limit = _LONGEST_SCRAPE_MS[live]
                    goals.append(Goal(what=f"{what}: scrape p99", measured=p99, at_most=limit, unit="ms"))
                goals += [
                    Goal(what=f"{what}: lateness p99", measured=late_p99, at_most=10, unit="ms"),
                    Goal(what=f"{what}: updates lost", measured=lost, at_most=0),
                ]
    return Report(
        name="committing",
        title="Pages of committed numbers",
        method=f"An update of each live conversation every {_PERIOD:g} s; a page in OpenMetrics, packed, five "
        "times a second. With a state file a scrape has what was counted written first, and waits for it. "
        "Milliseconds; lateness is that of a ticker of 1 ms, all the time. Both kinds in turns, in one run.",
        tables=[
            Table(
                title="Scrapes",
                columns=("case", "pages", "scrape p50", "scrape p99", "loop late p99", "updates lost"),
                rows=rows,
            )
        ],
        goals=goals,
        data=data,
    )


def _measure(live: int, options: Options, *, has_file: bool) -> tuple[list[float], list[float], int]:
    """Return the milliseconds of each scrape, the lateness of each tick in ms, and the number of lost updates."""
    load = Load(conversations=live, turns=40, first=14, updates=4 if options.quick else 6, period=_PERIOD)
    ticks = options.folder / "ticks.json"
    state = options.folder / "committing.db"
    for part in options.folder.glob("committing.db*"):
        part.unlink()
    with serving(load, options.folder) as server:
        arguments = (str(state),) if has_file else ()
        with following(EXPORTER, server, options.folder, *arguments, ticks=ticks) as client:
            client.open(live)
            server.wait_open(live)
            time.sleep(_PAUSE)  # with the ticker the process is never idle
            server.go()
            pages = []
            start = time.monotonic()
            end = start + load.updates * load.period
            while time.monotonic() < end:
                pages.append(scrape(client.metrics_url, accept=OPENMETRICS, gzip=True).seconds * 1000)
                time.sleep(_PAUSE)
            server.wait_sent(load.total)
            lost = load.total - client.updates(load.total)
    return pages, within(read_ticks(ticks), [(start, end)]), lost


def _quantiles(values: list[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile."""
    quantiles = statistics.quantiles(values, n=100, method="inclusive")
    return quantiles[49], quantiles[98]
