"""Edge: opens a tunnel through an HTTP proxy (CONNECT).

Every failure before the tunnel is open counts as the proxy's (`FeedError.PROXY`), but for a host that is no valid
name.
"""

import re
import ssl
from typing import Final

import trio

from ...enums import FeedError
from ..proxies import Proxy
from .errors import FeedLost

LARGEST_ANSWER: Final = 16 * 1024  # bytes of the head of an answer to CONNECT
_ACCEPTED = re.compile(rb"HTTP/1\.[01] 2[0-9]{2}[ \r\n]")
_HEAD_END = re.compile(rb"\n\r?\n")
_HEAD_END_LENGTH = 3


async def open_tunnel(
    proxy: Proxy, stream: trio.abc.Stream, host: str, port: int, *, tls: ssl.SSLContext | None
) -> trio.abc.Stream:
    """Turn ``stream``, which is connected to the proxy, into a stream to ``host``.

    ``tls``: the context for a proxy that is reached over TLS. The caller sets a deadline and closes ``stream``.

    Raises: `FeedLost` with ``proxy``, or ``dns`` for a host that is no valid name.
    """
    try:
        if tls is not None:
            secure = trio.SSLStream(stream, tls, server_hostname=proxy.host, https_compatible=True)
            await secure.do_handshake()
            stream = secure
        await stream.send_all(_request(proxy, host, port))
        answer = await _answer(stream)
    except UnicodeError:  # no valid domain name
        raise FeedLost(FeedError.DNS) from None
    except trio.BrokenResourceError:
        raise FeedLost(FeedError.PROXY) from None
    if not _ACCEPTED.match(answer):
        raise FeedLost(FeedError.PROXY)
    return stream


def _request(proxy: Proxy, host: str, port: int) -> bytes:
    name = host.encode("idna" if not host.isascii() else "ascii").decode()
    place = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    headers = {"Host": place, **proxy.headers}
    lines = (f"CONNECT {place} HTTP/1.1", *(f"{key}: {value}" for key, value in headers.items()), "", "")
    return "\r\n".join(lines).encode()


async def _answer(stream: trio.abc.Stream) -> bytes:
    """Read the head of the answer. Nothing may follow a success: in the tunnel the client speaks first."""
    head = b""
    while len(head) <= LARGEST_ANSWER:
        data = await stream.receive_some(LARGEST_ANSWER)
        if not data:
            break
        seen = max(0, len(head) - _HEAD_END_LENGTH)
        head += data
        if found := _HEAD_END.search(head, seen):
            if found.end() < len(head) and _ACCEPTED.match(head):
                break
            return head
    raise FeedLost(FeedError.PROXY)
