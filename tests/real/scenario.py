"""Scripted trouble before a real Prometheus and Alertmanager: a day's worth of alerts in two minutes.

Strategy: five workspaces, each a simulator and an exporter of its own, are scraped by one Prometheus as five jobs,
so that everything happens at once and an alert tells by its job whose it is. The rules are the shipped ones,
generated from an ``slo.yml`` whose windows are seconds instead of hours. After calm comes a fault, after it calm
again; in the end the exporter of the normal day is stopped and started again. What Alertmanager's API shows is
written down twice a second.
"""

import contextlib
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import httpx
import trio
import yaml

from dashboards import files, slo
from dashboards.slo import Slo
from tests.real.programs import ANY_PORT, Program, program
from tests.real.prometheus import Prometheus, alertmanager, prometheus

DAY, SLOW, OUTAGE, ERRORS, STORM = "day", "slow", "outage", "errors", "storm"

# Seconds after a simulator's start. The calm before must be long enough for ten processes to start.
_FAULTS = {
    DAY: (),
    SLOW: ("slow-model=25@30:55",),
    OUTAGE: ("outage=1@30:45",),
    ERRORS: ("error-wave=0.9@30:55",),
    STORM: ("storm=1@30:", "storm=1@33:", "storm=1@36:"),
}

# Life at its own pace, so that thresholds in seconds mean what they say; short calls, so that they end in time.
_CALLS = (
    "--simulator.agents=3",
    "--simulator.projects=3",
    "--simulator.calls-per-minute=60",
    "--simulator.turns=6",
    "--simulator.warm-up=60",
)
_KEY = "ph_scenario"
_PATIENCE_SECONDS = 180.0
_LOOK_AGAIN_SECONDS = 0.5

# The shipped objectives with the patience of a test. Burn factors stay about what they are: 14.4, 6, 3.
_SHORT = """
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
  callers_waiting: {callers: 3, lasting: 2s, keep_firing: 3s}
  error_endings: {window: 20s, lasting: 1s}
  tool_failures: {window: 20s, lasting: 1s}
  concurrency_near_limit: {lasting: 2s}
  exporter_down: {lasting: 2s}
  upstream_unreachable: {lasting: 2s}
  feed_errors: {window: 20s, lasting: 1s}
  watching_falls_short: {minimum: 8, lasting: 10s}
  conversations_lost: {window: 20s, ratio: 0.3, minimum: 8, lasting: 1s}
  checkpoint_failing: {window: 20s, lasting: 1s}
  schema_drift: {window: 20s, lasting: 1s}
  labels_folded: {window: 20s, lasting: 1s}
job: day
"""

Alerts = Mapping[str, set[str]]
"""Names of alerts by job."""


@attrs.define
class Watch:
    """What Alertmanager's API has shown by job: alerts ever, alerts ever inhibited, alerts of the last look."""

    fired: dict[str, set[str]] = attrs.field(factory=lambda: defaultdict(set))
    inhibited: dict[str, set[str]] = attrs.field(factory=lambda: defaultdict(set))
    present: dict[str, set[str]] = attrs.field(factory=lambda: defaultdict(set))
    _looked: trio.Event = attrs.field(factory=trio.Event)

    async def run(self, url: str, http: httpx.AsyncClient) -> None:
        while True:
            self.present = defaultdict(set)
            for alert in (await http.get(f"{url}/api/v2/alerts")).json():
                job, name = alert["labels"]["job"], alert["labels"]["alertname"]
                self.present[job].add(name)
                self.fired[job].add(name)
                if alert["status"]["inhibitedBy"]:
                    self.inhibited[job].add(name)
            self._looked.set()
            self._looked = trio.Event()
            await trio.sleep(_LOOK_AGAIN_SECONDS)

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Until a look makes it true, or patience ends; what is wrong then, assertions on this say better."""
        with trio.move_on_after(_PATIENCE_SECONDS):
            while not condition():
                await self._looked.wait()

    def has_seen(self, fired: Alerts, inhibited: Alerts) -> bool:
        return all(names <= self.fired[job] for job, names in fired.items()) and all(
            names <= self.inhibited[job] for job, names in inhibited.items()
        )


@attrs.frozen(kw_only=True)
class Stage:
    """Everything that runs. Unix times: ``start`` of the first process, ``ready`` when all could be scraped."""

    slo: Slo
    rendered: Mapping[str, str]
    server: Prometheus
    watch: Watch
    exporters: Mapping[str, Program]
    phones: Mapping[str, str]
    start: float
    ready: float
    folder: Path


def objectives() -> Slo:
    """The shipped ``slo.yml`` with the patience of a test."""
    return Slo.parse(yaml.safe_dump(_merged(yaml.safe_load(slo.PATH.read_text()), yaml.safe_load(_SHORT))))


def _merged(shipped: Any, changed: Any) -> Any:
    if not isinstance(shipped, dict):
        return changed
    return {key: _merged(value, changed[key]) if key in changed else value for key, value in shipped.items()}


@contextlib.asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    """Start everything; all is killed when the block ends."""
    start = time.time()
    objective = objectives()
    rendered = files.render(objective)
    async with contextlib.AsyncExitStack() as running:
        http = await running.enter_async_context(httpx.AsyncClient(timeout=30))
        simulators = {job: await running.enter_async_context(_simulator(job)) for job in _FAULTS}
        phones = {job: await _address(each) for job, each in simulators.items()}
        exporters = {
            job: await running.enter_async_context(exporter(folder, job, phone)) for job, phone in phones.items()
        }
        targets = {job: await each.url() for job, each in exporters.items()}
        alerts_at = await running.enter_async_context(
            alertmanager(folder, rendered["alertmanager/alertmanager.yml"], http)
        )
        config = _configured(folder, rendered, alerts_at, targets)
        server = await running.enter_async_context(prometheus(folder, "", http, config=config))
        watch = Watch()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run, alerts_at, http)
            yield Stage(
                slo=objective,
                rendered=rendered,
                server=server,
                watch=watch,
                exporters=exporters,
                phones=phones,
                start=start,
                ready=time.time(),
                folder=folder,
            )
            nursery.cancel_scope.cancel()


def _simulator(job: str) -> contextlib.AbstractAsyncContextManager[Program]:
    faults = (f"--simulator.fault={fault}" for fault in _FAULTS[job])
    return program(
        "simulate",
        f"--simulator.listen-address={ANY_PORT}",
        f"--simulator.api-key={_KEY}",
        *_CALLS,
        *faults,
    )


async def _address(simulator: Program) -> str:
    line = await simulator.line("event=simulating")
    return line.partition("base_url=")[2].split()[0]


def exporter(
    folder: Path, job: str, phone: str, listen: str = ANY_PORT
) -> contextlib.AbstractAsyncContextManager[Program]:
    """The exporter of one workspace, with its checkpoint in ``folder``."""
    return program(
        f"--phonic.base-url={phone}",
        "--watch.interval=2",
        f"--web.listen-address={listen}",
        f"--state.file={folder / job}.db",
        PHONIC_API_KEY=_KEY,
    )


def _configured(folder: Path, rendered: Mapping[str, str], alerts_at: str, targets: Mapping[str, str]) -> str:
    """The shipped configuration with more jobs, looked at each second; writes the rules that it names."""
    config = yaml.safe_load(rendered["prometheus/prometheus.yml"])
    for name in config["rule_files"]:
        rules = yaml.safe_load(rendered[f"prometheus/{name}"])
        for group in rules["groups"]:
            group["interval"] = "1s"
        (folder / name).write_text(yaml.safe_dump(rules))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [_host(alerts_at)]}]}]
    config["scrape_configs"] = [
        {"job_name": job, "static_configs": [{"targets": [_host(url)]}]} for job, url in targets.items()
    ]
    return yaml.safe_dump(config)


def _host(url: str) -> str:
    return url.removeprefix("http://")


async def restart(playing: Stage) -> None:
    """Stop the exporter of the normal day until somebody notices, then start it again where it was."""
    stopped, watch = playing.exporters[DAY], playing.watch
    address = _host(await stopped.url())
    stopped.signal(signal.SIGTERM)
    assert await stopped.wait() == 0
    await watch.wait(lambda: "PhonicExporterDown" in watch.present[DAY])
    async with exporter(playing.folder, DAY, playing.phones[DAY], listen=address):
        await watch.wait(lambda: not any(watch.present.values()))
