"""Edge: what stands before every page: rate limit, added headers, basic auth.

Strategy: ``guard`` wraps the whole application, so no path can be forgotten. It asks at each request for the
protection that is in force, because the web configuration file may have changed since the last one.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import attrs
import bcrypt
import structlog
import trio
from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .config_file import RateLimit

log = structlog.get_logger()

_MAX_WRONG: Final = 1000  # 32-byte keys: about 100 KB
_MOST_WAITING: Final = 16  # for one user, or for nobody: about a second at cost 10
_NOBODY: Final = b"$2b$10$" + b"." * 53
_BCRYPT_BYTES: Final = 72  # what lies beyond takes no part in the hash; bcrypt 5 raises instead


class TokenBucket:
    """Allows ``burst`` requests at once and one per interval in the long run."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._tokens = float(limit.burst)
        self._filled_at: float | None = None

    def allow(self, now: float) -> bool:
        """Take a token if there is one; ``now`` in seconds of any clock that never goes back."""
        if self._filled_at is not None:
            gained = (now - self._filled_at) / self._limit.interval_seconds
            self._tokens = min(float(self._limit.burst), self._tokens + gained)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def give_back(self) -> None:
        """Undo an ``allow`` that was not needed after all."""
        self._tokens = min(float(self._limit.burst), self._tokens + 1)


class TooManyLogins(Exception):
    """So many logins wait to be checked that one more would only wait too."""


class Passwords:
    """Checks logins against bcrypt hashes, off the event loop.

    Verdicts are remembered under a keyed hash of the login, never the login itself: bcrypt costs 70 ms of CPU
    and more, which a scrape every few seconds must not pay each time. A right login is remembered for good, wrong
    ones push out each other only. Each user's logins are checked one at a time, and so are those of nobody
    together: whoever guesses waits for guesses. Nobody's hash has the cost of `htpasswd -BC 10`, so that a costly
    hash of one user is not paid for every made-up name.
    """

    def __init__(self, users: Mapping[str, str]) -> None:
        self._users = {name.encode(errors="surrogatepass"): hashed.encode() for name, hashed in users.items()}
        self._secret = secrets.token_bytes(32)
        self._right: set[bytes] = set()  # at most one for each user
        self._wrong: dict[bytes, None] = {}
        self._writing = threading.Lock()
        self._lanes: dict[bytes | None, trio.CapacityLimiter] = {}

    async def accept(self, authorization: str | None) -> bool:
        """Whether the value of an ``Authorization`` header is a login of one of the users.

        Errors: TooManyLogins. Cancellation: at once; a check that has begun goes on in its thread, and whoever
        is next waits for it.
        """
        login = _basic_login(authorization or "")
        if login is None:
            return False
        name, _, password = login.partition(b":")
        password = password[:_BCRYPT_BYTES]
        key = hmac.digest(self._secret, name + b":" + password, hashlib.sha256)
        if (verdict := self._verdict(key)) is not None:
            return verdict
        lane = self._lanes.setdefault(name if name in self._users else None, trio.CapacityLimiter(1))
        if lane.statistics().tasks_waiting >= _MOST_WAITING:
            raise TooManyLogins
        return await trio.to_thread.run_sync(
            self._check, key, password, self._users.get(name), limiter=lane, abandon_on_cancel=True
        )

    def _verdict(self, key: bytes) -> bool | None:
        return True if key in self._right else False if key in self._wrong else None

    def _check(self, key: bytes, password: bytes, hashed: bytes | None) -> bool:
        """In a thread: blocks for as long as the hash, or nobody's, says."""
        if (verdict := self._verdict(key)) is not None:  # found by whom we waited for
            return verdict
        try:
            matches = bcrypt.checkpw(password, hashed or _NOBODY)
        except ValueError:  # a password or a hash that bcrypt cannot work with
            matches = False
        verdict = matches and hashed is not None
        with self._writing:
            if verdict:
                self._right.add(key)
            else:
                if len(self._wrong) >= _MAX_WRONG:
                    del self._wrong[next(iter(self._wrong))]
                self._wrong[key] = None
        return verdict


@attrs.frozen(kw_only=True)
class Protection:
    """What ``guard`` applies to a request."""

    headers: Mapping[str, str] = attrs.field(factory=dict)
    passwords: Passwords | None = None
    bucket: TokenBucket | None = None


def guard(app: ASGIApp, current: Callable[[], Awaitable[Protection]]) -> ASGIApp:
    """Protect an application; an exception that leaves it is logged and contained."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        protection = await current()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in protection.headers.items():
                    headers[name] = value
            await send(message)

        response = await _refusal(protection, scope)
        try:
            await (response or app)(scope, receive, send_with_headers)
        except Exception:
            # Contained here, since the server would log the message, which may quote anything.
            log.error("request failed", exc_info=True)

    return guarded


async def _refusal(protection: Protection, scope: Scope) -> PlainTextResponse | None:
    if protection.bucket and not protection.bucket.allow(trio.current_time()):
        return PlainTextResponse("Too Many Requests\n", 429)
    if protection.passwords is None:
        return None
    given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
    try:
        if await protection.passwords.accept(given[0] if len(given) == 1 else None):
            return None
    except TooManyLogins:
        return PlainTextResponse("too many logins wait to be checked\n", 503, {"Retry-After": "1"})
    return PlainTextResponse("Unauthorized\n", 401, {"WWW-Authenticate": 'Basic realm="phonic-exporter"'})


def _basic_login(authorization: str) -> bytes | None:
    """``name:password`` of a Basic credential, None where it is none."""
    scheme, _, credential = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        login = base64.b64decode(credential.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    return login if b":" in login else None
