"""Secrets (callers' words, personal data, credentials) planted in every input must not leave the exporter."""

import json
import signal
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.e2e.pages import OPENMETRICS, TEXT, TEXT_UTF8, Page, scrape, scrape_until
from tests.e2e.programs import ANY_PORT, STUCK_SECONDS, program
from tests.e2e.upstream import ENDED, EXAMPLE, Json, apart, live_object, record, updated, upstream

pytestmark = pytest.mark.e2e

SECRET = "Zq-secret"
PHONE = "+49171555"
KEY = f"ph_{SECRET}-key"
DEBUG = (f"--web.listen-address={ANY_PORT}", "--watch.interval=0.1", "--state.interval=0.05", "--log.level=debug")

# Fields that the exporter shows; a secret replaces every other text.
SHOWN = {
    "id",
    "item_idx",
    "role",
    "started_at",
    "ended_at",
    "origin",
    "project_id",
    "call_provider",
    "default_language",
    "model",
    "ended_by",
    "end_reason",
    "agent",
    "project",
    "timings",
    "tool_call_ids",
    "tool",
}
_number = count(100)


def planted(value: Any) -> Any:
    """Return ``value`` with a secret in place of every text and every empty or missing value."""
    if isinstance(value, dict):
        return {key: each if key in SHOWN else planted(each) for key, each in value.items()}
    if isinstance(value, list) and value:
        return [planted(each) for each in value]
    if isinstance(value, bool | int | float):
        return value
    return f"{SECRET}-{next(_number)} {PHONE}{next(_number)}"


def is_clean(text: str | bytes) -> bool:
    data = (text.encode() if isinstance(text, str) else text).lower()
    return SECRET.lower().encode() not in data and PHONE[1:].encode() not in data


def secret_frames() -> list[str | bytes]:
    """Return frames of every kind, valid and invalid, with secrets."""
    live = planted(live_object())
    live["template_variables"] = {"name": planted("")}
    odd = {**live, "items": [{**live["items"][0], "timings": {"model_generation_time": planted("")}}, planted("")]}
    strange = {**live, "duration_ms": planted(""), "started_at": planted(""), "is_test": planted("")}
    frames = [
        updated(live),
        planted(""),
        json.dumps(planted("")),
        planted("").encode(),
        f'{{"type":"conversation-updated","conversation":"{planted("")}',
        json.dumps({"type": "conversation-updated", "conversation": planted("")}),
        json.dumps({"type": planted(""), "text": planted("")}),
        json.dumps({"type": "conversation-audio", "url": planted("")}),
        updated({**live, "id": f"conv_{SECRET}"}),
        updated(odd),
        updated(strange),
        updated({**live, "end_reason": planted("")}),
        updated(live),
    ]
    return apart(*frames)


def unknown_words() -> str:
    """Return a conversation with unknown words in every enumeration."""
    live = planted(live_object("conv_b"))
    return updated({**live, "origin": planted(""), "items": [{**live["items"][0], "role": planted("")}]})


def has_read_everything(page: Page) -> bool:
    return (
        page.total("phonic_exporter_messages_total", message="conversation-audio") == 13 + 1
        and page.total("phonic_exporter_invalid_messages_total") == 6
        and page.total("phonic_exporter_rejected_values_total") == 2
        and page.total("phonic_exporter_unknown_words_total") == 4  # intelligence_level in both conversations
    )


def secret_record() -> Json:
    secret: Json = planted(record())
    call = secret["items"][1]["tool_calls"][0]
    call["tool"]["id"] = planted("")
    call["endpoint_headers"] = {"Authorization": planted("")}
    call["response_status_code"] = 502
    return {**secret, "metadata": {"note": planted("")}}


def pages(url: str) -> list[tuple[str, dict[str, str]]]:
    formats = [(f"{url}/metrics", {"Accept": accept}) for accept in (TEXT, TEXT_UTF8, OPENMETRICS)]
    paths = ("/", "/api/v1/conversations", "/-/ready", "/-/healthy", "/nowhere")
    return formats + [(f"{url}{path}", {}) for path in paths]


async def test_no_text_of_a_conversation_leaves_the_exporter(tmp_path: Path, http: httpx.AsyncClient) -> None:
    state = tmp_path / "state.db"
    seen: list[str | bytes] = []

    async def look(url: str) -> None:
        for page, headers in pages(url):
            seen.append((await http.get(page, headers=headers)).text)
        seen.extend(file.read_bytes() for file in files_in(tmp_path))

    with trio.fail_after(STUCK_SECONDS):
        async with upstream(keys={KEY}, frames={EXAMPLE: secret_frames(), "conv_b": [unknown_words()]}) as phonic:
            watched = (f"--watch.conversation={EXAMPLE}", "--watch.conversation=conv_b")
            watch = ("--phonic.base-url", phonic.url, *watched)
            async with program(*DEBUG, *watch, f"--state.file={state}", PHONIC_API_KEY=KEY) as running:
                url = await running.url()
                await scrape_until(http, url, has_read_everything)
                at = (await scrape(http, url)).total(
                    "phonic_conversation_live_last_update_timestamp_seconds", conversation_id=EXAMPLE
                )
                written = "phonic_exporter_checkpoint_last_success_timestamp_seconds"
                await scrape_until(http, url, lambda page: page.total(written) > at + 0.1)
                await look(url)
                phonic.records[EXAMPLE] = secret_record()
                phonic.say(EXAMPLE, ENDED)
                await scrape_until(http, url, lambda page: page.total("phonic_tool_call_failures_total") == 1)
                await look(url)
                running.signal(signal.SIGTERM)
                assert await running.wait() == 0
    seen += [running.text, *(file.read_bytes() for file in files_in(tmp_path))]
    assert "phonic_turns_total" in str(seen[0])
    assert any(EXAMPLE.encode() in each for each in seen if isinstance(each, bytes))
    assert [each for each in seen if not is_clean(each)] == []


async def test_errors_are_logged_without_quoting_input(http: httpx.AsyncClient) -> None:
    trouble = {
        "/agents": (500, planted("")),
        "/workspace": (200, f"<html>{planted('')}</html>"),
        "conv_denied/live/ws": (403, planted("")),
        "conv_denied": (502, planted("")),
        "conv_gone/live/ws": (404, planted("")),
    }
    frames: dict[str, list[str | bytes]] = {
        "conv_error": [json.dumps({"type": "error", "error": {"message": f"Invalid token {planted('')}"}})],
        "conv_failing": [json.dumps({"type": "error", "message": planted("")})],
    }
    watched = [
        f"--watch.conversation={each}" for each in ("conv_denied", "conv_gone", "conv_error", "conv_failing")
    ]
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(keys={KEY}, trouble=trouble, frames=frames) as phonic:
            flags = ("--phonic.base-url", phonic.url, *watched, "--state.file=")
            async with program(*DEBUG, *flags, PHONIC_API_KEY=KEY) as running:
                url = await running.url()
                page = await scrape_until(
                    http,
                    url,
                    lambda page: (
                        page.total("phonic_exporter_feed_errors_total", reason="http_403") >= 1
                        and page.total("phonic_exporter_feed_errors_total", reason="http_404") >= 1
                        and page.total("phonic_exporter_feed_errors_total", reason="error_message") >= 2
                        and page.total("phonic_exporter_discovery_errors_total", reason="http_5xx") >= 2
                        and page.total("phonic_exporter_discovery_errors_total", reason="not_json") >= 1
                    ),
                )
                listed = (await http.get(f"{url}/api/v1/conversations")).text
    assert is_clean(page.text)
    assert is_clean(listed)
    assert is_clean(running.text)


async def test_crash_is_logged_by_place_without_values_and_others_continue(http: httpx.AsyncClient) -> None:
    sabotage = f"""\
from exporter.counting import derive
whole = derive.derive
def broken(progress, snapshot, **others):
    if snapshot.conversation.id == "conv_a":
        raise KeyError({planted("")!r})
    return whole(progress, snapshot, **others)
derive.derive = broken
"""
    frames = {each: [updated(planted(live_object(each)))] for each in ("conv_a", "conv_b")}
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(keys={KEY}, frames=frames) as phonic:
            flags = ("--phonic.base-url", phonic.url, "--watch.conversation=conv_a", "--watch.conversation=conv_b")
            async with program(*DEBUG, *flags, "--state.file=", sabotage=sabotage, PHONIC_API_KEY=KEY) as running:
                url = await running.url()
                page = await scrape_until(
                    http,
                    url,
                    lambda page: (
                        page.total("phonic_turns_total") == 3
                        and page.total("phonic_exporter_watcher_crashes_total") == 1
                    ),
                )
                line = await running.line("watcher crashed")
    assert "error=KeyError" in line
    assert "conversations.py" in line
    assert page.values_of("phonic_conversation_live_turns", "conversation_id") == {"conv_b"}
    assert is_clean(running.text)


async def test_session_token_is_sent_and_never_shown(tmp_path: Path, http: httpx.AsyncClient) -> None:
    token = tmp_path / "token"
    token.write_text(f"{KEY}\n")
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(keys={"another"}) as phonic:
            flags = ("--phonic.base-url", phonic.url, f"--phonic.session-token-file={token}")
            watch = ("--watch.conversation=conv_a", "--state.file=")
            async with program(*DEBUG, *flags, *watch) as running:
                url = await running.url()
                page = await scrape_until(
                    http, url, lambda page: page.total("phonic_exporter_feed_errors_total", reason="http_401") >= 1
                )
                await running.line("conversation refused")
        async with program("check-config", *flags, *watch) as checked:
            assert await checked.wait() == 0
    assert not page.samples("phonic_up")
    assert is_clean(page.text)
    assert is_clean(running.text)
    assert is_clean(checked.text)


def files_in(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if each.is_file()]
