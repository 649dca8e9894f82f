"""HTTP/1.1 on real connections: requests, refusals, timeouts, pipelining, and limits of connections."""

import contextlib
import re
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from exporter.process import OTHER_FILES
from exporter.web.connections import MOST_CONNECTIONS, Connections, Phase
from exporter.web.http1 import linger, serve_http
from tests.integration.serving import GET_METRICS, serving
from tests.servers import reset

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
END = b"\r\n"


@attrs.define
class App:
    """An application that records its requests."""

    body: bytes = b"hello"
    asked: list[tuple[str, str, str, bytes]] = attrs.field(factory=list)
    sent: int = 0
    cancelled: int = 0
    hold: trio.Event | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        self.asked.append((scope["method"], scope["path"], scope["query_string"].decode(), body))
        try:
            if self.hold is not None:
                await self.hold.wait()
            length = str(len(self.body)).encode()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
            await send({"type": "http.response.body", "body": self.body})
        except trio.Cancelled:
            self.cancelled += 1
            raise
        self.sent += 1


@contextlib.asynccontextmanager
async def connected(app: Any, connections: Connections | None = None) -> AsyncIterator[trio.SocketStream]:
    """Yield the client's end of a served connection."""
    connections = connections or Connections()

    async def handle(stream: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            connection = connections.enter(scope)
            assert connection is not None
            if await serve_http(stream, app, connections=connections, connection=connection):
                await linger(stream)
            connections.leave(connection)

    with trio.fail_after(1000):  # by a clock that may jump
        async with trio.open_nursery() as nursery:
            [listener] = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
            async with await trio.testing.open_stream_to_socket_listener(listener) as stream:
                yield stream
            nursery.cancel_scope.cancel()


async def answer(stream: trio.SocketStream) -> bytes:
    """Read one response with its body."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += await _more(stream)
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    while length and len(body) < int(length[1]):
        body += await _more(stream)
    return head + b"\r\n\r\n" + body


async def _more(stream: trio.SocketStream) -> bytes:
    data = bytes(await stream.receive_some())
    assert data, "the connection is over"
    return data


async def rest(stream: trio.SocketStream) -> bytes:
    return b"".join([bytes(part) async for part in stream])


async def status(sent: bytes) -> int:
    """Send bytes, read the only response and the end of the connection; return the status."""
    async with connected(App()) as stream:
        await stream.send_all(sent)
        said = await rest(stream)
    assert said.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in said.lower()
    return int(said.split()[1])


CLOSE = b"Connection: close\r\n"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(GET + CLOSE + END, 200, id="a request"),
        pytest.param(b"\r\n\r\n" + GET + CLOSE + END, 200, id="blank lines before it"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", 200, id="HTTP/1.0"),
        pytest.param(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, id="HTTP/1.0 that would stay"),
        pytest.param(b"GET http://a:1/x?y HTTP/1.1\r\nHost: a\r\n" + CLOSE + END, 200, id="absolute form"),
        pytest.param(GET + b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n" + CLOSE + END, 200, id="h2c"),
        pytest.param(GET + b"Upgrade: websocket\r\n" + CLOSE + END, 200, id="WebSocket"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(GET + b"Host: b\r\n\r\n", 400, id="two hosts"),
        pytest.param(b"GET /\r\n\r\n", 400, id="HTTP/0.9"),
        pytest.param(b"\x00\xff\x00\xff\r\n\r\n", 400, id="no HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 90, 400, id="TLS"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="a path that is not ASCII"),
        pytest.param(GET + b"X : y\r\n\r\n", 400, id="space before the colon"),
        pytest.param(GET + b"X: a\x00b\r\n\r\n", 400, id="NUL in a header"),
        pytest.param(GET + b"Content-Length: x\r\n\r\n", 400, id="length that is no number"),
        pytest.param(GET + b"Content-Length: -1\r\n\r\n", 400, id="length below zero"),
        pytest.param(GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400, id="two lengths"),
        pytest.param(GET + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, id="a chunk without a size"),
        pytest.param(
            GET + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400, id="length and chunks"
        ),
        pytest.param(GET + b"Transfer-Encoding: gzip\r\n\r\n", 501, id="unknown encoding"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, id="HTTP/2"),
        pytest.param(b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, id="HTTP/3"),
        pytest.param(b"HEAD / HTTP/3.0\r\nHost: a\r\n\r\n", 505, id="HEAD over HTTP/3"),
        pytest.param(b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n", 413, id="HEAD with a body"),
        pytest.param(b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, id="long target"),
        pytest.param(b"GET /" + b"x" * 90_000, 414, id="target without an end"),
        pytest.param(GET + b"X: " + b"y" * 20_000 + b"\r\n\r\n", 431, id="long header"),
        pytest.param(GET + b"X: y\r\n" * 20_000, 431, id="headers without an end"),
        pytest.param(GET + b"Content-Length: 20000\r\n\r\n", 413, id="announced large body"),
        pytest.param(
            GET + b"Content-Length: 20000\r\nExpect: 100-continue\r\n\r\n", 413, id="not to be continued"
        ),
        pytest.param(GET + b"Content-Length: 9" + b"9" * 300 + b"\r\n\r\n", 400, id="length beyond numbers"),
        pytest.param(
            GET + b"Transfer-Encoding: chunked\r\n\r\n" + 20 * (b"400\r\n" + b"x" * 1024 + b"\r\n"),
            413,
            id="large body in chunks",
        ),
    ],
)
async def test_request_gets_its_status(sent: bytes, expected: int) -> None:
    assert await status(sent) == expected


async def test_request_reaches_the_application_whole() -> None:
    app = App()
    async with connected(app) as stream:
        await stream.send_all(b"PUT /a%20b%C3%A4?c=%20 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await stream.send_all(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n")
        assert (await answer(stream)).endswith(b"hello")
        await stream.send_all(GET + END)
        assert (await answer(stream)).endswith(b"hello")
    assert app.asked == [("PUT", "/a bä", "c=%20", b"abcde"), ("GET", "/", "", b"")]


async def test_client_that_expects_it_is_asked_to_continue() -> None:
    app = App()
    async with connected(app) as stream:
        await stream.send_all(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert (await answer(stream)).startswith(b"HTTP/1.1 100 Continue\r\n")
        await stream.send_all(b"ab")
        assert (await answer(stream)).startswith(b"HTTP/1.1 200 OK\r\n")
    assert app.asked[0][3] == b"ab"


async def test_head_has_the_headers_of_get_and_no_body() -> None:
    async with connected(App()) as stream:
        await stream.send_all(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + GET + CLOSE + END)
        said = await rest(stream)
    first, second = said.split(b"HTTP/1.1 ")[1:]
    assert b"content-length: 5" in first.lower()
    assert first.endswith(b"\r\n\r\n")
    assert second.endswith(b"\r\n\r\nhello")


async def test_refusal_after_a_head_request_has_a_body() -> None:
    async with connected(App()) as stream:
        await stream.send_all(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nno HTTP\r\n\r\n")
        assert (await rest(stream)).endswith(b"\r\n\r\nBad Request\n")


async def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    app = App(hold=trio.Event())
    async with connected(app) as stream:
        await stream.send_all(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(10)))
        await trio.testing.wait_all_tasks_blocked()
        assert len(app.asked) == 1
        assert app.hold is not None
        app.hold.set()
        for _ in range(10):
            await answer(stream)
    assert [path for _, path, _, _ in app.asked] == [f"/{number}" for number in range(10)]


async def test_too_many_pipelined_requests_close_the_connection_after_the_first() -> None:
    app = App()
    async with connected(app) as stream:
        await stream.send_all((GET + END) * 1000)
        with contextlib.suppress(trio.BrokenResourceError):
            await rest(stream)
    assert len(app.asked) == 1


async def test_application_is_cancelled_when_the_client_closes(mock_clock: trio.testing.MockClock) -> None:
    """After half a second, because the client may have shut down only its sending side."""
    app = App(hold=trio.Event())
    async with connected(app) as stream:
        await stream.send_all((GET + END) * 2)
        await trio.testing.wait_all_tasks_blocked()
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert app.cancelled == 0
        mock_clock.jump(0.5)
        await trio.testing.wait_all_tasks_blocked()
    assert (len(app.asked), app.sent, app.cancelled) == (1, 0, 1)


async def test_application_is_cancelled_when_the_client_resets_the_connection() -> None:
    app = App(hold=trio.Event())
    async with connected(app) as stream:
        await stream.send_all(GET + END)
        await trio.testing.wait_all_tasks_blocked()
        await reset(stream)
        await trio.testing.wait_all_tasks_blocked()
        assert (len(app.asked), app.sent, app.cancelled) == (1, 0, 1)


async def test_client_that_shuts_down_its_sending_side_gets_its_responses() -> None:
    app = App()
    async with connected(app) as stream:
        await stream.send_all((GET + END) * 3)
        await stream.send_eof()
        assert (await rest(stream)).count(b"HTTP/1.1 200 OK") == 3


async def test_half_closed_client_may_read_a_response_slowly(mock_clock: trio.testing.MockClock) -> None:
    app = App(body=b"x" * 20_000_000)
    async with connected(app) as stream:
        await stream.send_all(GET + END)
        await stream.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(5)
        await trio.testing.wait_all_tasks_blocked()
        assert len((await rest(stream)).partition(b"\r\n\r\n")[2]) == 20_000_000


async def test_response_does_not_count_as_sent_if_the_client_may_have_left() -> None:
    app = App(hold=trio.Event())
    async with connected(app) as stream:
        await stream.send_all(GET + END)
        await stream.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert app.hold is not None
        app.hold.set()
        assert (await rest(stream)).endswith(b"hello")
    assert (app.sent, app.cancelled) == (0, 1)


async def test_response_counts_as_sent_only_when_the_system_has_all_of_it(
    mock_clock: trio.testing.MockClock,
) -> None:
    app = App(body=b"x" * 20_000_000)
    async with connected(app) as stream:
        await stream.send_all(GET + END)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(9)
        await trio.testing.wait_all_tasks_blocked()
        assert (app.sent, app.cancelled) == (0, 0)
        mock_clock.jump(1)
        await trio.testing.wait_all_tasks_blocked()
        assert (app.sent, app.cancelled) == (0, 1)


async def test_client_that_reads_slowly_but_steadily_gets_the_whole_response() -> None:
    app = App(body=b"x" * 20_000_000)
    async with connected(app) as stream:
        await stream.send_all(GET + CLOSE + END)
        received = 0
        while data := await stream.receive_some(100_000):
            received += len(data)
            await trio.lowlevel.checkpoint()
    assert received > 20_000_000
    assert app.sent == 1


@pytest.mark.parametrize(
    ("sent", "seconds", "said"),
    [
        (b"", 30, b""),
        (b"\r\n", 30, b""),
        (b"GET / HT", 10, b"HTTP/1.1 408 Request Timeout\r\n"),
        (GET + b"X: y\r\n", 10, b"HTTP/1.1 408 Request Timeout\r\n"),
        (GET + b"Content-Length: 3\r\n\r\nab", 10, b"HTTP/1.1 408 Request Timeout\r\n"),
    ],
)
async def test_missing_or_slow_request_ends_the_connection(
    sent: bytes, seconds: float, said: bytes, mock_clock: trio.testing.MockClock
) -> None:
    async with connected(App()) as stream:
        if sent:
            await stream.send_all(sent)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(seconds - 0.1)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0):
            assert await stream.receive_some() == b"never"
        mock_clock.jump(0.2)
        assert (await rest(stream)).startswith(said)


async def test_idle_connection_is_kept_longer_than_a_scrape_interval(mock_clock: trio.testing.MockClock) -> None:
    async with connected(App()) as stream:
        for _ in range(3):
            await stream.send_all(GET + END)
            await answer(stream)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(140)
    # and leaving ends it


async def silent(_scope: Any, _receive: Any, _send: Any) -> None:
    pass


async def unfinished(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
    await send({"type": "http.response.body", "body": b"hello", "more_body": True})


async def without_length(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello", "more_body": True})
    await send({"type": "http.response.body", "body": b" world"})


async def test_application_without_a_response_is_a_500() -> None:
    async with connected(silent) as stream:
        await stream.send_all(GET + END)
        assert (await rest(stream)).startswith(b"HTTP/1.1 500 ")


async def test_incomplete_response_does_not_look_complete() -> None:
    async with connected(unfinished) as stream:
        await stream.send_all(GET + END)
        with contextlib.suppress(trio.BrokenResourceError):
            assert (await rest(stream)).endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize(
    ("version", "body"), [(b"1.0", b"hello world"), (b"1.1", b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")]
)
async def test_response_without_a_length_ends_in_either_version(version: bytes, body: bytes) -> None:
    async with connected(without_length) as stream:
        await stream.send_all(b"GET / HTTP/" + version + b"\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await rest(stream)).partition(b"\r\n\r\n")[2] == body


# --- a server that closes


async def test_request_being_answered_when_the_server_closes_is_the_last_one() -> None:
    hold, connections = trio.Event(), Connections()
    async with connected(App(hold=hold), connections) as stream:
        await stream.send_all(GET + END)
        await trio.testing.wait_all_tasks_blocked()
        connections.close()
        hold.set()
        assert b"\r\nconnection: close\r\n" in (await rest(stream)).lower()


async def test_request_read_ahead_when_the_server_closes_is_answered() -> None:
    """Its client could not know: the response before it said nothing of closing."""
    app, connections = App(b"x" * 20_000_000), Connections()
    async with connected(app, connections) as stream:
        await stream.send_all(2 * (GET + END))
        await trio.testing.wait_all_tasks_blocked()
        app.body = b"bye"
        connections.close()
        said = await rest(stream)
    assert said.lower().count(b"\r\nconnection: close\r\n") == 1
    assert said.endswith(b"bye")


async def test_client_of_an_idle_connection_knows_at_once_that_it_is_closed() -> None:
    """Before the task of the connection runs: until then the client could send a request that is not read."""
    connections = Connections()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        connection = connections.enter(trio.CancelScope(), hang_up=partial(ours.shutdown, socket.SHUT_WR))
        assert connection
        connections.move(connection, Phase.ANSWERING)
        connections.move(connection, Phase.IDLE)
        connections.close()
        assert theirs.recv(1) == b""


# --- which connection is closed


def scopes(count: int) -> list[trio.CancelScope]:
    return [trio.CancelScope() for _ in range(count)]


async def test_the_silent_connection_that_has_waited_longest_is_closed() -> None:
    connections = Connections(most=10, most_without_request=3)
    entered = scopes(5)
    for scope in entered:
        assert connections.enter(scope)
    assert [scope.cancel_called for scope in entered] == [True, True, False, False, False]


async def test_connection_whose_request_waits_to_be_read_is_closed_only_if_all_do() -> None:
    connections = Connections(most=10, most_without_request=3)
    spoke, silent, last = scopes(3)
    assert connections.enter(spoke, lambda: True)
    assert connections.enter(silent, lambda: False)
    assert connections.enter(last, lambda: True)
    assert connections.enter(trio.CancelScope(), lambda: True)
    assert [scope.cancel_called for scope in (spoke, silent, last)] == [False, True, False]
    assert connections.enter(trio.CancelScope(), lambda: True)
    assert [scope.cancel_called for scope in (spoke, silent, last)] == [True, True, False]


@pytest.mark.parametrize(("most", "silent"), [(250, 100), (60, 32), (10, 10)])
async def test_two_in_five_and_at_least_32_may_be_silent_by_default(most: int, silent: int) -> None:
    connections = Connections(most=most)
    entered = scopes(silent + 1)
    for scope in entered:
        assert connections.enter(scope)
    assert [scope.cancel_called for scope in entered] == [True, *[False] * silent]


async def test_answered_connections_are_not_closed_for_silent_ones() -> None:
    connections = Connections(most=10, most_without_request=3)
    kept = scopes(5)
    for scope in kept:
        connection = connections.enter(scope)
        assert connection
        connections.move(connection, Phase.ANSWERING)
        connections.move(connection, Phase.IDLE)
    for scope in scopes(100):
        assert connections.enter(scope)
    assert not any(scope.cancel_called for scope in kept)


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.SENDING])
async def test_waiting_connection_is_closed_at_the_limit(phase: Phase) -> None:
    connections = Connections(most=3, most_without_request=3)
    entered = scopes(3)
    for scope in entered:
        connection = connections.enter(scope)
        assert connection
        connections.move(connection, Phase.ANSWERING)
        connections.move(connection, phase)
    assert connections.enter(trio.CancelScope())
    assert [scope.cancel_called for scope in entered] == [True, False, False]


async def test_connection_being_answered_is_never_closed() -> None:
    connections = Connections(most=2, most_without_request=2)
    entered = [connections.enter(scope) for scope in scopes(2)]
    for connection in entered:
        assert connection
        connections.move(connection, Phase.ANSWERING)
    assert connections.enter(trio.CancelScope()) is None
    assert entered[0]
    connections.leave(entered[0])
    assert connections.enter(trio.CancelScope())


def test_connections_leave_descriptors_for_everything_else() -> None:
    assert MOST_CONNECTIONS <= OTHER_FILES / 2


async def test_connections_beyond_the_limit_take_the_place_of_idle_ones() -> None:
    async with serving() as served, contextlib.AsyncExitStack() as stack:
        for _ in range(300):
            idle = await stack.enter_async_context(await trio.open_tcp_stream(*served.address))
            await idle.send_all(GET_METRICS)
            await answer(idle)
        async with await trio.open_tcp_stream(*served.address) as stream:
            await stream.send_all(GET_METRICS)
            assert (await answer(stream)).endswith(b"up 1\n")
