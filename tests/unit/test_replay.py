"""When the conversation of a recording is live, and what is played of odd recordings, with a virtual clock."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import pytest
import trio
from starlette.applications import Starlette

from exporter.recording.file import Entry, Kind, Recording
from exporter.simulator.access import Access
from exporter.simulator.replay import Replay

START = 1_780_000_000.0  # 2026-05-28T20:26:40Z
SNAPSHOT: dict[str, Any] = {
    "type": "conversation-updated",
    "conversation": {"id": "conv_a", "started_at": "2026-01-01T00:00:00Z", "items": []},
}
RECORDING = Recording(
    conversation_id="conv_a",
    entries=(
        Entry(at=0.0, kind=Kind.OPENED),
        Entry(at=0.0, kind=Kind.FRAME, body=json.dumps(SNAPSHOT)),
        Entry(at=2.0, kind=Kind.CLOSED, code=1000),
    ),
)


@asynccontextmanager
async def replaying(
    clock: trio.testing.MockClock, *frames: str, records: Sequence[str] = ()
) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the key of a replay of `RECORDING` with these frames instead of its only one.

    ``records``: replies of REST, one a second after the end at 2 s.
    """
    opened, _, closed = RECORDING.entries
    entries = (
        opened,
        *(Entry(at=0.0, kind=Kind.FRAME, body=body) for body in frames),
        closed,
        *(Entry(at=at, kind=Kind.RECORD, code=200, body=body) for at, body in enumerate(records, 3)),
    )
    replay = Replay(
        attrs.evolve(RECORDING, entries=entries), Access("ph_key"), now=lambda: START + clock.current_time()
    )
    app = httpx.ASGITransport(app=Starlette(routes=replay.routes()))
    headers = {"Authorization": "Bearer ph_key"}
    async with httpx.AsyncClient(transport=app, base_url="http://phonic", headers=headers) as http:
        yield http


def snapshot(**changes: Any) -> str:
    return json.dumps({**SNAPSHOT, "conversation": {**SNAPSHOT["conversation"], **changes}})


@pytest.mark.parametrize(
    "odd",
    [
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "2026-13-45T25:61:61Z",
        "2026-01-01T00:00:00+99:99",
    ],
)
async def test_a_time_that_cannot_be_moved_stays_as_it_is(
    odd: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with replaying(autojump_clock, snapshot(), snapshot(ended_at=odd)) as http:
        row = (await http.get("/v1/conversations/conv_a")).json()["conversation"]
    assert (row["started_at"], row["ended_at"]) == ("2026-05-28T20:26:40Z", odd)


async def test_a_time_that_would_leave_the_calendar_stays(autojump_clock: trio.testing.MockClock) -> None:
    late = "9998-01-01T00:00:00Z"
    async with replaying(
        autojump_clock, snapshot(started_at="1000-01-01T00:00:00Z"), snapshot(ended_at=late)
    ) as http:
        assert (await http.get("/v1/conversations/conv_a")).json()["conversation"]["ended_at"] == late


async def test_times_that_stand_for_none_are_not_the_start(autojump_clock: trio.testing.MockClock) -> None:
    async with replaying(autojump_clock, snapshot(ended_at="9999-12-31T23:59:59Z")) as http:
        row = (await http.get("/v1/conversations/conv_a")).json()["conversation"]
    assert row["started_at"] == "2026-05-28T20:26:40Z"


async def test_a_deeply_nested_frame_is_no_snapshot(autojump_clock: trio.testing.MockClock) -> None:
    async with replaying(autojump_clock, "[" * 100_000, snapshot()) as http:
        assert (await http.get("/v1/conversations/conv_a")).json()["conversation"]["id"] == "conv_a"


NO_RECORDS = ["", '{"conversation": {"id": "con', "<html>", "[]", "null", '{"conversation": []}', "[" * 100_000]


@pytest.mark.parametrize("body", NO_RECORDS)
async def test_a_reply_that_is_no_record_is_played_as_it_is_and_is_in_no_list(
    body: str, autojump_clock: trio.testing.MockClock
) -> None:
    record = {"id": "conv_a", "text": "\ud835", "project": {"id": "proj_a", "name": "shop"}}
    records = [body, json.dumps({"conversation": record}), body]
    async with replaying(autojump_clock, snapshot(), records=records) as http:

        async def listed() -> Any:
            reply = await http.get("/v1/conversations")
            return reply.status_code, reply.json()["conversations"][0]

        await http.get("/v1/projects")  # begins
        await trio.sleep(3.5)
        status, row = await listed()
        assert (status, row["id"], row["project"]["name"]) == (200, "conv_a", "shop")
        assert (await http.get("/v1/conversations/conv_a")).text == body
        await trio.sleep(2)
        assert await listed() == (200, record)
        assert (await http.get("/v1/conversations/conv_a")).text == body
        assert (await http.get("/v1/projects")).json()["projects"][0]["name"] == "shop"


async def test_a_conversation_begins_with_the_first_request_that_has_the_key(
    autojump_clock: trio.testing.MockClock,
) -> None:
    replay = Replay(RECORDING, Access("ph_key"), now=lambda: START + autojump_clock.current_time())
    app = httpx.ASGITransport(app=Starlette(routes=replay.routes()))
    async with httpx.AsyncClient(transport=app, base_url="http://phonic") as http:

        async def row(key: str) -> httpx.Response:
            return await http.get("/v1/conversations/conv_a", headers={"Authorization": f"Bearer {key}"})

        await trio.sleep(100)
        assert (await row("wrong")).status_code == 401
        await trio.sleep(100)
        begun = (await row("ph_key")).json()["conversation"]
        assert begun["started_at"] == "2026-05-28T20:30:00Z"
        assert begun["ended_at"] is None
        await trio.sleep(1.9)
        assert (await row("ph_key")).json()["conversation"]["ended_at"] is None
        await trio.sleep(0.2)
        ended = (await row("ph_key")).json()["conversation"]
        assert ended["started_at"] == begun["started_at"]
        assert ended["ended_at"] is not None
