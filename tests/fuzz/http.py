"""Any bytes on a connection of the HTTP server: it ends, raises nothing, and sends only valid responses."""

import logging
from typing import Any

import h11
import structlog
import trio
from trio.testing import MockClock, memory_stream_pair

from exporter.enums import Started
from exporter.metrics.formats import Format
from exporter.web.connections import Connections
from exporter.web.endpoints import Exported, build_app
from exporter.web.http1 import serve_http

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


class Push:
    """Push targets that accept any id."""

    def __init__(self) -> None:
        self.watched: set[str] = set()

    def start(self, conversation_id: str, workspace: str | None) -> Started:  # noqa: ARG002
        self.watched.add(conversation_id)
        return Started.STARTED

    def stop(self, conversation_id: str) -> bool:
        return conversation_id in self.watched


def check(data: bytes) -> None:
    """Send ``data`` in parts; the first byte gives their number."""
    parts, data = (data[0] % 4 + 1, data[1:]) if data else (1, b"")
    said = trio.run(_serve, data, parts, clock=MockClock(autojump_threshold=0))
    if said:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        client.send(h11.EndOfMessage())
        client.receive_data(said)
        event = client.next_event()
        assert isinstance(event, h11.Response | h11.InformationalResponse), said[:200]
        assert event.status_code != 500, said[:200]


async def _serve(data: bytes, parts: int) -> bytes:
    push = Push()
    exported = Exported(page=_page, not_ready=list, conversations=list, push=push, version="1")
    app: Any = build_app(exported, telemetry_path="/metrics", max_requests=2)
    ours, theirs = memory_stream_pair()
    said = b""

    async def listen() -> None:
        nonlocal said
        async for part in theirs:
            said += part

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)

        async def serve() -> None:
            with trio.CancelScope() as scope:
                connections = Connections()
                connection = connections.enter(scope)
                assert connection is not None
                await serve_http(ours, app, connections=connections, connection=connection)
            await ours.aclose()

        nursery.start_soon(serve)
        size = len(data) // parts + 1
        for start in range(0, len(data), size):
            try:
                await theirs.send_all(data[start : start + size])
            except trio.BrokenResourceError:
                break
            await trio.testing.wait_all_tasks_blocked()
        await theirs.send_eof()
    assert all(each.startswith("conv_") for each in push.watched)
    return said


def _page(_form: Format, _names: frozenset[str] | None) -> list[bytes]:
    return [b"up 1\n"]
