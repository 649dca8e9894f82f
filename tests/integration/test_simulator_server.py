"""The simulator as a server, used by the official SDK, a WebSocket client and the control API over loopback."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import h2.connection
import httpx
import msgspec
import phonic
import pytest
import trio
from phonic.core.api_error import ApiError
from phonic.environment import PhonicEnvironment
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from exporter.errors import ConfigError
from exporter.simulator.faults import parse_fault
from exporter.simulator.plan import plan, workspace
from exporter.simulator.scenario import Conversation, Scenario
from exporter.simulator.server import serve
from exporter.simulator.views import analysis, iso

KEY = "ph_simulated_key"
BEARER = {"Authorization": f"Bearer {KEY}"}
SHORT = Scenario(pace=0.005, warm_up_s=0, total=3, calls_per_minute=100_000)
"""Calls of half a second, all at the same time."""
LONG = Scenario(warm_up_s=600, total=120)
"""Calls of minutes: none ends during a test, many have ended before it."""


SDK_IMPORTS = pytest.mark.filterwarnings("ignore:websockets.* deprecated:DeprecationWarning")
"""Ignore warnings of the SDK, which imports a deprecated module of another library."""


class HandshakeRefused(Exception):
    """The server answered the handshake with this HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Simulator:
    """A running simulator, with a client for tests."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self.client = client

    async def get(self, path: str, **query: Any) -> Any:
        response = await self.client.get(path, params=query, headers=BEARER)
        response.raise_for_status()
        return response.json()

    async def control(self, action: str) -> Any:
        return (await self.client.post(f"/simulator/{action}")).raise_for_status().json()

    async def faults(self, *faults: str) -> None:
        (await self.client.put("/simulator/faults", json=list(faults))).raise_for_status()

    async def state(self) -> Any:
        return (await self.client.get("/simulator/state")).json()

    @asynccontextmanager
    async def socket(
        self, conversation_id: str, *, query: str = "", headers: dict[str, str] = BEARER
    ) -> AsyncIterator[WebSocketConnection]:
        """Open a live socket. Owns its stream, which trio-websocket leaves open if the server closes first."""
        address = httpx.URL(self.url)
        refused: list[int] = []
        try:
            async with (
                await trio.open_tcp_stream(address.host, address.port or 80) as stream,
                trio.open_nursery() as nursery,
            ):
                yield await wrap_client_stream(
                    nursery,
                    stream,
                    address.netloc.decode(),
                    f"/v1/conversations/{conversation_id}/live/ws{query}",
                    extra_headers=[(name.encode(), value.encode()) for name, value in headers.items()],
                    max_message_size=2**24,
                )
                nursery.cancel_scope.cancel()
        except* ConnectionRejected as group:
            refused += [each.status_code for each in group.exceptions if isinstance(each, ConnectionRejected)]
        if refused:
            raise HandshakeRefused(refused[0])

    async def watch(self, conversation_id: str, **how: Any) -> tuple[list[str], Any]:
        """Read one socket to its end: the frames, and the close code (None without a close frame)."""
        frames: list[str] = []
        async with self.socket(conversation_id, **how) as socket:
            return frames, await read(socket, frames)


async def read(socket: WebSocketConnection, frames: list[str]) -> int | None:
    while True:
        try:
            frames.append(str(await socket.get_message()))
        except ConnectionClosed as closed:
            return closed.reason.code if closed.reason else None


@asynccontextmanager
async def simulator(scenario: Scenario, **options: Any) -> AsyncIterator[Simulator]:
    faults = tuple(map(parse_fault, options.pop("faults", ())))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            async def run(task_status: trio.TaskStatus[str]) -> None:
                await serve(scenario, faults=faults, task_status=task_status, **options)

            url = await nursery.start(run)
            async with httpx.AsyncClient(base_url=url, timeout=5) as client:
                yield Simulator(url, client)
            nursery.cancel_scope.cancel()


def conversations(frames: list[str]) -> list[dict[str, Any]]:
    """Return the snapshots among the frames."""
    found = []
    for frame in frames:
        try:
            message = msgspec.json.decode(frame)
        except msgspec.DecodeError:
            continue
        if isinstance(message, dict) and isinstance(message.get("conversation"), dict):
            found.append(message["conversation"])
    return found


def spoken(scenario: Scenario) -> Conversation:
    """Return a planned conversation with turns."""
    return next(each for each in plan(scenario) if len(each.turns) > 6)


# The live socket


async def test_an_observer_reads_a_conversation_to_its_planned_end() -> None:
    planned = spoken(SHORT)
    async with simulator(SHORT) as phone:
        frames, code = await phone.watch(planned.id)
        messages = [json.loads(frame) for frame in frames]
        last = conversations(frames)[-1]
        assert code == 1000
        assert [each["type"] for each in messages[:2]] == ["conversation-updated", "conversation-audio"]
        assert {each["type"] for each in messages[2:]} <= {
            "conversation-updated",
            "conversation-ended",
            "conversation-saved",
        }
        assert messages[-1]["type"] in ("conversation-ended", "conversation-saved")
        assert (last["is_live"], last["end_reason"]) == (False, planned.ended_by)
        assert last["duration_ms"] == planned.duration_ms
        assert [
            (item["item_idx"], item["role"], item["duration_ms"], item.get("timings")) for item in last["items"]
        ] == [(turn.index, turn.role, turn.duration_ms, turn.timings) for turn in planned.turns]


async def test_first_update_arrives_at_once_with_all_turns_so_far() -> None:
    async with simulator(LONG) as phone:
        listed = (await phone.get("/v1/conversations", limit=100))["conversations"]
        live = next(each for each in listed if each["ended_at"] is None and len(each["items"]) > 2)
        async with phone.socket(live["id"]) as socket:
            first = json.loads(await socket.get_message())
        assert first["conversation"]["is_live"]
        assert len(first["conversation"]["items"]) >= len(live["items"])


async def test_a_live_conversation_ends_for_rest_only_when_its_observer_has_everything() -> None:
    planned = spoken(SHORT)
    async with simulator(SHORT) as phone, phone.socket(planned.id) as socket:
        while True:
            message = json.loads(await socket.get_message())
            ended = (await phone.get(f"/v1/conversations/{planned.id}"))["conversation"]["ended_at"]
            if message["type"] in ("conversation-ended", "conversation-saved"):
                break
        assert ended is not None


@pytest.mark.parametrize(
    ("refuse", "types", "close"), [(False, "conversation-saved", 1000), (True, "error", 1008)]
)
async def test_a_socket_to_an_ended_conversation_gets_its_end(refuse: bool, types: str, close: int) -> None:
    planned = next(iter(plan(LONG)))
    async with simulator(LONG, refuse_ended=refuse) as phone:
        frames, code = await phone.watch(planned.id)
    assert [json.loads(frame)["type"] for frame in frames] == [types]
    assert code == close


async def test_an_unknown_conversation_is_refused_at_the_handshake() -> None:
    async with simulator(LONG) as phone:
        with pytest.raises(HandshakeRefused) as refused:
            async with phone.socket("conv_unknown"):
                pass
    assert refused.value.status == 404


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", {}),
        ("", {"Authorization": "Bearer wrong"}),
        ("?session_token=ph_session_wrong", {}),
        ("?session_token=ph_session_wrong", BEARER),
    ],
)
async def test_a_bad_credential_gets_an_error_and_close_1008(query: str, headers: dict[str, str]) -> None:
    planned = spoken(LONG)
    async with simulator(LONG) as phone:
        frames, code = await phone.watch(planned.id, query=query, headers=headers)
    (error,) = map(json.loads, frames)
    assert error["type"] == "error"
    assert error["error"]["message"]
    assert code == 1008


async def test_a_session_token_reads_only_its_conversations() -> None:
    first, second = (each for each in list(plan(SHORT))[:2])
    async with simulator(SHORT) as phone:
        minted = await phone.client.post(
            "/v1/auth/session_token", headers=BEARER, json={"ttl_seconds": 60, "conversation_ids": [first.id]}
        )
        query = f"?session_token={minted.json()['session_token']}"
        frames, code = await phone.watch(first.id, query=query, headers={})
        assert code == 1000
        assert "project_id" not in conversations(frames)[-1]
        frames, code = await phone.watch(second.id, query=query, headers={})
        assert json.loads(frames[0]) == {"type": "error", "message": "Unauthorized access to conversation"}
        assert code == 1008
        frames, code = await phone.watch(first.id, query=query)
        assert code == 1008


# Faults of the live socket


async def observed(phone: Simulator, planned: Conversation) -> list[str]:
    """Return all frames until the end, over as many connections as needed."""
    frames: list[str] = []
    for _ in range(500):
        try:
            async with phone.socket(planned.id) as socket:
                if await read(socket, frames) == 1000:
                    return frames
        except HandshakeRefused:
            pass
    raise AssertionError("never came to the end")


@pytest.mark.parametrize(
    ("faults", "sent"),
    [
        (["drop=0.3"], "cut"),
        (["duplicate=0.5"], "duplicate"),
        (["stale=0.5"], "stale"),
        (["gap=0.7"], None),
        (["garbage=0.6"], "garbage"),
        (["reject-503=0.5", "reject-429=0.2", "drop=0.2"], "cut"),
        (["drop=0.1", "duplicate=0.2", "stale=0.2", "gap=0.2", "garbage=0.2"], "garbage"),
    ],
)
async def test_no_transport_fault_hides_the_final_values(faults: list[str], sent: str | None) -> None:
    planned = spoken(SHORT)
    async with simulator(SHORT, faults=faults) as phone:
        frames = await observed(phone, planned)
        state = await phone.state()
    last = conversations(frames)[-1]
    assert [(item["duration_ms"], item.get("timings")) for item in last["items"]] == [
        (turn.duration_ms, turn.timings) for turn in planned.turns
    ]
    assert sent is None or state["sent"][sent] > 0


async def test_dropped_sockets_close_in_several_ways() -> None:
    async with simulator(LONG, faults=["drop=1"]) as phone:
        planned = next(each for each in plan(LONG) if each.created_ms < 0 and each.ended_ms > 60_000)
        codes = {(await phone.watch(planned.id))[1] for _ in range(25)}
    assert codes == {1006, 1001, 1011, 1012}


async def test_garbage_leaves_the_next_frame_good() -> None:
    planned = spoken(SHORT)
    async with simulator(SHORT, faults=["garbage=1"]) as phone:
        frames, _ = await phone.watch(planned.id)
    bad = 0
    for frame in frames:
        try:
            msgspec.json.decode(frame)
        except msgspec.DecodeError:
            bad += 1
    assert bad > 0
    assert any('"model_generation_time":-1' in frame or "1e999" in frame or "NaN" in frame for frame in frames)


async def test_a_storm_drops_every_socket_at_its_time() -> None:
    planned = next(each for each in plan(LONG) if each.created_ms < 0 and each.ended_ms > 60_000)
    async with simulator(LONG) as phone:
        async with phone.socket(planned.id) as socket:
            at_s = (await phone.state())["now_ms"] / 1000 + 0.3
            await phone.faults(f"storm=1@{at_s:.3f}:")
            assert await read(socket, []) != 1000
            assert (await phone.state())["now_ms"] >= at_s * 1000
        async with phone.socket(planned.id) as socket:
            assert json.loads(await socket.get_message())["type"] == "conversation-updated"


async def test_an_outage_refuses_everything_and_drops_what_is_open() -> None:
    planned = next(each for each in plan(LONG) if each.created_ms < 0 and each.ended_ms > 60_000)
    async with simulator(LONG) as phone:
        async with phone.socket(planned.id) as socket:
            await phone.faults("outage=1")
            assert await read(socket, []) != 1000
        with pytest.raises(HandshakeRefused) as refused:
            async with phone.socket(planned.id):
                pass
        assert refused.value.status == 503
        assert (await phone.client.get("/v1/projects", headers=BEARER)).status_code == 503
        await phone.faults()
        assert await phone.get("/v1/projects")


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_handshakes_can_be_refused_with_any_status(status: int) -> None:
    planned = spoken(LONG)
    async with simulator(LONG, faults=[f"reject-{status}=1"]) as phone:
        with pytest.raises(HandshakeRefused) as refused:
            async with phone.socket(planned.id):
                pass
    assert refused.value.status == status


async def test_a_silent_socket_only_answers_pings() -> None:
    planned = next(each for each in plan(LONG) if each.created_ms < 0 and each.ended_ms > 60_000)
    async with simulator(LONG, faults=["silence=1@:0.5"]) as phone, phone.socket(planned.id) as socket:
        await socket.ping()
        assert (await phone.state())["sent"] == {}
        assert json.loads(await socket.get_message())["type"] == "conversation-updated"  # when the window closes


# The control API


async def test_held_conversations_end_on_release_with_planned_values() -> None:
    planned = spoken(SHORT)
    async with simulator(SHORT) as phone:
        await phone.control("hold")
        async with phone.socket(planned.id) as socket:
            while len(
                snapshot := json.loads(await socket.get_message()).get("conversation", {"items": []})["items"]
            ) < len(planned.turns):
                pass
            state = await phone.state()
            while not state["conversations"][planned.id]["last_snapshot_sent"]:
                await socket.get_message()
                state = await phone.state()
            record = (await phone.get(f"/v1/conversations/{planned.id}"))["conversation"]
            assert record["ended_at"] is None
            assert state["held"]
            assert not state["complete"]
            await phone.control("release")
            frames: list[str] = []
            assert await read(socket, frames) == 1000
        record = (await phone.get(f"/v1/conversations/{planned.id}"))["conversation"]
        assert record["ended_at"] == iso(state["epoch_ms"] + planned.ended_ms)
        assert conversations(frames)[-1]["duration_ms"] == planned.duration_ms == record["duration_ms"]
        assert len(snapshot) == len(planned.turns)


async def test_dropping_all_sockets_leaves_their_conversations_live() -> None:
    planned = next(each for each in plan(LONG) if each.created_ms < 0 and each.ended_ms > 60_000)
    async with simulator(LONG) as phone, phone.socket(planned.id) as socket:
        await socket.get_message()
        assert await phone.control("drop") == {"dropped": 1}
        assert await read(socket, []) != 1000
        state = await phone.state()
        assert state["conversations"][planned.id] == {"live": True, "connections": 1, "last_snapshot_sent": False}


async def test_a_patient_conversation_waits_for_an_observer() -> None:
    planned = min(plan(SHORT), key=lambda each: each.ended_ms)
    async with simulator(SHORT, patient=True) as phone:
        await observed(phone, max(plan(SHORT), key=lambda each: each.ended_ms))
        assert (await phone.state())["conversations"][planned.id]["live"]
        await observed(phone, planned)
        assert not (await phone.state())["conversations"][planned.id]["live"]


async def test_conversations_end_unobserved_in_an_absence_unless_they_began_before() -> None:
    first, *_, last = conversations = list(plan(attrs.evolve(SHORT, calls_per_minute=200)))
    async with simulator(attrs.evolve(SHORT, calls_per_minute=200), patient=True) as phone:
        await phone.control("hold")
        await read_to_the_last_snapshot(phone, first)
        await phone.control("leave")
        while (await phone.state())["now_ms"] <= last.ended_ms:
            assert (await phone.state())["absences"][0][1] is None
        [[since, until]] = (await phone.control("release"))["absences"]
        state = (await phone.state())["conversations"]
        for each in conversations:
            assert state[each.id]["live"] == (each.created_ms <= since or each.ended_ms > until)
        assert state[first.id] == {"live": True, "connections": 1, "last_snapshot_sent": False}
        await observed(phone, first)
        assert not (await phone.state())["conversations"][first.id]["live"]


async def read_to_the_last_snapshot(phone: Simulator, planned: Conversation) -> None:
    async with phone.socket(planned.id) as socket:
        while not (await phone.state())["conversations"][planned.id]["last_snapshot_sent"]:
            await socket.get_message()


async def test_planned_and_unknown_faults_are_refused_at_run_time() -> None:
    async with simulator(LONG) as phone:
        for body in (["slow-model=3"], ["nonsense=1"], ["drop=7"], {"drop": 1}):
            response = await phone.client.put("/simulator/faults", json=body)
            assert response.status_code == 400
            assert response.json()["error"]["message"]


async def test_an_address_in_use_is_a_config_error() -> None:
    async with simulator(LONG) as phone:
        with pytest.raises(ConfigError, match="in use"):
            await serve(LONG, listen=phone.url.removeprefix("http://"))


# REST


def agents_of(project: str, sdk: phonic.Phonic) -> Any:
    return sdk.agents.list(project=project)


async def with_sdk(phone: Simulator, ask: Callable[[phonic.Phonic], Any], key: str = KEY) -> Any:
    environment = PhonicEnvironment(base=f"{phone.url}/v1", production=phone.url.replace("http", "ws"))

    def run() -> Any:
        with httpx.Client() as client:
            return ask(phonic.Phonic(environment=environment, api_key=key, httpx_client=client))

    return await trio.to_thread.run_sync(run)


@SDK_IMPORTS
async def test_the_official_sdk_reads_every_reply() -> None:
    planned = next(
        each for each in plan(LONG) if each.turns and each.interruptions and each.project.name == "main"
    )
    async with simulator(LONG) as phone:
        await phone.control("hold")
        projects = (await with_sdk(phone, lambda sdk: sdk.projects.list())).projects
        assert [project.name for project in projects] == ["main", "customer support", "Réservations ☎"]
        summary = await with_sdk(phone, lambda sdk: sdk.workspace.get())
        assert summary.active_conversations == sum(project.active_conversations for project in projects) > 0
        agents = [
            agent
            for project in projects
            for agent in (await with_sdk(phone, partial(agents_of, project.name))).agents
        ]
        assert {agent.id for agent in agents} == {agent.id for agent in workspace(LONG).agents}
        strict_agents = [type(agent).model_validate(agent.model_dump()) for agent in agents]
        assert strict_agents
        page = await with_sdk(phone, lambda sdk: sdk.conversations.list(limit=100))
        assert len(page.conversations) > 10
        one = (await with_sdk(phone, lambda sdk: sdk.conversations.get(planned.id))).conversation
        type(one).model_validate_json(one.model_dump_json())
        assert one.ended_by == planned.ended_by
        assert one.started_at.tzinfo is not None
        assert [(item.item_idx, item.role, item.duration_ms) for item in one.items] == [
            (turn.index, turn.role, turn.duration_ms) for turn in planned.turns
        ]
        assert one.analysis.interruptions_count == planned.interruptions
        seen = (await with_sdk(phone, lambda sdk: sdk.conversations.get_analysis(planned.id))).analysis
        assert seen.latencies_ms == analysis(planned)["latencies_ms"]
        token = await with_sdk(phone, lambda sdk: sdk.auth.create_session_token(ttl_seconds=60))
        assert token.session_token.startswith("ph_session_")


@SDK_IMPORTS
async def test_the_official_sdk_understands_errors() -> None:
    async with simulator(LONG) as phone:
        for ask, key, status in (
            (lambda sdk: sdk.projects.list(), "wrong", 401),
            (lambda sdk: sdk.conversations.get("conv_unknown"), KEY, 404),
            (lambda sdk: sdk.conversations.list(project="unknown"), KEY, 404),
        ):
            with pytest.raises(ApiError) as refused:
                await with_sdk(phone, ask, key)
            assert refused.value.status_code == status


async def test_pages_follow_each_other_both_ways() -> None:
    async with simulator(LONG) as phone:
        await phone.control("hold")
        everything = (await phone.get("/v1/conversations", limit=100))["conversations"]
        ids = [each["id"] for each in everything]
        expected = [each.id for each in plan(LONG) if each.project.name == "main"]
        assert ids == [each for each in reversed(expected) if each in ids]
        older = await phone.get("/v1/conversations", limit=5)
        walked = [each["id"] for each in older["conversations"]]
        while older["pagination"]["next_cursor"]:
            older = await phone.get("/v1/conversations", limit=5, after=older["pagination"]["next_cursor"])
            walked += [each["id"] for each in older["conversations"]]
        assert walked == ids
        back = [each["id"] for each in older["conversations"]]
        while older["pagination"]["prev_cursor"]:
            older = await phone.get("/v1/conversations", limit=5, before=older["pagination"]["prev_cursor"])
            back = [each["id"] for each in older["conversations"]] + back
        assert back == ids


async def test_lists_can_be_filtered() -> None:
    async with simulator(LONG) as phone:
        rows = (await phone.get("/v1/conversations", limit=100))["conversations"]
        middle = sorted(row["started_at"] for row in rows if row["started_at"])[len(rows) // 2]
        newer = (await phone.get("/v1/conversations", limit=100, started_at_min=middle))["conversations"]
        older = (await phone.get("/v1/conversations", limit=100, started_at_max=middle))["conversations"]
        assert {row["started_at"] >= middle for row in newer} == {True}
        assert {row["started_at"] <= middle for row in older} == {True}
        one = await phone.get("/v1/conversations", external_id=rows[0]["external_id"])
        assert one["conversation"]["id"] == rows[0]["id"]
        long = (await phone.get("/v1/conversations", limit=100, duration_min=120))["conversations"]
        assert 0 < len(long) < len(rows)


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"started_at_min": "yesterday"}, "started_at_min"),
        ({"duration_max": "-1"}, "duration_max"),
        ({"before": "a", "after": "b"}, "before"),
    ],
)
async def test_wrong_parameters_are_named(query: dict[str, str], parameter: str) -> None:
    async with simulator(LONG) as phone:
        response = await phone.client.get("/v1/conversations", params=query, headers=BEARER)
    assert response.status_code == 400
    assert parameter in response.json()["param_errors"]


async def test_every_reply_has_a_request_id_and_needs_a_credential() -> None:
    async with simulator(LONG) as phone:
        token = await phone.client.post("/v1/auth/session_token", headers=BEARER)
        wrong_kind = {"Authorization": f"Bearer {token.json()['session_token']}"}
        for headers, status in ((BEARER, 200), ({}, 401), ({"Authorization": "Basic x"}, 401), (wrong_kind, 403)):
            response = await phone.client.get("/v1/workspace", headers=headers)
            assert response.status_code == status
            assert response.headers["x-request-id"]
        for body, status in ((b"{", 400), (b"[]", 400), (b'{"ttl_seconds":59}', 400), (b"", 200)):
            response = await phone.client.post("/v1/auth/session_token", headers=BEARER, content=body)
            assert response.status_code == status


async def test_rest_faults_have_the_named_effect() -> None:
    async with simulator(LONG) as phone:
        await phone.faults("rest-500=1")
        assert (await phone.client.get("/v1/projects", headers=BEARER)).status_code == 500
        await phone.faults("rest-429=1")
        limited = await phone.client.get("/v1/projects", headers=BEARER)
        assert (limited.status_code, limited.headers["retry-after"]) == (429, "1")
        await phone.faults("rest-html=1")
        assert "<h1>" in (await phone.client.get("/v1/projects", headers=BEARER)).text
        await phone.faults("rest-truncated=1")
        with pytest.raises(json.JSONDecodeError):
            (await phone.client.get("/v1/projects", headers=BEARER)).json()
        await phone.faults("rest-timeout=1")
        with pytest.raises(httpx.ReadTimeout):
            await phone.client.get("/v1/projects", headers=BEARER, timeout=0.2)


async def test_a_run_with_a_past_epoch_starts_in_the_middle() -> None:
    async with simulator(SHORT, epoch=time.time() - 3600) as phone:
        state = await phone.state()
    assert state["complete"]
    assert len(state["conversations"]) == SHORT.total


# Errors


@pytest.mark.parametrize("listen", ["unknown.invalid:1", "192.0.2.1:1"])
async def test_unavailable_address_is_a_config_error(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"^--simulator\.listen-address: cannot listen on "):
        await serve(SHORT, listen=listen)


async def test_crash_on_one_connection_ends_no_other() -> None:
    """HTTP/2 with a path that is not ASCII raises inside the library."""
    rude = h2.connection.H2Connection()
    rude.initiate_connection()
    fields = [(b":method", b"GET"), (b":path", b"/\xff"), (b":scheme", b"http"), (b":authority", b"a")]
    rude.send_headers(1, fields, end_stream=True)
    async with simulator(LONG) as phone:
        listed = (await phone.get("/v1/conversations", limit=100))["conversations"]
        live = next(each for each in listed if each["ended_at"] is None)
        async with phone.socket(live["id"]) as socket:
            await socket.get_message()
            address = httpx.URL(phone.url)
            async with await trio.open_tcp_stream(address.host, address.port or 0) as stream:
                await stream.send_all(rude.data_to_send())
                async for _ in stream:
                    pass
            await socket.ping()
        assert await phone.get("/v1/projects")
