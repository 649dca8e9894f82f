"""Tasks: when the state is written, what waits for a write, and how errors of its storage are handled.

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

With PostgreSQL every write renews the lease of the shard, so it is written although nothing has changed, and a
write that takes longer than the lease is given up. Pages never show counted numbers then: `StateKeeper.is_ours`
tells whether they may show any.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

import attrs
import structlog
import trio

from ..counting.turns import SeenCall
from ..errors import ConfigError, HistoryUnavailable, StateUnavailable
from .file import StateFile, is_missing
from .history import Remembered, UnreadableHistory, unpack
from .lockfile import InUse
from .patience import answered
from .reasons import Reasons
from .rows import NO_HISTORY, Changes, HistoryLimits, Saved
from .sqlite import NotOurs, Unreadable, is_readable_by_others
from .storage import Assigned, Fenced, Lost, Storage, Unusable

log = structlog.get_logger("exporter.state.keeper")

T = TypeVar("T")

START_PATIENCE: Final = 10.0  # seconds of retries at start while the file cannot be read
_START_RETRY: Final = 0.5
COUNTED_AFTER: Final = 30.0  # seconds without a successful write after which pages show counted numbers
# The limit for each of the last two steps (write, close). With the 3 s of the last scrape, shutting down takes at
# most 9 s.
_LAST_SECONDS: Final = 3.0
QUESTION_SECONDS: Final = 10.0
"""Longest time that a question about ended conversations may take in PostgreSQL."""
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
    """Keeps the state of a running exporter, in a file (`StateKeeper.open`) or a shard.

    ``last_success``: Unix time at which the storage last held everything that was to be saved, None before.
    ``on_write`` gets the seconds that each write took; ``on_assigned`` conversations that were assigned to the
    shard.
    """

    def __init__(self, storage: Storage, *, now: Callable[[], float], everything: bool = True) -> None:
        """``now`` returns Unix time. ``everything``: the first write replaces what the storage holds."""
        self.last_success: float | None = None
        self.on_write: Callable[[float], None] = _ignore
        self.on_assigned: Callable[[Sequence[Assigned]], None] = _ignore
        self._storage = storage
        self._now = now
        self._needs_everything = everything
        self._received: Sequence[Assigned] = ()
        self._one_write = trio.Lock()
        self._one_thread = trio.CapacityLimiter(1)
        # Where a write renews a lease, no question may delay it.
        self._questions = self._one_thread if storage.lease is None else trio.CapacityLimiter(1)
        self._is_wanted = trio.Event()
        self._written = trio.Event()
        self._failing_with = Reasons()
        # trio time of the first attempt to write the oldest unwritten change
        self._behind_since: float | None = None
        self._is_behind_logged = False

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
        file = StateFile(path, label_names=label_names, history=history, now=now)
        keeper = cls(file, now=now)
        try:
            saved, problem = await keeper._opened(file, path)
        except BaseException:
            await keeper.close()
            raise
        return Opened(keeper=keeper, saved=saved, problem=problem)

    async def _opened(self, file: StateFile, path: Path) -> tuple[Saved | None, str | None]:
        give_up_at = trio.current_time() + START_PATIENCE
        say = log.warning  # only the first failure; the next ones are logged at debug level
        while True:
            try:
                saved, problem = await trio.to_thread.run_sync(
                    file.open, abandon_on_cancel=True, limiter=self._one_thread
                )
                break
            except InUse as taken:
                raise ConfigError("--state.file", f"{path} is {taken}") from None
            except NotOurs as foreign:
                raise ConfigError("--state.file", f"{path} is {foreign}; it is left alone") from None
            except (Unreadable, Unusable) as trouble:
                problem = str(trouble)
            if await trio.to_thread.run_sync(is_missing, file.path):
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

    @property
    def size_bytes(self) -> int | None:
        """Size of the state file with its write-ahead log; None in PostgreSQL."""
        return self._storage.size_bytes

    @property
    def shard(self) -> str | None:
        """Number of the shard; None for a file."""
        return None if self._storage.lease is None else self._storage.name

    @property
    def is_ours(self) -> bool:
        """Whether pages may show what the storage holds: no other process can have taken the shard."""
        return self._storage.is_ours

    def holds_all(self) -> None:
        """The storage holds exactly what was taken over: write only what changes."""
        self._needs_everything = False

    def write_everything(self) -> None:
        """Make the next write replace everything in the file, because not all of it was taken over."""
        self._needs_everything = True

    async def run(self, source: ChangeSource, *, interval: float, on_error: Callable[[], None]) -> None:
        """Write now, and then whatever has changed, every ``interval`` seconds and when `commit` asks for it.

        After a failure it waits twice as long as before, at most 10 s or ``interval``, and calls ``on_error``. In
        PostgreSQL it writes at least three times in each lease.
        Raises: Fenced. Cancellation: at once, even if the disk hangs; the changes of the current write go back to
        ``source``.
        """
        longest_wait = max(interval, _LONGEST_RETRY_SECONDS)
        if self._storage.lease is not None:
            interval = longest_wait = min(interval, self._storage.lease / 3)
        wait = interval
        while True:
            self._is_wanted = trio.Event()
            started = trio.current_time()
            if await self._write(source, on_error):
                wait = interval
                with trio.move_on_at(started + wait):
                    await self._is_wanted.wait()
            else:
                wait = min(wait * 2, longest_wait)
                await trio.sleep_until(started + wait)

    async def commit(self, patience: float) -> None:
        """Ask for a write, and wait for it or for the one in progress.

        Waits at most ``patience`` seconds, and not at all while writes fail. Cancellation: stops waiting at once;
        the write goes on.
        """
        if self._failing_with:
            return
        if not self._one_write.locked():
            self._is_wanted.set()
        with trio.move_on_after(patience):
            await self._written.wait()

    @property
    def is_behind(self) -> bool:
        """Whether writes have failed for so long that pages show counted numbers. Logs the beginning of that.

        Never in PostgreSQL: there pages show nothing once another process may have taken the shard.
        """
        if self._storage.lease is not None:
            return False
        is_behind = self._behind_since is not None and trio.current_time() - self._behind_since > COUNTED_AFTER
        if is_behind and not self._is_behind_logged:
            self._is_behind_logged = True
            log.error(
                "state file not written for long: pages show numbers that a crash would lose",
                file=self._storage.name,
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
        """Return a remembered conversation turn by turn; None if there is none.

        Waits for the write under way to a file. Raises: HistoryUnavailable. Cancellation: at any time.
        """

        def recall() -> SeenCall | None:
            packed = self._storage.recall(conversation_id)
            return None if packed is None else unpack(conversation_id, packed)

        try:
            return await self._ask(recall)
        except UnreadableHistory as bad:
            log.warning("remembered conversation cannot be read", conversation=conversation_id, reason=str(bad))
            return None

    async def list_history(self, query: str, *, limit: int) -> tuple[list[Remembered], int]:
        """Return remembered conversations that match, failed ones first, then the slowest; and how many match.

        Waits for the write under way to a file. Raises: HistoryUnavailable. Cancellation: at any time.
        """
        return await self._ask(lambda: self._storage.list_history(query, limit))

    async def _ask(self, ask: Callable[[], T]) -> T:
        try:
            return await answered(
                ask,
                seconds=math.inf if self._storage.lease is None else QUESTION_SECONDS,
                abort=self._storage.abort_question,
                limiter=self._questions,
            )
        except Unusable as trouble:
            if self._storage.lease is None:
                log.debug("state file cannot be read", file=self._storage.name, reason=str(trouble))
            else:
                log.debug("history cannot be read", shard=self._storage.name, reason=str(trouble))
            raise HistoryUnavailable from trouble

    async def close(self) -> None:
        """Close and unlock the file. Takes at most 3 s. Cancellation: none, it is shielded."""
        with trio.move_on_after(_LAST_SECONDS, shield=True):
            await trio.to_thread.run_sync(self._storage.close, abandon_on_cancel=True, limiter=self._one_thread)

    async def _write(self, source: ChangeSource, on_error: Callable[[], None]) -> bool:
        async with self._one_write:
            at = self._now()
            changes = source.changes(everything=self._needs_everything)
            if not changes and self._storage.lease is None:
                source.committed(changes)
                self._succeeded(at)
                return True
            if self._behind_since is None:
                self._behind_since = trio.current_time()
            started = trio.current_time()
            is_written = False
            try:
                assigned = await self._put(changes, at)
                is_written = True
            except Lost as lost:
                self._needs_everything = True
                self._failed(str(lost), on_error)
                return False
            except Unusable as trouble:
                self._failed(str(trouble), on_error)
                return False
            except Fenced:
                self._tell_waiters()
                raise
            finally:
                self.on_write(trio.current_time() - started)
                if is_written:
                    source.committed(changes)
                else:
                    source.put_back(changes)
            self._received = assigned
            self._needs_everything = False
            self._succeeded(at)
            self.on_assigned(assigned)
            return True

    async def _put(self, changes: Changes, at: float) -> Sequence[Assigned]:
        """Write in a thread. One that takes longer than the lease is given up: the server may never answer."""
        put = partial(
            self._storage.put, changes, everything=self._needs_everything, at=at, received=self._received
        )
        return await answered(
            put,
            seconds=self._storage.lease or math.inf,
            abort=self._storage.abort,
            limiter=self._one_thread,
        )

    def _succeeded(self, at: float) -> None:
        self.last_success = at
        self._failing_with.clear()
        self._behind_since = None
        if self._is_behind_logged:
            self._is_behind_logged = False
            log.info("state file written again: pages show what it holds", file=self._storage.name)
        self._tell_waiters()

    def _failed(self, reason: str, on_error: Callable[[], None]) -> None:
        # A metric shows the failures that follow.
        say = log.error if self._failing_with.add(reason) else log.debug
        if self._storage.lease is None:
            say("state file not written", file=self._storage.name, reason=reason)
        else:
            say("shard not written", shard=self._storage.name, reason=reason)
        on_error()
        self._tell_waiters()

    def _tell_waiters(self) -> None:
        self._written.set()
        self._written = trio.Event()


def _ignore(_: object) -> None:
    """Ignore a report."""
