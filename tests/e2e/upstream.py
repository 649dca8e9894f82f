"""A fake Phonic whose responses the test sets: REST and live sockets on one port of loopback."""

import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import hypercorn.trio
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

Json = dict[str, Any]

PAYLOADS = Path(__file__).parents[1] / "data" / "payloads"
ENDED = '{"type":"conversation-ended"}'
AUDIO = '{"type":"conversation-audio","url":"https://example.com/live.m3u8"}'
EXAMPLE: str = json.loads((PAYLOADS / "live_conversation_updated.co.json").read_text())["conversation"]["id"]
PROJECT: Json = {
    "id": "proj_ad0334f1-2487-4155-9df3-abd8129b29ad",
    "name": "customer-support",
    "default_agent": None,
    "active_conversations": 0,
    "max_active_conversations": 50,
}


def live_object(conversation_id: str = EXAMPLE, **changes: Any) -> Json:
    """Return the documented example of a live conversation, with this id and these changes."""
    example: Json = json.loads((PAYLOADS / "live_conversation_updated.co.json").read_text())["conversation"]
    return {**example, "id": conversation_id, **changes}


def record(conversation_id: str = EXAMPLE, **changes: Any) -> Json:
    """Return the documented example of a REST record, with this id and these changes."""
    example: Json = json.loads((PAYLOADS / "rest_conversation_get.json").read_text())["conversation"]
    return {**example, "id": conversation_id, **changes}


def updated(conversation: Json) -> str:
    return json.dumps({"type": "conversation-updated", "conversation": conversation})


def apart(*frames: str | bytes) -> list[str | bytes]:
    """Return the frames with another message after each: of consecutive snapshots only the newest is evaluated."""
    return [each for frame in frames for each in (frame, AUDIO)]


@attrs.define(eq=False)
class Upstream:
    """The data that is served, which the test may change at any time.

    ``frames`` are the frames of live sockets by conversation; a new one is sent at once to all connected clients.
    ``records`` are the REST objects by id. ``keys`` and session ``tokens`` are the accepted credentials.
    ``trouble`` maps the end of a path to the status and body of its responses, for handshakes too.
    """

    url: str = ""
    keys: set[str] = attrs.field(factory=lambda: {"ph_test"})
    projects: list[Json] = attrs.field(factory=lambda: [PROJECT])
    agents: list[Json] = attrs.field(factory=list)
    tokens: set[str] = attrs.field(factory=set)
    records: dict[str, Json] = attrs.field(factory=dict)
    frames: dict[str, list[str | bytes]] = attrs.field(factory=dict)
    trouble: dict[str, tuple[int, str]] = attrs.field(factory=dict)
    _grown: trio.Event = attrs.field(factory=trio.Event)

    def say(self, conversation_id: str, *frames: str | bytes) -> None:
        """Send frames on the live sockets of a conversation, now and to clients that connect later."""
        self.frames.setdefault(conversation_id, []).extend(frames)
        self._grown.set()
        self._grown = trio.Event()

    def routes(self) -> Iterator[Route | WebSocketRoute]:
        yield Route("/v1/projects", self._answer(lambda _: {"projects": self.projects}))
        yield Route(
            "/v1/workspace",
            self._answer(lambda _: {"active_conversations": len(self.records), "max_active_conversations": 99}),
        )
        yield Route("/v1/agents", self._answer(lambda _: {"agents": self.agents}))
        yield Route("/v1/conversations", self._answer(self._list))
        yield Route("/v1/conversations/{conversation_id}", self._answer(self._record))
        yield WebSocketRoute("/v1/conversations/{conversation_id}/live/ws", self._live)

    def _list(self, _: Request) -> Json:
        return {
            "conversations": list(self.records.values()),
            "pagination": {"prev_cursor": None, "next_cursor": None},
        }

    def _record(self, request: Request) -> Json | None:
        record = self.records.get(request.path_params["conversation_id"])
        return None if record is None else {"conversation": record}

    def _answer(self, body_of: Any) -> Any:
        async def answer(request: Request) -> Response:
            refusal = self._refusal(request)
            if refusal is not None:
                return refusal
            body = body_of(request)
            return JSONResponse(body) if body is not None else PlainTextResponse("Not Found", 404)

        return answer

    def _is_known(self, asked: HTTPConnection) -> bool:
        authorization, token = asked.headers.get("authorization"), asked.query_params.get("session_token")
        if authorization is None:
            return token in self.tokens
        return token is None and authorization in {f"Bearer {key}" for key in self.keys}

    def _refusal(self, asked: HTTPConnection) -> Response | None:
        for ending, (status, body) in self.trouble.items():
            if asked.url.path.endswith(ending):
                return PlainTextResponse(body, status)
        if not self._is_known(asked):
            return PlainTextResponse("Unauthorized", 401)
        return None

    async def _live(self, websocket: WebSocket) -> None:
        refusal = self._refusal(websocket)
        if refusal is not None:
            await websocket.send_denial_response(refusal)
            return
        await websocket.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_gone, websocket, nursery.cancel_scope)
            await self._tell(websocket)

    async def _tell(self, websocket: WebSocket) -> None:
        said = 0
        while True:
            grown = self._grown
            frames = self.frames.get(websocket.path_params["conversation_id"], [])
            for frame in frames[said:]:
                if isinstance(frame, bytes):
                    await websocket.send_bytes(frame)
                else:
                    await websocket.send_text(frame)
            said = len(frames)
            await grown.wait()


async def _until_gone(websocket: WebSocket, scope: trio.CancelScope) -> None:
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await websocket.receive_text()
    scope.cancel()


@contextlib.asynccontextmanager
async def upstream(**content: Any) -> AsyncIterator[Upstream]:
    """Serve until the block ends; ``content`` sets fields of `Upstream`."""
    served = Upstream(**content)
    listener = socket.create_server(("127.0.0.1", 0))
    served.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = logging.getLogger("tests.upstream")
    config.websocket_max_message_size = 64 * 1024 * 1024
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hypercorn.trio.serve, Starlette(routes=list(served.routes())), config)  # type: ignore[arg-type]
        yield served
        nursery.cancel_scope.cancel()
