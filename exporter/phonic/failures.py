"""Edge: which reason a failed connection or an HTTP status counts under, one table for REST and the live feed."""

import errno
import socket
import ssl
from typing import TypeVar

from ..enums import FeedError, RestError

_Reason = TypeVar("_Reason", FeedError, RestError)


def status_reason(reasons: type[_Reason], status: int) -> _Reason:
    """The member of ``reasons`` for an HTTP status that is no success."""
    known = {
        401: reasons.HTTP_401,
        403: reasons.HTTP_403,
        404: reasons.HTTP_404,
        429: reasons.HTTP_429,
    }
    if status in known:
        return known[status]
    return {4: reasons.HTTP_4XX, 5: reasons.HTTP_5XX}.get(status // 100, reasons.HTTP_OTHER)


def connect_reason(reasons: type[_Reason], failed: BaseException) -> _Reason:
    """The member of ``reasons`` for the exception of a failed attempt to connect.

    Looks through exception groups and causes. When several addresses failed, a refused one decides.
    """
    if isinstance(failed, BaseExceptionGroup):
        found = [connect_reason(reasons, each) for each in failed.exceptions]
        return reasons.REFUSED if reasons.REFUSED in found else found[-1]
    if isinstance(failed, socket.gaierror | UnicodeError):  # UnicodeError: the host is no valid domain name
        return reasons.DNS
    if isinstance(failed, ConnectionRefusedError):
        return reasons.REFUSED
    if isinstance(failed, ssl.SSLError):
        return reasons.TLS
    if isinstance(failed, OSError) and failed.errno == errno.ETIMEDOUT:
        return reasons.TIMEOUT
    # httpcore clears the cause of what it raises; the context stays.
    deeper = failed.__cause__ or failed.__context__
    return reasons.CONNECT if deeper is None else connect_reason(reasons, deeper)
