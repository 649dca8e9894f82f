"""Edge: the client of ``phonic-exporter healthcheck``: asks the exporter on this machine whether it is healthy."""

import http.client
import ssl
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from ..errors import ConfigError
from .listen import parse_address

TIMEOUT_SECONDS = 5.0

# 401: basic auth covers every path, so a server that asks for a password is healthy.
_UP = (200, 401)
_LOOPBACK = {
    "": ("127.0.0.1", "::1"),
    "localhost": ("127.0.0.1", "::1"),
    "0.0.0.0": ("127.0.0.1",),  # noqa: S104  # only compared, never bound
    "::": ("::1", "127.0.0.1"),
}


def trouble_at(address: str, *, maybe_tls: bool) -> str | None:
    """Request /-/healthy; return None if the exporter is healthy, else the URLs tried and what failed.

    The certificate is not verified, because the peer is this machine. A server that requires a client certificate
    counts as healthy, like one that requires a password. Blocks for at most about ``TIMEOUT_SECONDS``.

    Args:
        address: a listen address or a URL.
        maybe_tls: try a listen address over TLS first, then over plain HTTP.

    Raises: ConfigError if the address is malformed or has no fixed port.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    troubles: list[str] = []
    for tls, host, port, prefix in _targets(address, maybe_tls=maybe_tls):
        path = f"{prefix}/-/healthy"
        trouble = _ask(host, port, path, tls=tls, deadline=deadline)
        if trouble is None:
            return None
        shown = f"[{host}]" if ":" in host else host
        troubles.append(f"{'https' if tls else 'http'}://{shown}:{port}{path}: {trouble}")
    return "; ".join(troubles)


def _targets(address: str, *, maybe_tls: bool) -> Iterator[tuple[bool, str, int, str]]:
    """Yield each target to try: whether over TLS, host, port, prefix of the path."""
    if "://" in address:
        parts = urlsplit(address)
        tls, host = parts.scheme == "https", parts.hostname or ""
        for candidate in _LOOPBACK.get(host, (host,)):
            yield tls, candidate, parts.port or (443 if tls else 80), parts.path.rstrip("/")
        return
    host, port = parse_address(address)
    if port == 0:
        raise ConfigError("--web.listen-address", "has no fixed port, so there is nothing to ask")
    for candidate in _LOOPBACK.get(host, (host,)):
        for tls in (True, False) if maybe_tls else (False,):
            yield tls, candidate, port, ""


def _ask(host: str, port: int, path: str, *, tls: bool, deadline: float) -> str | None:
    """Return what is wrong, or None if the server is healthy."""
    timeout = deadline - time.monotonic()
    if timeout <= 0:
        return "not asked, the time ran out"
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    if tls:
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=_unverified_context())
    try:
        connection.connect()
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            status = connection.getresponse().status
            return None if status in _UP else f"answers {status}"
        except TimeoutError:
            return "no answer in time"
        except (OSError, http.client.HTTPException):
            # With TLS 1.3 a server that requires a client certificate closes the connection after the handshake.
            return None if tls else "no HTTP answer"
    except ssl.SSLError as exc:
        # With TLS 1.2 it sends an alert during the handshake.
        return None if "ALERT" in (exc.reason or "") else "no TLS there"
    except TimeoutError:
        return "no connection in time"
    except OSError as exc:
        return (exc.strerror or "cannot connect").lower()
    finally:
        connection.close()


def _unverified_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
