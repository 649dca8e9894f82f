"""Edge: Phonic's REST API over httpx: how a request is made, and the ways in which it fails (API 3).

Rules for this file:
- All requests of a client pass one queue (`exporter.phonic.budget`), which keeps them below the rate limit;
  whoever is told to wait stops it for everybody.
- A reply is bounded in size and time before anything reads it, and read in a thread where it is big.
- Nothing that leaves here (error, log line) holds a body, a query or the credential.
"""

import socket
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
LARGEST_BODY = 32 * 1024 * 1024  # bytes, unpacked; 100 conversations of 50 turns are about 5 MB
REQUESTS_PER_SECOND = 50.0  # evenly spaced; a tenth of what Phonic allows
CONNECT_SECONDS, SILENCE_SECONDS, TOTAL_SECONDS = 10.0, 20.0, 60.0
PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds without requests after 429: if it does not say, and at most

_BIG_BODY = 1024 * 1024  # bytes; a smaller one is read within 2 ms

_REASONS = {401: RestError.HTTP_401, 403: RestError.HTTP_403, 404: RestError.HTTP_404}
_REASONS |= {407: RestError.PROXY, 429: RestError.HTTP_429}
# The API works and found fault with one request.
_ANSWERS = frozenset({RestError.HTTP_404, RestError.HTTP_4XX})
REFUSALS = {RestError.HTTP_401: 401, RestError.HTTP_403: 403}  # of the credential, and their HTTP status

_T = TypeVar("_T")
_Reply = tuple[bytes | None, str | None]
# A kept connection on which these come before the head of an answer was closed by the server as it was used.
_HUNG_UP = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)


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
    on_request: Callable[[Request, float], None] = lambda _what, _seconds: None,
    on_body: Callable[[Request, bytes], None] = lambda _what, _body: None,
    requests_per_second: float = REQUESTS_PER_SECOND,
    proxy: Proxy | None = None,
    ca_file: Path | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    clock: PhonicClock | None = None,
    now: Callable[[], float] = time.time,
) -> AsyncIterator["RestApi"]:
    """A client for ``base_url`` that is closed on leaving.

    ``on_request`` hears of each request that was sent and how many seconds it took, ``on_error`` of each that
    failed and of each reply with odd rows. ``on_body`` gets each body as it came, ``clock`` the time in each
    reply. All requests go through ``proxy``; ``ca_file`` replaces the system's trust, in it too. ``now`` gives
    Unix time by our own clock.

    Errors: ConfigError for an unusable ``ca_file``.
    """
    # Contexts of its own: httpx sets ALPN on those it gets.
    trust = trusting(ca_file)
    through = None
    if proxy is not None:
        through = httpx.Proxy(
            proxy.url, ssl_context=trusting(ca_file) if proxy.is_secure else None, headers=proxy.headers
        )

    def client(keep: int) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            verify=trust,
            trust_env=False,  # one rule for REST and the live feed: `exporter.phonic.proxies`
            proxy=through,
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=keep, keepalive_expiry=60),
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
                "User-Agent": f"phonic-exporter/{__version__}",
            },
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # takes none
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
    """Reads of the REST API; made by `open_rest`.

    Every method raises `RestFailed` and nothing else, waits for its turn first, and may be cancelled at any
    time. ``up``: whether the last request found the API working; None before the first. ``wait_accepted`` is
    awaited before each request but `probe`: it holds them back while the credential is refused. ``on_refused`` is
    called after each 401 and 403.
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
        """``kept`` keeps its connections for the next request, ``fresh`` makes one for each."""
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
        """Requests that wait for their turn."""
        return self._budget.waiting

    @property
    def waiting_since(self) -> float | None:
        """Unix time since which the first of them waits; None while none does."""
        return self._budget.waiting_since

    @property
    def allowed_per_second(self) -> float:
        """Requests that may be sent in a second, as things stand."""
        return self._budget.allowed_per_second

    async def projects(self) -> list[ProjectRow]:
        """All projects of the workspace, with their counts."""
        rows, unusable = await self._get(Request.PROJECTS, "/projects", read_projects)
        self._odd(Request.PROJECTS, unusable)
        return rows

    async def probe(self) -> None:
        """Ask for what every credential may read, to learn whether the one in use is accepted."""
        try:
            await self._authorised(Request.PROJECTS, "/projects", None)
        except RestFailed as failed:
            self._note(Request.PROJECTS, failed)
            raise

    async def workspace(self) -> Workspace:
        return await self._get(Request.WORKSPACE, "/workspace", read_workspace)

    async def agents(self, project_name: str) -> list[AgentRow]:
        """All agents of one project."""
        rows, unusable = await self._get(Request.AGENTS, "/agents", read_agents, {"project": project_name})
        self._odd(Request.AGENTS, unusable)
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
        page = await self._get(Request.CONVERSATIONS, "/conversations", read_page, query)
        self._odd(Request.CONVERSATIONS, page.unusable)
        return page

    async def record(self, conversation_id: str) -> Snapshot | None:
        """One conversation as REST has it; None when it has none of that id."""
        return await self._ask(
            Request.RECORD, f"/conversations/{segment(conversation_id)}", partial(_in_steps, conversation_id)
        )

    def paged_without_end(self) -> None:
        """Count a list whose pages brought nothing new, or did not end."""
        log.warning(
            "REST request failed",
            request=Request.CONVERSATIONS.value,
            reason=RestError.ENDLESS_PAGING.value,
        )
        self._on_error(RestError.ENDLESS_PAGING)

    async def _get(
        self, what: Request, path: str, read: Callable[[bytes], _T], query: Mapping[str, str] | None = None
    ) -> _T:
        """What must exist."""
        found = await self._ask(what, path, partial(_in_one_piece, read), query)
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
        """What may not exist: None for 404."""
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
        # One line when trouble begins; while it lasts, its repetitions are for those who look closely.
        # A refused credential has a line of its own: see `exporter.watch.access`.
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

    def _odd(self, what: Request, unusable: int) -> None:
        if unusable:
            log.debug("REST rows unusable", request=what.value, rows=unusable)
            self._on_error(RestError.WRONG_SHAPE)

    async def _authorised(self, what: Request, path: str, query: Mapping[str, str] | None) -> _Reply:
        """The reply. After a refusal the credential is read again, and another one gets a second try."""
        used = self._credentials.current()
        try:
            return await self._exchange(what, path, query, used)
        except RestFailed as failed:
            if failed.reason not in REFUSALS:
                raise
            await trio.to_thread.run_sync(self._credentials.reload)
            # Compared with the one used, since another request may have read the new one meanwhile.
            if self._credentials.current() == used:
                raise
        return await self._exchange(what, path, query, self._credentials.current())

    async def _exchange(
        self, what: Request, path: str, query: Mapping[str, str] | None, credential: Credential
    ) -> _Reply:
        """One request: the body of a 200, or None for 404; and the request id.

        Sent once more, on a connection of its own, where the server closed a kept one as it was used.
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
                        if "Age" not in response.headers:  # a cache's reply would tell an old time
                            self._clock.heard(response.headers.get("Date"), sent_at, self._now())
                        if response.status_code == 200:
                            body = await _body(response)
                            self._on_body(what, body)
                            return body, _request_id(response)
            except (httpx.TimeoutException, trio.TooSlowError) as exc:
                raise RestFailed(RestError.TIMEOUT) from exc
            except httpx.HTTPError as exc:
                if isinstance(exc, _HUNG_UP) and progress.is_reused and client is self._kept:
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
        raise RestFailed(_reason(response.status_code), seconds, request_id=_request_id(response))


class _DeadConnection(Exception):
    """A kept connection turned out to be closed before any byte of an answer."""


class _Progress:
    """How far a request has come, as httpx tells its ``trace`` extension."""

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
        elif event == "proxy.start_tls.started":  # the proxy has said yes
            self._is_tunnelled = True

    @property
    def is_reused(self) -> bool:
        """Whether it went over a connection of an earlier request, and brought nothing."""
        return not (self._is_fresh or self.is_answered)

    def why(self, failed: BaseException) -> RestError:
        """The reason of a failure that is neither a status nor a time-out."""
        if isinstance(failed, httpx.ProxyError):
            return RestError.PROXY
        if self._has_proxy and self._is_fresh and not self._is_tunnelled and not self.is_answered:
            return RestError.PROXY
        return _why(failed) if self._is_fresh and not self.is_answered else RestError.CONNECT


def _why(failed: BaseException) -> RestError:
    """What kept a connection from being made; of several addresses, a port that is closed says most."""
    if isinstance(failed, BaseExceptionGroup):
        reasons = [_why(each) for each in failed.exceptions]
        return RestError.REFUSED if RestError.REFUSED in reasons else reasons[-1]
    if isinstance(failed, socket.gaierror | UnicodeError):
        return RestError.DNS
    if isinstance(failed, ConnectionRefusedError):
        return RestError.REFUSED
    if isinstance(failed, ssl.SSLError):
        return RestError.TLS
    # httpcore clears the cause of what it raises, the context stays.
    deeper = failed.__cause__ or failed.__context__
    return _why(deeper) if deeper is not None else RestError.CONNECT


async def _body(response: httpx.Response) -> bytes:
    """Raises `RestFailed` as soon as it is known to be too large or unreadable."""
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
        # Not `aiter_bytes`, which unpacks without a bound.
        async for chunk in response.stream:
            if failed is None:
                try:
                    for _ in body.feed(chunk):
                        await trio.lowlevel.checkpoint()
                except (TooLarge, Unreadable) as bad:
                    failed = RestError.TOO_LARGE if isinstance(bad, TooLarge) else RestError.NOT_JSON
                    reading.cancel()  # an exception here would leave httpx's nested generators half-way
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
    except UnicodeError:  # text that UTF-8 cannot hold, where nobody looked for it
        raise RestFailed(RestError.WRONG_SHAPE, request_id=request_id) from None


async def _in_one_piece(read: Callable[[bytes], _T], body: bytes) -> _T:
    return read(body) if len(body) <= _BIG_BODY else await trio.to_thread.run_sync(read, body)


async def _in_steps(conversation_id: str, body: bytes) -> Snapshot:
    """A record, while which is read others have their turn: it may hold any number of turns."""
    for snapshot in read_record(body):
        if snapshot is not None:
            if snapshot.conversation.id != conversation_id:  # also what an id that escapes its place would bring
                raise InvalidMessage(Invalid.WRONG_CONVERSATION)
            return snapshot
        await trio.lowlevel.checkpoint()
    raise InvalidMessage(Invalid.WRONG_SHAPE)


def _reason(status: int) -> RestError:
    if status in _REASONS:
        return _REASONS[status]
    return {4: RestError.HTTP_4XX, 5: RestError.HTTP_5XX}.get(status // 100, RestError.HTTP_OTHER)


def _request_id(response: httpx.Response) -> str | None:
    found = response.headers.get("X-Request-Id")
    return None if found is None else found[:64]


def _shown(root: str) -> str:
    """The address for a log line, without what could be a credential."""
    parts = urlsplit(root)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
