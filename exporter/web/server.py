"""Edge: the HTTP server, from listen addresses to a graceful stop.

A small server of our own on h11 (`http1`), because its limits have to be exact: see
docs/decisions/0001-http-server.md. Each connection is one task, which logs its own errors and always closes its
socket. `connections` limits them.
"""

import os
import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import attrs
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
    """Check a web configuration file, and load the files that it names. Blocks on the disk.

    Raises: ConfigError.
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
    """Serve until ``stop`` is set, then stop gracefully within a few seconds.

    A graceful stop accepts no connection but those that have waited for it, closes idle ones, answers the requests
    that are on their way, and finishes the responses in progress. Connections that wait on a socket of systemd are
    left to the next process.

    Args:
        exported: what to serve.
        listen_addresses: addresses to listen on.
        telemetry_path: path of the metrics page.
        max_requests: most scrapes at the same time; 0 means no limit.
        web_config: the web configuration file.
        stop: set this event to stop.
        systemd_socket: use the sockets that systemd has passed instead of ``listen_addresses``.
        route_prefix: prefix of every path.
        external_url: URL by which browsers reach this server; its path prefixes the links.
        max_connections: most open connections; a new one replaces the one that has been idle longest.
        task_status: ``started`` is called with one URL for each socket.

    Raises: ConfigError for an unusable address, path or limit, before ``started``.

    Cancellation: closes every connection at once.
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
            machine=socket.gethostname(),
        ),
    )

    async def protection() -> Protection:
        return (await web_config.current()).protection

    if systemd_socket:
        sockets = inherit(os.environ)
    else:
        sockets = await trio.to_thread.run_sync(bind, listen_addresses)
    listeners = [_KeptOpen(trio.SocketListener(trio.socket.from_stdlib_socket(each))) for each in sockets]
    urls = [url(listening, tls=web_config.in_force.tls is not None) for listening in sockets]
    connections = Connections(most=max_connections)
    receive_client = partial(_receive_client, guard(app, protection), web_config, connections)
    async with trio.open_nursery() as handlers:
        try:
            async with trio.open_nursery() as accepting:
                serve_listeners = partial(
                    trio.serve_listeners, receive_client, listeners, handler_nursery=handlers
                )
                accepting.start_soon(serve_listeners)
                task_status.started(urls)
                await stop.wait()
                accepting.cancel_scope.cancel()
            for listening in () if systemd_socket else sockets:
                for transport in _waiting(listening, most=max_connections):
                    handlers.start_soon(receive_client, transport)
        finally:
            for listening in sockets:
                listening.close()
        connections.close()
        handlers.cancel_scope.deadline = trio.current_time() + _GRACE_SECONDS


@attrs.frozen
class _KeptOpen(trio.abc.Listener[trio.SocketStream]):
    """A listener whose socket its owner closes: that resets the connections that wait to be accepted."""

    _listener: trio.SocketListener

    async def accept(self) -> trio.SocketStream:
        return await self._listener.accept()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def _waiting(listening: socket.socket, *, most: int) -> Iterator[trio.SocketStream]:
    """Accept the connections that wait for it now."""
    for _ in range(most):
        try:
            accepted, _ = listening.accept()
        except ConnectionAbortedError:
            continue
        except OSError:  # none is waiting, or too many files are open
            return
        yield trio.SocketStream(trio.socket.from_stdlib_socket(accepted))


async def _receive_client(
    app: ASGIApp, web_config: ReloadedConfig, connections: Connections, transport: trio.SocketStream
) -> None:
    """Serve one connection until it ends. An error ends only this connection."""
    with trio.CancelScope() as scope:
        connection = connections.enter(scope, partial(_has_unread, transport), partial(_hang_up, transport))
        try:
            if connection is not None and await _serve_client(app, web_config, connections, connection, transport):
                await linger(transport)
        except Exception:
            log.warning("connection failed", exc_info=True)
        finally:
            if connection is not None:
                connections.leave(connection)
            transport.socket.close()


def _has_unread(transport: trio.SocketStream) -> bool:
    """Return whether bytes of the client, or its closing, wait to be read."""
    descriptor = transport.socket.fileno()
    if descriptor < 0:  # closed just now
        return False
    asked = select.poll()  # `select.select` takes no descriptor above 1023
    asked.register(descriptor, select.POLLIN)
    return bool(asked.poll(0))


def _hang_up(transport: trio.SocketStream) -> None:
    """Tell the client that nothing more will be sent."""
    with suppress(OSError):  # the client was faster, or the socket is closed
        transport.socket.shutdown(socket.SHUT_WR)


async def _serve_client(
    app: ASGIApp,
    web_config: ReloadedConfig,
    connections: Connections,
    connection: Connection,
    transport: trio.SocketStream,
) -> bool:
    """Serve one connection; return whether the client needs time to receive the last response (`linger`)."""
    in_force = await web_config.current()
    if in_force.contexts is None or in_force.config.tls is None:
        return await serve_http(transport, app, connections=connections, connection=connection)
    try:
        secured = await handshake(transport, in_force.contexts, in_force.config.tls)
    except HandshakeFailed as failed:
        log.debug("TLS handshake failed", reason=failed.reason)
        return True
    return await serve_http(secured, app, connections=connections, connection=connection, is_tls=True)
