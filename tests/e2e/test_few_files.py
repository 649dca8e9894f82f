"""An exporter with a low limit of open files: feeds leave enough for pages, REST and the state file."""

from pathlib import Path

import httpx
import pytest
import trio

from tests.e2e.pages import scrape, scrape_until
from tests.e2e.programs import ANY_PORT, STUCK_SECONDS, program
from tests.e2e.upstream import live_object, updated, upstream

pytestmark = pytest.mark.e2e

CALLS = [f"conv_{number}" for number in range(140)]
FEW = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))"


async def test_pages_are_answered_and_calls_beyond_the_limit_refused_and_counted(
    tmp_path: Path, http: httpx.AsyncClient
) -> None:
    ids = tmp_path / "ids"
    ids.write_text("\n".join(CALLS))
    frames: dict[str, list[str | bytes]] = {each: [updated(live_object(each))] for each in CALLS}
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames=frames) as phonic:
            command = ("--phonic.base-url", phonic.url, "--watch.file", str(ids), "--watch.interval=0.2")
            state = (f"--state.file={tmp_path / 'state.db'}", "--state.interval=0.05")
            async with program(
                *command, *state, "--web.listen-address", ANY_PORT, sabotage=FEW, PHONIC_API_KEY="ph_test"
            ) as running:
                url = await running.url()
                warning = await running.line("too few open files for the watch limit")
                assert "allowed=128" in warning
                assert "watched=64" in warning
                page = await scrape_until(http, url, lambda page: page.total("phonic_conversations_live") == 64)
                assert page.total("phonic_exporter_conversations_refused_total") == len(CALLS) - 64
                async with trio.open_nursery() as scraping:  # with connections of their own
                    for _ in range(20):
                        scraping.start_soon(one_scrape, url)
                page = await scrape(http, url)
                assert page.total("phonic_up") == 1
                assert page.total("phonic_exporter_checkpoint_errors_total") == 0
                assert page.total("phonic_exporter_feed_errors_total") == 0


async def one_scrape(url: str) -> None:
    async with httpx.AsyncClient(timeout=10) as client:
        await scrape(client, url)
