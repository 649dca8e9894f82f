"""Tasks: when the checkpoint is written, and what is done about trouble with its file.

Rules for this file:
- The first write of a process, and the first after a failed one, holds everything and replaces all there was.
  So nothing is kept for a retry, what was not taken over at start is gone from the file, and a file that was
  lost on the way is made again.
- The file blocks: it is used in a thread, by one call at a time. Rows are collected on the loop, in one go.
- No trouble with the file ever stops the exporter, but for another exporter that uses the same one.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import attrs
import structlog
import trio

from . import lockfile
from .database import Database, Unreadable, Unusable, identity, open_database, set_aside
from .errors import ConfigError
from .lockfile import InUse
from .saved import TOMBSTONE_LIFE, Changes, Saved

log = structlog.get_logger("exporter.checkpoint")

# For each of the two last steps: twice this and the 3 s of the last scrape are the 9 s that an end may take.
_LAST_SECONDS: Final = 3.0
_LONGEST_RETRY_SECONDS: Final = 60.0


class Collect(Protocol):
    """Hands out the rows to write as they stand now. Synchronous, so that they are of one moment."""

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
    """The checkpoint of a running exporter, made by `Checkpoint.open`.

    ``last_success`` is the Unix time at which the file last held all there was to save, None before;
    ``size_bytes`` is the size of the file with its write-ahead log.
    """

    def __init__(self, path: Path, *, label_names: tuple[str, ...], now: Callable[[], float]) -> None:
        self.last_success: float | None = None
        self.size_bytes = 0
        self._path = Path(os.path.realpath(path))  # two names of one file must mean one lock
        self._label_names = label_names
        self._now = now
        self._first_start = now()
        self._needs_everything = True
        self._one_write = trio.Lock()
        self._one_thread = trio.CapacityLimiter(1)
        # From here on: touched in the thread only.
        self._lock: int | None = None
        self._database: Database | None = None
        self._identity: tuple[int, int] | None = None

    @classmethod
    async def open(cls, path: Path, *, label_names: tuple[str, ...], now: Callable[[], float]) -> Opened:
        """Lock and read the file, or make it. ``label_names`` are today's; ``now`` gives Unix time.

        A file that cannot be read is set aside as ``<file>.corrupt-<time>`` and a new one begun. Where even
        that is not possible, every write will try again.
        Errors: ConfigError if another exporter uses the file.
        """
        checkpoint = cls(path, label_names=label_names, now=now)
        try:
            saved, problem = await trio.to_thread.run_sync(checkpoint._start)
        except InUse as taken:
            raise ConfigError("--state.file", f"{path} is {taken}") from None
        except (Unreadable, Unusable) as trouble:
            saved, problem = None, str(trouble)
            log.error("checkpoint cannot be used, going on without it", file=str(path), reason=problem)
        return Opened(checkpoint=checkpoint, saved=saved, problem=problem)

    async def run(self, collect: Collect, *, interval: float, on_error: Callable[[], None]) -> None:
        """Write now, and then every ``interval`` seconds what has changed; after errors ever less often.

        Cancellation: ends at once, even while the disk hangs. What becomes of a write under way does not
        matter: the next one holds everything.
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
        """Write what has changed; returns whether that worked. For the end, when `run` has been cancelled.

        Cancellation: none, so that all else can be torn down meanwhile; takes at most 3 s.
        """
        with trio.move_on_after(_LAST_SECONDS, shield=True):
            return await self._write(collect, on_error)
        self._failed("takes too long", on_error)
        return False

    async def close(self) -> None:
        """Let go of the file. Cancellation: none; takes at most 3 s."""
        with trio.move_on_after(_LAST_SECONDS, shield=True):
            await trio.to_thread.run_sync(self._stop, abandon_on_cancel=True, limiter=self._one_thread)

    async def _write(self, collect: Collect, on_error: Callable[[], None]) -> bool:
        async with self._one_write:
            everything, at = self._needs_everything, self._now()
            changes = collect(everything=everything)
            if changes or everything:
                self._needs_everything = True  # until this has worked, which a cancelled call does not learn
                try:
                    self.size_bytes = await trio.to_thread.run_sync(
                        self._put, changes, everything, at, abandon_on_cancel=True, limiter=self._one_thread
                    )
                except (InUse, Unreadable, Unusable) as trouble:
                    self._failed(str(trouble), on_error)
                    return False
                self._needs_everything = False
            self.last_success = at
            return True

    def _failed(self, reason: str, on_error: Callable[[], None]) -> None:
        log.error("checkpoint not written", file=str(self._path), reason=reason)
        on_error()

    # --- in the thread

    def _start(self) -> tuple[Saved | None, str | None]:
        self._lock = _acquire(self._path)
        self._database, saved, problem = self._connect()
        if saved is not None:
            self._first_start = saved.first_start
        self.size_bytes = self._database.size_bytes
        return saved, problem

    def _put(self, changes: Changes, everything: bool, at: float) -> int:
        if self._database is None:
            self._database = self._reconnect()
        try:
            self._database.write(changes, replace=self._label_names if everything else None, at=at)
        except BaseException:
            broken, self._database = self._database, None
            broken.close()
            raise
        return self._database.size_bytes

    def _reconnect(self) -> Database:
        """Open the file again, or for the first time. A file that this process has not read is not its own."""
        if self._lock is None:
            self._lock = _acquire(self._path)
        if identity(self._path) not in (None, self._identity):
            self._set_aside("unread", "not restored at start")
        return self._connect()[0]

    def _connect(self) -> tuple[Database, Saved | None, str | None]:
        problem = None
        try:
            database, saved = self._open_database()
        except Unreadable as bad:
            problem = str(bad)
            self._set_aside("corrupt", problem)
            database, saved = self._open_database()
        self._identity = database.identity
        return database, saved, problem

    def _open_database(self) -> tuple[Database, Saved | None]:
        since = self._now() - TOMBSTONE_LIFE
        return open_database(self._path, label_names=self._label_names, first_start=self._first_start, since=since)

    def _set_aside(self, word: str, reason: str) -> None:
        aside = set_aside(self._path, word, self._now())
        log.error("checkpoint set aside, beginning a new one", file=str(self._path), aside=aside, reason=reason)

    def _stop(self) -> None:
        if self._database is not None:
            with suppress(Unusable):
                self._database.close()
            self._database = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _acquire(path: Path) -> int:
    try:
        return lockfile.acquire(path)
    except OSError as bad:
        raise Unusable(bad.strerror or type(bad).__name__) from bad
