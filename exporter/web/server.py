"""Edge: the HTTP server, from listen addresses to a graceful stop.

Strategy: a small server of our own on h11 (`http1`), since every limit has to be exact: see
docs/decisions/0001-http-server.md. Each connection is one task that contains its crashes and always closes its
socket; `connections` says which connections there may be.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from socket import gethostname
from typing import Final
from urllib.parse import urlsplit

import structlog
import trio
from starlette.types import ASGIApp

from .connections import MOST_CONNECTIONS, Connection, Connections
from .endpoints import Exported, build_app
from .http1 import linger, serve_http
from .listen import bind, inherit, parse_address, url
from .reload import ReloadedConfig
from .same_origin import same_origin
from .security import Protection, guard
from .tls import HandshakeFailed, handshake

log = structlog.get_logger()

_GRACE_SECONDS: Final = 3


def validate(config_file: Path) -> None:
    """Check a web configuration file, and load what it names. Blocks on files.

    Errors: ConfigError.
    """
    ReloadedConfig(config_file)


async def serve(
    exported: Exported,
    *,
    listen_addresses: Sequence[str],
    telemetry_path: str,
    max_requests: int,
    web_config: ReloadedConfig,
    stop: trio.Event,
    systemd_socket: bool = False,
    route_prefix: str = "",
    external_url: str = "",
    max_connections: int = MOST_CONNECTIONS,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``stop`` is set, then return within a few seconds; ``started`` gets one URL for each socket.

    With ``systemd_socket`` the sockets are those that systemd passed, and not of ``listen_addresses``.
    ``route_prefix`` begins every path here, the path of ``external_url`` every link. ``max_connections`` are open
    at the same time; where more come, those that only wait give way.
    After ``stop`` no connection is accepted, answers under way are finished, idle connections are closed.
    Errors: ConfigError for addresses, path or limit that cannot be used, before ``started``.
    Cancellation: cuts every connection at once.
    """
    app = build_app(
        exported,
        telemetry_path=telemetry_path,
        max_requests=max_requests,
        route_prefix=route_prefix,
        link_prefix=urlsplit(external_url).path.rstrip("/") if external_url else None,
        same_origin=same_origin(
            external_url=external_url,
            listen_hosts=[parse_address(address)[0] for address in listen_addresses],
            machine=gethostname(),
        ),
    )

    async def protection() -> Protection:
        return (await web_config.current()).protection

    if systemd_socket:
        sockets = inherit(os.environ)
    else:
        sockets = await trio.to_thread.run_sync(bind, listen_addresses)
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listening)) for listening in sockets]
    urls = [url(listening, tls=web_config.in_force.tls is not None) for listening in sockets]
    connections = Connections(most=max_connections)
    receive_client = partial(_receive_client, guard(app, protection), web_config, connections)
    async with trio.open_nursery() as handlers:
        async with trio.open_nursery() as accepting:
            serve_listeners = partial(trio.serve_listeners, receive_client, listeners, handler_nursery=handlers)
            accepting.start_soon(serve_listeners)
            task_status.started(urls)
            await stop.wait()
            accepting.cancel_scope.cancel()
        connections.close()
        handlers.cancel_scope.deadline = trio.current_time() + _GRACE_SECONDS


async def _receive_client(
    app: ASGIApp, web_config: ReloadedConfig, connections: Connections, transport: trio.SocketStream
) -> None:
    """Serve one connection to its end; errors end only this one."""
    with trio.CancelScope() as scope:
        connection = connections.enter(scope)
        try:
            if connection is not None and await _serve_client(app, web_config, connections, connection, transport):
                await linger(transport)
        except Exception:
            log.warning("connection failed", exc_info=True)
        finally:
            if connection is not None:
                connections.leave(connection)
            transport.socket.close()


async def _serve_client(
    app: ASGIApp,
    web_config: ReloadedConfig,
    connections: Connections,
    connection: Connection,
    transport: trio.SocketStream,
) -> bool:
    in_force = await web_config.current()
    if in_force.contexts is None or in_force.config.tls is None:
        return await serve_http(transport, app, connections=connections, connection=connection)
    try:
        secured = await handshake(transport, in_force.contexts, in_force.config.tls)
    except HandshakeFailed as failed:
        log.debug("TLS handshake failed", reason=failed.reason)
        return True
    return await serve_http(secured, app, connections=connections, connection=connection, is_tls=True)
