"""Runs real servers of Debian packages: installed ones, or those that ``.ci/next-release`` has unpacked."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

LOOK_AGAIN_SECONDS = 0.1

_LISTEN = ("--web.listen-address=127.0.0.1:0", "--log.level=info")
# Log lines of Prometheus 2 and 3 and Alertmanager, and of VictoriaMetrics.
_ADDRESS = re.compile(rb'msg="Listening on".* address=(\S+)\n|started server at http://(\S+)/\n')

_CONFIG = """\
global: {{scrape_interval: 250ms, scrape_timeout: 250ms}}
scrape_configs:
  - job_name: phonic
    static_configs: [{{targets: ["{target}"]}}]
"""


@attrs.frozen
class Release:
    """Where programs are: on the ``PATH``, or in a ``folder``. ``how`` tells how to install them."""

    name: str
    how: str
    folder: Path | None = None

    def find(self, program: str) -> str | None:
        """Return the path of a program, or None."""
        return shutil.which(program, path=str(self.folder) if self.folder else None)


def _next_release() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    where = os.environ.get("PHONIC_NEXT_RELEASE") or cache / "phonic-exporter-tests/next-release"
    return Path(where) / "usr/bin"


INSTALLED = Release("installed", "Debian: apt install prometheus prometheus-alertmanager")
NEXT = Release("next", ".ci/next-release unpacks it", _next_release())
RELEASES = (INSTALLED, NEXT)


def needs(program: str, release: Release = INSTALLED) -> str:
    """Return the path of a program. Without it, skip the test, or fail it on CI, which installs all programs."""
    found = release.find(program)
    if found is None:
        why = f"{program} is missing ({release.how})"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return found


@attrs.frozen
class Prometheus:
    url: str
    http: httpx.AsyncClient

    async def ask(self, path: str, **query: str) -> Any:
        """Return a whole response of its API: ``data``, warnings and infos."""
        return (await self.http.get(f"{self.url}/api/v1/{path}", params=query)).json()

    async def get(self, path: str, **query: str) -> Any:
        """Return the ``data`` of a response of its API."""
        answer = await self.ask(path, **query)
        assert answer["status"] == "success", answer
        return answer["data"]

    async def number(self, query: str) -> float:
        """Wait until a query has a result; return its value. The caller sets the deadline."""
        while True:
            result = (await self.get("query", query=query))["result"]
            if result and result[0]["value"][1] != "NaN":
                return float(result[0]["value"][1])
            await trio.sleep(LOOK_AGAIN_SECONDS)


@contextlib.asynccontextmanager
async def prometheus(
    folder: Path,
    target: str,
    http: httpx.AsyncClient,
    *,
    config: str | None = None,
    release: Release = INSTALLED,
    features: str = "exemplar-storage",
    flags: Sequence[str] = (),
) -> AsyncIterator[Prometheus]:
    """Run Prometheus with its data in ``folder`` until the block ends.

    It scrapes ``target`` (host:port) four times a second, unless ``config`` is given, whose paths are relative to
    ``folder``. ``flags`` are further ones of Prometheus.
    """
    path = folder / "prometheus.yml"
    path.write_text(config or _CONFIG.format(target=target))
    async with _listening(
        needs("prometheus", release),
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--enable-feature={features}",
        *flags,
        *_LISTEN,
    ) as url:
        await _ready(url, http)
        yield Prometheus(url, http)


@contextlib.asynccontextmanager
async def victoria_metrics(folder: Path, http: httpx.AsyncClient, *, config: str) -> AsyncIterator[Prometheus]:
    """Run VictoriaMetrics, which has the API of Prometheus, with its data in ``folder`` until the block ends."""
    path = folder / "scraping.yml"
    path.write_text(config)
    async with _listening(
        needs("victoria-metrics", NEXT),
        f"-promscrape.config={path}",
        f"-storageDataPath={folder / 'data'}",
        "-memory.allowedBytes=256MiB",
        # Include the newest samples in queries.
        "-search.latencyOffset=0s",
        "-httpListenAddr=127.0.0.1:0",
    ) as url:
        await _ready(url, http)
        yield Prometheus(url, http)


@contextlib.asynccontextmanager
async def vmagent(*flags: str) -> AsyncIterator[str]:
    """Run it until the block ends. Yields its URL."""
    async with _listening(needs("vmagent", NEXT), *flags, "-httpListenAddr=127.0.0.1:0") as url:
        yield url


@contextlib.asynccontextmanager
async def prometheus_agent(config: Path, data: Path, release: Release) -> AsyncIterator[str]:
    """Run Prometheus in agent mode, with exemplars, until the block ends. Yields its URL."""
    found = needs("prometheus", release)
    said = await trio.run_process([found, "--version"], capture_stdout=True, capture_stderr=True)
    is_2 = b"version 2." in said.stdout + said.stderr
    async with _listening(
        found,
        f"--config.file={config}",
        f"--storage.agent.path={data}",
        *(
            ("--enable-feature=agent,exemplar-storage",)
            if is_2
            else ("--agent", "--enable-feature=exemplar-storage")
        ),
        *_LISTEN,
    ) as url:
        yield url


@contextlib.asynccontextmanager
async def vmalert(server: Prometheus, rules: Path, http: httpx.AsyncClient) -> AsyncIterator[Prometheus]:
    """Run vmalert, which evaluates the rule files of a folder on a VictoriaMetrics, until the block ends."""
    async with _listening(
        needs("vmalert", NEXT),
        f"-datasource.url={server.url}",
        f"-remoteWrite.url={server.url}",
        f"-remoteRead.url={server.url}",
        "-notifier.blackhole",
        "-disableAlertgroupLabel",
        f"-rule={rules}/*.yml",
        "-httpListenAddr=127.0.0.1:0",
    ) as url:
        yield Prometheus(url, http)


@contextlib.asynccontextmanager
async def alertmanager(
    folder: Path, config: str, http: httpx.AsyncClient, release: Release = INSTALLED
) -> AsyncIterator[str]:
    """Run a single Alertmanager, without gossip, until the block ends. Yields its URL."""
    path = folder / "alertmanager.yml"
    path.write_text(config)
    async with _listening(
        needs("prometheus-alertmanager", release),
        f"--config.file={path}",
        f"--storage.path={folder / 'alerts'}",
        "--cluster.listen-address=",
        *_LISTEN,
    ) as url:
        await _ready(url, http)
        yield url


@contextlib.asynccontextmanager
async def _listening(*argv: str) -> AsyncIterator[str]:
    """Run a program on a free port until the block ends. Yields its URL, which its log tells."""
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                argv,
                stderr=subprocess.PIPE,
                check=False,
            )
        )
        try:
            yield await nursery.start(_read_log, process)
        finally:
            process.kill()


async def _read_log(process: trio.Process, task_status: trio.TaskStatus[str]) -> None:
    """Report the URL when the log has it; then keep reading, so that the pipe never fills."""
    log = b""
    is_listening = False
    assert process.stderr is not None
    async for chunk in process.stderr:
        if not is_listening:
            log += chunk
            address = _ADDRESS.search(log)
            if address is not None:
                is_listening = True
                task_status.started(f"http://{(address[1] or address[2]).decode()}")
    assert is_listening, log.decode()


async def _ready(url: str, http: httpx.AsyncClient) -> None:
    while True:
        if (await http.get(f"{url}/-/ready")).status_code == 200:
            return
        await trio.sleep(LOOK_AGAIN_SECONDS)
