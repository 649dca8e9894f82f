"""Edge: the load generator, a process of its own that plays Phonic with prepared bytes.

Each snapshot is framed only once, with a placeholder as long as every conversation id, so that sending is a
replacement in memory and a write. REST implements only the requests of the exporter.

The parent sends commands as lines, and gets one line for each: ``port`` returns the port, ``go`` starts sending,
``status`` returns the progress. The process ends at the end of its standard input.
"""

import json
import os
import ssl
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import trio

from . import wire
from .calls import PLACEHOLDER, PROJECTS, calls, conversation_id, conversation_number, record
from .load import Load, Played

_LONGEST_HEAD = 16 * 1024
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, OSError)


class Server:
    """Plays one load."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._go = trio.Event()
        self._began = 0.0
        self._open = 0
        self._first_open = self._last_open = 0.0
        self._sent = 0
        self._behind = 0.0
        played = slice(load.first - 1, load.first - 1 + load.updates)
        made = calls(load.turns, non_ascii=load.non_ascii) if load.updates else []
        self._calls = [[wire.frame(each) for each in call[played]] for call in made]
        if any(len(call) < load.updates for call in self._calls):
            raise ValueError("the call has fewer turns than the load has updates")
        self._rest = _Rest(load)

    def go(self) -> None:
        self._began = trio.current_time()
        self._go.set()

    @property
    def played(self) -> Played:
        return Played(
            open=self._open, opening=self._last_open - self._first_open, sent=self._sent, behind=self._behind
        )

    async def serve(self, transport: trio.abc.Stream) -> None:
        """Serve one connection until the client closes it."""
        received = bytearray()
        try:
            async with transport:
                while (head := await _head(transport, received)) is not None:
                    request = wire.read_request(head)
                    if request.is_upgrade:
                        await transport.send_all(wire.accepting(request))
                        await self._feed(transport, received, conversation_number(request.path.split("/")[3]))
                        return
                    await transport.send_all(wire.answering(self._rest.answer(request)))
        except* _GONE:
            pass

    async def _feed(self, transport: trio.abc.Stream, received: bytearray, number: int) -> None:
        self._last_open = trio.current_time()
        self._first_open = self._first_open or self._last_open
        self._open += 1
        sending = trio.Lock()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, transport, sending, number)
                await _answer_pings(transport, sending, received)
                nursery.cancel_scope.cancel()
        finally:
            self._open -= 1

    async def _send(self, transport: trio.abc.Stream, sending: trio.Lock, number: int) -> None:
        await self._go.wait()
        load = self._load
        identity = conversation_id(number).encode()
        start = self._began + load.period * (number / load.conversations)
        for at in range(load.updates):
            if load.period:
                due = start + at * load.period
                await trio.sleep_until(due)
                self._behind = max(self._behind, trio.current_time() - due)
            frame = self._calls[number % len(self._calls)][at].replace(PLACEHOLDER, identity)
            async with sending:
                await transport.send_all(frame)
            self._sent += 1


class _Rest:
    """The part of the REST API that the exporter reads."""

    def __init__(self, load: Load) -> None:
        self._live = load.conversations if load.listed else 0
        self._rows = [
            record(call[19], datetime.now(UTC) - timedelta(minutes=1))
            for call in (calls(20) if load.listed else ())
        ]

    def answer(self, request: wire.Request) -> bytes | None:
        project = request.query.get("project", "")
        match request.path.split("/")[2:]:
            case ["workspace"]:
                return _json({"active_conversations": self._live, "max_active_conversations": 10_000})
            case ["projects"]:
                rows = [
                    {"id": each, "name": each, "active_conversations": self._live_in(each)} for each in PROJECTS
                ]
                return _json({"projects": rows})
            case ["agents"]:
                return _json({"agents": []})
            case ["conversations"]:
                after = request.query.get("after", str(PROJECTS.index(project)))
                return self._page(int(after), int(request.query["limit"]))
        return None

    def _live_in(self, project: str) -> int:
        return len(range(PROJECTS.index(project), self._live, len(PROJECTS)))

    def _page(self, start: int, limit: int) -> bytes:
        """Return ``limit`` rows from conversation ``start``, the cursor. A project has every second one."""
        numbers = range(start, self._live, len(PROJECTS))
        rows = (
            self._rows[number % len(self._rows)].replace(PLACEHOLDER, conversation_id(number).encode())
            for number in numbers[:limit]
        )
        following = str(numbers[limit]) if len(numbers) > limit else None
        pagination = _json({"next_cursor": following})
        return b'{"conversations":[' + b",".join(rows) + b'],"pagination":' + pagination + b"}"


async def _head(transport: trio.abc.Stream, received: bytearray) -> bytes | None:
    """Read the head of a request and remove it from ``received``; return None if the client has closed."""
    while (end := received.find(b"\r\n\r\n")) < 0:
        more = await transport.receive_some(_LONGEST_HEAD)
        if not more or len(received) > _LONGEST_HEAD:
            return None
        received += more
    head = bytes(received[: end + 4])
    del received[: end + 4]
    return head


async def _answer_pings(transport: trio.abc.Stream, sending: trio.Lock, received: bytearray) -> None:
    """Answer pings until the client closes."""
    while True:
        while (control := wire.take_control_frame(received)) is not None:
            opcode, payload = control
            answer = {wire.PING: wire.PONG, wire.CLOSE: wire.CLOSE}.get(opcode)
            if answer is not None:
                async with sending:
                    await transport.send_all(wire.frame(payload, answer))
            if opcode == wire.CLOSE:
                return
        more = await transport.receive_some(4096)
        if not more:
            return
        received += more


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


async def _main(load: Load, certificates: Path) -> None:
    server = Server(load)
    listeners: list[Any] = list(await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1024))
    port = listeners[0].socket.getsockname()[1]
    if load.tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
        listeners = [trio.SSLListener(each, context, https_compatible=True) for each in listeners]
    async with trio.open_nursery() as nursery, trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as commands:
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        async for command in commands:  # one at a time, because the parent waits for each answer
            if command == b"go\n":
                server.go()
            print(port if command == b"port\n" else msgspec.json.encode(server.played).decode(), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main, msgspec.json.decode(sys.argv[1], type=Load), Path(sys.argv[2]))
