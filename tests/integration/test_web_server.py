"""The server on loopback: scrapes, misbehaving clients, and the graceful stop."""

import contextlib
import socket
import ssl
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from exporter.web.reload import InForce, ReloadedConfig
from tests.integration.serving import GET_METRICS, TLS, Served, serving, status_of, web_config
from tests.unit.certificates import make_authority, make_certificate, trusting

PAGE = b"x" * 20_000_000  # more than socket buffers hold
HTTP_2 = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # its preface and a SETTINGS frame
)


@pytest.fixture
def pems(tmp_path: Path) -> Path:
    make_authority(tmp_path)
    make_certificate(tmp_path, "server", sans="IP:127.0.0.1,DNS:localhost")
    return tmp_path


async def scraping(served: Served, tls: ssl.SSLContext | None = None) -> trio.abc.Stream:
    """Return a client that has read only the first bytes of the response to its scrape."""
    stream: trio.abc.Stream = await trio.open_tcp_stream(*served.address)
    if tls:
        stream = trio.SSLStream(stream, tls, server_hostname="localhost")
    await stream.send_all(GET_METRICS)
    await stream.receive_some(1)
    return stream


async def test_page_is_served_without_naming_the_server() -> None:
    async with serving() as served, httpx.AsyncClient(base_url=served.url) as http:
        answer = await http.get("/metrics")
        assert (answer.status_code, answer.text) == (200, "up 1\n")
        assert "server" not in answer.headers
        head = await http.head("/metrics")
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "5")


async def test_scrapes_beyond_the_limit_get_a_503() -> None:
    """A client that does not read its response keeps its place until it has read it."""
    async with (
        serving(render=lambda *_: PAGE, max_requests=1) as served,
        await scraping(served) as slow,
        httpx.AsyncClient(base_url=served.url) as http,
    ):
        refused = await http.get("/metrics")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert (await http.get("/-/healthy")).status_code == 200
        left = len(PAGE)
        while left > 0:
            left -= len(await slow.receive_some())
        await trio.testing.wait_all_tasks_blocked()
        assert (await http.head("/metrics")).status_code == 200


async def test_client_that_does_not_read_its_response_is_closed(mock_clock: trio.testing.MockClock) -> None:
    async with (
        serving(render=lambda *_: PAGE, max_requests=1, deadline_seconds=1000) as served,
        await scraping(served) as slow,
    ):
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(61)
        await trio.testing.wait_all_tasks_blocked()
        assert await status_of(f"{served.url}/-/ready") == 200
        async with httpx.AsyncClient(base_url=served.url) as http:
            assert (await http.head("/metrics")).status_code == 200  # its place is free
        with contextlib.suppress(trio.BrokenResourceError):
            assert len(b"".join([part async for part in slow])) < len(PAGE)


async def test_stop_finishes_the_scrape_in_progress_and_frees_the_port() -> None:
    async with serving(render=lambda *_: PAGE) as served:
        async with await scraping(served) as stream:
            served.stop.set()
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(OSError, match="all attempts to connect"):
                await trio.open_tcp_stream(*served.address)
            body = b"".join([part async for part in stream]).partition(b"\r\n\r\n")[2]
        assert len(body) == len(PAGE)
        await served.stopped.wait()


@pytest.mark.parametrize("tls", [False, True])
async def test_stop_answers_the_requests_that_wait_to_be_accepted(
    pems: Path, mock_clock: trio.testing.MockClock, tls: bool
) -> None:
    config = web_config(pems, TLS % "") if tls else None
    async with serving(config=config) as served, contextlib.AsyncExitStack() as stack:
        queued = [stack.enter_context(socket.create_connection(served.address)) for _ in range(5)]
        served.stop.set()
        for client in queued:
            stream: trio.abc.Stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
            if tls:
                stream = trio.SSLStream(stream, trusting(pems), server_hostname="localhost", https_compatible=True)
            async with stream:
                await stream.send_all(GET_METRICS)
                assert b"".join([part async for part in stream]).startswith(b"HTTP/1.1 200 ")
        await served.stopped.wait()
    assert mock_clock.current_time() == 0


class WaitingConfig(ReloadedConfig):
    """A configuration that can be had only after a while: until then the server accepts and does not read."""

    def __init__(self) -> None:
        super().__init__(None)
        self.is_there = trio.Event()

    async def current(self) -> InForce:
        await self.is_there.wait()
        return await super().current()


async def test_stop_answers_a_request_that_waits_to_be_read(mock_clock: trio.testing.MockClock) -> None:
    config = WaitingConfig()
    async with serving(config=config) as served, await trio.open_tcp_stream(*served.address) as stream:
        await stream.send_all(GET_METRICS)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(5)
        served.stop.set()
        await trio.testing.wait_all_tasks_blocked()
        config.is_there.set()
        assert is_last_page(b"".join([part async for part in stream]))
        await served.stopped.wait()


@pytest.mark.parametrize("part", [0, 1, len(GET_METRICS) - 1])
async def test_stop_leaves_a_new_client_the_time_to_send_its_request(
    part: int, mock_clock: trio.testing.MockClock
) -> None:
    async with serving() as served, await trio.open_tcp_stream(*served.address) as stream:
        await stream.send_all(GET_METRICS[:part])
        await trio.testing.wait_all_tasks_blocked()
        served.stop.set()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(0.9)
        await stream.send_all(GET_METRICS[part:])
        assert is_last_page(b"".join([part async for part in stream]))
        await served.stopped.wait()


def is_last_page(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 200 ") and b"\r\nconnection: close\r\n" in answer.lower()


@pytest.mark.parametrize(
    ("sent", "before", "after"),
    [
        pytest.param(GET_METRICS, 0, 0, id="idle keep-alive"),
        pytest.param(b"", 1, 0, id="silent"),
        pytest.param(b"", 0.5, 0.5, id="silent, but just connected"),
        pytest.param(b"GET /metrics HT", 1, 1, id="half a request"),
    ],
)
async def test_connections_without_a_request_delay_the_stop_by_little(
    sent: bytes, before: float, after: float, mock_clock: trio.testing.MockClock
) -> None:
    """In seconds before and after the stop."""
    async with serving() as served, await trio.open_tcp_stream(*served.address) as stream:
        if sent:
            await stream.send_all(sent)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(before)
        served.stop.set()
        if after:
            await trio.testing.wait_all_tasks_blocked()
            assert not served.stopped.is_set()
            mock_clock.jump(after)
        await served.stopped.wait()


@pytest.mark.parametrize("tls", [False, True])
async def test_client_that_reads_nothing_delays_the_stop_by_the_grace_time(
    pems: Path, mock_clock: trio.testing.MockClock, tls: bool
) -> None:
    config = web_config(pems, TLS % "") if tls else None
    async with (
        serving(render=lambda *_: PAGE, config=config) as served,
        await scraping(served, trusting(pems) if tls else None),
    ):
        served.stop.set()
        await trio.testing.wait_all_tasks_blocked()
        assert not served.stopped.is_set()
        mock_clock.jump(3)
        await served.stopped.wait()


@pytest.mark.parametrize("tls", [False, True])
async def test_cancellation_closes_a_client_that_reads_nothing(pems: Path, tls: bool) -> None:
    config = web_config(pems, TLS % "") if tls else None
    async with serving(render=lambda *_: PAGE, config=config) as served:
        stream = await scraping(served, trusting(pems) if tls else None)
        served.nursery.cancel_scope.cancel()
    assert not served.stopped.is_set()
    await trio.aclose_forcefully(stream)


@pytest.mark.parametrize(
    "junk",
    [
        b"\x00\xff\x00\xff\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /%ff%fe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"G" * 100_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        HTTP_2,
        HTTP_2 + b"\x00\x00\x00\x04\x01\x00\x00\x00\x00",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ],
)
async def test_invalid_bytes_end_only_their_connection(junk: bytes) -> None:
    with capture_logs():
        async with serving() as served, httpx.AsyncClient(base_url=served.url) as http:
            assert (await http.get("/metrics")).status_code == 200
            async with await trio.open_tcp_stream(*served.address) as stream:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(junk)
                    await stream.send_eof()
                    async for _ in stream:
                        pass
            assert (await http.get("/metrics")).status_code == 200
