"""Rows of a shard that PostgreSQL could refuse."""

from collections.abc import Sequence
from random import Random

import attrs
import pytest

from exporter.counting.labels import LABEL_LENGTH
from exporter.enums import Word
from exporter.state.history import Remembered
from exporter.state.postgres import Registry, Server, Shard
from exporter.state.rows import Changes, HistoryLimits, SavedConversation, SavedSeries
from exporter.state.statements import PAGE
from exporter.state.storage import Assigned, Unusable
from tests.postgres import Database, Postgres
from tests.storages import NOTHING

HISTORY = HistoryLimits(conversations=10, seconds=3600.0)


def held(database: Database) -> Shard:
    registry = Registry(Server(url=database.url), holder="host:1:a", patience=30.0)
    registry.prepare(1)
    taken = registry.take(30.0)
    assert taken is not None
    registry.close()
    return Shard(Server(url=database.url), taken, lease=30.0, label_names=(), remembers=True)


def changes(
    *,
    series: Sequence[SavedSeries] = (),
    conversations: Sequence[SavedConversation] = (),
    remembered: Sequence[Remembered] = (),
) -> Changes:
    return attrs.evolve(
        NOTHING,
        series=lambda: series,
        conversations=lambda: conversations,
        first_start=0.0,
        is_empty=False,
        remembered=lambda: remembered,
    )


def test_a_name_with_a_character_that_postgresql_does_not_have_stops_no_write(database: Database) -> None:
    shard = held(database)
    call = Remembered(
        conversation_id="conv_1",
        ended_at=0.0,
        project="a\0b",
        agent="\0",
        ended_by="user",
        is_failed=False,
        duration=None,
        turns=1,
        slowest=None,
        packed=b"\0",
    )
    series = SavedSeries("phonic_turns_total", ("a\0b",), (), (1,))
    shard.put(changes(series=[series], remembered=[call]), everything=True, at=0.0, received=())
    saved, _ = shard.read()
    assert saved is not None
    assert saved.series == [series]
    assert [(each.project, each.agent) for each in shard.list_history("a\0b", 10)[0]] == [("a\ufffdb", "\ufffd")]
    assert shard.recall("conv_1") == b"\0"
    assert shard.recall("conv_\0") is None
    shard.close()


def test_the_longest_labels_that_there_are_can_be_written(database: Database) -> None:
    """With all of ``--metrics.labels``, a tool, and characters of four bytes that do not repeat."""
    shard = held(database)
    rng = Random(1)
    values = ("".join(chr(rng.randrange(0x10000, 0x10FFFF)) for _ in range(LABEL_LENGTH)) for _ in range(9))
    series = SavedSeries("phonic_tool_calls_total", tuple(values), (), (1,))
    for number in (1, 2):
        series = attrs.evolve(series, numbers=(number,))
        shard.put(changes(series=[series]), everything=number == 1, at=0.0, received=())
    saved, _ = shard.read()
    assert saved is not None
    assert saved.series == [series]
    shard.close()


def test_a_shard_of_more_rows_than_are_read_at_once_is_read_whole(database: Database) -> None:
    shard, registry = held(database), Registry(Server(url=database.url), holder="host:1:b", patience=30.0)
    count = 2 * PAGE + 1
    labels = [(f"{number}",) for number in range(count)]
    series = [SavedSeries(f"family {each[0][-1]}", each, (), (1,)) for each in labels]
    conversations = [SavedConversation(f"conv_{number}", b"") for number in range(count)]
    registry.offer([Assigned(each.id, "", Word.LIVE) for each in conversations])
    shard.put(changes(series=series, conversations=conversations), everything=True, at=0.0, received=())
    saved, assigned = shard.read()
    assert saved is not None
    assert sorted(each.labels for each in saved.series) == sorted(labels)
    assert sorted(each.id for each in saved.conversations) == sorted(each.id for each in conversations)
    assert sorted(each.id for each in assigned) == sorted(each.id for each in conversations)
    registry.close()
    shard.close()


def test_an_end_is_remembered_for_a_day(database: Database) -> None:
    shard = held(database)
    registry = Registry(Server(url=database.url), holder="host:1:b", patience=30.0)
    registry.offer([Assigned(f"conv_{hours}", "", Word.LIVE) for hours in (23, 25)])
    with database.connect() as connection:
        connection.execute(
            "UPDATE phonic_assignment SET is_taken = true,"
            " ended_at = now() - make_interval(hours => split_part(id, '_', 2)::integer)"
        )
    assert shard.put(changes(), everything=True, at=0.0) == []
    assert not registry.expire(HISTORY, at=0.0)
    registry.offer([Assigned(f"conv_{hours}", "", Word.ENDED) for hours in (23, 25)])
    assert shard.put(changes(), everything=False, at=1.0) == [Assigned("conv_25", "", Word.ENDED)]
    registry.close()
    shard.close()


def test_progress_that_an_abandoned_write_leaves_after_the_end_is_not_read(database: Database) -> None:
    """The write of the end cannot see the rows of a write that commits while it waits for that one."""
    shard = held(database)
    registry = Registry(Server(url=database.url), holder="host:1:b", patience=30.0)
    registry.offer([Assigned("conv_1", "", Word.LIVE), Assigned("conv_2", "", Word.LIVE)])
    both = [SavedConversation("conv_1", b"1"), SavedConversation("conv_2", b"2")]
    shard.put(changes(conversations=both), everything=True, at=0.0, received=())
    with database.connect() as connection:
        connection.execute("UPDATE phonic_assignment SET ended_at = now(), is_taken = true WHERE id = 'conv_1'")
    saved, assigned = shard.read()
    assert saved is not None
    assert [each.id for each in saved.conversations] == ["conv_2"]
    assert [each.id for each in assigned] == ["conv_2"]
    with database.connect() as connection:
        connection.execute("UPDATE phonic_assignment SET ended_at = now() - interval '25 h' WHERE id = 'conv_1'")
    registry.expire(HISTORY, at=100.0)
    with database.connect() as connection:
        assert connection.execute("SELECT id FROM phonic_conversation").fetchall() == [("conv_2",)]
    registry.close()
    shard.close()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
@pytest.mark.parametrize("client", ["UTF8", "LATIN1", "SQL_ASCII"])
def test_any_character_is_stored_in_any_encoding_that_has_it(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, encoding: str, client: str
) -> None:
    """The encoding of the database has it, or the process says so before it takes a shard."""
    monkeypatch.setenv("PGCLIENTENCODING", client)
    name = f"of_{encoding}_{client}".lower()
    with postgres.connect() as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    server = Server(url=postgres.url(name))
    registry = Registry(server, holder="host:1:a", patience=30.0)
    try:
        if encoding == "LATIN1":
            with pytest.raises(Unusable, match="has the encoding LATIN1, and must have UTF8"):
                registry.prepare(1)
            return
        registry.prepare(1)
        taken = registry.take(30.0)
        assert taken is not None
        shard = Shard(server, taken, lease=30.0, label_names=(), remembers=True)
        series = SavedSeries("family", ("Réservations ☎",), (), (1,))
        shard.put(changes(series=[series]), everything=True, at=0.0)
        saved, _ = shard.read()
        assert saved is not None
        assert saved.series == [series]
        assert registry.elect(["a"], 1.0) == {"a"}
        shard.close()
    finally:
        registry.close()
        postgres.drop_database(name)
