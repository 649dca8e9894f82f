"""Pure: chooses the HTTP proxy for a URL by the usual environment variables, for REST and the live feed alike.

`HTTPS_PROXY` (or `HTTP_PROXY`, by the scheme of the URL) is used, else `ALL_PROXY`. As in curl, the lower-case
name of each comes before the upper-case one, and an empty variable counts as unset. Loopback is never reached
through a proxy. No error or warning quotes the value of a variable, because the address of a proxy may hold a
password.
"""

import ipaddress
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

import attrs

from ..errors import ConfigError

_PORTS: Final = {"http": 80, "https": 443}
_HOST = re.compile(r"(?=.*\w)[\w.-]+")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@attrs.frozen(kw_only=True)
class Proxy:
    """An HTTP proxy. ``variable`` is the environment variable that named it; ``is_secure``: reached over TLS.

    ``login`` is ``user:password`` as it is sent, or None.
    """

    host: str
    port: int
    is_secure: bool
    login: bytes | None = attrs.field(default=None, repr=lambda login: "***" if login else "None")
    variable: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers that authenticate us to the proxy."""
        if self.login is None:
            return {}
        return {"Proxy-Authorization": f"Basic {b64encode(self.login).decode()}"}

    @property
    def url(self) -> str:
        """The address of the proxy, without the login."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_secure else 'http'}://{host}:{self.port}"


@attrs.frozen(kw_only=True)
class _Exception:
    """An entry of NO_PROXY: a network, or a name (``""`` is every name), with a port or None for every port."""

    network: _Network | None = None
    name: str = ""
    port: int | None = None

    def covers(self, host: str, address: _Address | None, port: int) -> bool:
        if self.port not in (None, port):
            return False
        if self.network is not None:
            # An IPv4-mapped IPv6 address is in networks of both families.
            forms = (address, getattr(address, "ipv4_mapped", None))
            return any(
                each is not None and each.version == self.network.version and each in self.network
                for each in forms
            )
        return not self.name or host == self.name or host.endswith(f".{self.name}")


@attrs.frozen(kw_only=True)
class Proxies:
    """The proxies of an environment. ``warnings``: variables that cannot be used, each with the reason."""

    warnings: tuple[tuple[str, str], ...]
    _by_scheme: Mapping[str, Proxy | ConfigError]
    _exceptions: tuple[_Exception, ...]

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Proxies":
        """Read the variables. Raises nothing: a bad variable is an error only when it would be used."""
        found: dict[str, Proxy | ConfigError] = {}
        for scheme in ("http", "https", "all"):
            variable, value = _variable(environ, f"{scheme}_proxy")
            if value:
                found[scheme] = _parsed(variable, value)
        by_scheme = {scheme: found.get(scheme, found.get("all")) for scheme in ("http", "https")}
        variable, value = _variable(environ, "no_proxy")
        entries = [_exception(entry) for entry in re.split(r"[,\s]+", value) if entry]
        bad = [(wrong.flag, wrong.reason) for wrong in found.values() if isinstance(wrong, ConfigError)]
        if unusable := entries.count(None):
            what = (
                "entry is no host, address or network"
                if unusable == 1
                else "entries are no host, address or network"
            )
            bad.append((variable, f"{unusable} {what} and ignored"))
        return cls(
            warnings=tuple(bad),
            by_scheme={scheme: proxy for scheme, proxy in by_scheme.items() if proxy is not None},
            exceptions=tuple(entry for entry in entries if entry is not None),
        )

    def for_url(self, url: str) -> Proxy | None:
        """The proxy for an http or https URL, None to connect directly.

        Raises: ConfigError, which names the variable, if its value is no HTTP proxy.
        """
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        proxy = self._by_scheme.get(parts.scheme)
        if proxy is None or is_loopback(host):
            return None
        address, port = _address(host), parts.port or _PORTS[parts.scheme]
        if any(entry.covers(host, address, port) for entry in self._exceptions):
            return None
        if isinstance(proxy, ConfigError):
            raise proxy
        return proxy


def is_loopback(host: str) -> bool:
    """Whether the host of a URL is this machine: ``localhost``, 127.0.0.0/8 or ::1."""
    address = _address(host)
    address = getattr(address, "ipv4_mapped", None) or address
    return host.rstrip(".").lower() == "localhost" if address is None else address.is_loopback


def _variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """The variable that is set and its value; the upper-case name and an empty value if neither is."""
    for variable in (name, name.upper()):
        if variable == "HTTP_PROXY" and "REQUEST_METHOD" in environ:
            continue  # under CGI this variable is the client's header "Proxy"
        if value := environ.get(variable, "").strip():
            return variable, value
    return name.upper(), ""


def _parsed(variable: str, value: str) -> Proxy | ConfigError:
    if "://" not in value:
        value = f"http://{value}"
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:
        return ConfigError(variable, "is not the address of a proxy")
    if parts.scheme.startswith("socks"):
        return ConfigError(variable, "names a SOCKS proxy; only HTTP proxies can be used")
    if parts.scheme not in _PORTS or not host or port == 0 or not (_HOST.fullmatch(host) or _address(host)):
        return ConfigError(variable, "is not the address of an HTTP proxy, http://HOST:PORT")
    login = None
    if parts.username is not None or parts.password is not None:
        login = unquote_to_bytes(parts.username or "") + b":" + unquote_to_bytes(parts.password or "")
    return Proxy(
        host=host,
        port=port or _PORTS[parts.scheme],
        is_secure=parts.scheme == "https",
        login=login,
        variable=variable,
    )


def _exception(entry: str) -> _Exception | None:
    """Parse an entry of NO_PROXY; None if it is invalid.

    Valid are ``*``, ``host``, ``.suffix`` and ``*.suffix`` (each also covers names below it), and an address or
    network of either family, an IPv6 address with brackets or without. All but a network may have a port.
    """
    if entry == "*":
        return _Exception()
    try:
        return _Exception(network=ipaddress.ip_network(re.sub(r"^\[(.*)\](/|$)", r"\1\2", entry), strict=False))
    except ValueError:
        pass
    host, colon, digits = entry.rpartition(":") if re.search(r"(^[^:]*|\]):[0-9]+$", entry) else (entry, "", "")
    port = int(digits) if colon and len(digits) <= 5 else None
    if colon and (port is None or not 0 < port <= 65535):
        return None
    address = _address(host.strip("[]")) if not host.startswith("[") or host.endswith("]") else None
    if address is not None:
        return _Exception(network=ipaddress.ip_network(address), port=port)
    name = host.removeprefix("*").strip(".").lower()
    return _Exception(name=name, port=port) if _HOST.fullmatch(name) else None


def _address(host: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return address
