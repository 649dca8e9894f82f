"""Wiring: ``python -m tests.soak.everything --minutes 30``: checks for growth under all faults at the same time.

One exporter with a state file watches a few hundred calls of a simulator whose feeds and REST fail in every way,
with occasional outages. Meanwhile pages are scraped in every format, attackers (`tests.attacks`) come and go, the
web config file, the key file and the watch file are rewritten with valid and invalid content, and SIGHUPs arrive.

The process is sampled every few seconds. The run fails if a legitimate scrape did not get a 200, if a task
crashed, if SIGTERM does not end the process with exit code 0 within 10 s, or if memory, descriptors or threads
grew by more than `BOUNDS` in the second half of the run.
"""

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import attrs
import bcrypt
import httpx
from prometheus_client.parser import text_string_to_metric_families

from exporter.simulator.settings import SimulatorSettings
from tests.attacks import ATTACKS

from .harness import KEY, Failed, Phone, Process, simulating, started
from .slopes import Bound, floors, second_half, slope

FAULTS: Final = (
    "drop=0.01", "duplicate=0.03", "stale=0.03", "gap=0.03", "garbage=0.03", "silence=0.01", "slow-open=0.05",
    "reject-401=0.002", "reject-403=0.002", "reject-404=0.01", "reject-429=0.01", "reject-500=0.01",
    "reject-503=0.01",
    "rest-500=0.03", "rest-429=0.01", "rest-html=0.01", "rest-truncated=0.01", "rest-timeout=0.005",
)  # fmt: skip
FORMATS: Final = (
    "text/plain;version=0.0.4",
    "text/plain;version=1.0.0;escaping=allow-utf-8",
    "application/openmetrics-text;version=1.0.0",
    "*/*",
)
BOUNDS: Final = {
    # Beyond noise. The exporter remembers the id of an ended conversation for a day: 0.5 KB, 9 MB for 18,000 per
    # hour. At once: the largest page is rendered, and the pools of threads and SQLite pages fill up.
    "memory_mb": Bound(per_hour=20, at_once=25),
    # No file may stay open. At once: files being read, and feeds being opened.
    "descriptors": Bound(per_hour=1, at_once=10),
    "threads": Bound(per_hour=1, at_once=10),
}
"""``descriptors`` excludes one connection for each live call."""
NEVER: Final = ("phonic_exporter_watcher_crashes_total", "phonic_exporter_task_crashes_total")
LAG, SETS = "phonic_exporter_event_loop_lag_seconds", "phonic_exporter_label_sets"
_LIVE = "phonic_conversations_live"
_GOOD: Final = ("prometheus", "of fire")
_CLOSED = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
_SCRAPE_S, _ATTACK_S, _CALM_S, _REWRITE_S, _HANGUP_S = 1.0, 4.0, 4.0, 0.7, 6.0
_OUTAGE_EVERY_S, _OUTAGE_S = 60.0, 5.0
_PATIENCE_S = 30.0  # scrape timeout; longer than Prometheus' default, because the machine is busy


@attrs.frozen(kw_only=True)
class Plan:
    """What to play. ``live`` is the approximate number of concurrent calls after a while."""

    seconds: float
    live: int = 300
    sample_s: float = 5.0
    seed: int = 1


@attrs.frozen(kw_only=True)
class Sample:
    at: float
    """Seconds after the first sample."""
    memory_mb: float
    descriptors: float
    threads: float
    lag_s: float
    scrape_s: float
    label_sets: float
    live: float


@attrs.define
class Outcome:
    samples: list[Sample] = attrs.field(factory=list)
    done: Counter[str] = attrs.field(factory=Counter)
    """How often each event happened."""
    wrong: list[str] = attrs.field(factory=list)
    under_way: str = ""
    """Name of the running attack."""

    def table(self) -> str:
        """Return a table of slopes and other samples."""
        late = second_half([(each.at, 0.0) for each in self.samples])
        lines = [
            f"second half, {len(late)} samples in {_span(late):.0f} s",
            f"{'':12} {'first':>9} {'last':>9} {'slope/h':>9} {'noise/h':>9} {'certain':>9} {'bound/h':>9}",
        ]
        for name, bound in BOUNDS.items():
            low = floors(second_half(self.series(name)))
            found = slope(low)
            lines.append(
                f"{name:12} {low[0][1]:9.1f} {low[-1][1]:9.1f} {found.per_hour:9.1f} {found.noise:9.1f} "
                f"{found.certain:9.1f} {bound.over(_span(late)):9.1f}"
            )
        lines.append(f"{'':12} {'median':>9} {'largest':>9}")
        for name in ("lag_s", "scrape_s", "label_sets", "live", "memory_mb"):
            values = sorted(value for _, value in self.series(name))
            lines.append(f"{name:12} {values[len(values) // 2]:9.3f} {values[-1]:9.3f}")
        return "\n".join(lines)

    def series(self, name: str) -> list[tuple[float, float]]:
        return [(each.at, getattr(each, name)) for each in self.samples]

    def growths(self) -> list[str]:
        """Return what grew beyond its bound."""
        found = []
        for name, bound in BOUNDS.items():
            late = second_half(self.series(name))
            certain, limit = slope(floors(late)).certain, bound.over(_span(late))
            if certain > limit:
                found.append(f"{name} grows by {certain:.1f} in an hour beyond noise, {limit:.1f} are allowed")
        return found


def _span(samples: Any) -> float:
    return float(samples[-1][0] - samples[0][0]) if samples else 0.0


def soak(plan: Plan, directory: Path, say: Callable[[str], None]) -> Outcome:
    """Run the soak. Logs, samples and state file stay in ``directory``. Raises: Failed if it cannot continue."""
    outcome = Outcome()
    files = _Files(directory, random.Random(plan.seed))
    files.write_right()
    with contextlib.ExitStack() as running:
        http = running.enter_context(httpx.Client(timeout=30))
        good = running.enter_context(httpx.Client(timeout=_PATIENCE_S, auth=_GOOD))
        phone = running.enter_context(simulating(_simulator(plan), directory, http))
        exporter = running.enter_context(_exporter(phone, files, good))
        exporter.wait_serving()
        url = exporter.url() or ""
        helpers = _Helpers(outcome)
        with helpers:
            helpers.every(_SCRAPE_S, "scrapes", lambda: _scrape(good, url, outcome))
            helpers.every(_CALM_S, "attacks", lambda: _attack(url, outcome))
            helpers.every(_REWRITE_S, "rewritten files", lambda: files.rewrite(phone))
            helpers.every(_HANGUP_S, "hangups", lambda: exporter.process.send_signal(signal.SIGHUP))
            helpers.every(_OUTAGE_EVERY_S, "outages", lambda: _outage(phone, helpers))
            _sample_until_over(plan, exporter, good, url, urlsplit(phone.url).port or 0, outcome, directory, say)
        files.write_right()
        outcome.wrong += _crashes(good, url)
        exporter.end(is_killed=False)
        outcome.done.update({f"sent {kind}": count for kind, count in phone.state()["sent"].items()})
    outcome.wrong += outcome.growths()
    return outcome


def _simulator(plan: Plan) -> SimulatorSettings:
    return SimulatorSettings(
        listen_address="127.0.0.1:0",
        api_key=KEY,
        seed=plan.seed,
        projects=4,
        agents=20,
        calls_per_minute=plan.live * CALLS_PER_MINUTE_AND_LIVE,
        pace=PACE,
        warm_up=60.0,
        fault=FAULTS,
    )


PACE = 0.5
CALLS_PER_MINUTE_AND_LIVE = 1.0
"""Calls per minute for one live call on average: at this pace a call lasts about a minute."""


@contextlib.contextmanager
def _exporter(phone: Phone, files: "_Files", http: httpx.Client) -> Iterator[Process]:
    log = files.folder / "exporter.log"
    flags = [
        f"--phonic.base-url={phone.url}",
        f"--phonic.api-key-file={files.key}",
        "--phonic.requests-per-second=100",
        f"--watch.file={files.watch}",
        f"--web.config.file={files.web}",
        f"--state.file={files.folder / 'exporter.db'}",
        "--web.listen-address=127.0.0.1:0",
        "--web.enable-push-api",
    ]
    with started([sys.executable, "-m", "exporter", *flags], log, key=None) as process:
        yield Process(process, log, http)


class _Files:
    """The files that an operator rewrites while the exporter runs, with valid or invalid content."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder = folder
        self.key, self.watch, self.web = folder / "key", folder / "watch", folder / "web.yml"
        self._rng = rng
        hashed = bcrypt.hashpw(_GOOD[1].encode(), bcrypt.gensalt(4)).decode()
        self._users = f"basic_auth_users: {{{_GOOD[0]}: {hashed}}}\n"

    def write_right(self) -> None:
        _replace(self.key, KEY)
        _replace(self.watch, "conv_made_up\n")
        _replace(self.web, self._users)

    def rewrite(self, phone: Phone) -> None:
        """Rewrite one of them with valid or invalid content."""
        rng = self._rng
        file = rng.choice((self.key, self.watch, self.web))
        if file is self.key:
            _replace(file, rng.choice((KEY, KEY + "\n", KEY, "", "two words", "x" * 100_000)))
        elif file is self.web:
            header = (
                f"http_server_config: {{headers: {{X-Frame-Options: {rng.choice(('deny', 'sameorigin'))}}}}}\n"
            )
            broken = rng.choice(("", "{", "bogus: 1\n", "[" * 10_000, "basic_auth_users: {x: y}\n"))
            _replace(file, rng.choice((self._users, self._users + header, broken)))
        else:
            ids = [*list(phone.live())[:20], "conv_made_up", f"conv_{rng.randrange(1000)}"]
            broken = rng.choice(("", "{", "[1, 2", "no id at all \x00\n", "../../etc\n" * 1000))
            _replace(file, rng.choice(("\n".join(ids), json.dumps(ids), broken)))


def _replace(file: Path, text: str) -> None:
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text(text)
    fresh.chmod(0o600)
    fresh.replace(file)


class _Helpers:
    """Threads that repeat an action until the block ends. Failures are recorded in the outcome."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self.over = threading.Event()
        self._threads: list[threading.Thread] = []

    def every(self, seconds: float, name: str, act: Callable[[], object]) -> None:
        def run() -> None:
            while not self.over.wait(seconds):
                try:
                    act()
                except Exception as failed:
                    self._outcome.wrong.append(f"{name}: {type(failed).__name__}: {failed}")
                    return
                self._outcome.done[name] += 1

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(_PATIENCE_S)


def _scrape(good: httpx.Client, url: str, outcome: Outcome) -> None:
    """Scrape as Prometheus does, each time in another format. Record scrapes that fail."""
    number = outcome.done["scrapes"] + outcome.done["scrapes not answered"]
    headers = {"Accept": FORMATS[number % len(FORMATS)], "Accept-Encoding": ("gzip", "identity")[number % 2]}
    try:
        got = str(_get(good, url, headers).status_code)
    except httpx.HTTPError as failed:
        got = type(failed).__name__
    if got != "200":
        outcome.done["scrapes not answered"] += 1
        outcome.wrong.append(f"a good scrape got {got} during {outcome.under_way or 'no attack'}")


def _get(good: httpx.Client, url: str, headers: dict[str, str] | None = None) -> httpx.Response:
    """Get the page.

    As Prometheus does, retry on a new connection if the server has closed the old one to make room for others; and
    once more, because an attack may open a hundred connections before this client, on a busy machine, has sent its
    request on the new one.
    """
    try:
        return good.get(f"{url}/metrics", headers=headers)
    except _CLOSED:
        pass
    try:
        return _get_anew(url, headers)
    except _CLOSED:
        return _get_anew(url, headers)


def _get_anew(url: str, headers: dict[str, str] | None) -> httpx.Response:
    return httpx.get(f"{url}/metrics", headers=headers, auth=_GOOD, timeout=_PATIENCE_S, trust_env=False)


def _attack(url: str, outcome: Outcome) -> None:
    names = list(ATTACKS)
    name = names[outcome.done["attacks"] % len(names)]
    parts = urlsplit(url)
    outcome.under_way = name
    subprocess.run(
        [sys.executable, "-m", "tests.attacks", name, str(parts.hostname), str(parts.port), str(_ATTACK_S)],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.DEVNULL,
        check=False,  # an attacker may fail when the server closes its connections
        timeout=60,
    )
    outcome.under_way = ""


def _outage(phone: Phone, helpers: _Helpers) -> None:
    phone.faults(*FAULTS, "outage=1")
    helpers.over.wait(_OUTAGE_S)
    phone.faults(*FAULTS)


def _sample_until_over(
    plan: Plan,
    exporter: Process,
    http: httpx.Client,
    url: str,
    port: int,
    outcome: Outcome,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    begun = time.monotonic()
    with (folder / "samples.jsonl").open("w") as kept:
        while (at := time.monotonic() - begun) < plan.seconds:
            sample = _sample(at, exporter, http, url, port)
            outcome.samples.append(sample)
            kept.write(json.dumps(attrs.asdict(sample)) + "\n")
            if len(outcome.samples) % 12 == 1:
                say(
                    f"{at:6.0f} s: {sample.live:.0f} live, {sample.memory_mb:.0f} MB, {sample.descriptors:.0f} "
                    f"descriptors beyond them, {sample.threads:.0f} threads, {len(outcome.wrong)} wrong"
                )
            time.sleep(max(0.0, plan.sample_s - (time.monotonic() - begun - at)))


def _sample(at: float, exporter: Process, http: httpx.Client, url: str, port: int) -> Sample:
    before = time.monotonic()
    page = _page(http, url)
    took = time.monotonic() - before
    process = Path(f"/proc/{exporter.process.pid}")
    if exporter.process.poll() is not None:
        raise Failed(f"ended by itself with exit code {exporter.process.returncode}\n{exporter.tell()}")
    status = dict(line.partition(":")[::2] for line in (process / "status").read_text().splitlines())
    live = page[_LIVE]
    return Sample(
        at=at,
        memory_mb=int(status["VmRSS"].split()[0]) / 1024,
        descriptors=_descriptors_beyond(live, process, port),
        threads=int(status["Threads"]),
        lag_s=page[LAG],
        scrape_s=took,
        label_sets=page[SETS],
        live=live,
    )


def _descriptors_beyond(live: float, process: Path, port: int) -> float:
    """Return the number of open descriptors minus up to one connection to the simulator for each live call."""
    held = set()
    for each in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            held.add((each, str(each.readlink())))
    rows = [row.split() for row in (process / "net/tcp").read_text().splitlines()[1:]]
    upstream = {f"socket:[{row[9]}]" for row in rows if int(row[2].partition(":")[2], 16) == port}
    return len(held) - min(live, sum(link in upstream for _, link in held))


def _page(http: httpx.Client, url: str) -> Counter[str]:
    """Return the sum of the samples of each name."""
    try:
        answer = _get(http, url).raise_for_status().text
    except httpx.HTTPError as failed:
        raise Failed(f"a good scrape was not answered: {type(failed).__name__}: {failed}") from failed
    sums: Counter[str] = Counter()
    for family in text_string_to_metric_families(answer):
        for sample in family.samples:
            sums[sample.name] += sample.value  # type: ignore[assignment]
    return sums


def _crashes(http: httpx.Client, url: str) -> list[str]:
    page = _page(http, url)
    return [f"{name} is {page[name]:.0f}" for name in NEVER if page[name]]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak.everything", description="Check for growth under faults."
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--live", type=int, default=300, help="approximate number of concurrent calls")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="soak-everything-"))
    say(f"{given.minutes:g} minutes, logs and samples in {directory}")
    try:
        outcome = soak(Plan(seconds=given.minutes * 60, live=given.live, seed=given.seed), directory, say)
    except Failed as failed:
        say(f"FAILED: {failed}")
        return 1
    say(", ".join(f"{count} {what}" for what, count in sorted(outcome.done.items()) if count))
    say(outcome.table())
    for each in sorted(set(outcome.wrong)):
        say(f"FAILED: {each} ({outcome.wrong.count(each)} times)")
    return int(bool(outcome.wrong))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
