"""Pure: the minimum of HTTP and WebSocket (RFC 6455) for a server with little CPU cost."""

import struct
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha1
from urllib.parse import parse_qsl, urlsplit

import attrs

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@attrs.frozen(kw_only=True)
class Request:
    """The head of a GET request; header names in lower case."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]

    @property
    def is_upgrade(self) -> bool:
        return self.headers.get("upgrade", "").lower() == "websocket"


def read_request(head: bytes) -> Request:
    """Parse a request up to and including the blank line."""
    first, *lines = head.decode("latin-1").split("\r\n")
    target = urlsplit(first.split(" ")[1])
    headers = (line.partition(":") for line in lines if line)
    return Request(
        path=target.path,
        query=dict(parse_qsl(target.query)),
        headers={name.strip().lower(): value.strip() for name, _, value in headers},
    )


def accepting(request: Request) -> bytes:
    """Return the response that accepts a WebSocket."""
    key = request.headers["sec-websocket-key"].encode()
    accept = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def answering(body: bytes | None) -> bytes:
    """Return a JSON response, or a 404 for None."""
    status = "404 Not Found" if body is None else "200 OK"
    body = body or b'{"error":{"message":"not found"}}'
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return a message as one unmasked frame, as a server sends it."""
    size = len(payload)
    if size < 126:
        length = bytes((size,))
    elif size < 1 << 16:
        length = b"\x7e" + struct.pack("!H", size)
    else:
        length = b"\x7f" + struct.pack("!Q", size)
    return bytes((0x80 | opcode,)) + length + payload


def take_control_frame(received: bytearray) -> tuple[int, bytes] | None:
    """Remove the first short masked frame from ``received``; return (opcode, payload), or None if incomplete."""
    if len(received) < 6:
        return None
    end = 6 + (received[1] & 0x7F)
    if len(received) < end:
        return None
    opcode, mask = received[0] & 0x0F, received[2:6]
    payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(received[6:end]))
    del received[:end]
    return opcode, payload
