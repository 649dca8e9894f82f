"""The whole program with proxies, unusual variables and impossible settings."""

import contextlib
import socket
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import trio

from tests.e2e.pages import scrape_until
from tests.e2e.programs import ANY_PORT, STUCK_SECONDS, outcome, program
from tests.e2e.upstream import EXAMPLE, live_object, record, updated, upstream
from tests.servers import rude_server

pytestmark = pytest.mark.e2e

KEY = {"PHONIC_API_KEY": "ph_test"}
QUICK = ("--state.file=", "--watch.interval=0.1", "--web.listen-address", ANY_PORT)
ODD = "10.0.0.0/8,fd00::/8,.svc,[::1],::1/128"


class Forwarder:
    """A proxy for one server that tunnels and forwards requests. ``asked``: request lines and credentials."""

    def __init__(self, to: str) -> None:
        self._port = int(to.rpartition(":")[2])
        self.asked: list[bytes] = []
        self.logins: set[bytes] = set()

    async def __call__(self, stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some(65536)
        self.asked.append(head.split(b"\r\n")[0])
        self.logins |= {line for line in head.split(b"\r\n") if line.lower().startswith(b"proxy-auth")}
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as there, trio.open_nursery() as nursery:
            if head.startswith(b"CONNECT "):
                await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                await there.send_all(head.replace(b"GET http://phonic.test/", b"GET /"))
            nursery.start_soon(self._pump, stream, there, nursery.cancel_scope)
            nursery.start_soon(self._pump, there, stream, nursery.cancel_scope)

    async def _pump(self, source: trio.abc.Stream, sink: trio.abc.Stream, done: trio.CancelScope) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async for chunk in source:
                await sink.send_all(chunk.replace(b"GET http://phonic.test/", b"GET /"))
        done.cancel()


async def test_behind_a_proxy_conversations_are_found_and_their_turns_counted(http: httpx.AsyncClient) -> None:
    frames: dict[str, list[str | bytes]] = {EXAMPLE: [updated(live_object())]}
    live = {EXAMPLE: record(ended_at=None, started_at=datetime.now(UTC).isoformat())}
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames=frames, records=live) as phonic:
            forwarder = Forwarder(phonic.url)
            async with rude_server(forwarder) as url:
                variables = {"http_proxy": url.replace("://", "://me:p%40ss@"), "NO_PROXY": ODD}
                command = (*QUICK, "--phonic.base-url=http://phonic.test", "--phonic.allow-http")
                async with program(*command, **KEY, **variables) as running:
                    page = await scrape_until(
                        http, await running.url(), lambda page: page.total("phonic_turns_total") == 3
                    )
    assert page.total("phonic_up") == 1
    assert page.total("phonic_exporter_feed_errors_total") == 0
    assert b"CONNECT phonic.test:80 HTTP/1.1" in forwarder.asked
    assert {line.partition(b"Basic ")[2] for line in forwarder.logins} == {b"bWU6cEBzcw=="}
    assert "p%40ss" not in running.text


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "socks5://127.0.0.1:1"])
async def test_loopback_is_never_proxied(http: httpx.AsyncClient, proxy: str) -> None:
    names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY")
    variables = {**dict.fromkeys(names, proxy), "NO_PROXY": f"{ODD},10.0.0.0/99"}
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames={EXAMPLE: [updated(live_object())]}) as phonic:
            command = (*QUICK, "--phonic.base-url", phonic.url, "--watch.conversation", EXAMPLE)
            async with program(*command, **KEY, **variables) as running:
                await scrape_until(http, await running.url(), lambda page: page.total("phonic_turns_total") == 3)
                warning = await running.line("proxy variable", "variable=NO_PROXY")
    assert "ignored" in warning
    assert running.text.count("variable=NO_PROXY") == 1
    assert "level=error" not in running.text


async def test_lost_feed_logs_the_cause(http: httpx.AsyncClient) -> None:
    with trio.fail_after(STUCK_SECONDS):
        command = (*QUICK, "--phonic.base-url=http://127.0.0.1:1", "--watch.conversation", EXAMPLE)
        async with program(*command, **KEY) as running:
            assert "reason=refused" in await running.line("feed lost")
            await scrape_until(
                http,
                await running.url(),
                lambda page: page.total("phonic_exporter_feed_errors_total", reason="refused") > 0,
            )


async def test_errors_found_only_at_the_start_are_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, trio.fail_after(STUCK_SECONDS):
        used = f"127.0.0.1:{taken.getsockname()[1]}"
        here = "--phonic.base-url=http://127.0.0.1:1"
        for argv, variables, flag in (
            ((here, "--state.file=", "--web.listen-address", used), {}, "--web.listen-address"),
            (("demo", "--web.listen-address", used), {}, "--web.listen-address"),
            (("demo", "--simulator.listen-address", used), {}, "--simulator.listen-address"),
            (("--state.file=",), {"ALL_PROXY": "socks5://proxy"}, "ALL_PROXY"),
            (("check-config", "--state.file="), {"ALL_PROXY": "socks5://proxy"}, "ALL_PROXY"),
            ((here, "--state.file=", f"--phonic.ca-file={tmp_path / 'no.pem'}"), {}, "--phonic.ca-file"),
            (("--log.format=json", "--log.level=debug", "--watch.limit=0"), {}, "--watch.limit"),
        ):
            code, text = await outcome(*argv, **KEY, **variables)
            assert (code, text.count("\n")) == (2, 0), text
            assert text.startswith(f"phonic-exporter: error: {flag}: "), text


async def test_demo_uses_the_address_of_its_simulator(http: httpx.AsyncClient) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
    with trio.fail_after(STUCK_SECONDS):
        async with program(
            "demo", "--web.listen-address", ANY_PORT, "--simulator.listen-address", address
        ) as demo:
            last = await demo.line("The demo is running: open http://127.0.0.1:")
            assert last.endswith("Ctrl-C ends it.")
            answer = await http.get(
                f"http://{address}/v1/projects", headers={"Authorization": "Bearer ph_simulated_key"}
            )
            assert answer.status_code == 200
