"""Pure: which format and encoding a request's Accept headers ask for.

Rules for this file: whatever a client sends gets an answer, never an error; nothing is claimed that is not
served. What cannot be parsed, and every version that is not spoken here, is as if it had not been sent.
"""

import re
from collections.abc import Iterator
from typing import Final

import attrs

from ..metrics.formats import Format

# Our order of preference; a tie in weight goes to the first.
_PREFERENCE: Final = (Format.OPENMETRICS_1_0_0, Format.TEXT_1_0_0, Format.TEXT_0_0_4)

# (media range, version) to format; None: the client named no version.
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

# All names of ours are legal in every scheme, so each of them yields the same bytes and may be promised.
_ESCAPINGS: Final = frozenset({"allow-utf-8", "underscores", "dots", "values"})

_WEIGHT = re.compile(r"0(\.[0-9]*)?|1(\.0*)?")


@attrs.frozen
class Negotiated:
    """What to render, and what to call it."""

    format: Format
    content_type: str


def negotiate(accept: str | None) -> Negotiated:
    """The best format for an ``Accept`` header; text 0.0.4 where nothing better is asked for."""
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
    """Whether an ``Accept-Encoding`` header allows gzip: by name, else by ``*``."""
    weights = {coding: weight for coding, _, weight in _entries(accept_encoding or "")}
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _content_type(form: Format, escaping: str | None) -> str:
    return f"{form.content_type}; escaping={escaping}" if escaping in _ESCAPINGS else form.content_type


def _entries(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """The well-formed entries of a header with their parameters and weight (0 to 1; 1 if absent)."""
    for entry in header.split(","):
        name, *rest = (part.strip() for part in entry.split(";"))
        parameters = {}
        for parameter in rest:
            key, _, value = parameter.partition("=")
            parameters[key.strip().lower()] = value.strip().strip('"').lower()
        weight = parameters.get("q", "1")
        if name and _WEIGHT.fullmatch(weight):
            yield name.lower(), parameters, float(weight)
