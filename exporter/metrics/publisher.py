"""Tasks: what a scrape waits for, so that its page tells only what the state file holds.

A scrape first has everything written that was counted so far, within a bound, and then shows what is committed
(`exporter.metrics.store`). Without a state file what is counted is committed.
"""

from collections.abc import Callable
from typing import Final, Protocol

import trio

from ..state.rows import Changes
from .store import MetricStore

LONGEST_WAIT: Final = 1.0  # seconds of a scrape for a write
_SHARE_OF_TIMEOUT: Final = 1 / 3


class ChangeSource(Protocol):
    """See `exporter.conversations`."""

    def changes(self, *, everything: bool = False) -> Changes: ...
    def committed(self, changes: Changes) -> None: ...


class StateWriter(Protocol):
    """See `exporter.state.keeper`."""

    @property
    def is_behind(self) -> bool: ...

    async def commit(self, patience: float) -> None: ...


class Publisher:
    """Prepares pages. ``wait`` is how long the last scrape waited for its commit, seconds; None before."""

    def __init__(self, store: MetricStore, source: ChangeSource, keeper: StateWriter | None) -> None:
        """``keeper`` is None without a state file."""
        self.wait: float | None = None
        self._store = store
        self._source = source
        self._keeper = keeper

    @property
    def is_committed(self) -> bool | None:
        """Whether pages show committed numbers; None without a state file."""
        return None if self._keeper is None else not self._keeper.is_behind

    async def prepare(self, gives_up_after: float | None) -> None:
        """Bring what pages show up to date, for a scrape that its client gives up after so many seconds.

        Waits a third of that, at most 1 s. Cancellation: at any time.
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
        """Without a state file: what was counted counts as written."""
        self._source.committed(self._source.changes())

    def whole_page(self, by_prometheus: bool) -> Callable[[], None]:
        """A client takes a whole page of this moment. Returns what to call once all of it is sent."""
        groups = self._store.held_back()
        return lambda: self._store.seen(groups, trio.current_time(), by_prometheus=by_prometheus)
