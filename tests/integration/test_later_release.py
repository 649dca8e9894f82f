"""A later release changes the tables, or what is in them: an earlier one writes nothing more, and says so once."""

import pytest
import structlog
import trio

from exporter.state.blob import VERSION
from exporter.state.postgres import FORMAT, Registry, Server, Shard
from exporter.state.registrar import Registrar
from exporter.state.rows import NO_HISTORY
from exporter.state.statements import SCHEMA
from exporter.state.storage import Fenced, Outdated
from tests.integration.test_fencing import counted, total
from tests.postgres import Database

LEASE_S = 30.0


def change_tables(database: Database, version: int = SCHEMA + 1) -> None:
    with database.connect() as connection:
        connection.execute("UPDATE phonic_schema SET version = %s", (version,))


def registry(database: Database, holder: str = "host:1:a") -> Registry:
    return Registry(Server(url=database.url), holder=holder, patience=LEASE_S)


def held(database: Database) -> Shard:
    taking = registry(database)
    taking.prepare(1)
    taken = taking.take(LEASE_S)
    assert taken is not None
    taking.close()
    return Shard(Server(url=database.url), taken, lease=LEASE_S, label_names=(), remembers=False)


def test_what_a_holder_writes_is_named_by_one_number() -> None:
    """Whoever raises the version of the blobs must raise `FORMAT`: an earlier release would drop such blobs."""
    assert (FORMAT, VERSION) == (1, 3)


def test_holder_writes_nothing_to_tables_of_a_later_release(database: Database) -> None:
    shard = held(database)
    shard.put(counted(5), everything=True, at=0.0)
    change_tables(database)
    for write in (lambda: shard.put(counted(6), everything=False, at=0.0), shard.renew):
        with pytest.raises(Outdated):
            write()
    assert total(database) == 5
    assert issubclass(Outdated, Fenced)
    shard.close()


def test_free_shard_in_tables_of_a_later_release_is_not_taken(database: Database) -> None:
    taking = registry(database)
    taking.prepare(1)
    change_tables(database)
    assert taking.take(LEASE_S) is None
    change_tables(database, SCHEMA)
    assert taking.take(LEASE_S) is not None
    taking.close()


@pytest.mark.parametrize("when", ["before the start", "while it stands by"])
async def test_standby_says_once_that_it_stands_aside_and_takes_nothing(database: Database, when: str) -> None:
    holder = held(database)
    errors = []
    asking = Registrar(
        registry(database, "host:2:b"),
        count=1,
        lease=LEASE_S,
        history=NO_HISTORY,
        on_error=lambda: errors.append(1),
    )
    if when == "before the start":
        change_tables(database)
    taken = []
    with structlog.testing.capture_logs() as logged, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asking.run)

            async def take() -> None:
                taken.append(await asking.take())

            nursery.start_soon(take)
            if when == "while it stands by":
                while not asking.is_reached:  # noqa: ASYNC110  # the server's answers cannot be waited for
                    await trio.sleep(0.05)
                change_tables(database)
            while len(errors) < 3:  # noqa: ASYNC110
                await trio.sleep(0.05)
            assert not asking.is_reached
            holder.release()
            assert taken == []
            change_tables(database, SCHEMA)  # the later release was withdrawn
            while not taken:  # noqa: ASYNC110
                await trio.sleep(0.05)
            assert asking.is_reached
            nursery.cancel_scope.cancel()
        await asking.close()
    [line] = [each for each in logged if each["log_level"] == "error"]
    assert line["event"] == "a later release has changed PostgreSQL's tables, standing aside"
    assert line["reason"] == f"schema version {SCHEMA + 1} of a later release"
    holder.close()
