"""Wiring: runs simulator and exporter as processes through a schedule, and compares the final page.

`tests.soak` explains why the outcome is exact.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import attrs
import httpx
from prometheus_client.parser import text_string_to_metric_families

from exporter.simulator.plan import plan
from exporter.simulator.settings import SimulatorSettings, scenario_of

from .disk import SmallDisk
from .oracle import Absences, Totals, differences, expected, is_history
from .schedule import Life, lives
from .scraping import SCRAPE_S, Prometheus, scraping

KEY: Final = "ph_soak"
_STATE_INTERVAL_S: Final = 0.2
# While a Prometheus scrapes, scrapes cause the writes. A long interval between other writes lets a kill reveal a
# scrape that shows more than the state file holds.
_SCRAPED_STATE_INTERVAL_S: Final = 1.5
_SCRAPED_LINGER: Final = 3.0  # factor, so that calls go on between the last write and the kill
_NO_INTERVAL_S: Final = 3600.0  # only the first and the last checkpoint are written
_PATIENCE_S: Final = 180.0  # reconnects wait up to 30 s, sweeps for unwatched conversations run every 60 s
_TAIL_S: Final = 8.0  # of plan time, left for the last life
_LOOK_AGAIN_S: Final = 0.05
_HOLD_S: Final = 4 * SCRAPE_S  # --metrics.hold-new-series while a Prometheus scrapes
# Messages that are not faults.
_REGULAR: Final = frozenset(
    {"conversation-updated", "conversation-ended", "conversation-saved", "conversation-audio"}
)
# Metrics that no fault may increase.
_NEVER: Final = frozenset(
    {
        "phonic_exporter_watcher_crashes",
        "phonic_exporter_turns_revised",
        "phonic_exporter_turns_skipped",
        "phonic_exporter_checkpoint_errors",
        "phonic_exporter_checkpoint_resets",
        "phonic_exporter_label_values_folded",
    }
)


class Failed(Exception):
    """The run cannot continue, or its outcome is wrong; the text explains it."""


@attrs.frozen(kw_only=True)
class Run:
    """What to play. Equal runs draw equal plans and schedules; the exact timing depends on the machine.

    ``conversations`` is the number that the exporter has to count, without those that ended before. ``prometheus``
    is the path of a Prometheus that scrapes all the time and must have the same sums; feeds then take a second to
    open, and no agent is listed before it has a call.
    """

    seed: int
    conversations: int
    kills: int
    calls_per_minute: float = 500.0
    pace: float = 0.02
    warm_up_s: float = 3.0
    long_downtimes: int = 4
    long_downtime_s: float = 8.0
    agents: int = 7
    prometheus: str | None = None
    disk: SmallDisk | None = None
    """Disk of the state file, which is full at the start of some lives and in the middle of others."""
    mutation: str = ""
    """Python that runs in the exporter's process first: a defect that the comparison must detect."""

    def simulator(self) -> SimulatorSettings:
        endless = self._simulator()
        begun = takewhile(lambda each: each.created_ms <= 0, plan(scenario_of(endless)[0]))
        return attrs.evolve(endless, total=self.conversations + sum(is_history(each) for each in begun))

    def _simulator(self) -> SimulatorSettings:
        return SimulatorSettings(
            listen_address="127.0.0.1:0",
            api_key=KEY,
            seed=self.seed,
            projects=4,
            agents=self.agents,
            calls_per_minute=self.calls_per_minute,
            pace=self.pace,
            warm_up=self.warm_up_s,
            fault=("latency-spike=0.05", "error-wave=0.05", *self.lasting_faults()),
            patient=True,
            refuse_ended=bool(self.seed % 2),
        )

    def lasting_faults(self) -> tuple[str, ...]:
        return () if self.prometheus is None else ("slow-open=1", "unlisted-agents=1")

    def lives(self) -> list[Life]:
        return lives(
            self.seed,
            kills=self.kills,
            seconds=max(0.0, self.conversations / self.calls_per_minute * 60 - _TAIL_S),
            long_downtimes=self.long_downtimes,
            long_downtime_s=self.long_downtime_s,
        )


@attrs.frozen(kw_only=True)
class Outcome:
    """``faults`` counts each fault; ``missed`` is the number of conversations that could not be observed."""

    conversations: int
    missed: int
    faults: Counter[str]
    compared: int
    seconds: float


def play(run: Run, directory: Path, say: Callable[[str], None]) -> Outcome:
    """Play a run. Logs of all processes and the state file stay in ``directory``. Raises: Failed."""
    begun = time.monotonic()
    faults: Counter[str] = Counter()
    address = f"127.0.0.1:{_free_port()}"
    with contextlib.ExitStack() as running:
        http = running.enter_context(httpx.Client(timeout=30))
        phone = running.enter_context(simulating(run.simulator(), directory, http))
        prometheus: Prometheus | None = None
        if run.prometheus is not None:
            prometheus = running.enter_context(scraping(run.prometheus, [address], directory, http))
        start = partial(_exporter, phone, directory, address, run)
        phone.post("hold")
        number = 0
        for number, life in enumerate(run.lives(), 1):
            say(f"life {number}: {_summary(life)}")
            if run.disk is not None and number % 3 == 2:
                faults["starts with a full disk"] += 1
                run.disk.fill()
            with start(number, clock=life.clock, is_killed=life.is_killed) as exporter:
                _live(life, exporter, phone, faults, run)
            phone.post("leave")
            time.sleep(life.downtime_s)
            phone.post("hold")
        phone.faults(*run.lasting_faults())
        absences: Absences = phone.state()["absences"]
        wanted = expected(plan(scenario_of(run.simulator())[0]), absences)
        say(f"life {number + 1}: until all is over")
        with start(number + 1) as exporter:
            _see_to_the_end(exporter, phone, wanted, prometheus, run)
        say(f"life {number + 2}: nothing may be counted again")
        with start(number + 2) as exporter:
            compared = _see_nothing_new(exporter, wanted, prometheus, run)
        faults.update({kind: count for kind, count in phone.state()["sent"].items() if kind not in _REGULAR})
    missed = wanted.get(("phonic_exporter_conversations_lost_total", frozenset({("reason", "never_live")})), 0)
    return Outcome(
        conversations=int(_ended(wanted)),
        missed=int(missed),
        faults=faults,
        compared=compared,
        seconds=time.monotonic() - begun,
    )


def _free_port() -> int:
    """Return a free port for all lives, because it is part of the exporter's identity in Prometheus."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _live(life: Life, exporter: "Process", phone: "Phone", faults: Counter[str], run: Run) -> None:
    """Run one process from start to end. Ends are held before and after."""
    faults["clock steps"] += len(life.clock)
    faults["downtimes"] += 1
    if life.stillborn_s is not None:
        time.sleep(life.stillborn_s)
        faults["kills while starting"] += 1
        exporter.end(is_killed=True)
        if run.disk is not None:
            run.disk.free()
        return
    exporter.wait_serving()
    phone.post("release")
    for number, each in enumerate(life.disturbances):
        time.sleep(each.after_s)
        if run.disk is not None and number == 0:
            faults["disk full in the middle"] += 1
            run.disk.fill()
        if each.faults is None:
            faults["storms"] += 1
            phone.post("drop")
        else:
            phone.faults(*each.faults, *run.lasting_faults())
    phone.post("hold")
    if run.disk is not None:
        run.disk.free()
    until(lambda: exporter.followed() <= phone.live(), "all ends were seen", exporter.tell)
    if life.is_killed:
        for _ in range(2):  # one may have been in progress already
            before = exporter.last_checkpoint()
            until(partial(exporter.has_checkpoint_since, before), "a checkpoint is written", exporter.tell)
    exporter.check(run)
    if life.disturbances[-1].faults is None:
        phone.post("drop")  # again, so that the process ends while feeds reconnect
    time.sleep(life.linger_s * (_SCRAPED_LINGER if run.prometheus else 1))
    faults["kills" if life.is_killed else "stops"] += 1
    if life.is_killed and life.is_stopped_first:
        faults["stalls before a kill"] += 1
        exporter.process.send_signal(signal.SIGSTOP)
        time.sleep(life.downtime_s + SCRAPE_S)
    exporter.end(is_killed=life.is_killed)


def _see_to_the_end(
    exporter: "Process", phone: "Phone", wanted: Totals, prometheus: Prometheus | None, run: Run
) -> None:
    """Let everything end, wait until it is counted, and compare."""
    exporter.wait_serving()
    phone.post("release")
    until(lambda: phone.state()["complete"], "the plan is played", exporter.tell)
    with contextlib.suppress(_TooLong):  # the comparison shows what is missing
        until(lambda: _ended(exporter.totals()) >= _ended(wanted) and not exporter.watched(), "all is counted")
    until(lambda: not exporter.held(), "no series is held at 0", exporter.tell)
    _compare(wanted, exporter.totals())
    _compare_with(prometheus, wanted | exporter.unplanned())
    exporter.check(run)
    exporter.end(is_killed=False)


def _see_nothing_new(exporter: "Process", wanted: Totals, prometheus: Prometheus | None, run: Run) -> int:
    """Compare again after a sweep over all conversations; return the number of samples."""
    until(lambda: "discovery sweep" in exporter.log.read_text(), "a sweep is over", exporter.tell)
    time.sleep(1.0)  # so that anything that the sweep found would be counted
    compared = _compare(wanted, exporter.totals())
    _compare_with(prometheus, wanted | exporter.unplanned())
    exporter.check(run)
    exporter.end(is_killed=False)
    return compared


def _compare_with(prometheus: Prometheus | None, wanted: Totals) -> None:
    """Compare Prometheus' sums with the plan. Raises: Failed."""
    if prometheus is None:
        return
    until(partial(prometheus.has_scraped_since, time.time()), "Prometheus has seen the last numbers")
    resets = prometheus.resets()
    increases = prometheus.increases()
    if resets:
        shown = "\n".join(
            f"{name}{dict(labels)}: {count:.0f}" for (name, labels), count in list(resets.items())[:20]
        )
        raise Failed(f"Prometheus saw {sum(resets.values()):.0f} falls in {len(resets)} series:\n{shown}")
    got = {key: round(value, 6) for key, value in increases.items()}
    _compare({key: round(value, 6) for key, value in wanted.items()}, got)


def _summary(life: Life) -> str:
    how = "SIGKILL" if life.is_killed else "SIGTERM"
    if life.is_killed and life.is_stopped_first:
        how = "SIGSTOP, SIGKILL"
    when = "" if life.stillborn_s is None else f" {life.stillborn_s:.1f} s after its start"
    clock = f", clock wrong by {', '.join(f'{offset:.0f} s' for _, offset in life.clock)}" if life.clock else ""
    return f"{how}{when}, then away for {life.downtime_s:.1f} s{clock}"


def _compare(wanted: Totals, got: Totals) -> int:
    """Return the number of compared samples. Raises: Failed, with the differences."""
    found = differences(wanted, got)
    if found:
        more = f"\n… and {len(found) - 40} more" if len(found) > 40 else ""
        raise Failed("totals differ from the plan's:\n" + "\n".join(found[:40]) + more)
    return len(wanted.keys() | got.keys())


def _ended(totals: Totals) -> float:
    return sum(value for (name, _), value in totals.items() if name == "phonic_conversations_ended_total")


class _TooLong(Failed):
    pass


def until(holds: Callable[[], object], what: str, tell: Callable[[], str] = str) -> None:
    """Poll until ``holds`` returns true. Raises: _TooLong."""
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise _TooLong(f"waited {_PATIENCE_S:.0f} s in vain until {what}\n{tell()}")
        time.sleep(_LOOK_AGAIN_S)


@attrs.frozen
class Phone:
    """Client of the simulator's control API."""

    url: str
    http: httpx.Client

    def post(self, action: str) -> Any:
        return self.http.post(f"{self.url}/simulator/{action}").raise_for_status().json()

    def faults(self, *faults: str) -> None:
        self.http.put(f"{self.url}/simulator/faults", json=faults).raise_for_status()

    def state(self) -> Any:
        return self.http.get(f"{self.url}/simulator/state").raise_for_status().json()

    def live(self) -> set[str]:
        return {identity for identity, each in self.state()["conversations"].items() if each["live"]}


@attrs.frozen
class Process:
    """A process of the exporter, which may still be starting or may have ended."""

    process: subprocess.Popen[bytes]
    log: Path
    http: httpx.Client

    def wait_serving(self) -> None:
        until(lambda: self.url() or self._is_gone(), "it serves", self.tell)

    def totals(self) -> Totals:
        """Return what must match the plan: counters and histograms of conversations, and lost conversations."""
        return {
            (
                sample.name,
                frozenset(
                    (name, _bound(value) if name == "le" else value) for name, value in sample.labels.items()
                ),
            ): sample.value
            for family in self._families()
            if family.type in ("counter", "histogram")
            and (
                not family.name.startswith("phonic_exporter_")
                or family.name == "phonic_exporter_conversations_lost"
            )
            and family.name.startswith("phonic_")
            for sample in family.samples
        }

    def unplanned(self) -> Totals:
        """Return counters in the state file that the plan cannot predict: rejected values of garbage."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self._families()
            if family.name == "phonic_exporter_rejected_values"
            for sample in family.samples
            if sample.value
        }

    def check(self, run: Run) -> None:
        """Raises: Failed if a metric of this process that no fault may increase is not 0."""
        never = _NEVER if run.disk is None else _NEVER - {"phonic_exporter_checkpoint_errors"}
        met = [
            f"{sample.name}{sample.labels} is {sample.value}"
            for family in self._families()
            if family.name in never
            for sample in family.samples
            if sample.value
        ]
        if met:
            raise Failed("\n".join([*met, self.tell()]))

    def last_checkpoint(self) -> float:
        name = "phonic_exporter_checkpoint_last_success_timestamp_seconds"
        return next(
            (each.samples[0].value for each in self._families() if each.name == name and each.samples), 0.0
        )

    def has_checkpoint_since(self, before: float) -> bool:
        return self.last_checkpoint() != before

    def held(self) -> float:
        """Return the number of label sets whose new series are held at 0."""
        name = "phonic_exporter_label_sets_held"
        held: float = next(each.samples[0].value for each in self._families() if each.name == name)
        return held

    def watched(self) -> list[Any]:
        return list(self._get("/api/v1/conversations").json()["conversations"])

    def followed(self) -> set[str]:
        """Return the ids of the conversations that it considers live."""
        return {each["conversation_id"] for each in self.watched() if each["state"] != "finishing"}

    def end(self, *, is_killed: bool) -> None:
        """End the process. Raises: Failed if SIGTERM does not end it with exit code 0 within 10 s."""
        self._is_gone()
        if is_killed:
            self.process.kill()
            self.process.wait()
            return
        self.process.terminate()
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            raise Failed(f"did not stop within 10 s\n{self.tell()}") from None
        if code:
            raise Failed(f"stopped with exit code {code}\n{self.tell()}")

    def tell(self) -> str:
        """Return the end of its log."""
        return f"{self.log}:\n" + "\n".join(self.log.read_text().splitlines()[-15:])

    def _families(self) -> Iterable[Any]:
        return text_string_to_metric_families(self._get("/metrics").text)

    def _get(self, path: str) -> httpx.Response:
        self.wait_serving()
        return self.http.get(f"{self.url()}{path}").raise_for_status()

    def url(self) -> str | None:
        return logged(self.log, "landing_page=")

    def _is_gone(self) -> bool:
        if self.process.poll() is not None:
            raise Failed(f"ended by itself with exit code {self.process.returncode}\n{self.tell()}")
        return False


def _bound(text: str) -> str:
    return repr(float(text))


@contextlib.contextmanager
def simulating(settings: SimulatorSettings, directory: Path, http: httpx.Client) -> Iterator[Phone]:
    flags = [
        "simulate",
        f"--simulator.listen-address={settings.listen_address}",
        f"--simulator.api-key={settings.api_key}",
        f"--simulator.seed={settings.seed}",
        f"--simulator.projects={settings.projects}",
        f"--simulator.agents={settings.agents}",
        f"--simulator.calls-per-minute={settings.calls_per_minute}",
        f"--simulator.turns={settings.turns}",
        f"--simulator.pace={settings.pace}",
        f"--simulator.warm-up={settings.warm_up}",
        f"--simulator.total={settings.total}",
        *(f"--simulator.fault={fault}" for fault in settings.fault),
        *(["--simulator.patient"] if settings.patient else []),
        *(["--simulator.refuse-ended"] if settings.refuse_ended else []),
    ]
    log = directory / "simulator.log"
    with started([sys.executable, "-m", "exporter", *flags], log):
        until(lambda: logged(log, "base_url="), "the simulator plays", log.read_text)
        yield Phone(logged(log, "base_url=") or "", http)


@contextlib.contextmanager
def _exporter(
    phone: Phone,
    directory: Path,
    address: str,
    run: Run,
    number: int,
    *,
    is_killed: bool = False,
    clock: tuple[tuple[float, float], ...] = (),
) -> Iterator[Process]:
    interval = _STATE_INTERVAL_S if run.prometheus is None else _SCRAPED_STATE_INTERVAL_S
    flags = [
        f"--phonic.base-url={phone.url}",
        "--phonic.requests-per-second=200",
        "--watch.interval=0.2",
        f"--state.file={(run.disk.folder if run.disk else directory) / 'exporter.db'}",
        f"--state.interval={interval if is_killed else _NO_INTERVAL_S}",
        f"--web.listen-address={address}",
        f"--metrics.hold-new-series={0 if run.prometheus is None else _HOLD_S}",
        "--log.level=debug",
    ]
    log = directory / f"exporter-{number:02}.log"
    with started(
        [sys.executable, "-m", "tests.soak.clock", json.dumps(clock), run.mutation, *flags], log
    ) as process:
        yield Process(process, log, phone.http)


@contextlib.contextmanager
def started(command: list[str], log: Path, *, key: str | None = KEY) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process with its output in ``log``, and with or without an API key; kill it at the end."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PHONIC_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment if key is None else environment | {"PHONIC_API_KEY": key},
            cwd=Path(__file__).parents[2],
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def logged(log: Path, field: str) -> str | None:
    """Return the value of a field without spaces in the log, or None if it was not logged yet."""
    _, found, rest = log.read_text().partition(field)
    return rest.split()[0].rstrip("/") if found and "\n" in rest else None
