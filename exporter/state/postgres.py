"""Edge: the state in PostgreSQL: shards with leases, their conversations, and what each has counted.

Theory of operation
-------------------
A *shard* is what a state file is: numbers, and the progress of the conversations that made them. A process holds a
shard for as long as its *lease* has not run out, and each write renews the lease.

*Taking.* Whoever takes a shard whose lease has run out raises its *epoch*. That is one statement, so two processes
cannot both succeed. What the earlier holder had written is committed before, and nothing of it is afterwards,
because:

*Fencing.* A write is one statement. Its first part updates the row of the shard where the epoch is still that of
the holder; every other part depends on the row which that returns. So a holder that was stopped, or cut off, and
comes back later writes nothing. The row also has the number of the latest write: a write that was given up, and
arrives after the next one, is older and changes nothing.

*Time.* PostgreSQL's clock decides when a lease has run out. The holder measures with its own, from before it sent
the write: its lease ends earlier, never later, than PostgreSQL thinks. So its pages are empty before another
process can show the shard.

*Assignments.* A conversation belongs to one shard, for ever: its row is inserted once, by whoever sees it first,
and names the shard with the highest hash of id and shard (rendezvous hashing). A change of the number of shards
therefore moves no conversation, and processes that disagree about it cannot count one twice. Rows of ended
conversations stay for a day: they are the memory of ends.

*Draining.* A shard that is too many takes no new conversations. It needs a holder until its last numbers were
shown, which is later than the end of its last conversation: then the holder *closes* it.

One statement at a time, no session state and no prepared statements, so that a connection pooler may stand in
between. All functions block; callers run them in a thread. Messages of PostgreSQL can quote rows, so the reason of
an error is its name.
"""

import math
import re
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from os import dup
from pathlib import Path
from typing import Any, Final, LiteralString

import attrs
import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict

from ..counting import retention
from ..enums import ShardState, Word
from ..errors import ConfigError
from ..files import UnreadableFile, read_bounded
from . import statements
from .history import Remembered
from .rows import Changes, HeldBack, HistoryLimits, Saved, SavedConversation, SavedSeries
from .storage import Assigned, Fenced, Outdated, Unusable

FORMAT: Final = 1
"""Of what a holder writes. A process does not take a shard with a higher one, which a later release wrote."""
_LOCK: Final = 0x50684578  # "PhEx": of the advisory lock under which tables are created
_LONGEST_PASSWORD: Final = 65_536  # bytes of its file
_CONNECT_SECONDS: Final = 3
_ENCODINGS: Final = ("UTF8", "SQL_ASCII")  # the latter stores bytes as they are
_COLUMNS: Final[Sequence[LiteralString]] = (
    "id", "ended_at", "project", "agent", "ended_by", "is_failed", "duration", "turns", "slowest", "packed",
)  # fmt: skip

_encode = msgspec.json.Encoder().encode
_words = msgspec.json.Decoder(tuple[str, ...]).decode
_bounds = msgspec.json.Decoder(tuple[float, ...]).decode
_integers = msgspec.json.Decoder(tuple[int, ...]).decode
_held_rows = msgspec.json.Decoder(list[tuple[str, tuple[str, ...], bool]]).decode
_news = msgspec.json.Decoder(list[tuple[str, str, int]]).decode


class Newer(Exception):
    """A later release has changed the tables."""


def boot_time() -> float:
    """Seconds of a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@attrs.frozen(kw_only=True)
class Server:
    """Where PostgreSQL is. ``password_file``: read at each connection; None for none."""

    url: str
    password_file: Path | None = None


@attrs.frozen(kw_only=True)
class ShardRow:
    """A shard as PostgreSQL has it. ``lease_seconds``: how long its lease lasts, below 0 if it has run out."""

    shard: str
    state: ShardState
    holder: str | None
    epoch: int
    lease_seconds: float
    is_newer: bool


@attrs.frozen(kw_only=True)
class Taken:
    """A shard that was taken just now. ``until``: until when the lease lasts, by `boot_time`."""

    shard: int
    epoch: int
    until: float


def check(server: Server) -> None:
    """Check what libpq reads in the URL, and the password file, without connecting. Raises: ConfigError."""
    try:
        given = conninfo_to_dict(server.url)
    except psycopg.ProgrammingError as bad:
        # What libpq quotes after this could be a password in the wrong place.
        reason = re.split('[:"]', str(bad))[0].strip()
        raise ConfigError("--state.url", f"is refused by libpq: {reason}") from None
    # libpq finds passwords that other readers of URLs do not, such as one that begins with a question mark.
    if any("password" in name for name in given):
        raise ConfigError("--state.url", "must not hold a password; give it with --state.password-file")
    try:
        _password(server.password_file)
    except Unusable as bad:
        raise ConfigError("--state.password-file", str(bad)) from None


def _password(file: Path | None) -> str | None:
    """Raises: Unusable."""
    if file is None:
        return None
    try:
        text = read_bounded(file, _LONGEST_PASSWORD).decode().strip()
    except UnreadableFile as bad:
        raise Unusable(f"{file} cannot be read: {bad}") from None
    except UnicodeDecodeError:
        raise Unusable(f"{file} is not UTF-8") from None
    if not text:
        raise Unusable(f"{file} is empty")
    if "\0" in text:
        raise Unusable(f"{file} holds a zero byte")
    return text


class Connection:
    """A connection that is made when it is needed, and again after an error. Threads wait for each other.

    `abort` does not wait.
    """

    def __init__(self, server: Server, *, patience: float) -> None:
        """``patience``: seconds without a sign of the server after which a call fails."""
        self._server = server
        self._patience = patience
        self._open: psycopg.Connection[tuple[Any, ...]] | None = None
        self._one_call = threading.Lock()

    def execute(self, statement: LiteralString, values: Mapping[str, Any] | Sequence[Any] = ()) -> list[Any]:
        """Run one statement in a transaction of its own; return its rows. Raises: Unusable."""
        with self._one_call, self._translated():
            cursor = self._connected().execute(statement, values or None)
            return cursor.fetchall() if cursor.description is not None else []

    def transact(self, statements: Sequence[tuple[LiteralString, Mapping[str, Any] | None]]) -> None:
        """Run statements in one transaction. Raises: Unusable."""
        with self._one_call, self._translated():
            connection = self._connected()
            with connection.transaction():
                for statement, values in statements:
                    connection.execute(statement, values)

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, which the server may have closed."""
        return self._open is not None

    def abort(self) -> None:
        """Make the call under way in another thread fail, and the connection unusable."""
        connection = self._open
        if connection is not None:
            with suppress(OSError, psycopg.Error), socket.socket(fileno=dup(connection.fileno())) as duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it, after the call under way. Raises nothing."""
        with self._one_call:
            self._drop()

    def _drop(self) -> None:
        connection, self._open = self._open, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def _connected(self) -> "psycopg.Connection[tuple[Any, ...]]":
        if self._open is None:
            self._open = psycopg.connect(
                self._server.url,
                autocommit=True,
                prepare_threshold=None,
                connect_timeout=_CONNECT_SECONDS,
                tcp_user_timeout=math.ceil(self._patience * 1000),
                keepalives_idle=max(1, round(self._patience / 2)),
                keepalives_interval=1,
                keepalives_count=2,
                application_name="phonic-exporter",
                client_encoding="UTF8",
                password=_password(self._server.password_file),
            )
        return self._open

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.Error, OSError, UnicodeError) as bad:
            self._drop()
            raise Unusable(_reason(bad)) from bad
        except BaseException:
            self._drop()
            raise


class Registry:
    """All shards, and which conversations belong to them. For one thread at a time, but for `abort`."""

    def __init__(self, server: Server, *, holder: str, patience: float) -> None:
        """``holder`` names this process."""
        self._connection = Connection(server, patience=patience)
        self._holder = holder
        self._attempts = 0

    def prepare(self, count: int) -> None:
        """Create the tables if there are none, and have ``count`` shards that take conversations.

        Raises: Unusable, also for a database whose encoding has not all characters; Newer.
        """
        ((encoding,),) = self._connection.execute("SELECT current_setting('server_encoding')")
        if encoding not in _ENCODINGS:
            raise Unusable(f"the database has the encoding {encoding}, and must have UTF8")
        found = self._connection.execute("SELECT to_regclass('phonic_schema') IS NOT NULL")
        if not found[0][0]:
            self._connection.transact(
                [("SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": _LOCK}), (statements.CREATE, None)]
            )
        _refuse_newer(*self._connection.execute(statements.VERSION)[0])
        self._connection.execute(statements.ENSURE, {"count": count})
        self._connection.execute(statements.DRAIN, {"count": count})

    def take(self, lease: float) -> Taken | None:
        """Take a shard that nobody holds, for ``lease`` seconds; None if there is none. Raises: Unusable."""
        self._attempts += 1
        began = boot_time()
        rows = self._connection.execute(
            statements.TAKE,
            {"holder": self._holder, "attempt": self._attempts, "lease": lease, "format": FORMAT},
        )
        return Taken(shard=rows[0][0], epoch=rows[0][1], until=began + lease) if rows else None

    def offer(self, conversations: Collection[Assigned]) -> None:
        """Assign the conversations that are not assigned yet, and note what is new about the others.

        Raises: Unusable.
        """
        values = {
            "ids": [each.id for each in conversations],
            "workspaces": [each.workspace for each in conversations],
            "words": [int(each.word) for each in conversations],
        }
        self._connection.execute(statements.OFFER, values)

    def elect(self, names: Collection[str], seconds: float) -> set[str]:
        """Return those of the names that this process has, or gets, for so many seconds. Raises: Unusable."""
        values = {"names": sorted(set(names)), "holder": self._holder, "seconds": seconds}
        return {name for (name,) in self._connection.execute(statements.ELECT, values)}

    def expire(self, history: HistoryLimits, at: float) -> bool:
        """Delete what has been over for too long, at most `MOST_EXPIRED` rows of a kind. ``at`` is Unix time.

        Returns whether there may be more. Raises: Unusable.
        """
        ((ends,),) = self._connection.execute(statements.EXPIRE_ENDS, {"seconds": retention.ENDED})
        limits = {"before": at - history.seconds, "most": history.conversations}
        ((remembered,),) = self._connection.execute(statements.FORGET_HISTORY, limits)
        return bool(max(ends, remembered) >= statements.MOST_EXPIRED)

    def resign(self) -> None:
        """Leave all names of `elect` to others. Raises: Unusable."""
        self._connection.execute(statements.RESIGN, {"holder": self._holder})

    def shards(self) -> list[ShardRow]:
        """All shards. Raises: Unusable, Newer."""
        rows = self._connection.execute(statements.STATES)
        for *_, version in rows:
            _refuse_newer(version)
        return [_shard_row(*row) for *row, _ in rows]

    def unfinished(self) -> dict[str, int]:
        """How many conversations each shard has that are not over. Raises: Unusable."""
        return {str(shard): count for shard, count in self._connection.execute(statements.COUNTS)}

    def abort(self) -> None:
        """Make the call under way in another thread fail."""
        self._connection.abort()

    def close(self) -> None:
        """Close the connection. Raises nothing."""
        self._connection.close()


class Shard:
    """The shard that this process holds. Implements `exporter.state.storage.Storage`.

    ``is_drained``: it takes no new conversations; ``is_empty``: and has none left. ``first_start``: the
    Unix time since which any shard counts, by Phonic's clock; None before `read`, and before any write.
    """

    size_bytes = None

    def __init__(
        self,
        server: Server,
        taken: Taken,
        *,
        lease: float,
        label_names: tuple[str, ...],
        remembers: bool,
    ) -> None:
        """``lease``: seconds. ``label_names`` are the current ``--metrics.labels``.

        ``remembers``: keep the history of ended conversations.
        """
        self.name = str(taken.shard)
        self.lease = lease
        self.number, self.epoch = taken.shard, taken.epoch
        self.is_drained = self.is_empty = False
        self.first_start: float | None = None
        self._connection = Connection(server, patience=lease)
        self._questions = Connection(server, patience=lease)
        self._is_given_up = False  # the question under way
        self._label_names = label_names
        self._remembers = remembers
        self._until = taken.until
        self._is_hidden = False
        self._write_number = 0

    @property
    def is_ours(self) -> bool:
        return not self._is_hidden and boot_time() < self._until

    @property
    def valid_for(self) -> float:
        """Seconds for which the lease still lasts; below 0 if it has run out."""
        return self._until - boot_time()

    def hide(self) -> None:
        """Never be ours again: what follows is the release."""
        self._is_hidden = True

    def read(self) -> tuple[Saved | None, list[Assigned]]:
        """Read the shard, and renew the lease meanwhile.

        Returns what was written, None if nothing was; and its conversations that are not over.
        Raises: Unusable, Fenced; UnreadableRow.
        """
        ((self.first_start, label_names, families, held),) = self._connection.execute(
            "SELECT (SELECT min(first_start) FROM phonic_shard), label_names, families, held"
            " FROM phonic_shard WHERE shard = %s",
            (self.number,),
        )
        assigned = [
            Assigned(id_, workspace, Word(word)) for id_, workspace, word in self._pages(statements.READ_ASSIGNED)
        ]
        if label_names is None:
            return None, assigned
        try:
            saved = Saved(
                label_names=_words(label_names),
                families=_words(families),
                first_start=self.first_start or 0.0,
                series=[
                    SavedSeries(family, _words(labels), _bounds(layout), _integers(numbers))
                    for family, _, labels, layout, numbers in self._pages(statements.READ_SERIES, 2)
                ],
                held=[HeldBack(*row) for row in _held_rows(held or "[]")],
                conversations=[
                    SavedConversation(id_, blob) for id_, blob in self._pages(statements.READ_CONVERSATIONS)
                ],
                ends=[],  # PostgreSQL does not tell this shard of a conversation that is over
            )
        except (msgspec.MsgspecError, TypeError, ValueError) as bad:
            raise Unusable("a row cannot be decoded") from bad
        return saved, assigned

    def _pages(self, statement: LiteralString, key_columns: int = 1) -> Iterator[tuple[Any, ...]]:
        key: tuple[Any, ...] = ("",) * key_columns
        while True:
            page = self._connection.execute(statement, (self.number, *key))
            yield from page
            if len(page) < statements.PAGE:
                return
            key = page[-1][:key_columns]
            self.renew()

    def renew(self) -> None:
        """Renew the lease without a write. Raises: Unusable, Fenced."""
        nothing = {"first_start": None, "label_names": None, "names": None, "held": None}
        self._write(statements.RENEW, nothing)

    def put(
        self, changes: Changes, *, everything: bool, at: float, received: Sequence[Assigned] = ()
    ) -> Sequence[Assigned]:
        del at
        series = list(changes.series())
        gone = {*changes.finished, *changes.forgotten}
        # What was forgotten may have been seen again afterwards; what has finished stays so.
        conversations = {each.id: each.blob for each in changes.conversations()}
        gone -= conversations.keys() - set(changes.finished)
        conversations = {id_: blob for id_, blob in conversations.items() if id_ not in gone}
        held = () if everything and changes.held is None else changes.held
        remembered = list(changes.remembered()) if self._remembers else []
        values: dict[str, Any] = {
            "first_start": changes.first_start,
            "label_names": _text(self._label_names),
            "names": _text(tuple(changes.families)),
            "held": None
            if held is None
            else _text([(each.family, each.labels, each.is_expected) for each in held]),
            "families": [each.family for each in series],
            "labels": [_text(each.labels) for each in series],
            "layouts": [_text(each.layout) for each in series],
            "numbers": [_text(each.numbers) for each in series],
            "gone": list(gone),
            "ids": list(conversations),
            "blobs": list(conversations.values()),
            "received": [each.id for each in received],
            "workspaces": [each.workspace for each in received],
            "words": [int(each.word) for each in received],
            **_history_columns(remembered),
        }
        statement: LiteralString = statements.PUT + (statements.REPLACE if everything else "") + statements.NEWS_OF
        (self.is_drained, self.is_empty, news) = self._write(statement, values)
        return [Assigned(id_, workspace, Word(word)) for id_, workspace, word in _news(news)]

    def release(self, *, is_over: bool = False) -> None:
        """Let another process take the shard at once. Call `hide` before, and show nothing afterwards.

        ``is_over``: if it is drained, nobody needs to take it: all that it has counted was shown.
        Raises: Unusable.
        """
        values = {"shard": self.number, "epoch": self.epoch, "is_over": is_over}
        self._connection.execute(statements.RELEASE, values)

    def recall(self, conversation_id: str) -> bytes | None:
        key = (_storable(conversation_id),)
        rows = self._asked("SELECT packed FROM phonic_history WHERE id = %s", key)
        return bytes(rows[0][0]) if rows else None

    def list_history(self, query: str, limit: int) -> tuple[list[Remembered], int]:
        values = {"like": "%" + re.sub(r"([%_\\])", r"\\\1", _storable(query)) + "%", "limit": limit}
        ((count,),) = self._asked(statements.COUNT_HISTORY, values)
        names = [attribute.name for attribute in attrs.fields(Remembered)]
        return [
            Remembered(**dict(zip(names, row, strict=False)))
            for row in self._asked(statements.LIST_HISTORY, values)
        ], count

    def _asked(self, statement: LiteralString, values: Mapping[str, Any] | Sequence[Any]) -> list[Any]:
        """Ask once more if the connection was open: nobody asks for hours, and the server may have restarted."""
        was_open, self._is_given_up = self._questions.is_open, False
        try:
            return self._questions.execute(statement, values)
        except Unusable:
            if self._is_given_up or not was_open:
                raise
        return self._questions.execute(statement, values)

    def abort(self) -> None:
        self._connection.abort()

    def abort_question(self) -> None:
        self._is_given_up = True
        self._questions.abort()

    def close(self) -> None:
        self._connection.close()
        self.abort_question()
        self._questions.close()

    def _write(self, statement: LiteralString, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Run a statement that begins with the fence; return its row. Raises: Unusable, Fenced."""
        self._write_number += 1
        fence = {"shard": self.number, "epoch": self.epoch, "number": self._write_number, "lease": self.lease}
        began = boot_time()
        rows: list[tuple[Any, ...]] = self._connection.execute(statement, {**values, **fence})
        if not rows:
            if self._connection.execute(statements.VERSION)[0][0] > statements.SCHEMA:
                raise Outdated("a later release has changed the tables")
            raise Fenced(f"shard {self.name} was taken by another process")
        self._until = began + self.lease
        return rows[0]


def _refuse_newer(version: int) -> None:
    if version > statements.SCHEMA:
        raise Newer(f"schema version {version} of a later release")


def _shard_row(
    shard: int, epoch: int, holder: str, seconds: float, is_drained: bool, is_open: bool, form: int
) -> ShardRow:
    is_held = seconds > 0
    if is_drained and not (is_open or is_held):
        state = ShardState.DRAINED
    elif not is_held:
        state = ShardState.UNHELD
    else:
        state = ShardState.DRAINING if is_drained else ShardState.HELD
    return ShardRow(
        shard=str(shard),
        state=state,
        holder=holder if is_held else None,
        epoch=epoch,
        lease_seconds=max(seconds, -1e9),
        is_newer=form > FORMAT,
    )


def _history_columns(remembered: Sequence[Remembered]) -> dict[str, list[Any]]:
    rows = [
        [_storable(value) if isinstance(value, str) else value for value in attrs.astuple(each)]
        for each in remembered
    ]
    columns = zip(*rows, strict=True) if rows else ((),) * len(_COLUMNS)
    return {f"h_{name}": list(column) for name, column in zip(_COLUMNS, columns, strict=True)}


def _storable(text: str) -> str:
    """PostgreSQL has no U+0000 in a text, and would refuse the whole write for one in the name of an agent."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _text(values: object) -> str:
    return _encode(values).decode()


def _reason(error: Exception) -> str:
    """The name of an error. What libpq says of a connection has no row, and tells more."""
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__
