"""A real Prometheus scrapes the demo, and promtool checks the page."""

import time
from pathlib import Path

import httpx
import pytest
import trio

from docs.examples import SECTIONS
from exporter.phonic.wire import is_conversation_id
from tests.e2e.pages import scrape_until
from tests.e2e.programs import ANY_PORT, STUCK_SECONDS, program
from tests.e2e.prometheus import needs, prometheus

pytestmark = pytest.mark.e2e

# Calls that last seconds, so that turns are counted between any two scrapes.
LIVELY = (
    "--simulator.pace=0.05",
    "--simulator.calls-per-minute=600",
    "--simulator.warm-up=5",
    "--watch.interval=0.2",
)
DEMO = ("demo", f"--web.listen-address={ANY_PORT}", *LIVELY)


async def test_prometheus_computes_percentiles_and_finds_conversations(
    tmp_path: Path, http: httpx.AsyncClient
) -> None:
    needs("prometheus")
    with trio.fail_after(STUCK_SECONDS):
        async with program(*DEMO) as demo:
            url = await demo.url()
            async with prometheus(tmp_path, url.removeprefix("http://"), http) as server:
                p95 = await server.number(
                    "histogram_quantile(0.95, sum by (le) (rate(phonic_turn_response_seconds_bucket[15s])))"
                )
                assert 0 < p95 <= 15
                assert await server.number("sum(increase(phonic_turns_total[15s])) > 0")
                assert await server.number("up") == 1
                assert await server.number("phonic_up") == 1
                found = await server.get(
                    "query_exemplars",
                    query="phonic_turn_response_seconds_bucket",
                    start=str(time.time() - 3600),
                    end=str(time.time() + 60),
                )
    named = {each["labels"]["conversation_id"] for series in found for each in series["exemplars"]}
    assert named
    assert all(map(is_conversation_id, named))


async def test_promtool_finds_no_problem_on_the_page(http: httpx.AsyncClient) -> None:
    promtool = needs("promtool")
    with trio.fail_after(STUCK_SECONDS):
        async with program(*DEMO) as demo:
            url = await demo.url()
            page = await scrape_until(http, url, lambda page: page.total("phonic_turn_response_seconds_count") > 9)
        assert page.samples("process_cpu_seconds_total")
        checked = await trio.run_process(
            [promtool, "check", "metrics"],
            stdin=page.text.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


async def test_prometheus_evaluates_every_example_of_the_documentation(
    tmp_path: Path, http: httpx.AsyncClient
) -> None:
    """A query that parses can still match many series to many."""
    needs("prometheus")
    said = {}
    with trio.fail_after(STUCK_SECONDS):
        async with program(*DEMO) as demo:
            url = await demo.url()
            async with prometheus(tmp_path, url.removeprefix("http://"), http) as server:
                await server.number("sum(increase(phonic_turns_total[15s])) > 0")
                for section in SECTIONS:
                    for name, example in section.examples.items():
                        answer = await server.ask("query", query=example.query)
                        more = [answer[key] for key in ("error", "warnings", "infos") if answer.get(key)]
                        if more:
                            said[name] = more
    assert said == {}
