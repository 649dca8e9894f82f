"""REST and the live feed name the same failure by the same word."""

import errno
import socket
import ssl

import pytest

from exporter.enums import FeedError, RestError
from exporter.phonic.failures import connect_reason, status_reason


def raised(
    outer: Exception, *, cause: BaseException | None = None, context: BaseException | None = None
) -> Exception:
    outer.__cause__, outer.__context__ = cause, context
    return outer


REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
UNREACHABLE = OSError(errno.EHOSTUNREACH, "unreachable")


@pytest.mark.parametrize("reasons", [FeedError, RestError])
@pytest.mark.parametrize(
    ("status", "word"),
    [
        (401, "http_401"),
        (403, "http_403"),
        (404, "http_404"),
        (429, "http_429"),
        (400, "http_4xx"),
        (499, "http_4xx"),
        (500, "http_5xx"),
        (302, "http_other"),
        (999, "http_other"),
    ],
)
def test_a_status_has_the_same_word_for_rest_and_live(
    reasons: type[FeedError] | type[RestError], status: int, word: str
) -> None:
    assert status_reason(reasons, status).value == word  # type: ignore[type-var]


@pytest.mark.parametrize("reasons", [FeedError, RestError])
@pytest.mark.parametrize(
    ("failed", "word"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "dns"),
        (UnicodeError("label too long"), "dns"),
        (REFUSED, "refused"),
        (ssl.SSLError("bad certificate"), "tls"),
        (OSError(errno.ETIMEDOUT, "timed out"), "timeout"),
        (UNREACHABLE, "connect"),
        (ExceptionGroup("all addresses", [REFUSED, UNREACHABLE]), "refused"),
        (ExceptionGroup("all addresses", [REFUSED, socket.gaierror()]), "refused"),
        (ExceptionGroup("all addresses", [UNREACHABLE]), "connect"),
        (raised(OSError("all attempts failed"), cause=ExceptionGroup("each", [REFUSED])), "refused"),
        (raised(RuntimeError("of a library"), context=ssl.SSLError("bad certificate")), "tls"),
    ],
    ids=repr,
)
def test_a_failed_connection_has_the_same_word_for_rest_and_live(
    reasons: type[FeedError] | type[RestError], failed: BaseException, word: str
) -> None:
    assert connect_reason(reasons, failed).value == word  # type: ignore[type-var]
