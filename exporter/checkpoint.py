"""Edge: the checkpoint: numbers and progress in one SQLite file, read at start, written while running.

Rules for this file:
- One write is one transaction, so that numbers and progress in the file always agree. SQLite's write-ahead log
  keeps that through ``kill -9``; with ``synchronous=FULL``, one fsync a write, also through a power cut.
- The first write of a process, and the first after a failed one, holds everything and replaces all there was.
  So nothing is kept for a retry, what was not taken over at start is gone from the file, and a file that was lost
  on the way is made again.
- SQLite blocks: it is called in a thread, by one call at a time. Rows are collected on the loop, in one go.
- No trouble with the file ever stops the exporter, but for another exporter that uses the same one.
- Messages of SQLite and of decoders can quote rows, so reasons are names of errors.
"""

import errno
import os
import sqlite3
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, TypeVarTuple

import attrs
import msgspec
import structlog
import trio

from . import lockfile
from .errors import ConfigError
from .saved import TOMBSTONE_LIFE, Changes, Saved, SavedConversation, SavedSeries, Tombstone

log = structlog.get_logger("exporter.checkpoint")

_APPLICATION_ID: Final = 0x50684578  # "PhEx": tells our files from those of other programs
_BUSY_SECONDS: Final = 2.0  # waited for another program that has locked the file
_LAST_SECONDS: Final = 4.0  # a hanging disk may delay the end of the program by this, for each of two steps
_LONGEST_RETRY_SECONDS: Final = 60.0
_EXPIRY_SECONDS: Final = 60.0
_WAL_PAGES: Final = 256  # 1 MiB of write-ahead log, then it is copied into the file and used again
_PAGE_BYTES: Final = 4096

# Statements that lead from each schema version to the next; ``PRAGMA user_version`` is how many were applied.
MIGRATIONS: Final[Sequence[Sequence[str]]] = (
    (
        "CREATE TABLE about (first_start REAL NOT NULL, label_names TEXT NOT NULL)",
        "CREATE TABLE family (id INTEGER PRIMARY KEY, name TEXT NOT NULL, layout TEXT NOT NULL)",
        "CREATE TABLE series (family INTEGER NOT NULL REFERENCES family, labels TEXT NOT NULL,"
        " numbers TEXT NOT NULL, PRIMARY KEY (family, labels)) WITHOUT ROWID",
        "CREATE TABLE conversation (id TEXT PRIMARY KEY, progress BLOB NOT NULL)",
        "CREATE TABLE tombstone (id TEXT PRIMARY KEY, finished_at REAL NOT NULL) WITHOUT ROWID",
    ),
)

# The file may be whole: it is worth another try, and nothing to set aside.
_TRANSIENT: Final = frozenset(
    {
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)

_Args = TypeVarTuple("_Args")
_T = TypeVar("_T")

# JSON, since a sum of billionths may outgrow 64 bits, and an operator may want to look at it.
_encode = msgspec.json.Encoder().encode
_words = msgspec.json.Decoder(tuple[str, ...]).decode
_bounds = msgspec.json.Decoder(tuple[float, ...]).decode
_whole_numbers = msgspec.json.Decoder(tuple[int, ...]).decode


class Collect(Protocol):
    """Hands out rows to write, as they stand now. Synchronous, so that they are of one moment."""

    def __call__(self, *, everything: bool) -> Changes:
        """All rows with ``everything``, tombstones included; else those that changed since the last call."""
        ...


@attrs.frozen(kw_only=True)
class Opened:
    """``saved`` is None where there was nothing to take over; ``problem`` says why, unless the file is new."""

    checkpoint: "Checkpoint"
    saved: Saved | None
    problem: str | None


class Checkpoint:
    """The file while the exporter runs. Made by `Checkpoint.open`; one task may `run` it.

    ``last_success`` is the Unix time at which the file last held all there was to save, None before;
    ``size_bytes`` the size of the file with its write-ahead log; ``first_start`` the Unix time at which an
    exporter first ran with this file.
    """

    def __init__(self, path: Path, *, label_names: tuple[str, ...], now: Callable[[], float]) -> None:
        self.last_success: float | None = None
        self.size_bytes = 0
        self.first_start = now()
        self._path = Path(os.path.realpath(path))  # two names of one file must mean one lock
        self._label_names = label_names
        self._now = now
        self._needs_everything = True
        self._turn = trio.Lock()
        self._one_thread = trio.CapacityLimiter(1)
        # Below: used in the thread only.
        self._lock: int | None = None
        self._database: _Database | None = None
        self._identity: tuple[int, int] | None = None

    @classmethod
    async def open(cls, path: Path, *, label_names: tuple[str, ...], now: Callable[[], float]) -> Opened:
        """Lock and read the file, or make it. ``label_names`` are today's; ``now`` gives Unix time.

        A file that cannot be read is set aside as ``<file>.corrupt-<time>`` and a new one begun. Where that is
        not possible either, nothing is restored and every write tries again.
        Errors: ConfigError if another exporter uses the file.
        """
        checkpoint = cls(path, label_names=label_names, now=now)
        saved = problem = None
        try:
            saved, problem = await trio.to_thread.run_sync(checkpoint._start)
        except lockfile.InUse as taken:
            raise ConfigError("--state.file", f"{path} is {taken}") from None
        except (OSError, sqlite3.Error) as trouble:
            problem = _reason(trouble)
            log.error("checkpoint cannot be used, going on without it", file=str(path), reason=problem)
        return Opened(checkpoint=checkpoint, saved=saved, problem=problem)

    async def run(self, collect: Collect, *, interval: float, on_error: Callable[[], None]) -> None:
        """Write now, and then every ``interval`` seconds what has changed; after errors ever less often.

        Cancellation: ends at once, even while the disk hangs. What a write under way becomes does not matter:
        the next one holds everything.
        """
        wait = interval
        while True:
            started = trio.current_time()
            if await self._write(collect, on_error):
                wait = interval
            else:
                wait = min(wait * 2, max(interval, _LONGEST_RETRY_SECONDS))
            await trio.sleep_until(started + wait)

    async def write_now(self, collect: Collect, *, on_error: Callable[[], None]) -> bool:
        """Write what has changed; returns whether that worked. For the end: `run` should be cancelled before.

        Cancellation: none, so that the last checkpoint is written while all else is torn down; at most 4 s.
        """
        with trio.move_on_after(_LAST_SECONDS, shield=True):
            return await self._write(collect, on_error)
        self._failed("takes too long", on_error)
        return False

    async def close(self) -> None:
        """Let go of the file; a stopped exporter leaves it without a write-ahead log.

        Cancellation: none; at most 4 s.
        """
        with trio.move_on_after(_LAST_SECONDS, shield=True):
            await self._in_thread(self._stop)

    async def _write(self, collect: Collect, on_error: Callable[[], None]) -> bool:
        async with self._turn:
            everything, at = self._needs_everything, self._now()
            changes = collect(everything=everything)
            if changes or everything:
                self._needs_everything = True  # until it is known that it worked: this call may be cancelled
                try:
                    self.size_bytes = await self._in_thread(self._put, changes, everything, at)
                except (OSError, sqlite3.Error, lockfile.InUse) as trouble:
                    self._failed(_reason(trouble), on_error)
                    return False
                self._needs_everything = False
            self.last_success = at
            return True

    def _failed(self, reason: str, on_error: Callable[[], None]) -> None:
        log.error("checkpoint not written", file=str(self._path), reason=reason)
        on_error()

    async def _in_thread(self, call: Callable[[*_Args], _T], *args: *_Args) -> _T:
        return await trio.to_thread.run_sync(call, *args, abandon_on_cancel=True, limiter=self._one_thread)

    # --- in the thread

    def _start(self) -> tuple[Saved | None, str | None]:
        self._lock = lockfile.acquire(self._path)
        saved, problem = self._connect()
        if saved is not None:
            self.first_start = saved.first_start
        self.size_bytes = _size(self._path)
        return saved, problem

    def _connect(self) -> tuple[Saved | None, str | None]:
        """Open the file. If it cannot be read, set it aside, make a new one, and say why."""
        problem = None
        try:
            self._database, saved = self._open_database()
        except _Unreadable as bad:
            problem = bad.reason
            self._set_aside("corrupt", problem)
            self._database, saved = self._open_database()
        self._identity = _identity(self._path)
        return saved, problem

    def _open_database(self) -> "tuple[_Database, Saved | None]":
        return _open(
            self._path,
            first_start=self.first_start,
            label_names=self._label_names,
            since=self._now() - TOMBSTONE_LIFE,
        )

    def _put(self, changes: Changes, everything: bool, at: float) -> int:
        if self._database is None:
            self._reconnect()
        assert self._database is not None  # noqa: S101  # for the type checker
        try:
            if _identity(self._path) != self._identity:
                raise OSError(errno.ESTALE, "file was moved or deleted")
            self._database.write(changes, label_names=self._label_names if everything else None, at=at)
        except BaseException:
            database, self._database = self._database, None
            database.close()
            raise
        return _size(self._path)

    def _reconnect(self) -> None:
        """Open the file again, or for the first time; what others have put there was never taken over."""
        if self._lock is None:
            self._lock = lockfile.acquire(self._path)
        if _identity(self._path) not in (None, self._identity):
            self._set_aside("unread", "not restored at start")
        self._connect()

    def _set_aside(self, word: str, reason: str) -> None:
        at = datetime.fromtimestamp(self._now(), UTC)
        aside = f"{self._path.name}.{word}-{at:%Y%m%dT%H%M%SZ}"
        # The file last: a write-ahead log that was left behind would be read into the next file.
        for suffix in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                _beside(self._path, suffix).rename(self._path.with_name(aside + suffix))
        log.error("checkpoint set aside, beginning a new one", file=str(self._path), aside=aside, reason=reason)

    def _stop(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class _Unreadable(Exception):
    """The file is there, and can be opened, but what it holds is of no use."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Database:
    """An open file, for one thread at a time, and of no use any more once a write has failed.

    Its first write must be one of everything.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._family_ids: dict[tuple[str, tuple[float, ...]], int] = {}
        self._expire_at = 0.0
        self.close = connection.close

    def write(self, changes: Changes, *, label_names: tuple[str, ...] | None, at: float) -> None:
        """Write in one transaction; with ``label_names`` all rows are replaced and these names noted."""
        execute, many = self._connection.execute, self._connection.executemany
        execute("BEGIN IMMEDIATE")
        with self._connection:  # commits, or rolls back
            if label_names is not None:
                for table in ("series", "family", "conversation", "tombstone"):
                    execute(f"DELETE FROM {table}")  # noqa: S608  # four literals
                self._family_ids.clear()
                execute("UPDATE about SET label_names = ?", (_encode(label_names).decode(),))
            many(
                "INSERT OR REPLACE INTO series VALUES (?, ?, ?)",
                [
                    (self._family_id(each), _encode(each.labels).decode(), _encode(each.numbers).decode())
                    for each in changes.series
                ],
            )
            many("DELETE FROM conversation WHERE id = ?", [(each,) for each in changes.forgotten])
            many(
                "INSERT INTO conversation VALUES (?, ?)"
                " ON CONFLICT (id) DO UPDATE SET progress = excluded.progress",
                [(each.id, each.blob) for each in changes.conversations],
            )
            many("DELETE FROM conversation WHERE id = ?", [(each.id,) for each in changes.finished])
            many(
                "INSERT OR REPLACE INTO tombstone VALUES (?, ?)",
                [(each.id, each.finished_at) for each in changes.finished],
            )
            if at >= self._expire_at:
                execute("DELETE FROM tombstone WHERE finished_at < ?", (at - TOMBSTONE_LIFE,))
                self._expire_at = at + _EXPIRY_SECONDS

    def _family_id(self, series: SavedSeries) -> int:
        key = (series.family, series.layout)
        if key not in self._family_ids:
            row = (series.family, _encode(series.layout).decode())
            added = self._connection.execute("INSERT INTO family (name, layout) VALUES (?, ?)", row)
            assert added.lastrowid is not None  # noqa: S101  # for the type checker
            self._family_ids[key] = added.lastrowid
        return self._family_ids[key]


def _open(
    path: Path, *, first_start: float, label_names: tuple[str, ...], since: float
) -> tuple[_Database, Saved | None]:
    """Open or make a file, and read it; None for a new one. Tombstones from before ``since`` are left out.

    Errors: _Unreadable; OSError and sqlite3.Error where another try may help.
    """
    _make(path)
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        is_new = _is_new(connection)
        _configure(connection)
        connection.execute("BEGIN IMMEDIATE")
        with connection:  # commits, or rolls back
            migrate(connection, MIGRATIONS)
            if is_new:
                about = (first_start, _encode(label_names).decode())
                connection.execute("INSERT INTO about VALUES (?, ?)", about)
        saved = None if is_new else _read(connection, since)
    except sqlite3.Error as trouble:
        connection.close()
        # Errors of the Python layer, such as text that is not UTF-8, have no code.
        if getattr(trouble, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _TRANSIENT:
            raise
        raise _Unreadable(_reason(trouble)) from trouble
    except BaseException:
        connection.close()
        raise
    return _Database(connection), saved


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> None:
    """Bring a file of ours, or an empty one, to the last of ``migrations``, inside the caller's transaction."""
    for statements in migrations[_pragma(connection, "user_version") :]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(migrations)}")
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")


def _make(path: Path) -> None:
    """See that there is a file, readable by nobody else; SQLite makes its companions with the same mode."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
    finally:
        os.close(descriptor)


def _is_new(connection: sqlite3.Connection) -> bool:
    """Whether the file is empty. Errors: _Unreadable if it is neither that nor ours, or damaged."""
    application, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    if application != _APPLICATION_ID:
        if application or version or connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise _Unreadable("a database of another program")
        return True
    if version > len(MIGRATIONS):
        raise _Unreadable(f"schema version {version} of a newer exporter")
    if _pragma(connection, "integrity_check(1)") != "ok":
        raise _Unreadable("damaged")
    return False


def _configure(connection: sqlite3.Connection) -> None:
    for setting in (
        "auto_vacuum = FULL",  # first: must be set before the file has content
        "journal_mode = WAL",
        "synchronous = FULL",
        f"wal_autocheckpoint = {_WAL_PAGES}",
        f"journal_size_limit = {_WAL_PAGES * _PAGE_BYTES}",
        "trusted_schema = OFF",
    ):
        connection.execute(f"PRAGMA {setting}")


def _read(connection: sqlite3.Connection, since: float) -> Saved:
    """All rows. Errors: _Unreadable if somebody has changed them to what we do not write."""
    rows = connection.execute
    try:
        ((first_start, label_names),) = rows("SELECT first_start, label_names FROM about")
        families = {
            id_: (name, _bounds(layout)) for id_, name, layout in rows("SELECT id, name, layout FROM family")
        }
        series = []
        for family, labels, numbers in rows("SELECT family, labels, numbers FROM series"):
            name, layout = families[family]
            series.append(SavedSeries(name, _words(labels), layout, _whole_numbers(numbers)))
        unfinished = rows("SELECT id, progress FROM conversation")
        finished = rows("SELECT id, finished_at FROM tombstone WHERE finished_at >= ?", (since,))
        return Saved(
            label_names=_words(label_names),
            first_start=float(first_start),
            series=series,
            conversations=[SavedConversation(id=id_, blob=bytes(progress)) for id_, progress in unfinished],
            tombstones=[Tombstone(id=id_, finished_at=float(at)) for id_, at in finished],
        )
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError) as bad:
        raise _Unreadable("a row cannot be decoded") from bad


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _size(path: Path) -> int:
    size = path.stat().st_size
    with suppress(FileNotFoundError):
        size += _beside(path, "-wal").stat().st_size
    return size


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _reason(trouble: Exception) -> str:
    if isinstance(trouble, OSError):
        return trouble.strerror or type(trouble).__name__
    if isinstance(trouble, sqlite3.Error):
        return getattr(trouble, "sqlite_errorname", type(trouble).__name__)
    return str(trouble)
