"""Edge: the HTTP server, from listen addresses to a graceful stop.

Strategy: hypercorn speaks HTTP on each connection (``TCPServer``); the accept loop around it is ours, since its
own dies with one crashing connection, keeps the certificates of its start, and cannot be stopped while a client
takes its answer slowly. Each connection is one task that contains its crashes and always closes its socket.
"""

import logging
import ssl
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, cast

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from starlette.types import ASGIApp, Receive, Scope, Send

from .endpoints import Exported, build_app
from .listen import bind, url
from .live_config import LiveConfig
from .security import Protection, guard
from .tls import has_allowed_san

log = structlog.get_logger()

_HANDSHAKE_SECONDS: Final = 10
_RESPONSE_SECONDS: Final = 60  # whoever has not taken an answer by then is cut off
_GRACE_SECONDS: Final = 3
_KEEP_ALIVE_SECONDS: Final = 150  # longer than common scrape intervals, so that connections are used again


def validate(config_file: Path) -> None:
    """Check a web configuration file, and load what it names. Blocks on files.

    Errors: ConfigError.
    """
    LiveConfig(config_file)


async def serve(
    exported: Exported,
    *,
    listen_addresses: Sequence[str],
    telemetry_path: str,
    max_requests: int,
    web_config: LiveConfig,
    stop: trio.Event,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``stop`` is set, then return within a few seconds; ``started`` gets one URL for each socket.

    After ``stop`` no connection is accepted, answers under way are finished, idle connections are closed.
    Errors: ConfigError for addresses, path or limit that cannot be used, before ``started``.
    Cancellation: cuts every connection at once.
    """
    app = build_app(exported, telemetry_path=telemetry_path, max_requests=max_requests)

    async def protection() -> Protection:
        return (await web_config.current()).protection

    sockets = await trio.to_thread.run_sync(bind, listen_addresses)
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listening)) for listening in sockets]
    urls = [url(listening, tls=web_config.in_force.tls is not None) for listening in sockets]
    context = WorkerContext(None)
    handle = partial(_serve_connection, guard(app, protection), web_config, _hypercorn_config(), context)
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(partial(trio.serve_listeners, handle, listeners, handler_nursery=connections))
            task_status.started(urls)
            await stop.wait()
            accepting.cancel_scope.cancel()
        await context.terminated.set()  # hypercorn: no keep-alive any more
        connections.cancel_scope.deadline = trio.current_time() + _GRACE_SECONDS


async def _serve_connection(
    app: ASGIApp, web_config: LiveConfig, config: Config, context: WorkerContext, stream: trio.SocketStream
) -> None:
    """Speak HTTP, over TLS if it is on, until the connection ends; errors end only this connection."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_close_at_last, stream.socket)
        try:
            secured = await _secured(stream, web_config)
            if secured is not None:
                # Casts: hypercorn has types of its own for ASGI, and declares TLS streams where it takes both.
                limited = ASGIWrapper(cast(ASGIFramework, _limited(app, stream.socket)))
                tls_or_not = cast("trio.SSLStream[trio.SocketStream]", secured)
                await TCPServer(limited, config, context, ConnectionState({}), tls_or_not)
        except Exception:  # hypercorn raises on some requests, such as HTTP/2 with a path that is not ASCII
            log.warning("connection failed", exc_info=True)
        nursery.cancel_scope.cancel()


async def _close_at_last(socket: trio.socket.SocketType) -> None:
    """Close the socket when cancelled: hypercorn shields its sends, and only this makes them give up."""
    try:
        await trio.sleep_forever()
    finally:
        socket.close()


async def _secured(
    stream: trio.SocketStream, web_config: LiveConfig
) -> trio.SocketStream | trio.SSLStream[trio.SocketStream] | None:
    """The stream to speak HTTP on; None where the client failed the handshake or is not allowed."""
    in_force = await web_config.current()
    if in_force.tls is None or in_force.config.tls is None:
        return stream
    secured = trio.SSLStream(stream, in_force.tls, server_side=True, https_compatible=True)
    try:
        with trio.fail_after(_HANDSHAKE_SECONDS):
            await secured.do_handshake()
    except trio.TooSlowError:
        log.debug("TLS handshake not finished in time")
        return None
    except trio.BrokenResourceError as broken:
        cause = broken.__cause__
        log.debug("TLS handshake failed", reason=cause.reason if isinstance(cause, ssl.SSLError) else "cut")
        return None
    allowed = in_force.config.tls.client_allowed_sans
    if allowed and not has_allowed_san(secured.getpeercert(), allowed):
        log.warning("client certificate has none of tls_server_config.client_allowed_sans")
        return None
    return secured


def _limited(app: ASGIApp, socket: trio.socket.SocketType) -> ASGIApp:
    """Cut the connection when an answer takes too long, so that slow readers cannot hold places and memory."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cut_after, _RESPONSE_SECONDS, socket, nursery.cancel_scope)
            await app(scope, receive, send)
            nursery.cancel_scope.cancel()

    return limited


async def _cut_after(seconds: float, socket: trio.socket.SocketType, scope: trio.CancelScope) -> None:
    await trio.sleep(seconds)
    socket.close()
    scope.cancel()


def _hypercorn_config() -> Config:
    config = Config()
    config.errorlog = logging.getLogger("hypercorn.error")  # goes where all logs go
    config.include_server_header = False
    config.keep_alive_timeout = _KEEP_ALIVE_SECONDS
    return config
