"""Scripted faults under a real Prometheus and Alertmanager: all alerts within two minutes.

One Prometheus scrapes seven workspaces as seven jobs, each a simulator with an exporter of its own, so that
everything happens at the same time and the job of an alert tells its workspace. The rules are the shipped ones,
generated from an ``slo.yml`` whose windows are seconds instead of hours. Each workspace is healthy, then has a
fault, then is healthy again; at the end the exporter of the normal day is stopped and restarted. `Watch` polls
Alertmanager's API twice a second.

There are two paces: ``QUICK`` scrapes every second, which shows details; ``USUAL`` scrapes every 15 seconds, as
users do, with the shipped evaluation intervals and longer faults. Both run at the same time, and beside them
`healthy`: one exporter on a normal day under the shipped rules, scraped in every phase.
"""

import contextlib
import math
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import httpx
import trio
import yaml

from dashboards import files, slo
from dashboards.slo import Slo, seconds
from exporter.simulator.faults import parse_fault
from tests.e2e.between import Inbox, inbox
from tests.e2e.programs import ANY_PORT, STUCK_SECONDS, Program, program
from tests.e2e.prometheus import Prometheus, alertmanager, prometheus

DAY, SLOW, OUTAGE, ERRORS, STORM = "day", "slow", "outage", "errors", "storm"
UNANSWERED, STAGES = "unanswered", "stages"

# Seconds after a simulator's start, or later on a slow machine: see `_delay`.
_QUICK_FAULTS = {
    DAY: (),
    SLOW: ("slow-model=25@30:55",),
    OUTAGE: ("outage=1@30:45",),
    ERRORS: ("error-wave=0.9@30:55",),
    STORM: ("storm=1@30:", "storm=1@33:", "storm=1@36:"),
    UNANSWERED: ("no-answer=1@30:55",),
    # One after the other: the waits stay shorter than those of PhonicCallersWaiting.
    STAGES: (
        "slow-input=30@30:45",
        "slow-end-of-turn=8@45:60",
        "slow-tools=1@25:60",
        "tool-failures=1@:60",
        "barge-in=0.3",
    ),
}
_USUAL_FAULTS = {
    DAY: (),
    SLOW: ("slow-model=25@60:150",),
    OUTAGE: ("outage=1@60:105",),
    ERRORS: ("error-wave=0.9@60:150",),
    STORM: ("storm=1@60:", "storm=1@65:", "storm=1@70:", "storm=1@75:"),
    UNANSWERED: ("no-answer=1@60:150",),
    STAGES: ("slow-input=30@60:105", "slow-end-of-turn=8@105:150"),
}

# Realistic pace, so that thresholds in seconds apply; few turns, so that calls end within the test.
_CALLS = (
    "--simulator.projects=3",
    "--simulator.turns=6",
    "--simulator.warm-up=60",
)
_USUAL_TRAFFIC = ("--simulator.agents=3", "--simulator.calls-per-minute=60")
# A single agent, so that enough of its callers wait at any time for its alert, and few calls, below its limit.
_TRAFFIC = {UNANSWERED: ("--simulator.agents=1", "--simulator.calls-per-minute=30")}
_KEY = "ph_scenario"
_TIMES_LONGER = 4  # costs time only when a test fails
_LOOK_AGAIN_SECONDS = 0.5
# Seconds of the faults' time. The longer the healthy time that rules see, the less of a fault is in their windows.
_FIRST_SCRAPE = 8

# Changes to the shipped objectives for a short test.
_QUICK_SLO = """
period: 1h
burn:
  fast:
    windows: [{long: 20s, short: 5s, budget: 0.08}, {long: 60s, short: 10s, budget: 0.1}]
    lasting: 1s
    keep_firing: 3s
  slow:
    windows: [{long: 90s, short: 15s, budget: 0.075}, {long: 2m, short: 20s, budget: 0.1}]
    lasting: 2s
    keep_firing: 3s
alerts:
  callers_waiting: {callers: 3, lasting: 2s, keep_firing: 73s}
  callers_giving_up: {window: 20s, ratio: 0.3, lasting: 1s, keep_firing: 1s}
  error_endings: {window: 20s, lasting: 1s, keep_firing: 1s}
  tool_failures: {window: 20s, minimum: 20, lasting: 1s, keep_firing: 1s}
  concurrency_at_limit: {lasting: 2s, keep_firing: 1s}
  concurrency_near_limit: {lasting: 2s, keep_firing: 1s}
  # Prometheus takes up to 5 seconds from its start to its first scrape, more on a busy machine, where a scrape may
  # also take longer than its second for a while.
  exporter_down: {lasting: 30s}
  upstream_unreachable: {lasting: 2s}
  discovery_stale: {lasting: 2s}
  feed_errors: {window: 20s, lasting: 1s, keep_firing: 1s}
  watching_falls_short: {minimum: 8, lasting: 10s, keep_firing: 1s}
  conversations_lost: {window: 20s, ratio: 0.3, minimum: 8, lasting: 1s, keep_firing: 1s}
  checkpoint_failing: {window: 20s, lasting: 1s}
  schema_drift: {window: 20s, lasting: 1s}
  labels_folded: {window: 20s, lasting: 1s}
cost: {price_per_minute: 0.1}
job: day
"""

# Windows hold at least three scrapes; the alert about waiting callers is as shipped.
_USUAL_SLO = """
period: 1h
burn:
  fast:
    windows: [{long: 90s, short: 45s, budget: 0.15}]
    lasting: 30s
    keep_firing: 15s
  slow:
    windows: [{long: 2m, short: 1m, budget: 0.1}]
    lasting: 30s
    keep_firing: 15s
alerts:
  callers_waiting: {keep_firing: 2m}
  callers_giving_up: {window: 1m, ratio: 0.3, lasting: 15s, keep_firing: 15s}
  error_endings: {window: 1m, lasting: 15s, keep_firing: 15s}
  tool_failures: {window: 1m, lasting: 15s, keep_firing: 15s}
  concurrency_at_limit: {keep_firing: 15s}
  concurrency_near_limit: {lasting: 30s, keep_firing: 15s}
  exporter_down: {lasting: 45s}
  upstream_unreachable: {lasting: 15s}
  feed_errors: {window: 1m, lasting: 1s, keep_firing: 15s}
  watching_falls_short: {minimum: 8, lasting: 30s, keep_firing: 15s}
  conversations_lost: {window: 1m, ratio: 0.3, minimum: 40, lasting: 15s, keep_firing: 15s}
  checkpoint_failing: {window: 1m, lasting: 15s}
  schema_drift: {window: 1m, lasting: 15s}
  labels_folded: {window: 1m, lasting: 15s}
job: day
"""


@attrs.frozen(kw_only=True)
class Pace:
    """Scrape interval, faults with their times, and objectives of a run."""

    scrape: str
    faults: Mapping[str, tuple[str, ...]]
    changes: str
    evaluation: str | None = None
    """Evaluation interval of every group of rules; None: as shipped."""

    def objectives(self) -> Slo:
        """Return the shipped ``slo.yml`` with the changes of this pace."""
        return Slo.parse(
            yaml.safe_dump(_merged(yaml.safe_load(slo.PATH.read_text()), yaml.safe_load(self.changes)))
        )

    def patience(self) -> float:
        """Return the longest time in seconds to wait for something: a multiple of what the rules let it take.

        The last alert ends when its fault has left its window, and `keep_firing` has passed. Scrapes, evaluations
        and slow answers that are still awaited come on top.
        """
        objectives = self.objectives()
        burns = (objectives.burn.fast, objectives.burn.slow)
        lingering = [
            *(seconds(window.long) + seconds(burn.keep_firing) for burn in burns for window in burn.windows),
            *(_lingering(alert) for alert in attrs.asdict(objectives.alerts).values()),
        ]
        return _TIMES_LONGER * (max(self.edges()) + max(lingering))

    def edges(self) -> list[float]:
        """Return the times at which faults begin or end, in seconds."""
        faults = [parse_fault(fault) for texts in self.faults.values() for fault in texts]
        edges = [edge / 1000 for fault in faults for edge in (fault.since_ms, fault.until_ms)]
        return [edge for edge in edges if math.isfinite(edge)]


def _lingering(alert: Mapping[str, Any]) -> float:
    return sum(seconds(alert[key]) for key in ("window", "keep_firing") if key in alert)


QUICK = Pace(scrape="1s", evaluation="1s", faults=_QUICK_FAULTS, changes=_QUICK_SLO)
USUAL = Pace(scrape="15s", faults=_USUAL_FAULTS, changes=_USUAL_SLO)

_WATCHDOG = "PhonicWatchdog"

Alerts = Mapping[str, set[str]]
"""Names of alerts by job."""


@attrs.define
class Watch:
    """What Alertmanager's API has shown by job: all alerts, all inhibited alerts, and the alerts of the last poll.

    The watchdog, which always fires, is recorded separately.
    """

    fired: dict[str, set[str]] = attrs.field(factory=lambda: defaultdict(set))
    inhibited: dict[str, set[str]] = attrs.field(factory=lambda: defaultdict(set))
    present: dict[str, set[str]] = attrs.field(factory=lambda: defaultdict(set))
    patience: float = attrs.field(kw_only=True)
    has_watchdog: bool = False
    _looked: trio.Event = attrs.field(factory=trio.Event)

    async def run(self, url: str, http: httpx.AsyncClient) -> None:
        while True:
            present: dict[str, set[str]] = defaultdict(set)
            for alert in (await http.get(f"{url}/api/v2/alerts")).json():
                job, name = alert["labels"].get("job", ""), alert["labels"]["alertname"]
                if name == _WATCHDOG:
                    self.has_watchdog = True
                    continue
                present[job].add(name)
                self.fired[job].add(name)
                if alert["status"]["inhibitedBy"]:
                    self.inhibited[job].add(name)
            self.present = present
            self._looked.set()
            self._looked = trio.Event()
            await trio.sleep(_LOOK_AGAIN_SECONDS)

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition is true, or for ``patience``; assertions then show what is missing."""
        with trio.move_on_after(self.patience):
            while not condition():
                await self._looked.wait()

    def has_seen(self, fired: Alerts, inhibited: Alerts) -> bool:
        return all(names <= self.fired[job] for job, names in fired.items()) and all(
            names <= self.inhibited[job] for job, names in inhibited.items()
        )


@attrs.frozen(kw_only=True)
class Stage:
    """Everything that runs. Unix times: ``start``, when faults count from; ``ready``, when all can be scraped."""

    slo: Slo
    rendered: Mapping[str, str]
    server: Prometheus
    watch: Watch
    notified: Inbox
    exporters: Mapping[str, Program]
    phones: Mapping[str, str]
    start: float
    ready: float
    folder: Path


def _merged(shipped: Any, changed: Any) -> Any:
    if not isinstance(shipped, dict):
        return changed
    return {key: _merged(value, changed[key]) if key in changed else value for key, value in shipped.items()}


@contextlib.asynccontextmanager
async def stage(folder: Path, pace: Pace = QUICK) -> AsyncIterator[Stage]:
    """Start everything; kill it at the end of the block."""
    objective = pace.objectives()
    rendered = files.render(objective)
    async with contextlib.AsyncExitStack() as running:
        http = await running.enter_async_context(httpx.AsyncClient(timeout=STUCK_SECONDS))
        phones: dict[str, str] = {}
        exporters: dict[str, Program] = {}

        async def run(jobs: Iterable[str], delay: float = 0) -> None:
            simulators = {job: await running.enter_async_context(_simulator(pace, job, delay)) for job in jobs}
            phones.update({job: await _address(each) for job, each in simulators.items()})
            for job in simulators:
                exporters[job] = await running.enter_async_context(exporter(folder, job, phones[job]))

        begun = trio.current_time()
        await run([DAY])
        await exporters[DAY].url()
        delay = _delay(pace, trio.current_time() - begun)
        start = time.time() + delay
        await run([job for job in pace.faults if job != DAY], delay)
        targets = {job: await each.url() for job, each in exporters.items()}
        notified = await running.enter_async_context(inbox())
        routing = notifying(rendered["alertmanager/alertmanager.yml"], notified.url)
        alerts_at = await running.enter_async_context(alertmanager(folder, routing, http))
        config = configured(pace, folder, rendered, alerts_at, targets)
        await trio.sleep(max(0, start + _FIRST_SCRAPE - time.time()))
        server = await running.enter_async_context(prometheus(folder, "", http, config=config))
        watch = Watch(patience=pace.patience())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run, alerts_at, http)
            yield Stage(
                slo=objective,
                rendered=rendered,
                server=server,
                watch=watch,
                notified=notified,
                exporters=exporters,
                phones=phones,
                start=start,
                ready=time.time(),
                folder=folder,
            )
            nursery.cancel_scope.cancel()


def notifying(routing: str, url: str) -> str:
    """Return the shipped routing with receivers that notify ``url``."""
    config = yaml.safe_load(routing)
    for receiver in config["receivers"]:
        receiver["webhook_configs"] = [{"url": url, "send_resolved": False}]
    return yaml.safe_dump(config)


def _delay(pace: Pace, first_pair: float) -> float:
    """Return how much later the faults have to begin, since everything has to run before the first one.

    The other pairs of processes and the servers start at the same time: at worst they share one core.
    """
    needed = 1.5 * len(pace.faults) * first_pair
    return max(0.0, needed - min(pace.edges()) / 2)


def _later(fault: str, delay: float) -> str:
    parsed = parse_fault(fault)
    since, until = (
        f"{edge / 1000 + delay:.3f}" if math.isfinite(edge) else "" for edge in (parsed.since_ms, parsed.until_ms)
    )
    return f"{parsed.kind}={parsed.value}@{since}:{until}" if since or until else fault


def _simulator(pace: Pace, job: str, delay: float) -> contextlib.AbstractAsyncContextManager[Program]:
    faults = (f"--simulator.fault={_later(fault, delay)}" for fault in pace.faults[job])
    return program(
        "simulate",
        f"--simulator.listen-address={ANY_PORT}",
        f"--simulator.api-key={_KEY}",
        *_CALLS,
        *_TRAFFIC.get(job, _USUAL_TRAFFIC),
        *faults,
    )


async def _address(simulator: Program) -> str:
    line = await simulator.line("event=simulating")
    return line.partition("base_url=")[2].split()[0]


def exporter(
    folder: Path, job: str, phone: str, listen: str = ANY_PORT
) -> contextlib.AbstractAsyncContextManager[Program]:
    """Run the exporter of one workspace, with its state file in ``folder``."""
    return program(
        f"--phonic.base-url={phone}",
        "--watch.interval=2",
        f"--web.listen-address={listen}",
        f"--state.file={folder / job}.db",
        PHONIC_API_KEY=_KEY,
    )


def configured(
    pace: Pace, folder: Path, rendered: Mapping[str, str], alerts_at: str, targets: Mapping[str, str]
) -> str:
    """Return the shipped configuration with these jobs and this pace; write the rules that it names."""
    config = yaml.safe_load(rendered["prometheus/prometheus.yml"])
    for name in config["rule_files"]:
        rules = yaml.safe_load(rendered[f"prometheus/{name}"])
        for group in rules["groups"]:
            group["interval"] = pace.evaluation or group["interval"]
        (folder / name).write_text(yaml.safe_dump(rules))
    config["global"] = {"scrape_interval": pace.scrape, "evaluation_interval": pace.evaluation or pace.scrape}
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [_host(alerts_at)]}]}]
    config["scrape_configs"] = [
        {"job_name": job, "static_configs": [{"targets": [_host(url)]}]} for job, url in targets.items()
    ]
    return yaml.safe_dump(config)


def _host(url: str) -> str:
    return url.removeprefix("http://")


async def restart(playing: Stage) -> None:
    """Stop the exporter of the normal day until its alert fires, then start it again at the same address."""
    stopped, watch = playing.exporters[DAY], playing.watch
    address = _host(await stopped.url())
    stopped.signal(signal.SIGTERM)
    assert await stopped.wait() == 0
    await watch.wait(lambda: "PhonicExporterDown" in watch.present[DAY])
    async with exporter(playing.folder, DAY, playing.phones[DAY], listen=address):
        await watch.wait(lambda: not any(watch.present.values()))


@attrs.frozen(kw_only=True)
class Day:
    """Results of a Prometheus with the shipped rules on a normal day, scraped by many jobs.

    ``phases`` are the seconds within the scrape interval at which each job scraped, by interval.
    """

    alerts: set[tuple[str, str, str]]
    phases: Mapping[int, list[float]]
    rules: set[str]


_INTERVALS = (15, 60)
_JOBS_EACH = 10


async def healthy(folder: Path, scrapes: int) -> Day:
    """Run the demo until its slowest job has scraped it ``scrapes`` times."""
    rendered = files.render(attrs.evolve(slo.load(), job="every-15-0"))
    config = yaml.safe_load(rendered["prometheus/prometheus.yml"])
    for name in config["rule_files"]:
        (folder / name).write_text(rendered[f"prometheus/{name}"])
    del config["alerting"]
    async with (
        httpx.AsyncClient(timeout=STUCK_SECONDS) as http,
        program("demo", f"--web.listen-address={ANY_PORT}") as demo,
    ):
        target = _host(await demo.url())
        config["scrape_configs"] = [
            {
                "job_name": f"every-{interval}-{number}",
                "scrape_interval": f"{interval}s",
                "static_configs": [{"targets": [target]}],
            }
            for interval in _INTERVALS
            for number in range(_JOBS_EACH)
        ]
        async with prometheus(folder, "", http, config=yaml.safe_dump(config)) as server:
            jobs = len(_INTERVALS) * _JOBS_EACH
            await server.number(f"count(count_over_time(up[1h]) >= {scrapes}) >= {jobs}")
            fired = await server.get("query", query='last_over_time(ALERTS{alertstate="firing"}[1h])')
            times = await server.get("query", query="timestamp(up)")
            rules = await server.get("rules")
    return Day(
        alerts={
            (a["metric"].get("job", ""), a["metric"]["alertname"], a["metric"]["severity"])
            for a in fired["result"]
        },
        phases={
            interval: [
                float(each["value"][1]) % interval
                for each in times["result"]
                if each["metric"]["job"].startswith(f"every-{interval}-")
            ]
            for interval in _INTERVALS
        },
        rules={rule["health"] for group in rules["groups"] for rule in group["rules"]},
    )
