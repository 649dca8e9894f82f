"""Edge: the state file as a storage: one process at a time, damaged files set aside, lost ones begun again.

The file is never written to, or renamed, if this process has neither read nor created it. Every method blocks.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from ..counting import retention
from ..errors import ConfigError, StateUnavailable
from . import lockfile
from .history import Remembered
from .rows import Changes, HistoryLimits, Saved
from .sqlite import Database, Newer, NotOurs, Unreadable, check, identity, open_database, set_aside
from .storage import Assigned, Lost, Unusable

log = structlog.get_logger("exporter.state.file")


class StateFile:
    """A state file of this process. Implements `exporter.state.storage.Storage`.

    ``is_ours`` and ``lease``: the lock on the file is held until it is closed.
    """

    is_ours = True
    lease = None

    def __init__(
        self, path: Path, *, label_names: tuple[str, ...], history: HistoryLimits, now: Callable[[], float]
    ) -> None:
        """``label_names`` are the current ``--metrics.labels``; ``now`` returns Unix time."""
        self.size_bytes = 0
        self.path = Path(os.path.realpath(path))  # links to one file share one lock
        self.name = str(self.path)
        self._label_names = label_names
        self._history = history
        self._now = now
        self._lock: int | None = None
        self._database: Database | None = None
        self._identity: tuple[int, int] | None = None

    def open(self) -> tuple[Saved | None, str | None]:
        """Lock and read the file, or create it. May be called again after it has failed.

        Returns its contents, None if there are none; and what was wrong with a file that was set aside.
        Raises: InUse, NotOurs, Unreadable, Unusable.
        """
        with _as_unusable():
            check(self.path)  # before a lock file is created beside a file of another program
        if self._lock is None:
            self._lock = _acquire(self.path)
        self._database, saved, problem = self._connect()
        self.size_bytes = self._database.size_bytes
        return saved, problem

    def put(
        self, changes: Changes, *, everything: bool, at: float, received: Sequence[Assigned] = ()
    ) -> Sequence[Assigned]:
        del received  # nothing is assigned to a file
        try:
            self._write(changes, everything=everything, at=at)
        except (lockfile.InUse, NotOurs, Unreadable) as trouble:
            raise Unusable(str(trouble)) from trouble
        return ()

    def _write(self, changes: Changes, *, everything: bool, at: float) -> None:
        if self._database is None:
            self._reconnect()
        assert self._database is not None  # noqa: S101  # connected just now
        if self._database.is_new and not everything:
            raise Lost("the file was lost; it is written anew")
        try:
            self._database.write(changes, label_names=self._label_names, replace=everything, at=at)
        except BaseException:
            broken, self._database = self._database, None
            with suppress(Unusable):
                if identity(self.path) != self._identity:
                    self._identity = None  # the system may give the inode number of a deleted file to another one
                broken.close()
            raise
        self.size_bytes = self._database.size_bytes

    def recall(self, conversation_id: str) -> bytes | None:
        return None if self._database is None else self._database.recall(conversation_id)

    def list_history(self, query: str, limit: int) -> tuple[list[Remembered], int]:
        return ([], 0) if self._database is None else self._database.list_history(query, limit)

    def abort(self) -> None:
        pass

    def abort_question(self) -> None:
        pass

    def _reconnect(self) -> None:
        """Open the file again, or for the first time, unless it is a file that this process has not read."""
        if self._lock is not None and not lockfile.is_held(self._lock, self.path):
            os.close(self._lock)  # the lock file was deleted with its folder and no longer locks anything
            self._lock = None
        if self._lock is None:
            self._lock = _acquire(self.path)
        found = identity(self.path)
        if found not in (None, self._identity) and not _is_empty(self.path):
            raise Unusable("another file took its place; restart to go on from that one")
        self._database, _, _ = self._connect(reads=False)

    def _connect(self, *, reads: bool = True) -> tuple[Database, Saved | None, str | None]:
        problem = None
        since = self._now() - retention.ENDED if reads else None
        try:
            database, saved = open_database(self.path, since=since, history=self._history)
        except Unreadable as bad:
            problem = str(bad)
            aside = set_aside(self.path, "newer" if isinstance(bad, Newer) else "corrupt", self._now())
            log.error(
                "state file set aside, beginning a new one", file=str(self.path), aside=aside, reason=problem
            )
            database, saved = open_database(self.path, since=since, history=self._history)
        self._identity = database.identity
        return database, saved, problem

    def close(self) -> None:
        if self._database is not None:
            with suppress(Unusable):
                self._database.close()
            self._database = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def check_file(path: Path) -> None:
    """Check, without writing, whether an exporter could use this state file.

    Raises: ConfigError if it belongs to another program; StateUnavailable if it exists and cannot be read.
    """
    try:
        check(path)
    except NotOurs as foreign:
        raise ConfigError("--state.file", f"{path} is {foreign}; it is left alone") from None
    except OSError as bad:
        if not is_missing(path):
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


def is_missing(path: Path) -> bool:
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
