"""Edge: what stands before every page: rate limit, added headers, basic auth.

Strategy: ``guard`` wraps the whole application, so no path can be forgotten. It asks at each request for the
protection that is in force, because the web configuration file may have changed since the last one.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
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

_MAX_VERDICTS: Final = 1000  # 32-byte keys: about 100 KB
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


class Passwords:
    """Checks logins against bcrypt hashes, off the event loop and one at a time.

    Verdicts are remembered under a keyed hash of the login, never the login itself: bcrypt costs 70 ms of CPU
    and more, which a scrape every few seconds must not pay each time. An unknown name costs what a known one does.
    """

    def __init__(self, users: Mapping[str, str]) -> None:
        self._users = {name.encode(): hashed.encode() for name, hashed in users.items()}
        cost = max(hashed[4:6] for hashed in self._users.values())
        self._nobody = b"$2b$" + cost + b"$" + b"." * 53
        self._secret = secrets.token_bytes(32)
        self._verdicts: dict[bytes, bool] = {}
        self._one_at_a_time = trio.Lock()

    async def accept(self, authorization: str | None) -> bool:
        """Whether the value of an ``Authorization`` header is a login of one of the users."""
        login = _basic_login(authorization or "")
        if login is None:
            return False
        key = hmac.digest(self._secret, login, hashlib.sha256)
        if key not in self._verdicts:
            async with self._one_at_a_time:
                if key not in self._verdicts:  # not found by whom we waited for
                    verdict = await trio.to_thread.run_sync(self._check, login)
                    if len(self._verdicts) >= _MAX_VERDICTS:
                        del self._verdicts[next(iter(self._verdicts))]
                    self._verdicts[key] = verdict
                return self._verdicts[key]
        return self._verdicts[key]

    def _check(self, login: bytes) -> bool:
        name, _, password = login.partition(b":")
        hashed = self._users.get(name)
        try:
            matches = bcrypt.checkpw(password[:_BCRYPT_BYTES], hashed or self._nobody)
        except ValueError:  # a password that bcrypt cannot hash
            matches = False
        return matches and hashed is not None


@attrs.frozen(kw_only=True)
class Protection:
    """What ``guard`` applies to a request."""

    headers: Mapping[str, str] = attrs.field(factory=dict)
    passwords: Passwords | None = None
    bucket: TokenBucket | None = None


def guard(app: ASGIApp, current: Callable[[], Awaitable[Protection]]) -> ASGIApp:
    """Protect an application; an exception that leaves it is logged and contained."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a WebSocket, which no route takes: the application refuses it
            await app(scope, receive, send)
            return
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
    if await protection.passwords.accept(given[0] if len(given) == 1 else None):
        return None
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
