"""A real Prometheus, as Debian packages it, that scrapes one address."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Any

import attrs
import httpx
import pytest
import trio

LOOK_AGAIN_SECONDS = 0.1
PORTS = range(20_000, 32_000)  # below those that the system hands out by itself

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
        why = f"{program} is not installed (Debian: apt install prometheus)"
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
async def prometheus(folder: Path, target: str, http: httpx.AsyncClient) -> AsyncIterator[Prometheus]:
    """Run it over data in ``folder`` until the block ends, scraping ``target`` (host:port) four times a second.

    It cannot tell which port it got when asked for any, so ports are tried until it can listen on one.
    """
    program = needs("prometheus")
    config = folder / "prometheus.yml"
    config.write_text(_CONFIG.format(target=target))
    async with trio.open_nursery() as nursery:
        while True:
            url = f"http://127.0.0.1:{SystemRandom().choice(PORTS)}"
            process = await nursery.start(
                partial(
                    trio.run_process,
                    [
                        program,
                        f"--config.file={config}",
                        f"--storage.tsdb.path={folder / 'data'}",
                        f"--web.listen-address={url.removeprefix('http://')}",
                        "--enable-feature=exemplar-storage",
                        "--log.level=error",
                    ],
                    stderr=subprocess.DEVNULL,
                    check=False,
                )
            )
            started = Prometheus(url, http)
            if await _is_up(process, started, folder):
                break
        try:
            yield started
        finally:
            process.kill()


async def _is_up(process: trio.Process, started: Prometheus, folder: Path) -> bool:
    """Wait until it answers, itself and not another one on that port; False if it has ended instead."""
    while process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            ready = await started.http.get(f"{started.url}/-/ready")
            if ready.status_code == 200:
                flags = await started.get("status/flags")
                if flags["storage.tsdb.path"] == str(folder / "data"):
                    return True
        await trio.sleep(LOOK_AGAIN_SECONDS)
    return False
