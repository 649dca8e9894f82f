"""Edge: the rate limit, response headers and basic auth of the web configuration file.

`guard` wraps the whole application, so that it covers every path. It asks for the protection in force at each
request, because the web configuration file may have changed.
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

_MAX_WRONG: Final = 1000  # keys of 32 bytes, so about 100 KB
_MOST_WAITING: Final = 16  # for each user, and for all unknown names together
_UNKNOWN_USER: Final = b"$2b$10$" + b"." * 53
_BCRYPT_BYTES: Final = 72  # bcrypt ignores the rest of a password; version 5 of the library raises instead


class TokenBucket:
    """Allows ``burst`` requests at once and one per interval on average."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._tokens = float(limit.burst)
        self._filled_at: float | None = None

    def allow(self, now: float) -> bool:
        """Take a token if there is one. ``now`` is a monotonic time in seconds."""
        if self._filled_at is not None:
            gained = (now - self._filled_at) / self._limit.interval_seconds
            self._tokens = min(float(self._limit.burst), self._tokens + gained)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def give_back(self) -> None:
        """Return a token that `allow` took."""
        self._tokens = min(float(self._limit.burst), self._tokens + 1)


class TooManyLogins(Exception):
    """Too many logins are waiting to be checked."""


class Passwords:
    """Checks logins against bcrypt hashes, in threads.

    Results are cached, because bcrypt is too slow to run at every scrape. The cache key is a keyed hash of the
    login, never the login itself. Correct logins stay cached; the cache of wrong ones is bounded, and evicts only
    wrong ones.

    Logins of one user are checked one at a time, and so are those of all unknown names together, so that a client
    that guesses passwords delays only others that guess for the same name. Unknown names are checked too, so that
    they are not rejected faster than wrong passwords, against a hash with the cost of `htpasswd -BC 10`, so that
    one user's more expensive hash does not make every unknown name expensive.
    """

    def __init__(self, users: Mapping[str, str]) -> None:
        self._users = {name.encode(errors="surrogatepass"): hashed.encode() for name, hashed in users.items()}
        self._secret = secrets.token_bytes(32)
        self._right: set[bytes] = set()  # at most one for each user
        self._wrong: dict[bytes, None] = {}
        self._writing = threading.Lock()
        self._lanes: dict[bytes | None, trio.CapacityLimiter] = {}

    async def accept(self, authorization: str | None) -> bool:
        """Whether the value of an ``Authorization`` header is a correct login.

        Raises: TooManyLogins.

        Cancellation: returns at once. A check that has begun continues in its thread, and the next login of the
        same user waits for it.
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
        """Check a login (in a thread) and cache the result. Blocks as long as bcrypt takes."""
        if (
            verdict := self._verdict(key)
        ) is not None:  # an earlier check of the same login has finished meanwhile
            return verdict
        try:
            matches = bcrypt.checkpw(password, hashed or _UNKNOWN_USER)
        except ValueError:  # bcrypt refuses the password or the hash
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
    """What `guard` applies to a request."""

    headers: Mapping[str, str] = attrs.field(factory=dict)
    passwords: Passwords | None = None
    bucket: TokenBucket | None = None


def guard(app: ASGIApp, current: Callable[[], Awaitable[Protection]]) -> ASGIApp:
    """Wrap an application with the protection in force. Log exceptions that leave it, and do not re-raise them."""

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
            # Logged without its message, which may quote a request.
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
    """Return ``name:password`` of a Basic credential, or None if it is malformed or of another scheme."""
    scheme, _, credential = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        login = base64.b64decode(credential.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    return login if b":" in login else None
