"""Both places that can hold the state, for tests that say the same of each: a file, and a shard in PostgreSQL."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

from exporter.state.file import StateFile
from exporter.state.keeper import StateKeeper
from exporter.state.postgres import Registry, Server, Shard, Taken
from exporter.state.rows import NO_HISTORY, Changes, HistoryLimits, Saved, SavedConversation, SavedSeries
from exporter.state.storage import Assigned, Storage
from tests.postgres import Database

NOW: Final = 1_800_000_000.0
NAMES: Final = ("project", "agent")
LEASE_S: Final = 300.0
"""Longer than a test takes; `ShardPlace.end_lease` ends one."""


NOTHING: Final = Changes(
    series=tuple,
    held=None,
    conversations=tuple,
    finished=(),
    forgotten=(),
    ends=tuple,
    families=(),
    first_start=1.0,
    is_empty=True,
)
"""Changes of a holder that has counted nothing."""


class Place(Protocol):
    """A place that one process after the other opens. Every method blocks.

    ``has_ends``: whether what it holds tells which conversations are over. ``nul``: what becomes of a zero byte in
    a name.
    """

    @property
    def has_ends(self) -> bool: ...

    @property
    def nul(self) -> str: ...

    @property
    def storage(self) -> Storage:
        """What `open` has opened."""
        ...

    def open(
        self,
        *,
        names: tuple[str, ...] = NAMES,
        history: HistoryLimits = NO_HISTORY,
        now: Callable[[], float] = lambda: NOW,
    ) -> Saved | None:
        """Open it, for the first time or after `leave` or `kill`; return what it holds."""
        ...

    def expire(self, history: HistoryLimits, at: float) -> None:
        """Delete old rows, if writes do not."""

    def leave(self) -> None:
        """Close it as a process does that ends in order."""

    def kill(self) -> None:
        """Leave it as a process does that is killed."""

    def end(self) -> None:
        """Close whatever is still open, for ever."""


class FilePlace:
    """A state file. A kill leaves copies of its files as they are at that moment."""

    has_ends = True
    nul = "\0"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kills = 0
        self._opened: list[StateFile] = []

    @property
    def storage(self) -> StateFile:
        return self._opened[-1]

    def open(
        self,
        *,
        names: tuple[str, ...] = NAMES,
        history: HistoryLimits = NO_HISTORY,
        now: Callable[[], float] = lambda: NOW,
    ) -> Saved | None:
        path = self._folder / str(self._kills) / "exporter.db"
        self._opened.append(StateFile(path, label_names=names, history=history, now=now))
        saved, problem = self.storage.open()
        assert problem is None
        return saved

    def expire(self, history: HistoryLimits, at: float) -> None:
        del history, at

    def leave(self) -> None:
        self.storage.close()

    def kill(self) -> None:
        self._kills += 1
        shutil.copytree(self.storage.path.parent, self._folder / str(self._kills))

    def end(self) -> None:
        for each in self._opened:
            each.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class ShardPlace:
    """Shard 0 of a database, and a drained shard beside it, whose rows are in ``neighbour`` and must stay.

    ``assigned``: what was assigned when the shard was read; ``earlier``: storages of those that had it before.
    """

    has_ends = False
    nul = "\ufffd"

    def __init__(self, database: Database) -> None:
        self.earlier: list[Shard] = []
        self.assigned: list[Assigned] = []
        self._server = Server(url=database.url)
        self._connection = database.connect()
        self._holder: Callable[[], Shard] | None = None
        self._opened: list[Shard] = []
        self.registry = Registry(self._server, holder="host:1:a", patience=LEASE_S)
        self.registry.prepare(1)
        for table in ("shard", "series", "conversation", "assignment", "history", "lease"):
            self._connection.execute(f"DELETE FROM phonic_{table}")  # noqa: S608  # literals
        self.registry.prepare(2)
        both = [self._shard(self._take(), NAMES, NO_HISTORY) for _ in range(2)]
        both[1].put(_NEIGHBOUR, everything=False, at=NOW)
        for each in both:
            each.release()
        self.registry.prepare(1)

    @property
    def storage(self) -> Shard:
        return self._opened[-1]

    def open(
        self,
        *,
        names: tuple[str, ...] = NAMES,
        history: HistoryLimits = NO_HISTORY,
        now: Callable[[], float] = lambda: NOW,
    ) -> Saved | None:
        del now
        taken = self._take()
        assert taken.shard == 0
        self._holder = lambda: self._shard(taken, names, history)
        self._holder()
        saved, self.assigned = self.storage.read()
        return saved

    def late(self) -> Shard:
        """Return a storage of the present holder that counts its writes from 1, as those that arrive late."""
        assert self._holder is not None
        storage = self._holder()
        self._opened.insert(0, self._opened.pop())
        return storage

    def expire(self, history: HistoryLimits, at: float) -> None:
        assert not self.registry.expire(history, at)

    def leave(self) -> None:
        self.storage.hide()
        self.storage.release()
        self.earlier.append(self.storage)

    def kill(self) -> None:
        self.end_lease()
        self.storage.close()

    def end_lease(self) -> None:
        """Do what the passing of the lease does; its holder does not know."""
        self._connection.execute("UPDATE phonic_shard SET lease_until = 'epoch' WHERE shard = 0")
        self.earlier.append(self.storage)

    def neighbour(self) -> list[tuple[str, str]]:
        """Rows of the other shard."""
        return [
            (str(name), str(value))
            for name, value in self._connection.execute(
                "SELECT family, numbers FROM phonic_series WHERE shard = 1"
                " UNION ALL SELECT id, progress::text FROM phonic_conversation WHERE shard = 1"
            )
        ]

    def end(self) -> None:
        self.registry.close()
        self._connection.close()
        for each in self._opened:
            each.close()

    def _take(self) -> Taken:
        taken = self.registry.take(LEASE_S)
        assert taken is not None
        return taken

    def _shard(self, taken: Taken, names: tuple[str, ...], history: HistoryLimits) -> Shard:
        self._opened.append(
            Shard(self._server, taken, lease=LEASE_S, label_names=names, remembers=history.conversations > 0)
        )
        return self.storage


_NEIGHBOUR: Final = Changes(
    series=lambda: [SavedSeries("neighbour", ("a",), (), (7,))],
    held=[],
    conversations=lambda: [SavedConversation("conv_neighbour", b"kept")],
    finished=(),
    forgotten=(),
    ends=tuple,
    families=("neighbour",),
    first_start=NOW,
    is_empty=False,
)
NEIGHBOUR: Final = [("neighbour", "[7]"), ("conv_neighbour", "\\x6b657074")]
"""What `ShardPlace.neighbour` always is."""


def new_file() -> FilePlace:
    """Return a place in a folder of its own, which `Place.end` deletes."""
    return FilePlace(Path(tempfile.mkdtemp(prefix="phonic-state-")))


@asynccontextmanager
async def kept(
    place: Place,
    *,
    names: tuple[str, ...] = NAMES,
    history: HistoryLimits = NO_HISTORY,
    now: Callable[[], float] = lambda: NOW,
) -> AsyncIterator[tuple[StateKeeper, Saved | None]]:
    """Open a place and have a keeper write to it until the block ends. Yields what it held, too."""
    saved = place.open(names=names, history=history, now=now)
    keeper = StateKeeper(place.storage, now=now, everything=saved is None)
    try:
        yield keeper, saved
    finally:
        place.leave()
        await keeper.close()
