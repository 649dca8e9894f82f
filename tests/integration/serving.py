"""A real server on loopback for tests, and files for it."""

import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import httpx
import trio

from exporter.metrics.formats import Format
from exporter.web.endpoints import Exported
from exporter.web.reload import ReloadedConfig
from exporter.web.server import serve

Render = Callable[[Format, frozenset[str] | None], bytes]

TLS = "tls_server_config: {cert_file: server.pem, key_file: server.key%s}\n"
GET_METRICS = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"


@attrs.frozen(kw_only=True)
class Served:
    urls: list[str]
    stop: trio.Event
    stopped: trio.Event
    nursery: trio.Nursery

    @property
    def url(self) -> str:
        return self.urls[0]

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port


@contextlib.asynccontextmanager
async def serving(
    *,
    render: Render = lambda *_: b"up 1\n",
    config: Path | ReloadedConfig | None = None,
    addresses: tuple[str, ...] = ("127.0.0.1:0",),
    max_requests: int = 0,
    deadline_seconds: float = 20,
) -> AsyncIterator[Served]:
    """Serve until the block ends; `stopped` is set when the server has returned."""
    exported = Exported(
        page=lambda *asked: [render(*asked)], not_ready=list, conversations=list, push=None, version="1.2.3"
    )
    stop, stopped = trio.Event(), trio.Event()
    run = partial(
        serve,
        exported,
        listen_addresses=addresses,
        telemetry_path="/metrics",
        max_requests=max_requests,
        web_config=config if isinstance(config, ReloadedConfig) else ReloadedConfig(config),
        stop=stop,
    )

    async def run_and_tell(*, task_status: trio.TaskStatus[list[str]]) -> None:
        await run(task_status=task_status)
        stopped.set()

    with trio.fail_after(deadline_seconds):
        async with trio.open_nursery() as nursery:
            urls = await nursery.start(run_and_tell)
            yield Served(urls=urls, stop=stop, stopped=stopped, nursery=nursery)
            stop.set()


def web_config(folder: Path, text: str) -> Path:
    file = folder / "web.yml"
    file.write_text(text)
    return file


async def status_of(url: str, **options: object) -> int:
    """Ask once, with more patience than the 5 seconds of httpx: `serving` has a deadline."""
    async with httpx.AsyncClient(timeout=100, **options) as http:  # type: ignore[arg-type]
        return (await http.get(url)).status_code
