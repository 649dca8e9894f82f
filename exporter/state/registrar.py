"""Tasks: taking a shard, offering conversations to the shards, sharing the search for them, deleting old rows.

Calls to PostgreSQL run one after the other in a thread. One that is not answered in the time of a lease is given
up, and its connection closed: the server may never answer. Offers that could not be made are made again later.
"""

import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import structlog
import trio

from ..enums import ShardState
from .patience import answered
from .postgres import Newer, Registry, ShardRow, Taken
from .reasons import Reasons
from .rows import HistoryLimits
from .storage import Assigned, Unusable

log = structlog.get_logger("exporter.state.registrar")

T = TypeVar("T")

POLL_INTERVAL: Final = 0.25
"""Seconds between two attempts to take a shard."""
COUNT_INTERVAL: Final = 1.0
"""Seconds between two looks at all shards. Without one for twice as long, or a lease, nothing is known of them."""
EXPIRE_INTERVAL: Final = 60.0
"""Seconds between two deletions of old rows, by one process for all."""
_EXPIRY: Final = "expiry"  # no digest, as names of projects are
_LONGEST_RETRY: Final = 5.0
_OFFERED_AT_ONCE: Final = 5000
MOST_OFFERS: Final = 300_000
"""Offers that wait while PostgreSQL cannot be reached; sweeps find what is dropped."""


class Registrar:
    """What this process asks and tells of all shards.

    ``is_reached``: whether PostgreSQL has answered, and the tables are there and not those of a later release.
    ``rows``: all shards, as of the last look.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        count: int,
        lease: float,
        history: HistoryLimits,
        on_error: Callable[[], None],
    ) -> None:
        """``count``: shards that there are to be. ``lease``: seconds. ``on_error`` is called for each failure."""
        self.is_reached = False
        self.rows: Sequence[ShardRow] = ()
        self._registry = registry
        self._count = count
        self._lease = lease
        self._history = history
        self._on_error = on_error
        self._one_call = trio.Lock()
        self._one_thread = trio.CapacityLimiter(1)
        self._looked_at = -math.inf  # trio time of the last look
        self._left_alone: frozenset[str] = frozenset()
        self._offers: dict[str, Assigned] = {}
        self._has_offers = trio.Event()
        self._failing_with = Reasons()

    @property
    def counts(self) -> Mapping[ShardState, int]:
        """Shards by state; empty until PostgreSQL has told them, and while it does not."""
        if trio.current_time() - self._looked_at > max(self._lease, 2 * COUNT_INTERVAL):
            return {}
        counts = dict.fromkeys(ShardState, 0)
        for row in self.rows:
            counts[row.state] += 1
        return counts

    async def run(self) -> None:
        """Make the offers that come, look at all shards every second, delete old rows. Never returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._make_offers)
            nursery.start_soon(self._expire)
            while True:
                if self.is_reached:
                    await self._succeeds(self._look)
                await trio.sleep(COUNT_INTERVAL)

    async def take(self) -> Taken:
        """Wait for a shard that nobody holds, and take it. Cancellation: at any time."""
        wait = POLL_INTERVAL
        while True:
            taken: list[Taken | None] = []

            async def attempt(taken: list[Taken | None] = taken) -> None:
                if not self.is_reached:
                    await self._ask(lambda: self._registry.prepare(self._count))
                    self.is_reached = True
                    await self._look()
                taken.append(await self._ask(lambda: self._registry.take(self._lease)))

            if await self._succeeds(attempt):
                wait = POLL_INTERVAL
                if taken[0] is not None:
                    return taken[0]
            else:
                wait = min(wait * 2, _LONGEST_RETRY, max(self._lease / 4, POLL_INTERVAL))
            await trio.sleep(wait)

    def offer(self, offered: Assigned) -> None:
        """Have a conversation assigned soon, and its holder told the word."""
        known = self._offers.get(offered.id)
        if known is None and len(self._offers) >= MOST_OFFERS:
            return
        if known is None or known.word < offered.word:
            self._offers[offered.id] = offered
            self._has_offers.set()

    async def elect(self, names: Collection[str], seconds: float) -> Collection[str]:
        """Those of the names that this process has, for so many seconds; none if PostgreSQL does not answer."""
        elected: set[str] = set()

        async def ask() -> None:
            elected.update(await self._ask(lambda: self._registry.elect(names, seconds)))

        await self._succeeds(ask)
        return elected

    async def listed(self) -> list[dict[str, object]]:
        """All shards as ``GET /api/v1/shards`` shows them. Raises: Unusable, Newer."""
        rows = await self._ask(self._registry.shards)
        unfinished = await self._ask(self._registry.unfinished)
        return [
            {
                "shard": row.shard,
                "state": row.state.value,
                "holder": row.holder,
                "epoch": row.epoch,
                "lease_seconds": round(max(row.lease_seconds, 0.0), 3),
                "conversations": unfinished.get(row.shard, 0),
            }
            for row in rows
        ]

    async def close(self) -> None:
        """Make the offers that wait, leave the search to others, and disconnect. Takes at most a second.

        Cancellation: none, it is shielded.
        """
        with trio.move_on_after(1.0, shield=True):
            if self._offers:
                await self._succeeds(self._offer_all)
            await self._succeeds(lambda: self._ask(self._registry.resign))
            await trio.to_thread.run_sync(self._registry.close, abandon_on_cancel=True, limiter=self._one_thread)

    async def _make_offers(self) -> None:
        while True:
            await self._has_offers.wait()
            self._has_offers = trio.Event()
            if not (self.is_reached and await self._succeeds(self._offer_all)):
                self._has_offers.set()
                await trio.sleep(1.0)

    async def _offer_all(self) -> None:
        while self._offers:
            batch = dict(list(self._offers.items())[:_OFFERED_AT_ONCE])
            await self._ask(partial(self._registry.offer, list(batch.values())))
            for conversation_id, offered in batch.items():
                if self._offers.get(conversation_id) is offered:
                    del self._offers[conversation_id]

    async def _expire(self) -> None:
        while True:
            await trio.sleep(EXPIRE_INTERVAL)
            if self.is_reached and await self.elect([_EXPIRY], 2 * EXPIRE_INTERVAL):
                await self._succeeds(self._expire_all)

    async def _expire_all(self) -> None:
        while await self._ask(lambda: self._registry.expire(self._history, time.time())):
            pass  # others that wait have their turn in between

    async def _look(self) -> None:
        asked_at = trio.current_time()
        self.rows = await self._ask(self._registry.shards)
        self._looked_at = asked_at
        left_alone = frozenset(row.shard for row in self.rows if row.is_newer and row.state is ShardState.UNHELD)
        if left_alone - self._left_alone:
            log.warning("shards of a later release are left to it", shards=sorted(left_alone))
        self._left_alone = left_alone

    async def _succeeds(self, step: Callable[[], Awaitable[object]]) -> bool:
        try:
            await step()
        except Unusable as trouble:
            self._failed("PostgreSQL cannot be used, trying again", trouble)
            return False
        except Newer as trouble:
            self.is_reached = False  # until `prepare` finds tables that this release knows
            self._failed("a later release has changed PostgreSQL's tables, standing aside", trouble)
            return False
        if self._failing_with:
            log.info("PostgreSQL can be used again")
            self._failing_with.clear()
        return True

    def _failed(self, event: str, trouble: Exception) -> None:
        # A metric shows the failures that follow.
        say = log.error if self._failing_with.add(str(trouble)) else log.debug
        say(event, reason=str(trouble))
        self._on_error()

    async def _ask(self, call: Callable[[], T]) -> T:
        """Run a call in the thread. Raises: Unusable, also if there is no answer; Newer."""
        async with self._one_call:
            return await answered(
                call, seconds=max(self._lease, 1.0), abort=self._registry.abort, limiter=self._one_thread
            )
