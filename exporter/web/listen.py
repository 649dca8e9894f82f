"""Edge: listen addresses become listening sockets."""

import errno
import re
import socket
from collections.abc import Iterable
from typing import Final

import structlog

from ..errors import ConfigError

log = structlog.get_logger()

FLAG: Final = "--web.listen-address"

_ADDRESS = re.compile(r"(?P<host>|\[[0-9A-Fa-f:.]+(%[\w.-]+)?\]|[^\s:\[\]/@%]+):(?P<port>[0-9]{1,5})")
# This machine lacks the address or its whole family, while another one of the same name may do.
_UNAVAILABLE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
_ALL_ADDRESSES: Final = ("::", "0.0.0.0")  # noqa: S104  (compared, not bound)
_BACKLOG: Final = 100


def parse_address(address: str) -> tuple[str, int]:
    """Host (empty for all of them) and port of ``:9100``, ``127.0.0.1:9100``, ``[::1]:9100`` or ``name:9100``.

    Errors: ConfigError.
    """
    found = _ADDRESS.fullmatch(address)
    if not found or int(found["port"]) > 65535:
        raise ConfigError(FLAG, f"{address!r} is not host:port, [IPv6]:port or :port")
    return found["host"].strip("[]"), int(found["port"])


def bind(addresses: Iterable[str]) -> list[socket.socket]:
    """Listen on every address; all or none. Blocks on the resolver for host names.

    Errors: ConfigError in one line for an address that is malformed, unknown, taken or not allowed.
    """
    sockets: list[socket.socket] = []
    try:
        for host, port in [parse_address(address) for address in addresses]:
            sockets += _bind_host(host, port) if host else [_bind_everywhere(port)]
    except BaseException:
        for listening in sockets:
            listening.close()
        raise
    return sockets


def url(listening: socket.socket, *, tls: bool) -> str:
    """An address to open in a browser, with the real port where 0 was asked for."""
    host, port = listening.getsockname()[:2]
    if host in _ALL_ADDRESSES:
        host = "localhost"
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _bind_everywhere(port: int) -> socket.socket:
    """One socket for both families, as Go does; IPv4 alone where the machine has no IPv6."""
    if socket.has_dualstack_ipv6():
        try:
            return _listen(socket.AF_INET6, ("::", port), dualstack_ipv6=True)
        except OSError as bad:
            if bad.errno not in _UNAVAILABLE:
                raise _refused(f":{port}", bad) from None
    log.warning("no IPv6 here, listening on IPv4 only", port=port)
    try:
        return _listen(socket.AF_INET, ("0.0.0.0", port))  # noqa: S104  (the user asked for all addresses)
    except OSError as bad:
        raise _refused(f":{port}", bad) from None


def _bind_host(host: str, port: int) -> list[socket.socket]:
    """Every address that the host has; one that this machine lacks is left out if another is there."""
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise ConfigError(FLAG, f"cannot resolve the host of {shown}") from None
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for family, _, _, _, where in found:
        try:
            sockets.append(_listen(family, where))
        except OSError as bad:
            if bad.errno not in _UNAVAILABLE:
                for listening in sockets:
                    listening.close()
                raise _refused(shown, bad) from None
            missing = bad
    if missing and not sockets:
        raise _refused(shown, missing)
    return sockets


def _listen(family: int, where: tuple[object, ...], *, dualstack_ipv6: bool = False) -> socket.socket:
    listening = socket.create_server(where, family=family, backlog=_BACKLOG, dualstack_ipv6=dualstack_ipv6)
    listening.setblocking(False)
    return listening


def _refused(shown: str, error: OSError) -> ConfigError:
    reason = {
        errno.EADDRINUSE: "address already in use",
        errno.EACCES: "permission denied",
        errno.EADDRNOTAVAIL: "this machine does not have that address",
    }.get(error.errno or 0, "the system refuses")
    return ConfigError(FLAG, f"cannot listen on {shown}: {reason}")
