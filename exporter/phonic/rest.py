"""Edge: Phonic's REST API over httpx: how a request is made, and the ways in which it fails (API 3).

Rules for this file:
- All requests of a client pass one gate, which keeps them below the rate limit; whoever is told to wait closes
  it for everybody.
- A reply is bounded in size and time before anything reads it, and read in a thread where it is big.
- Nothing that leaves here (error, log line) holds a body, a query or the credential.
"""

import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import httpx
import structlog
import trio

from .. import __version__
from ..proxies import Proxy
from ..vocabulary import Invalid, RestError
from .credentials import Credential, Credentials
from .decode import InvalidMessage, decode_record
from .model import Snapshot
from .rows import (
    AgentRow,
    ListPage,
    ProjectRow,
    Workspace,
    read_agents,
    read_page,
    read_projects,
    read_workspace,
)
from .trust import trusting

log = structlog.get_logger("exporter.phonic")

LARGEST_PAGE = 100  # rows; the API's own limit
LARGEST_BODY = 32 * 1024 * 1024  # bytes, unpacked; 100 conversations of 50 turns are about 5 MB
REQUESTS_PER_SECOND = 4.0  # evenly spaced, so never more than 5 in any second
CONNECT_SECONDS, SILENCE_SECONDS, TOTAL_SECONDS = 10.0, 20.0, 60.0
PAUSE, LONGEST_PAUSE = 5.0, 300.0  # seconds without requests after 429: if it does not say, and at most

_BIG_BODY = 1024 * 1024  # bytes; a smaller one is read within 2 ms
_CONNECTIONS = 16  # more than discovery and reconciliation use at once

_REASONS = {401: RestError.HTTP_401, 403: RestError.HTTP_403, 404: RestError.HTTP_404, 429: RestError.HTTP_429}
# The API works and found fault with one request.
_ANSWERS = frozenset({RestError.HTTP_404, RestError.HTTP_4XX})

_T = TypeVar("_T")
_Reply = tuple[bytes | None, str | None]


class RestFailed(Exception):
    """A request that brought nothing usable.

    ``retry_after``: the seconds that Phonic asked to wait, if it did; they are kept whether or not the caller
    does. ``request_id`` is what Phonic's support asks for.
    """

    def __init__(
        self, reason: RestError, retry_after: float | None = None, *, request_id: str | None = None
    ) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.retry_after = retry_after
        self.request_id = request_id


@asynccontextmanager
async def open_rest(
    base_url: str,
    credentials: Credentials,
    *,
    on_error: Callable[[RestError], None],
    requests_per_second: float = REQUESTS_PER_SECOND,
    proxy: Proxy | None = None,
    ca_file: Path | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    now: Callable[[], float] = time.time,
) -> AsyncIterator["RestApi"]:
    """A client for ``base_url`` (without ``/v1``) that is closed on leaving.

    ``on_error`` hears of each failed request and of each reply with odd rows. All requests go through ``proxy``;
    ``ca_file`` replaces the system's trust, in it too. Errors: ConfigError for an unusable ``ca_file``.
    """
    # Contexts of its own: httpx sets ALPN on those it gets.
    through = None
    if proxy is not None:
        trust = trusting(ca_file) if proxy.is_secure else None
        through = httpx.Proxy(proxy.url, ssl_context=trust, headers=proxy.headers)
    client = httpx.AsyncClient(
        verify=trusting(ca_file),
        trust_env=False,  # one rule for REST and the live feed: `exporter.proxies`
        proxy=through,
        timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS, pool=None),
        limits=httpx.Limits(max_connections=_CONNECTIONS, keepalive_expiry=60),
        headers={
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            "User-Agent": f"phonic-exporter/{__version__}",
        },
        transport=transport,
    )
    async with client:
        yield RestApi(
            client, base_url, credentials, on_error=on_error, requests_per_second=requests_per_second, now=now
        )


class RestApi:
    """Reads of the REST API; made by `open_rest`.

    Every method raises `RestFailed` and nothing else, waits for its turn first, and may be cancelled at any
    time. ``up``: whether the last request found the API working; None before the first.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        base_url: str,
        credentials: Credentials,
        *,
        on_error: Callable[[RestError], None],
        requests_per_second: float,
        now: Callable[[], float],
    ) -> None:
        self.up: bool | None = None
        self._client = client
        self._root = f"{base_url.rstrip('/')}/v1"
        self._credentials = credentials
        self._on_error = on_error
        self._gate = _Gate(spacing=1 / requests_per_second)
        self._now = now

    async def projects(self) -> list[ProjectRow]:
        """All projects of the workspace, with their counts."""
        rows, unusable = await self._get("projects", "/projects", read_projects)
        self._odd("projects", unusable)
        return rows

    async def workspace(self) -> Workspace:
        return await self._get("workspace", "/workspace", read_workspace)

    async def agents(self, project_name: str) -> list[AgentRow]:
        """All agents of one project."""
        rows, unusable = await self._get("agents", "/agents", read_agents, {"project": project_name})
        self._odd("agents", unusable)
        return rows

    async def conversations(
        self,
        project_name: str,
        *,
        after: str | None = None,
        limit: int = LARGEST_PAGE,
        started_at_min: str | None = None,
    ) -> ListPage:
        """A page of a project's conversations: the newest, or those older than the cursor ``after``.

        ``started_at_min`` (ISO 8601) may also hide conversations that never started (API 3.1).
        """
        query = {"project": project_name, "limit": str(limit)}
        if after is not None:
            query["after"] = after
        if started_at_min is not None:
            query["started_at_min"] = started_at_min
        page = await self._get("conversations", "/conversations", read_page, query)
        self._odd("conversations", page.unusable)
        return page

    async def record(self, conversation_id: str) -> Snapshot | None:
        """One conversation as REST has it; None when it has none of that id."""
        return await self._ask(
            "record", f"/conversations/{_segment(conversation_id)}", partial(_record, conversation_id)
        )

    async def _get(
        self, what: str, path: str, read: Callable[[bytes], _T], query: Mapping[str, str] | None = None
    ) -> _T:
        """What must exist."""
        found = await self._ask(what, path, read, query)
        if found is None:
            missing = RestFailed(RestError.HTTP_404)
            self._note(what, missing)
            raise missing
        return found

    async def _ask(
        self, what: str, path: str, read: Callable[[bytes], _T], query: Mapping[str, str] | None = None
    ) -> _T | None:
        """What may not exist: None for 404."""
        try:
            body, request_id = await self._authorised(path, query)
            result = None if body is None else await _reading(read, body, request_id)
        except RestFailed as failed:
            self._note(what, failed)
            raise
        self.up = True
        return result

    def _note(self, what: str, failed: RestFailed) -> None:
        # One line when trouble begins; while it lasts, its repetitions are for those who look closely.
        say = log.debug if self.up is False else log.warning
        say("REST request failed", request=what, reason=failed.reason.value, request_id=failed.request_id)
        self.up = failed.reason in _ANSWERS
        self._on_error(failed.reason)

    def _odd(self, what: str, unusable: int) -> None:
        if unusable:
            log.debug("REST rows unusable", request=what, rows=unusable)
            self._on_error(RestError.WRONG_SHAPE)

    async def _authorised(self, path: str, query: Mapping[str, str] | None) -> _Reply:
        """The reply. After 401 the credential is read again, and the request repeated if it is another one."""
        used = self._credentials.current()
        try:
            return await self._exchange(path, query, used)
        except RestFailed as failed:
            if failed.reason is not RestError.HTTP_401:
                raise
            await trio.to_thread.run_sync(self._credentials.reload)
            # Compared with the one used, since another request may have read the new one meanwhile.
            if self._credentials.current() == used:
                raise
        return await self._exchange(path, query, self._credentials.current())

    async def _exchange(self, path: str, query: Mapping[str, str] | None, credential: Credential) -> _Reply:
        """One request: the body of a 200, or None for 404; and the request id."""
        await self._gate.wait()
        try:
            with trio.fail_after(TOTAL_SECONDS):
                async with self._client.stream(
                    "GET", self._root + path, params=query, headers=credential.headers
                ) as response:
                    if response.status_code == 200:
                        return await _body(response), _request_id(response)
        except (httpx.TimeoutException, trio.TooSlowError) as exc:
            raise RestFailed(RestError.TIMEOUT) from exc
        except httpx.DecodingError as exc:
            raise RestFailed(RestError.NOT_JSON) from exc
        except httpx.TransportError as exc:
            raise RestFailed(RestError.CONNECT) from exc
        if response.status_code == 404:
            return None, _request_id(response)
        retry_after = _retry_after(response.headers, self._now())
        if response.status_code == 429 or (response.status_code == 503 and retry_after is not None):
            self._gate.close_for(PAUSE if retry_after is None else retry_after)
        raise RestFailed(_reason(response.status_code), retry_after, request_id=_request_id(response))


class _Gate:
    """Lets one request pass every ``spacing`` seconds, first come, first served."""

    def __init__(self, *, spacing: float) -> None:
        self._spacing = spacing
        self._opens_at = -math.inf
        self._turn = trio.Lock()

    async def wait(self) -> None:
        async with self._turn:
            # The end of the wait is known, but `close_for` may move it meanwhile.
            while (closed_for := self._opens_at - trio.current_time()) > 0:  # noqa: ASYNC110
                await trio.sleep(closed_for)
            self._opens_at = trio.current_time() + self._spacing

    def close_for(self, seconds: float) -> None:
        self._opens_at = max(self._opens_at, trio.current_time() + seconds)


async def _body(response: httpx.Response) -> bytes:
    """Raises `RestFailed` as soon as it is known to be too large."""
    announced = response.headers.get("Content-Length", "")
    if announced.isdecimal() and len(announced) < 20 and int(announced) > LARGEST_BODY:
        raise RestFailed(RestError.TOO_LARGE, request_id=_request_id(response))
    chunks: list[bytes] = []
    size = 0
    with trio.CancelScope() as reading:
        async for chunk in response.aiter_bytes():
            size += len(chunk)
            if size <= LARGEST_BODY:
                chunks.append(chunk)
            else:
                reading.cancel()  # an exception here would leave httpx's nested generators half-way
    if size > LARGEST_BODY:
        raise RestFailed(RestError.TOO_LARGE, request_id=_request_id(response))
    return b"".join(chunks)


async def _reading(read: Callable[[bytes], _T], body: bytes, request_id: str | None) -> _T:
    try:
        return read(body) if len(body) <= _BIG_BODY else await trio.to_thread.run_sync(read, body)
    except InvalidMessage as invalid:
        reason = RestError.NOT_JSON if invalid.reason is Invalid.NOT_JSON else RestError.WRONG_SHAPE
        raise RestFailed(reason, request_id=request_id) from None


def _record(conversation_id: str, body: bytes) -> Snapshot:
    snapshot = decode_record(body)
    if snapshot.conversation.id != conversation_id:  # also what an id that escapes its place would bring
        raise InvalidMessage(Invalid.WRONG_CONVERSATION)
    return snapshot


def _segment(text: str) -> str:
    """Exactly one segment of a path, whatever the text: dots too, for ``..`` means another place."""
    return quote(text, safe="", errors="replace").replace(".", "%2E")


def _reason(status: int) -> RestError:
    if status in _REASONS:
        return _REASONS[status]
    return {4: RestError.HTTP_4XX, 5: RestError.HTTP_5XX}.get(status // 100, RestError.HTTP_OTHER)


def _request_id(response: httpx.Response) -> str | None:
    found = response.headers.get("X-Request-Id")
    return None if found is None else found[:64]


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait, at most `LONGEST_PAUSE`: ``retry-after-ms``, or ``Retry-After`` (seconds or a date)."""
    seconds = _number(headers.get("retry-after-ms"))
    if seconds is not None:
        seconds /= 1000
    else:
        seconds = _number(headers.get("Retry-After"))
    if seconds is None:
        try:
            seconds = parsedate_to_datetime(headers.get("Retry-After", "")).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST_PAUSE)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
