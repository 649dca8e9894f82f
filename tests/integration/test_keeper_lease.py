"""The keeper of a shard: when it writes, for how long its pages may show numbers, and when its tenure is over."""

import contextlib
from collections.abc import AsyncIterator, Sequence

import attrs
import pytest
import structlog
import trio
import trio.testing

from exporter.enums import Word
from exporter.errors import HistoryUnavailable
from exporter.state import keeper as keeper_module
from exporter.state.keeper import StateKeeper
from exporter.state.postgres import Registry, Server, Shard, boot_time
from exporter.state.rows import Changes, SavedSeries
from exporter.state.storage import Assigned, Fenced
from tests.links import Link, State, link
from tests.postgres import Database

LEASE_S = 1.0
FAMILY = "phonic_turns_total"


@attrs.define
class Count:
    """A source with one counter, which starts at 1. Implements `exporter.state.keeper.ChangeSource`."""

    number: int = 1
    written: int = 0
    errors: int = 0

    def changes(self, *, everything: bool = False) -> Changes:
        number = self.number
        return Changes(
            series=lambda: [SavedSeries(FAMILY, (), (), (number,))],
            held=None,
            conversations=tuple,
            finished=(),
            forgotten=(),
            ends=tuple,
            families=(FAMILY,),
            first_start=1.0,
            is_empty=not everything and number == self.written,
            token=number,
        )

    def committed(self, changes: Changes) -> None:
        self.written = changes.token

    def put_back(self, changes: Changes) -> None:
        assert changes.token > self.written or not changes

    def failed(self) -> None:
        self.errors += 1


@attrs.frozen
class Held:
    """A process that holds the only shard. Its writes go over a link."""

    link: Link
    registry: Registry
    shard: Shard
    keeper: StateKeeper
    count: Count = attrs.field(factory=Count)

    async def write(self) -> bool:
        return await self.keeper.write_now(self.count, on_error=self.count.failed)

    async def offer(self, conversation_id: str, word: Word) -> None:
        await trio.to_thread.run_sync(self.registry.offer, [Assigned(conversation_id, "w", word)])

    async def run(self) -> None:
        await self.keeper.run(self.count, interval=60.0, on_error=self.count.failed)


@contextlib.asynccontextmanager
async def held(database: Database, *, lease: float = LEASE_S) -> AsyncIterator[Held]:
    async with link(database.server.port) as between:
        server = Server(url=database.server.url(database.name, port=between.port))
        registry = Registry(Server(url=database.url), holder="host:1:a", patience=lease)
        await trio.to_thread.run_sync(registry.prepare, 1)
        taken = await trio.to_thread.run_sync(registry.take, lease)
        assert taken is not None
        shard = Shard(server, taken, lease=lease, label_names=(), remembers=False)
        keeper = StateKeeper(shard, now=lambda: 0.0)
        with trio.fail_after(60):
            try:
                yield Held(between, registry, shard, keeper)
            finally:
                await keeper.close()
                registry.close()


def stored(database: Database) -> int | None:
    with database.connect() as connection:
        row = connection.execute("SELECT numbers FROM phonic_series").fetchone()
    return None if row is None else int(row[0].strip("[]"))


def taken_by_another(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("UPDATE phonic_shard SET lease_until = 'epoch'")
    other = Registry(Server(url=database.url), holder="host:2:b", patience=LEASE_S)
    assert other.take(LEASE_S) is not None
    other.close()


async def becomes(shard: Shard, *, ours: bool) -> None:
    while shard.is_ours is not ours:  # noqa: ASYNC110  # the clock and a thread decide
        await trio.sleep(0.01)


def make_history_slow(database: Database) -> None:
    """Let each question about the history take a minute for each call remembered, and remember one."""
    with database.connect() as connection:
        connection.execute("ALTER TABLE phonic_history RENAME TO remembered")
        connection.execute("INSERT INTO remembered VALUES ('conv_1', 0, '', '', 'user', false, 0, 1, 0, '')")
        connection.execute("CREATE VIEW phonic_history AS SELECT * FROM remembered WHERE pg_sleep(60) IS NOT NULL")


async def is_asked(database: Database) -> None:
    """Wait until PostgreSQL is busy with a question about the history."""
    with database.connect() as connection:
        while not connection.execute(  # noqa: ASYNC110  # a thread asks
            "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        ).fetchall():
            await trio.sleep(0.01)


async def test_a_question_that_takes_long_delays_no_write(database: Database) -> None:
    async with held(database) as process:
        make_history_slow(database)

        async def ask() -> None:
            with pytest.raises(HistoryUnavailable):
                await process.keeper.list_history("", limit=1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await is_asked(database)
            assert await process.write()
            await process.keeper.close()  # ends the question


async def test_the_first_question_after_a_restart_of_the_server_is_answered(database: Database) -> None:
    async with held(database) as process:
        with database.connect() as connection:
            assert await process.keeper.list_history("", limit=1) == ([], 0)
            connection.execute(
                "INSERT INTO phonic_history VALUES ('conv_1', 0, '', '', 'user', false, 0, 1, 0, '')"
            )
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        _, count = await process.keeper.list_history("", limit=1)
        assert count == 1


async def test_a_question_that_takes_too_long_is_given_up_and_the_next_one_is_answered(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "QUESTION_SECONDS", 0.5)
    async with held(database) as process:
        assert await process.keeper.list_history("", limit=1) == ([], 0)
        make_history_slow(database)
        with pytest.raises(HistoryUnavailable):
            await process.keeper.list_history("", limit=1)
        with database.connect() as connection:
            asked = (
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE wait_event = 'PgSleep' AND datname = current_database()"
            )
            with trio.move_on_after(0.3):
                while connection.execute(asked).fetchone() == (1,):  # noqa: ASYNC110  # it is not asked again
                    await trio.sleep(0.02)
            assert connection.execute(asked).fetchone() == (1,)
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE wait_event = 'PgSleep' AND datname = current_database()"
            )
            connection.execute("DROP VIEW phonic_history")
            connection.execute("ALTER TABLE remembered RENAME TO phonic_history")
        rows, count = await process.keeper.list_history("", limit=1)
        assert ([each.conversation_id for each in rows], count) == (["conv_1"], 1)


async def test_the_lease_counts_from_the_start_of_the_write_that_was_acknowledged(database: Database) -> None:
    async with held(database, lease=30.0) as process:
        assert await process.write()
        await process.link.become(State.HOLDS_REPLIES)
        before = boot_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.write)
            process.count.number = 2
            while stored(database) != 2:  # noqa: ASYNC110  # the server has it, and nobody knows
                await trio.sleep(0.01)
            known_before = process.shard.valid_for + boot_time() - process.shard.lease
            assert known_before < before
            released = boot_time()
            await process.link.become(State.PASSES)
        counts_from = process.shard.valid_for + boot_time() - process.shard.lease
        assert before < counts_from < released


async def test_a_write_that_takes_longer_than_the_lease_is_given_up_and_made_later(database: Database) -> None:
    async with held(database) as process:
        assert await process.write()
        process.count.number = 2
        await process.link.become(State.HOLDS)
        began = trio.current_time()
        assert not await process.write()
        assert trio.current_time() - began >= LEASE_S
        assert (process.count.errors, process.count.written) == (1, 1)
        assert not process.keeper.is_ours
        assert not process.keeper.is_behind  # its pages never show what is only counted
        await process.keeper.commit(3600)  # does not wait
        await process.link.become(State.PASSES)
        process.count.number = 3
        assert await process.write()
        assert process.keeper.is_ours
        assert stored(database) == 3


async def test_pages_are_hidden_while_the_lease_is_over_and_shown_again_if_nobody_took_the_shard(
    database: Database,
) -> None:
    async with held(database) as process, trio.open_nursery() as nursery:
        nursery.start_soon(process.run)
        await becomes(process.shard, ours=True)
        epoch = process.shard.epoch
        with structlog.testing.capture_logs() as logs:
            for state in (State.HOLDS, State.CUT):
                await process.link.become(state)
                await becomes(process.shard, ours=False)
                assert process.shard.valid_for <= 0
                process.count.number += 1
                await process.link.become(State.PASSES)
                await becomes(process.shard, ours=True)
            await process.keeper.commit(60)
        assert stored(database) == process.count.number
        assert process.shard.epoch == epoch
        with database.connect() as connection:
            assert connection.execute("SELECT epoch, holder FROM phonic_shard").fetchall() == [(1, "host:1:a")]
        assert {each["log_level"] for each in logs} <= {"error", "debug"}
        nursery.cancel_scope.cancel()


async def test_the_lease_is_renewed_although_nothing_changes(database: Database) -> None:
    written: list[float] = []
    enough = trio.Event()

    def note(_: float) -> None:
        written.append(trio.current_time())
        if len(written) == 5:
            enough.set()

    async with held(database, lease=3.0) as process, trio.open_nursery() as nursery:
        process.keeper.on_write = note
        nursery.start_soon(process.run)
        await enough.wait()
        nursery.cancel_scope.cancel()
        assert process.count.errors == 0
    assert written[-1] - written[0] < 3.0 * 4 / 3 + 1.0  # the last is for a busy machine


async def test_a_keeper_whose_shard_was_taken_ends_and_nobody_waits_for_it(database: Database) -> None:
    async with held(database) as process:
        assert await process.write()
        await trio.to_thread.run_sync(taken_by_another, database)
        process.count.number = 2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.keeper.commit, 3600)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(Fenced):
                await process.run()
        assert stored(database) == 1
        assert (process.count.written, process.count.errors) == (1, 0)
        with pytest.raises(Fenced):
            await process.write()
        await trio.to_thread.run_sync(process.shard.release)  # which does not release what is another's
        with database.connect() as connection:
            assert connection.execute("SELECT holder FROM phonic_shard").fetchall() == [("host:2:b",)]


async def test_a_partition_in_which_the_shard_was_taken_ends_the_keeper_when_it_is_over(
    database: Database,
) -> None:
    async with held(database) as process:
        assert await process.write()
        async with trio.open_nursery() as nursery:
            await process.link.become(State.HOLDS)
            process.count.number = 2
            nursery.start_soon(ends_fenced, process)
            await becomes(process.shard, ours=False)
            await trio.to_thread.run_sync(taken_by_another, database)
            await process.link.become(State.PASSES)
        assert not process.shard.is_ours
        assert stored(database) == 1


async def ends_fenced(process: Held) -> None:
    with pytest.raises(Fenced):
        await process.run()


async def test_assigned_conversations_are_told_until_a_write_has_said_that_they_were_received(
    database: Database,
) -> None:
    told: list[Sequence[Assigned]] = []
    async with held(database) as process:
        process.keeper.on_assigned = told.append
        await process.offer("conv_1", Word.LIVE)
        assert await process.write()
        await process.link.become(State.CUT)
        assert not await process.write()
        await process.link.become(State.PASSES)
        assert await process.write()  # says that it was received, and may be told once more
        assert await process.write()
        assert told[0] == [Assigned("conv_1", "w", Word.LIVE)]
        assert told[-1] == []
        await process.offer("conv_1", Word.ENDED)
        assert await process.write()
        assert told[-1] == [Assigned("conv_1", "w", Word.ENDED)]


async def test_a_shard_that_is_hidden_is_never_shown_again(database: Database) -> None:
    async with held(database) as process:
        assert process.shard.is_ours
        process.shard.hide()
        assert await process.write()
        assert process.shard.valid_for > 0
        assert not process.keeper.is_ours
