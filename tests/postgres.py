"""Runs PostgreSQL of Debian's packages on loopback: one server for all tests, or one that a test may crash.

``fsync`` stays on, because the crash of a server is part of what is tested. PostgreSQL refuses to run as root, so
root runs it as the user of Debian's package.
"""

import contextlib
import grp
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import attrs
import psycopg
import pytest
from psycopg import sql

from tests.servers import free_port

USER: Final = "phonic"
"""A superuser, for whom no password is needed."""
GUARDED_USER: Final = "guarded"
"""A superuser who needs `PASSWORD`."""
PASSWORD: Final = "p@ss word/ünique"  # what a URL must quote

_PATIENCE_S: Final = 30.0
_LOOK_AGAIN_S: Final = 0.02
_CONFIG: Final = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = on
synchronous_commit = on
shared_buffers = 16MB
max_connections = 60
log_connections = off
"""
_HBA: Final = f"""
host all {GUARDED_USER} 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
"""


@attrs.define(eq=False)
class Postgres:
    """A server with its data in ``folder``. All methods block; the caller stops the server (`running`)."""

    folder: Path
    port: int
    _programs: Path
    _process: subprocess.Popen[bytes] | None = None
    _names: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))

    def start(self) -> None:
        """Start the server on its port, and wait until it accepts connections."""
        assert self._process is None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.folder / "data", "-p", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **_unprivileged(),
            )
        deadline = time.monotonic() + _PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise CannotStart(self.log.read_text())
            time.sleep(_LOOK_AGAIN_S)

    def crash(self) -> None:
        """End all its processes at once, without a checkpoint (``pg_ctl stop -m immediate``)."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """Disconnect the clients and stop. Does nothing if the server does not run."""
        self._end(signal.SIGINT)

    def url(self, database: str = "postgres", *, user: str = USER, port: int | None = None) -> str:
        """Return the URL of a database. ``port``: of a proxy before the server."""
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/{quote(database)}"

    def connect(self, database: str = "postgres") -> "psycopg.Connection[psycopg.rows.TupleRow]":
        """Connect; each statement commits itself. The caller closes the connection."""
        return psycopg.connect(self.url(database), autocommit=True, connect_timeout=int(_PATIENCE_S))

    def new_database(self) -> str:
        """Create an empty database; return its name."""
        name = f"test_{next(self._names)}"
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, and disconnect its clients."""
        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @property
    def log(self) -> Path:
        return self.folder / "postgres.log"

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _end(self, number: signal.Signals) -> None:
        """End the server by its process id, with all processes that it has started."""
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


class CannotStart(Exception):
    """The server ended while it started; the text is its log."""


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """Run a new server until the block ends. Without PostgreSQL, skip the test, or fail it on CI."""
    programs = _programs()
    # Not below pytest's folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="phonic-postgres-"))
    try:
        server = _made(folder, programs)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@attrs.frozen
class Database:
    """An empty database of one test. ``guarded_url`` needs the password in ``password_file``."""

    server: Postgres
    name: str
    password_file: Path

    @property
    def url(self) -> str:
        return self.server.url(self.name)

    @property
    def guarded_url(self) -> str:
        return self.server.url(self.name, user=GUARDED_USER)

    def connect(self) -> "psycopg.Connection[psycopg.rows.TupleRow]":
        """Connect; each statement commits itself. The caller closes the connection."""
        return self.server.connect(self.name)


@contextlib.contextmanager
def fresh_database(server: Postgres, folder: Path) -> Iterator[Database]:
    """Create a database, which is dropped when the block ends. The password file is in ``folder``."""
    name = server.new_database()
    file = folder / "postgres-password"
    file.write_text(f"{PASSWORD}\n")
    file.chmod(0o600)
    try:
        yield Database(server, name, file)
    finally:
        server.drop_database(name)


def _programs() -> Path:
    """Return the folder of the programs: of the newest version of Debian's packages, or on the ``PATH``."""
    found = [each.parent for each in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if found:
        return max(found, key=lambda each: float(each.parent.name))
    on_path = shutil.which("postgres")
    if on_path is not None and shutil.which("initdb") is not None:
        return Path(on_path).resolve().parent
    why = "PostgreSQL is missing (Debian: apt install postgresql)"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def _made(folder: Path, programs: Path) -> Postgres:
    """Create the data of a server and start it on a free port."""
    who = _unprivileged()
    if who:
        shutil.chown(folder, who["user"], who["group"])
    subprocess.run(
        # The loss of these files would be no loss; what the server writes later is synchronised.
        [programs / "initdb", "-D", folder / "data", "-U", USER, "-E", "UTF8", "--no-locale", "--no-sync"],
        check=True,
        capture_output=True,
        cwd=folder,
        **who,
    )
    with (folder / "data/postgresql.conf").open("a") as config:
        config.write(_CONFIG)
    (folder / "data/pg_hba.conf").write_text(_HBA)
    server = _started(folder, programs)
    with server.connect() as connection:
        role, password = sql.Identifier(GUARDED_USER), sql.Literal(PASSWORD)
        connection.execute(sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(role, password))
    return server


def _started(folder: Path, programs: Path) -> Postgres:
    """Start a server on a port that is free. Another program may take the port first; then take another."""
    for _ in range(5):
        server = Postgres(folder, free_port(), programs)
        with contextlib.suppress(CannotStart):
            server.start()
            return server
    raise CannotStart(server.log.read_text())


def _unprivileged() -> dict[str, Any]:
    """Return arguments for `subprocess` so that a process does not run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            group = grp.getgrgid(pwd.getpwnam(name).pw_gid).gr_name
            return {"user": name, "group": group, "extra_groups": ()}
    raise CannotStart("there is no user but root")
