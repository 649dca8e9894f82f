"""Edge: the state file in SQLite (docs/decisions/0007): recognises, reads, migrates and writes it.

- One write is one transaction, so numbers and progress in the file always agree. SQLite's write-ahead log keeps
  that true through ``kill -9``, and with ``synchronous=FULL``, one fsync per write, through a power cut.
- Opening and reading write nothing, so a full disk or a read-only folder cannot damage a file. The first write
  to a file of an older release migrates it.
- The file is locked for this process alone (``locking_mode=EXCLUSIVE``). SQLite then needs no shared memory file,
  which it could not create on a full disk.
- Only a file of this exporter is ever renamed: an SQLite file with our application id.
- Numbers and words are JSON. A sum of billionths may need more than 64 bits, and an operator can read it.
- Messages of SQLite and of decoders can quote rows, so an error's reason is the name of the original error.
- All functions block; callers run them in a thread.
"""

import errno
import os
import re
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from glob import escape
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Final

import attrs
import msgspec

from ..counting import retention
from .ended import hash_of, packed
from .history import Remembered
from .rows import NO_HISTORY, Changes, HeldBack, HistoryLimits, Saved, SavedConversation, SavedEnds, SavedSeries
from .storage import Unusable

_APPLICATION_ID: Final = 0x50684578  # "PhEx": distinguishes our files from those of other programs
_MAGIC: Final = b"SQLite format 3\0"
# Offsets in every SQLite file: its header, and the beginning of the page that lists its tables.
_VERSION_AT: Final = slice(60, 64)
_APPLICATION_ID_AT: Final = slice(68, 72)
_FIRST_PAGE_AT: Final = slice(100, 105)  # type, offset of free space (2 bytes), number of rows (2 bytes)
_HEADER_BYTES: Final = 105
_LEAF: Final = 13
_BUSY_SECONDS: Final = 2.0  # how long to wait for another program that has locked the file
_EXPIRY_SECONDS: Final = 60.0
_WAL_PAGES: Final = 256  # 1 MiB of write-ahead log; SQLite then copies it into the file and reuses it
_PAGE_BYTES: Final = 4096
_COMPANIONS: Final = ("-wal", "-shm")
_MOST_ASIDE: Final = 3  # files set aside that are kept

Migration = Sequence[str | Callable[[sqlite3.Connection], None]]


def _hash_tombstones(connection: sqlite3.Connection) -> None:
    """Convert the ends of schema 1 (id and time) to packed hashes, one row per hour."""
    rows = connection.execute("SELECT id, finished_at FROM tombstone ORDER BY finished_at").fetchall()
    for _, group in groupby(rows, key=lambda row: row[1] // 3600):
        ends = list(group)
        connection.execute(
            "INSERT INTO ended VALUES (?, ?)", (ends[-1][1], packed(hash_of(id_) for id_, _ in ends))
        )


# The steps from each schema version to the next. ``PRAGMA user_version`` counts the versions applied.
MIGRATIONS: Final[Sequence[Migration]] = (
    (
        "CREATE TABLE about (first_start REAL NOT NULL, label_names TEXT NOT NULL)",
        "CREATE TABLE family (id INTEGER PRIMARY KEY, name TEXT NOT NULL, layout TEXT NOT NULL)",
        "CREATE TABLE series (family INTEGER NOT NULL REFERENCES family, labels TEXT NOT NULL,"
        " numbers TEXT NOT NULL, PRIMARY KEY (family, labels)) WITHOUT ROWID",
        "CREATE TABLE conversation (id TEXT PRIMARY KEY, progress BLOB NOT NULL)",
        "CREATE TABLE tombstone (id TEXT PRIMARY KEY, finished_at REAL NOT NULL) WITHOUT ROWID",
    ),
    (
        "ALTER TABLE about ADD COLUMN families TEXT",  # NULL: those that have rows
        # Rows of `HeldBack`; `is_ahead` is its `is_expected`.
        "CREATE TABLE held (family TEXT NOT NULL, labels TEXT NOT NULL, is_ahead INTEGER NOT NULL,"
        " PRIMARY KEY (family, labels)) WITHOUT ROWID",
        # One row per write, oldest first: packed hashes (`exporter.state.ended`) of the ends until `at`.
        "CREATE TABLE ended (at REAL NOT NULL, hashes BLOB NOT NULL)",
        _hash_tombstones,
        "DROP TABLE tombstone",
    ),
    (
        # `history.Remembered`, a row each: what a list shows of a conversation, and all of it, packed.
        "CREATE TABLE history (id TEXT PRIMARY KEY, ended_at REAL NOT NULL, project TEXT NOT NULL,"
        " agent TEXT NOT NULL, ended_by TEXT NOT NULL, is_failed INTEGER NOT NULL, duration REAL,"
        " turns INTEGER NOT NULL, slowest REAL, packed BLOB NOT NULL) WITHOUT ROWID",
        "CREATE INDEX history_ended_at ON history (ended_at)",
    ),
)

# The file itself may be intact: try again, do not set it aside.
_TRANSIENT: Final = frozenset(
    {
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)

_WITH_HISTORY: Final = 3  # the schema version
_MATCHES: Final = " OR ".join(f"{each} LIKE :like ESCAPE '\\'" for each in ("id", "project", "agent", "ended_by"))
_COUNT_HISTORY: Final = f"SELECT count(*) FROM history WHERE {_MATCHES}"  # noqa: S608  # literals
_LIST_HISTORY: Final = (
    "SELECT id, ended_at, project, agent, ended_by, is_failed, duration, turns, slowest"  # noqa: S608  # literals
    f" FROM history WHERE {_MATCHES}"
    " ORDER BY is_failed DESC, slowest IS NULL, slowest DESC, ended_at DESC LIMIT :limit"
)

_encode = msgspec.json.Encoder().encode
_words = msgspec.json.Decoder(tuple[str, ...]).decode
_bounds = msgspec.json.Decoder(tuple[float, ...]).decode
_integers = msgspec.json.Decoder(tuple[int, ...]).decode


class Unreadable(Exception):
    """The contents of a state file cannot be used, now or later. ``str()`` says why, without quoting a row."""


class Newer(Unreadable):
    """A later release wrote the state file."""


class NotOurs(Exception):
    """The file is not a state file, and is left alone. ``str()`` says what it is."""


class Database:
    """An open state file, for one thread at a time. After a failed write it must be closed.

    ``identity``: device and inode number, which change when another file takes the name. ``is_new``: nothing was
    written to the file yet.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, *, is_new: bool, history: HistoryLimits
    ) -> None:
        """Use `open_database`."""
        self._path = path
        self._history = history
        self.identity = identity(path)
        self.is_new = is_new
        self._connection = connection
        self._log: tuple[int, int] | None = None  # identity of the write-ahead log, once something was written
        self._family_ids: dict[tuple[str, tuple[float, ...]], int] | None = None
        self._about: tuple[float, tuple[str, ...], tuple[str, ...]] | None = None
        self._expire_at = 0.0

    @property
    def size_bytes(self) -> int:
        """Size of the file with its write-ahead log."""
        size = 0
        for part in (self._path, _beside(self._path, "-wal")):
            with suppress(FileNotFoundError):
                size += part.stat().st_size
        return size

    def write(self, changes: Changes, *, label_names: tuple[str, ...], replace: bool, at: float) -> None:
        """Write changes in one transaction.

        ``label_names``: the label names of all series in the file. ``replace``: delete all rows first. ``at``:
        Unix time of the write; ends older than `retention.ENDED` are deleted.

        Raises: Unusable, also if the file was moved or damaged since it was opened.
        """
        with _translated():
            if self.identity != identity(self._path):
                raise OSError(errno.ESTALE, "the file was moved or deleted")
            if self.is_new:
                _prepare(self._connection)
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:  # commits, or rolls back
                migrate(self._connection, MIGRATIONS)
                if replace:
                    self._clear()
                if self._family_ids is None:
                    self._family_ids = {
                        (name, _bounds(layout)): id_
                        for id_, name, layout in self._connection.execute("SELECT id, name, layout FROM family")
                    }
                self._tell_about((changes.first_start, label_names, tuple(changes.families)))
                self._add(changes)
                if at >= self._expire_at:
                    self._expire(at - retention.ENDED)
                    self._forget_history(at)
                    self._expire_at = at + _EXPIRY_SECONDS
            self.is_new = False
            if self._log is None:
                self._log = identity(_beside(self._path, "-wal"))

    def recall(self, conversation_id: str) -> bytes | None:
        """Return what is remembered of an ended conversation, packed, or None. Raises: Unusable."""
        with _translated():
            if not self._has_history():
                return None
            found = self._connection.execute("SELECT packed FROM history WHERE id = ?", (conversation_id,))
            row = found.fetchone()
            return None if row is None else bytes(row[0])

    def list_history(self, query: str, limit: int) -> tuple[list[Remembered], int]:
        """Return up to ``limit`` remembered conversations, failed first, then the slowest; and how many match.

        ``query``: text that the id, project, agent or end contains, in any case. The rows are without ``packed``.
        Raises: Unusable.
        """
        with _translated():
            if not self._has_history():
                return [], 0
            values = {"like": "%" + re.sub(r"([%_\\])", r"\\\1", query) + "%", "limit": limit}
            (count,) = self._connection.execute(_COUNT_HISTORY, values).fetchone()
            return [_remembered(row) for row in self._connection.execute(_LIST_HISTORY, values)], count

    def _has_history(self) -> bool:
        return not self.is_new and _pragma(self._connection, "user_version") >= _WITH_HISTORY

    def close(self) -> None:
        """Close the file and remove its write-ahead log. Raises: Unusable."""
        with _translated():
            self._connection.close()
            log = _beside(self._path, "-wal")
            if self.identity != identity(self._path) and self._log is not None and self._log == identity(log):
                # SQLite does not remove the log of a file that was moved, and would apply it to the next file
                # here.
                log.unlink(missing_ok=True)

    def _clear(self) -> None:
        self._family_ids = {}
        self._about = None
        for table in ("about", "series", "family", "held", "conversation", "ended"):
            self._connection.execute(f"DELETE FROM {table}")  # noqa: S608  # six literals

    def _tell_about(self, about: tuple[float, tuple[str, ...], tuple[str, ...]]) -> None:
        if about != self._about:
            first_start, label_names, families = about
            self._connection.execute("DELETE FROM about")
            self._connection.execute(
                "INSERT INTO about (first_start, label_names, families) VALUES (?, ?, ?)",
                (first_start, _text(label_names), _text(families)),
            )
            self._about = about

    def _add(self, changes: Changes) -> None:
        many = self._connection.executemany
        # Generators: SQLite releases the interpreter lock at each row, so other threads run during a large write.
        many(
            "INSERT OR REPLACE INTO series VALUES (?, ?, ?)",
            ((self._family_id(each), _text(each.labels), _text(each.numbers)) for each in changes.series()),
        )
        if changes.held is not None:
            self._connection.execute("DELETE FROM held")
            many(
                "INSERT INTO held VALUES (?, ?, ?)",
                [(each.family, _text(each.labels), each.is_expected) for each in changes.held],
            )
        many("DELETE FROM conversation WHERE id = ?", [(each,) for each in changes.forgotten])
        many(
            "INSERT INTO conversation VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET progress = excluded.progress",
            ((each.id, each.blob) for each in changes.conversations()),
        )
        many("DELETE FROM conversation WHERE id = ?", [(each,) for each in changes.finished])
        many("INSERT INTO ended VALUES (?, ?)", ((each.at, each.hashes) for each in changes.ends()))
        if self._history.conversations:
            many(
                "INSERT OR REPLACE INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (attrs.astuple(each) for each in changes.remembered()),
            )

    def _forget_history(self, at: float) -> None:
        """Delete the remembered conversations beyond the limits, the oldest first."""
        self._connection.execute("DELETE FROM history WHERE ended_at < ?", (at - self._history.seconds,))
        self._connection.execute(
            "DELETE FROM history WHERE id IN (SELECT id FROM history ORDER BY ended_at DESC LIMIT -1 OFFSET ?)",
            (self._history.conversations,),
        )

    def _expire(self, before: float) -> None:
        """Delete the ends before a Unix time. Rows are in order of time, so only the deleted ones are read."""
        kept = self._connection.execute("SELECT rowid FROM ended WHERE at >= ? ORDER BY rowid LIMIT 1", (before,))
        found = kept.fetchone()
        if found is None:
            self._connection.execute("DELETE FROM ended")
        else:
            self._connection.execute("DELETE FROM ended WHERE rowid < ?", found)

    def _family_id(self, series: SavedSeries) -> int:
        assert self._family_ids is not None  # noqa: S101  # read at the beginning of every write
        key = (series.family, series.layout)
        if key not in self._family_ids:
            row = (series.family, _text(series.layout))
            added = self._connection.execute("INSERT INTO family (name, layout) VALUES (?, ?)", row)
            self._family_ids[key] = added.lastrowid or 0  # never 0 after an INSERT, whatever its type says
        return self._family_ids[key]


def check(path: Path) -> None:
    """Check, without writing or waiting, that a file can be used: missing, empty, or a state file.

    Raises: NotOurs; OSError if the file cannot be looked at.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise NotOurs("not a regular file")
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if not header:
        return
    if not header.startswith(_MAGIC):
        raise NotOurs("not a state file of this exporter")
    application = int.from_bytes(header[_APPLICATION_ID_AT], "big")
    # If an exporter was killed right after it created the file, the id is still in the write-ahead log, and 0
    # here.
    if application != _APPLICATION_ID and (application or not _is_blank(header)):
        raise NotOurs("a database of another program")


def _is_blank(header: bytes) -> bool:
    """Whether a database without an application id has neither a version nor tables, its log aside."""
    page = header[_FIRST_PAGE_AT]
    return len(header) == _HEADER_BYTES and not any(header[_VERSION_AT]) and (page[0], page[-1]) == (_LEAF, 0)


def open_database(
    path: Path, *, since: float | None, history: HistoryLimits = NO_HISTORY
) -> tuple[Database, Saved | None]:
    """Open a state file and read it, or create an empty one (mode 0600).

    Returns the file, and its contents, None if it is empty. Ends before ``since`` (Unix time) are left out; with
    None no row is read. ``history``: how much is remembered of ended conversations.

    Raises: NotOurs, Unreadable, Unusable.
    """
    with _translated():
        check(path)
        if identity(path) is None:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            # Must come before the first access, where SQLite decides whether to create shared memory.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA trusted_schema = OFF")
            is_new = _is_new(connection)
            if not is_new:
                _configure(connection)
            saved = None if is_new or since is None else _read(connection, since)
            return Database(path, connection, is_new=is_new, history=history), saved
        except sqlite3.Error as bad:
            connection.close()
            # Errors of the sqlite3 module itself, as for text that is not UTF-8, have no code.
            if getattr(bad, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _TRANSIENT:
                raise
            if not _says_ours(path):
                raise NotOurs("a database of another program, or one that is damaged") from bad
            raise Unreadable(_name(bad)) from bad
        except BaseException:
            connection.close()
            raise


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    """Apply the ``migrations`` that a state file, or an empty file, lacks, in the caller's transaction."""
    missing = migrations[_pragma(connection, "user_version") :]
    for step in chain.from_iterable(missing):
        if isinstance(step, str):
            connection.execute(step)
        else:
            step(connection)
    if missing:
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode number of a file; None if there is no file. Raises: Unusable."""
    with _translated():
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return found.st_dev, found.st_ino


def is_readable_by_others(path: Path) -> bool:
    """Whether users other than the owner may read the file; False if that cannot be found out."""
    try:
        return bool(path.stat().st_mode & 0o077)
    except OSError:
        return False


def set_aside(path: Path, word: str, at: float) -> str:
    """Rename a closed state file to ``<file>.<word>-<UTC time>`` and return the new name.

    Keeps the newest three files that were set aside, and deletes older ones. Raises: Unusable.
    """
    name = f"{path.name}.{word}-{datetime.fromtimestamp(at, UTC):%Y%m%dT%H%M%SZ}"
    with _translated():
        aside, number = name, 1
        while path.with_name(aside).exists():
            number += 1
            aside = f"{name}-{number}"
        # The file last: SQLite would apply a write-ahead log that is left behind to the next file.
        for suffix in (*_COMPANIONS, ""):
            with suppress(FileNotFoundError):
                _beside(path, suffix).rename(path.with_name(aside + suffix))
        _remove_oldest_aside(path)
    return aside


def _remove_oldest_aside(path: Path) -> None:
    aside = [
        each
        for word in ("corrupt", "newer")
        for each in path.parent.glob(f"{escape(path.name)}.{word}-*Z*")
        if not each.name.endswith(_COMPANIONS)
    ]
    for each in sorted(aside, key=lambda each: (each.stat().st_mtime_ns, each.name))[:-_MOST_ASIDE]:
        for suffix in ("", *_COMPANIONS):
            _beside(each, suffix).unlink(missing_ok=True)


def _is_new(connection: sqlite3.Connection) -> bool:
    """Whether the file is empty. Raises: NotOurs if it is another program's; Newer; Unreadable if damaged."""
    application, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    has_tables = connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None
    if application not in (0, _APPLICATION_ID) or (application == 0 and (version or has_tables)):
        raise NotOurs("a database of another program")
    if not has_tables:
        return True
    if version > len(MIGRATIONS):
        raise Newer(f"schema version {version} of a later release")
    if _pragma(connection, "integrity_check(1)") != "ok":
        raise Unreadable("damaged")
    return False


def _says_ours(path: Path) -> bool:
    """Whether the header of a damaged file has our application id."""
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    return int.from_bytes(header[_APPLICATION_ID_AT], "big") == _APPLICATION_ID


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the settings of an empty file that must precede everything else in it."""
    connection.execute("PRAGMA auto_vacuum = FULL")
    # Written before the write-ahead log is on, so that the header of a file that is damaged later has it.
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    _configure(connection)


def _configure(connection: sqlite3.Connection) -> None:
    for setting in (
        "journal_mode = WAL",
        "synchronous = FULL",
        f"wal_autocheckpoint = {_WAL_PAGES}",
        f"journal_size_limit = {_WAL_PAGES * _PAGE_BYTES}",
    ):
        connection.execute(f"PRAGMA {setting}")


def _read(connection: sqlite3.Connection, since: float) -> Saved:
    """Read all rows. Raises: Unreadable if a row is not one that this exporter writes.

    No cursor is a local variable: a traceback would keep a reference to it, and so keep the connection open.
    """
    rows = connection.execute
    version = _pragma(connection, "user_version")
    try:
        named = "families" if version > 1 else "NULL"
        ((first_start, label_names, listed),) = rows(f"SELECT first_start, label_names, {named} FROM about")  # noqa: S608
        families = {
            id_: (name, _bounds(layout)) for id_, name, layout in rows("SELECT id, name, layout FROM family")
        }
        series = []
        for family, labels, numbers in rows("SELECT family, labels, numbers FROM series"):
            name, layout = families[family]
            series.append(SavedSeries(name, _words(labels), layout, _integers(numbers)))
        return Saved(
            label_names=_words(label_names),
            families=tuple(sorted({name for name, _ in families.values()})) if listed is None else _words(listed),
            first_start=float(first_start),
            series=series,
            held=[
                HeldBack(family, _words(labels), bool(is_ahead))
                for family, labels, is_ahead in (rows("SELECT * FROM held") if version > 1 else ())
            ],
            conversations=[
                SavedConversation(id=id_, blob=bytes(progress))
                for id_, progress in rows("SELECT id, progress FROM conversation")
            ],
            ends=list(_read_ends(connection, since, version)),
        )
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError) as bad:
        raise Unreadable("a row cannot be decoded") from bad


def _read_ends(connection: sqlite3.Connection, since: float, version: int) -> Iterable[SavedEnds]:
    if version > 1:
        for at, hashes in connection.execute("SELECT at, hashes FROM ended WHERE at >= ?", (since,)):
            if len(hashes) % 8:
                raise ValueError
            yield SavedEnds(float(at), bytes(hashes))
        return
    rows = connection.execute("SELECT id, finished_at FROM tombstone WHERE finished_at >= ?", (since,))
    for hour, group in groupby(sorted(rows, key=lambda row: float(row[1])), key=lambda row: row[1] // 3600):
        yield SavedEnds(hour * 3600 + 3600, packed(hash_of(id_) for id_, _ in group))


def _remembered(row: tuple[Any, ...]) -> Remembered:
    id_, ended_at, project, agent, ended_by, is_failed, duration, turns, slowest = row
    return Remembered(
        conversation_id=id_,
        ended_at=ended_at,
        project=project,
        agent=agent,
        ended_by=ended_by,
        is_failed=bool(is_failed),
        duration=duration,
        turns=turns,
        slowest=slowest,
    )


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
