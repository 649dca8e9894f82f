"""The end of a tenure in a real process: its shard was taken by another one, or was drained."""

from typing import Any

import httpx
import pytest
import trio

from exporter.enums import Word
from exporter.metrics.catalog import CATALOG
from exporter.state.postgres import Registry, Server
from exporter.state.storage import Assigned
from tests.e2e.pages import LOOK_AGAIN_SECONDS, Page, scrape_until
from tests.e2e.programs import ANY_PORT, STUCK_SECONDS, program
from tests.e2e.upstream import EXAMPLE, live_object, updated, upstream
from tests.postgres import Database

pytestmark = pytest.mark.e2e

LEASE_S = 2.0
OF_SHARD = {family.name for family in CATALOG if family.is_of_shard}


def sharing(database: Database, phonic_url: str, *more: str) -> Any:
    """Run a process that shares a database with others."""
    return program(
        f"--web.listen-address={ANY_PORT}",
        "--watch.interval=0.1",
        "--state.interval=0.05",
        f"--state.url={database.url}",
        f"--shard.lease={LEASE_S}",
        f"--phonic.base-url={phonic_url}",
        *more,
        PHONIC_API_KEY="ph_test",
    )


def is_hidden(page: Page) -> bool:
    return not {family.name for family in page.families} & OF_SHARD


async def test_a_process_whose_shard_was_taken_stands_by_and_counts_nothing_twice_when_it_takes_it_again(
    database: Database, http: httpx.AsyncClient
) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with (
            upstream(frames={EXAMPLE: [updated(live_object())]}) as phonic,
            sharing(database, phonic.url, f"--watch.conversation={EXAMPLE}") as alone,
        ):
            url = await alone.url()
            before = await scrape_until(http, url, lambda page: page.total("phonic_turns_total") == 3)
            assert before.total("phonic_exporter_shard_lease_epoch", shard="0") == 1
            with database.connect() as connection:
                connection.execute(
                    "UPDATE phonic_shard SET epoch = epoch + 1, write_number = 0, holder = 'other:1:b',"
                    " lease_until = clock_timestamp() + make_interval(secs => 3600)"
                )
            lost = await alone.line("another process has taken the shard")
            assert "level=error" in lost
            assert "epoch=1" in lost
            page = await scrape_until(http, url, is_hidden)
            assert page.total("phonic_exporter_shard_held") == 0
            assert page.total("phonic_exporter_shard_lease_losses_total", reason="taken") == 1
            assert (await http.get(f"{url}/-/ready")).status_code == 200
            [shard] = (await http.get(f"{url}/api/v1/shards")).json()["shards"]
            assert (shard["holder"], shard["epoch"]) == ("other:1:b", 2)
            with database.connect() as connection:
                connection.execute("UPDATE phonic_shard SET lease_until = 'epoch'")
            page = await scrape_until(http, url, lambda page: page.total("phonic_exporter_shard_held") == 1)
            assert page.total("phonic_exporter_shard_lease_epoch", shard="0") == 3
            assert page.total("phonic_turns_total") == 3
            page = await scrape_until(http, url, lambda page: page.total("phonic_conversations_live") == 1)
            assert page.total("phonic_turns_total") == 3
            assert page.total("phonic_exporter_shard_lease_losses_total", reason="taken") == 1
            alone.process.terminate()
            assert await alone.wait() == 0
    with database.connect() as connection:
        assert connection.execute("SELECT holder, lease_until <= now() FROM phonic_shard").fetchall() == [
            ("", True)
        ]


async def test_a_drained_shard_is_left_after_two_scrapes_and_another_one_is_taken(
    database: Database, http: httpx.AsyncClient
) -> None:
    other = Registry(Server(url=database.url), holder="other:1:b", patience=LEASE_S)
    await trio.to_thread.run_sync(other.prepare, 2)
    try:
        with trio.fail_after(STUCK_SECONDS):
            with database.connect() as connection:  # so that the process takes shard 1
                connection.execute(
                    "UPDATE phonic_shard SET lease_until = now() + interval '1 hour' WHERE shard = 0"
                )
            async with upstream() as phonic, sharing(database, phonic.url, "--shard.count=2") as alone:
                url = await alone.url()
                await scrape_until(
                    http, url, lambda page: page.total("phonic_exporter_shard_lease_epoch", shard="1") == 1
                )
                await trio.to_thread.run_sync(other.prepare, 1)
                await scrape_until(
                    http, url, lambda page: page.total("phonic_exporter_shards", state="draining") == 1
                )
                await until_drained(http, url)
                with database.connect() as connection:
                    connection.execute("UPDATE phonic_shard SET lease_until = 'epoch' WHERE shard = 0")
                await scrape_until(
                    http, url, lambda page: page.total("phonic_exporter_shard_lease_epoch", shard="0") == 1
                )
                other.offer([Assigned(f"conv_{number}", "", Word.LIVE) for number in range(20)])
                with database.connect() as connection:
                    assert connection.execute("SELECT DISTINCT shard FROM phonic_assignment").fetchall() == [(0,)]
    finally:
        other.close()


async def until_drained(http: httpx.AsyncClient, url: str) -> None:
    """Scrape as Prometheus does until the process holds no shard any more."""
    prometheus = {"X-Prometheus-Scrape-Timeout-Seconds": "5"}
    while 'shard_lease_epoch{shard="1"}' in (await http.get(f"{url}/metrics", headers=prometheus)).text:  # noqa: ASYNC110
        await trio.sleep(LOOK_AGAIN_SECONDS)
    shards = (await http.get(f"{url}/api/v1/shards")).json()["shards"]
    assert [(each["shard"], each["state"]) for each in shards] == [("0", "held"), ("1", "drained")]
