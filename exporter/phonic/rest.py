"""Edge: Phonic's REST API over httpx: how a request is sent, and how it can fail (API 3).

Rules for this file:

- All requests pass one queue (`exporter.phonic.budget`), which keeps them below the rate limit. When one reply
  asks to wait, all requests wait.
- A reply is bounded in size and time before it is decoded. A big one is decoded in a thread or in steps.
- No error and no log line holds a body, a query or the credential.
"""

import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import structlog
import trio

from .. import __version__
from ..enums import Invalid, Request, RestError
from .address import normalised
from .body import Body, TooLarge, Unreadable
from .budget import AT_ONCE, Budget, Lane
from .clock import PhonicClock
from .credentials import Credential, Credentials
from .decode import InvalidMessage, read_record
from .failures import connect_reason, status_reason
from .listing import (
    AgentRow,
    ListPage,
    ProjectRow,
    Workspace,
    read_agents,
    read_page,
    read_projects,
    read_workspace,
)
from .proxies import Proxy
from .schema import Snapshot
from .trust import trusting
from .wire import retry_after, segment

log = structlog.get_logger("exporter.phonic")

LARGEST_PAGE = 100  # rows; the API's own limit
LARGEST_BODY = 32 * 1024 * 1024  # bytes, decompressed; 100 conversations of 50 turns are about 5 MB
REQUESTS_PER_SECOND = 50.0  # evenly spaced; a tenth of what Phonic allows
CONNECT_SECONDS, SILENCE_SECONDS, TOTAL_SECONDS = 10.0, 20.0, 60.0
PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds without requests after 429: without Retry-After, and at most

_BIG_BODY = 1024 * 1024  # bytes; a smaller one is decoded within 2 ms

# The API works, and only this request was wrong.
_ANSWERS = frozenset({RestError.HTTP_404, RestError.HTTP_4XX})
REFUSALS = {RestError.HTTP_401: 401, RestError.HTTP_403: 403}  # reasons that refuse the credential: HTTP status

_T = TypeVar("_T")
_Reply = tuple[bytes | None, str | None]
# Raised before the head of a reply, these mean that the server closed a kept connection just as it was used.
_CLOSED_BY_SERVER = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)


class RestFailed(Exception):
    """A request that brought no usable reply.

    ``retry_after``: the seconds that Phonic asked to wait, or None; the queue waits in any case. ``request_id`` is
    what Phonic's support asks for.
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
    on_request: Callable[[Request, float], None] = lambda _what, _seconds: None,
    on_body: Callable[[Request, bytes], None] = lambda _what, _body: None,
    requests_per_second: float = REQUESTS_PER_SECOND,
    proxy: Proxy | None = None,
    ca_file: Path | None = None,
    trust: ssl.SSLContext | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    clock: PhonicClock | None = None,
    now: Callable[[], float] = time.time,
) -> AsyncIterator["RestApi"]:
    """A client for ``base_url``, which is closed at the end of the block.

    ``on_request`` is called with each request that was sent and its seconds, ``on_error`` with the reason of each
    that failed and of each reply with unusable rows, ``on_body`` with each body as it came; ``clock`` learns from
    the date of each reply. ``requests_per_second`` is the highest rate. All requests go through ``proxy``.
    ``ca_file`` replaces the system's trust, also for the proxy; ``trust`` is a context made of it, which several
    clients share, because making one takes long. ``transport`` replaces the network in tests.
    ``now`` gives Unix time by our own clock.

    Raises: ConfigError for an unusable ``ca_file``.
    """
    # Separate contexts: httpx sets ALPN on each that it gets.
    trust = trust or trusting(ca_file)
    through = None
    if proxy is not None:
        through = httpx.Proxy(
            proxy.url, ssl_context=trusting(ca_file) if proxy.is_secure else None, headers=proxy.headers
        )

    def client(keep: int) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            verify=trust,
            trust_env=False,  # `exporter.phonic.proxies` decides, for REST and the live feed alike
            proxy=through,
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=keep, keepalive_expiry=60),
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
                "User-Agent": f"phonic-exporter/{__version__}",
            },
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # accepts none
            transport=transport,
        )

    async with client(AT_ONCE) as kept, client(0) as fresh:
        yield RestApi(
            kept,
            fresh,
            base_url,
            credentials,
            on_error=on_error,
            on_request=on_request,
            on_body=on_body,
            budget=Budget(requests_per_second, now=now),
            proxy=proxy,
            clock=clock or PhonicClock(now),
            now=now,
        )


def _nothing() -> None:
    """Do nothing."""


class RestApi:
    """Reads from the REST API; made by `open_rest`.

    Every method waits in the queue, raises `RestFailed` and nothing else, and may be cancelled at any time. ``up``
    tells whether the last request found the API working; None before the first. The owner may set
    ``wait_accepted``, which is awaited before each request but `probe` and holds requests back while the
    credential is refused, and ``on_refused``, which is called after each 401 and 403.
    """

    def __init__(
        self,
        kept: httpx.AsyncClient,
        fresh: httpx.AsyncClient,
        base_url: str,
        credentials: Credentials,
        *,
        on_error: Callable[[RestError], None],
        on_request: Callable[[Request, float], None],
        on_body: Callable[[Request, bytes], None],
        budget: Budget,
        proxy: Proxy | None,
        clock: PhonicClock,
        now: Callable[[], float],
    ) -> None:
        """``kept`` reuses connections, ``fresh`` opens one for each request."""
        self.up: bool | None = None
        self.on_refused: Callable[[], None] = _nothing
        self.wait_accepted: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self._kept = kept
        self._fresh = fresh
        self._root = f"{normalised(base_url)}/v1"
        self._credentials = credentials
        self._on_error = on_error
        self._on_request = on_request
        self._on_body = on_body
        self._budget = budget
        self._proxy = proxy
        self._clock = clock
        self._now = now
        self._has_projects = (
            True  # False while the list of projects, where discovery begins, is refused or not found
        )

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._budget.waiting

    @property
    def waiting_since(self) -> float | None:
        """Unix time since which the longest waiting request waits; None when none waits."""
        return self._budget.waiting_since

    @property
    def allowed_per_second(self) -> float:
        """Requests that may be sent in a second now, after any 429."""
        return self._budget.allowed_per_second

    async def projects(self) -> list[ProjectRow]:
        """All projects of the workspace, with their counts (API 3.2)."""
        rows, unusable = await self._get(Request.PROJECTS, "/projects", read_projects)
        self._count_unusable(Request.PROJECTS, unusable)
        return rows

    async def probe(self) -> None:
        """Request the list of projects, which every API key may read, to learn whether the key is accepted."""
        try:
            await self._authorised(Request.PROJECTS, "/projects", None)
        except RestFailed as failed:
            self._note(Request.PROJECTS, failed)
            raise

    async def workspace(self) -> Workspace:
        """The counts of the workspace (API 3.2)."""
        return await self._get(Request.WORKSPACE, "/workspace", read_workspace)

    async def agents(self, project_name: str) -> list[AgentRow]:
        """All agents of one project (API 3.2)."""
        rows, unusable = await self._get(Request.AGENTS, "/agents", read_agents, {"project": project_name})
        self._count_unusable(Request.AGENTS, unusable)
        return rows

    async def conversations(
        self,
        project_name: str,
        *,
        after: str | None = None,
        limit: int = LARGEST_PAGE,
    ) -> ListPage:
        """A page of a project's conversations: the newest, or those older than the cursor ``after`` (API 3.1)."""
        query = {"project": project_name, "limit": str(limit)}
        if after is not None:
            query["after"] = after
        page = await self._get(Request.CONVERSATIONS, "/conversations", read_page, query)
        self._count_unusable(Request.CONVERSATIONS, page.unusable)
        return page

    async def record(self, conversation_id: str) -> Snapshot | None:
        """The record of one conversation (API 3.2); None when there is none with this id."""
        return await self._ask(
            Request.RECORD,
            f"/conversations/{segment(conversation_id)}",
            partial(_decode_in_steps, conversation_id),
        )

    def paged_without_end(self) -> None:
        """Count a list whose pages bring nothing new or never end."""
        log.warning(
            "REST request failed",
            request=Request.CONVERSATIONS.value,
            reason=RestError.ENDLESS_PAGING.value,
        )
        self._on_error(RestError.ENDLESS_PAGING)

    async def _get(
        self, what: Request, path: str, read: Callable[[bytes], _T], query: Mapping[str, str] | None = None
    ) -> _T:
        """Request something that must exist: 404 is a failure."""
        found = await self._ask(what, path, partial(_decode_at_once, read), query)
        if found is None:
            missing = RestFailed(RestError.HTTP_404)
            self._note(what, missing)
            raise missing
        return found

    async def _ask(
        self,
        what: Request,
        path: str,
        read: Callable[[bytes], Awaitable[_T]],
        query: Mapping[str, str] | None = None,
    ) -> _T | None:
        """Request something that may not exist: None for 404."""
        await self.wait_accepted()
        try:
            body, request_id = await self._authorised(what, path, query)
            result = None if body is None else await _reading(read, body, request_id)
        except RestFailed as failed:
            self._note(what, failed)
            raise
        if body is not None:
            self._has_projects = True
        if what is not Request.PROJECTS or body is not None:  # without a list of projects: see `_note`
            self.up = self._has_projects
        return result

    def _note(self, what: Request, failed: RestFailed) -> None:
        # One warning when requests begin to fail; while they go on failing, the rest is logged at level debug.
        # A refused credential is logged by `exporter.watch.access`.
        say = log.debug if self.up is False or failed.reason in REFUSALS else log.warning
        say("REST request failed", request=what.value, reason=failed.reason.value, request_id=failed.request_id)
        if what is Request.PROJECTS and failed.reason in _ANSWERS:
            if failed.reason is RestError.HTTP_404:
                say("no Phonic API at this address; check --phonic.base-url", url=_shown(self._root))
            self._has_projects = False
        self.up = failed.reason in _ANSWERS and self._has_projects
        self._on_error(failed.reason)
        if failed.reason in REFUSALS:
            self.on_refused()

    def _count_unusable(self, what: Request, unusable: int) -> None:
        if unusable:
            log.debug("REST rows unusable", request=what.value, rows=unusable)
            self._on_error(RestError.WRONG_SHAPE)

    async def _authorised(self, what: Request, path: str, query: Mapping[str, str] | None) -> _Reply:
        """The reply. After a refusal the credential is read again, and a changed one is tried once."""
        used = self._credentials.current()
        try:
            return await self._exchange(what, path, query, used)
        except RestFailed as failed:
            if failed.reason not in REFUSALS:
                raise
            await trio.to_thread.run_sync(self._credentials.reload)
            # Compared with the one used: another request may have read the new one meanwhile.
            if self._credentials.current() == used:
                raise
        return await self._exchange(what, path, query, self._credentials.current())

    async def _exchange(
        self, what: Request, path: str, query: Mapping[str, str] | None, credential: Credential
    ) -> _Reply:
        """Send one request. Returns the body of a 200, or None for 404; and the request id.

        It is sent once more, on a new connection, if the server closed a kept one as it was used.
        """
        request = httpx.Request("GET", self._root + path, params=query, headers=credential.headers)
        try:
            return await self._attempt(what, self._kept, request)
        except _DeadConnection:
            return await self._attempt(what, self._fresh, request)

    async def _attempt(self, what: Request, client: httpx.AsyncClient, request: httpx.Request) -> _Reply:
        async with self._budget.turn(Lane.RECORD if what is Request.RECORD else Lane.FINDING):
            progress = _Progress(self._proxy is not None)
            sent_at, began = self._now(), trio.current_time()
            try:
                with trio.fail_after(TOTAL_SECONDS):
                    async with client.stream(
                        "GET", request.url, headers=request.headers, extensions={"trace": progress.trace}
                    ) as response:
                        progress.is_answered = True
                        if "Age" not in response.headers:  # the reply of a cache has an old date
                            self._clock.heard(response.headers.get("Date"), sent_at, self._now())
                        if response.status_code == 200:
                            body = await _body(response)
                            self._on_body(what, body)
                            return body, _request_id(response)
            except (httpx.TimeoutException, trio.TooSlowError) as exc:
                raise RestFailed(RestError.TIMEOUT) from exc
            except httpx.HTTPError as exc:
                if isinstance(exc, _CLOSED_BY_SERVER) and progress.is_reused and client is self._kept:
                    raise _DeadConnection from exc
                raise RestFailed(progress.why(exc)) from exc
            finally:
                self._on_request(what, trio.current_time() - began)
        if response.status_code == 404:
            return None, _request_id(response)
        headers = {name.lower(): value for name, value in response.headers.items()}
        seconds = retry_after(headers, self._now(), LONGEST_PAUSE)
        if response.status_code == 429:
            self._budget.refused()
        if response.status_code == 429 or (response.status_code == 503 and seconds is not None):
            self._budget.pause(PAUSE if seconds is None else seconds)
        status = response.status_code
        reason = RestError.PROXY if status == 407 else status_reason(RestError, status)
        raise RestFailed(reason, seconds, request_id=_request_id(response))


class _DeadConnection(Exception):
    """A kept connection was closed before any byte of the reply."""


class _Progress:
    """How far a request has got, by the events of httpx's ``trace`` extension."""

    def __init__(self, has_proxy: bool) -> None:
        self.is_answered = False
        self._has_proxy = has_proxy
        self._is_fresh = False
        self._is_connected = False
        self._is_tunnelled = False

    async def trace(self, event: str, _: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.started":
            self._is_fresh = True
        elif event == "connection.connect_tcp.complete":
            self._is_connected = True
        elif event == "proxy.start_tls.started":  # the proxy has accepted
            self._is_tunnelled = True

    @property
    def is_reused(self) -> bool:
        """Whether the request used a connection of an earlier request and got no reply."""
        return not (self._is_fresh or self.is_answered)

    def why(self, failed: BaseException) -> RestError:
        """The reason of a failure that is neither a status nor a timeout."""
        if isinstance(failed, httpx.ProxyError):
            return RestError.PROXY
        if self._has_proxy and self._is_fresh and not self._is_tunnelled and not self.is_answered:
            return RestError.PROXY
        if not self._is_fresh or self.is_answered:
            return RestError.CONNECT
        return connect_reason(RestError, failed)


async def _body(response: httpx.Response) -> bytes:
    """Read the body. Raises: `RestFailed` as soon as it is known to be too large or unreadable."""
    request_id = _request_id(response)
    announced = response.headers.get("Content-Length", "")
    if announced.isdecimal() and len(announced) < 20 and int(announced) > LARGEST_BODY:
        raise RestFailed(RestError.TOO_LARGE, request_id=request_id)
    try:
        body = Body(response.headers.get("Content-Encoding", ""), largest=LARGEST_BODY)
    except Unreadable:
        raise RestFailed(RestError.NOT_JSON, request_id=request_id) from None
    failed: RestError | None = None
    assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101  # of an asynchronous client
    with trio.CancelScope() as reading:
        # Not `aiter_bytes`, which decompresses without a bound.
        async for chunk in response.stream:
            if failed is None:
                try:
                    for _ in body.feed(chunk):
                        await trio.lowlevel.cancel_shielded_checkpoint()  # as below; the next read is cancelled
                except (TooLarge, Unreadable) as bad:
                    failed = RestError.TOO_LARGE if isinstance(bad, TooLarge) else RestError.NOT_JSON
                    reading.cancel()  # an exception here would leave httpx's nested generators unfinished
    if failed is not None:
        raise RestFailed(failed, request_id=request_id)
    try:
        return body.whole()
    except Unreadable:
        raise RestFailed(RestError.NOT_JSON, request_id=request_id) from None


async def _reading(read: Callable[[bytes], Awaitable[_T]], body: bytes, request_id: str | None) -> _T:
    try:
        return await read(body)
    except InvalidMessage as invalid:
        reason = RestError.NOT_JSON if invalid.reason is Invalid.NOT_JSON else RestError.WRONG_SHAPE
        raise RestFailed(reason, request_id=request_id) from None
    except UnicodeError:  # text that UTF-8 cannot encode
        raise RestFailed(RestError.WRONG_SHAPE, request_id=request_id) from None


async def _decode_at_once(read: Callable[[bytes], _T], body: bytes) -> _T:
    return read(body) if len(body) <= _BIG_BODY else await trio.to_thread.run_sync(read, body)


async def _decode_in_steps(conversation_id: str, body: bytes) -> Snapshot:
    """Decode a record, letting other tasks run in between: it may hold any number of turns."""
    for snapshot in read_record(body):
        if snapshot is not None:
            if snapshot.conversation.id != conversation_id:  # also if the id led to another place
                raise InvalidMessage(Invalid.WRONG_CONVERSATION)
            return snapshot
        await trio.lowlevel.checkpoint()
    raise InvalidMessage(Invalid.WRONG_SHAPE)


def _request_id(response: httpx.Response) -> str | None:
    found = response.headers.get("X-Request-Id")
    return None if found is None else found[:64]


def _shown(root: str) -> str:
    """The address for a log line, without anything that could be a credential."""
    parts = urlsplit(root)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
