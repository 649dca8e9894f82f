"""Edge: TLS of the HTTP server: loads the contexts, performs handshakes, checks client certificates.

Python's ssl module can restrict a context to only one curve. So a setting that allows several curves makes one
context each (`Contexts`), and `handshake` reads the ClientHello to choose among them before OpenSSL sees it.
"""

import contextlib
import ipaddress
import os
import ssl
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import attrs
import structlog
import trio

from ..errors import ConfigError
from .config_file import FLAG, Pem, TlsSettings
from .files import read_config

log = structlog.get_logger()

HANDSHAKE_SECONDS: Final = 10

_VERSIONS: Final = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_OLD_VERSIONS: Final = ("TLS10", "TLS11")
# TLS 1.0 and 1.1 need SHA-1 signatures, which OpenSSL 3 allows only at security level 0.
_OLD_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:!aNULL:!eNULL"
_NO_SECURITY_LEVEL: Final = ":@SECLEVEL=0"
_VERIFY: Final = {
    "NoClientCert": ssl.CERT_NONE,
    # Go requests a certificate and accepts any or none; not requesting one has the same effect.
    "RequestClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
# Numbers of the curves in a ClientHello (IANA, TLS supported groups).
_GROUPS: Final = {"prime256v1": 23, "secp384r1": 24, "secp521r1": 25, "X25519": 29}

_TLS_HANDSHAKE: Final = 22  # the first byte of a TLS handshake
_SUPPORTED_GROUPS: Final = 10
_MOST_HELLO_BYTES: Final = 16 * 1024 + 5
_HTTP_ON_TLS: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"Client sent an HTTP request to an HTTPS server.\n"
)


class HandshakeFailed(Exception):
    """The TLS handshake failed; ``reason`` is for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@attrs.frozen
class Contexts:
    """The TLS contexts, one for each allowed curve; key None: no limit on curves."""

    by_curve: Mapping[str | None, ssl.SSLContext]

    @property
    def first(self) -> ssl.SSLContext:
        return next(iter(self.by_curve.values()))

    @property
    def has_choice(self) -> bool:
        return len(self.by_curve) > 1

    def choose(self, hello: bytes) -> ssl.SSLContext:
        """Return the context of the first of our curves that the client offers, or the first context."""
        offered = supported_groups(hello)
        usable = (each for curve, each in self.by_curve.items() if curve and _GROUPS[curve] in offered)
        return next(usable, self.first)


def build_contexts(settings: TlsSettings) -> Contexts:
    """Load certificates and keys. Blocks on the disk.

    Raises: ConfigError, which names the key of the web configuration file.
    """
    return Contexts({curve: _build_context(settings, curve) for curve in settings.curves or (None,)})


def _build_context(settings: TlsSettings, curve: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # for TLS 1.0 and 1.1, which the user has configured
        context.minimum_version = _VERSIONS[settings.min_version]
        context.maximum_version = _VERSIONS[settings.max_version]
    if not settings.prefer_server_ciphers:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    ciphers = ":".join(settings.ciphers)
    if settings.min_version in _OLD_VERSIONS:
        ciphers = (ciphers or _OLD_CIPHERS) + _NO_SECURITY_LEVEL
    try:
        if ciphers:
            context.set_ciphers(ciphers)
    except ssl.SSLError:
        raise ConfigError(FLAG, "tls_server_config.cipher_suites: this OpenSSL lacks these ciphers") from None
    try:
        if curve:
            context.set_ecdh_curve(curve)
    except (ssl.SSLError, ValueError):
        raise ConfigError(
            FLAG,
            f"tls_server_config.curve_preferences: this Python's ssl module cannot be limited to {curve};"
            " use a newer Python, or leave the curve out",
        ) from None
    _load_certificate(context, settings)
    _load_client_ca(context, settings)
    return context


async def handshake(
    transport: trio.SocketStream, contexts: Contexts, settings: TlsSettings
) -> trio.SSLStream[trio.SocketStream]:
    """Perform the server's side of a TLS handshake.

    A client that is refused gets an alert, or a plain HTTP error if it sent no TLS. It needs time to receive that:
    the caller should linger before closing.

    Raises: HandshakeFailed, also if the handshake takes longer than ``HANDSHAKE_SECONDS``.
    """
    with trio.move_on_after(HANDSHAKE_SECONDS):
        try:
            hello = await _read_hello(transport, whole=contexts.has_choice)
            if hello[0] != _TLS_HANDSHAKE:
                await transport.send_all(_HTTP_ON_TLS)
                raise HandshakeFailed("no TLS")
            secured = await _shake_hands(transport, _Bios(contexts.choose(hello), hello))
        except (trio.BrokenResourceError, trio.ClosedResourceError):  # by the client, or to make room
            raise HandshakeFailed("cut") from None
        allowed = settings.client_allowed_sans
        if allowed and not has_allowed_san(secured.getpeercert(), allowed):
            log.warning("client certificate has none of tls_server_config.client_allowed_sans")
            raise HandshakeFailed("name not allowed")
        return secured
    raise HandshakeFailed("not finished in time")


async def _read_hello(transport: trio.SocketStream, *, whole: bool) -> bytes:
    """Read at least one byte, or the whole first TLS record if ``whole``."""
    received = b""
    while True:
        data = await transport.receive_some(_MOST_HELLO_BYTES - len(received))
        if not data:
            raise HandshakeFailed("cut")
        received += data
        wanted = 1
        if whole and received[0] == _TLS_HANDSHAKE:
            wanted = min(5 + int.from_bytes(received[3:5], "big"), _MOST_HELLO_BYTES) if len(received) >= 5 else 5
        if len(received) >= max(wanted, 5 if wanted > 1 else 1):
            return received


async def _shake_hands(transport: trio.SocketStream, bios: "_Bios") -> trio.SSLStream[trio.SocketStream]:
    context: Any = bios
    secured = trio.SSLStream(transport, context, server_side=True, https_compatible=True)
    try:
        await secured.do_handshake()
    except trio.BrokenResourceError as broken:
        cause = broken.__cause__
        if not isinstance(cause, ssl.SSLError):
            raise
        await transport.send_all(bios.unsent())  # trio does not send the alert that OpenSSL has written
        raise HandshakeFailed(cause.reason or "protocol") from None
    return secured


@attrs.define
class _Bios:
    """Stands in for an SSLContext: feeds OpenSSL the bytes already read, and gives access to its unsent output."""

    _context: ssl.SSLContext
    _received: bytes
    _outgoing: ssl.MemoryBIO | None = None

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **options: Any) -> ssl.SSLObject:
        incoming.write(self._received)
        self._outgoing = outgoing
        return self._context.wrap_bio(incoming, outgoing, **options)

    def unsent(self) -> bytes:
        return self._outgoing.read() if self._outgoing else b""


def supported_groups(hello: bytes) -> frozenset[int]:
    """Return the groups that a ClientHello (a TLS record) offers; empty if ``hello`` is anything else."""
    try:
        return frozenset(_groups(_Reader(hello)))
    except IndexError:
        return frozenset()


def _groups(record: "_Reader") -> Iterator[int]:
    record.skip(5 + 4 + 2 + 32)  # headers of record and message, version, random
    record.vector(1)  # session
    record.vector(2)  # cipher suites
    record.vector(1)  # compression methods
    extensions = record.vector(2)
    while extensions:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind == _SUPPORTED_GROUPS:
            groups = content.vector(2)
            while groups:
                yield groups.number(2)


class _Reader:
    """Reads bytes from the front. Raises IndexError if there are too few."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bool__(self) -> bool:
        return bool(self._data)

    def skip(self, count: int) -> bytes:
        if len(self._data) < count:
            raise IndexError(count)
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.skip(size), "big")

    def vector(self, size: int) -> "_Reader":
        return _Reader(self.skip(self.number(size)))


def has_allowed_san(certificate: Mapping[str, Any] | None, allowed: frozenset[str]) -> bool:
    """Whether a subject alternative name (DNS, e-mail, IP address, URI) of a verified certificate is allowed.

    A missing certificate passes, because the handshake decides whether a certificate is required.
    """
    if not certificate:
        return True
    names = certificate.get("subjectAltName", ())
    return any((_address(name) if kind == "IP Address" else name) in allowed for kind, name in names)


def _load_certificate(context: ssl.SSLContext, settings: TlsSettings) -> None:
    where = "tls_server_config: certificate and key"
    try:
        with _as_file(settings.certificate, where) as certificate, _as_file(settings.key, where) as key:
            # With an empty password an encrypted key is an error; without one OpenSSL would ask on the terminal.
            context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as bad:
        raise ConfigError(FLAG, f"{where} do not load: {bad.reason or 'not a pair of PEMs'}") from None
    except OSError as bad:
        raise ConfigError(FLAG, f"{where} cannot be read: {bad.strerror}") from None


def _load_client_ca(context: ssl.SSLContext, settings: TlsSettings) -> None:
    context.verify_mode = _VERIFY[settings.client_auth_type]
    if context.verify_mode is ssl.CERT_NONE:
        return
    if settings.client_ca is None:  # as in Go, the system's authorities
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        return
    where = "tls_server_config: client CA"
    try:
        with _as_file(settings.client_ca, where) as client_ca:
            context.load_verify_locations(client_ca)
    except ssl.SSLError as bad:
        raise ConfigError(FLAG, f"{where} does not load: {bad.reason or 'not a PEM'}") from None
    except OSError as bad:
        raise ConfigError(FLAG, f"{where} cannot be read: {bad.strerror}") from None


@contextlib.contextmanager
def _as_file(pem: Pem, where: str) -> Iterator[str]:
    """Yield a path from which ssl can load the PEM: an anonymous file, in memory where the system has memfd.

    Files are read here and not by OpenSSL, which would block on a FIFO and read a device without end.
    """
    text = read_config(pem, where) if isinstance(pem, Path) else pem.encode(errors="replace")
    with _nameless() as file:
        file.write(text)
        file.flush()
        yield f"/dev/fd/{file.fileno()}"


def _nameless() -> BinaryIO:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("pem"), "r+b")
    return tempfile.TemporaryFile()


def _address(text: str) -> str:
    """Normalise an IP address: OpenSSL prints IPv6 addresses without ``::``."""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        return text
