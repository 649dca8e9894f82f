"""The demo: it prints what to open, its metrics grow, and it leaves no files behind."""

import signal
from pathlib import Path

import httpx
import pytest
import trio

from tests.e2e.pages import OPENMETRICS, scrape, scrape_until
from tests.e2e.programs import STUCK_SECONDS, program

pytestmark = pytest.mark.e2e

# Calls that last seconds instead of minutes.
LIVELY = (
    "--simulator.pace=0.05",
    "--simulator.calls-per-minute=600",
    "--simulator.warm-up=5",
    "--watch.interval=0.2",
)


async def test_demo_prints_what_to_open_and_its_metrics_grow(tmp_path: Path, http: httpx.AsyncClient) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with program("demo", "--web.listen-address=:0", *LIVELY, XDG_STATE_HOME=str(tmp_path)) as demo:
            line = await demo.line("demo is running")
            landing, metrics = (each.partition("=")[2] for each in line.split()[-2:])
            assert landing.startswith("http://localhost:")
            assert metrics == f"{landing}/metrics"
            assert 'href="/metrics"' in (await http.get(landing)).text
            first = await scrape_until(http, landing, lambda page: page.total("phonic_turns_total") > 0)
            turns = first.total("phonic_turns_total")
            await scrape_until(
                http,
                landing,
                lambda page: (
                    page.total("phonic_turns_total") > turns
                    and page.total("phonic_turn_response_seconds_count") > 0
                    and page.total("phonic_conversations_ended_total") > 0
                ),
            )
            page = await scrape(http, landing, OPENMETRICS)
            assert [each for each in page.samples("phonic_turn_response_seconds_bucket") if each.exemplar]
            demo.signal(signal.SIGINT)
            assert await demo.wait() == 0
    assert not any("CTRL" in each for each in demo.lines)
    assert not any("level=error" in each for each in demo.lines)
    assert is_empty(tmp_path)


def is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())
