"""Peers of the live feed on loopback: a server that follows the protocol, and one that sends raw bytes."""

import base64
import contextlib
import hashlib
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

Answer = Callable[[WebSocketRequest], Awaitable[None]]
Talk = Callable[[trio.SocketStream], Awaitable[None]]
Step = str | bytes | int | trio.Event | Callable[[], Awaitable[Any]]


@attrs.frozen
class Asked:
    """One handshake as received by the server."""

    conversation_id: str
    query: str
    headers: dict[str, str]


@attrs.frozen
class LiveServer:
    url: str
    asked: list[Asked]


@contextlib.asynccontextmanager
async def live_server(
    *answers: Answer, by_id: dict[str, list[Answer]] | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[LiveServer]:
    """Serve the live socket until the block ends.

    Each connection gets the next answer of its conversation in ``by_id``, or of ``answers``; the last one repeats.
    """
    asked: list[Asked] = []
    scripts = {key: list(script) for key, script in (by_id or {}).items()}
    others = list(answers)

    async def handle(request: WebSocketRequest) -> None:
        url = urlsplit(request.path)
        before, conversation_id, after = url.path.rpartition("/live/ws")[0].rpartition("/")
        assert before.endswith("/v1/conversations")
        assert after
        conversation_id = unquote(after)
        headers = {name.decode().lower(): value.decode() for name, value in request.headers}
        asked.append(Asked(conversation_id, url.query, headers))
        script = scripts.get(conversation_id, others)
        with contextlib.suppress(ConnectionClosed):
            await (script.pop(0) if len(script) > 1 else script[0])(request)

    async with trio.open_nursery() as nursery:
        # A short disconnect timeout, so that a handler ends even if the client does not close properly.
        server = await nursery.start(partial(serve_websocket, handle, "127.0.0.1", 0, tls, disconnect_timeout=0.2))
        yield LiveServer(f"http{'s' if tls else ''}://127.0.0.1:{server.port}", asked)
        nursery.cancel_scope.cancel()


def plays(*steps: Step) -> Answer:
    """Accept, then run the steps: send text and bytes, close with a code, or wait for events and calls.

    After the last step the socket stays open until the client closes it.
    """

    async def answer(request: WebSocketRequest) -> None:
        connection = await request.accept()
        for step in steps:
            match step:
                case str() | bytes():
                    await connection.send_message(step)
                case int():
                    await connection.aclose(step, "sorry, call +49 171 5550101")
                case trio.Event():
                    await step.wait()
                case _:
                    await step()
        while True:
            await connection.get_message()

    return answer


def refuses(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Answer:
    """Answer the handshake with an HTTP status."""

    async def answer(request: WebSocketRequest) -> None:
        given = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        await request.reject(status, extra_headers=given, body=body or None)

    return answer


@contextlib.asynccontextmanager
async def rude_server(talk: Talk) -> AsyncIterator[str]:
    """Accept TCP connections and run ``talk`` on each; close them when it returns."""

    async def handle(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await talk(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def request(stream: trio.SocketStream) -> bytes:
    """Read the whole handshake of a client."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += await stream.receive_some()
    return received


async def upgrade(stream: trio.SocketStream, received: bytes = b"") -> None:
    """Accept the WebSocket by hand; ``received`` is the handshake if it was read already."""
    await stream.send_all(accepting(received or await request(stream)))


def accepting(received: bytes) -> bytes:
    """Return the response to a handshake."""
    [key] = [line.split(b": ")[1] for line in received.split(b"\r\n") if b"sec-websocket-key" in line.lower()]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())  # noqa: S324
    lines = b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"
    return b"\r\n".join((*lines, b"Sec-WebSocket-Accept: " + accept, b"", b""))


async def reset(stream: trio.SocketStream) -> None:
    """Close with a TCP reset."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)


def frame(payload: bytes, opcode: int = 1, *, final: bool = True) -> bytes:
    """Return an unmasked WebSocket frame; opcodes: 0 continuation, 1 text, 2 binary, 8 close, 9 ping, 10 pong."""
    return header(len(payload), opcode, final=final) + payload


def header(size: int, opcode: int = 1, *, final: bool = True) -> bytes:
    """Return the header of a frame with a payload of ``size`` bytes."""
    first = bytes([final << 7 | opcode])
    if size < 126:
        return first + bytes([size])
    return first + (b"\x7e" + struct.pack("!H", size) if size < 1 << 16 else b"\x7f" + struct.pack("!Q", size))


def close_frame(code: int) -> bytes:
    return frame(struct.pack("!H", code), 8)


# Below the ports that the kernel gives to outgoing connections.
_FIXED_PORTS = (15_000, 30_000)


def free_port() -> int:
    """Return a port for a server that has to listen on the same one again. No client takes it meanwhile."""
    while True:
        port = random.randrange(*_FIXED_PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextlib.contextmanager
def refused_url() -> Iterator[str]:
    """Yield an address that refuses connections: bound, so that no other process can listen on it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
