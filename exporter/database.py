"""Edge: the checkpoint file in SQLite: opened, migrated, read and written; the only module that imports sqlite3.

Rules for this file:
- One write is one transaction, so that numbers and progress in the file always agree. SQLite's write-ahead log
  keeps that through ``kill -9``; with ``synchronous=FULL``, one fsync a write, also through a power cut.
- Numbers and words are JSON: a sum of billionths may outgrow 64 bits, and an operator may want to look.
- Messages of SQLite and of decoders can quote rows, so reasons are names of errors.
- Everything here blocks.
"""

import errno
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec

from .saved import TOMBSTONE_LIFE, Changes, Saved, SavedConversation, SavedSeries, Tombstone

_APPLICATION_ID: Final = 0x50684578  # "PhEx": tells our files from those of other programs
_BUSY_SECONDS: Final = 2.0  # waited for another program that has locked the file
_EXPIRY_SECONDS: Final = 60.0
_WAL_PAGES: Final = 256  # 1 MiB of write-ahead log, then it is copied into the file and used again
_PAGE_BYTES: Final = 4096
_COMPANIONS: Final = ("-wal", "-shm")

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

# The file itself may be whole: worth another try, nothing to set aside.
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

_encode = msgspec.json.Encoder().encode
_words = msgspec.json.Decoder(tuple[str, ...]).decode
_bounds = msgspec.json.Decoder(tuple[float, ...]).decode
_integers = msgspec.json.Decoder(tuple[int, ...]).decode


class Unusable(Exception):
    """The file cannot be used now: locked, read-only, full disk, no folder. ``str()`` says why, quoting no row."""


class Unreadable(Exception):
    """What the file holds is of no use, now or later. ``str()`` says why, quoting no row."""


class Database:
    """An open file, for one thread at a time; ``identity`` tells it from others of its name.

    After a failed write it must be closed.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Use `open_database`."""
        self._path = path
        self.identity = identity(path)
        self._connection = connection
        self._family_ids: dict[tuple[str, tuple[float, ...]], int] = {}
        self._expire_at = 0.0

    @property
    def size_bytes(self) -> int:
        """Size of the file with its write-ahead log."""
        size = 0
        for part in (self._path, _beside(self._path, "-wal")):
            with suppress(FileNotFoundError):
                size += part.stat().st_size
        return size

    def write(self, changes: Changes, *, replace: tuple[str, ...] | None, at: float) -> None:
        """Write in one transaction. ``at`` is Unix time; tombstones that are too old by then are dropped.

        With ``replace``, the label names of these and all later series, all rows there were are replaced; the
        first write to a file must do so. Errors: Unusable, also for a file that was moved or damaged meanwhile.
        """
        with _translated():
            if self.identity != identity(self._path):
                raise OSError(errno.ESTALE, "the file was moved or deleted")
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:  # commits, or rolls back
                if replace is not None:
                    self._clear(replace)
                self._add(changes)
                if at >= self._expire_at:
                    self._connection.execute("DELETE FROM tombstone WHERE finished_at < ?", (at - TOMBSTONE_LIFE,))
                    self._expire_at = at + _EXPIRY_SECONDS

    def close(self) -> None:
        """Let go of the file, leaving it without a write-ahead log. Errors: Unusable."""
        with _translated():
            self._connection.close()
            if self.identity != identity(self._path):
                # SQLite leaves the log of a file that was moved, and would read it into what is there now.
                for suffix in _COMPANIONS:
                    _beside(self._path, suffix).unlink(missing_ok=True)

    def _clear(self, label_names: tuple[str, ...]) -> None:
        self._family_ids.clear()
        for table in ("series", "family", "conversation", "tombstone"):
            self._connection.execute(f"DELETE FROM {table}")  # noqa: S608  # four literals
        self._connection.execute("UPDATE about SET label_names = ?", (_text(label_names),))

    def _add(self, changes: Changes) -> None:
        many = self._connection.executemany
        many(
            "INSERT OR REPLACE INTO series VALUES (?, ?, ?)",
            [(self._family_id(each), _text(each.labels), _text(each.numbers)) for each in changes.series],
        )
        many("DELETE FROM conversation WHERE id = ?", [(each,) for each in changes.forgotten])
        many(
            "INSERT INTO conversation VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET progress = excluded.progress",
            [(each.id, each.blob) for each in changes.conversations],
        )
        many("DELETE FROM conversation WHERE id = ?", [(each.id,) for each in changes.finished])
        many(
            "INSERT OR REPLACE INTO tombstone VALUES (?, ?)",
            [(each.id, each.finished_at) for each in changes.finished],
        )

    def _family_id(self, series: SavedSeries) -> int:
        key = (series.family, series.layout)
        if key not in self._family_ids:
            row = (series.family, _text(series.layout))
            added = self._connection.execute("INSERT INTO family (name, layout) VALUES (?, ?)", row)
            self._family_ids[key] = added.lastrowid or 0  # never 0 after an INSERT, whatever its type says
        return self._family_ids[key]


def open_database(
    path: Path, *, label_names: tuple[str, ...], first_start: float, since: float
) -> tuple[Database, Saved | None]:
    """Open a file and read it, or make it (mode 0600) with these ``label_names`` and ``first_start``.

    Nothing is saved in a new file; tombstones from before ``since`` (Unix time) are left out.
    Errors: Unreadable, Unusable.
    """
    with _translated():
        _make(path)
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            is_new = _is_new(connection)
            if is_new:
                connection.execute("PRAGMA auto_vacuum = FULL")  # must be set while the file has no content
            _configure(connection)
            connection.execute("BEGIN IMMEDIATE")
            with connection:  # commits, or rolls back
                migrate(connection, MIGRATIONS)
                if is_new:
                    connection.execute("INSERT INTO about VALUES (?, ?)", (first_start, _text(label_names)))
            saved = None if is_new else _read(connection, since)
            return Database(path, connection), saved
        except sqlite3.Error as bad:
            connection.close()
            # Errors of the Python layer, such as text that is not UTF-8, have no code.
            if getattr(bad, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _TRANSIENT:
                raise
            raise Unreadable(_name(bad)) from bad
        except BaseException:
            connection.close()
            raise


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> None:
    """Bring a file of ours, or an empty one, to the last of ``migrations``, inside the caller's transaction."""
    missing = migrations[_pragma(connection, "user_version") :]
    for statement in chain.from_iterable(missing):
        connection.execute(statement)
    if missing:
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one of the same name; None if there is none. Errors: Unusable."""
    with _translated():
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):  # also keeps us from renaming a folder or a device
            raise OSError(errno.EINVAL, "not a regular file")
        return found.st_dev, found.st_ino


def set_aside(path: Path, word: str, at: float) -> str:
    """Rename a closed file to ``<file>.<word>-<UTC time>`` and return the new name. Errors: Unusable."""
    aside = f"{path.name}.{word}-{datetime.fromtimestamp(at, UTC):%Y%m%dT%H%M%SZ}"
    with _translated():
        # The file last: a write-ahead log that was left behind would be read into the next file.
        for suffix in (*_COMPANIONS, ""):
            with suppress(FileNotFoundError):
                _beside(path, suffix).rename(path.with_name(aside + suffix))
    return aside


def _make(path: Path) -> None:
    """See that there is a file, readable by nobody else; SQLite makes its companions with the same mode."""
    if identity(path) is None:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _is_new(connection: sqlite3.Connection) -> bool:
    """Whether the file is empty. Errors: Unreadable if it is neither that nor ours, or damaged."""
    application, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    if application != _APPLICATION_ID:
        if application or version or connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise Unreadable("a database of another program")
        return True
    if version > len(MIGRATIONS):
        raise Unreadable(f"schema version {version} of a newer exporter")
    if _pragma(connection, "integrity_check(1)") != "ok":
        raise Unreadable("damaged")
    return False


def _configure(connection: sqlite3.Connection) -> None:
    for setting in (
        "journal_mode = WAL",
        "synchronous = FULL",
        f"wal_autocheckpoint = {_WAL_PAGES}",
        f"journal_size_limit = {_WAL_PAGES * _PAGE_BYTES}",
        "trusted_schema = OFF",
    ):
        connection.execute(f"PRAGMA {setting}")


def _read(connection: sqlite3.Connection, since: float) -> Saved:
    """All rows. Errors: Unreadable if somebody has changed them to what we do not write."""
    rows = connection.execute
    try:
        ((first_start, label_names),) = rows("SELECT first_start, label_names FROM about")
        families = {
            id_: (name, _bounds(layout)) for id_, name, layout in rows("SELECT id, name, layout FROM family")
        }
        series = []
        for family, labels, numbers in rows("SELECT family, labels, numbers FROM series"):
            name, layout = families[family]
            series.append(SavedSeries(name, _words(labels), layout, _integers(numbers)))
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
        raise Unreadable("a row cannot be decoded") from bad


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _text(values: tuple[object, ...]) -> str:
    return _encode(values).decode()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as bad:
        raise Unusable(bad.strerror or type(bad).__name__) from bad
    except sqlite3.Error as bad:
        raise Unusable(_name(bad)) from bad


def _name(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", type(error).__name__))
