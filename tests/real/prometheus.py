"""A real Prometheus and a real Alertmanager, as Debian packages them."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

LOOK_AGAIN_SECONDS = 0.1

_CONFIG = """\
global: {{scrape_interval: 250ms, scrape_timeout: 250ms}}
scrape_configs:
  - job_name: phonic
    static_configs: [{{targets: ["{target}"]}}]
"""


def needs(program: str) -> str:
    """The path of a program; without it the test is skipped, but where CI promises all of them it fails."""
    found = shutil.which(program)
    if found is None:
        why = f"{program} is not installed (Debian: apt install prometheus prometheus-alertmanager)"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return found


@attrs.frozen
class Prometheus:
    url: str
    http: httpx.AsyncClient

    async def get(self, path: str, **query: str) -> Any:
        """The ``data`` of an answer of its API."""
        answer = (await self.http.get(f"{self.url}/api/v1/{path}", params=query)).json()
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
    folder: Path, target: str, http: httpx.AsyncClient, *, config: str | None = None
) -> AsyncIterator[Prometheus]:
    """Run it over data in ``folder`` until the block ends, scraping ``target`` (host:port) four times a second.

    ``config`` is another configuration, whose paths are relative to ``folder``.
    """
    path = folder / "prometheus.yml"
    path.write_text(config or _CONFIG.format(target=target))
    async with _listening(
        needs("prometheus"),
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--enable-feature=exemplar-storage",
    ) as url:
        await _ready(url, http)
        yield Prometheus(url, http)


@contextlib.asynccontextmanager
async def alertmanager(folder: Path, config: str, http: httpx.AsyncClient) -> AsyncIterator[str]:
    """Run it alone, without gossip, until the block ends. Yields its URL."""
    path = folder / "alertmanager.yml"
    path.write_text(config)
    async with _listening(
        needs("prometheus-alertmanager"),
        f"--config.file={path}",
        f"--storage.path={folder / 'alerts'}",
        "--cluster.listen-address=",
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
                [*argv, "--web.listen-address=127.0.0.1:0", "--log.level=info"],
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
            address = re.search(rb'msg="Listening on" address=(\S+)\n', log)
            if address is not None:
                is_listening = True
                task_status.started(f"http://{address[1].decode()}")
    assert is_listening, log.decode()


async def _ready(url: str, http: httpx.AsyncClient) -> None:
    while True:
        if (await http.get(f"{url}/-/ready")).status_code == 200:
            return
        await trio.sleep(LOOK_AGAIN_SECONDS)
