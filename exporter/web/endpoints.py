"""Edge: what is answered at which path.

Rules for this file: it knows nothing of what the numbers mean, the rest of the program comes in as
``Exported``. Every endpoint runs on the trio thread, which owns the numbers, and waits for its own answer only.
"""

import math
import re
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

import attrs
import msgspec
import structlog
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..enums import Started
from ..errors import ConfigError
from ..metrics.formats import Format
from ..phonic.wire import is_conversation_id
from .negotiation import accepts_gzip, negotiate
from .pages import landing_page
from .same_origin import SameOrigin

log = structlog.get_logger()

_TELEMETRY_PATH = re.compile(r"/|(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?")
_TAKEN = re.compile(r"/(-|api|livez|readyz)(/|$)")

_GZIP_FROM_BYTES: Final = 1024  # below, the headers weigh more than what is saved
_GZIP_IN_THREAD_FROM_BYTES: Final = 256 * 1024  # level 1 does about 100 KB/ms: a few ms, longer would be felt
_HEALTH_MAX_AGE_SECONDS: Final = 5.0
_PLACE_WAIT_SECONDS: Final = 3.0
_A_FEW: Final = 8


_STATUS_OF: Final = {
    Started.STARTED: 201,
    Started.ALREADY_WATCHED: 200,
    Started.LIMIT_REACHED: 409,
    Started.TOO_FAST: 429,
    Started.FINISHED: 410,
}


class PushTargets(Protocol):
    """Starts and stops watchers by conversation id; both calls may be repeated."""

    def start(self, conversation_id: str) -> Started: ...

    def stop(self, conversation_id: str) -> bool:
        """False where it was not watched."""
        ...


async def _at_once(_: float | None) -> None:
    """Nothing to prepare."""


def _nothing() -> None:
    """Nothing to say."""


@attrs.frozen(kw_only=True)
class Exported:
    """What the rest of the program offers to HTTP. All but ``prepare`` is sync; all runs on the trio thread."""

    page: Callable[[Format, frozenset[str] | None], Iterable[bytes]]
    """The page of this moment in parts, whole or restricted to the families of these names."""
    not_ready: Callable[[], Sequence[str]]
    """Short reasons why the numbers are not complete yet; empty when ready."""
    conversations: Callable[[], Sequence[dict[str, object]]]
    """One JSON object for each conversation that is watched; no content of it."""
    push: PushTargets | None
    """None: conversations cannot be named from outside."""
    version: str
    prepare: Callable[[float | None], Awaitable[None]] = _at_once
    """Brings the numbers of a scrape's page up to date; gets the scrape's time-out in seconds, if it has one."""
    whole_page: Callable[[bool], Callable[[], None]] = lambda _: _nothing
    """Called when a client takes a whole page, with whether it scrapes as Prometheus does; what it returns is
    called when the client has got all of it."""


def build_app(
    exported: Exported,
    *,
    telemetry_path: str,
    max_requests: int,
    route_prefix: str = "",
    link_prefix: str | None = None,
    same_origin: SameOrigin | None = None,
) -> Starlette:
    """The application; ``max_requests`` scrapes at once (0: any number).

    ``route_prefix`` is what paths begin with here, ``link_prefix`` what they begin with for whoever opens a page,
    where a proxy changes them; ``same_origin`` decides who may push.
    Errors: ConfigError for a telemetry path or a number that cannot be used.
    """
    check_telemetry_path(telemetry_path)
    if max_requests < 0:
        raise ConfigError("--web.max-requests", "must be 0 (no limit) or more")
    pages = _Pages(exported.page)
    seen_from_outside = route_prefix if link_prefix is None else link_prefix

    async def landing(_: Request) -> Response:
        page = landing_page(telemetry_path=telemetry_path, version=exported.version, prefix=seen_from_outside)
        return HTMLResponse(page, headers={"Content-Security-Policy": _LANDING_POLICY})

    async def to_landing(_: Request) -> Response:
        return RedirectResponse(f"{seen_from_outside}/", 302)

    async def healthy(_: Request) -> Response:
        if await pages.can_be_rendered():
            return PlainTextResponse("healthy\n")
        return PlainTextResponse("the metrics page cannot be rendered\n", 503)

    async def ready(_: Request) -> Response:
        if reasons := exported.not_ready():
            return PlainTextResponse("".join(f"{reason}\n" for reason in reasons), 503)
        return PlainTextResponse("ready\n")

    async def conversations(_: Request) -> Response:
        return _json({"conversations": exported.conversations()})

    # Probes of a container need not know a prefix.
    prefixes = dict.fromkeys((route_prefix, ""))
    routes = [
        Route(route_prefix + telemetry_path, _Scrape(pages, exported, max_requests), methods=["GET"]),
        *(Route(prefix + path, healthy, methods=["GET"]) for prefix in prefixes for path in _HEALTHY),
        *(Route(prefix + path, ready, methods=["GET"]) for prefix in prefixes for path in _READY),
        Route(f"{route_prefix}/api/v1/conversations", _AFew(conversations), methods=["GET"]),
    ]
    if telemetry_path != "/":
        routes.append(Route(f"{route_prefix}/", landing, methods=["GET"]))
    if route_prefix:
        routes += [Route(path, to_landing, methods=["GET"]) for path in ("/", route_prefix)]
    if exported.push is not None:
        routes.append(_push_route(exported.push, same_origin or SameOrigin(), route_prefix))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _say_error, 500: _say_crash})
    app.router.redirect_slashes = False  # another path is another resource: 404
    return app


def check_telemetry_path(path: str) -> None:
    """Errors: ConfigError for a path that is malformed or taken by another page."""
    if not _TELEMETRY_PATH.fullmatch(path):
        raise ConfigError("--web.telemetry-path", "must be like /metrics: segments of letters, digits and ._~-")
    if _TAKEN.match(path):
        raise ConfigError("--web.telemetry-path", "must not be another page's: /-, /api, /livez, /readyz")


_HEALTHY: Final = ("/-/healthy", "/livez")
_READY: Final = ("/-/ready", "/readyz")
_LANDING_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


class _Pages:
    """Renders pages, and remembers for the health check how that went."""

    def __init__(self, page: Callable[[Format, frozenset[str] | None], Iterable[bytes]]) -> None:
        self._page = page
        self.turn = trio.Lock()
        self._worked = False
        self._tried_at = -float("inf")

    async def render(self, form: Format, names: frozenset[str] | None) -> bytes | None:
        """None where it went wrong, which is logged. Others on the loop have their turn after each part.

        The caller holds ``turn``: there is one loop, so that two pages at the same time would both be late.
        """
        page: bytes | None = None
        parts = []
        try:
            for part in self._page(form, names):
                parts.append(part)
                await trio.lowlevel.checkpoint()
            page = b"".join(parts)
        except Exception:
            log.error("metrics page cannot be rendered", exc_info=True)
        if names is None:  # a part of the page that works says nothing about the whole
            self._worked, self._tried_at = page is not None, trio.current_time()
        return page

    async def can_be_rendered(self) -> bool:
        if self._is_old():
            async with self.turn:
                if self._is_old():
                    await self.render(Format.TEXT_0_0_4, None)
        return self._worked

    def _is_old(self) -> bool:
        return trio.current_time() - self._tried_at > _HEALTH_MAX_AGE_SECONDS


class _Scrape:
    """The metrics page. A scrape holds its place until the client has taken the answer, which takes memory."""

    def __init__(self, pages: _Pages, exported: Exported, max_requests: int) -> None:
        self._pages = pages
        self._exported = exported
        self._places = trio.Semaphore(max_requests) if max_requests else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not await self._take_place():
            busy = PlainTextResponse("too many scrapes at once\n", 503, {"Retry-After": "1"})
            await busy(scope, receive, send)
            return
        try:
            response, sent = await self._answer(Request(scope))
            await response(scope, receive, send)
            sent()
        finally:
            if self._places is not None:
                self._places.release()

    async def _take_place(self) -> bool:
        """Whether there is a place, at once or soon; whoever has waited longest is next."""
        with trio.move_on_after(_PLACE_WAIT_SECONDS):
            if self._places is not None:
                await self._places.acquire()
            return True
        return False

    async def _answer(self, request: Request) -> tuple[Response, Callable[[], None]]:
        """The answer, and what to call once it is sent."""
        negotiated = negotiate(_header(request, "accept"))
        names = request.query_params.getlist("name[]")
        scrape_timeout = _scrape_timeout(request)
        await self._exported.prepare(scrape_timeout)
        sent = _nothing
        async with self._pages.turn:
            if not names and request.method == "GET":
                sent = self._exported.whole_page(scrape_timeout is not None)
            page = await self._pages.render(negotiated.format, frozenset(names) if names else None)
        if page is None:
            return PlainTextResponse("the metrics page cannot be rendered\n", 500), _nothing
        headers = {"Content-Type": negotiated.content_type, "Vary": "Accept, Accept-Encoding"}
        if len(page) >= _GZIP_FROM_BYTES and accepts_gzip(_header(request, "accept-encoding")):
            headers["Content-Encoding"] = "gzip"
            if len(page) >= _GZIP_IN_THREAD_FROM_BYTES:
                page = await trio.to_thread.run_sync(_gzip, page)
            else:
                page = _gzip(page)
        return Response(page, headers=headers), sent


class _AFew:
    """An endpoint whose answer is large for a small question: a few at a time, the rest are told to come back."""

    def __init__(self, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        self._endpoint = endpoint
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._under_way >= _A_FEW:
            busy = _json({"error": "too many requests at once"}, 503)
            busy.headers["Retry-After"] = "1"
            await busy(scope, receive, send)
            return
        self._under_way += 1
        try:
            response = await self._endpoint(Request(scope))
            await response(scope, receive, send)
        finally:
            self._under_way -= 1


def _push_route(push: PushTargets, same_origin: SameOrigin, route_prefix: str) -> Route:
    below = f"{route_prefix}/api/v1/conversations/"

    async def conversation(request: Request) -> Response:
        # Not the path parameter, which lacks a line end that the path has.
        conversation_id = request.scope["path"].removeprefix(below)
        names = {name.lower() for name in request.headers}
        if objection := same_origin.objection({name: request.headers.getlist(name) for name in names}):
            return _json({"error": objection}, 403)
        if not is_conversation_id(conversation_id):
            return _json({"error": "not a conversation id: conv_ and up to 100 letters, digits, _ or -"}, 400)
        if request.method == "PUT":
            outcome = push.start(conversation_id)
            said = "status" if outcome in (Started.STARTED, Started.ALREADY_WATCHED) else "error"
            answer = _json({"conversation_id": conversation_id, said: outcome.value}, _STATUS_OF[outcome])
            if outcome is Started.TOO_FAST:
                answer.headers["Retry-After"] = "5"
            return answer
        if push.stop(conversation_id):
            return Response(status_code=204)
        return _json({"conversation_id": conversation_id, "error": "not watched"}, 404)

    # `path` takes slashes too: an id that holds an encoded one is told that it is malformed.
    return Route(below + "{conversation_id:path}", conversation, methods=["PUT", "DELETE"])


def _scrape_timeout(request: Request) -> float | None:
    """Seconds after which Prometheus gives the scrape up, as it says itself; None where it does not."""
    try:
        seconds = float(request.headers.get("X-Prometheus-Scrape-Timeout-Seconds", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def _header(request: Request, name: str) -> str | None:
    """All headers of a name as one, which HTTP declares to be the same."""
    return ", ".join(request.headers.getlist(name)) or None


def _gzip(page: bytes) -> bytes:
    return zlib.compress(page, level=1, wbits=31)


def _json(body: object, status: int = 200) -> Response:
    return Response(
        msgspec.json.encode(body),
        status,
        {"Cache-Control": "no-store"},
        media_type="application/json",
    )


async def _say_error(request: Request, error: Exception) -> Response:
    """404 and 405, in the language of the path."""
    assert isinstance(error, HTTPException)  # noqa: S101  (registered for it)
    return _said(request, error.detail, error.status_code, error.headers)


async def _say_crash(request: Request, _: Exception) -> Response:
    return _said(request, "Internal Server Error", 500, None)


def _said(request: Request, text: str, status: int, headers: Mapping[str, str] | None) -> Response:
    if "/api/" in request.scope["path"]:
        response = _json({"error": text}, status)
    else:
        response = PlainTextResponse(f"{text}\n", status)
    response.headers.update(headers or {})
    return response
