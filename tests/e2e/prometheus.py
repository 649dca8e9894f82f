"""Real servers, as Debian packages them: installed, or unpacked from its next release by ``.ci/next-release``."""

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
# Prometheus 2 and 3 and Alertmanager; VictoriaMetrics.
_ADDRESS = re.compile(rb'msg="Listening on".* address=(\S+)\n|started server at http://(\S+)/\n')

_CONFIG = """\
global: {{scrape_interval: 250ms, scrape_timeout: 250ms}}
scrape_configs:
  - job_name: phonic
    static_configs: [{{targets: ["{target}"]}}]
"""


@attrs.frozen
class Release:
    """Where programs are looked for: on the ``PATH``, or in a ``folder`` that ``how`` fills."""

    name: str
    how: str
    folder: Path | None = None

    def find(self, program: str) -> str | None:
        """The path of a program, if it is there."""
        return shutil.which(program, path=str(self.folder) if self.folder else None)


def _next_release() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    where = os.environ.get("PHONIC_NEXT_RELEASE") or cache / "phonic-exporter-tests/next-release"
    return Path(where) / "usr/bin"


INSTALLED = Release("installed", "Debian: apt install prometheus prometheus-alertmanager")
NEXT = Release("next", ".ci/next-release unpacks it", _next_release())
RELEASES = (INSTALLED, NEXT)


def needs(program: str, release: Release = INSTALLED) -> str:
    """The path of a program; without it the test is skipped, but where CI promises all of them it fails."""
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
        """A whole answer of its API: ``data``, and what else it has to say."""
        return (await self.http.get(f"{self.url}/api/v1/{path}", params=query)).json()

    async def get(self, path: str, **query: str) -> Any:
        """The ``data`` of an answer of its API."""
        answer = await self.ask(path, **query)
        assert answer["status"] == "success", answer
        return answer["data"]

    async def number(self, query: str) -> float:
        """The value of a query as soon as it has one. The caller sets the deadline."""
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
    """Run it over data in ``folder`` until the block ends, scraping ``target`` (host:port) four times a second.

    ``config`` is another configuration, whose paths are relative to ``folder``; ``flags`` are further ones.
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
    """Run it over data in ``folder`` until the block ends; it speaks the API of Prometheus."""
    path = folder / "scraping.yml"
    path.write_text(config)
    async with _listening(
        needs("victoria-metrics", NEXT),
        f"-promscrape.config={path}",
        f"-storageDataPath={folder / 'data'}",
        "-memory.allowedBytes=256MiB",
        # Ask for what was scraped just now, not for what is complete for certain.
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
    """Evaluate the rule files of a folder on a VictoriaMetrics until the block ends."""
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
    """Run it alone, without gossip, until the block ends. Yields its URL."""
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
    """Run a program on any free port until the block ends; its log tells which one it got."""
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
    """Report the URL once the log says it; then go on reading, so that the pipe never fills."""
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
