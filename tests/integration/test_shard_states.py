"""What PostgreSQL tells of shards: held, released, drained, of a later release; and that it tells nothing."""

from pathlib import Path

import attrs
import structlog
import trio

from exporter.enums import ShardState, Word
from exporter.state.postgres import FORMAT, Registry, Server, Shard
from exporter.state.registrar import Registrar
from exporter.state.rows import NO_HISTORY, Changes
from exporter.state.storage import Assigned
from tests.postgres import Database, fresh_database, running
from tests.storages import NOTHING

LEASE = 0.5


def test_a_shard_that_nobody_has_taken_or_that_was_released_is_unheld(database: Database) -> None:
    server = Server(url=database.url)
    registry = Registry(server, holder="host:1:a", patience=5.0)
    registry.prepare(2)
    assert [row.state for row in registry.shards()] == [ShardState.UNHELD] * 2
    taken = registry.take(30.0)
    assert taken is not None
    assert [(row.state, row.holder, row.epoch) for row in registry.shards()] == [
        (ShardState.HELD, "host:1:a", 1),
        (ShardState.UNHELD, None, 0),
    ]
    shard = Shard(server, taken, lease=30.0, label_names=(), remembers=False)
    shard.release()
    assert [(row.state, row.holder) for row in registry.shards()] == [(ShardState.UNHELD, None)] * 2
    assert all(row.lease_seconds < 0 for row in registry.shards())
    shard.close()
    registry.close()


def test_an_offer_with_the_name_of_a_workspace_names_what_was_assigned_without_and_tells_it_anew(
    database: Database,
) -> None:
    server = Server(url=database.url)
    registry = Registry(server, holder="host:1:a", patience=5.0)
    registry.prepare(1)
    taken = registry.take(30.0)
    assert taken is not None
    shard = Shard(server, taken, lease=30.0, label_names=(), remembers=False)

    def told(*offered: Assigned) -> list[Assigned]:
        """What the holder is told with its next write after these offers, until it has acknowledged it."""
        registry.offer(offered)
        news = list(shard.put(NOTHING, everything=False, at=1.0))
        shard.put(NOTHING, everything=False, at=1.0, received=news)
        assert not list(shard.put(NOTHING, everything=False, at=1.0))
        return news

    live = Assigned("conv_1", "", Word.LIVE)
    assert told(live) == [live]
    assert told(live) == []
    of_acme = Assigned("conv_1", "acme", Word.LIVE)
    assert told(of_acme) == [of_acme], "workspaces have names now"
    of_globex = Assigned("conv_1", "globex", Word.LIVE)
    assert told(of_globex) == [of_globex], "acme may have lost its key, or its name"
    assert told(of_globex) == []
    assert told(Assigned("conv_1", "globex", Word.ENDED)) == [Assigned("conv_1", "globex", Word.ENDED)]
    unnamed = Assigned("conv_1", "", Word.ENDED)
    assert told(live) == [unnamed], "one key again; the higher word stays"
    shard.close()
    registry.close()


def registrar(database: Database) -> Registrar:
    registry = Registry(Server(url=database.url), holder="host:1:a", patience=LEASE)
    return Registrar(registry, count=2, lease=LEASE, history=NO_HISTORY, on_error=lambda: None)


async def test_nothing_is_known_of_the_shards_while_postgresql_does_not_answer(tmp_path: Path) -> None:
    with running() as server, fresh_database(server, tmp_path) as database, trio.fail_after(60):
        asking = registrar(database)
        assert asking.counts == {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asking.run)
            await asking.take()
            assert asking.counts == {
                ShardState.HELD: 0,
                ShardState.UNHELD: 2,
                ShardState.DRAINING: 0,
                ShardState.DRAINED: 0,
            }
            server.crash()
            while asking.counts:  # noqa: ASYNC110  # the server's answers cannot be waited for
                await trio.sleep(0.05)
            server.start()
            while not asking.counts:  # noqa: ASYNC110
                await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
        await asking.close()


async def test_a_shard_of_a_later_release_is_left_to_it_and_named_once(database: Database) -> None:
    later = Registry(Server(url=database.url), holder="host:2:b", patience=LEASE)
    later.prepare(2)
    later.close()
    with database.connect() as connection:
        connection.execute("UPDATE phonic_shard SET format = %s WHERE shard = 0", (FORMAT + 1,))
    asking = registrar(database)
    with structlog.testing.capture_logs() as logged, trio.fail_after(60):
        taken = await asking.take()
        assert taken.shard == 1
        seen = asking.rows
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asking.run)
            while asking.rows is seen:  # noqa: ASYNC110  # the server's answers cannot be waited for
                await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
        await asking.close()
    [line] = [each for each in logged if "later release" in each["event"]]
    assert line["shards"] == ["0"]


def test_a_shard_that_nobody_has_written_counts_since_the_others_do(database: Database) -> None:
    server = Server(url=database.url)
    registry = Registry(server, holder="host:1:a", patience=5.0)
    registry.prepare(1)
    shards = []
    for number, since in enumerate((None, 1_800_000_000.0)):
        registry.prepare(number + 1)
        taken = registry.take(30.0)
        assert taken is not None
        shard = Shard(server, taken, lease=30.0, label_names=(), remembers=False)
        shards.append(shard)
        assert shard.read() == (None, [])
        assert shard.first_start == since
        shard.put(written(1_800_000_000.0), everything=False, at=0.0)
    for shard in shards:
        shard.close()
    registry.close()


def written(first_start: float) -> Changes:
    """What a holder writes that has counted nothing."""
    return attrs.evolve(NOTHING, first_start=first_start)
