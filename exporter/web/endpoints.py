"""Edge: the HTTP endpoints: metrics page, health and readiness, list of conversations, push API, pages for people.

The rest of the program comes in as `Exported`, so this module knows nothing about what the metrics mean. Every
endpoint runs on the trio thread, which owns the metrics.
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
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..enums import Started
from ..errors import ConfigError
from ..metrics.formats import Format
from ..phonic.wire import is_conversation_id
from . import people
from .negotiation import accepts_gzip, negotiate
from .people import Shown
from .same_origin import SameOrigin

log = structlog.get_logger()

_TELEMETRY_PATH = re.compile(r"/|(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?")
_TAKEN = re.compile(r"/(-|api|conversations|livez|readyz)(/|$)")

_GZIP_FROM_BYTES: Final = 1024  # smaller pages gain nothing
_GZIP_IN_THREAD_FROM_BYTES: Final = 256 * 1024  # larger pages would block the event loop for too long
_HEALTH_MAX_AGE_SECONDS: Final = 5.0
_PLACE_WAIT_SECONDS: Final = 3.0
_MOST_AT_ONCE: Final = 8


_STATUS_OF: Final = {
    Started.STARTED: 201,
    Started.ALREADY_WATCHED: 200,
    Started.LIMIT_REACHED: 409,
    Started.TOO_FAST: 429,
    Started.FINISHED: 410,
    Started.NOT_NAMED: 400,
    Started.NO_WORKSPACE: 404,
}


class PushTargets(Protocol):
    """Starts and stops watchers by conversation id. Both calls are idempotent."""

    def start(self, conversation_id: str, workspace: str | None) -> Started:
        """Start a watcher, unless the id is watched already, its conversation is over or a limit is reached.

        ``workspace``: its name, None if the client gives none.
        """
        ...

    def stop(self, conversation_id: str) -> bool:
        """Stop a watcher; return False if the id was not watched."""
        ...


async def _prepare_nothing(_: float | None) -> None:
    """Prepare nothing."""


def _nothing() -> None:
    """Do nothing."""


@attrs.frozen(kw_only=True)
class Exported:
    """What the rest of the program offers over HTTP. Every callable runs on the trio thread."""

    page: Callable[[Format, frozenset[str] | None], Iterable[bytes]]
    """Render the current page in parts: the whole page, or only the metric families with these names."""
    not_ready: Callable[[], Sequence[str]]
    """Return short reasons why the metrics are not complete yet; empty when ready."""
    remarks: Callable[[], Sequence[str]] = tuple
    """Return what does not work although the rest is ready."""
    conversations: Callable[[], Sequence[dict[str, object]]]
    """Return a JSON object for each watched conversation, without what was said in it."""
    push: PushTargets | None
    """Where the push API starts and stops watchers; None turns the push API off."""
    version: str
    people: Shown | None = None
    """What the pages for people show; None leaves them out."""
    prepare: Callable[[float | None], Awaitable[None]] = _prepare_nothing
    """Update the metrics before a page is rendered. Called with the scrape timeout in seconds, or None."""
    shards: Callable[[], Awaitable[Sequence[Mapping[str, object]] | None]] | None = None
    """Return a JSON object for each shard, None if that cannot be found out now; None without shards."""
    whole_page: Callable[[bool], Callable[[], None]] = lambda _: _nothing
    """Called when a whole page is rendered for a GET request, with whether the client sends a scrape timeout as
    Prometheus does. The function that it returns is called once the whole response has been sent."""


def build_app(
    exported: Exported,
    *,
    telemetry_path: str,
    max_requests: int,
    route_prefix: str = "",
    link_prefix: str | None = None,
    same_origin: SameOrigin | None = None,
) -> Starlette:
    """Build the ASGI application.

    Args:
        exported: what to serve.
        telemetry_path: path of the metrics page.
        max_requests: most scrapes at the same time; 0 means no limit.
        route_prefix: prefix of every path that this application serves.
        link_prefix: prefix of links, if a proxy makes it differ from ``route_prefix``.
        same_origin: rule that requests to the push API must satisfy.

    Raises: ConfigError for an unusable telemetry path or number of requests.
    """
    check_telemetry_path(telemetry_path)
    if max_requests < 0:
        raise ConfigError("--web.max-requests", "must be 0 (no limit) or more")
    pages = _Pages(exported.page)
    shown_prefix = route_prefix if link_prefix is None else link_prefix

    async def to_landing(_: Request) -> Response:
        return RedirectResponse(f"{shown_prefix}/", 302)

    async def healthy(_: Request) -> Response:
        if await pages.can_be_rendered():
            return PlainTextResponse("healthy\n")
        return PlainTextResponse("the metrics page cannot be rendered\n", 503)

    async def ready(_: Request) -> Response:
        if reasons := exported.not_ready():
            return PlainTextResponse("".join(f"{reason}\n" for reason in reasons), 503)
        return PlainTextResponse("".join(f"{line}\n" for line in ("ready", *exported.remarks())))

    async def conversations(_: Request) -> Response:
        return _json({"conversations": exported.conversations()})

    async def shards(_: Request) -> Response:
        listed = await exported.shards() if exported.shards is not None else None
        if listed is None:
            return PlainTextResponse("PostgreSQL cannot be used now, and the log says why\n", 503)
        return _json({"shards": listed})

    # Health and readiness are served without the prefix too, so that container probes need not know it.
    prefixes = dict.fromkeys((route_prefix, ""))
    routes = [
        Route(route_prefix + telemetry_path, _Scrape(pages, exported, max_requests), methods=["GET"]),
        *(Route(prefix + path, healthy, methods=["GET"]) for prefix in prefixes for path in _HEALTHY),
        *(Route(prefix + path, ready, methods=["GET"]) for prefix in prefixes for path in _READY),
        Route(f"{route_prefix}/api/v1/conversations", _Limited(conversations), methods=["GET"]),
    ]
    if exported.shards is not None:
        routes.append(Route(f"{route_prefix}/api/v1/shards", _Limited(shards), methods=["GET"]))
    if exported.people is not None:
        routes += people.routes(
            exported.people,
            telemetry_path=telemetry_path,
            route_prefix=route_prefix,
            link_prefix=shown_prefix,
            version=exported.version,
            limited=_Limited,
        )
    if route_prefix:
        routes += [Route(path, to_landing, methods=["GET"]) for path in ("/", route_prefix)]
    if exported.push is not None or exported.people is not None:
        routes.append(_conversation_route(exported, same_origin or SameOrigin(), route_prefix))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _say_error, 500: _say_crash})
    app.router.redirect_slashes = False  # a path with another slash gets 404
    return app


def check_telemetry_path(path: str) -> None:
    """Check the path of the metrics page.

    Raises: ConfigError if it is malformed or belongs to another endpoint.
    """
    if not _TELEMETRY_PATH.fullmatch(path):
        raise ConfigError("--web.telemetry-path", "must be like /metrics: segments of letters, digits and ._~-")
    if _TAKEN.match(path):
        raise ConfigError(
            "--web.telemetry-path", "must not be a path of another page: /-, /api, /conversations, /livez, /readyz"
        )


_HEALTHY: Final = ("/-/healthy", "/livez")
_READY: Final = ("/-/ready", "/readyz")


class _Pages:
    """Renders pages, and remembers for the health check whether that worked."""

    def __init__(self, page: Callable[[Format, frozenset[str] | None], Iterable[bytes]]) -> None:
        self._page = page
        self.turn = trio.Lock()
        self._worked = False
        self._tried_at = -float("inf")

    async def render(self, form: Format, names: frozenset[str] | None) -> bytes | None:
        """Render a page; return None after an error, which is logged.

        Lets other tasks run after each part. The caller must hold ``turn``: two pages rendered at the same time
        share one CPU, so that both would be late.
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
        if names is None:  # rendering a part tells nothing about the whole page
            self._worked, self._tried_at = page is not None, trio.current_time()
        return page

    async def can_be_rendered(self) -> bool:
        """Whether the page can be rendered: the last result if it is recent, else another attempt."""
        if self._is_old():
            async with self.turn:
                if self._is_old():
                    await self.render(Format.TEXT_0_0_4, None)
        return self._worked

    def _is_old(self) -> bool:
        return trio.current_time() - self._tried_at > _HEALTH_MAX_AGE_SECONDS


class _Scrape:
    """The metrics page. A scrape counts against the limit until the client has received its response."""

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
        """Wait for a place in order of arrival; return False if there is none within a few seconds."""
        with trio.move_on_after(_PLACE_WAIT_SECONDS):
            if self._places is not None:
                await self._places.acquire()
            return True
        return False

    async def _answer(self, request: Request) -> tuple[Response, Callable[[], None]]:
        """Return the response and the function to call once it is sent."""
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


class _Limited:
    """Limits the concurrent requests of an endpoint with large responses; the others get 503 and Retry-After."""

    def __init__(self, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        self._endpoint = endpoint
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._under_way >= _MOST_AT_ONCE:
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


def _conversation_route(exported: Exported, same_origin: SameOrigin, route_prefix: str) -> Route:
    """One conversation: read with pages for people, started and stopped with the push API."""
    below = f"{route_prefix}/api/v1/conversations/"
    push, shown = exported.push, exported.people

    async def conversation(request: Request) -> Response:
        # Not the path parameter: Starlette drops a newline at the end of the path.
        conversation_id = request.scope["path"].removeprefix(below)
        if shown is not None and request.method in ("GET", "HEAD"):
            return await people.conversation_json(shown, conversation_id)
        assert push is not None  # noqa: S101  # the route has these methods only with it
        names = {name.lower() for name in request.headers}
        if objection := same_origin.objection({name: request.headers.getlist(name) for name in names}):
            return _json({"error": objection}, 403)
        if not is_conversation_id(conversation_id):
            return _json({"error": "not a conversation id: conv_ and up to 100 letters, digits, _ or -"}, 400)
        if request.method == "PUT":
            outcome = push.start(conversation_id, request.query_params.get("workspace"))
            said = "status" if outcome in (Started.STARTED, Started.ALREADY_WATCHED) else "error"
            answer = _json({"conversation_id": conversation_id, said: outcome.value}, _STATUS_OF[outcome])
            if outcome is Started.TOO_FAST:
                answer.headers["Retry-After"] = "5"
            return answer
        if push.stop(conversation_id):
            return Response(status_code=204)
        return _json({"conversation_id": conversation_id, "error": "not watched"}, 404)

    # `path` matches slashes too, so that an id with an encoded slash gets 400, not 404.
    methods = [*(["GET"] if shown else []), *(["PUT", "DELETE"] if push else [])]
    return Route(below + "{conversation_id:path}", conversation, methods=methods)


def _scrape_timeout(request: Request) -> float | None:
    """Return the scrape timeout in seconds that Prometheus sends as a header, or None without one."""
    try:
        seconds = float(request.headers.get("X-Prometheus-Scrape-Timeout-Seconds", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def _header(request: Request, name: str) -> str | None:
    """Join all headers of a name, which is equivalent (RFC 9110, 5.3)."""
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
    """Answer 404 and 405, as JSON under /api/ and else as text."""
    assert isinstance(error, HTTPException)  # noqa: S101  (Starlette calls it only for this class)
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
