"""Edge: TLS settings become a context that handshakes can use; who may connect with a client certificate."""

import contextlib
import ipaddress
import os
import ssl
import tempfile
from collections.abc import Iterator
from typing import Any, Final

from ..errors import ConfigError
from .config_file import FLAG, Pem, TlsSettings

_VERSIONS: Final = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_VERIFY: Final = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}


def build_context(settings: TlsSettings) -> ssl.SSLContext:
    """Load certificates and keys. Blocks on files.

    Errors: ConfigError naming the key of the web configuration file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.min_version]
    context.maximum_version = _VERSIONS[settings.max_version]
    if not settings.prefer_server_ciphers:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["h2", "http/1.1"] if settings.http2 else ["http/1.1"])
    try:
        if settings.ciphers:
            context.set_ciphers(":".join(settings.ciphers))
        if settings.curve:
            context.set_ecdh_curve(settings.curve)
    except (ssl.SSLError, ValueError):
        raise ConfigError(FLAG, "tls_server_config: OpenSSL here lacks these ciphers or this curve") from None
    _load_certificate(context, settings)
    _load_client_ca(context, settings)
    return context


def has_allowed_san(certificate: dict[str, Any] | None, allowed: frozenset[str]) -> bool:
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
        with _as_file(settings.certificate) as certificate, _as_file(settings.key) as key:
            # The empty password makes a locked key an error, where OpenSSL would ask on the terminal.
            context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as bad:
        raise ConfigError(FLAG, f"{where} do not load: {bad.reason or 'not a pair of PEMs'}") from None
    except OSError as bad:
        raise ConfigError(FLAG, f"{where} cannot be read: {_told(bad)}") from None


def _load_client_ca(context: ssl.SSLContext, settings: TlsSettings) -> None:
    context.verify_mode = _VERIFY[settings.client_auth_type]
    if context.verify_mode is ssl.CERT_NONE:
        return
    if settings.client_ca is None:  # as in Go: the system's authorities
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        return
    try:
        with _as_file(settings.client_ca) as client_ca:
            context.load_verify_locations(client_ca)
    except ssl.SSLError as bad:
        raise ConfigError(FLAG, f"tls_server_config: client CA does not load: {bad.reason}") from None
    except OSError as bad:
        raise ConfigError(FLAG, f"tls_server_config: client CA cannot be read: {_told(bad)}") from None


@contextlib.contextmanager
def _as_file(pem: Pem) -> Iterator[str]:
    """A path to read a PEM from, since ssl takes no text; an inline one lives in a file without a name."""
    if not isinstance(pem, str):
        with pem.open("rb"):  # whose error names the file, as ssl's does not
            yield os.fspath(pem)
        return
    with tempfile.TemporaryFile() as file:
        file.write(pem.encode())
        file.flush()
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"


def _told(error: OSError) -> str:
    return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)


def _address(text: str) -> str:
    """An IP address as people write it; OpenSSL prints IPv6 without ``::``."""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        return text
