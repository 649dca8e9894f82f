"""Processes that share one shard: what its holder serves, what the standby serves, and a hand-over."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from exporter.metrics.catalog import CATALOG
from tests.e2e.pages import LOOK_AGAIN_SECONDS, OPENMETRICS, TEXT, Page, scrape, scrape_until
from tests.e2e.programs import ANY_PORT, STUCK_SECONDS, Program, exporting, program, settings_for
from tests.e2e.upstream import EXAMPLE, live_object, updated, upstream
from tests.postgres import Database, fresh_database, running

pytestmark = pytest.mark.e2e

QUICK = (
    f"--web.listen-address={ANY_PORT}",
    "--watch.interval=0.1",
    "--state.interval=0.05",
    "--web.enable-push-api",
)
OF_SHARD = {family.name for family in CATALOG if family.is_of_shard}
LISTED = ("shard", "state", "holder", "epoch", "lease_seconds", "conversations")


def sharing(database: Database, phonic_url: str, *more: str, lease: float = 5.0) -> Any:
    """Run a process of those that share a database."""
    place = (f"--state.url={database.url}", f"--shard.lease={lease}")
    return program(*QUICK, *place, f"--phonic.base-url={phonic_url}", *more, PHONIC_API_KEY="ph_test")


async def ready(http: httpx.AsyncClient, running_program: Program) -> str:
    """Wait until a process is ready; return its URL."""
    url = await running_program.url()
    while (await http.get(f"{url}/-/ready")).status_code != 200:  # noqa: ASYNC110  # as a load balancer looks
        await trio.sleep(LOOK_AGAIN_SECONDS)
    return url


def of_shard(page: Page) -> set[str]:
    return {family.name for family in page.families} & OF_SHARD | {
        sample.name for family in page.families for sample in family.samples if "shard" in sample.labels
    }


def holds(page: Page) -> bool:
    return page.total("phonic_exporter_shard_held") == 1


async def listed(http: httpx.AsyncClient, url: str) -> list[dict[str, Any]]:
    answer = await http.get(f"{url}/api/v1/shards")
    assert answer.status_code == 200, answer.text
    shards: list[dict[str, Any]] = answer.json()["shards"]
    return shards


async def test_standby_serves_everything_but_the_shard_and_goes_on_where_the_holder_stopped(
    database: Database, http: httpx.AsyncClient
) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with (
            upstream(frames={EXAMPLE: [updated(live_object())]}) as phonic,
            sharing(database, phonic.url, f"--watch.conversation={EXAMPLE}") as holder,
        ):
            first = await ready(http, holder)
            before = await scrape_until(http, first, lambda page: page.total("phonic_turns_total") == 3)
            assert {"0"} == before.values_of("phonic_turns_total", "shard")
            async with sharing(database, phonic.url) as standby:
                second = await ready(http, standby)
                for accept in (TEXT, OPENMETRICS):
                    page = await scrape(http, second, accept)
                    assert of_shard(page) == set()
                    assert page.samples("phonic_exporter_build_info")
                    assert not holds(page)
                await scrape_until(
                    http, second, lambda page: page.total("phonic_exporter_shards", state="held") == 1
                )
                landing, calls = await http.get(second), await http.get(f"{second}/conversations")
                assert landing.status_code == calls.status_code == 200
                assert "this process stands by" in landing.text
                assert EXAMPLE not in landing.text + calls.text
                assert EXAMPLE in (await http.get(f"{first}/conversations")).text
                assert (await http.get(f"{second}/conversations/{EXAMPLE}")).status_code == 404
                assert (await http.get(f"{second}/api/v1/conversations")).json() == {"conversations": []}
                [seen_by_first], [seen_by_second] = await listed(http, first), await listed(http, second)
                assert tuple(seen_by_second) == LISTED
                stays = ("shard", "state", "holder", "epoch", "conversations")
                assert [seen_by_first[key] for key in stays] == [seen_by_second[key] for key in stays]
                assert (seen_by_second["shard"], seen_by_second["state"], seen_by_second["epoch"]) == (
                    "0",
                    "held",
                    1,
                )
                assert seen_by_second["conversations"] == 1
                assert 0 < seen_by_second["lease_seconds"] <= 5
                pushed = await http.put(f"{second}/api/v1/conversations/conv_pushed")
                assert pushed.status_code == 201, pushed.text
                while (await listed(http, first))[0]["conversations"] != 2:  # noqa: ASYNC110  # only a page tells
                    await trio.sleep(LOOK_AGAIN_SECONDS)

                holder.process.terminate()
                assert await holder.wait() == 0
                after = await scrape_until(http, second, lambda page: page.total("phonic_turns_total") > 0)
                assert after.total("phonic_turns_total") == 3
                assert holds(after)
                assert after.total("phonic_exporter_shard_lease_epoch", shard="0") == 2
                [taken] = await listed(http, second)
                assert (taken["epoch"], taken["state"]) == (2, "held")
                assert taken["holder"] != seen_by_first["holder"]
                assert EXAMPLE in (await http.get(f"{second}/conversations")).text
                assert "this process stands by" not in (await http.get(second)).text


async def test_exporter_without_a_state_url_has_no_shards(http: httpx.AsyncClient) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with upstream() as phonic, exporting(settings_for(phonic.url)) as url:
            assert (await http.get(f"{url}/api/v1/shards")).status_code == 404
            page = await scrape(http, url)
            assert not page.samples("phonic_exporter_shard_held")
            assert "shard=" not in page.text


async def test_without_postgresql_nothing_of_a_shard_is_shown_and_it_comes_back_with_the_same_epoch(
    tmp_path: Path, http: httpx.AsyncClient
) -> None:
    with running() as server, fresh_database(server, tmp_path) as database, trio.fail_after(STUCK_SECONDS):
        async with (
            upstream(frames={EXAMPLE: [updated(live_object())]}) as phonic,
            sharing(database, phonic.url, f"--watch.conversation={EXAMPLE}", lease=2) as alone,
        ):
            url = await ready(http, alone)
            await scrape_until(http, url, lambda page: page.total("phonic_turns_total") == 3)
            server.crash()
            gone = await scrape_until(http, url, lambda page: not of_shard(page))
            assert not holds(gone)
            assert (await http.get(f"{url}/api/v1/shards")).status_code == 503
            assert (await http.get(f"{url}/-/healthy")).status_code == 200
            assert (await http.get(f"{url}/-/ready")).status_code == 200
            landing, calls = await http.get(url), await http.get(f"{url}/conversations")
            assert (landing.status_code, calls.status_code) == (200, 200)
            assert "not written in time: /metrics hides it until it is" in landing.text
            assert "What is remembered cannot be read now" in calls.text
            for path in ("/conversations/conv_other", "/api/v1/conversations/conv_other"):
                assert (await http.get(url + path)).status_code == 503
            newer = live_object()
            newer["items"].append({"item_idx": 3, "role": "user", "started_at": "2025-07-30T23:45:10.000Z"})
            phonic.say(EXAMPLE, updated(newer))
            server.start()
            back = await scrape_until(http, url, lambda page: page.total("phonic_turns_total") == 4)
            assert back.total("phonic_exporter_shard_lease_epoch") == 1
            assert back.total("phonic_exporter_shard_lease_losses_total", reason="expired") == 1
            [shard] = await listed(http, url)
            assert (shard["state"], shard["epoch"]) == ("held", 1)


async def test_process_that_starts_before_postgresql_waits_for_it(tmp_path: Path, http: httpx.AsyncClient) -> None:
    with running() as server, fresh_database(server, tmp_path) as database, trio.fail_after(STUCK_SECONDS):
        server.crash()
        async with upstream() as phonic, sharing(database, phonic.url, lease=2) as early:
            url = await early.url()
            refused = await early.line("PostgreSQL cannot be used, trying again")
            assert "level=error" in refused
            assert "refused" in refused
            waiting = await http.get(f"{url}/-/ready")
            assert (waiting.status_code, waiting.text) == (503, "PostgreSQL not reached\n")
            assert (await http.get(f"{url}/api/v1/shards")).status_code == 503
            assert not holds(await scrape(http, url))
            assert (await http.get(f"{url}/conversations")).status_code == 200
            server.start()
            await ready(http, early)
            await scrape_until(http, url, holds)
            early.process.terminate()
            assert await early.wait() == 0
            errors = [line.partition(" ")[2] for line in early.lines if "level=error" in line]
            assert len(errors) == len(set(errors)) > 0, "each reason once"


async def test_holder_stands_aside_when_a_later_release_has_changed_the_tables(
    database: Database, http: httpx.AsyncClient
) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with upstream() as phonic, sharing(database, phonic.url, lease=2) as outdated:
            url = await ready(http, outdated)
            await scrape_until(http, url, holds)
            with database.connect() as connection:
                connection.execute("UPDATE phonic_schema SET version = version + 1")
            await scrape_until(http, url, lambda page: not of_shard(page) and not holds(page))
            await outdated.line("a later release has changed PostgreSQL's tables, standing aside")
            assert (await http.get(f"{url}/api/v1/shards")).status_code == 503
            while (await http.get(f"{url}/-/ready")).status_code != 503:  # noqa: ASYNC110  # only a page tells
                await trio.sleep(LOOK_AGAIN_SECONDS)
            outdated.process.terminate()
            assert await outdated.wait() == 0
            assert sum("level=error" in line for line in outdated.lines) == 1
