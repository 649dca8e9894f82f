"""Invalid input on a live socket of a whole exporter: valid values and other conversations are counted exactly."""

import json
from typing import Any

import httpx
import pytest
import trio

from exporter.settings import WatchSettings
from tests.e2e.pages import OPENMETRICS, Page, scrape, scrape_until
from tests.e2e.programs import STUCK_SECONDS, exporting, settings_for
from tests.e2e.upstream import EXAMPLE, Json, apart, live_object, updated, upstream

pytestmark = pytest.mark.e2e

NAMES = [
    'a "quoted" name',
    "two\nlines",
    "back\\slash",
    "carriage\rreturn and\ttab",
    "\0 and \x1b[31m",
    '{curly="braces"} 1 # EOF',
    "Zoë 客服 🦊\u2028",
    "half an emoji \ud83e",
    "",
    "__other__",
    "x" * 5000,
]


def example_is_exact(page: Page, conversations: int) -> None:
    """Assert the metrics of ``conversations`` copies of the documented example, among others."""
    own = {"agent": "support-agent"}
    assert page.total("phonic_conversations_total", **own) == conversations
    assert page.total("phonic_turns_total", **own) == 3 * conversations
    assert page.total("phonic_turn_first_audio_seconds_count", **own) == 2 * conversations
    assert page.total("phonic_turn_first_audio_seconds_sum", **own) == pytest.approx(1.045 * conversations)


def following(url: str, *conversations: str) -> Any:
    return settings_for(url, watch=WatchSettings(interval=0.1, conversation=conversations))


async def test_any_name_of_an_agent_makes_a_page_that_both_parsers_read(http: httpx.AsyncClient) -> None:
    frames: dict[str, list[str | bytes]] = {
        f"conv_{at}": [updated(live_object(f"conv_{at}", agent={"id": f"agent_{at}", "name": name}))]
        for at, name in enumerate(NAMES)
    }
    frames[EXAMPLE] = [updated(live_object())]
    # Far more agents than the limit of label sets: those beyond it are not shown before their first call.
    agents = [{"id": f"agent_{at}", "name": f'agent "{at}"\n🦊'} for at in range(10_000)]
    with trio.fail_after(STUCK_SECONDS):
        async with (
            upstream(frames=frames, agents=agents) as phonic,
            exporting(following(phonic.url, *frames)) as url,
        ):
            page = await scrape_until(
                http,
                url,
                lambda page: (
                    page.total("phonic_conversations_total") == len(frames)
                    and len(page.samples("phonic_agent_info")) >= 100
                ),
            )
            exposed = await scrape(http, url, OPENMETRICS)
    example_is_exact(page, 1)
    assert page.total("phonic_turns_total") == 3 * len(frames)
    assert page.values_of("phonic_turns_total", "agent") == exposed.values_of("phonic_turns_total", "agent")
    assert len(page.values_of("phonic_turns_total", "agent")) <= 101
    shown = page.values_of("phonic_conversation_live_info", "agent")
    assert {'a "quoted" name', "two\nlines", "back\\slash", "Zoë 客服 🦊\u2028", "x" * 200} <= shown


@pytest.mark.parametrize(
    "timing",
    ["NaN", "1e999", "-Infinity", "-1", "600001", '"450"', "true", "[450]", '{"ms":450}', "1" + "0" * 400],
)
async def test_impossible_timing_is_rejected_and_the_rest_of_the_turn_counts(
    http: httpx.AsyncClient, timing: str
) -> None:
    bad = updated(live_object("conv_bad", agent={"id": "agent_bad", "name": "bad"})).replace(
        '"model_generation_time": 450', f'"model_generation_time": {timing}'
    )
    frames: dict[str, list[str | bytes]] = {"conv_bad": [bad], EXAMPLE: [updated(live_object())]}
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames=frames) as phonic, exporting(following(phonic.url, *frames)) as url:
            page = await scrape_until(http, url, lambda page: page.total("phonic_turns_total") == 6)
    assert page.total("phonic_exporter_rejected_values_total", field="model_generation_time") == 1
    assert page.total("phonic_exporter_rejected_values_total") == 1
    assert page.total("phonic_turn_model_generation_seconds_count", agent="bad") == 1
    assert page.total("phonic_turn_model_generation_seconds_sum", agent="bad") == 0.38
    assert page.total("phonic_turn_first_audio_seconds_count", agent="bad") == 2
    example_is_exact(page, 1)


def large_object() -> Json:
    """Return a live object of about 3 MB: 1,500 turns with 2 KB of text each."""
    whole = live_object("conv_large", agent={"id": "agent_large", "name": "large"})
    item = {**whole["items"][0], "text": "word " * 400}
    whole["items"] = [{**item, "id": f"conv_large-{at}", "item_idx": at} for at in range(1500)]
    return whole


async def test_snapshot_of_megabytes_counts_like_any_other(http: httpx.AsyncClient) -> None:
    large = updated(large_object())
    assert len(large) > 3_000_000
    frames: dict[str, list[str | bytes]] = {"conv_large": [large, large], EXAMPLE: [updated(live_object())]}
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames=frames) as phonic, exporting(following(phonic.url, *frames)) as url:
            page = await scrape_until(
                http,
                url,
                lambda page: (
                    page.total("phonic_turns_total") == 1503 and page.total("phonic_exporter_updates_total") == 3
                ),
            )
    assert page.total("phonic_turn_first_audio_seconds_count", agent="large") == 1500
    assert page.total("phonic_exporter_feed_errors_total") == 0
    example_is_exact(page, 1)


async def test_invalid_messages_between_snapshots_are_only_counted(http: httpx.AsyncClient) -> None:
    whole = live_object()
    noise: dict[str, list[str | bytes]] = {
        "not_json": ["", "not json", updated(whole)[:-100], b"\xff\xfe"],
        "wrong_shape": ["[]", "null", "7", '{"type":42}', '{"conversation":{}}', '"conversation-updated"'],
        "wrong_conversation": [updated({**whole, "id": "conv_another"})],
    }
    odd: list[Json] = [
        {},
        {"items": None, "agent": 7, "started_at": [], "duration_ms": "long"},
        {"items": [None, 7, "turn", [], {}]},
        {"items": {"0": whole["items"][0]}},
    ]
    frames = [updated(whole), *(each for some in noise.values() for each in some)]
    frames += [
        json.dumps({"type": "conversation-updated", "conversation": {"id": EXAMPLE, **each}}) for each in odd
    ]
    frames += [json.dumps({"type": "conversation-mood", "mood": "fine"}), updated(whole)]
    with trio.fail_after(STUCK_SECONDS):
        async with (
            upstream(frames={EXAMPLE: apart(*frames)}) as phonic,
            exporting(following(phonic.url, EXAMPLE)) as url,
        ):
            page = await scrape_until(
                http, url, lambda page: page.total("phonic_exporter_messages_total", message="other") == 1
            )
    counted = {reason: page.total("phonic_exporter_invalid_messages_total", reason=reason) for reason in noise}
    assert counted == {reason: len(some) for reason, some in noise.items()}
    assert page.total("phonic_exporter_watcher_crashes_total") == 0
    assert page.total("phonic_exporter_feed_errors_total") == 0
    assert page.total("phonic_turn_first_audio_seconds_sum") == 1.045
