"""Pure: parses the Prometheus web configuration file (exporter-toolkit) into checked values.

The keys and their meanings are the toolkit's. A key that is unknown, or whose value Python's ssl module cannot
implement, is refused by name and never ignored. No error quotes a value, because any value may be a secret.
"""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import attrs
import yaml

from ..errors import ConfigError

FLAG: Final = "--web.config.file"

_SECTIONS: Final = ("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit")
_TLS_KEYS: Final = (
    "cert",
    "cert_file",
    "key",
    "key_file",
    "client_ca",
    "client_ca_file",
    "client_auth_type",
    "client_allowed_sans",
    "min_version",
    "max_version",
    "cipher_suites",
    "curve_preferences",
    "prefer_server_cipher_suites",
)

# Cipher suites by the name that Go gives them, with OpenSSL's name. Those of TLS 1.3 (None) are always on, as in
# Go.
_CIPHERS: Final[dict[str, str | None]] = {
    "TLS_AES_128_GCM_SHA256": None,
    "TLS_AES_256_GCM_SHA384": None,
    "TLS_CHACHA20_POLY1305_SHA256": None,
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
# HTTP/2 over TLS 1.2 requires one of these (RFC 7540, 9.2.2).
_HTTP2_CIPHERS: Final = {"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"}
_CURVES: Final = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}
_VERSIONS: Final = ("TLS10", "TLS11", "TLS12", "TLS13")
_CLIENT_AUTH: Final = (
    "NoClientCert",
    "RequestClientCert",
    "VerifyClientCertIfGiven",
    "RequireAndVerifyClientCert",
)
# Python's ssl module cannot require a client certificate without verifying it.
_ANY_CLIENT_CERT: Final = ("RequireAnyClientCert", "RequireClientCert")

# Headers that may be added, with the allowed values where the toolkit limits them.
_HEADERS: Final[dict[str, tuple[str, ...]]] = {
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
    "Content-Security-Policy": (),
}

_BOOLEANS: Final = {
    **dict.fromkeys("y Y yes Yes YES on On ON true True TRUE".split(), True),
    **dict.fromkeys("n N no No NO off Off OFF false False FALSE".split(), False),
}
_NULLS: Final = ("", "~", "null", "Null", "NULL")
_MERGE: Final = "<<"
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,40}")
_BCRYPT = re.compile(r"\$2[abxy]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
_DURATION = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_SECONDS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}

# A PEM: the path of a file, or the text itself.
Pem = Path | str


@attrs.frozen(kw_only=True)
class TlsSettings:
    """The section ``tls_server_config``, with OpenSSL's names of ciphers and curves."""

    certificate: Pem
    key: Pem = attrs.field(repr=False)
    client_ca: Pem | None
    client_auth_type: str
    client_allowed_sans: frozenset[str]
    min_version: str
    max_version: str
    ciphers: tuple[str, ...]
    curves: tuple[str, ...]
    prefer_server_ciphers: bool


@attrs.frozen
class RateLimit:
    """One request per ``interval_seconds`` on average, ``burst`` at once. A burst of 0 allows no request."""

    interval_seconds: float
    burst: int


@attrs.frozen(kw_only=True)
class WebConfig:
    """A whole web configuration file. ``users`` maps names to bcrypt hashes."""

    tls: TlsSettings | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    users: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    rate_limit: RateLimit | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the web configuration file names."""
        pems = (self.tls.certificate, self.tls.key, self.tls.client_ca) if self.tls else ()
        return tuple(pem for pem in pems if isinstance(pem, Path))


def parse(text: str, directory: Path) -> WebConfig:
    """Parse a web configuration file.

    Args:
        text: content of the file.
        directory: folder that relative paths in the file start from.

    Raises: ConfigError, which names the key.
    """
    document = _section("", _load(text), _SECTIONS)
    tls = document.section("tls_server_config", _TLS_KEYS)
    http = document.section("http_server_config", ("http2", "headers"))
    http2 = http.boolean("http2", default=True)
    return WebConfig(
        tls=_tls(tls, directory, http2=http2) if any(tls.values.values()) else None,
        headers=_headers(http.section("headers", tuple(_HEADERS))),
        users=_users(document.section("basic_auth_users", None)),
        rate_limit=_rate_limit(document.section("rate_limit", ("interval", "burst"))),
    )


class _Plain(str):
    """A scalar without quotes. Only such scalars can be booleans or numbers."""

    __slots__ = ()


class _Loader(yaml.BaseLoader):
    """Loads every scalar as a string or null, constructs no objects from tags, and refuses duplicate keys."""

    def construct_scalar(self, node: yaml.ScalarNode) -> str | None:  # type: ignore[override]
        text = str(super().construct_scalar(node))
        if node.style is not None:
            return text
        return None if text in _NULLS else _Plain(text)

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: ARG002  # always deep: merging needs whole values
    ) -> dict[Hashable, Any]:
        merged: dict[Hashable, Any] = {}
        own: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(problem_mark=node.start_mark)
            value = self.construct_object(value_node, deep=True)
            if key_node.value == _MERGE and key_node.style is None:
                merged = _merged(value, node) | merged
            elif key_node.value in own:
                raise yaml.constructor.ConstructorError(problem_mark=node.start_mark)
            else:
                own[key_node.value] = value
        return merged | own


def _merged(value: Any, node: yaml.MappingNode) -> dict[Hashable, Any]:
    """Resolve a merge key: a mapping, or a list of mappings in which the first one with a key wins."""
    merged: dict[Hashable, Any] = {}
    for each in value if isinstance(value, list) else [value]:
        if not isinstance(each, dict):
            raise yaml.constructor.ConstructorError(problem_mark=node.start_mark)
        merged = each | merged
    return merged


def _load(text: str) -> Any:
    try:
        return _Loader(text).get_single_data()
    except yaml.YAMLError as bad:
        mark = getattr(bad, "problem_mark", None)
        where = f" at or after line {mark.line + 1}" if mark else ""
    except RecursionError:
        raise ConfigError(FLAG, "nested too deeply") from None
    except (ValueError, OverflowError):  # an escape sequence for a character that does not exist
        where = ""
    # Not chained: PyYAML's message quotes the text around the mark.
    raise ConfigError(FLAG, f"not valid YAML, or a key given twice{where}")


def _refuse(where: str, reason: str) -> NoReturn:
    raise ConfigError(FLAG, f"{where}: {reason}" if where else reason)


@attrs.frozen
class _Section:
    """A mapping of the file, read key by key. An absent key counts as empty."""

    name: str
    values: dict[str, Any]

    def refuse(self, key: str, reason: str) -> NoReturn:
        _refuse(self._path(key), reason)

    def section(self, key: str, known: tuple[str, ...] | None) -> "_Section":
        return _section(self._path(key), self.values.get(key), known)

    def string(self, key: str) -> str:
        value = self.values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            self.refuse(key, "must be a single value")
        return value

    def strings(self, key: str) -> list[str]:
        value = self.values.get(key) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.refuse(key, "must be a list of values")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.string(key) or default
        if value not in choices:
            self.refuse(key, f"must be one of {', '.join(choices)}")
        return value

    def boolean(self, key: str, *, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, _Plain) or value not in _BOOLEANS:
            self.refuse(key, "must be true or false, without quotes")
        return _BOOLEANS[value]

    def _path(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key


def _section(name: str, value: Any, known: tuple[str, ...] | None) -> _Section:
    """Check that ``value`` is a mapping with only ``known`` keys; None allows any key."""
    if value is None:
        return _Section(name, {})
    if not isinstance(value, dict):
        _refuse(name, "must be a mapping")
    for key in value:
        if known is not None and key not in known:
            shown = f" {key!r}" if _KEY.fullmatch(key) else ""  # other text may be a value whose colon is missing
            _refuse(name, f"unknown key{shown}; known are {', '.join(known)}")
    return _Section(name, value)


def _tls(section: _Section, directory: Path, *, http2: bool) -> TlsSettings:
    certificate, key, client_ca = (_pem(section, name, directory) for name in ("cert", "key", "client_ca"))
    if certificate is None:
        _refuse(section.name, "missing one of cert or cert_file")
    if key is None:
        _refuse(section.name, "missing one of key or key_file")
    client_allowed_sans = section.strings("client_allowed_sans")
    client_auth_type = _client_auth_type(section)
    if client_auth_type == "RequestClientCert" and client_allowed_sans:
        section.refuse("client_allowed_sans", "needs client certificates that are verified")
    if client_auth_type == "NoClientCert" and (client_ca or client_allowed_sans):
        section.refuse("client_auth_type", "required with client_ca, client_ca_file or client_allowed_sans")
    min_version = section.choice("min_version", _VERSIONS, "TLS12")
    max_version = section.choice("max_version", _VERSIONS, "TLS13")
    if min_version > max_version:
        section.refuse("min_version", "must not be above max_version")
    ciphers = _ciphers(section)
    if ciphers == ():  # only suites of TLS 1.3 are named, so older versions cannot be used
        if max_version != "TLS13":
            section.refuse("cipher_suites", "needs a suite for TLS 1.2")
        min_version = "TLS13"
    if http2 and ciphers and min_version != "TLS13" and not _HTTP2_CIPHERS.intersection(ciphers):
        section.refuse(
            "cipher_suites",
            "HTTP/2 needs TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 or TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;"
            " add one or set http_server_config.http2 to false",
        )
    return TlsSettings(
        certificate=certificate,
        key=key,
        client_ca=client_ca,
        client_auth_type=client_auth_type,
        client_allowed_sans=frozenset(client_allowed_sans),
        min_version=min_version,
        max_version=max_version,
        ciphers=ciphers or (),
        curves=_curves(section),
        prefer_server_ciphers=section.boolean("prefer_server_cipher_suites", default=True),
    )


def _pem(section: _Section, key: str, directory: Path) -> Pem | None:
    inline, file = section.string(key), section.string(f"{key}_file")
    if inline and file:
        section.refuse(key, f"cannot be given together with {key}_file")
    return directory / file if file else inline or None


def _client_auth_type(section: _Section) -> str:
    if section.string("client_auth_type") in _ANY_CLIENT_CERT:
        section.refuse(
            "client_auth_type",
            "Python's ssl module cannot require a client certificate without verifying it; use"
            " RequireAndVerifyClientCert, or RequestClientCert if a certificate is optional",
        )
    return section.choice("client_auth_type", _CLIENT_AUTH, "NoClientCert")


def _ciphers(section: _Section) -> tuple[str, ...] | None:
    """Return OpenSSL's names of the suites for TLS 1.2, or None if the file names no suite."""
    suites = section.strings("cipher_suites")
    if not set(suites) <= set(_CIPHERS):
        section.refuse("cipher_suites", f"unknown cipher suite; known are {', '.join(_CIPHERS)}")
    return tuple(name for suite in suites if (name := _CIPHERS[suite])) if suites else None


def _curves(section: _Section) -> tuple[str, ...]:
    """Return the curves to allow, in order of preference. Naming all of them means no limit: an empty tuple."""
    names = list(dict.fromkeys(section.strings("curve_preferences")))
    if not set(names) <= set(_CURVES):
        section.refuse("curve_preferences", f"unknown curve; known are {', '.join(_CURVES)}")
    return () if len(names) == len(_CURVES) else tuple(_CURVES[name] for name in names)


def _headers(section: _Section) -> dict[str, str]:
    headers = {name: section.string(name) for name in section.values}
    for name, value in headers.items():
        if _HEADERS[name] and value not in _HEADERS[name]:
            section.refuse(name, f"must be one of {', '.join(_HEADERS[name])}")
        if not (value.isascii() and value.isprintable()):
            section.refuse(name, "must be one line of printable ASCII")
    return {name: value for name, value in headers.items() if value}


def _users(section: _Section) -> dict[str, str]:
    for number, (name, password) in enumerate(section.values.items(), start=1):
        if not name or ":" in name:  # basic auth ends the name at the first colon
            _refuse(section.name, f"name {number} is empty or has a colon, which basic auth does not allow")
        if not isinstance(password, str) or not _BCRYPT.fullmatch(password):
            _refuse(section.name, f"password {number} is not a bcrypt hash, as `htpasswd -nBC 10 name` prints it")
    return section.values


def _rate_limit(section: _Section) -> RateLimit | None:
    interval_seconds = _duration(section.string("interval") or "0")
    if interval_seconds is None:
        section.refuse("interval", "must be a duration such as 1s or 500ms")
    burst = section.string("burst") or "0"
    if not re.fullmatch("[0-9]{1,9}", burst):
        section.refuse("burst", "must be a whole number")
    if interval_seconds == 0:  # the toolkit turns the limit off this way
        return None
    return RateLimit(interval_seconds, int(burst))


def _duration(text: str) -> float | None:
    """Return the seconds of a Go duration such as ``1s``, ``500ms`` or ``1m30s``; None for anything else."""
    parts = list(_DURATION.finditer(text))
    if text != "0" and "".join(part[0] for part in parts) != text:
        return None
    return sum(float(part[1]) * _SECONDS[part[2]] for part in parts)
