"""REST and the live feed through real proxies and with chosen certificate authorities."""

import base64
import contextlib
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from exporter.enums import FeedError
from exporter.errors import ConfigError
from exporter.phonic.credentials import ApiKey, Credentials
from exporter.phonic.live.client import Timeouts, open_live
from exporter.phonic.live.errors import FeedClosed, FeedEnded, FeedLost
from exporter.phonic.live.tunnel import LARGEST_ANSWER
from exporter.phonic.proxies import Proxies, Proxy
from exporter.phonic.rest import RestFailed, open_rest
from exporter.phonic.trust import trusting
from tests.feeds import snapshot
from tests.servers import Talk, live_server, plays, refused_url, reset, rude_server
from tests.unit.certificates import make_authority, make_certificate

ID = "conv_1"
KEY = Credentials(ApiKey("ph_planted_secret"))
# A name that only the proxy can resolve: no request reaches the server unless it goes through the proxy.
ELSEWHERE = "phonic.test"
LOGIN = "me:p@ss"


@attrs.define
class HttpProxy:
    """A proxy that tunnels every CONNECT to one port of loopback. ``asked``: the requests that it got."""

    url: str = ""
    to: int = 0
    asked: list[bytes] = attrs.field(factory=list)
    login: str | None = None

    async def __call__(self, stream: trio.abc.Stream) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await stream.receive_some(65536)
        self.asked.append(request)
        expected = base64.b64encode((self.login or "").encode())
        if self.login and b"Proxy-Authorization: Basic " + expected not in request:
            await stream.send_all(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
            return
        async with await trio.open_tcp_stream("127.0.0.1", self.to) as there, trio.open_nursery() as nursery:
            await stream.send_all(b"HTTP/1.1 200 OK\r\nVia: here\r\n\r\n")
            nursery.start_soon(_pump, stream, there, nursery.cancel_scope)
            nursery.start_soon(_pump, there, stream, nursery.cancel_scope)


async def _pump(source: trio.abc.Stream, sink: trio.abc.Stream, done: trio.CancelScope) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        async for chunk in source:
            await sink.send_all(chunk)
    done.cancel()


@contextlib.asynccontextmanager
async def proxying(
    to: str, *, login: str | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[HttpProxy]:
    proxy = HttpProxy(to=int(to.rpartition(":")[2]), login=login)

    async def talk(stream: trio.SocketStream) -> None:
        secured = stream if tls is None else trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        await proxy(secured)

    async with rude_server(talk) as url:
        proxy.url = url if tls is None else url.replace("http:", "https:")
        yield proxy


def named(proxy_url: str, url: str, login: str = "") -> Proxy:
    """The proxy that an environment names for a URL."""
    found = Proxies.from_environment({"ALL_PROXY": proxy_url.replace("://", f"://{login}")}).for_url(url)
    assert found is not None
    return found


async def read(url: str, timeouts: Timeouts | None = None, **how: Any) -> tuple[list[str | bytes], FeedClosed]:
    frames: list[str | bytes] = []
    with trio.fail_after(10):
        async with open_live(url, KEY, timeouts, **how) as live:
            try:
                async with live.open(ID) as feed:
                    while True:
                        frames.append(await feed.receive())
            except FeedClosed as closed:
                return frames, closed


async def projects(url: str, **how: object) -> list[object]:
    with trio.fail_after(10):
        async with open_rest(url, KEY, on_error=lambda _: None, **how) as rest:  # type: ignore[arg-type]
            return list(await rest.projects())


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pems")
    make_authority(folder)
    make_authority(folder, "stranger")
    make_certificate(folder, "server", sans=f"IP:127.0.0.1,DNS:{ELSEWHERE}")
    return folder


def serving_tls(pems: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pems / "server.pem", pems / "server.key")
    return context


async def rest_answer(stream: trio.abc.Stream) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        request += await stream.receive_some(65536)
    assert b"proxy-authorization" not in request.lower()
    body = b'{"projects": []}'
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await stream.receive_some(1)


@pytest.mark.parametrize("login", ["", "me:p%40ss@"])
async def test_the_live_feed_uses_the_proxy_and_only_the_proxy_gets_its_login(login: str) -> None:
    async with (
        live_server(plays(snapshot(ID), 1000)) as phonic,
        proxying(phonic.url, login=LOGIN if login else None) as proxy,
    ):
        url = f"http://{ELSEWHERE}"
        frames, closed = await read(url, proxy=named(proxy.url, url, login))
    assert frames == [snapshot(ID)]
    assert isinstance(closed, FeedEnded)
    [request] = proxy.asked
    assert request.startswith(b"CONNECT phonic.test:80 HTTP/1.1\r\nHost: phonic.test:80\r\n")
    assert b"planted" not in request
    assert "proxy-authorization" not in phonic.asked[0].headers


@pytest.mark.parametrize("proxy_tls", [False, True], ids=["http proxy", "https proxy"])
async def test_tls_to_phonic_is_inside_the_tunnel(pems: Path, proxy_tls: bool) -> None:
    tls = serving_tls(pems)
    url = f"https://{ELSEWHERE}"
    async with (
        live_server(plays(snapshot(ID, 300), 1000), tls=tls) as phonic,
        proxying(phonic.url, tls=tls if proxy_tls else None, login=LOGIN) as proxy,
    ):
        way = named(proxy.url, url, "me:p%40ss@")
        frames, closed = await read(url, tls=trusting(pems / "ca.pem"), proxy=way)
    assert frames == [snapshot(ID, 300)]
    assert isinstance(closed, FeedEnded)
    assert proxy.asked[0].startswith(b"CONNECT phonic.test:443 ")


@pytest.mark.parametrize("proxy_tls", [False, True], ids=["http proxy", "https proxy"])
async def test_rest_uses_the_proxy_as_the_live_feed_does(pems: Path, proxy_tls: bool) -> None:
    tls = serving_tls(pems)

    async def answer(stream: trio.SocketStream) -> None:
        await rest_answer(trio.SSLStream(stream, tls, server_side=True, https_compatible=True))

    url = f"https://{ELSEWHERE}"
    async with (
        rude_server(answer) as phonic,
        proxying(phonic, tls=tls if proxy_tls else None, login=LOGIN) as proxy,
    ):
        way = named(proxy.url, url, "me:p%40ss@")
        assert await projects(url, proxy=way, ca_file=pems / "ca.pem") == []
    assert proxy.asked[0].startswith(b"CONNECT phonic.test:443 ")


async def test_httpx_reads_no_proxy_variable_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,fd00::/8,.svc,[::1],::1/128")
    async with rude_server(rest_answer) as phonic:
        assert await projects(phonic) == []


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nsorry",
        b"HTTP/1.1 200 OK\r\n\r\nearly words of another",
        b"HTTP/1.1 200 OK\r\nEndless: " + b"x" * LARGEST_ANSWER,
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 20",
        b"",
    ],
)
async def test_a_proxy_that_refuses_the_tunnel_is_a_proxy_error(answer: bytes) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.send_eof()
        while await stream.receive_some():
            pass

    assert await through(talk) == (FeedLost, FeedError.PROXY)


async def test_an_unreachable_or_resetting_proxy_is_a_proxy_error() -> None:
    assert await through(reset) == (FeedLost, FeedError.PROXY)
    url = f"https://{ELSEWHERE}"
    with refused_url() as nobody:
        for proxy in (nobody, "http://nobody.invalid:3128"):
            _, closed = await read(url, proxy=named(proxy, url))
            assert (type(closed), closed.reason) == (FeedLost, FeedError.PROXY)


async def test_a_proxy_that_never_answers_is_a_timeout() -> None:
    async def talk(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    assert await through(talk) == (FeedLost, FeedError.TIMEOUT)


async def through(talk: Talk) -> tuple[type[FeedClosed], FeedError | None]:
    """How a feed ends behind a proxy with this behaviour."""
    url = f"https://{ELSEWHERE}"
    async with rude_server(talk) as proxy:
        _, closed = await read(url, Timeouts(connect=0.5), proxy=named(proxy, url))
    return type(closed), closed.reason


# --- certificate authorities


async def test_only_the_authority_of_the_ca_file_is_trusted(pems: Path) -> None:
    tls = serving_tls(pems)

    async def answer(stream: trio.SocketStream) -> None:
        await rest_answer(trio.SSLStream(stream, tls, server_side=True, https_compatible=True))

    async with rude_server(answer) as url:
        url = url.replace("http:", "https:")
        assert await projects(url, ca_file=pems / "ca.pem") == []
        for other in (pems / "stranger.pem", None):
            with pytest.raises(RestFailed):
                await projects(url, ca_file=other)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "no certificate"),
        (b"ph_planted", "no certificate"),
        (b"-----BEGIN CERTIFICATE-----\nplanted\n-----END CERTIFICATE-----\n", "no certificate"),
        (b"\xff\xfe\x00", "no certificate"),
    ],
)
def test_a_file_without_certificates_is_a_config_error(tmp_path: Path, content: bytes | None, reason: str) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^--phonic\.ca-file: .*{reason}") as refused:
        trusting(file)
    assert "planted" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, tmp_path / "x\0y"):
        with pytest.raises(ConfigError, match=r"^--phonic\.ca-file: "):
            trusting(path)


def test_a_bundle_may_have_text_between_certificates(pems: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    ca, stranger = ((pems / f"{name}.pem").read_bytes() for name in ("ca", "stranger"))
    bundle.write_bytes("Zertifikat für alle\n".encode() + ca + b"\n# and\n" + stranger)
    assert trusting(bundle).cert_store_stats()["x509"] == 2
