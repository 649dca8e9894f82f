"""Edge: one live feed as it is on the wire: frames, pings, close codes, which the exporter's own client hides.

The exporter's client drops snapshots that a newer one replaces and answers pings in silence. Here every event is
reported as it comes, so that `exporter.diagnosis.seen` can tell what Phonic really sends.
"""

import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final
from urllib.parse import urlencode, urlsplit

import attrs
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from ..phonic.credentials import Credential
from ..phonic.live.tunnel import open_tunnel
from ..phonic.proxies import Proxy
from ..phonic.wire import segment

CONNECT_TIMEOUT: Final = 15.0
"""Seconds to connect, and to complete the handshake."""
LARGEST_MESSAGE: Final = 32 * 1024 * 1024
"""Characters or bytes; a larger message ends the feed."""
_RECEIVE: Final = 64 * 1024


@attrs.frozen
class Opened:
    """The server accepted the handshake."""

    at: float


@attrs.frozen
class Refused:
    """The server answered the handshake with an HTTP status."""

    at: float
    status: int


@attrs.frozen(kw_only=True)
class Received:
    """One message, in ``frames`` WebSocket frames of ``size`` in all; ``text`` is None for a binary one."""

    at: float
    text: str | None
    frames: int
    size: int


@attrs.frozen
class Pinged:
    """The server sent a ping."""

    at: float


@attrs.frozen
class Closed:
    """The connection ended: with the server's close code, or with None and why in a few words."""

    at: float
    code: int | None
    why: str = "cut off"


Event = Opened | Refused | Received | Pinged | Closed
"""``at``: seconds since the attempt to connect began."""


@attrs.frozen(kw_only=True)
class RawFeeds:
    """Opens raw feeds at one base URL. ``tls`` also secures the way to a ``proxy`` that is reached over https."""

    base_url: str
    tls: ssl.SSLContext
    proxy: Proxy | None

    async def events(self, conversation_id: str, credential: Credential) -> AsyncGenerator[Event, None]:
        """Everything that happens on the feed of a conversation, until it ends.

        Raises: OSError or `FeedLost` where no connection can be made, trio.TooSlowError where none is made within
        `CONNECT_TIMEOUT`. Cancellation: at any time; close the generator to close the connection.
        """
        began = trio.current_time()
        parts = urlsplit(self.base_url)
        target = f"{parts.path.rstrip('/')}/v1/conversations/{segment(conversation_id)}/live/ws"
        if credential.query:
            target = f"{target}?{urlencode(credential.query)}"
        with trio.fail_after(CONNECT_TIMEOUT):
            stream = await self._connect()
        try:
            protocol = WSConnection(ConnectionType.CLIENT)
            headers = [(name.encode(), value.encode()) for name, value in credential.headers.items()]
            request = Request(host=parts.netloc.rpartition("@")[2], target=target, extra_headers=headers)
            await stream.send_all(protocol.send(request))
            async for event in _events(protocol, stream, began):
                yield event
        finally:
            await trio.aclose_forcefully(stream)

    async def _connect(self) -> trio.abc.Stream:
        parts = urlsplit(self.base_url)
        is_secure = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if is_secure else 80)
        to_host, to_port = (self.proxy.host, self.proxy.port) if self.proxy else (host, port)
        stream: trio.abc.Stream = await trio.open_tcp_stream(to_host, to_port)
        try:
            if self.proxy is not None:
                stream = await open_tunnel(
                    self.proxy, stream, host, port, tls=self.tls if self.proxy.is_secure else None
                )
            if is_secure:
                secure = trio.SSLStream(stream, self.tls, server_hostname=host, https_compatible=True)
                await secure.do_handshake()
                stream = secure
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream


async def _events(protocol: WSConnection, stream: trio.abc.Stream, began: float) -> AsyncIterator[Event]:
    message = _Message()
    while True:
        try:
            # Before the handshake is complete the server must not be silent for long.
            patience = CONNECT_TIMEOUT if protocol.state is ConnectionState.CONNECTING else float("inf")
            with trio.fail_after(patience):
                data = await stream.receive_some(_RECEIVE)
            at = trio.current_time() - began
            protocol.receive_data(bytes(data) or None)
            # One by one: what came before an error counts, and no ping can be answered once a close was read.
            for event in protocol.events():
                if isinstance(event, AcceptConnection):
                    yield Opened(at)
                elif isinstance(event, RejectConnection):
                    yield Refused(at, event.status_code)
                    return
                elif isinstance(event, Ping):
                    await stream.send_all(protocol.send(event.response()))
                    yield Pinged(at)
                elif isinstance(event, CloseConnection):
                    yield _closed(at, event, protocol)
                    return
                elif isinstance(event, TextMessage | BytesMessage):
                    message.add(event)
                    if message.size > LARGEST_MESSAGE:
                        yield Closed(at, None, "message too large")
                        return
                    if event.message_finished:
                        yield message.received(at)
                        message = _Message()
        except trio.BrokenResourceError:
            yield Closed(trio.current_time() - began, None)
            return
        except ProtocolError:
            yield Closed(at, None, "protocol error")
            return
        if not data:
            yield Closed(at, None)
            return


def _closed(at: float, event: CloseConnection, protocol: WSConnection) -> Closed:
    """The end that wsproto tells as a close, also where the server sent none."""
    match protocol.state:
        case ConnectionState.REMOTE_CLOSING:
            return Closed(at, event.code)
        case ConnectionState.CLOSED:
            return Closed(at, None)
        case _:
            return Closed(at, None, "protocol error")


class _Message:
    """The parts of one message while it is incomplete."""

    def __init__(self) -> None:
        self.size = 0
        self._frames = 0
        self._parts: list[str] = []
        self._is_text = True

    def add(self, event: TextMessage | BytesMessage) -> None:
        self._is_text = isinstance(event, TextMessage)
        self.size += len(event.data)
        self._frames += event.frame_finished
        if isinstance(event, TextMessage):
            self._parts.append(event.data)

    def received(self, at: float) -> Received:
        text = "".join(self._parts) if self._is_text else None
        return Received(at=at, text=text, frames=self._frames, size=self.size)
