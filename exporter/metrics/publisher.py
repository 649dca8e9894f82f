"""Tasks: what a scrape waits for before its page is rendered: a write of the state file.

A page shows only committed numbers (`exporter.metrics.store`). So a scrape asks for a write of everything that was
counted, waits for it within a bound, and then shows what is committed. Without a state file, everything counted is
committed at once.
"""

from collections.abc import Callable
from typing import Final, Protocol

import trio

from ..state.rows import Changes
from .store import MetricStore

LONGEST_WAIT: Final = 1.0  # seconds that a scrape waits for a write
_SHARE_OF_TIMEOUT: Final = 1 / 3


class ChangeSource(Protocol):
    """Whose changes are committed: `exporter.conversations.Conversations`."""

    def changes(self, *, everything: bool = False) -> Changes: ...
    def committed(self, changes: Changes) -> None: ...


class StateWriter(Protocol):
    """Who writes the state file: `exporter.state.keeper.StateKeeper`."""

    @property
    def is_behind(self) -> bool: ...

    async def commit(self, patience: float) -> None: ...


class Publisher:
    """Brings the shown numbers up to date for each page.

    ``wait``: how long the last scrape waited for a write, in seconds; None before the first scrape.
    """

    def __init__(self, store: MetricStore, source: ChangeSource, keeper: StateWriter | None) -> None:
        """``keeper`` is None without a state file."""
        self.wait: float | None = None
        self._store = store
        self._source = source
        self._keeper = keeper

    @property
    def is_committed(self) -> bool | None:
        """Whether pages show only what the state file holds; None without a state file."""
        return None if self._keeper is None else not self._keeper.is_behind

    async def prepare(self, gives_up_after: float | None) -> None:
        """Commit what was counted, and show it.

        ``gives_up_after``: timeout of the scrape in seconds, None if the client did not name it. Waits for a third
        of that, at most 1 s. Cancellation: stops waiting at once; the write goes on.
        """
        started = trio.current_time()
        self._store.release(started)
        if self._keeper is None:
            self.take_all()
        else:
            patience = (
                LONGEST_WAIT if gives_up_after is None else min(LONGEST_WAIT, gives_up_after * _SHARE_OF_TIMEOUT)
            )
            await self._keeper.commit(patience)
            if self._keeper.is_behind:
                self._store.show_counted()
        self.wait = trio.current_time() - started

    def take_all(self) -> None:
        """Without a state file: commit everything that was counted."""
        self._source.committed(self._source.changes())

    def whole_page(self, by_prometheus: bool) -> Callable[[], None]:
        """Note that a client is about to get a whole page of this moment.

        Returns a function that the caller must call once the whole page was sent.
        """
        groups = self._store.held_back()
        return lambda: self._store.seen(groups, trio.current_time(), by_prometheus=by_prometheus)
