"""Pure: whether a request that changes something comes from somebody who may, and not from a web page elsewhere.

A browser that shows an attacker's page can be made to send requests to the exporter, by another site's script
(which the header Origin tells) or under a name that the attacker's DNS points at it (which Host tells).
"""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

import attrs

# Names of these ends are nobody's to register, so no attacker's DNS answers for them.
_PRIVATE_ENDS: Final = (".localhost", ".local", ".internal", ".svc", ".cluster.local", ".home.arpa")
_FOREIGN_SITES: Final = ("cross-site", "same-site")


@attrs.frozen(kw_only=True)
class SameOrigin:
    """What is known of the names under which the exporter is reached."""

    hosts: frozenset[str] = frozenset()
    """Names that are trusted besides addresses, names without a dot, and private ones; in lower case."""
    origin: str | None = None
    """Scheme and host, maybe with a port, of the external URL."""

    def objection(self, headers: Mapping[str, Sequence[str]]) -> str | None:
        """Why a request is refused; None where it is not. ``headers`` by name in lower case."""
        hosts, origins = headers.get("host", ()), headers.get("origin", ())
        if len(hosts) != 1 or not self._is_trusted(hosts[0]):
            return "this host name is not known here; give it with --web.external-url, or use an address"
        if any(not self._is_ours(origin, hosts[0]) for origin in origins):
            return "requests of other web sites are refused"
        if any(site in _FOREIGN_SITES for site in headers.get("sec-fetch-site", ())):
            return "requests of other web sites are refused"
        return None

    def _is_trusted(self, host: str) -> bool:
        name = _name(host)
        if name is None:
            return False
        return _is_address(name) or "." not in name or name.endswith(_PRIVATE_ENDS) or name in self.hosts

    def _is_ours(self, origin: str, host: str) -> bool:
        try:
            parts = urlsplit(origin.lower())
        except ValueError:
            return False
        return origin.lower() == self.origin or (
            parts.scheme in ("http", "https") and parts.netloc == host.lower()
        )


def same_origin(*, external_url: str, listen_hosts: Sequence[str], machine: str) -> SameOrigin:
    """The rule of an exporter that listens on ``listen_hosts`` of a machine named ``machine``."""
    url = urlsplit(external_url.lower())
    names = {url.hostname or "", machine.lower(), *(host.lower() for host in listen_hosts)}
    return SameOrigin(hosts=frozenset(names - {""}), origin=f"{url.scheme}://{url.netloc}" if url.netloc else None)


def _name(host: str) -> str | None:
    """The name or address in a Host header, None where it is malformed."""
    try:
        parts = urlsplit(f"//{host.lower()}")
        _ = parts.port  # a bad one shows only when asked for
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
