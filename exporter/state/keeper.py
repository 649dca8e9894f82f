"""Tasks: when the state file is written, what waits for a write, and how errors of the file are handled.

Theory of operation
-------------------
There is one write at a time, in a thread. A write serves the interval and every scrape that waits.

Changes of a failed write go back to their source and are part of the next write. The first write to a new file,
and a write after the file was lost, replaces everything.

At start the file must be read: without the numbers that Prometheus saw last, counters would fall, and without
the progress of conversations these would be counted twice. So a file that cannot be read for a temporary reason
is tried again for `START_PATIENCE`, and then the exporter does not start. A missing file holds nothing, so an
exporter that cannot create one starts without it and tries again at each write.

A running exporter never stops because of the file. While writes fail, pages show the numbers of the last write,
and after `COUNTED_AFTER` the counted ones (`StateKeeper.is_behind`).

The keeper never writes to, or renames, a file that this process has neither read nor created.
"""

import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, TypeVar

import attrs
import structlog
import trio

from ..counting import retention
from ..counting.turns import SeenCall
from ..errors import ConfigError, StateUnavailable
from . import lockfile
from .history import Remembered, UnreadableHistory, unpack
from .lockfile import InUse
from .rows import NO_HISTORY, Changes, HistoryLimits, Saved
from .sqlite import (
    Database,
    Newer,
    NotOurs,
    Unreadable,
    Unusable,
    check,
    identity,
    is_readable_by_others,
    open_database,
    set_aside,
)

log = structlog.get_logger("exporter.state.keeper")

T = TypeVar("T")

START_PATIENCE: Final = 10.0  # seconds of retries at start while the file cannot be read
_START_RETRY: Final = 0.5
COUNTED_AFTER: Final = 30.0  # seconds without a successful write after which pages show counted numbers
# The limit for each of the last two steps (write, close). With the 3 s of the last scrape, shutting down takes at
# most 9 s.
_LAST_SECONDS: Final = 3.0
_LONGEST_RETRY_SECONDS: Final = 10.0


class ChangeSource(Protocol):
    """Whose changes are written: `exporter.conversations.Conversations`. Every method is synchronous."""

    def changes(self, *, everything: bool = False) -> Changes:
        """The rows that changed since the last call, or all rows with ``everything``."""
        ...

    def committed(self, changes: Changes) -> None:
        """The file holds these changes."""

    def put_back(self, changes: Changes) -> None:
        """The file does not hold these changes, or may not."""


@attrs.frozen(kw_only=True)
class Opened:
    """The result of `StateKeeper.open`.

    ``saved`` is None if there is nothing to take over; ``problem`` then says why, and is None if the file is new.
    """

    keeper: "StateKeeper"
    saved: Saved | None
    problem: str | None


class StateKeeper:
    """Keeps the state file of a running exporter. Made by `StateKeeper.open`.

    ``last_success``: Unix time at which the file last held everything that was to be saved, None before.
    ``size_bytes``: size of the file with its write-ahead log.
    """

    def __init__(
        self, path: Path, *, label_names: tuple[str, ...], history: HistoryLimits, now: Callable[[], float]
    ) -> None:
        self.last_success: float | None = None
        self.size_bytes = 0
        self._path = Path(os.path.realpath(path))  # links to one file share one lock
        self._label_names = label_names
        self._history = history
        self._now = now
        self._needs_everything = True
        self._one_write = trio.Lock()
        self._one_thread = trio.CapacityLimiter(1)
        self._is_wanted = trio.Event()
        self._written = trio.Event()
        self._is_failing = False
        self._behind_since: float | None = (
            None  # trio time of the first attempt to write the oldest unwritten change
        )
        self._is_behind_logged = False
        # The rest is used in the thread only.
        self._lock: int | None = None
        self._database: Database | None = None
        self._identity: tuple[int, int] | None = None

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        label_names: tuple[str, ...],
        now: Callable[[], float],
        history: HistoryLimits = NO_HISTORY,
    ) -> Opened:
        """Lock and read the state file, or create it.

        ``label_names`` are the current ``--metrics.labels``; ``now`` returns Unix time; ``history`` limits what is
        remembered of ended conversations. A damaged state file is
        renamed to ``<file>.corrupt-<time>``, one of a later release to ``<file>.newer-<time>``, and a new one is
        begun. If there is no file and none can be created, every write tries again.

        Raises: ConfigError if another exporter uses the file, or if it belongs to another program;
        StateUnavailable if it exists and cannot be read within `START_PATIENCE`. Cancellation: at any time.
        """
        keeper = cls(path, label_names=label_names, history=history, now=now)
        try:
            saved, problem = await keeper._opened(path)
        except BaseException:
            await keeper.close()
            raise
        return Opened(keeper=keeper, saved=saved, problem=problem)

    async def _opened(self, path: Path) -> tuple[Saved | None, str | None]:
        give_up_at = trio.current_time() + START_PATIENCE
        say = log.warning  # only the first failure; the next ones are logged at debug level
        while True:
            try:
                saved, problem = await trio.to_thread.run_sync(
                    self._start, abandon_on_cancel=True, limiter=self._one_thread
                )
                break
            except InUse as taken:
                raise ConfigError("--state.file", f"{path} is {taken}") from None
            except NotOurs as foreign:
                raise ConfigError("--state.file", f"{path} is {foreign}; it is left alone") from None
            except (Unreadable, Unusable) as trouble:
                problem = str(trouble)
            if await trio.to_thread.run_sync(_is_missing, self._path):
                log.error("state file cannot be made, going on without it", file=str(path), reason=problem)
                self._behind_since = -math.inf  # pages show counted numbers: nothing is committed
                return None, problem
            if trio.current_time() >= give_up_at:
                raise StateUnavailable("--state.file", f"{path} cannot be read: {problem}")
            say("state file cannot be read, trying again", file=str(path), reason=problem)
            say = log.debug
            await trio.sleep(_START_RETRY)
        if saved is not None and await trio.to_thread.run_sync(is_readable_by_others, path):
            log.warning("state file can be read by other users", file=str(path))
        self._needs_everything = saved is None
        return saved, problem

    def write_everything(self) -> None:
        """Make the next write replace everything in the file, because not all of it was taken over."""
        self._needs_everything = True

    async def run(self, source: ChangeSource, *, interval: float, on_error: Callable[[], None]) -> None:
        """Write now, and then whatever has changed, every ``interval`` seconds and when `commit` asks for it.

        After a failure it waits twice as long as before, at most 10 s or ``interval``, and calls ``on_error``.
        Cancellation: at once, even if the disk hangs; the changes of the current write go back to ``source``.
        """
        wait = interval
        while True:
            self._is_wanted = trio.Event()
            started = trio.current_time()
            if await self._write(source, on_error):
                wait = interval
                with trio.move_on_at(started + wait):
                    await self._is_wanted.wait()
            else:
                wait = min(wait * 2, max(interval, _LONGEST_RETRY_SECONDS))
                await trio.sleep_until(started + wait)

    async def commit(self, patience: float) -> None:
        """Ask for a write, and wait for it or for the one in progress.

        Waits at most ``patience`` seconds, and not at all while writes fail. Cancellation: stops waiting at once;
        the write goes on.
        """
        if self._is_failing:
            return
        if not self._one_write.locked():
            self._is_wanted.set()
        with trio.move_on_after(patience):
            await self._written.wait()

    @property
    def is_behind(self) -> bool:
        """Whether writes have failed for so long that pages show counted numbers. Logs the beginning of that."""
        is_behind = self._behind_since is not None and trio.current_time() - self._behind_since > COUNTED_AFTER
        if is_behind and not self._is_behind_logged:
            self._is_behind_logged = True
            log.error(
                "state file not written for long: pages show numbers that a crash would lose", file=str(self._path)
            )
        return is_behind

    async def write_now(self, source: ChangeSource, *, on_error: Callable[[], None]) -> bool:
        """Write what has changed, at shutdown, after `run` was cancelled. Returns whether that succeeded.

        Takes at most 3 s. Cancellation: none, it is shielded.
        """
        with trio.move_on_after(_LAST_SECONDS, shield=True):
            return await self._write(source, on_error)
        self._failed("takes too long", on_error)
        return False

    async def recall(self, conversation_id: str) -> SeenCall | None:
        """Return a remembered conversation turn by turn; None if there is none, or the file cannot be read now.

        Waits for the write under way. Cancellation: at any time.
        """

        def recall(database: Database) -> SeenCall | None:
            packed = database.recall(conversation_id)
            return None if packed is None else unpack(conversation_id, packed)

        try:
            return await self._ask(recall)
        except UnreadableHistory as bad:
            log.warning("remembered conversation cannot be read", conversation=conversation_id, reason=str(bad))
            return None

    async def list_history(self, query: str, *, limit: int) -> tuple[list[Remembered], int]:
        """Return remembered conversations that match, failed ones first, then the slowest; and how many match.

        None if the file cannot be read now. Waits for the write under way. Cancellation: at any time.
        """
        return await self._ask(lambda database: database.list_history(query, limit)) or ([], 0)

    async def _ask(self, ask: Callable[[Database], T]) -> T | None:
        def in_thread() -> T | None:
            return None if self._database is None else ask(self._database)

        try:
            return await trio.to_thread.run_sync(in_thread, abandon_on_cancel=True, limiter=self._one_thread)
        except Unusable as trouble:
            log.debug("state file cannot be read", file=str(self._path), reason=str(trouble))
            return None

    async def close(self) -> None:
        """Close and unlock the file. Takes at most 3 s. Cancellation: none, it is shielded."""
        with trio.move_on_after(_LAST_SECONDS, shield=True):
            await trio.to_thread.run_sync(self._stop, abandon_on_cancel=True, limiter=self._one_thread)

    async def _write(self, source: ChangeSource, on_error: Callable[[], None]) -> bool:
        async with self._one_write:
            at = self._now()
            changes = source.changes(everything=self._needs_everything)
            if not changes:
                source.committed(changes)
                self._succeeded(at)
                return True
            if self._behind_since is None:
                self._behind_since = trio.current_time()
            is_written = False
            try:
                size = await trio.to_thread.run_sync(
                    self._put,
                    changes,
                    self._needs_everything,
                    at,
                    abandon_on_cancel=True,
                    limiter=self._one_thread,
                )
                is_written = True
            except _Lost as lost:
                self._needs_everything = True
                self._failed(str(lost), on_error)
                return False
            except (InUse, NotOurs, Unreadable, Unusable) as trouble:
                self._failed(str(trouble), on_error)
                return False
            finally:
                if is_written:
                    source.committed(changes)
                else:
                    source.put_back(changes)
            self.size_bytes = size
            self._needs_everything = False
            self._succeeded(at)
            return True

    def _succeeded(self, at: float) -> None:
        self.last_success = at
        self._is_failing = False
        self._behind_since = None
        if self._is_behind_logged:
            self._is_behind_logged = False
            log.info("state file written again: pages show what it holds", file=str(self._path))
        self._tell_waiters()

    def _failed(self, reason: str, on_error: Callable[[], None]) -> None:
        # Log only the first failure as an error; a metric shows the following ones.
        say = log.debug if self._is_failing else log.error
        say("state file not written", file=str(self._path), reason=reason)
        self._is_failing = True
        on_error()
        self._tell_waiters()

    def _tell_waiters(self) -> None:
        self._written.set()
        self._written = trio.Event()

    # --- in the thread

    def _start(self) -> tuple[Saved | None, str | None]:
        with _as_unusable():
            check(self._path)  # before a lock file is created beside a file of another program
        if self._lock is None:
            self._lock = _acquire(self._path)
        self._database, saved, problem = self._connect()
        self.size_bytes = self._database.size_bytes
        return saved, problem

    def _put(self, changes: Changes, everything: bool, at: float) -> int:
        if self._database is None:
            self._reconnect()
        assert self._database is not None  # noqa: S101  # connected just now
        if self._database.is_new and not everything:
            raise _Lost("the file was lost; it is written anew")
        try:
            self._database.write(changes, label_names=self._label_names, replace=everything, at=at)
        except BaseException:
            broken, self._database = self._database, None
            with suppress(Unusable):
                if identity(self._path) != self._identity:
                    self._identity = None  # the system may give the inode number of a deleted file to another one
                broken.close()
            raise
        return self._database.size_bytes

    def _reconnect(self) -> None:
        """Open the file again, or for the first time, unless it is a file that this process has not read."""
        if self._lock is not None and not lockfile.is_held(self._lock, self._path):
            os.close(self._lock)  # the lock file was deleted with its folder and no longer locks anything
            self._lock = None
        if self._lock is None:
            self._lock = _acquire(self._path)
        found = identity(self._path)
        if found not in (None, self._identity) and not _is_empty(self._path):
            raise Unusable("another file took its place; restart to go on from that one")
        self._database, _, _ = self._connect(reads=False)

    def _connect(self, *, reads: bool = True) -> tuple[Database, Saved | None, str | None]:
        problem = None
        since = self._now() - retention.ENDED if reads else None
        try:
            database, saved = open_database(self._path, since=since, history=self._history)
        except Unreadable as bad:
            problem = str(bad)
            aside = set_aside(self._path, "newer" if isinstance(bad, Newer) else "corrupt", self._now())
            log.error(
                "state file set aside, beginning a new one", file=str(self._path), aside=aside, reason=problem
            )
            database, saved = open_database(self._path, since=since, history=self._history)
        self._identity = database.identity
        return database, saved, problem

    def _stop(self) -> None:
        if self._database is not None:
            with suppress(Unusable):
                self._database.close()
            self._database = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class _Lost(Exception):
    """The file is empty although it was written before, so everything must be written again."""


def check_file(path: Path) -> None:
    """Check, without writing, whether an exporter could use this state file.

    Raises: ConfigError if it belongs to another program; StateUnavailable if it exists and cannot be read.
    """
    try:
        check(path)
    except NotOurs as foreign:
        raise ConfigError("--state.file", f"{path} is {foreign}; it is left alone") from None
    except OSError as bad:
        if not _is_missing(path):
            raise StateUnavailable("--state.file", f"{path} cannot be read: {bad.strerror}") from None


def _acquire(path: Path) -> int:
    with _as_unusable():
        return lockfile.acquire(path)


class _as_unusable:  # noqa: N801  # a context manager
    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise Unusable(error.strerror or type(error).__name__) from error


def _is_missing(path: Path) -> bool:
    """Whether it is certain that there is no file."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _is_empty(path: Path) -> bool:
    with _as_unusable():
        return path.stat().st_size == 0
