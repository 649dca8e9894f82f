"""Shards that take no new conversations: held until all that they have counted was shown. On a real PostgreSQL."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import trio

from exporter.conversations import Conversations
from exporter.counting.increments import Measure
from exporter.enums import ShardState, Word
from exporter.metrics.catalog import FAMILY_OF
from exporter.metrics.publisher import Publisher
from exporter.metrics.store import LabelLimits, MetricStore
from exporter.shards import LAST_SCRAPES, Tenure
from exporter.state.keeper import StateKeeper
from exporter.state.postgres import Registry, Server, Shard, Taken
from exporter.state.storage import Assigned
from tests.postgres import Database

LEASE_S = 5.0
HOLD_S = 1.0


@contextmanager
def registry(database: Database) -> Iterator[Registry]:
    made = Registry(Server(url=database.url), holder="host:1:a", patience=LEASE_S)
    try:
        yield made
    finally:
        made.close()


def taken_by(shards: Registry) -> Taken:
    taken = shards.take(LEASE_S)
    assert taken is not None
    return taken


def shard_of(database: Database, taken: Taken) -> Shard:
    return Shard(Server(url=database.url), taken, lease=LEASE_S, label_names=(), remembers=False)


def states(shards: Registry) -> list[ShardState]:
    return [row.state for row in shards.shards()]


def test_a_drained_shard_is_taken_until_a_holder_has_shown_all(database: Database) -> None:
    with registry(database) as shards:
        shards.prepare(1)
        first = shard_of(database, taken_by(shards))
        shards.prepare(0)
        first.release()
        assert states(shards) == [ShardState.UNHELD]
        second = shard_of(database, taken_by(shards))
        second.release(is_over=True)
        assert states(shards) == [ShardState.DRAINED]
        assert shards.take(LEASE_S) is None
        first.close()
        second.close()


def test_a_shard_that_was_never_held_drains_at_once(database: Database) -> None:
    with registry(database) as shards:
        shards.prepare(2)
        shards.prepare(0)
        assert states(shards) == [ShardState.DRAINED] * 2
        assert shards.take(LEASE_S) is None


def test_a_shard_that_was_never_held_but_has_conversations_drains(database: Database) -> None:
    with registry(database) as shards:
        shards.prepare(1)
        shards.offer([Assigned("a", "", Word.LIVE)])
        shards.prepare(0)
        assert states(shards) == [ShardState.UNHELD]
        shard = shard_of(database, taken_by(shards))
        with database.connect() as connection:
            connection.execute("UPDATE phonic_assignment SET ended_at = clock_timestamp()")
        shard.release()
        assert states(shards) == [ShardState.UNHELD]
        shard.close()


def test_a_drained_shard_that_is_wanted_again_is_taken(database: Database) -> None:
    with registry(database) as shards:
        shards.prepare(1)
        shard = shard_of(database, taken_by(shards))
        shards.prepare(0)
        shards.prepare(1)
        shard.release(is_over=True)  # it was wanted again meanwhile
        assert states(shards) == [ShardState.UNHELD]
        shards.prepare(0)
        shards.prepare(1)
        assert shards.take(LEASE_S) is not None
        shard.close()


async def test_a_drained_shard_is_held_until_its_new_series_were_scraped(database: Database) -> None:
    with registry(database) as shards, trio.fail_after(30):
        await trio.to_thread.run_sync(shards.prepare, 1)
        shard = shard_of(database, await trio.to_thread.run_sync(taken_by, shards))
        await trio.to_thread.run_sync(shards.prepare, 0)
        conversations = Conversations(MetricStore(LabelLimits(), hold=HOLD_S), live_limit=0, now=time.time)
        store = conversations.store
        keeper = StateKeeper(shard, now=time.time)
        tenure = Tenure(
            shard=shard, conversations=conversations, publisher=Publisher(store, conversations, keeper)
        )
        store.apply(store.label_set(("p", "a")), [((Measure.TURN, "user"), 3)], conversation_id="c", at=1.0)
        shown: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(keeper.run, conversations, interval=LEASE_S, on_error=lambda: None))
            nursery.start_soon(scrape, tenure, shown)
            assert await tenure.wait_drained()
            nursery.cancel_scope.cancel()
        assert shown[0] == 0
        assert shown[-LAST_SCRAPES:] == [3] * LAST_SCRAPES
        await keeper.close()


async def scrape(tenure: Tenure, shown: list[int]) -> None:
    """Do what a scrape does, again and again, and note what the page shows of the turns."""
    while True:
        await tenure.publisher.prepare(1.0)
        sent = tenure.whole_page(True)
        ((_, numbers),) = [
            each
            for each in tenure.conversations.store.shown(FAMILY_OF[Measure.TURN])
            if each[0].labels == ("p", "a", "user")
        ]
        assert isinstance(numbers, int)
        shown.append(numbers)
        sent()
        await trio.sleep(0.05)
