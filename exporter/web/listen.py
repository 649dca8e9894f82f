"""Edge: opens the listening sockets, from listen addresses or from systemd's socket activation."""

import errno
import os
import re
import socket
import sys
from collections.abc import Iterable, MutableMapping
from typing import Final

import structlog

from ..errors import ConfigError

log = structlog.get_logger()

FLAG: Final = "--web.listen-address"
SYSTEMD_FLAG: Final = "--web.systemd-socket"

_VSOCK = re.compile(r"vsock://(?P<cid>[0-9]{0,10}):(?P<port>[0-9]{1,10})")
_VSOCK_HOST: Final = "vsock://"
_MOST_VSOCK: Final = 2**32 - 1  # as a context id this value means any
_FIRST_PASSED: Final = 3  # descriptors 0 to 2 are the standard ones

_ADDRESS = re.compile(r"(?P<host>|\[[0-9A-Fa-f:.]+(%[\w.-]+)?\]|[^\s:\[\]/@%]+):(?P<port>[0-9]{1,5})")
# This machine lacks the address or its family; another address of the same host may work.
_UNAVAILABLE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
_ALL_ADDRESSES: Final = ("::", "0.0.0.0")  # noqa: S104  (only compared, never bound)
_BACKLOG: Final = 1024  # so that a burst of connections does not keep others out


def parse_address(address: str) -> tuple[str, int]:
    """Split ``:9100``, ``127.0.0.1:9100``, ``[::1]:9100`` or ``name:9100`` into host and port.

    An empty host means all addresses. The host of ``vsock://CID:9100`` is ``vsock://CID``; the context id may be
    left out.

    Raises: ConfigError.
    """
    if address.startswith(_VSOCK_HOST):
        virtual = _VSOCK.fullmatch(address)
        if not virtual or int(virtual["port"]) > _MOST_VSOCK or int(virtual["cid"] or 0) > _MOST_VSOCK:
            raise ConfigError(FLAG, f"{address!r} is not vsock://:PORT or vsock://CID:PORT")
        return _VSOCK_HOST + virtual["cid"], int(virtual["port"])
    found = _ADDRESS.fullmatch(address)
    if not found or int(found["port"]) > 65535:
        raise ConfigError(FLAG, f"{address!r} is not host:port, [IPv6]:port or :port")
    return found["host"].strip("[]"), int(found["port"])


def bind(addresses: Iterable[str]) -> list[socket.socket]:
    """Listen on every address, or on none if one fails. Blocks on the resolver for host names.

    Raises: ConfigError for an address that is malformed, unknown, in use or not allowed.
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


def inherit(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the sockets that systemd has passed to this process; remove its variables from ``environ``.

    Raises: ConfigError if there is no socket, or if one is not a listening stream socket.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal() or int(count) == 0:
        raise ConfigError(SYSTEMD_FLAG, "no socket was passed; start the exporter from a systemd socket unit")
    return [_inherited(descriptor) for descriptor in range(_FIRST_PASSED, _FIRST_PASSED + int(count))]


def _inherited(descriptor: int) -> socket.socket:
    try:
        listening = socket.socket(fileno=descriptor)
        is_listening = listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        raise ConfigError(SYSTEMD_FLAG, f"descriptor {descriptor} is not a socket") from None
    if not is_listening or listening.type != socket.SOCK_STREAM:
        raise ConfigError(SYSTEMD_FLAG, f"descriptor {descriptor} is not a listening stream socket")
    listening.set_inheritable(False)
    listening.setblocking(False)
    return listening


def url(listening: socket.socket, *, tls: bool) -> str:
    """Return the URL to open in a browser, with the real port where port 0 was requested."""
    if listening.family not in (socket.AF_INET, socket.AF_INET6):
        return _other_url(listening)
    host, port = listening.getsockname()[:2]
    if host in _ALL_ADDRESSES:
        host = "localhost"
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _other_url(listening: socket.socket) -> str:
    where = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"unix:{where if isinstance(where, str) else where.decode(errors='replace')}"
    cid, port = where
    return f"{_VSOCK_HOST}{'' if cid == _MOST_VSOCK else cid}:{port}"


def _bind_everywhere(port: int) -> socket.socket:
    """Open one socket for IPv4 and IPv6, as Go does, or for IPv4 only if the machine has no IPv6."""
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
    """Listen on every address of the host. Skip those that this machine lacks, unless it lacks them all."""
    if host.startswith(_VSOCK_HOST):
        return [_bind_vsock(host.removeprefix(_VSOCK_HOST), port)]
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


def _bind_vsock(cid: str, port: int) -> socket.socket:
    shown = f"{_VSOCK_HOST}{cid}:{port}"
    if sys.platform != "linux":
        raise ConfigError(FLAG, f"cannot listen on {shown}: only Linux has vsock")
    try:
        listening = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    except OSError:
        raise ConfigError(FLAG, f"cannot listen on {shown}: this kernel has no vsock") from None
    try:
        listening.bind((int(cid) if cid else socket.VMADDR_CID_ANY, port or socket.VMADDR_PORT_ANY))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as bad:
        listening.close()
        raise _refused(shown, bad) from None
    return listening


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
