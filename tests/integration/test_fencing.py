"""Writes of a shard that arrive late, twice or not at all: a link before a real PostgreSQL holds them back."""

import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from exporter.counting.increments import Measure
from exporter.metrics.catalog import FAMILY_OF
from exporter.state.postgres import Registry, Server, Shard
from exporter.state.rows import Changes, SavedSeries
from exporter.state.storage import Fenced, Unusable
from tests.links import Link, State, link
from tests.postgres import Database, fresh_database, running

LEASE_S = 1.0
TURNS = FAMILY_OF[Measure.TURN].name


def counted(number: int) -> Changes:
    """Changes with one series, which has reached ``number``."""
    return Changes(
        series=lambda: [SavedSeries(TURNS, ("user",), (), (number,))],
        held=None,
        conversations=tuple,
        finished=(),
        forgotten=(),
        ends=tuple,
        families=(TURNS,),
        first_start=1.0,
        is_empty=False,
    )


@attrs.frozen
class Process:
    """What one process of the exporter has of the engine, behind a link of its own."""

    link: Link
    registry: Registry
    server: Server
    shards: list[Shard] = attrs.field(factory=list)

    async def take(self) -> Shard:
        taken = await trio.to_thread.run_sync(self.registry.take, LEASE_S)
        assert taken is not None
        self.shards.append(Shard(self.server, taken, lease=LEASE_S, label_names=(), remembers=False))
        return self.shards[-1]


@contextlib.asynccontextmanager
async def process(database: Database, name: str) -> AsyncIterator[Process]:
    async with link(database.server.port) as between:
        server = Server(url=database.server.url(database.name, port=between.port))
        registry = Registry(server, holder=f"host:1:{name}", patience=LEASE_S)
        await trio.to_thread.run_sync(registry.prepare, 1)
        made = Process(between, registry, server)
        try:
            yield made
        finally:
            registry.close()
            for shard in made.shards:
                shard.close()


async def put(shard: Shard, number: int) -> None:
    await trio.to_thread.run_sync(partial(shard.put, counted(number), everything=False, at=0.0))


async def give_up(shard: Shard, number: int) -> None:
    """Write, and give up as the keeper does if there is no answer."""
    await _given_up(shard, partial(shard.put, counted(number), everything=False, at=0.0))


async def _given_up(waiting: Shard | Registry, call: Callable[[], object]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_abort_soon, waiting)
        with pytest.raises(Unusable):
            await trio.to_thread.run_sync(call)


async def _abort_soon(waiting: Shard | Registry) -> None:
    await trio.sleep(0.3)  # loopback would have answered
    waiting.abort()


def total(database: Database) -> int:
    with database.connect() as connection:
        rows = connection.execute("SELECT numbers FROM phonic_series").fetchall()
    return sum(int(numbers.strip("[]")) for (numbers,) in rows)


async def arrived(between: Link) -> None:
    """Let what a link has held arrive, and wait until the server has closed the connection that was given up."""
    before = between.connections
    await between.become(State.PASSES)
    while between.connections >= before:
        await trio.testing.wait_all_tasks_blocked(0.02)


async def test_a_write_that_arrives_after_a_take_over_changes_nothing(database: Database) -> None:
    with trio.fail_after(20):
        async with process(database, "a") as old, process(database, "b") as new:
            held = await old.take()
            await put(held, 5)
            await old.link.become(State.HOLDS)
            await give_up(held, 6)
            await trio.sleep(LEASE_S)
            assert not held.is_ours
            taken = await new.take()
            await put(taken, 7)
            await arrived(old.link)
            assert total(database) == 7
            with pytest.raises(Fenced):
                await put(held, 8)
            assert total(database) == 7
            assert taken.is_ours


async def test_a_write_that_arrives_after_the_next_one_changes_nothing(database: Database) -> None:
    with trio.fail_after(20):
        async with process(database, "a") as slow:
            held = await slow.take()
            await put(held, 4)
            await slow.link.become(State.HOLDS_OPEN)
            await give_up(held, 5)
            await put(held, 6)
            await arrived(slow.link)
            assert total(database) == 6
            await put(held, 7)
            assert total(database) == 7


async def test_a_write_whose_answer_was_lost_is_there_and_the_next_one_counts(database: Database) -> None:
    with trio.fail_after(20):
        async with process(database, "a") as unlucky:
            held = await unlucky.take()
            await put(held, 4)
            until = held.valid_for
            await unlucky.link.become(State.HOLDS_REPLIES)
            await give_up(held, 5)
            assert total(database) == 5
            assert held.valid_for < until  # only an answer makes the lease longer
            await unlucky.link.become(State.PASSES)
            await put(held, 6)
            assert total(database) == 6


async def test_a_shard_that_was_taken_without_the_taker_knowing_is_free_after_a_lease(database: Database) -> None:
    with trio.fail_after(20):
        async with process(database, "a") as unlucky, process(database, "b") as other:
            await unlucky.link.become(State.HOLDS_REPLIES)
            await _given_up(unlucky.registry, partial(unlucky.registry.take, LEASE_S))
            assert await trio.to_thread.run_sync(other.registry.take, LEASE_S) is None
            await trio.sleep(LEASE_S)
            assert (await other.take()).epoch == 2


async def test_a_holder_goes_on_after_a_crash_of_the_server(tmp_path: Path) -> None:
    with running() as server, fresh_database(server, tmp_path) as database, trio.fail_after(30):
        async with process(database, "a") as lucky:
            held = await lucky.take()
            await put(held, 5)
            server.crash()
            with pytest.raises(Unusable):
                await put(held, 6)
            server.start()
            await trio.sleep(LEASE_S)
            assert not held.is_ours  # its pages are empty, because another process may have taken the shard
            await put(held, 7)
            assert held.is_ours
            assert total(database) == 7
