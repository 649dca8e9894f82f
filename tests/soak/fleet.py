"""Edge: exporter processes that share a PostgreSQL, each behind links to it and to the simulated Phonic."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import attrs
import httpx
import psycopg
import trio
from prometheus_client.parser import text_string_to_metric_families

from tests.links import Link, link
from tests.postgres import Postgres
from tests.servers import free_port

from .harness import KEY, Failed, logged

_PATIENCE_S: Final = 60.0
_LOOK_AGAIN_S: Final = 0.05
_STOP_S: Final = 10.0


@attrs.define(eq=False)
class Member:
    """One process after the other on the same port.

    ``is_well``: it runs, serves, and nothing is wrong between it and the others.
    """

    number: int
    port: int
    engine: Link
    api: Link
    http: httpx.AsyncClient
    _command: Callable[["Member"], list[str]]
    _folder: Path
    is_well: bool = False
    process: subprocess.Popen[bytes] | None = None
    _starts: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return 0 if self.process is None else self.process.pid

    @property
    def log(self) -> Path:
        """Of the newest process."""
        return self._folder / f"exporter-{self.number}-{self._starts:02}.log"

    def launch(self) -> None:
        """Start a process; do not wait for it."""
        assert self.process is None
        self._starts += 1
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PHONIC_")}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self._command(self),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment | {"PHONIC_API_KEY": KEY},
                cwd=Path(__file__).parents[2],
            )

    async def start(self) -> None:
        """Start a process and wait until it serves. Raises: Failed."""
        self.launch()
        await until(lambda: self._is_gone() or logged(self.log, "landing_page="), "it serves", self.tell)
        self.is_well = True

    async def kill(self) -> None:
        """End the process at once. Does nothing without one."""
        self.is_well = False
        if self.process is not None:
            self.process.kill()
            await trio.to_thread.run_sync(self.process.wait)
            self.process = None

    async def stop(self) -> None:
        """End the process by SIGTERM. Raises: Failed if that does not end it well within 10 s."""
        self.is_well = False
        assert self.process is not None
        self.process.terminate()
        deadline = trio.current_time() + _STOP_S
        while (code := self.process.poll()) is None:
            if trio.current_time() > deadline:
                raise Failed(f"did not stop within {_STOP_S:.0f} s\n{self.tell()}")
            await trio.sleep(_LOOK_AGAIN_S)
        if code:
            raise Failed(f"stopped with exit code {code}\n{self.tell()}")
        self.process = None

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def page(self) -> dict[str, Any]:
        """Return the families of its page by name."""
        answer = (await self.http.get(f"{self.url}/metrics")).raise_for_status()
        return {family.name: family for family in text_string_to_metric_families(answer.text)}

    async def shards(self) -> httpx.Response:
        return await self.http.get(f"{self.url}/api/v1/shards")

    def tell(self) -> str:
        """Return the end of its log."""
        return f"{self.log}:\n" + "\n".join(self.log.read_text().splitlines()[-15:])

    def logs(self) -> Iterable[Path]:
        """The logs of all its processes."""
        return sorted(self._folder.glob(f"exporter-{self.number}-*.log"))

    def _is_gone(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            code = None if self.process is None else self.process.returncode
            raise Failed(f"ended by itself with exit code {code}\n{self.tell()}")
        return False


@attrs.frozen(kw_only=True)
class Launch:
    """How members are started. ``shards`` is asked at each start, because it changes."""

    server: Postgres
    database: str
    lease_s: float
    hold_s: float
    state_interval_s: float
    shards: Callable[[], int]
    mutation: str

    def command(self, member: Member) -> list[str]:
        flags = [
            f"--phonic.base-url=http://127.0.0.1:{member.api.port}",
            "--phonic.requests-per-second=200",
            "--watch.interval=0.3",
            f"--state.url={self.server.url(self.database, port=member.engine.port)}",
            f"--state.interval={self.state_interval_s}",
            f"--shard.count={self.shards()}",
            f"--shard.lease={self.lease_s}",
            f"--web.listen-address=127.0.0.1:{member.port}",
            f"--metrics.hold-new-series={self.hold_s}",
            "--log.level=debug",
        ]
        return [sys.executable, "-m", "tests.soak.clock", json.dumps([]), self.mutation, *flags]


@asynccontextmanager
async def fleet(count: int, launch: Launch, folder: Path) -> AsyncIterator[list[Member]]:
    """Make ``count`` members, which are not started, and their links. Ends all processes at the end.

    The links to Phonic lead nowhere yet.
    """
    nowhere = free_port()
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=5, trust_env=False))
        members = [
            Member(
                number,
                free_port(),
                await stack.enter_async_context(link(launch.server.port)),
                await stack.enter_async_context(link(nowhere)),
                http,
                launch.command,
                folder,
            )
            for number in range(1, count + 1)
        ]
        try:
            yield members
        finally:
            with trio.CancelScope(shield=True):
                for member in members:
                    await member.kill()


@attrs.frozen
class Row:
    """What the engine says of a shard. ``pid``: of the process whose lease has not run out, 0 without one."""

    shard: str
    epoch: int
    pid: int
    is_drained: bool


@attrs.frozen
class TakeOver:
    """A shard got a new holder, at this Unix time."""

    at: float
    shard: str
    epoch: int
    pid: int


@attrs.define(eq=False)
class Watch:
    """Looks all the time who holds the shards, past all links."""

    _server: Postgres
    _database: str
    rows: dict[str, Row] = attrs.field(factory=dict)
    history: list[TakeOver] = attrs.field(factory=list)
    _looks: list[float] = attrs.field(factory=list)
    """Unix times."""

    async def run(self) -> None:
        """Look until cancelled; also while the engine is down."""
        while True:
            await trio.to_thread.run_sync(self._look, abandon_on_cancel=True)
            await trio.sleep(_LOOK_AGAIN_S)

    def holder(self, shard: str) -> int:
        row = self.rows.get(shard)
        return 0 if row is None else row.pid

    def delay(self, since: float, until: float) -> float:
        """Return how many seconds, between these Unix times, a look took longer than it must at most."""
        looks = [at for at in self._looks if since - 1 < at < until + 1]
        return max((after - before - _LOOK_AGAIN_S for before, after in pairwise(looks)), default=0.0)

    def _look(self) -> None:
        """Look until the engine does not answer."""
        try:
            with self._server.connect(self._database) as connection:
                while True:
                    for row in _rows(connection):
                        self._see(row)
                    self._looks.append(time.time())
                    time.sleep(_LOOK_AGAIN_S)
        except psycopg.Error:
            return

    def _see(self, row: Row) -> None:
        before = self.rows.get(row.shard)
        self.rows[row.shard] = row
        if row.pid and (before is None or row.epoch > before.epoch):
            self.history.append(TakeOver(time.time(), row.shard, row.epoch, row.pid))


def _rows(connection: "psycopg.Connection[Any]") -> list[Row]:
    found = connection.execute(
        "SELECT shard, epoch, CASE WHEN lease_until > clock_timestamp() THEN holder ELSE '' END, is_drained"
        " FROM phonic_shard ORDER BY shard"
    )
    return [
        Row(str(shard), epoch, int(holder.split(":")[-2]) if holder else 0, is_drained)
        for shard, epoch, holder, is_drained in found
    ]


async def until(
    holds: Callable[[], object], what: str, tell: Callable[[], str] = str, *, patience_s: float = _PATIENCE_S
) -> None:
    """Look until ``holds`` returns true. Raises: Failed."""
    deadline = trio.current_time() + patience_s
    while not holds():
        if trio.current_time() > deadline:
            raise Failed(f"waited {patience_s:.0f} s in vain until {what}\n{tell()}")
        await trio.sleep(_LOOK_AGAIN_S)
