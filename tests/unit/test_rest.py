"""The REST client: what it sends, how it decodes replies, and the reasons of its failures."""

import codecs
import gzip
import json
import socket
import ssl
import struct
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
from structlog.testing import capture_logs
from trio.abc import Clock

from exporter.enums import Request, RestError
from exporter.phonic.credentials import ApiKey, Credentials
from exporter.phonic.listing import AgentRow, ListedRow, ListPage, ProjectRow, Workspace
from exporter.phonic.proxies import Proxies, Proxy
from exporter.phonic.rest import LARGEST_BODY, RestApi, RestFailed, open_rest
from tests.unit.certificates import make_authority, make_certificate

KEY = "ph_planted_key"
SECRET = "planted words of a caller"
BASE = "http://127.0.0.1:1"

Handler = Callable[[httpx.Request], httpx.Response]


class Calls:
    """A client in front of a handler, with the requests that it sent and the errors that it reported."""

    def __init__(self, handler: Handler, credentials: Credentials | None = None) -> None:
        self.requests: list[httpx.Request] = []
        self.times: list[float] = []
        self.errors: list[RestError] = []
        self.attempts: list[Request] = []
        self._handler = handler
        self._credentials = credentials or Credentials(ApiKey(KEY))

    @asynccontextmanager
    async def open(self, *, requests_per_second: float = 1e6, now: float = 0.0) -> AsyncIterator[RestApi]:
        def handle(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            self.times.append(trio.current_time())
            return self._handler(request)

        async with open_rest(
            BASE,
            self._credentials,
            on_error=self.errors.append,
            on_request=lambda what, _: self.attempts.append(what),
            requests_per_second=requests_per_second,
            transport=httpx.MockTransport(handle),
            now=lambda: now,
        ) as api:
            yield api


def always(status: int = 200, *, headers: dict[str, str] | None = None, **content: object) -> Handler:
    return lambda _: httpx.Response(status, headers=headers, **content)  # type: ignore[arg-type]


PAGE = {"conversations": [{"id": "c"}], "pagination": {}}


# --- what is sent


@pytest.mark.parametrize("name", ["main", "two words", "a/b?c=d&e#f", "später ☎", "%2F", "../.."])
async def test_a_project_name_is_sent_unchanged(name: str) -> None:
    calls = Calls(always(json=PAGE))
    async with calls.open() as api:
        await api.conversations(name, after="conv_1", limit=7)
    [request] = calls.requests
    assert request.url.path == "/v1/conversations"
    assert dict(request.url.params) == {
        "project": name,
        "after": "conv_1",
        "limit": "7",
    }
    assert request.headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "hostile", ["..", ".", "../projects", "a/b", "x?y=z", "x#y", "%2e%2e", "ü\n", "\ud800", "//h/x"]
)
async def test_an_id_is_one_segment_of_the_path(hostile: str) -> None:
    calls = Calls(always(404))
    async with calls.open() as api:
        assert await api.record(hostile) is None
    [request] = calls.requests
    path = request.url.raw_path.decode()
    assert path.startswith("/v1/conversations/")
    assert not set(path.removeprefix("/v1/conversations/")) & set("/?#.")
    assert request.url.host == "127.0.0.1"


# --- how replies are decoded

ROWS = [
    ({"id": "c", "started_at": "s", "ended_at": "e"}, ListedRow(id="c", started_at="s", ended_at="e")),
    ({"id": "c", "started_at": None, "ended_at": None}, ListedRow(id="c", started_at=None, ended_at=None)),
    ({"id": "c"}, ListedRow(id="c", started_at=None, ended_at=None)),
    ({"id": "c", "started_at": 7, "items": "x", "agent": []}, ListedRow(id="c", started_at=None, ended_at=None)),
    ({"id": "c", "ended_at": 7}, None),
    ({"id": 7}, None),
    ({"id": ""}, None),
    ({"id": "x" * 2000}, None),
    ({}, None),
    (None, None),
    ([], None),
    ("c", None),
]


@pytest.mark.parametrize(("row", "expected"), ROWS)
async def test_an_unusable_row_costs_only_itself(row: object, expected: ListedRow | None) -> None:
    good = {"id": "good"}
    calls = Calls(always(json={"conversations": [good, row, good], "pagination": {"next_cursor": "older"}}))
    async with calls.open() as api:
        page = await api.conversations("main")
    found = ListedRow(id="good", started_at=None, ended_at=None)
    assert page == ListPage(
        rows=[found, *([expected] if expected else []), found],
        next_cursor="older",
        unusable=0 if expected else 1,
    )
    assert calls.errors == ([] if expected else [RestError.WRONG_SHAPE])


@pytest.mark.parametrize("odd", [b'"x": NaN', b'"x": 1e999', b'"x": "\\ud800"', b'"x": ' + b"9" * 5000])
async def test_values_that_are_no_json_do_not_cost_the_rows(odd: bytes) -> None:
    body = b'{"conversations": [{"id": "a", ' + odd + b'}, {"id": "b"}], "pagination": {"next_cursor": null}}'
    async with Calls(always(content=body)).open() as api:
        page = await api.conversations("main")
    assert [row.id for row in page.rows] == ["a", "b"]


@pytest.mark.parametrize("pagination", [None, [], "x", {"next_cursor": 7}, {"next_cursor": ""}])
async def test_unusable_pagination_ends_the_list(pagination: object) -> None:
    async with Calls(always(json={"conversations": [], "pagination": pagination})).open() as api:
        assert (await api.conversations("main")).next_cursor is None


async def test_documented_replies_are_decoded() -> None:
    project = {"id": "p", "name": "customer-support", "default_agent": None}
    replies = {
        "/v1/projects": {
            "projects": [
                {**project, "active_conversations": 3, "max_active_conversations": 50},
                {**project, "active_conversations": True, "max_active_conversations": None},
                {"id": "nameless"},
            ]
        },
        "/v1/workspace": {"active_conversations": 3, "max_active_conversations": 10, "logo_url": "x"},
        "/v1/agents": {"agents": [{"id": "a", "name": "support-agent", "phone_numbers": []}, 7]},
    }
    calls = Calls(lambda request: httpx.Response(200, json=replies[request.url.path]))
    async with calls.open() as api:
        assert await api.projects() == [
            ProjectRow(id="p", name="customer-support", active=3, limit=50),
            ProjectRow(id="p", name="customer-support", active=None, limit=None),
        ]
        assert await api.workspace() == Workspace(3, 10)
        assert await api.agents("customer-support") == [AgentRow("a", "support-agent")]
    assert calls.errors == [RestError.WRONG_SHAPE, RestError.WRONG_SHAPE]


async def test_a_record_of_another_conversation_is_a_failure() -> None:
    calls = Calls(always(json={"conversation": {"id": "c", "ended_by": "user"}}))
    async with calls.open() as api:
        record = await api.record("c")
        assert record is not None
        assert record.conversation.ended_by == "user"
        with pytest.raises(RestFailed) as failed:
            await api.record("another")
    assert failed.value.reason is RestError.WRONG_SHAPE


# --- how it fails

FAILURES = [
    (always(400), RestError.HTTP_4XX, True),
    (always(401), RestError.HTTP_401, False),
    (always(403), RestError.HTTP_403, False),
    (always(404), RestError.HTTP_404, True),
    (always(429), RestError.HTTP_429, False),
    (always(500), RestError.HTTP_5XX, False),
    (always(503), RestError.HTTP_5XX, False),
    (always(204), RestError.HTTP_OTHER, False),
    (always(302, headers={"Location": "http://elsewhere/"}), RestError.HTTP_OTHER, False),
    (always(content=b"<!doctype html><h1>" + SECRET.encode()), RestError.NOT_JSON, False),
    (always(content=b'{"conversations": [{"id": "' + SECRET.encode()), RestError.NOT_JSON, False),
    (always(content=b""), RestError.NOT_JSON, False),
    (always(content=b"[" * 100_000), RestError.NOT_JSON, False),
    (always(json={"conversations": SECRET}), RestError.WRONG_SHAPE, False),
    (always(json={"conversations": {"id": "c"}}), RestError.WRONG_SHAPE, False),
    (always(json={"conversation": {"id": "c"}}), RestError.WRONG_SHAPE, False),
    (always(json=[SECRET]), RestError.WRONG_SHAPE, False),
    (always(content=b"null"), RestError.WRONG_SHAPE, False),
    (always(content=b"{}", headers={"Content-Length": "99999999999"}), RestError.TOO_LARGE, False),
    (always(407), RestError.PROXY, False),
]


@pytest.mark.parametrize(("handler", "reason", "up"), FAILURES)
async def test_a_failure_has_a_reason_and_no_content(handler: Handler, reason: RestError, up: bool) -> None:
    calls = Calls(handler)
    with capture_logs() as lines:
        async with calls.open() as api:
            with pytest.raises(RestFailed) as failed:
                await api.conversations("secret project")
            assert (failed.value.reason, calls.errors, api.up) == (reason, [reason], up)
    told = f"{failed.value!r} {failed.value} {failed.value.__cause__} {lines}"
    assert not any(word in told for word in (SECRET, KEY, "secret project"))
    assert len(calls.requests) == 1  # neither repeated nor redirected


RAISED = [  # by a transport that reports no connection events
    (httpx.ConnectError, RestError.CONNECT),
    (httpx.ReadError, RestError.CONNECT),
    (httpx.RemoteProtocolError, RestError.CONNECT),
    (httpx.ProxyError, RestError.PROXY),
    (httpx.ConnectTimeout, RestError.TIMEOUT),
    (httpx.ReadTimeout, RestError.TIMEOUT),
    (httpx.PoolTimeout, RestError.TIMEOUT),
]


@pytest.mark.parametrize(("error", "reason"), RAISED)
async def test_transport_errors_have_reasons(error: type[httpx.TransportError], reason: RestError) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise error("")

    async with Calls(handler).open() as api:
        with pytest.raises(RestFailed) as failed:
            await api.projects()
        assert (failed.value.reason, api.up) == (reason, False)


class Packed(httpx.AsyncByteStream):
    """A raw body, which httpx has not decompressed."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self._body), 65536):
            yield self._body[at : at + 65536]


EMPTY = gzip.compress(b'{"projects": []}')
BOMB = gzip.compress(b" " * (LARGEST_BODY + 1), compresslevel=1)
ENCODED = [
    pytest.param("gzip", EMPTY, None, id="gzip"),
    pytest.param("GZIP", EMPTY, None, id="in capitals"),
    pytest.param("x-gzip", EMPTY, None, id="by its old name"),
    pytest.param("identity", b'{"projects": []}', None, id="as it is"),
    pytest.param("gzip", BOMB, RestError.TOO_LARGE, id="bomb"),
    pytest.param("gzip, gzip", gzip.compress(BOMB), RestError.NOT_JSON, id="twice"),
    pytest.param("gzip", EMPTY[:-4], RestError.NOT_JSON, id="cut off"),
    pytest.param("gzip", EMPTY + EMPTY, RestError.NOT_JSON, id="two members"),
    pytest.param("gzip", b"x", RestError.NOT_JSON, id="not gzip"),
    pytest.param("gzip", b"", RestError.NOT_JSON, id="empty"),
    pytest.param("deflate", zlib.compress(b" " * LARGEST_BODY), RestError.NOT_JSON, id="deflate"),
    pytest.param("br", b"x", RestError.NOT_JSON, id="brotli"),
    pytest.param("zstd", b"x", RestError.NOT_JSON, id="zstandard"),
]


@pytest.mark.parametrize(("encoding", "body", "reason"), ENCODED)
async def test_a_body_has_one_gzip_at_most_and_is_bounded_decompressed(
    encoding: str, body: bytes, reason: RestError | None
) -> None:
    calls = Calls(lambda _: httpx.Response(200, headers={"Content-Encoding": encoding}, stream=Packed(body)))
    async with calls.open() as api:
        if reason is None:
            assert await api.projects() == []
        else:
            with pytest.raises(RestFailed) as failed:
                await api.projects()
            assert failed.value.reason is reason


async def test_decompressing_a_bomb_takes_little_memory() -> None:
    bomb = gzip.compress(b" " * (4 * LARGEST_BODY), compresslevel=9)
    calls = Calls(lambda _: httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=Packed(bomb)))
    async with calls.open() as api:
        tracemalloc.start()
        try:
            with pytest.raises(RestFailed, match="too_large"):
                await api.projects()
            assert tracemalloc.get_traced_memory()[1] < 2 * LARGEST_BODY
        finally:
            tracemalloc.stop()


LONE = b'"\\ud800"'
SURROGATES = [
    b"{" + LONE + b': 1, "projects": []}',
    b'{"projects": [{' + LONE + b': 1, "id": "p", "name": "n"}]}',
    b'{"projects": [{"id": ' + LONE + b', "name": "n"}]}',
    b'{"projects": [' + LONE + b"]}",
    b'{"projects": ' + LONE + b"}",
    LONE,
]


@pytest.mark.parametrize("body", SURROGATES)
async def test_text_that_utf8_cannot_encode_costs_at_most_the_reply(body: bytes) -> None:
    async with Calls(always(content=body)).open() as api:
        for ask in (api.projects, api.workspace, partial(api.agents, "n"), partial(api.record, "c")):
            try:
                await ask()
            except RestFailed as failed:
                assert failed.reason is RestError.WRONG_SHAPE  # noqa: PT017


async def test_text_that_utf8_cannot_encode_does_not_cost_the_other_rows() -> None:
    odd = b'{"projects": [{"id": ' + LONE + b', "name": "n"}, {' + LONE + b': 1, "id": "p", "name": "n"}]}'
    async with Calls(always(content=odd)).open() as api:
        assert [row.id for row in await api.projects()] == ["p"]


async def test_a_byte_order_mark_is_tolerated() -> None:
    async with Calls(always(content=codecs.BOM_UTF8 + b'{"projects": []}')).open() as api:
        assert await api.projects() == []
    record = b'{"conversation": {"id": "c"}}'
    async with Calls(always(content=codecs.BOM_UTF8 + record)).open() as api:
        assert await api.record("c") is not None


async def test_cookies_are_neither_kept_nor_sent() -> None:
    calls = Calls(always(json={"projects": []}, headers={"Set-Cookie": "a=b; Path=/"}))
    async with calls.open() as api:
        await api.projects()
        await api.projects()
    assert ["Cookie" in each.headers for each in calls.requests] == [False, False]


async def test_every_attempt_is_counted_by_its_kind() -> None:
    calls = Calls(always(500))
    async with calls.open() as api:
        for ask in (
            api.projects,
            api.workspace,
            partial(api.agents, "n"),
            partial(api.conversations, "n"),
            partial(api.record, "c"),
        ):
            with pytest.raises(RestFailed):
                await ask()
    assert calls.attempts == list(Request)


async def test_a_large_list_is_decoded() -> None:
    row = {"id": "c", "items": [{"text": "x" * 1000}] * 20}
    body = json.dumps({"conversations": [row] * 100, "pagination": {}}).encode()
    assert len(body) > 2_000_000  # so it is decoded in a thread
    with trio.fail_after(10):
        async with Calls(always(content=body)).open() as api:
            assert len((await api.conversations("main")).rows) == 100


async def test_the_request_id_is_logged_and_repeated_failures_once() -> None:
    calls = Calls(always(500, headers={"X-Request-Id": "req_7"}))
    with capture_logs() as lines:
        async with calls.open() as api:
            for _ in range(3):
                with pytest.raises(RestFailed, match="http_5xx") as failed:
                    await api.projects()
    assert failed.value.request_id == "req_7"
    assert [(line["log_level"], line["request_id"]) for line in lines] == [
        ("warning", "req_7"),
        ("debug", "req_7"),
        ("debug", "req_7"),
    ]


async def test_up_is_the_result_of_the_last_request() -> None:
    answers = iter([httpx.Response(500), httpx.Response(200, json={"projects": []}), httpx.Response(404)])
    async with Calls(lambda _: next(answers)).open() as api:
        assert api.up is None
        with pytest.raises(RestFailed):
            await api.projects()
        assert api.up is False
        await api.projects()
        assert api.up is True
        assert await api.record("gone") is None
        assert api.up is True


@pytest.mark.parametrize("status", [400, 402, 405, 410, 451])
async def test_an_api_that_refuses_its_list_of_projects_is_not_up(status: int) -> None:
    """Finding conversations always begins with the list of projects."""
    refuses = True

    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status) if refuses else httpx.Response(200, json={"projects": []})

    async with Calls(handler).open() as api:
        with pytest.raises(RestFailed, match="http_4xx"):
            await api.projects()
        assert api.up is False
        refuses = False
        await api.projects()
        assert api.up is True


async def test_an_address_without_a_list_of_projects_is_not_up_and_the_log_says_so() -> None:
    has_api = False

    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"projects": []}) if has_api else httpx.Response(404)

    calls = Calls(handler)
    with capture_logs() as lines:
        async with calls.open() as api:
            with pytest.raises(RestFailed, match="http_404"):
                await api.projects()
            assert api.up is False
            assert await api.record("c") is None
            assert api.up is False
            has_api = True
            await api.projects()
            assert api.up is True
    assert [line["url"] for line in lines if "--phonic.base-url" in line["event"]] == [f"{BASE}/v1"]


# --- the credential


@pytest.mark.parametrize("rotated", [True, False])
async def test_after_a_401_the_key_file_is_read_and_only_a_changed_key_is_tried(
    rotated: bool, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("ph_new" if rotated else "ph_old")

    def handler(request: httpx.Request) -> httpx.Response:
        is_new = request.headers["Authorization"] == "Bearer ph_new"
        return httpx.Response(200, json={"projects": []}) if is_new else httpx.Response(401)

    calls = Calls(handler, Credentials(ApiKey("ph_old"), file=file))
    with trio.fail_after(5):
        async with calls.open() as api:
            if rotated:
                assert await api.projects() == []
            else:
                with pytest.raises(RestFailed, match="http_401"):
                    await api.projects()
    assert len(calls.requests) == (2 if rotated else 1)


async def test_a_key_that_another_request_has_read_is_used(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("ph_new")
    credentials = Credentials(ApiKey("ph_old"), file=file)
    with trio.fail_after(5):
        async with (
            Calls(
                lambda request: (
                    httpx.Response(200, json={"projects": []})
                    if request.headers["Authorization"] == "Bearer ph_new"
                    else httpx.Response(401)
                ),
                credentials,
            ).open() as api,
            trio.open_nursery() as nursery,
        ):
            for _ in range(5):
                nursery.start_soon(api.projects)


# --- the rate


async def test_requests_are_spread_over_each_second(autojump_clock: Clock) -> None:  # noqa: ARG001  # pytest-trio looks among the arguments
    calls = Calls(always(json={"projects": []}))
    async with calls.open(requests_per_second=4.0) as api, trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(api.projects)
    assert all(later - earlier >= 1 - 1e-9 for earlier, later in zip(calls.times, calls.times[4:], strict=False))
    assert calls.times[-1] - calls.times[0] == pytest.approx(39 / 4)


PAUSES = [
    (429, {"Retry-After": "7"}, 7.0),
    (429, {"retry-after-ms": "1500", "Retry-After": "7"}, 1.5),
    (429, {"Retry-After": "Thu, 01 Jan 1970 00:01:40 GMT"}, 10.0),  # now is 90
    (429, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
    (429, {"Retry-After": "1000000000"}, 60.0),
    (503, {"Retry-After": "7"}, 7.0),
]


@pytest.mark.parametrize(("status", "headers", "seconds"), PAUSES)
async def test_all_requests_wait_as_long_as_phonic_asks(
    status: int,
    headers: dict[str, str],
    seconds: float,
    autojump_clock: Clock,  # noqa: ARG001  # pytest-trio looks among the arguments
) -> None:
    answers = iter([httpx.Response(status, headers=headers)])
    calls = Calls(lambda _: next(answers, httpx.Response(200, json={"projects": []})))
    async with calls.open(now=90.0) as api:
        with pytest.raises(RestFailed) as failed:
            await api.projects()
        assert failed.value.retry_after == pytest.approx(seconds)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(api.projects)
    assert all(at - calls.times[0] == pytest.approx(seconds, abs=1e-3) for at in calls.times[1:])


@pytest.mark.parametrize("text", ["", "soon", "-3", "nan", "inf", "Thu, 99 Jan 1970 00:00:00 GMT"])
async def test_unreadable_retry_after_is_a_pause_of_a_second(
    text: str,
    autojump_clock: Clock,  # noqa: ARG001  # pytest-trio looks among the arguments
) -> None:
    answers = iter([httpx.Response(429, headers={"Retry-After": text})])
    calls = Calls(lambda _: next(answers, httpx.Response(200, json={"projects": []})))
    async with calls.open() as api:
        with pytest.raises(RestFailed) as failed:
            await api.projects()
        assert failed.value.retry_after is None
        await api.projects()
    assert calls.times[1] - calls.times[0] == pytest.approx(1.0, abs=1e-3)


async def test_a_request_as_a_whole_has_a_deadline(autojump_clock: Clock) -> None:  # noqa: ARG001  # pytest-trio looks among the arguments
    class Drip(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                await trio.sleep(10)
                yield b" "

    begun = trio.current_time()
    async with Calls(lambda _: httpx.Response(200, stream=Drip())).open() as api:
        with pytest.raises(RestFailed, match="timeout"):
            await api.projects()
    assert trio.current_time() - begun == pytest.approx(60.0)


# --- real sockets


async def peer(stream: trio.SocketStream, *, reply: bytes) -> None:
    """Read one request, send these bytes, and close."""
    async with stream:
        received = b""
        while b"\r\n\r\n" not in received:
            received += await stream.receive_some(65536)
        try:
            await stream.send_all(reply)
        except trio.BrokenResourceError:
            return  # the client has closed


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
RUDE = [
    (HEAD + b"Content-Length: 16\r\n\r\n" + b'{"projects": []}', None),
    (HEAD + b"Content-Length: 100\r\n\r\n" + b'{"projects": [', RestError.CONNECT),
    (HEAD + b"\r\n" + b'{"projects": [', RestError.NOT_JSON),
    (HEAD + b"\r\n" + b" " * (LARGEST_BODY + 1), RestError.TOO_LARGE),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", RestError.CONNECT),
    (b"SSH-2.0-OpenSSH_9.6\r\n", RestError.CONNECT),
    (b"", RestError.CONNECT),
]


@pytest.mark.parametrize(("reply", "reason"), RUDE, ids=[f"{reason}-{len(reply)}" for reply, reason in RUDE])
async def test_a_server_that_breaks_the_protocol_costs_one_request(
    reply: bytes, reason: RestError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            [listener] = await nursery.start(
                partial(trio.serve_tcp, partial(peer, reply=reply), 0, host="127.0.0.1")
            )
            port = listener.socket.getsockname()[1]
            errors: list[RestError] = []
            async with open_rest(
                f"http://127.0.0.1:{port}/", Credentials(ApiKey(KEY)), on_error=errors.append
            ) as api:
                if reason is None:
                    assert await api.projects() == []
                else:
                    with pytest.raises(RestFailed):
                        await api.projects()
                assert errors == ([] if reason is None else [reason])
            nursery.cancel_scope.cancel()


async def reason_of(base_url: str, proxy: Proxy | None = None) -> RestError:
    """How the first request at this address fails."""
    with trio.fail_after(10):
        async with open_rest(base_url, Credentials(ApiKey(KEY)), on_error=lambda _: None, proxy=proxy) as api:
            with pytest.raises(RestFailed) as failed:
                await api.projects()
    return failed.value.reason


async def closed_port() -> int:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    await listener.aclose()
    return port


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_closed_port_is_refused(scheme: str) -> None:
    assert await reason_of(f"{scheme}://127.0.0.1:{await closed_port()}") is RestError.REFUSED
    assert await reason_of(f"{scheme}://localhost:{await closed_port()}") is RestError.REFUSED


async def test_an_unknown_host_is_dns() -> None:
    assert await reason_of("https://no-such-host.invalid") is RestError.DNS


async def test_an_untrusted_certificate_is_tls(tmp_path: Path) -> None:
    make_authority(tmp_path)
    make_certificate(tmp_path, "phonic", sans="IP:127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "phonic.pem", tmp_path / "phonic.key")

    async def shake(stream: trio.SocketStream) -> None:
        async with trio.SSLStream(stream, context, server_side=True) as secure:
            with suppress(trio.BrokenResourceError):
                await secure.receive_some()

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, shake, 0, host="127.0.0.1"))
        assert await reason_of(f"https://127.0.0.1:{listener.socket.getsockname()[1]}") is RestError.TLS
        nursery.cancel_scope.cancel()


async def test_plaintext_instead_of_tls_is_tls() -> None:
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, greet, 0, host="127.0.0.1"))
        assert await reason_of(f"https://127.0.0.1:{listener.socket.getsockname()[1]}") is RestError.TLS
        nursery.cancel_scope.cancel()


async def greet(stream: trio.SocketStream) -> None:
    async with stream:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(b"SSH-2.0-OpenSSH_9.6\r\n")
            while await stream.receive_some():
                pass


@pytest.mark.parametrize("target", ["https://phonic.example", "http://phonic.example"])
@pytest.mark.parametrize("reply", [b"HTTP/1.1 407 Login\r\nContent-Length: 0\r\n\r\n", None])
async def test_a_failure_of_the_proxy_is_proxy(reply: bytes | None, target: str) -> None:
    async with trio.open_nursery() as nursery:
        port = await closed_port()
        if reply is not None:
            [listener] = await nursery.start(
                partial(trio.serve_tcp, partial(peer, reply=reply), 0, host="127.0.0.1")
            )
            port = listener.socket.getsockname()[1]
        proxy = Proxies.from_environment({"ALL_PROXY": f"http://127.0.0.1:{port}"}).for_url(target)
        assert await reason_of(target, proxy) is RestError.PROXY
        nursery.cancel_scope.cancel()


# --- kept connections


class Keeper:
    """A server that answers the first request of a connection, and closes it when the next one arrives.

    ``is_gone``: it closes new connections at once, too.
    """

    def __init__(self, *, rudely: bool) -> None:
        self.connections = 0
        self.is_gone = False
        self._rudely = rudely

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        async with stream:
            if self._rudely:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            received = await stream.receive_some()
            if received and not self.is_gone:
                await stream.send_all(HEAD + b'Content-Length: 16\r\n\r\n{"projects": []}')
                await stream.receive_some()


@pytest.mark.parametrize("rudely", [False, True], ids=["closed", "reset"])
async def test_a_dead_kept_connection_costs_no_request(rudely: bool) -> None:
    keeper, errors, attempts = Keeper(rudely=rudely), list[RestError](), list[Request]()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            [listener] = await nursery.start(partial(trio.serve_tcp, keeper.serve, 0, host="127.0.0.1"))
            async with open_rest(
                f"http://127.0.0.1:{listener.socket.getsockname()[1]}",
                Credentials(ApiKey(KEY)),
                on_error=errors.append,
                on_request=lambda what, _: attempts.append(what),
            ) as api:
                async with trio.open_nursery() as several:
                    for _ in range(3):  # so that several kept ones are dead
                        several.start_soon(api.projects)
                for _ in range(5):
                    assert await api.projects() == []
                    assert api.up is True
                assert errors == []
                assert len(attempts) > 8
                keeper.is_gone = True
                with pytest.raises(RestFailed, match="connect"):
                    await api.projects()
                assert len(errors) == 1
            nursery.cancel_scope.cancel()
