"""Tasks: a client with a ticker on its event loop, which measures how late tasks on that loop run.

``python -m benchmarks.clients.ticking exporter|naive TICKS URL FILE [STATE]`` follows the conversations of the
watch file FILE (exporter, with the state file STATE) or of the commands of `feeds` (naive). At the end it writes
the ticks to the file TICKS: a JSON list of (due, seconds late); times are of the machine's monotonic clock.
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import trio

from exporter import app, logs
from exporter.phonic.credentials import ApiKey, Credentials
from exporter.settings import (
    LogSettings,
    MetricsSettings,
    PhonicSettings,
    Settings,
    StateSettings,
    WatchSettings,
    WebSettings,
)

from .feeds import follow
from .naive import Naive, serve

PERIOD = 0.001
"""Seconds between two ticks."""


async def _tick(ticks: list[tuple[float, float]]) -> None:
    while True:
        due = time.monotonic() + PERIOD
        await trio.sleep(PERIOD)
        ticks.append((due, time.monotonic() - due))


async def _export(base_url: str, watch_file: Path, state: Path | None) -> None:
    """Run the whole exporter until the end of standard input."""
    settings = Settings(
        phonic=PhonicSettings(base_url=base_url),
        watch=WatchSettings(file=watch_file, discover=False),
        metrics=MetricsSettings(hold_new_series=0),
        state=StateSettings(file=state),
        web=WebSettings(listen_address=("127.0.0.1:0",)),
    )
    logs.configure(LogSettings())
    async with trio.open_nursery() as nursery, trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as commands:
        running = await nursery.start(app.run, settings, Credentials(ApiKey("ph_benchmark")))
        await commands.receive_some()
        running.stop.set()


async def _main(
    variant: str, base_url: str, watch_file: Path, state: Path | None = None
) -> list[tuple[float, float]]:
    ticks: list[tuple[float, float]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_tick, ticks)
        if variant == "exporter":
            await _export(base_url, watch_file, state)
        else:
            naive = Naive()
            serve(naive)
            await follow(base_url, naive.receive)
        nursery.cancel_scope.cancel()
    return ticks


if __name__ == "__main__":
    found = trio.run(partial(_main, sys.argv[1], sys.argv[3], *map(Path, sys.argv[4:])))
    Path(sys.argv[2]).write_text(json.dumps(found))
