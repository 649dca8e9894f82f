"""Edge: TLS: settings become contexts, a context a handshake; and who may connect with a certificate."""

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
# OpenSSL 3 signs nothing with SHA-1, as TLS 1.0 and 1.1 must, unless told that security does not matter.
_OLD_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:!aNULL:!eNULL"
_NO_SECURITY_LEVEL: Final = ":@SECLEVEL=0"
_VERIFY: Final = {
    "NoClientCert": ssl.CERT_NONE,
    # Asks for a certificate and then takes any, or none: everybody is served just the same without asking.
    "RequestClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
# What a client calls the curves (IANA's TLS supported groups).
_GROUPS: Final = {"prime256v1": 23, "secp384r1": 24, "secp521r1": 25, "X25519": 29}

_TLS_HANDSHAKE: Final = 22  # the first byte of whoever speaks TLS
_SUPPORTED_GROUPS: Final = 10
_MOST_HELLO_BYTES: Final = 16 * 1024 + 5
_HTTP_ON_TLS: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"Client sent an HTTP request to an HTTPS server.\n"
)


class HandshakeFailed(Exception):
    """There will be no TLS connection; ``reason`` for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@attrs.frozen
class Contexts:
    """What handshakes are made with: one for each curve, since Python's ssl limits a context to a single one."""

    by_curve: Mapping[str | None, ssl.SSLContext]

    @property
    def first(self) -> ssl.SSLContext:
        return next(iter(self.by_curve.values()))

    @property
    def has_choice(self) -> bool:
        return len(self.by_curve) > 1

    def choose(self, hello: bytes) -> ssl.SSLContext:
        """The one with the first of our curves that the client has; the first where it has none."""
        offered = supported_groups(hello)
        usable = (each for curve, each in self.by_curve.items() if curve and _GROUPS[curve] in offered)
        return next(usable, self.first)


def build_contexts(settings: TlsSettings) -> Contexts:
    """Load certificates and keys. Blocks on files.

    Errors: ConfigError naming the key of the web configuration file.
    """
    return Contexts({curve: _build_context(settings, curve) for curve in settings.curves or (None,)})


def _build_context(settings: TlsSettings, curve: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TLS 1.0 and 1.1, which the user asks for
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
        raise ConfigError(FLAG, "tls_server_config.cipher_suites: OpenSSL here lacks these ciphers") from None
    try:
        if curve:
            context.set_ecdh_curve(curve)
    except (ssl.SSLError, ValueError):
        raise ConfigError(
            FLAG,
            f"tls_server_config.curve_preferences: Python's ssl module here cannot be limited to {curve};"
            " a newer Python can, or leave it out",
        ) from None
    _load_certificate(context, settings)
    _load_client_ca(context, settings)
    return context


async def handshake(
    transport: trio.SocketStream, contexts: Contexts, settings: TlsSettings
) -> trio.SSLStream[trio.SocketStream]:
    """Speak TLS with a client that has just connected.

    A client that is refused has been told so, by an alert or in plain HTTP, and needs time to take that.
    Errors: HandshakeFailed, also when it takes longer than ``HANDSHAKE_SECONDS``.
    """
    with trio.move_on_after(HANDSHAKE_SECONDS):
        try:
            hello = await _read_hello(transport, whole=contexts.has_choice)
            if hello[0] != _TLS_HANDSHAKE:
                await transport.send_all(_HTTP_ON_TLS)
                raise HandshakeFailed("no TLS")
            secured = await _shake_hands(transport, _Bios(contexts.choose(hello), hello))
        except trio.BrokenResourceError:
            raise HandshakeFailed("cut") from None
        allowed = settings.client_allowed_sans
        if allowed and not has_allowed_san(secured.getpeercert(), allowed):
            log.warning("client certificate has none of tls_server_config.client_allowed_sans")
            raise HandshakeFailed("name not allowed")
        return secured
    raise HandshakeFailed("not finished in time")


async def _read_hello(transport: trio.SocketStream, *, whole: bool) -> bytes:
    """The first bytes, or the whole first record."""
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
        await transport.send_all(bios.unsent())  # trio leaves OpenSSL's last word, the alert, unsent
        raise HandshakeFailed(cause.reason or "protocol") from None
    return secured


@attrs.define
class _Bios:
    """Stands in for a context, to have a hand on what OpenSSL reads first and what it has to say last."""

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
    """The groups that a ClientHello offers, a TLS record; empty for anything else."""
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
    """Takes bytes from the front; IndexError where there are too few."""

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

    No certificate is allowed: whether there must be one is the handshake's decision.
    """
    if not certificate:
        return True
    names = certificate.get("subjectAltName", ())
    return any((_address(name) if kind == "IP Address" else name) in allowed for kind, name in names)


def _load_certificate(context: ssl.SSLContext, settings: TlsSettings) -> None:
    where = "tls_server_config: certificate and key"
    try:
        with _as_file(settings.certificate, where) as certificate, _as_file(settings.key, where) as key:
            # The empty password makes a locked key an error, where OpenSSL would ask on the terminal.
            context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as bad:
        raise ConfigError(FLAG, f"{where} do not load: {bad.reason or 'not a pair of PEMs'}") from None
    except OSError as bad:
        raise ConfigError(FLAG, f"{where} cannot be read: {bad.strerror}") from None


def _load_client_ca(context: ssl.SSLContext, settings: TlsSettings) -> None:
    context.verify_mode = _VERIFY[settings.client_auth_type]
    if context.verify_mode is ssl.CERT_NONE:
        return
    if settings.client_ca is None:  # as in Go: the system's authorities
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
    """A path to read a PEM from, since ssl takes no text: a file without a name, in memory where there is that.

    A file is read here too, and not by OpenSSL, which would wait for a FIFO and read a device without end.
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
    """An IP address as people write it; OpenSSL prints IPv6 without ``::``."""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        return text
