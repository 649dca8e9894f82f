"""Edge: runs a server that plays a load, and a client of one variant that follows it, each in a process."""

import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from zlib import decompress

import attrs
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from exporter.metrics import catalog
from exporter.metrics.catalog import Family

from .calls import conversation_id
from .load import Load, Played
from .processes import CLIENT_CORE, SERVER_CORE, START_SECONDS, Failed, Process, running

FLOOR, NAIVE, EXPORTER = "floor", "naive", "exporter"

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
TEXT = "text/plain; version=0.0.4"

_COMPARED = (
    catalog.CONVERSATIONS,
    catalog.TURNS,
    catalog.TURN_DURATION,
    catalog.MODEL_GENERATION,
    catalog.FIRST_AUDIO,
    catalog.MODEL_INPUT,
    catalog.RESPONSE,
    catalog.OVERLAPS,
    catalog.SILENT_TURNS,
    catalog.TOOL_CALLS,
)
_MODULES = {FLOOR: "benchmarks.clients.floor", NAIVE: "benchmarks.clients.naive", EXPORTER: "exporter"}
_LATE_SECONDS = 2.0
_log_numbers = count()

Totals = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""All conversation metrics that are not 0, by sample name and labels."""


@attrs.frozen(kw_only=True)
class Scraped:
    """A decompressed metrics page, and how long the scrape took."""

    page: bytes
    seconds: float
    sent_bytes: int


def scrape(url: str, *, accept: str = TEXT, gzip: bool = False) -> Scraped:
    """Scrape a page as Prometheus does."""
    headers = {"Accept": accept, "Accept-Encoding": "gzip" if gzip else "identity"}
    start = time.perf_counter()
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:  # noqa: S310  # loopback
        body = answer.read()
        packed = answer.headers.get("Content-Encoding") == "gzip"
    seconds = time.perf_counter() - start
    return Scraped(page=decompress(body, wbits=31) if packed else body, seconds=seconds, sent_bytes=len(body))


@attrs.frozen
class Server:
    """A server that plays a load, made by `serving`."""

    url: str
    load: Load
    _process: Process

    def go(self) -> None:
        self._process.ask("go")

    def played(self) -> Played:
        return msgspec.json.decode(self._process.ask("status"), type=Played)

    def wait_open(self, feeds: int) -> Played:
        """Wait until ``feeds`` feeds are open. Raises: Failed."""
        return self._wait("open", feeds)

    def wait_sent(self, updates: int) -> Played:
        """Wait until ``updates`` snapshots were sent. Raises: Failed."""
        return self._wait("sent", updates)

    def _wait(self, what: str, wanted: int) -> Played:
        deadline = time.monotonic() + START_SECONDS
        while getattr(played := self.played(), what) < wanted:
            if time.monotonic() > deadline:
                raise Failed(f"{what}: {wanted} wanted, got as far as {played}")
            time.sleep(0.01)
        return played


@attrs.frozen
class Client:
    """A client of one variant, made by `following`."""

    variant: str
    process: Process
    metrics_url: str
    _watch_file: Path

    def open(self, feeds: int) -> None:
        """Start to follow the conversations 0 to ``feeds`` - 1."""
        if self.variant == EXPORTER:
            complete = self._watch_file.with_suffix(".new")
            complete.write_text("".join(f"{conversation_id(number)}\n" for number in range(feeds)))
            complete.rename(self._watch_file)
        else:
            self.process.ask(f"open {feeds}")

    def updates(self, wanted: int | None = None) -> int:
        """Return the number of snapshots received so far.

        Waits a moment for ``wanted``, because the exporter counts a snapshot late that it holds back for a newer
        one.
        """
        deadline = time.monotonic() + _LATE_SECONDS
        while (received := self._updates()) != wanted and wanted is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        return received

    def _updates(self) -> int:
        return int(self.process.ask("status")) if self.variant == FLOOR else self._counter(catalog.UPDATES)

    def superseded(self) -> int:
        """Return how many of them were not evaluated because a newer one had arrived (exporter only)."""
        return self._counter(catalog.UPDATES_SUPERSEDED) if self.variant == EXPORTER else 0

    def _counter(self, family: Family) -> int:
        page = scrape(self.metrics_url).page.decode()
        return int(float(page.split(f"\n{family.sample_name} ")[1].split("\n")[0]))

    def totals(self) -> Totals:
        """Return what the client counted; not for `FLOOR`, which counts nothing."""
        names = {family.name for family in _COMPARED}
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): round(sample.value, 6)
            for metric in text_string_to_metric_families(scrape(self.metrics_url).page.decode())
            if metric.name in names
            for sample in metric.samples
            if sample.value
        }


@contextmanager
def serving(load: Load, folder: Path) -> Iterator[Server]:
    """Play a load while the block runs; ``folder`` is for logs and the certificate."""
    if load.tls:
        _certify(folder)
    arguments = (msgspec.json.encode(load).decode(), str(folder))
    with running("benchmarks.server", *arguments, core=SERVER_CORE, log=_log(folder, "server")) as process:
        port = int(process.ask("port"))
        yield Server(f"{'https' if load.tls else 'http'}://127.0.0.1:{port}", load, process)


@contextmanager
def following(
    variant: str, server: Server, folder: Path, *flags: str, discover: bool = False, ticks: Path | None = None
) -> Iterator[Client]:
    """Run a client that is ready to open feeds.

    Args:
        variant: which client.
        server: the server to follow.
        folder: for logs.
        flags: flags of the exporter; with ``ticks`` only a state file for the exporter, or nothing.
        discover: let the exporter find the conversations itself.
        ticks: run the client with a ticker, which writes its ticks to this file at the end.
    """
    watch_file = folder / "watched.txt"
    watch_file.write_text("")
    module = _MODULES[variant]
    arguments: tuple[str, ...] = (server.url,)
    if ticks is not None:
        module = "benchmarks.clients.ticking"
        arguments = (variant, str(ticks), server.url, str(watch_file), *flags)
    elif variant == EXPORTER:
        arguments = (
            *("--phonic.base-url", server.url, "--web.listen-address", "127.0.0.1:0", "--watch.limit", "20000"),
            *(("--watch.discover",) if discover else ("--watch.no-discover", "--watch.file", str(watch_file))),
            *(() if {"--state.file", "--state.url"} & set(flags) else ("--state.file", "")),
            *("--metrics.hold-new-series", "0"),  # the counts are compared right away
            *flags,
        )
    environment = {"PHONIC_API_KEY": "ph_benchmark", "SSL_CERT_FILE": str(folder / "server.pem")}
    if not server.load.tls:
        del environment["SSL_CERT_FILE"]
    log = _log(folder, variant)
    with running(module, *arguments, core=CLIENT_CORE, log=log, environment=environment) as process:
        url = process.logged(r"http://127\.0\.0\.1:\d+/metrics|ready").group()
        yield Client(variant, process, url, watch_file)


def _log(folder: Path, name: str) -> Path:
    return folder / f"{next(_log_numbers)}-{name}.log"


def _certify(folder: Path) -> None:
    """Write ``server.pem`` and ``server.key``: a self-signed certificate for loopback."""
    if not (folder / "server.pem").exists():
        extensions = ("basicConstraints=critical,CA:TRUE", "subjectAltName=IP:127.0.0.1")
        subprocess.run(
            ["openssl", "req", "-x509", "-days", "2", "-subj", "/CN=benchmark", "-nodes"]
            + ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
            + ["-keyout", "server.key", "-out", "server.pem"]
            + [word for each in extensions for word in ("-addext", each)],
            cwd=folder,
            check=True,
            capture_output=True,
        )
