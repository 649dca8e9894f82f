"""Edge: PostgreSQL on loopback, with the CPU time that it uses and the write-ahead log that it writes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from exporter.state.postgres import Server
from tests.postgres import Postgres, running

_TICKS = os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Engine:
    """A running server, made by `engine`. ``url`` is that of an empty database."""

    url: str
    _server: Postgres

    @property
    def server(self) -> Server:
        """The server as the exporter knows it."""
        return Server(url=self.url, password_file=None)

    @property
    def cpu_seconds(self) -> float:
        """The CPU time, user and system, of all its processes, ended ones included."""
        main = int((self._server.folder / "data/postmaster.pid").read_text().split()[0])
        alive = sum(int(_proc(each, "schedstat")[0]) for each in (main, *_children(main))) / 1e9
        stat = Path(f"/proc/{main}/stat").read_text().rpartition(")")[2].split()
        return alive + (int(stat[13]) + int(stat[14])) / _TICKS

    @property
    def log_bytes(self) -> int:
        """How much write-ahead log was written so far."""
        with self._server.connect() as connection:
            row = connection.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchone()
        assert row is not None
        return int(row[0])


@contextmanager
def engine() -> Iterator[Engine]:
    """Run a server with the settings of the tests (``fsync`` is on) while the block runs."""
    with running() as server:
        yield Engine(server.url(server.new_database()), server)


def _children(main: int) -> Iterator[int]:
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                stat = (each / "stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == main:
                yield int(each.name)


def _proc(pid: int, name: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/{name}").read_text().split()
    except OSError:
        return ["0"]
