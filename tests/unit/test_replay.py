"""When the conversation of a recording is live, with a virtual clock."""

import json

import httpx
import trio
from starlette.applications import Starlette

from exporter.recording.file import Entry, Kind, Recording
from exporter.simulator.access import Access
from exporter.simulator.replay import Replay

START = 1_780_000_000.0  # 2026-05-28T20:26:40Z
SNAPSHOT = {
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
