"""Edge: HTTP/1.1 on one connection: h11 between a stream and the ASGI application.

Theory of operation. A connection serves one request at a time. It reads a request completely, head and body,
within size limits and a deadline, before it calls the application. While the application runs, a second task
(`_watch_client`) reads on, to notice when the client closes; it then cancels the application. Bytes of the next
requests that arrive meanwhile (pipelining) are buffered up to a bound; beyond it they are dropped, and the
connection closes after the response. A client that does not read its response in time is treated as one that has
left.

The phases of a connection are those of `Phase`: NEW or IDLE while it waits for a request, ANSWERING while the
application runs, SENDING while bytes are written. Invariants: `_watch_client` never writes, and reads only while
the application runs; a connection whose h11 state is not DONE after a response is never used again.
"""

from collections.abc import Iterable, Iterator
from email.utils import formatdate
from http import HTTPStatus
from math import inf
from typing import Final
from urllib.parse import unquote

import h11
import trio
from starlette.types import ASGIApp, Message, Scope

from .connections import Connection, Connections, Phase

FIRST_REQUEST_SECONDS: Final = 30
NEXT_REQUEST_SECONDS: Final = 150  # longer than common scrape intervals, so that scrapers can reuse connections
REQUEST_SECONDS: Final = 10  # from the first byte of a request to its last
UNREAD_SECONDS: Final = 10  # for one piece of a response
ANSWER_SECONDS: Final = 60  # for a whole response, from its first byte
LINGER_SECONDS: Final = 1
# End of file does not tell whether a client has left or only shut down its sending side, as socat does.
HALF_CLOSED_SECONDS: Final = 0.5

MOST_HEAD_BYTES: Final = 16 * 1024
MOST_TARGET_BYTES: Final = 8 * 1024
MOST_BODY_BYTES: Final = 16 * 1024  # no endpoint uses a body
MOST_AHEAD_BYTES: Final = 4 * 1024  # a few pipelined requests
_PIECE_BYTES: Final = 64 * 1024


class _Left(Exception):
    """The client has closed the connection or does not read its response."""


class _Refused(Exception):
    """The request cannot be served; the connection ends with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = HTTPStatus(status)


async def serve_http(
    stream: trio.abc.Stream,
    app: ASGIApp,
    *,
    connections: Connections,
    connection: Connection,
    is_tls: bool = False,
) -> bool:
    """Serve requests until the client leaves, stays idle too long, or the connection must close.

    ``app`` is cancelled when the client leaves or does not read the response. When the last ``send`` returns, the
    operating system has taken the whole response.

    Args:
        stream: the connection, which this function does not close.
        app: the ASGI application.
        connections: all connections of the server.
        connection: this connection, entered in ``connections``.
        is_tls: whether the scheme is https.

    Returns: whether a last response was sent that the client needs time to receive (`linger`).

    Cancellation: ends the connection at once, in the middle of a response.
    """
    wire = _Wire(stream, connections, connection)
    scheme = "https" if is_tls else "http"
    patience = FIRST_REQUEST_SECONDS
    try:
        while True:
            await _wait_for_request(wire, patience)
            request, body = await _read_request(wire)
            await _Exchange(wire, request, body, scheme=scheme).run(app)
            wire.move(Phase.IDLE, has_begun=bool(wire.http.trailing_data[0]))
            if wire.http.our_state is not h11.DONE or wire.ahead_bytes > MOST_AHEAD_BYTES:
                return True
            wire.http.start_next_cycle()
            patience = NEXT_REQUEST_SECONDS
    except _Left:
        return False
    except _Refused as refused:
        return await _send_refusal(wire, refused.status)


async def linger(transport: trio.SocketStream) -> None:
    """Shut down sending, and wait up to ``LINGER_SECONDS`` for the client to close.

    Closing a socket with unread data makes the system send a reset, which can destroy a response in flight.
    """
    with trio.move_on_after(LINGER_SECONDS):
        try:
            await transport.send_eof()
            while await transport.receive_some(_PIECE_BYTES):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


class _Wire:
    """A connection's stream with its h11 state. Raises `_Left` when the stream ends in any way."""

    def __init__(self, stream: trio.abc.Stream, connections: Connections, connection: Connection) -> None:
        self.http = h11.Connection(h11.SERVER, MOST_HEAD_BYTES)
        self.ahead_bytes = 0
        self.is_half_closed = False
        self.is_head = False  # a HEAD request, whose response has no body
        self._stream = stream
        self._connections = connections
        self._connection = connection

    @property
    def is_closing(self) -> bool:
        """Whether the server is closing."""
        return self._connections.is_closing

    def begin(self, data: bytes) -> None:
        """Take the first bytes of a request."""
        self._connection.has_begun = True
        self.http.receive_data(data)

    def move(self, phase: Phase, *, has_begun: bool = False) -> None:
        """Record the phase of this connection, and whether a part of its next request was read."""
        self._connections.move(self._connection, phase, has_begun=has_begun)

    async def read(self) -> bytes:
        """Return the next bytes, never none."""
        if data := await self._read():
            return data
        raise _Left

    async def _read(self) -> bytes:
        if self.is_half_closed:
            return b""
        try:
            data = bytes(await self._stream.receive_some(_PIECE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise _Left from None
        self.is_half_closed = not data
        return data

    async def read_ahead(self) -> None:
        """Read until the client closes its side. Buffer up to ``MOST_AHEAD_BYTES`` for the next request."""
        self.ahead_bytes = len(self.http.trailing_data[0])
        while data := await self._read():
            self.ahead_bytes += len(data)
            if self.ahead_bytes <= MOST_AHEAD_BYTES:
                self.http.receive_data(data)

    async def write(self, data: Iterable[bytes], *, deadline: float = inf) -> None:
        """Send ``data``; return when the operating system has taken all of it."""
        for piece in _pieces(data):
            self.move(Phase.SENDING)
            with trio.move_on_at(min(deadline, trio.current_time() + UNREAD_SECONDS)) as patience:
                try:
                    await self._stream.send_all(piece)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    raise _Left from None
            if patience.cancelled_caught:
                raise _Left


class _Exchange:
    """One request and its response, as the application sees them."""

    def __init__(self, wire: _Wire, request: h11.Request, body: bytes, *, scheme: str) -> None:
        self._wire = wire
        self._request = request
        self._body = body
        self._scheme = scheme
        self._body_was_received = False
        self._head = b""
        self._deadline = inf
        self._answering = trio.CancelScope()
        self._client_left = False

    async def run(self, app: ASGIApp) -> None:
        """Run the application for the request.

        Raises: _Left if the client left or the application ended in the middle of the response; _Refused if the
        application sent nothing.
        """
        self._wire.move(Phase.ANSWERING)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_client)
            with self._answering:
                await app(_scope(self._request, self._scheme), self._receive, self._send)
            nursery.cancel_scope.cancel()
        state = self._wire.http.our_state
        if self._client_left or state is h11.SEND_BODY:
            raise _Left
        if state in (h11.IDLE, h11.SEND_RESPONSE):
            raise _Refused(HTTPStatus.INTERNAL_SERVER_ERROR)

    async def _watch_client(self) -> None:
        try:
            await self._wire.read_ahead()
            await trio.sleep(HALF_CLOSED_SECONDS)
            if self._is_being_sent:  # sending fails by itself if the client has left
                return
        except _Left:
            pass
        self._client_left = True
        self._answering.cancel()

    @property
    def _is_being_sent(self) -> bool:
        return self._deadline < inf

    async def _receive(self) -> Message:
        if self._body_was_received:  # the application is cancelled when the client leaves
            await trio.sleep_forever()
        self._body_was_received = True
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def _send(self, message: Message) -> None:
        http = self._wire.http
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"date", formatdate(usegmt=True).encode())]
            if self._wire.is_closing:  # asked only now, so that the client does not send what will not be answered
                headers.append((b"connection", b"close"))
            self._head = http.send(_response(message["status"], headers)) or b""
            return
        data = [self._head] if self._head else []
        body = message.get("body", b"")
        if body and not self._wire.is_head:
            data += http.send_with_data_passthrough(h11.Data(data=body)) or ()
        is_whole = not message.get("more_body", False)
        if is_whole:
            data += http.send_with_data_passthrough(h11.EndOfMessage()) or ()
        if self._head:
            self._head, self._deadline = b"", trio.current_time() + ANSWER_SECONDS
        try:
            await self._wire.write(data, deadline=self._deadline)
        except _Left:
            self._client_left = True
        may_have_left = is_whole and self._wire.is_half_closed
        if self._client_left or may_have_left:
            self._answering.cancel()
            await trio.sleep_forever()  # until the cancellation arrives


async def _wait_for_request(wire: _Wire, patience_seconds: float) -> None:
    """Return when the first byte of a request has arrived. Skips blank lines before it."""
    if wire.http.trailing_data[0]:
        return
    with trio.move_on_after(patience_seconds):
        data = b""
        while not data:
            data = (await wire.read()).lstrip(b"\r\n")
        wire.begin(data)
        return
    raise _Left


async def _read_request(wire: _Wire) -> tuple[h11.Request, bytes]:
    """Read a complete request: head and body."""
    wire.is_head = False
    try:
        with trio.move_on_after(REQUEST_SECONDS):
            request = await _next(wire)
            if not isinstance(request, h11.Request):
                raise _Left
            wire.is_head = request.method == b"HEAD"
            _check(request)
            body = bytearray()
            while isinstance(data := await _next(wire), h11.Data):
                body += data.data
                if len(body) > MOST_BODY_BYTES:
                    raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return request, bytes(body)
    except h11.RemoteProtocolError as wrong:
        status = wrong.error_status_hint
        has_first_line = b"\n" in wire.http.trailing_data[0]
        if status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE and not has_first_line:
            status = HTTPStatus.REQUEST_URI_TOO_LONG
        raise _Refused(status) from wrong
    raise _Refused(HTTPStatus.REQUEST_TIMEOUT)


async def _next(wire: _Wire) -> h11.Event | type[h11.PAUSED]:
    """Wait for the next event of the request."""
    while (event := wire.http.next_event()) is h11.NEED_DATA:
        if wire.http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[], reason=b"Continue")
            await wire.write([wire.http.send(go_on) or b""])
        wire.http.receive_data(await wire.read())
    return event  # type: ignore[return-value]  # h11 declares its sentinels as part of the union


def _check(request: h11.Request) -> None:
    if not request.http_version.startswith(b"1."):
        raise _Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    if len(request.target) > MOST_TARGET_BYTES:
        raise _Refused(HTTPStatus.REQUEST_URI_TOO_LONG)
    if sum(len(name) + len(value) for name, value in request.headers) > MOST_HEAD_BYTES:
        raise _Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    headers = dict(request.headers)
    if (
        b"transfer-encoding" in headers and b"content-length" in headers
    ):  # request smuggling: a proxy may use the other one
        raise _Refused(HTTPStatus.BAD_REQUEST)
    if int(headers.get(b"content-length", 0)) > MOST_BODY_BYTES:
        raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


async def _send_refusal(wire: _Wire, status: HTTPStatus) -> bool:
    """Send an error response, if h11's state allows; return whether it was sent."""
    if wire.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return False
    text = f"{status.phrase}\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(text)).encode()),
        (b"connection", b"close"),
    ]
    said = [
        wire.http.send(_response(status, headers)) or b"",
        b"" if wire.is_head else wire.http.send(h11.Data(data=text)) or b"",
        wire.http.send(h11.EndOfMessage()) or b"",
    ]
    try:
        await wire.write(said)
    except _Left:
        return False
    return True


def _response(status: int, headers: Iterable[tuple[bytes, bytes]]) -> h11.Response:
    return h11.Response(status_code=status, headers=list(headers), reason=HTTPStatus(status).phrase.encode())


def _scope(request: h11.Request, scheme: str) -> Scope:
    target = request.target
    if target.partition(b"://")[0].lower() in (
        b"http",
        b"https",
    ):  # the absolute form, which clients send to proxies
        target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
    raw_path, _, query = target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.http_version.decode(),
        "method": request.method.decode("ascii").upper(),
        "scheme": scheme,
        "path": unquote(raw_path.decode("ascii")),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
        "client": None,
        "server": None,
    }


def _pieces(data: Iterable[bytes]) -> Iterator[memoryview]:
    """Cut ``data`` into pieces small enough for a slow client to read in time; join small ones."""
    small = b""
    for each in data:
        if len(small) + len(each) <= _PIECE_BYTES:
            small += each
            continue
        cut = _PIECE_BYTES - len(small)
        yield memoryview(small + each[:cut])
        small = b""
        for start in range(cut, len(each), _PIECE_BYTES):
            yield memoryview(each)[start : start + _PIECE_BYTES]
    if small:
        yield memoryview(small)
