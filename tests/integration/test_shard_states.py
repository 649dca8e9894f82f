"""What PostgreSQL tells of shards: held, released, drained."""

from exporter.enums import ShardState
from exporter.state.postgres import Registry, Server, Shard
from exporter.state.rows import NO_HISTORY
from tests.postgres import Database


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
    shard = Shard(server, taken, lease=30.0, label_names=(), history=NO_HISTORY)
    shard.release()
    assert [(row.state, row.holder) for row in registry.shards()] == [(ShardState.UNHELD, None)] * 2
    assert all(row.lease_seconds < 0 for row in registry.shards())
    shard.close()
    registry.close()
