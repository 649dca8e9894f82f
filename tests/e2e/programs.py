"""Runs the exporter, in this process or as a process of its own, and reads its log."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from urllib.parse import urlsplit

import attrs
import trio

from exporter import app
from exporter.phonic.credentials import ApiKey, Credentials
from exporter.settings import (
    MetricsSettings,
    PhonicSettings,
    Settings,
    StateSettings,
    WatchSettings,
    WebSettings,
    resolve,
    validate,
)

ANY_PORT = "127.0.0.1:0"
KEY = "ph_test"
STUCK_SECONDS = 110
"""A test that waits longer is stuck, on the slowest machine. Less than pytest's ``faulthandler_timeout``."""


def settings_for(base_url: str, **groups: object) -> Settings:
    """Return settings for an exporter of ``base_url``: any port, no state file, new series shown at once.

    ``groups`` replace whole groups.
    """
    given: dict[str, object] = {
        "phonic": PhonicSettings(base_url=base_url, requests_per_second=500),
        "watch": WatchSettings(interval=0.1),
        "metrics": MetricsSettings(hold_new_series=0),
        "state": StateSettings(file=None),
        "web": WebSettings(listen_address=(ANY_PORT,)),
        **groups,
    }
    ready = resolve(Settings(**given), has_api_key=True)  # type: ignore[arg-type]
    validate(ready)
    return ready


@contextlib.asynccontextmanager
async def exporting(settings: Settings) -> AsyncIterator[str]:
    """Run the whole exporter in this process until the block ends, then stop it gracefully. Yields its URL."""
    async with trio.open_nursery() as nursery:
        running = await nursery.start(app.run, settings, Credentials(ApiKey(KEY)))
        yield running.urls[0]
        running.stop.set()


@attrs.define(eq=False)
class Program:
    """A process of the command ``phonic-exporter``, and the lines that it has written so far."""

    process: trio.Process
    lines: list[str] = attrs.field(factory=list)
    _more: trio.Event = attrs.field(factory=trio.Event)
    _is_over: bool = False

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def line(self, *fragments: str) -> str:
        """Wait for a line with all these fragments, and return it."""
        seen = 0
        while True:
            for line in self.lines[seen:]:
                if all(fragment in line for fragment in fragments):
                    return line
            seen = len(self.lines)
            assert not self._is_over, self.text
            await self._more.wait()

    async def url(self) -> str:
        """Wait until it serves; return its first URL, without a path."""
        line = await self.line("event=serving")
        return line.partition("landing_page=")[2].split()[0].rstrip("/")

    async def wait(self) -> int:
        """Wait until it has ended and all of its lines have been read; return its exit code."""
        await self.process.wait()
        while not self._is_over:
            await self._more.wait()
        assert self.process.returncode is not None
        return self.process.returncode

    async def _read(self) -> None:
        assert self.process.stdout is not None
        rest = b""
        async for chunk in self.process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            self.lines += [line.decode() for line in lines]
            self._tell()
        self._is_over = True
        self._tell()

    def _tell(self) -> None:
        self._more.set()
        self._more = trio.Event()


@contextlib.asynccontextmanager
async def program(*argv: str, sabotage: str = "", **environ: str) -> AsyncIterator[Program]:
    """Run ``phonic-exporter`` until the block ends, then kill it.

    Of the exporter's variables it gets only those of ``environ``. ``sabotage`` is Python that runs in the process
    first, to make it crash.
    """
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, "-c", f"{sabotage}\nfrom exporter.__main__ import main\nmain()", *argv],
                env=bare_environment(**environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        )
        started = Program(process)
        nursery.start_soon(started._read)
        try:
            yield started
        finally:
            process.kill()


async def outcome(*argv: str, **environ: str) -> tuple[int, str]:
    """Run the command to its end; return its exit code and its output."""
    async with program(*argv, **environ) as ended:
        return await ended.wait(), ended.text


def bare_environment(**more: str) -> dict[str, str]:
    """Return this environment without the exporter's variables, plus ``more``.

    New series are shown at once unless ``more`` changes that.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PHONIC_")}
    return {**inherited, "COLUMNS": "300", "PHONIC_EXPORTER_METRICS_HOLD_NEW_SERIES": "0", **more}


@contextlib.asynccontextmanager
async def unread_scrape(url: str) -> AsyncIterator[trio.SocketStream]:
    """Start a scrape whose response blocks until the test reads it. The server closes the connection after it."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    with trio.socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # has an effect only before connecting
        await client.connect((parts.hostname, parts.port))
        stream = trio.SocketStream(client)
        await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        yield stream
