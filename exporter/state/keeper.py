"""Tasks: when the state file is written, who waits for it, and what is done about trouble with it.

Rules for this file:
- One write at a time, in a thread. It serves the interval and every scrape that waits.
- What a failed write held is handed back to its source and is in the next one. The first write to a new file, and
  one after the file was lost, holds everything.
- Reading at start decides what is exact. A file that cannot be read for a passing reason is tried again for a
  while, and then the exporter does not start: without the numbers that Prometheus saw last its counters would
  fall, and without the progress of conversations it would count them again. A file that is not there holds nothing
  to lose, so an exporter that cannot make one starts all the same.
- Once the exporter runs, no trouble with the file stops it.
- A file that this process has neither read nor made is never written to, nor set aside.
"""

import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import attrs
import structlog
import trio

from ..counting import retention
from ..errors import ConfigError, StateUnavailable
from . import lockfile
from .lockfile import InUse
from .rows import Changes, Saved
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

START_PATIENCE: Final = 10.0  # seconds for which a file that cannot be read is tried again
_START_RETRY: Final = 0.5
COUNTED_AFTER: Final = 30.0  # seconds without a successful write after which pages show counted numbers
# For each of the two last steps: twice this and the 3 s of the last scrape are the 9 s that an end may take.
_LAST_SECONDS: Final = 3.0
_LONGEST_RETRY_SECONDS: Final = 10.0


class ChangeSource(Protocol):
    """Whose numbers are written. See `exporter.conversations`; every method is synchronous."""

    def changes(self, *, everything: bool = False) -> Changes:
        """All rows with ``everything``, else those that changed since the last call."""
        ...

    def committed(self, changes: Changes) -> None:
        """The file holds them."""

    def put_back(self, changes: Changes) -> None:
        """It does not, as far as is known."""


@attrs.frozen(kw_only=True)
class Opened:
    """``saved`` is None where there was nothing to take over; ``problem`` says why, unless the file is new."""

    keeper: "StateKeeper"
    saved: Saved | None
    problem: str | None


class StateKeeper:
    """The state file of a running exporter, made by `StateKeeper.open`.

    ``last_success`` is the Unix time at which the file last held all there was to save, None before;
    ``size_bytes`` is the size of the file with its write-ahead log.
    """

    def __init__(self, path: Path, *, label_names: tuple[str, ...], now: Callable[[], float]) -> None:
        self.last_success: float | None = None
        self.size_bytes = 0
        self._path = Path(os.path.realpath(path))  # two names of one file must mean one lock
        self._label_names = label_names
        self._now = now
        self._needs_everything = True
        self._one_write = trio.Lock()
        self._one_thread = trio.CapacityLimiter(1)
        self._is_wanted = trio.Event()
        self._written = trio.Event()
        self._is_failing = False
        self._behind_since: float | None = None  # trio time at which the oldest unwritten change was first tried
        self._is_said = False
        # From here on: touched in the thread only.
        self._lock: int | None = None
        self._database: Database | None = None
        self._identity: tuple[int, int] | None = None

    @classmethod
    async def open(cls, path: Path, *, label_names: tuple[str, ...], now: Callable[[], float]) -> Opened:
        """Lock and read the file, or make it. ``label_names`` are today's; ``now`` gives Unix time.

        A file of ours that is damaged is set aside as ``<file>.corrupt-<time>`` (one of a later release as
        ``.newer-<time>``) and a new one begun. Where there is no file and none can be made, every write tries
        again. Errors: ConfigError if another exporter uses the file or it is not ours; StateUnavailable if it is
        there and cannot be read, after `START_PATIENCE`. Cancellation: at any time.
        """
        keeper = cls(path, label_names=label_names, now=now)
        try:
            saved, problem = await keeper._opened(path)
        except BaseException:
            await keeper.close()
            raise
        return Opened(keeper=keeper, saved=saved, problem=problem)

    async def _opened(self, path: Path) -> tuple[Saved | None, str | None]:
        give_up_at = trio.current_time() + START_PATIENCE
        say = log.warning  # one line when trouble begins
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
                self._behind_since = -math.inf  # there is nothing committed to show meanwhile
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
        """Have the next write replace all that the file holds: not all of it was taken over."""
        self._needs_everything = True

    async def run(self, source: ChangeSource, *, interval: float, on_error: Callable[[], None]) -> None:
        """Write now, and then what has changed: every ``interval`` seconds, and when `commit` asks for it.

        After errors it tries ever less often, at least every 10 s. Cancellation: ends at once, even while the disk
        hangs. What a write under way held is handed back to ``source``.
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
        """Have what was counted written, and wait for it; a write that is under way serves as well.

        Waits at most ``patience`` seconds, and not at all while writing fails. Cancellation: at any time.
        """
        if self._is_failing:
            return
        if not self._one_write.locked():
            self._is_wanted.set()
        with trio.move_on_after(patience):
            await self._written.wait()

    @property
    def is_behind(self) -> bool:
        """Whether nothing could be written for so long that pages show counted numbers. Logs when that begins."""
        is_behind = self._behind_since is not None and trio.current_time() - self._behind_since > COUNTED_AFTER
        if is_behind and not self._is_said:
            self._is_said = True
            log.error(
                "state file not written for long: pages show numbers that a crash would lose", file=str(self._path)
            )
        return is_behind

    async def write_now(self, source: ChangeSource, *, on_error: Callable[[], None]) -> bool:
        """Write what has changed; returns whether that worked. For the end, when `run` has been cancelled.

        Cancellation: none, so that all else can be torn down meanwhile; takes at most 3 s.
        """
        with trio.move_on_after(_LAST_SECONDS, shield=True):
            return await self._write(source, on_error)
        self._failed("takes too long", on_error)
        return False

    async def close(self) -> None:
        """Let go of the file. Cancellation: none; takes at most 3 s."""
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
        if self._is_said:
            self._is_said = False
            log.info("state file written again: pages show what it holds", file=str(self._path))
        self._tell_waiters()

    def _failed(self, reason: str, on_error: Callable[[], None]) -> None:
        # One line when trouble begins: while it lasts, a metric tells.
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
            check(self._path)  # before a lock file is made beside a file of somebody else
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
                    self._identity = None  # the number of a file that is gone may be given to another one
                broken.close()
            raise
        return self._database.size_bytes

    def _reconnect(self) -> None:
        """Open the file again, or for the first time. A file that this process has not read is not its own."""
        if self._lock is not None and not lockfile.is_held(self._lock, self._path):
            os.close(self._lock)  # the lock file went with its folder: it keeps no one else out
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
            database, saved = open_database(self._path, since=since)
        except Unreadable as bad:
            problem = str(bad)
            aside = set_aside(self._path, "newer" if isinstance(bad, Newer) else "corrupt", self._now())
            log.error(
                "state file set aside, beginning a new one", file=str(self._path), aside=aside, reason=problem
            )
            database, saved = open_database(self._path, since=since)
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
    """The file is empty although it was written before: all of it must be written again."""


def check_file(path: Path) -> None:
    """See, without writing, whether an exporter could use this state file.

    Errors: ConfigError, StateUnavailable.
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
    """Whether there is certainly no file."""
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
