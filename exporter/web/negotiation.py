"""Pure: chooses the format and encoding of a response from the request's Accept headers.

Every header value leads to a response, never to an error. Entries that cannot be parsed, and versions that this
exporter does not serve, are ignored. The Content-Type claims only what the page really is.
"""

import re
from collections.abc import Iterator
from typing import Final

import attrs

from ..metrics.formats import Format

# Our order of preference; a tie in weight goes to the first.
_PREFERENCE: Final = (Format.OPENMETRICS_1_0_0, Format.TEXT_1_0_0, Format.TEXT_0_0_4)

# Format by (media range, version); the version is None if the client named none.
_FORMATS: Final[dict[tuple[str, str | None], Format]] = {
    ("application/openmetrics-text", None): Format.OPENMETRICS_1_0_0,
    ("application/openmetrics-text", "1.0.0"): Format.OPENMETRICS_1_0_0,
    ("application/*", None): Format.OPENMETRICS_1_0_0,
    ("text/plain", None): Format.TEXT_0_0_4,
    ("text/plain", "0.0.4"): Format.TEXT_0_0_4,
    ("text/plain", "1.0.0"): Format.TEXT_1_0_0,
    ("text/*", None): Format.TEXT_0_0_4,
    ("*/*", None): Format.TEXT_0_0_4,
}

# All our metric names are legal in every escaping scheme, so the page is the same in each of them.
_ESCAPINGS: Final = frozenset({"allow-utf-8", "underscores", "dots", "values"})

_WEIGHT = re.compile(r"0(\.[0-9]*)?|1(\.0*)?")


@attrs.frozen
class Negotiated:
    """The format to render and its Content-Type."""

    format: Format
    content_type: str


def negotiate(accept: str | None) -> Negotiated:
    """Return the best format for an ``Accept`` header, or text 0.0.4 if the client asks for nothing better."""
    chosen = Negotiated(Format.TEXT_0_0_4, Format.TEXT_0_0_4.content_type)
    best = (0.0, 0)  # weight, then preference
    for media_range, parameters, weight in _entries(accept or ""):
        form = _FORMATS.get((media_range, parameters.get("version")))
        if form is None:
            continue
        rank = (weight, -_PREFERENCE.index(form))
        if weight > 0 and (best[0] == 0 or rank > best):
            best, chosen = rank, Negotiated(form, _content_type(form, parameters.get("escaping")))
    return chosen


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether an ``Accept-Encoding`` header allows gzip, by name or else by ``*``."""
    weights = {coding: weight for coding, _, weight in _entries(accept_encoding or "")}
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _content_type(form: Format, escaping: str | None) -> str:
    return f"{form.content_type}; escaping={escaping}" if escaping in _ESCAPINGS else form.content_type


def _entries(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield each well-formed entry of a header with its parameters and its weight (0 to 1, by default 1)."""
    for entry in header.split(","):
        name, *rest = (part.strip() for part in entry.split(";"))
        parameters = {}
        for parameter in rest:
            key, _, value = parameter.partition("=")
            parameters[key.strip().lower()] = value.strip().strip('"').lower()
        weight = parameters.get("q", "1")
        if name and _WEIGHT.fullmatch(weight):
            yield name.lower(), parameters, float(weight)
