"""The documented example conversation over real sockets gives exactly the numbers of its payload."""

import httpx
import pytest
import trio

from exporter.settings import WatchSettings
from tests.e2e.pages import OPENMETRICS, Page, scrape, scrape_until
from tests.e2e.programs import STUCK_SECONDS, exporting, settings_for
from tests.e2e.upstream import ENDED, EXAMPLE, PAYLOADS, record, upstream

pytestmark = pytest.mark.e2e

FRAME = (PAYLOADS / "live_conversation_updated.co.json").read_text()
NAMED = {"project": "customer-support", "agent": "support-agent"}


def has_three_turns(page: Page) -> bool:
    return page.total("phonic_turns_total") == 3


async def test_documented_example_gives_the_documented_numbers(http: httpx.AsyncClient) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames={EXAMPLE: [FRAME]}) as phonic:
            settings = settings_for(phonic.url, watch=WatchSettings(interval=0.1, conversation=(EXAMPLE,)))
            async with exporting(settings) as url:
                page = await scrape_until(http, url, has_three_turns)
    assert page.total("phonic_conversations_total", **NAMED) == 1
    assert page.total("phonic_conversations_live", **NAMED) == 1
    assert page.total("phonic_turns_total", role="assistant", **NAMED) == 2
    assert page.total("phonic_turns_total", role="user", **NAMED) == 1
    sums = {
        "phonic_turn_first_audio_seconds": (2, 1.045),
        "phonic_turn_model_generation_seconds": (2, 0.83),
        "phonic_turn_model_input_seconds": (2, 0.215),
        "phonic_turn_response_seconds": (1, 0.7),
        "phonic_turn_duration_seconds": (2, 4.3),  # the third turn is not settled yet
        "phonic_conversation_duration_seconds": (0, 0.0),
    }
    assert {name: (page.total(f"{name}_count"), page.total(f"{name}_sum")) for name in sums} == sums
    assert page.total("phonic_turn_response_seconds_bucket", le="0.65") == 0
    assert page.total("phonic_turn_response_seconds_bucket", le="0.8") == 1


async def test_exemplars_name_the_conversation(http: httpx.AsyncClient) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames={EXAMPLE: [FRAME]}) as phonic:
            settings = settings_for(phonic.url, watch=WatchSettings(interval=0.1, conversation=(EXAMPLE,)))
            async with exporting(settings) as url:
                await scrape_until(http, url, has_three_turns)
                page = await scrape(http, url, OPENMETRICS)
    [slow] = [each for each in page.samples("phonic_turn_response_seconds_bucket", le="0.8") if each.exemplar]
    assert slow.exemplar is not None
    assert slow.exemplar.labels == {"conversation_id": EXAMPLE}
    assert slow.exemplar.value == 0.7
    assert slow.exemplar.timestamp is not None


async def test_live_series_end_with_the_conversation(http: httpx.AsyncClient) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames={EXAMPLE: [FRAME]}) as phonic:
            settings = settings_for(phonic.url, watch=WatchSettings(interval=0.1, conversation=(EXAMPLE,)))
            async with exporting(settings) as url:
                page = await scrape_until(http, url, has_three_turns)
                assert page.total("phonic_conversation_live_turns", conversation_id=EXAMPLE) == 3
                assert page.total("phonic_conversation_live_duration_seconds", conversation_id=EXAMPLE) == 12.5
                assert page.total("phonic_conversation_live_first_audio_seconds", conversation_id=EXAMPLE) == 0.475
                [info] = page.samples("phonic_conversation_live_info")
                assert info.labels == {"conversation_id": EXAMPLE, **NAMED, "origin": "inbound"}
                phonic.records[EXAMPLE] = record()
                phonic.say(EXAMPLE, ENDED)
                page = await scrape_until(
                    http, url, lambda page: page.total("phonic_conversations_ended_total", ended_by="user") == 1
                )
    assert EXAMPLE not in page.text
    assert page.total("phonic_conversations_live") == 0
    assert page.total("phonic_conversation_duration_seconds_sum", **NAMED) == 120.5
    assert page.total("phonic_turn_duration_seconds_count", **NAMED) == 3
