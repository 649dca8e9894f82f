"""Edge: asks the exporter on this machine whether it is healthy, for container health checks."""

import http.client
import ssl
import time
from collections.abc import Iterator

from .errors import ConfigError
from .web.listen import parse_address

TIMEOUT_SECONDS = 5.0

# 401: basic auth covers every path; a server that asks for a password is up.
_UP = (200, 401)
_ANY_HOST = {"": ("127.0.0.1", "::1"), "0.0.0.0": ("127.0.0.1",), "::": ("::1", "127.0.0.1")}  # noqa: S104  # compared, not bound


def is_healthy(listen_address: str, *, maybe_tls: bool) -> bool:
    """GET /-/healthy at one listen address; with ``maybe_tls``, over TLS first and in clear if that fails.

    The certificate is not verified, as the peer is this machine. A server that insists on a client
    certificate counts as healthy, like one that insists on a password. Blocks at most about ``TIMEOUT_SECONDS``.

    Errors: ConfigError when the address is malformed or has no fixed port.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    return any(
        _answers(host, port, tls=tls, deadline=deadline)
        for host, port in _targets(listen_address)
        for tls in ((True, False) if maybe_tls else (False,))
    )


def _targets(listen_address: str) -> Iterator[tuple[str, int]]:
    host, port = parse_address(listen_address)
    if port == 0:
        raise ConfigError("--web.listen-address", "has no fixed port, so there is nothing to ask")
    for candidate in _ANY_HOST.get(host, (host,)):
        yield candidate, port


def _answers(host: str, port: int, *, tls: bool, deadline: float) -> bool:
    timeout = deadline - time.monotonic()
    if timeout <= 0:
        return False
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    if tls:
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=_unverified_context())
    try:
        connection.connect()
        try:
            connection.request("GET", "/-/healthy", headers={"Connection": "close"})
            return connection.getresponse().status in _UP
        except TimeoutError:
            return False
        except (OSError, http.client.HTTPException):
            return tls  # dropped after the handshake, as TLS 1.3 does for want of a client certificate
    except ssl.SSLError as exc:
        return "ALERT" in (exc.reason or "")  # TLS 1.2 refuses a missing client certificate in the handshake
    except OSError:
        return False
    finally:
        connection.close()


def _unverified_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
