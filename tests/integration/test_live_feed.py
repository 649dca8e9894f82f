"""The live feed against real peers on loopback: what it sends, how it ends, and that it leaks nothing."""

import gc
import logging
import socket
import ssl
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from trio_websocket import WebSocketRequest

from exporter import logs
from exporter.enums import FeedError, MessageType
from exporter.phonic.credentials import ApiKey, Credentials, SessionToken, load
from exporter.phonic.decode import decode
from exporter.phonic.live.client import LiveFeed, LiveSocket, Timeouts, open_live
from exporter.phonic.live.errors import FeedClosed, FeedEnded, FeedLost, FeedNotFound, FeedRefused
from exporter.phonic.live.limits import Memory
from exporter.settings import LogSettings
from exporter.watch.interfaces import Feed
from tests.feeds import AUDIO, ENDED, NESTED_ERROR, OTHER_ERROR, SAVED, TOP_LEVEL_ERROR, ScriptedFeeds, snapshot
from tests.servers import (
    Answer,
    Talk,
    accepting,
    close_frame,
    frame,
    live_server,
    plays,
    refused_url,
    refuses,
    request,
    reset,
    rude_server,
    upgrade,
)
from tests.unit.certificates import make_authority, make_certificate, trusting

ID = "conv_1"
KEY = Credentials(ApiKey("ph_planted_secret"))
TOKEN = Credentials(SessionToken("ph_session_planted_secret"))
QUICK = Timeouts(connect=1.0, idle=0.2, pong=0.2, disconnect=0.2)
Live = Callable[[], AbstractAsyncContextManager[LiveSocket]]


def live_at(
    url: str,
    credentials: Credentials = KEY,
    timeouts: Timeouts = QUICK,
    *,
    batch_seconds: float = 0.01,
    **how: Any,
) -> Live:
    """A function that opens a client of the live feeds at this address."""
    return partial(open_live, url, credentials, timeouts, batch_seconds=batch_seconds, **how)


@asynccontextmanager
async def opened(live_of: Live) -> AsyncIterator[LiveFeed]:
    """The only feed of a client."""
    async with live_of() as live, live.open(ID) as feed:
        yield feed


async def read(live_of: Live, conversation_id: str = ID) -> tuple[list[str | bytes], FeedClosed]:
    """All frames of the only feed of a client and how it ended."""
    async with live_of() as live:
        return await read_one_of(live, conversation_id)


async def read_one_of(live: LiveSocket, conversation_id: str = ID) -> tuple[list[str | bytes], FeedClosed]:
    """The same for one feed of several."""
    frames: list[str | bytes] = []
    with trio.fail_after(5):
        try:
            async with live.open(conversation_id) as feed:
                while True:
                    frames.append(await feed.receive())
        except FeedClosed as closed:
            return frames, closed


# The fast paths on and off.
WAYS: dict[str, dict[str, Any]] = {
    "fast": {},
    "not batched": {"batch_seconds": 0},
    "frames read by the library": {"own_frame_reader": False},
    "plain": {"batch_seconds": 0, "own_frame_reader": False},
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """An unclosed socket causes a warning when it is collected, and warnings are errors."""
    yield
    gc.collect(1)  # objects younger than the test


# --- what is sent


async def test_the_api_key_is_sent_as_bearer_header_and_nowhere_else() -> None:
    async with live_server(plays(1000)) as server:
        await read(live_at(server.url))
        assert server.asked[0].headers["authorization"] == "Bearer ph_planted_secret"
        assert server.asked[0].query == ""


async def test_the_session_token_is_sent_as_query_and_nowhere_else() -> None:
    async with live_server(plays(1000)) as server:
        await read(live_at(server.url, TOKEN))
        assert server.asked[0].query == "session_token=ph_session_planted_secret"
        assert "authorization" not in server.asked[0].headers


async def test_the_url_has_the_path_of_the_base_url_the_quoted_id_and_the_port_in_host() -> None:
    requests: list[list[bytes]] = []

    async def listen(stream: trio.SocketStream) -> None:
        requests.append((await stream.receive_some()).split(b"\r\n"))

    async with rude_server(listen) as url:
        await read(live_at(f"{url}/proxy/"), "../conv_?#\u00e9")
        [[first, *others]] = requests
        assert first == b"GET /proxy/v1/conversations/%2E%2E%2Fconv_%3F%23%C3%A9/live/ws HTTP/1.1"
        assert f"Host: {url.removeprefix('http://')}".encode() in others


# --- frames


@ways
async def test_frames_arrive_in_order_and_as_they_were_sent(way: dict[str, Any]) -> None:
    sent: list[str | bytes] = [
        snapshot(ID, 1),
        AUDIO,
        "not json",
        NESTED_ERROR,
        TOP_LEVEL_ERROR,
        '{"type": "conversation-new"}',
        "",
        b"\xff\x00",
        SAVED,
        ENDED,
    ]
    async with live_server(plays(*sent, 1000)) as server:
        frames, closed = await read(live_at(server.url, **way))
    assert frames == sent
    assert isinstance(closed, FeedEnded)


@ways
async def test_message_in_pieces_is_one_frame(way: dict[str, Any]) -> None:
    async def in_pieces(stream: trio.SocketStream) -> None:
        await upgrade(stream)
        await stream.send_all(b"\x01\x02ab" + frame(b"ping", 9) + b"\x80\x02cd" + close_frame(1000))
        await trio.sleep_forever()

    async with rude_server(in_pieces) as url:
        frames, _ = await read(live_at(url, **way))
    assert frames == ["abcd"]


@ways
@pytest.mark.parametrize("size", [1, 3, 100_000])
async def test_messages_in_the_same_packet_as_the_handshake_are_frames(way: dict[str, Any], size: int) -> None:
    sent = [snapshot(ID, 1), AUDIO, snapshot(ID, 2), ENDED]
    behind = frame(b"ping", 9).join(frame(each.encode()) for each in sent) + close_frame(1000)

    async def in_pieces(stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = accepting(await request(stream)) + behind
        for at in range(0, len(answer), size):
            await stream.send_all(answer[at : at + size])
        await trio.sleep_forever()

    async with rude_server(in_pieces) as url:
        frames, closed = await read(live_at(url, **way))
    assert frames == sent
    assert isinstance(closed, FeedEnded)


@ways
async def test_a_message_far_beyond_the_limit_of_the_library_arrives(way: dict[str, Any]) -> None:
    large = snapshot(ID, text="x" * 3_000_000)
    async with live_server(plays(large, 1000)) as server:
        frames, _ = await read(live_at(server.url, **way))
    assert frames == [large]


async def test_a_message_larger_than_the_kernel_buffers_is_not_delayed_batch_by_batch() -> None:
    large = snapshot(ID, text="x" * 8_000_000)
    period = 1.0
    async with live_server(plays(AUDIO, large, ENDED)) as server:
        with trio.fail_after(30):
            async with opened(live_at(server.url, timeouts=Timeouts(), batch_seconds=period)) as feed:
                assert await feed.receive() == AUDIO
                start = trio.current_time()
                assert [await feed.receive(), await feed.receive()] == [large, ENDED]
    assert trio.current_time() - start < 4 * period


# --- ends


@ways
@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (1000, FeedEnded, None),
        (1001, FeedLost, FeedError.CLOSED_GOING_AWAY),
        (1002, FeedLost, FeedError.PROTOCOL),
        (1008, FeedRefused, FeedError.CLOSED_POLICY),
        (1011, FeedLost, FeedError.CLOSED_INTERNAL_ERROR),
        (1012, FeedLost, FeedError.CLOSED_RESTART),
        (1013, FeedLost, FeedError.CLOSED_OTHER),
        (4010, FeedLost, FeedError.CLOSED_OTHER),
    ],
)
async def test_the_close_code_decides_how_a_feed_ended(
    way: dict[str, Any], code: int, kind: type[FeedClosed], reason: FeedError | None
) -> None:
    async with live_server(plays(snapshot(ID), code)) as server:
        frames, closed = await read(live_at(server.url, **way))
    assert (frames, type(closed), closed.reason) == ([snapshot(ID)], kind, reason)


@ways
async def test_a_message_beyond_the_limit_loses_the_feed(way: dict[str, Any]) -> None:
    async with live_server(plays("x" * 1001)) as server:
        _, closed = await read(live_at(server.url, KEY, QUICK, max_message=1000, **way))
    assert (type(closed), closed.reason) == (FeedLost, FeedError.CLOSED_TOO_LARGE)


async def silent(_: trio.SocketStream) -> None:
    await trio.sleep_forever()


def says(answer: bytes, then: Talk = silent) -> Talk:
    """Answer the handshake with these bytes."""

    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await then(stream)

    return talk


def after_upgrade(*sent: bytes, then: Talk = silent) -> Talk:
    """Accept the handshake and send these bytes."""

    async def talk(stream: trio.SocketStream) -> None:
        await upgrade(stream)
        for each in sent:
            await stream.send_all(each)
        await then(stream)

    return talk


async def hang_up(stream: trio.SocketStream) -> None:
    await stream.aclose()


async def when_read_reset(stream: trio.SocketStream) -> None:
    """Reset only once the peer answers, so that nothing sent before can be lost with it."""
    await stream.receive_some()
    await reset(stream)


async def endless_refusal(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9000000000\r\n\r\n")
    while True:
        await stream.send_all(b"x" * 65536)


async def endless_header(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send_all(b"a: " + b"x" * 65536)


@ways
@pytest.mark.parametrize(
    ("talk", "kind", "reason"),
    [
        pytest.param(silent, FeedLost, FeedError.TIMEOUT, id="never answers"),
        pytest.param(says(b"HTTP/1.1 101 Swi"), FeedLost, FeedError.TIMEOUT, id="half an answer"),
        pytest.param(hang_up, FeedLost, FeedError.CONNECT, id="hangs up"),
        pytest.param(reset, FeedLost, FeedError.CONNECT, id="resets"),
        pytest.param(says(b"HTT", reset), FeedLost, FeedError.CONNECT, id="resets in its answer"),
        pytest.param(says(b"220 mail.example.com ESMTP\r\n"), FeedLost, FeedError.PROTOCOL, id="mail server"),
        pytest.param(says(b"\x15\x03\x01\x00\x02\x02\x46" * 9), FeedLost, FeedError.PROTOCOL, id="speaks TLS"),
        pytest.param(says(b"HTTP/1.1 101 X\r\n\r\n"), FeedLost, FeedError.PROTOCOL, id="no upgrade"),
        pytest.param(says(b"HTTP/1.1 200 OK\r\n\x00: \r\n\r\n"), FeedLost, FeedError.PROTOCOL, id="no header"),
        pytest.param(
            says(
                b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
            ),
            FeedLost,
            FeedError.PROTOCOL,
            id="wrong accept",
        ),
        pytest.param(endless_header, FeedLost, FeedError.PROTOCOL, id="endless header"),
        pytest.param(endless_refusal, FeedRefused, FeedError.HTTP_403, id="endless refusal"),
        pytest.param(
            says(b"HTTP/1.0 401 No\r\n\r\nlogin at", hang_up),
            FeedRefused,
            FeedError.HTTP_401,
            id="refusal without length",
        ),
        pytest.param(
            says(b"HTTP/1.1 404 No\r\n\r\nlogin at"), FeedNotFound, FeedError.HTTP_404, id="refusal without end"
        ),
        pytest.param(
            says(b"HTTP/1.1 503 No\r\nContent-Length: 99\r\n\r\nx", reset),
            FeedLost,
            FeedError.HTTP_5XX,
            id="refusal and reset",
        ),
        pytest.param(after_upgrade(then=hang_up), FeedLost, FeedError.CLOSED_ABNORMALLY, id="open, hangs up"),
        pytest.param(after_upgrade(then=reset), FeedLost, FeedError.CLOSED_ABNORMALLY, id="open, resets"),
        pytest.param(
            after_upgrade(frame(b"x" * 900)[:500], then=hang_up),
            FeedLost,
            FeedError.CLOSED_ABNORMALLY,
            id="half a frame, hangs up",
        ),
        pytest.param(
            after_upgrade(frame(b"x" * 900)[:500], then=reset),
            FeedLost,
            FeedError.CLOSED_ABNORMALLY,
            id="half a frame, resets",
        ),
        pytest.param(after_upgrade(b"\x83\x00"), FeedLost, FeedError.PROTOCOL, id="reserved opcode"),
        pytest.param(after_upgrade(frame(b"x" * 126, 9)), FeedLost, FeedError.PROTOCOL, id="huge ping"),
        pytest.param(after_upgrade(frame(b"\xff\xfe")), FeedLost, FeedError.PROTOCOL, id="text is not UTF-8"),
        pytest.param(after_upgrade(close_frame(1)), FeedLost, FeedError.PROTOCOL, id="impossible code"),
        pytest.param(after_upgrade(frame(b"", 8)), FeedLost, FeedError.CLOSED_OTHER, id="close without code"),
        pytest.param(after_upgrade(close_frame(1000)), FeedEnded, None, id="close, stays connected"),
        pytest.param(
            after_upgrade(close_frame(1012), then=when_read_reset),
            FeedLost,
            FeedError.CLOSED_RESTART,
            id="close, resets",
        ),
    ],
)
async def test_a_peer_that_breaks_the_protocol_costs_one_attempt_of_bounded_time(
    way: dict[str, Any], talk: Talk, kind: type[FeedClosed], reason: FeedError | None
) -> None:
    async with rude_server(talk) as url:
        started = trio.current_time()
        frames, closed = await read(live_at(url, **way))
    assert (frames, type(closed), closed.reason) == ([], kind, reason)
    assert trio.current_time() - started < QUICK.connect + 3.0  # the rest is for a busy machine


async def test_an_endless_refusal_is_cut_off_before_the_deadline() -> None:
    async with rude_server(endless_refusal) as url:
        _, closed = await read(live_at(url, timeouts=Timeouts(connect=60)))
    assert closed.reason is FeedError.HTTP_403


async def test_a_closed_port_is_refused() -> None:
    with refused_url() as url:
        _, closed = await read(live_at(url))
    assert (type(closed), closed.reason) == (FeedLost, FeedError.REFUSED)


@pytest.mark.parametrize("host", ["nobody.invalid", "a" * 64 + ".example"])
async def test_an_unknown_host_is_dns(host: str) -> None:
    _, closed = await read(live_at(f"http://{host}", timeouts=Timeouts()))
    assert (type(closed), closed.reason) == (FeedLost, FeedError.DNS)


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (302, FeedLost, FeedError.HTTP_OTHER),
        (400, FeedNotFound, FeedError.HTTP_4XX),
        (401, FeedRefused, FeedError.HTTP_401),
        (403, FeedRefused, FeedError.HTTP_403),
        (404, FeedNotFound, FeedError.HTTP_404),
        (410, FeedNotFound, FeedError.HTTP_4XX),
        (429, FeedLost, FeedError.HTTP_429),
        (500, FeedLost, FeedError.HTTP_5XX),
        (503, FeedLost, FeedError.HTTP_5XX),
    ],
)
@pytest.mark.parametrize("body", [b"", b'{"error": {"message": "+49 171 5550101"}}'])
async def test_the_status_of_the_handshake_decides_the_error(
    status: int, kind: type[FeedClosed], reason: FeedError, body: bytes
) -> None:
    async with live_server(refuses(status, {"Location": "https://example.com/"}, body)) as server:
        _, closed = await read(live_at(server.url, timeouts=Timeouts()))
    assert (type(closed), closed.reason, closed.retry_after) == (kind, reason, None)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("-1", None),
        ("1e9", None),
        ("99999", 30.0),
        ("Wed, 21 Oct 2026 07:28:12 GMT", 12.0),
        ("Wed, 21 Oct 2026 09:00:00 GMT", 30.0),
        ("yesterday", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_a_number_of_seconds_or_a_date_and_30_s_at_most(
    status: int, header: str, seconds: float | None
) -> None:
    async with live_server(refuses(status, {"Retry-After": header})) as server:
        _, closed = await read(live_at(server.url, KEY, QUICK, now=lambda: 1_792_567_680.0))
    assert closed.retry_after == seconds


# --- TLS


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pems")
    make_authority(folder)
    make_certificate(folder, "server", sans="IP:127.0.0.1")
    make_certificate(folder, "other", sans="DNS:other.example.com")
    return folder


def serving_tls(pems: Path, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pems / f"{name}.pem", pems / f"{name}.key")
    return context


async def test_tls_with_a_trusted_certificate_works(pems: Path) -> None:
    async with live_server(plays(snapshot(ID), 1000), tls=serving_tls(pems, "server")) as server:
        frames, closed = await read(live_at(server.url, TOKEN, Timeouts(), tls=trusting(pems)))
    assert frames == [snapshot(ID)]
    assert isinstance(closed, FeedEnded)


@pytest.mark.parametrize("wrong", ["unknown authority", "other name"])
async def test_certificate_that_cannot_be_trusted_is_a_tls_error(pems: Path, wrong: str) -> None:
    name, context = ("server", None) if wrong == "unknown authority" else ("other", trusting(pems))
    certificate = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.load_cert_chain(pems / f"{name}.pem", pems / f"{name}.key")

    async def shake_hands(stream: trio.SocketStream) -> None:
        await trio.SSLStream(stream, certificate, server_side=True).do_handshake()

    async with rude_server(shake_hands) as url:
        secure = url.replace("http:", "https:")
        _, closed = await read(live_at(secure, KEY, Timeouts(), tls=context))
    assert (type(closed), closed.reason) == (FeedLost, FeedError.TLS)


@pytest.mark.parametrize(
    ("talk", "reason"),
    [(says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), FeedError.TLS), (silent, FeedError.TIMEOUT)],
    ids=["speaks plain HTTP", "never answers"],
)
async def test_a_peer_without_tls_costs_one_attempt(pems: Path, talk: Talk, reason: FeedError) -> None:
    async with rude_server(talk) as url:
        secure = url.replace("http:", "https:")
        _, closed = await read(live_at(secure, KEY, QUICK, tls=trusting(pems)))
    assert (type(closed), closed.reason) == (FeedLost, reason)


# --- silence, close, cancellation


async def test_an_idle_feed_whose_peer_answers_pings_stays_open() -> None:
    pings = 0
    pinged_often = trio.Event()

    async def answer_pings(stream: trio.SocketStream) -> None:
        nonlocal pings
        await upgrade(stream)
        while data := await stream.receive_some():
            # A masked ping of 4 bytes: two bytes of header, four of mask, payload.
            if data[0] == 0x89:
                payload = bytes(byte ^ mask for byte, mask in zip(data[6:10], data[2:6], strict=True))
                await stream.send_all(frame(payload, 10))
                pings += 1
            if pings == 3:
                pinged_often.set()
                await stream.send_all(frame(ENDED.encode()) + close_frame(1000))

    async with rude_server(answer_pings) as url:
        # A pong deadline that a busy machine keeps.
        frames, closed = await read(live_at(url, timeouts=Timeouts(idle=0.05, pong=3, disconnect=0.2)))
    assert pinged_often.is_set()
    assert frames == [ENDED]
    assert isinstance(closed, FeedEnded)


@ways
async def test_an_idle_feed_without_a_pong_is_lost_in_time(way: dict[str, Any]) -> None:
    async with rude_server(after_upgrade(frame(AUDIO.encode()))) as url:
        started = trio.current_time()
        frames, closed = await read(live_at(url, **way))
        took = trio.current_time() - started
    assert frames == [AUDIO]
    assert (type(closed), closed.reason) == (FeedLost, FeedError.NO_PONG)
    assert QUICK.idle + QUICK.pong <= took < QUICK.idle + QUICK.pong + 3.0


async def test_a_feed_lost_without_a_pong_does_not_disturb_another() -> None:
    release = trio.Event()
    async with rude_server(after_upgrade()) as deaf, live_server(plays(release, ENDED)) as server:
        # A pong deadline that a busy machine keeps.
        patient = Timeouts(idle=0.05, pong=3, disconnect=0.2)
        lost, kept = live_at(deaf), live_at(server.url, timeouts=patient)
        async with trio.open_nursery() as nursery:

            async def lose() -> None:
                _, closed = await read(lost)
                assert closed.reason is FeedError.NO_PONG
                release.set()

            nursery.start_soon(lose)
            with trio.fail_after(5):
                async with opened(kept) as feed:
                    assert await feed.receive() == ENDED


async def test_a_peer_that_never_answers_our_close_costs_only_the_disconnect_timeout() -> None:
    async with rude_server(after_upgrade(frame(b"{}"))) as url:
        with trio.fail_after(5):
            async with opened(live_at(url)) as feed:
                await feed.receive()
                started = trio.current_time()
    assert QUICK.disconnect <= trio.current_time() - started < QUICK.disconnect + 3.0


async def test_errors_while_closing_are_ignored() -> None:
    async def rude_about_close(stream: trio.SocketStream) -> None:
        await stream.receive_some()  # our Close
        await stream.send_all(b"\x83\x00" * 9)

    async with rude_server(after_upgrade(frame(b"{}"), then=rude_about_close)) as url:
        with trio.fail_after(5):
            async with opened(live_at(url)) as feed:
                await feed.receive()


async def test_a_ping_while_closing_is_no_error() -> None:
    """wsproto raises when it has to answer a ping after our close frame."""

    async def ping_late(stream: trio.SocketStream) -> None:
        await stream.receive_some()  # our Close
        await stream.send_all(frame(b"still there?", 9))
        await stream.send_all(close_frame(1000))

    async with rude_server(after_upgrade(frame(ENDED.encode()), then=ping_late)) as url:
        with trio.fail_after(5):
            async with opened(live_at(url)) as feed:
                assert await feed.receive() == ENDED


@pytest.mark.parametrize("talk", [silent, after_upgrade(), after_upgrade(frame(b"x" * 900)[:500])])
async def test_cancellation_closes_at_once(talk: Talk) -> None:
    heard = trio.Event()

    async def talk_and_tell(stream: trio.SocketStream) -> None:
        heard.set()
        await talk(stream)

    # Timeouts far beyond the deadline of the test, so that waiting for one fails the test.
    patient = Timeouts(connect=60, idle=60, pong=60, disconnect=60)
    async with rude_server(talk_and_tell) as url:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, live_at(url, timeouts=patient))
                await heard.wait()
                nursery.cancel_scope.cancel()


async def test_many_feeds_are_opened_a_few_at_a_time_and_all_of_them() -> None:
    async with live_server(plays(ENDED, 1000)) as server:
        results: list[list[str | bytes]] = []

        async def read_one(conversation_id: str) -> None:
            frames, _ = await read_one_of(live, conversation_id)
            results.append(frames)

        async with live_at(server.url, timeouts=Timeouts())() as live, trio.open_nursery() as nursery:
            for number in range(80):
                nursery.start_soon(read_one, f"conv_{number}")
    assert results == [[ENDED]] * 80
    assert {each.conversation_id for each in server.asked} == {f"conv_{number}" for number in range(80)}


@pytest.mark.parametrize("then", [hang_up, reset, silent], ids=["hangs up", "resets", "stays"])
async def test_feeds_that_reuse_a_descriptor_are_not_confused(then: Talk) -> None:
    async with rude_server(after_upgrade(frame(ENDED.encode()), then=then)) as url:
        with trio.fail_after(10):
            async with live_at(url, timeouts=Timeouts(disconnect=0.01))() as live:
                for number in range(20):
                    async with live.open(f"conv_{number}") as feed:
                        assert await feed.receive() == ENDED


# --- with and without batches


@pytest.mark.parametrize("period", [0.0, 0.01])
async def test_without_batches_the_same_frames_arrive(period: float) -> None:
    sent: list[str | bytes] = [
        snapshot(ID, 1),
        AUDIO,
        snapshot(ID, 2, text="x" * 300_000),
        "not json",
        b"\xff\x00",
        snapshot(ID, 3),
        SAVED,
        ENDED,
    ]
    async with live_server(plays(*sent, 1012)) as server:
        frames, closed = await read(live_at(server.url, timeouts=Timeouts(disconnect=0.2), batch_seconds=period))
    assert frames == sent
    assert (type(closed), closed.reason) == (FeedLost, FeedError.CLOSED_RESTART)


async def test_without_batches_each_snapshot_is_handed_out() -> None:
    taken, more = trio.open_memory_channel[None](0)
    sent = [snapshot(ID, number, duration_ms=number) for number in range(20)]
    steps = [step for each in sent for step in (each, more.receive)]
    async with live_server(plays(*steps)) as server:
        with trio.fail_after(5):
            async with opened(live_at(server.url, timeouts=Timeouts(disconnect=0.2), batch_seconds=0)) as feed:
                for each in sent:
                    assert await feed.receive() == each
                    await taken.send(None)


# --- superseding


async def drained(
    *after: str | int, count: int = 200, **way: Any
) -> tuple[list[str | bytes], int, int, FeedClosed | None]:
    """The frames of a feed that is not read until ``count`` snapshots and the steps ``after`` them have come."""
    sent = trio.Event()

    async def tell() -> None:
        sent.set()

    messages = [snapshot(ID, number % 7, duration_ms=number) for number in range(count)]
    handed: list[str | bytes] = []
    closed = None
    async with (
        live_server(plays(*messages, tell, *after)) as server,
        live_at(server.url, **way)() as live,
    ):
        with trio.fail_after(5):
            try:
                async with live.open(ID) as feed:
                    await sent.wait()
                    try:
                        while not handed or handed[-1] not in (messages[-1], *after):
                            handed.append(await feed.receive())
                        if after:
                            while True:
                                handed.append(await feed.receive())
                    finally:
                        superseded, superseded_bytes = feed.superseded, feed.superseded_bytes
            except FeedClosed as end:
                closed = end
    given = [each for each in handed if each in messages]
    assert given == sorted(given, key=messages.index)
    assert len(given) + superseded == count
    assert sum(map(len, given)) + superseded_bytes == sum(map(len, messages))
    assert messages[-1] in given
    return handed, superseded, superseded_bytes, closed


@ways
async def test_a_slow_reader_gets_few_snapshots_and_always_the_last(way: dict[str, Any]) -> None:
    handed, superseded, _, _ = await drained(**way)
    assert len(handed) < 40
    assert superseded > 160


@ways
async def test_an_end_after_superseded_snapshots_comes_after_the_last_of_them(way: dict[str, Any]) -> None:
    handed, _, _, closed = await drained(AUDIO, ENDED, 1000, **way)
    assert handed[-2:] == [AUDIO, ENDED]
    assert isinstance(closed, FeedEnded)


@pytest.mark.parametrize("count", [*range(14, 20), 200])
async def test_a_close_after_snapshots_is_raised_after_the_last_of_them(count: int) -> None:
    _, _, _, closed = await drained(1012, count=count)
    assert closed is not None
    assert closed.reason is FeedError.CLOSED_RESTART


async def test_snapshots_at_their_usual_pace_are_all_handed_out() -> None:
    taken, more = trio.open_memory_channel[None](0)
    sent = [snapshot(ID, number % 7, duration_ms=number) for number in range(40)]
    steps = [step for each in sent for step in (each, more.receive)]
    async with live_server(plays(*steps)) as server:
        with trio.fail_after(5):
            async with opened(live_at(server.url)) as feed:
                for each in sent:
                    assert await feed.receive() == each
                    await taken.send(None)
                assert (feed.superseded, feed.superseded_bytes) == (0, 0)


# --- the client itself


async def test_what_the_block_raises_leaves_the_client_unchanged() -> None:
    crash = KeyError("ours")
    async with live_server(plays(snapshot(ID), 1012)) as server:
        with pytest.raises(KeyError) as raised:
            async with live_at(server.url)():
                raise crash
        assert raised.value is crash

        async def read_all() -> None:
            async with opened(live_at(server.url)) as feed:
                while True:
                    await feed.receive()

        with pytest.raises(FeedLost) as lost:
            await read_all()
        assert lost.value.reason is FeedError.CLOSED_RESTART


async def test_no_feed_can_be_opened_after_the_client_ended() -> None:
    async with live_server(plays(1000)) as server:
        async with live_at(server.url)() as live:
            pass
        with pytest.raises(RuntimeError):
            async with live.open(ID):
                pass


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def test_the_client_leaves_no_descriptor_open() -> None:
    async with live_server(plays(snapshot(ID), 1000)) as server:
        await read(live_at(server.url))  # opens what stays open for the process
        before = descriptors()
        async with live_at(server.url)() as live, live.open(ID) as feed:
            await feed.receive()
            assert descriptors() > before
        with trio.fail_after(5):
            while descriptors() > before:  # noqa: ASYNC110  # the server closes its end
                await trio.sleep(0.01)


async def test_a_feed_beyond_the_memory_before_it_is_open_is_lost_for_that_reason() -> None:
    async def large_at_once(stream: trio.SocketStream) -> None:
        await stream.send_all(accepting(await request(stream)) + frame(snapshot(ID, text="x" * 5000).encode()))
        await trio.sleep_forever()

    async with rude_server(large_at_once) as url:
        _, closed = await read(live_at(url, memory=Memory(1000)))
    assert (type(closed), closed.reason) == (FeedLost, FeedError.TOO_LARGE)


# --- credentials


async def test_a_rotated_key_is_used_by_all_feeds_that_were_refused_with_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("ph_old")
    credentials = load(api_key_file=file, session_token_file=None, environ={})
    file.write_text("ph_new")
    all_asked = trio.Event()

    async def answer(request: WebSocketRequest) -> None:
        if len(server.asked) == 3:
            all_asked.set()
        await all_asked.wait()
        is_new = (b"authorization", b"Bearer ph_new") in request.headers
        await (plays(1000) if is_new else refuses(401))(request)

    ends: list[FeedClosed] = []

    async def read_twice(live_of: Live) -> None:
        ends.extend([(await read(live_of))[1], (await read(live_of))[1]])

    async with live_server(answer) as server:
        live_of = live_at(server.url, credentials, Timeouts())
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(read_twice, live_of)
    assert sorted(type(each).__name__ for each in ends) == ["FeedEnded"] * 3 + ["FeedLost"] * 3


async def read_as_watcher(live_of: Live) -> FeedClosed:
    """How the only feed of a client ends for a reader that raises at error messages, as the watcher does."""
    with trio.fail_after(5):
        async with live_of() as live:
            try:
                async with live.open(ID) as feed:
                    while True:
                        message = decode(await feed.receive())
                        if message.type is MessageType.ERROR:
                            raise (FeedRefused if message.denied else FeedLost)(FeedError.ERROR_MESSAGE)
            except FeedClosed as closed:
                return closed


REFUSALS: dict[str, tuple[Answer, FeedError]] = {
    "401": (refuses(401), FeedError.HTTP_401),
    "403": (refuses(403), FeedError.HTTP_403),
    "1008": (plays(snapshot(ID), 1008), FeedError.CLOSED_POLICY),
    "error message": (plays(NESTED_ERROR), FeedError.ERROR_MESSAGE),
}
refusals = pytest.mark.parametrize(("answer", "reason"), REFUSALS.values(), ids=REFUSALS)


@refusals
async def test_a_refusal_of_a_key_that_was_replaced_is_a_lost_feed_without_a_wait(
    tmp_path: Path, answer: Answer, reason: FeedError
) -> None:
    file = tmp_path / "key"
    file.write_text("ph_old")
    credentials = load(api_key_file=file, session_token_file=None, environ={})
    async with live_server(answer) as server:
        file.write_text("ph_new")
        closed = await read_as_watcher(live_at(server.url, credentials))
        assert (type(closed), closed.reason, closed.retry_after) == (FeedLost, reason, None)
        await read_as_watcher(live_at(server.url, credentials))
    assert [each.headers["authorization"] for each in server.asked] == ["Bearer ph_old", "Bearer ph_new"]


@refusals
async def test_a_refusal_of_an_unchanged_key_stays_a_refusal(
    tmp_path: Path, answer: Answer, reason: FeedError
) -> None:
    file = tmp_path / "key"
    file.write_text("ph_old")
    async with live_server(answer) as server:
        live_of = live_at(server.url, load(api_key_file=file, session_token_file=None, environ={}))
        for _ in range(2):
            closed = await read_as_watcher(live_of)
            assert (type(closed), closed.reason) == (FeedRefused, reason)


async def test_after_any_error_message_the_credential_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("ph_old")
    credentials = load(api_key_file=file, session_token_file=None, environ={})
    async with live_server(plays(OTHER_ERROR)) as server:
        file.write_text("ph_new")
        closed = await read_as_watcher(live_at(server.url, credentials))
    assert (type(closed), closed.reason) == (FeedLost, FeedError.ERROR_MESSAGE)
    assert credentials.current() == ApiKey("ph_new")


SECRETS = ("ph_", "planted", "5550101", "Bearer")


@pytest.fixture
def log_lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    root, library = logging.getLogger(), logging.getLogger("trio-websocket")
    before = root.handlers[:], root.level, library.level, logging.raiseExceptions
    root.handlers = []
    logs.configure(LogSettings(level="debug"))
    yield lambda: capsys.readouterr().err
    root.handlers[:], root.level, _, logging.raiseExceptions = before
    library.setLevel(before[2])
    structlog.reset_defaults()


@pytest.mark.parametrize("credentials", [KEY, TOKEN], ids=["key", "token"])
@pytest.mark.parametrize(
    "answer",
    [
        plays(snapshot(ID, text="+49 171 5550101"), 1008),
        plays(NESTED_ERROR, 1011),
        refuses(401, {"WWW-Authenticate": "Bearer ph_planted_secret"}, b"+49 171 5550101"),
        refuses(503, {}, b"ph_planted_secret"),
    ],
)
async def test_no_secret_is_in_a_log_line_an_exception_or_a_traceback(
    log_lines: Callable[[], str], credentials: Credentials, answer: Answer
) -> None:
    async with live_server(answer) as server:
        async with live_at(server.url, credentials)() as live:
            shown = repr(live)
            _, closed = await read_one_of(live)
        structlog.get_logger().error("told", exc_info=closed)
        logging.getLogger("any").error("told", exc_info=closed)
    with refused_url() as url:
        _, refused = await read(live_at(url, credentials))
    logged = log_lines()
    assert "told" in logged
    texts = (logged, shown, *("".join(traceback.format_exception(each)) for each in (closed, refused)))
    for text in (*texts, repr(closed), str(closed), repr(closed.__context__), repr(closed.__cause__)):
        assert not [secret for secret in SECRETS if secret in text]


# --- the contract that the scripted double and the real feed share

OpenFeed = Callable[[str], AbstractAsyncContextManager[Feed]]


@asynccontextmanager
async def scripted(*steps: str, end: FeedClosed, code: int) -> AsyncIterator[OpenFeed]:  # noqa: ARG001
    yield ScriptedFeeds([*steps, end]).open


@asynccontextmanager
async def real(*steps: str, end: FeedClosed, code: int) -> AsyncIterator[OpenFeed]:  # noqa: ARG001
    async with live_server(plays(*steps, code)) as server, live_at(server.url)() as live:
        yield live.open


Backend = Callable[..., AbstractAsyncContextManager[OpenFeed]]
backends = pytest.mark.parametrize("backend", [scripted, real])


@backends
@pytest.mark.parametrize(
    ("end", "code"),
    [
        (FeedEnded(), 1000),
        (FeedRefused(FeedError.CLOSED_POLICY), 1008),
        (FeedLost(FeedError.CLOSED_RESTART), 1012),
    ],
)
async def test_contract_frames_first_then_the_end_again_and_again(
    backend: Backend, end: FeedClosed, code: int
) -> None:
    async def use(open_feed: OpenFeed) -> None:
        async with open_feed(ID) as feed:
            assert [await feed.receive(), await feed.receive()] == [snapshot(ID), AUDIO]
            for _ in range(2):
                with pytest.raises(type(end)) as closed:
                    await feed.receive()
                assert closed.value.reason is end.reason
            assert (feed.superseded, feed.superseded_bytes) == (0, 0)
            await feed.receive()

    async with backend(snapshot(ID), AUDIO, end=end, code=code) as open_feed:
        with trio.fail_after(5), pytest.raises(type(end)) as raised:
            await use(open_feed)
    assert raised.value.reason is end.reason


@backends
async def test_contract_exceptions_of_the_block_pass_unchanged(backend: Backend) -> None:
    crash = KeyError("ours")

    async def use(open_feed: OpenFeed) -> None:
        async with open_feed(ID) as feed:
            await feed.receive()
            raise crash

    async with backend(snapshot(ID), end=FeedEnded(), code=1000) as open_feed:
        with trio.fail_after(5), pytest.raises(KeyError) as raised:
            await use(open_feed)
    assert raised.value is crash


@backends
async def test_contract_receive_can_be_cancelled_and_goes_on(backend: Backend) -> None:
    async with backend(snapshot(ID), end=FeedEnded(), code=1000) as open_feed:
        with trio.fail_after(5):
            async with open_feed(ID) as feed:
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await feed.receive()
                assert scope.cancelled_caught
                assert await feed.receive() == snapshot(ID)
