"""Pure: what REST and the live feed read in the same way from an HTTP answer."""

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

RETRY_AFTER = "retry-after"


def retry_after(headers: Mapping[str, str], now: float, longest: float) -> float | None:
    """Seconds that a server asks its client to wait, at most ``longest``; None where it asks for nothing readable.

    ``headers`` by lower-case name. The value is a number of seconds or an HTTP date (RFC 9110, 10.2.3), which is
    compared with ``now``, the Unix time.
    """
    value = headers.get(RETRY_AFTER, "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value), longest)
    try:
        moment = parsedate_to_datetime(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return min(max(moment.timestamp() - now, 0.0), longest)
    except (ValueError, OverflowError):
        return None
