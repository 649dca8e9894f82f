"""The endpoints, in process: paths, statuses, headers and bodies."""

import gzip
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager

import attrs
import httpx
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from exporter.counting.turns import CallState, SeenCall
from exporter.enums import Started
from exporter.errors import ConfigError
from exporter.metrics.formats import Format
from exporter.web.endpoints import Exported, build_app, check_telemetry_path
from exporter.web.pages import Latency, LiveRow, Part, PastRow

ID = "conv_0a-B_9"


@attrs.define
class Program:
    """The data that the endpoints show, which a test can change."""

    page: bytes = b"up 1\n"
    crash: Exception | None = None
    rendered: list[tuple[Format, frozenset[str] | None]] = attrs.field(factory=list)
    reasons: list[str] = attrs.field(factory=list)
    watched: set[str] = attrs.field(factory=set)
    finished: set[str] = attrs.field(factory=set)
    limit: int = 2

    def parts(self, form: Format, names: frozenset[str] | None) -> Iterator[bytes]:
        self.rendered.append((form, names))
        half = len(self.page) // 2
        yield self.page[:half]
        if self.crash:
            raise self.crash
        yield self.page[half:]

    def conversations(self) -> Sequence[dict[str, object]]:
        return [{"conversation_id": conversation_id} for conversation_id in sorted(self.watched)]

    def start(self, conversation_id: str, workspace: str | None) -> Started:  # noqa: ARG002
        if conversation_id in self.finished:
            return Started.FINISHED
        if conversation_id in self.watched:
            return Started.ALREADY_WATCHED
        if len(self.watched) == self.limit:
            return Started.LIMIT_REACHED
        self.watched.add(conversation_id)
        return Started.STARTED

    def stop(self, conversation_id: str) -> bool:
        try:
            self.watched.remove(conversation_id)
        except KeyError:
            return False
        return True


class Nothing:
    """What people are shown of an exporter that has nothing to show. Implements `exporter.web.people.Shown`."""

    objective = 1.5
    remembers = True

    def parts(self) -> list[Part]:
        return [Part(name="Clock", is_well=True, text="right")]

    def uptime(self) -> float:
        return 1.0

    def latencies(self) -> list[Latency]:
        return []

    def live(self, query: str, most: int) -> tuple[list[LiveRow], int]:  # noqa: ARG002
        return [], 0

    async def past(self, query: str, most: int) -> tuple[list[PastRow], int]:  # noqa: ARG002
        return [], 0

    async def call(self, conversation_id: str) -> SeenCall | None:
        return SeenCall(conversation_id=ID, state=CallState.LIVE) if conversation_id == ID else None


Client = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def program() -> Program:
    return Program()


@pytest.fixture
def client(program: Program) -> Client:
    def connect(
        *, telemetry_path: str = "/metrics", max_requests: int = 0, push: bool = False, version: str = "1.2.3"
    ) -> httpx.AsyncClient:
        exported = Exported(
            page=program.parts,
            not_ready=lambda: program.reasons,
            conversations=program.conversations,
            push=program if push else None,
            version=version,
            people=Nothing(),
        )
        app = build_app(exported, telemetry_path=telemetry_path, max_requests=max_requests)
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app, raise_app_exceptions=False),
            base_url="http://exporter",
            headers={"Accept": "*/*", "Accept-Encoding": "identity"},
        )

    return connect


async def test_landing_page_links_every_page_and_escapes_the_version(client: Client) -> None:
    async with client(telemetry_path="/a/metrics", version="<1&2>") as http:
        page = await http.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for path in ("/a/metrics", "/-/healthy", "/-/ready", "/api/v1/conversations"):
        assert f'href="{path}"' in page.text
    assert "&lt;1&amp;2&gt;" in page.text
    assert "<1&2>" not in page.text


async def test_one_conversation_is_a_page_and_json_whether_or_not_ids_may_be_pushed(client: Client) -> None:
    for push in (False, True):
        async with client(push=push) as http:
            page, found = await http.get(f"/conversations/{ID}"), await http.get(f"/api/v1/conversations/{ID}")
            missing = await http.get("/api/v1/conversations/conv_0")
        assert (page.status_code, found.json()["conversation_id"]) == (200, ID)
        assert (missing.status_code, missing.json()) == (404, {"error": "unknown or forgotten"})
        assert "script" not in page.headers["content-security-policy"]


async def test_telemetry_path_at_root_replaces_the_landing_page(client: Client) -> None:
    async with client(telemetry_path="/") as http:
        assert (await http.get("/")).text == "up 1\n"
        assert (await http.get("/metrics")).status_code == 404


@pytest.mark.parametrize("path", ["/nope", "/metrics/", "/metrics/x", "//", "/-/", "/index.html"])
async def test_other_paths_are_not_found(client: Client, path: str) -> None:
    async with client() as http:
        answer = await http.get(f"http://exporter{path}")
    assert (answer.status_code, answer.text) == (404, "Not Found\n")


@pytest.mark.parametrize(
    "path",
    ["/", "/conversations", f"/conversations/{ID}", "/metrics", "/-/healthy", "/livez", "/-/ready", "/readyz"],
)
async def test_pages_are_only_read(client: Client, path: str) -> None:
    async with client() as http:
        assert (await http.head(path)).status_code == 200
        refused = await http.post(path)
    assert refused.status_code == 405
    assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_scrape_is_rendered_in_the_negotiated_format(program: Program, client: Client) -> None:
    async with client() as http:
        page = await http.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert page.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert page.headers["vary"] == "Accept, Accept-Encoding"
    assert program.rendered == [(Format.OPENMETRICS_1_0_0, None)]


async def test_accept_headers_are_one_header_however_often_sent(program: Program, client: Client) -> None:
    async with client() as http:
        headers = [("Accept", "text/html"), ("Accept", "text/plain;version=1.0.0")]
        await http.get("/metrics", headers=headers)
    assert program.rendered == [(Format.TEXT_1_0_0, None)]


async def test_names_restrict_the_families(program: Program, client: Client) -> None:
    async with client() as http:
        await http.get("/metrics?name[]=phonic_up&name[]=process_cpu_seconds_total&other=1")
        await http.get("/metrics?name%5B%5D=phonic_up")
    assert [set(names or ()) for _, names in program.rendered] == [
        {"phonic_up", "process_cpu_seconds_total"},
        {"phonic_up"},
    ]


@pytest.mark.parametrize(
    ("size_bytes", "accept_encoding", "compressed"),
    [(1023, "gzip", False), (1024, "gzip", True), (300_000, "gzip", True), (300_000, "gzip;q=0", False)],
)
async def test_page_is_compressed_when_offered_and_worth_it(
    program: Program, client: Client, size_bytes: int, accept_encoding: str, compressed: bool
) -> None:
    program.page = b"x" * size_bytes
    async with client() as http:
        request = http.build_request("GET", "/metrics", headers={"Accept-Encoding": accept_encoding})
        answer = await http.send(request, stream=True)
        raw = b"".join([part async for part in answer.aiter_raw()])
    assert (answer.headers.get("content-encoding") == "gzip") is compressed
    assert int(answer.headers["content-length"]) == len(raw)
    assert (gzip.decompress(raw) if compressed else raw) == program.page


async def test_error_of_rendering_is_a_500_without_details(program: Program, client: Client) -> None:
    program.crash = KeyError("+4915112345678")
    async with client() as http:
        with capture_logs() as logs:
            answer = await http.get("/metrics")
        assert (answer.status_code, answer.text) == (500, "the metrics page cannot be rendered\n")
        assert [(line["log_level"], line["event"]) for line in logs] == [
            ("error", "metrics page cannot be rendered")
        ]
        assert "+49" not in str(logs)
        assert (await http.get("/api/v1/conversations")).status_code == 200
        program.crash = None
        assert (await http.get("/metrics")).status_code == 200


async def test_other_tasks_run_between_the_parts_of_a_page() -> None:
    turns = 0
    seen: list[int] = []

    def parts(_form: Format, _names: frozenset[str] | None) -> Iterator[bytes]:
        for _ in range(5):
            seen.append(turns)
            yield b"part"

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    exported = Exported(page=parts, not_ready=list, conversations=list, push=None, version="1")
    app = build_app(exported, telemetry_path="/metrics", max_requests=0)
    async with trio.open_nursery() as nursery, httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as http:
        nursery.start_soon(take_turns)
        assert (await http.get("http://exporter/metrics")).text == 5 * "part"
        nursery.cancel_scope.cancel()
    assert seen[-1] - seen[0] >= 3  # one for each of four steps, except for the order of two tasks


async def test_health_check_during_the_first_page_waits_for_its_own(client: Client) -> None:
    async with client() as http, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(http.get, "/metrics")
        assert (await http.get("/-/healthy")).status_code == 200


@pytest.mark.parametrize("path", ["/-/healthy", "/livez"])
async def test_health_tells_whether_a_page_can_be_rendered(
    program: Program, client: Client, path: str, mock_clock: trio.testing.MockClock
) -> None:
    async with client() as http:
        assert (await http.get(path)).status_code == 200
        program.crash = ValueError()
        mock_clock.jump(6)
        assert (await http.get(path)).status_code == 503
        program.crash = None
        await http.get("/metrics")
        assert (await http.get(path)).status_code == 200


async def test_rendering_a_part_of_the_page_does_not_count_as_healthy(program: Program, client: Client) -> None:
    async with client() as http:
        program.crash = ValueError()
        assert (await http.get("/metrics")).status_code == 500
        program.crash = None
        assert (await http.get("/metrics?name[]=up")).status_code == 200
        assert (await http.get("/-/healthy")).status_code == 503


async def test_frequent_health_checks_render_once_in_five_seconds(
    program: Program, client: Client, mock_clock: trio.testing.MockClock
) -> None:
    async with client() as http:
        for _ in range(10):
            await http.get("/-/healthy")
            mock_clock.jump(1)
    assert len(program.rendered) == 2


@pytest.mark.parametrize("path", ["/-/ready", "/readyz"])
async def test_readiness_names_what_is_missing(program: Program, client: Client, path: str) -> None:
    program.reasons = ["first discovery not done", "state not restored"]
    async with client() as http:
        waiting = await http.get(path)
        assert (waiting.status_code, waiting.text) == (503, "first discovery not done\nstate not restored\n")
        program.reasons = []
        assert (await http.get(path)).status_code == 200


async def test_conversations_are_listed_as_json(program: Program, client: Client) -> None:
    program.watched = {ID}
    async with client() as http:
        answer = await http.get("/api/v1/conversations")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"conversations": [{"conversation_id": ID}]}


async def test_conversation_is_started_and_stopped_idempotently(program: Program, client: Client) -> None:
    async with client(push=True) as http:
        path = f"/api/v1/conversations/{ID}"
        started = await http.put(path)
        assert (started.status_code, started.json()) == (201, {"conversation_id": ID, "status": "started"})
        again = await http.put(path)
        assert (again.status_code, again.json()["status"]) == (200, "already watched")
        assert program.watched == {ID}
        assert (await http.delete(path)).status_code == 204
        gone = await http.delete(path)
        assert (gone.status_code, gone.json()["error"]) == (404, "not watched")


async def test_conversation_beyond_the_limit_or_over_is_refused(program: Program, client: Client) -> None:
    program.watched, program.finished = {"conv_1", "conv_2"}, {"conv_3"}
    async with client(push=True) as http:
        full = await http.put("/api/v1/conversations/conv_4")
        over = await http.put("/api/v1/conversations/conv_3")
    assert (full.status_code, full.json()["error"]) == (409, "watch limit reached")
    assert (over.status_code, over.json()["error"]) == (410, "conversation is over")


@pytest.mark.parametrize(
    "conversation_id",
    [
        "",
        "x",
        "conv_",
        "conv_" + "a" * 101,
        "conv_a.b",
        "conv_a%2fb",
        "conv_a%2f..%2fconv_b",
        "%2e%2e",
        "conv_a%00",
        "conv_a%0a",
        "conv_a%20",
        "conv_%c3%a4",
        "conv_%ff",
        "CONV_a",
        "conv_a/",
    ],
)
async def test_malformed_conversation_id_is_refused(
    program: Program, client: Client, conversation_id: str
) -> None:
    async with client(push=True) as http:
        for method in ("PUT", "DELETE"):
            answer = await http.request(method, f"/api/v1/conversations/{conversation_id}")
            assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert program.watched == set()


async def test_api_errors_are_json(client: Client) -> None:
    async with client(push=True) as http:
        missing = await http.get("/api/v1/nope")
        posted = await http.post(f"/api/v1/conversations/{ID}")
        written = await http.post("/api/v1/conversations")
    assert (missing.status_code, missing.json()) == (404, {"error": "Not Found"})
    assert (posted.status_code, posted.json()) == (405, {"error": "Method Not Allowed"})
    assert set(posted.headers["allow"].split(", ")) == {"GET", "HEAD", "PUT", "DELETE"}
    assert written.status_code == 405


async def test_without_push_api_conversations_cannot_be_pushed(client: Client) -> None:
    async with client() as http:
        refused = await http.put(f"/api/v1/conversations/{ID}")
    assert refused.status_code == 405
    assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize("path", ["/metrics", "/", "/a/b", "/phonic-metrics/v1.0"])
def test_telemetry_path_may_be_any_usual_path(path: str) -> None:
    check_telemetry_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "metrics",
        "/-/healthy",
        "/-/x",
        "/-",
        "/api/v1/conversations",
        "/api",
        "/livez",
        "/readyz/",
        "/a b",
        "/{x}",
        "/a?b",
        "//a",
        "/../a",
        "/a/..",
        "/a%20b",
        "/a\n",
    ],
)
def test_telemetry_path_that_is_malformed_or_taken_is_refused(path: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_telemetry_path(path)
    assert refused.value.flag == "--web.telemetry-path"
    assert "\n" not in str(refused.value)


def test_negative_number_of_scrapes_is_refused(client: Client) -> None:
    with pytest.raises(ConfigError, match=r"--web\.max-requests"):
        client(max_requests=-1)


async def test_everything_is_below_the_prefix(program: Program) -> None:
    exported = Exported(
        page=program.parts,
        not_ready=list,
        conversations=program.conversations,
        push=program,
        version="1",
        people=Nothing(),
    )
    app = build_app(exported, telemetry_path="/metrics", max_requests=0, route_prefix="/a/b")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://exporter") as http:
        for path in (
            "/metrics",
            "/",
            "/conversations",
            f"/conversations/{ID}",
            "/-/healthy",
            "/livez",
            "/-/ready",
            "/readyz",
            "/api/v1/conversations",
        ):
            assert (await http.get(f"/a/b{path}")).status_code == 200, path
        for path in ("/metrics", "/api/v1/conversations", "/a/metrics", "/a/b/a/b/metrics"):
            assert (await http.get(path)).status_code == 404, path
        for path in ("/", "/a/b"):
            moved = await http.get(path)
            assert (moved.status_code, moved.headers["location"]) == (302, "/a/b/")
        assert (await http.put(f"/a/b/api/v1/conversations/{ID}")).status_code == 201
        assert program.watched == {ID}
        for path in ("/-/healthy", "/livez", "/-/ready", "/readyz"):  # container probes do not know the prefix
            assert (await http.get(path)).status_code == 200, path


async def test_links_have_the_prefix_of_the_external_url(program: Program) -> None:
    exported = Exported(
        page=program.parts, not_ready=list, conversations=list, push=None, version="1", people=Nothing()
    )
    for route_prefix, link_prefix, expected in (
        ("", "/out", "/out"),
        ("/in", "/out", "/out"),
        ("/in", None, "/in"),
    ):
        app = build_app(
            exported, telemetry_path="/m", max_requests=0, route_prefix=route_prefix, link_prefix=link_prefix
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://exporter") as http:
            page = (await http.get(f"{route_prefix}/")).text
        for path in ("/m", "/-/healthy", "/-/ready", "/api/v1/conversations"):
            assert f'href="{expected}{path}"' in page


@pytest.mark.parametrize(
    "headers",
    [{"Host": "attacker.example"}, {"Origin": "https://attacker.example"}, {"Sec-Fetch-Site": "cross-site"}],
)
async def test_web_pages_of_other_sites_cannot_push(
    program: Program, client: Client, headers: dict[str, str]
) -> None:
    async with client(push=True) as http:
        for method in ("PUT", "DELETE"):
            refused = await http.request(method, f"/api/v1/conversations/{ID}", headers=headers)
            assert (refused.status_code, list(refused.json())) == (403, ["error"])
        assert (await http.get("/metrics", headers=headers)).status_code == 200  # the rule applies to pushing only
    assert program.watched == set()


async def test_few_large_lists_are_rendered_at_the_same_time(client: Client) -> None:
    statuses: list[tuple[int, str | None]] = []

    async def ask() -> None:
        async with http.stream("GET", "/api/v1/conversations") as answer:
            statuses.append((answer.status_code, answer.headers.get("retry-after")))

    async with client() as http:
        async with trio.open_nursery() as nursery:
            for _ in range(9):
                nursery.start_soon(ask)
        assert sorted(statuses, key=str)[:8] == [(200, None)] * 8
        assert (await http.get("/api/v1/conversations")).status_code == 200
