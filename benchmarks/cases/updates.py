"""Tasks: CPU time of an update, from the socket to the metric store, for floor, naive and exporter.

Saturated cases send as fast as the client reads: caches are warm, and one wake-up reads several messages, as in an
overload. Paced cases send one snapshot per conversation and second, evenly spread, and the process sleeps in
between, as in normal operation.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import attrs

from ..load import Load
from ..options import Options
from ..processes import Failed
from ..report import Goal, Plot, Report, Table, number, ratio, spread
from ..rig import EXPORTER, FLOOR, NAIVE, OPENMETRICS, Client, Server, Totals, following, scrape, serving

VARIANTS = (FLOOR, NAIVE, EXPORTER)
SCRAPE_SECONDS = 5.0


class Unequal(Exception):
    """The variants counted differently, so that their costs cannot be compared."""


@attrs.frozen(kw_only=True)
class Cost:
    """Cost of a client in a window: ``cpu_seconds`` for ``updates`` in ``seconds``.

    ``behind`` is as in `Played`. ``superseded`` counts the updates of the whole load that were not evaluated.
    ``waited_seconds`` is how long the client has waited for its core since its start; if long, the round is not
    reliable.
    """

    cpu_seconds: float
    waited_seconds: float
    updates: int
    superseded: int
    seconds: float
    behind: float
    resident_bytes: int

    @property
    def microseconds(self) -> float:
        """CPU time of one update in µs."""
        return self.cpu_seconds / self.updates * 1e6

    @property
    def core(self) -> float:
        """Share of a core, in percent."""
        return self.cpu_seconds / self.seconds * 100


Window = Callable[[Server, Client], Cost]
Rounds = Mapping[str, Sequence[Cost]]


def saturated(server: Server, client: Client) -> Cost:
    """Measure the whole load."""
    before, start = client.process.cpu_seconds, time.monotonic()
    server.go()
    played = server.wait_sent(server.load.total)
    seconds = time.monotonic() - start
    client.process.settle()
    return _cost(client, before, played.sent, seconds, played.behind)


def paced(server: Server, client: Client) -> Cost:
    """Measure the middle of the load, with scrapes as by Prometheus (except for the floor, which has no page)."""
    load = server.load
    server.go()
    server.wait_sent(2 * load.conversations)  # the first snapshots cost more
    before, start, first = client.process.cpu_seconds, time.monotonic(), server.played()
    end = start + (load.updates - 3) * load.period
    while time.monotonic() < end:
        if client.variant != FLOOR:
            scrape(client.metrics_url, accept=OPENMETRICS, gzip=True)
        time.sleep(max(0.0, min(SCRAPE_SECONDS, end - time.monotonic())))
    last = server.played()
    cost = _cost(client, before, last.sent - first.sent, time.monotonic() - start, last.behind)
    server.wait_sent(load.total)
    client.process.settle()
    return cost


def _cost(client: Client, before: float, updates: int, seconds: float, behind: float) -> Cost:
    return Cost(
        cpu_seconds=client.process.cpu_seconds - before,
        waited_seconds=client.process.waited_seconds,
        updates=updates,
        superseded=0,
        seconds=seconds,
        behind=behind,
        resident_bytes=client.process.resident_bytes,
    )


def measure(load: Load, window: Window, options: Options, variant: str) -> tuple[Cost, Totals]:
    """Run one variant from start to end. Raises: Failed; Unequal if updates were lost."""
    with serving(load, options.folder) as server, following(variant, server, options.folder) as client:
        client.open(load.conversations)
        server.wait_open(load.conversations)
        client.process.settle()
        cost = window(server, client)
        if (received := client.updates(load.total)) != load.total:
            raise Unequal(f"{variant} received {received} of {load.total} updates")
        cost = attrs.evolve(cost, superseded=client.superseded())
        return cost, client.totals() if variant != FLOOR else {}


def play(load: Load, window: Window, options: Options, rounds: int) -> Rounds:
    """Run the rounds of all variants. Raises: Failed, Unequal."""
    costs: dict[str, list[Cost]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        counted = {}
        for variant in VARIANTS:
            cost, counted[variant] = measure(load, window, options, variant)
            costs[variant].append(cost)
        if counted[NAIVE] != counted[EXPORTER]:
            raise Unequal(f"{sorted(set(counted[NAIVE].items()) ^ set(counted[EXPORTER].items()))[:10]}")
        if not counted[EXPORTER]:
            raise Failed("nothing was counted")
    return costs


def _report(name: str, title: str, load: Load, rounds: Rounds, goals: Sequence[Goal], method: str) -> Report:
    each = {variant: [cost.microseconds for cost in costs] for variant, costs in rounds.items()}
    rows = [
        (
            variant,
            str(spread(each[variant])),
            str(ratio(each[variant], each[FLOOR])),
            str(ratio(each[NAIVE], each[variant])),
            str(spread([cost.core for cost in costs]))
            if load.period
            else number(1e6 / spread(each[variant]).median),
            number(max(cost.resident_bytes for cost in costs) / 2**20),
            number(spread([cost.superseded for cost in costs]).median / load.total * 100),
            number(max(cost.waited_seconds for cost in costs)),
        )
        for variant, costs in rounds.items()
    ]
    rate = "% of a core" if load.period else "updates a core could take in a second"
    columns = (
        "variant",
        "CPU µs an update",
        "to floor",
        "naive to it",
        rate,
        "resident MB",
        "% superseded",
        "s kept waiting",
    )
    count = len(rounds[EXPORTER])
    return Report(
        name=name,
        title=title,
        method=f"{method} Median (lowest to highest) of {count} interleaved rounds; all variants received every "
        "update, and naive and exporter counted the same.",
        tables=[Table(title="Cost of an update", columns=columns, rows=rows)],
        plots=[Plot(title=title, y_label="CPU µs an update", bars={v: spread(each[v]) for v in VARIANTS})],
        goals=goals,
        data={"load": attrs.asdict(load), "rounds": {v: [attrs.asdict(c) for c in rounds[v]] for v in VARIANTS}},
    )


def _medians(rounds: Rounds) -> tuple[float, float]:
    """Return the median ratios of exporter to floor, and of naive to exporter."""
    floor, naive, ours = ([cost.microseconds for cost in rounds[variant]] for variant in VARIANTS)
    return ratio(ours, floor).median, ratio(naive, ours).median


def _saturated(
    name: str, title: str, load: Load, options: Options, *, usual: int, to_naive: float | None = None
) -> Report:
    """Run a saturated case. ``to_naive`` is the goal for naive to exporter; None: the case has no goals."""
    if options.quick:
        load = attrs.evolve(load, conversations=load.conversations // 10)
    rounds = play(load, saturated, options, options.rounds_or(usual))
    over_floor, under_naive = _medians(rounds)
    goals = []
    if to_naive is not None:
        goals = [
            Goal(what=f"{title}: exporter to floor", measured=over_floor, at_most=1.3),
            Goal(what=f"{title}: naive to exporter", measured=under_naive, at_least=to_naive),
        ]
    method = f"{load.conversations} calls of {load.turns} turns, a snapshot after each turn, sent as fast as read."
    return _report(name, title, load, rounds, goals, method)


def short_calls(options: Options) -> Report:
    load = Load(conversations=400, turns=40, updates=40)
    return _saturated("saturated", "Saturated, 18 KB", load, options, usual=5, to_naive=4)


def long_calls(options: Options) -> Report:
    load = Load(conversations=50, turns=200, updates=200)
    return _saturated("saturated-long", "Saturated, 81 KB", load, options, usual=5, to_naive=6)


def short_calls_tls(options: Options) -> Report:
    load = Load(conversations=400, turns=40, updates=40, tls=True)
    return _saturated("saturated-tls", "Saturated, 18 KB, TLS", load, options, usual=3)


def short_calls_non_ascii(options: Options) -> Report:
    load = Load(conversations=400, turns=40, updates=40, non_ascii=True)
    return _saturated("saturated-non-ascii", "Saturated, 18 KB, not ASCII", load, options, usual=3)


def _paced(name: str, options: Options, *, tls: bool) -> Report:
    load = Load(
        conversations=100 if options.quick else 1000,
        turns=40,
        first=14,
        updates=7 if options.quick else 13,
        period=1.0,
        tls=tls,
    )
    title = f"Paced, {load.conversations:,} updates a second{', TLS' if tls else ''}"
    rounds = play(load, paced, options, options.rounds_or(3))
    over_floor, _ = _medians(rounds)
    core = spread([cost.core for cost in rounds[EXPORTER]]).median
    goals = [Goal(what=f"{title}: exporter to floor", measured=over_floor, at_most=1.3)]
    if tls:
        goals.append(Goal(what=f"{title}: share of a core", measured=core, at_most=25, unit="%"))
    method = (
        f"{load.conversations} conversations, an update each a second, from {load.first} turns on one more each; "
        f"a page in OpenMetrics every {SCRAPE_SECONDS:g} s, but for the floor, which has none."
    )
    return _report(name, title, load, rounds, goals, method)


def paced_plain(options: Options) -> Report:
    return _paced("paced", options, tls=False)


def paced_tls(options: Options) -> Report:
    return _paced("paced-tls", options, tls=True)
