"""Edge: the live WebSocket of the simulated Phonic (API 1).

Only the server sends: the whole conversation after the handshake and again after every change, then the end. The
faults of `exporter.simulator.faults` are applied here.
"""

from bisect import bisect_right
from contextlib import suppress
from typing import Any, Final

import msgspec
import trio
from starlette.websockets import WebSocket, WebSocketDisconnect

from .access import Access, bearer
from .faults import REJECTIONS, chosen, disturbed, strength
from .playback import Playback, Socket
from .replies import failure
from .scenario import Conversation, change_times_ms
from .views import LiveView

_SAVED: Final = {"type": "conversation-saved"}
_ENDED: Final = {"type": "conversation-ended"}
# Messages at the end of a conversation: Phonic's documentation shows the first kind, newer examples the second.
_ENDINGS: Final = ((_ENDED,), (_ENDED,), (_ENDED,), (_ENDED,), (_SAVED,), (_ENDED, _SAVED))
_CUTS: Final = (None, None, 1001, 1011, 1012)
_FOREVER: Final = float("inf")
_SLOW_OPEN_S: Final = 1.0


class LiveEndpoint:
    """``/v1/conversations/{id}/live/ws``.

    ``refuse_ended``: answer for an ended conversation with an error, not with ``conversation-saved``.
    """

    def __init__(self, playback: Playback, access: Access, *, refuse_ended: bool) -> None:
        self._playback = playback
        self._access = access
        self._refuse_ended = refuse_ended

    async def handle(self, websocket: WebSocket) -> None:
        """Serve one socket from its handshake until either side closes."""
        playback, access = self._playback, self._access
        identity = websocket.path_params["conversation_id"]
        credential, query = (
            bearer(websocket.headers.get("authorization")),
            websocket.query_params.get("session_token"),
        )
        token = access.token(query)
        if query is not None and "authorization" in websocket.headers:
            return await _refuse(websocket, {"error": {"message": "More than one authentication mechanism"}})
        if not access.is_api_key(credential) and token is None:
            return await _refuse(websocket, {"error": {"message": "Invalid token"}})
        if token is not None and token.conversations is not None and identity not in token.conversations:
            return await _refuse(websocket, {"message": "Unauthorized access to conversation"})
        conversation = playback.conversation(identity)
        if conversation is None:
            return await websocket.send_denial_response(failure(404, "Conversation not found"))
        socket = playback.connect(conversation)
        status = self._refusal(socket)
        if status is not None:
            playback.defer_end(conversation)
            playback.sent[f"refused-{status}"] += 1
            return await websocket.send_denial_response(failure(status, "Try again later"))
        if playback.over_ms(conversation) is not None:
            if self._refuse_ended:
                return await _refuse(websocket, {"error": {"message": "Conversation is not live"}})
            await websocket.accept()
            await self._send(websocket, _SAVED)
            return await websocket.close(1000)
        if socket.draw < strength(playback.faults, "slow-open", playback.now_ms()):
            await trio.sleep(_SLOW_OPEN_S)
        await websocket.accept()
        with playback.attached(socket):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch_for_close, websocket, nursery.cancel_scope)
                await self._play(websocket, socket, reduced=token is not None)
                nursery.cancel_scope.cancel()
        return None

    def _refusal(self, socket: Socket) -> int | None:
        """Return the status with which a fault refuses the handshake, or None."""
        faults, now_ms = self._playback.faults, self._playback.now_ms()
        if socket.draw < strength(faults, "outage", now_ms):
            return 503
        rejection = chosen(faults, REJECTIONS, now_ms, socket.rng)
        return None if rejection is None else int(rejection.removeprefix("reject-"))

    async def _play(self, websocket: WebSocket, socket: Socket, *, reduced: bool) -> None:
        """Send updates until the conversation is over or a fault drops the socket."""
        playback, conversation, rng = self._playback, socket.conversation, socket.rng
        view = LiveView(conversation, playback.workspace, playback.epoch_ms)
        times = change_times_ms(conversation)
        shown, previous = 0, None
        while True:
            now_ms = playback.now_ms()
            if playback.cut(socket):
                return await self._cut(websocket, socket)
            silent = socket.draw < strength(playback.faults, "silence", now_ms)
            position = bisect_right(times, now_ms)
            if silent:
                playback.defer_end(conversation)
            elif position > shown:
                last = position == len(times)
                frame = _update(view.at(now_ms, reduced=reduced))
                frames = list(disturbed(frame, previous, playback.faults, now_ms, rng, last=last))
                playback.sent["gap"] += all(what == "garbage" for what, _ in frames)
                for what, data in frames:
                    playback.sent[what] += 1
                    await websocket.send_text(data.decode())
                if shown == 0:
                    await self._send(websocket, _audio(websocket, conversation))
                shown, previous = position, frame
                if last:
                    playback.mark_delivered(conversation)
                elif rng.random() < strength(playback.faults, "drop", now_ms):
                    return await self._cut(websocket, socket)
            over_ms = playback.over_ms(conversation)
            if over_ms is not None and not silent:
                frame = _update(view.at(max(now_ms, conversation.ended_ms), over_ms=over_ms, reduced=reduced))
                playback.sent["conversation-updated"] += 1
                await websocket.send_text(frame.decode())
                for message in rng.choice(_ENDINGS):
                    await self._send(websocket, message)
                return await websocket.close(1000)
            await playback.wait(times[position] if position < len(times) else _FOREVER)

    async def _cut(self, websocket: WebSocket, socket: Socket) -> None:
        """Drop the socket, with or without a close frame."""
        self._playback.defer_end(socket.conversation)
        self._playback.sent["cut"] += 1
        code = socket.rng.choice(_CUTS)
        if code is not None:
            return await websocket.close(code)
        return await lose(websocket)

    async def _send(self, websocket: WebSocket, message: dict[str, Any]) -> None:
        self._playback.sent[message["type"]] += 1
        await websocket.send_text(msgspec.json.encode(message).decode())


async def lose(websocket: WebSocket) -> None:
    """Close the connection without a close frame, as if it were lost."""
    # ASGI cannot express this, but a close code that is not a number makes hypercorn do so.
    with suppress(ValueError):
        await websocket.send({"type": "websocket.close", "code": "none"})


async def _refuse(websocket: WebSocket, problem: dict[str, Any]) -> None:
    """Send an error frame in one of its two shapes, then close with 1008."""
    await websocket.accept()
    await websocket.send_text(msgspec.json.encode({"type": "error", **problem}).decode())
    await websocket.close(1008)


async def _watch_for_close(websocket: WebSocket, scope: trio.CancelScope) -> None:
    """Cancel ``scope`` when the observer disconnects. Ignores what observers send."""
    with suppress(WebSocketDisconnect):
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                break
    scope.cancel()


def _update(conversation: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"type": "conversation-updated", "conversation": conversation})


def _audio(websocket: WebSocket, conversation: Conversation) -> dict[str, Any]:
    host = websocket.headers.get("host", "localhost")
    return {
        "type": "conversation-audio",
        "url": f"http://{host}/v1/conversations/{conversation.id}/live/audio.m3u8",
    }
