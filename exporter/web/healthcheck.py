"""Edge: asks the exporter on this machine whether it is healthy, for container health checks."""

import http.client
import ssl
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from ..errors import ConfigError
from .listen import parse_address

TIMEOUT_SECONDS = 5.0

# 401: basic auth covers every path; a server that asks for a password is up.
_UP = (200, 401)
_SEVERAL = {
    "": ("127.0.0.1", "::1"),
    "localhost": ("127.0.0.1", "::1"),
    "0.0.0.0": ("127.0.0.1",),  # noqa: S104  # compared, not bound
    "::": ("::1", "127.0.0.1"),
}


def trouble_at(address: str, *, maybe_tls: bool) -> str | None:
    """GET /-/healthy at a listen address or URL: None if the exporter is healthy, else what was tried and why not.

    ``maybe_tls``: a listen address is asked over TLS first, and in clear if that fails. The certificate is not
    verified, as the peer is this machine. A server that insists on a client certificate counts as healthy, like
    one that insists on a password. Blocks at most about ``TIMEOUT_SECONDS``.

    Errors: ConfigError when the address is malformed or has no fixed port.
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
    """Over TLS or not, host, port and what comes before the path."""
    if "://" in address:
        parts = urlsplit(address)
        tls, host = parts.scheme == "https", parts.hostname or ""
        for candidate in _SEVERAL.get(host, (host,)):
            yield tls, candidate, parts.port or (443 if tls else 80), parts.path.rstrip("/")
        return
    host, port = parse_address(address)
    if port == 0:
        raise ConfigError("--web.listen-address", "has no fixed port, so there is nothing to ask")
    for candidate in _SEVERAL.get(host, (host,)):
        for tls in (True, False) if maybe_tls else (False,):
            yield tls, candidate, port, ""


def _ask(host: str, port: int, path: str, *, tls: bool, deadline: float) -> str | None:
    """What is wrong, if anything is."""
    timeout = deadline - time.monotonic()
    if timeout <= 0:
        return "not asked, the time is up"
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
            # Dropped after the handshake, as TLS 1.3 does for want of a client certificate.
            return None if tls else "no HTTP answer"
    except ssl.SSLError as exc:
        # TLS 1.2 refuses a missing client certificate in the handshake.
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
