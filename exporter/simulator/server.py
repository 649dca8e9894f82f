"""Edge: the server of the simulated Phonic: REST, live WebSocket and control API on one port.

Hypercorn's ``TCPServer`` speaks HTTP and WebSocket on each connection. The accept loop is our own, because in
hypercorn's an error of one connection ends the whole server.
"""

import errno
import logging
import math
import socket
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import ConfigError
from ..recording.file import Recording
from .access import Access, bearer
from .control import Control
from .faults import Fault
from .live import LiveEndpoint
from .playback import Playback
from .replay import Replay
from .rest import Rest
from .scenario import Scenario

_BACKLOG: Final = 1024  # in a reconnect storm all clients connect together


async def serve(
    scenario: Scenario,
    *,
    listen: str = "127.0.0.1:0",
    api_key: str = "ph_simulated_key",
    others: Mapping[str, Scenario] | None = None,
    faults: tuple[Fault, ...] = (),
    epoch: float | None = None,
    patient: bool = False,
    refuse_ended: bool = False,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Play a scenario until cancelled. An error on a connection ends only that connection.

    Args:
        scenario: what to play.
        listen: address to listen on, ``host:port``; loopback without a host.
        api_key: API key to accept.
        others: scenarios of other workspaces by their API keys. A request belongs to the workspace of its
            credential, and to the first one without any; this is true of the control API too.
        faults: transport faults.
        epoch: Unix time in seconds of plan time 0, now by default; with a past time the plan starts in the middle.
        patient: end no conversation before an observer has been sent its last snapshot.
        refuse_ended: answer a live socket to an ended conversation with an error and close code 1008, not with
            ``conversation-saved``.
        task_status: ``started`` is called with the base URL once the server listens.

    Raises: ConfigError if the address cannot be used.

    Cancellation: closes all connections.
    """
    wall = time.time()
    epoch_ms = math.floor((wall if epoch is None else epoch) * 1000)
    now_ms = 0.0 if epoch is None else wall * 1000 - epoch_ms
    workspaces = []
    for key, played in {api_key: scenario, **(others or {})}.items():
        playback = Playback(played, faults=faults, epoch_ms=epoch_ms, now_ms=now_ms, patient=patient)
        access = Access(key)
        live = LiveEndpoint(playback, access, refuse_ended=refuse_ended)
        routes = [
            *Rest(playback, access).routes(),
            *Control(playback).routes(),
            WebSocketRoute("/v1/conversations/{conversation_id}/live/ws", live.handle),
        ]
        workspaces.append((access, Starlette(routes=routes)))
    await _serve(_of_credential(workspaces), listen, task_status)


def _of_credential(workspaces: Sequence[tuple[Access, ASGIApp]]) -> ASGIApp:
    """An application that hands each request to that of the workspace whose credential it has."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        chosen = workspaces[0][1]
        if scope["type"] in ("http", "websocket"):
            asked = HTTPConnection(scope)
            key, token = bearer(asked.headers.get("authorization")), asked.query_params.get("session_token")
            chosen = next(
                (app for access, app in workspaces if access.is_api_key(key) or access.token(token)), chosen
            )
        await chosen(scope, receive, send)

    return handle


async def replay(
    recording: Recording,
    *,
    listen: str = "127.0.0.1:0",
    api_key: str = "ph_simulated_key",
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Replay a recording on ``listen``, as in `serve`, until cancelled.

    Raises: ConfigError if the address cannot be used.
    """
    played = Replay(recording, Access(api_key), now=time.time)
    await _serve(Starlette(routes=played.routes()), listen, task_status)


async def _serve(app: ASGIApp, listen: str, task_status: trio.TaskStatus[str]) -> None:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, int(port)), family=family, backlog=_BACKLOG)
    except OSError as bad:
        reason = {errno.EADDRINUSE: "address already in use"}.get(bad.errno or 0, bad.strerror)
        raise ConfigError("--simulator.listen-address", f"cannot listen on {listen}: {reason}") from None
    listening.setblocking(False)
    config = Config()
    config.errorlog = _errors()
    config.include_server_header = False
    # Hypercorn declares its own ASGI types.
    served = partial(_serve_connection, ASGIWrapper(cast(ASGIFramework, app)), config, WorkerContext(None))
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    async with trio.open_nursery() as connections:
        task_status.started(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}")
        await trio.serve_listeners(served, [listener], handler_nursery=connections)


async def _serve_connection(
    app: ASGIWrapper, config: Config, context: WorkerContext, stream: trio.SocketStream
) -> None:
    """Serve one connection until it ends. An error ends only this connection."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_close_when_cancelled, stream.socket)
        try:
            # Declared for TLS streams, but takes both.
            tls_or_not = cast("trio.SSLStream[trio.SocketStream]", stream)
            await TCPServer(app, config, context, ConnectionState({}), tls_or_not)
        except* Exception:
            _errors().debug("connection failed", exc_info=True)
        nursery.cancel_scope.cancel()


async def _close_when_cancelled(socket: trio.socket.SocketType) -> None:
    """Close the socket when cancelled, which ends the sends that hypercorn shields from cancellation."""
    try:
        await trio.sleep_forever()
    finally:
        socket.close()


def _errors() -> logging.Logger:
    """Return hypercorn's logger, at WARNING: hypercorn would announce an address at INFO."""
    logger = logging.getLogger(__name__)
    logger.setLevel(logging.WARNING)
    return logger
