"""Pure: refuses requests that another web site makes a browser send (CSRF and DNS rebinding).

A page of another site can make the browser that shows it send requests to the exporter. A script of that site
gives itself away by the header Origin, a name that the attacker's DNS points at the exporter by the header Host.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

import attrs

# Names with these suffixes cannot be registered, so an attacker's DNS cannot answer for them.
_PRIVATE_SUFFIXES: Final = (".localhost", ".local", ".internal", ".svc", ".cluster.local", ".home.arpa")
_FOREIGN_SITES: Final = ("cross-site", "same-site")


@attrs.frozen(kw_only=True)
class SameOrigin:
    """The names by which clients reach the exporter."""

    hosts: frozenset[str] = frozenset()
    """Trusted names in lower case, besides IP addresses, names without a dot and private names."""
    origin: str | None = None
    """Scheme, host and optional port of the external URL."""

    def objection(self, headers: Mapping[str, Sequence[str]]) -> str | None:
        """Return why a request is refused, or None if it is not. ``headers`` maps lower-case names to values."""
        hosts, origins = headers.get("host", ()), headers.get("origin", ())
        if len(hosts) != 1 or not self._is_trusted(hosts[0]):
            return "unknown host name; set it with --web.external-url, or use an IP address"
        if any(not self._is_ours(origin, hosts[0]) for origin in origins):
            return "requests from other web sites are refused"
        if any(site in _FOREIGN_SITES for site in headers.get("sec-fetch-site", ())):
            return "requests from other web sites are refused"
        return None

    def _is_trusted(self, host: str) -> bool:
        name = _name(host)
        if name is None:
            return False
        return _is_address(name) or "." not in name or name.endswith(_PRIVATE_SUFFIXES) or name in self.hosts

    def _is_ours(self, origin: str, host: str) -> bool:
        try:
            parts = urlsplit(origin.lower())
        except ValueError:
            return False
        return origin.lower() == self.origin or (
            parts.scheme in ("http", "https") and parts.netloc == host.lower()
        )


def same_origin(*, external_url: str, listen_hosts: Sequence[str], machine: str) -> SameOrigin:
    """Build the rule from the settings.

    Args:
        external_url: value of ``--web.external-url``; may be empty.
        listen_hosts: hosts of the listen addresses.
        machine: host name of this machine.
    """
    url = urlsplit(external_url.lower())
    names = {url.hostname or "", machine.lower(), *(host.lower() for host in listen_hosts)}
    return SameOrigin(hosts=frozenset(names - {""}), origin=f"{url.scheme}://{url.netloc}" if url.netloc else None)


def _name(host: str) -> str | None:
    """Return the name or address in a Host header, or None if the header is malformed."""
    try:
        parts = urlsplit(f"//{host.lower()}")
        _ = parts.port  # raises ValueError for a bad port
    except ValueError:
        return None
    if parts.netloc != host.lower() or "@" in host or not parts.hostname:
        return None
    return parts.hostname.rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
