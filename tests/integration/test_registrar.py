"""What processes ask and tell of all shards, on a real PostgreSQL: taking, offers, assignments, elections."""

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from random import Random

import pytest
import structlog
import trio
import trio.testing

from exporter.enums import ShardState, Word
from exporter.state import registrar as registrar_module
from exporter.state.postgres import Registry, Server, Shard, Taken
from exporter.state.registrar import Registrar
from exporter.state.rows import NO_HISTORY, HistoryLimits
from exporter.state.statements import MOST_EXPIRED
from exporter.state.storage import Assigned, Unusable
from tests.links import State, link
from tests.postgres import Database
from tests.storages import NOTHING

LEASE_S = 30.0
SOON_S = 0.5
"""In which a shard that was released is taken."""


@contextlib.contextmanager
def registry(database: Database, name: str, *, port: int | None = None) -> Iterator[Registry]:
    server = Server(url=database.server.url(database.name, port=port))
    made = Registry(server, holder=f"host:1:{name}", patience=LEASE_S)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def registries(database: Database, count: int) -> Iterator[list[Registry]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(registry(database, str(number))) for number in range(count)]


@contextlib.asynccontextmanager
async def registrar(
    database: Database,
    *,
    count: int = 1,
    lease: float = LEASE_S,
    history: HistoryLimits = NO_HISTORY,
    port: int | None = None,
    errors: list[None],
    name: str = "registrar",
) -> AsyncIterator[Registrar]:
    """A registrar that has prepared the tables and runs."""
    with registry(database, name, port=port) as asked, trio.fail_after(60):
        made = Registrar(asked, count=count, lease=lease, history=history, on_error=lambda: errors.append(None))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            yield made
            nursery.cancel_scope.cancel()
        await made.close()


@pytest.fixture
def errors() -> list[None]:
    return []


def shard(database: Database, taken: Taken | None) -> Shard:
    assert taken is not None
    return Shard(Server(url=database.url), taken, lease=LEASE_S, label_names=(), remembers=False)


def assignments(database: Database) -> dict[str, tuple[int, int]]:
    """Shard and word of each conversation."""
    with database.connect() as connection:
        rows = connection.execute("SELECT id, shard, word FROM phonic_assignment").fetchall()
    assert len(rows) == len({id_ for id_, *_ in rows})
    return {id_: (number, word) for id_, number, word in rows}


def offers(numbers: Sequence[int], word: Word = Word.LIVE) -> list[Assigned]:
    return [Assigned(f"conv_{number}", "", word) for number in numbers]


async def all_at_once(calls: Sequence[Callable[[], object]]) -> None:
    """Make calls in threads, which begin together."""
    async with trio.open_nursery() as nursery:
        for each in calls:
            nursery.start_soon(trio.to_thread.run_sync, each)


# --- taking


async def test_a_shard_that_is_released_is_taken_soon(database: Database, errors: list[None]) -> None:
    waits: list[float] = []
    with registry(database, "holder") as first:
        first.prepare(1)
        async with registrar(database, errors=errors) as asking:
            for _ in range(3):  # a busy machine may be late once
                held = shard(database, first.take(LEASE_S))
                async with trio.open_nursery() as nursery:
                    taken: list[Taken] = []

                    async def take(taken: list[Taken] = taken) -> None:
                        taken.append(await asking.take())

                    nursery.start_soon(take)
                    with trio.move_on_after(2 * registrar_module.POLL_INTERVAL):
                        await trio.sleep_forever()
                    assert not taken
                    held.release()
                    released_at = trio.current_time()
                waits.append(trio.current_time() - released_at)
                assert taken[0].epoch == held.epoch + 1
                held.close()
                after = shard(database, taken[0])
                after.release()
                after.close()
    assert min(waits) < SOON_S
    assert errors == []


async def test_a_shard_taken_by_an_answer_that_never_came_is_taken_again_at_once(database: Database) -> None:
    """PostgreSQL was stopped: what it was asked before was given up, so the holder does not know that it holds."""
    with registry(database, "standby") as asking, registry(database, "other") as other:
        asking.prepare(1)
        given_up = asking.take(LEASE_S)
        assert given_up is not None
        assert other.take(LEASE_S) is None
        again = asking.take(LEASE_S)
        assert again is not None
        assert (again.shard, again.epoch) == (given_up.shard, given_up.epoch + 1)


async def test_an_attempt_that_arrives_late_takes_nothing_from_its_own_process(database: Database) -> None:
    with registry(database, "standby") as asking, registry(database, "standby") as late:
        asking.prepare(1)
        asking.take(LEASE_S)
        holder = shard(database, asking.take(LEASE_S))
        assert late.take(LEASE_S) is None
        holder.renew()
        for _ in range(3):
            assert late.take(LEASE_S) is None
        holder.renew()
        holder.close()


async def test_one_of_many_that_want_a_shard_gets_it(database: Database) -> None:
    taken: dict[int, Taken] = {}
    with registries(database, 8) as all_of_them:

        def take(number: int) -> None:
            all_of_them[number].prepare(3)
            if (found := all_of_them[number].take(LEASE_S)) is not None:
                taken[number] = found

        await all_at_once([partial(take, number) for number in range(8)])
        assert taken
        for number in [number for number in range(8) if number not in taken][:3]:
            take(number)  # a shard whose row is locked at that moment is passed over until the next attempt
        assert sorted(each.shard for each in taken.values()) == [0, 1, 2]
        assert {each.epoch for each in taken.values()} == {1}
        states = Counter(row.state for row in all_of_them[0].shards())
        assert states == {ShardState.HELD: 3}


async def test_a_standby_waits_for_a_server_that_does_not_answer_and_logs_each_reason_once(
    database: Database, errors: list[None]
) -> None:
    async with link(database.server.port) as between:
        await between.become(State.CUT)
        with structlog.testing.capture_logs() as logs:
            async with (
                registrar(database, port=between.port, errors=errors) as asking,
                trio.open_nursery() as nursery,
            ):
                taken: list[Taken] = []

                async def take() -> None:
                    taken.append(await asking.take())

                nursery.start_soon(take)
                while len(errors) < 3:  # noqa: ASYNC110  # the attempts of a thread
                    await trio.sleep(0.02)
                assert not asking.is_reached
                await between.become(State.PASSES)
            assert taken[0].shard == 0
            assert asking.is_reached
    told = [each for each in logs if "PostgreSQL" in each["event"]]
    reasons = [each["reason"] for each in told if each["log_level"] == "error"]
    assert len(reasons) == len(set(reasons)) > 0
    assert told[-1]["log_level"] == "info"


# --- offers and assignments


async def test_an_offer_that_is_repeated_changes_nothing_and_a_higher_word_is_told(
    database: Database, errors: list[None]
) -> None:
    with registry(database, "other") as other:
        other.prepare(1)
        held = shard(database, other.take(LEASE_S))
        async with registrar(database, errors=errors) as asking:
            asking.is_reached = True

            async def offered(word: Word) -> None:
                asking.offer(Assigned("conv_1", "", word))
                while assignments(database).get("conv_1") != (0, word):  # noqa: ASYNC110  # a thread writes
                    await trio.sleep(0.02)

            await offered(Word.LIVE)
            before = assignments(database)
            for _ in range(2):
                other.offer(offers([1, 1]))
            assert assignments(database) == before
            renewed = held.read()[1]
            assert renewed == offers([1])
            await offered(Word.ENDED)
            other.offer(offers([1], Word.CHECK))  # a lower one
            assert held.read()[1] == offers([1], Word.ENDED)
        held.close()
    assert errors == []


async def test_offers_wait_while_the_server_cannot_be_reached(database: Database, errors: list[None]) -> None:
    async with (
        link(database.server.port) as between,
        registrar(database, port=between.port, errors=errors) as asking,
    ):
        await asking.take()
        await between.become(State.CUT)
        for each in offers(range(20)):
            asking.offer(each)
        asking.offer(Assigned("conv_3", "", Word.ENDED))
        while not errors:  # noqa: ASYNC110  # the attempts of a thread
            await trio.sleep(0.02)
        await between.become(State.PASSES)
        while len(assignments(database)) < 20:  # noqa: ASYNC110
            await trio.sleep(0.02)
        words = {id_: word for id_, (_, word) in assignments(database).items()}
        assert words == {f"conv_{number}": 2 * (number == 3) for number in range(20)}


async def test_what_was_offered_last_is_made_when_the_process_ends(database: Database, errors: list[None]) -> None:
    async with registrar(database, errors=errors) as asking:
        await asking.take()
        asking.offer(offers([7])[0])
    assert assignments(database) == {"conv_7": (0, 0)}


async def test_processes_that_disagree_about_the_number_of_shards_assign_each_conversation_once(
    database: Database,
) -> None:
    """Each has its own number of shards, and offers the same conversations in an order of its own."""
    rng = Random(5)
    seen: list[dict[str, tuple[int, int]]] = []
    with registries(database, 4) as all_of_them:

        def offer(each: Registry, count: int, numbers: list[int]) -> None:
            each.prepare(count)
            for at in range(0, len(numbers), 50):
                each.offer(offers(numbers[at : at + 50]))
                seen.append(assignments(database))

        await all_at_once(
            [
                partial(offer, each, count, rng.sample(range(400), 400))
                for each, count in zip(all_of_them, (1, 2, 3, 5), strict=True)
            ]
        )
    final = assignments(database)
    assert final.keys() == {f"conv_{number}" for number in range(400)}
    assert all(final.items() >= earlier.items() for earlier in seen)  # none was moved


def test_a_conversation_goes_to_a_shard_that_is_not_drained_and_all_of_them_get_some(database: Database) -> None:
    with registry(database, "a") as asked:
        asked.prepare(4)
        asked.offer(offers(range(400)))
        spread = Counter(number for number, _ in assignments(database).values())
        assert spread.keys() == {0, 1, 2, 3}
        assert min(spread.values()) > 60
        before = assignments(database)
        asked.prepare(2)
        asked.offer(offers(range(800)))
        after = assignments(database)
        assert after.items() >= before.items()
        assert {number for id_, (number, _) in after.items() if id_ not in before} == {0, 1}
        assert {row.state for row in asked.shards() if row.shard in "23"} == {ShardState.UNHELD}


def test_a_further_shard_gets_its_part_and_the_others_keep_theirs(database: Database) -> None:
    """Rendezvous hashing: the shard of an id changes only to the one that was added."""
    with registry(database, "a") as asked, database.connect() as connection:
        asked.prepare(3)
        asked.offer(offers(range(400)))
        before = assignments(database)
        connection.execute("DELETE FROM phonic_assignment")
        asked.prepare(4)
        asked.offer(offers(range(400)))
        moved = {id_: number for id_, (number, _) in assignments(database).items() if number != before[id_][0]}
        assert set(moved.values()) == {3}
        assert 60 < len(moved) < 140


def test_a_conversation_that_is_over_is_not_assigned_again(database: Database) -> None:
    with registry(database, "a") as asked, database.connect() as connection:
        asked.prepare(1)
        asked.offer(offers([1]))
        connection.execute("UPDATE phonic_assignment SET ended_at = now(), is_taken = true")
        asked.offer(offers([1], Word.ENDED))
        held = shard(database, asked.take(LEASE_S))
        assert held.read()[1] == []
        held.close()


# --- elections


def test_one_process_at_a_time_is_elected_and_the_next_one_after_the_lease(database: Database) -> None:
    with registries(database, 2) as (first, second), database.connect() as connection:
        first.prepare(1)
        assert first.elect(["a", "b", "a"], LEASE_S) == {"a", "b"}
        assert second.elect(["a", "b", "c"], LEASE_S) == {"c"}
        assert first.elect(["a", "b", "c"], LEASE_S) == {"a", "b"}  # it has them still, and renews
        connection.execute("UPDATE phonic_lease SET lease_until = now() WHERE name = 'a'")
        assert second.elect(["a", "b"], LEASE_S) == {"a"}
        assert first.elect(["a", "b"], LEASE_S) == {"b"}
        first.resign()
        assert second.elect(["a", "b", "c"], LEASE_S) == {"a", "b", "c"}
        assert first.elect([], LEASE_S) == set()


def test_an_election_ends_after_its_seconds_and_not_before(database: Database) -> None:
    with registries(database, 2) as (first, second):
        first.prepare(1)
        assert first.elect(["a"], 0.5) == {"a"}
        with database.connect() as connection:
            ((left,),) = connection.execute(
                "SELECT extract(epoch FROM lease_until - clock_timestamp())::float8 FROM phonic_lease"
            ).fetchall()
            assert 0 < left <= 0.5
            assert second.elect(["a"], 0.5) == set()
            connection.execute("SELECT pg_sleep_until(lease_until) FROM phonic_lease")
        assert second.elect(["a"], 0.5) == {"a"}


async def test_of_many_that_are_elected_at_once_one_wins_each_name(database: Database) -> None:
    names = [f"project {number}" for number in range(20)]
    rng = Random(3)
    won: list[str] = []
    with registries(database, 6) as all_of_them:
        all_of_them[0].prepare(1)

        def stand(each: Registry, order: list[str]) -> None:
            won.extend(each.elect(order, LEASE_S))

        await all_at_once([partial(stand, each, rng.sample(names, 20)) for each in all_of_them])
    assert sorted(won) == sorted(names)


async def test_nobody_is_elected_while_the_server_does_not_answer(database: Database, errors: list[None]) -> None:
    async with (
        link(database.server.port) as between,
        registrar(database, port=between.port, lease=1.0, errors=errors) as asking,
    ):
        await asking.take()
        assert set(await asking.elect(["a"], 1.0)) == {"a"}
        await between.become(State.HOLDS)
        assert set(await asking.elect(["a"], 1.0)) == set()
        with pytest.raises(Unusable, match="no answer"):
            await asking.listed()
        await between.become(State.PASSES)
        while "a" not in await asking.elect(["a"], 1.0):
            pass


async def test_a_conversation_goes_to_the_workspace_that_reports_it_last(database: Database) -> None:
    with registry(database, "asking") as asking:
        asking.prepare(1)
        holder = shard(database, asking.take(LEASE_S))
        for workspace, word in (("acme", Word.LIVE), ("acme-eu", Word.LIVE), ("acme-eu", Word.ENDED)):
            asking.offer([Assigned("conv_1", workspace, word)])
            received = holder.put(NOTHING, everything=False, at=0.0)
            assert received == [Assigned("conv_1", workspace, word)]
            holder.put(NOTHING, everything=False, at=0.0, received=received)
            assert holder.put(NOTHING, everything=False, at=0.0) == []
        asking.offer([Assigned("conv_1", "acme", Word.LIVE)])
        now = [Assigned("conv_1", "acme", Word.ENDED)]
        holder.put(NOTHING, everything=False, at=0.0, received=received)
        assert holder.put(NOTHING, everything=False, at=0.0) == now, "what was received was of the other workspace"
        holder.close()


# --- deleting


async def test_old_rows_are_deleted_and_the_youngest_history_stays(
    database: Database, errors: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrar_module, "EXPIRE_INTERVAL", 0.05)
    limits = HistoryLimits(conversations=10, seconds=time.time() + 1.0)  # so only the number counts
    old = MOST_EXPIRED + 5
    with registries(database, 1) as (first,), database.connect() as connection:
        first.prepare(1)
        connection.execute(
            "INSERT INTO phonic_assignment"
            " SELECT 'old ' || n, 0, '', 0, true, now() - interval '25 h' FROM generate_series(1, %(old)s) n"
            " UNION ALL SELECT 'young', 0, '', 0, true, now() - interval '23 h'"
            " UNION ALL SELECT 'unfinished', 0, '', 0, true, NULL",
            {"old": old},
        )
        connection.execute(
            "INSERT INTO phonic_history"
            " SELECT 'conv_' || n, n, '', '', 'user', false, 0, 1, 0, '' FROM generate_series(1, %s) n",
            (old + 10,),
        )
        async with (
            registrar(database, errors=errors, history=limits) as asking,
            registrar(database, errors=errors, history=limits, name="other") as other,
        ):
            await asking.take()
            with trio.move_on_after(0.1):
                await other.take()
            while len(assignments(database)) > 2:  # noqa: ASYNC110  # a thread deletes
                await trio.sleep(0.02)
            remembered: list[tuple[float]] = []
            while len(remembered) != 10:
                remembered = connection.execute("SELECT ended_at FROM phonic_history").fetchall()
                await trio.sleep(0.02)
            assert set(assignments(database)) == {"young", "unfinished"}
            assert sorted(at for (at,) in remembered) == list(range(old + 1, old + 11))
            assert len(connection.execute("SELECT FROM phonic_lease WHERE name = 'expiry'").fetchall()) == 1
    assert errors == []


# --- listing


async def test_all_shards_are_listed_with_their_holders_and_conversations(
    database: Database, errors: list[None]
) -> None:
    async with registrar(database, count=2, errors=errors) as asking:
        taken = await asking.take()
        for each in offers(range(10)):
            asking.offer(each)
        while len(assignments(database)) < 10:  # noqa: ASYNC110  # a thread writes
            await trio.sleep(0.02)
        counts = Counter(str(number) for number, _ in assignments(database).values())
        held, unheld = await asking.listed()
        assert held == {
            "shard": str(taken.shard),
            "state": "held",
            "holder": "host:1:registrar",
            "epoch": 1,
            "lease_seconds": held["lease_seconds"],
            "conversations": counts["0"],
        }
        assert isinstance(held["lease_seconds"], float)
        assert 0 < held["lease_seconds"] <= LEASE_S
        assert unheld == {
            "shard": "1",
            "state": "unheld",
            "holder": None,
            "epoch": 0,
            "lease_seconds": 0.0,
            "conversations": counts["1"],
        }
