"""Pure: small rules of the API that REST and the live feed share: ids, path segments and ``Retry-After``."""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import quote

RETRY_AFTER, RETRY_AFTER_MS = "retry-after", "retry-after-ms"
_CONVERSATION_ID = re.compile(r"conv_[A-Za-z0-9_-]{1,100}")


def is_conversation_id(text: str) -> bool:
    """Whether ``text`` can be a conversation id (API 2.1: ``conv_`` and a UUID; other tails are tolerated)."""
    return _CONVERSATION_ID.fullmatch(text) is not None


def retry_after(headers: Mapping[str, str], now: float, longest: float) -> float | None:
    """The seconds that a server asks its client to wait (API 3.3), at most ``longest``; None if it does not.

    ``headers`` by lower-case name. ``retry-after-ms`` is a number of milliseconds; ``retry-after`` is a number of
    seconds or an HTTP date (RFC 9110, 10.2.3), which is compared with ``now``, the Unix time.
    """
    milliseconds = _number(headers.get(RETRY_AFTER_MS, ""))
    if milliseconds is not None:
        return min(milliseconds / 1000, longest)
    value = headers.get(RETRY_AFTER, "").strip()
    seconds = _number(value)
    if seconds is not None:
        return min(seconds, longest)
    try:
        moment = parsedate_to_datetime(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return min(max(moment.timestamp() - now, 0.0), longest)
    except (ValueError, OverflowError):
        return None


def segment(text: str) -> str:
    """Quote any text as exactly one segment of a URL path; dots too, because ``..`` would change the path."""
    return quote(text, safe="", errors="replace").replace(".", "%2E")


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if text.isascii() and text.isdigit() else None
