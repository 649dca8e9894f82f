"""Edge: the pages for people and their JSON: how the exporter is, and its conversations turn by turn."""

import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

import attrs
import trio
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ..counting.turns import SeenCall, as_json
from ..errors import HistoryUnavailable
from ..phonic.wire import is_conversation_id
from .pages import MOST_LISTED, POLICY, Latency, LiveRow, Pages, Part, PastRow

UNKNOWN: Final = "unknown or forgotten"
UNREADABLE: Final = "what is remembered cannot be read now"
_LONGEST_QUERY: Final = 200
_LONG_CALL: Final = 1000  # turns


class Shown(Protocol):
    """What people are shown. All runs on the trio thread; what is awaited may be cancelled at any time."""

    @property
    def objective(self) -> float:
        """The response time objective in seconds."""
        ...

    @property
    def remembers(self) -> bool:
        """Whether conversations that are over are remembered."""
        ...

    def parts(self) -> Sequence[Part]:
        """Each part of the exporter, and how it is."""
        ...

    def uptime(self) -> float:
        """Seconds since the start."""
        ...

    def latencies(self) -> Sequence[Latency]:
        """The histograms that matter most, over all label sets."""
        ...

    def live(self, query: str, most: int) -> tuple[Sequence[LiveRow], int]:
        """Watched conversations that match and are not over, and how many do; the longest waits first."""
        ...

    async def past(self, query: str, most: int) -> tuple[Sequence[PastRow], int]:
        """Remembered conversations that match, failed ones first, then the slowest; and how many do.

        Raises: HistoryUnavailable.
        """
        ...

    async def call(self, conversation_id: str) -> SeenCall | None:
        """One conversation, watched or remembered; None if it is neither. Raises: HistoryUnavailable."""
        ...


@attrs.frozen(kw_only=True)
class _Endpoints:
    shown: Shown
    pages: Pages
    links: tuple[tuple[str, str], ...]

    async def landing(self, _: Request) -> Response:
        shown = self.shown
        live, count = shown.live("", MOST_LISTED)
        return _page(
            self.pages.landing(
                parts=shown.parts(),
                live=live,
                live_count=count,
                latencies=shown.latencies(),
                uptime=shown.uptime(),
                links=self.links,
            )
        )

    async def conversations(self, request: Request) -> Response:
        query = request.query_params.get("q", "").strip()[:_LONGEST_QUERY]
        past: Sequence[PastRow] | None = None
        remembered = 0
        with suppress(HistoryUnavailable):  # the live ones are worth a page, which says so
            past, remembered = await self.shown.past(query, MOST_LISTED)
        live, count = self.shown.live(query, MOST_LISTED)
        return _page(
            self.pages.conversations(
                live=live,
                live_count=count,
                past=past,
                remembered=remembered,
                remembers=self.shown.remembers,
                query=query,
            )
        )

    async def conversation(self, request: Request) -> Response:
        conversation_id = request.path_params["conversation_id"]
        try:
            call = await self.shown.call(conversation_id) if is_conversation_id(conversation_id) else None
        except HistoryUnavailable:
            return _page(self.pages.missing(conversation_id, is_readable=False), 503)
        if call is None:
            return _page(self.pages.missing(conversation_id[:_LONGEST_QUERY], is_readable=True), 404)
        first = request.query_params.get("from", "0")
        number = int(first) if first.isdecimal() and len(first) < 10 else 0
        draw = partial(self.pages.conversation, call, objective=self.shown.objective, first=number)
        return _page(await _in_turn(call, draw))


async def conversation_json(shown: Shown, conversation_id: str) -> Response:
    """``GET /api/v1/conversations/{id}``: one conversation turn by turn (`exporter.counting.turns.as_json`)."""
    headers = {"Cache-Control": "no-store"}
    try:
        call = await shown.call(conversation_id) if is_conversation_id(conversation_id) else None
    except HistoryUnavailable:
        return JSONResponse({"error": UNREADABLE}, 503, headers)
    if call is None:
        return JSONResponse({"error": UNKNOWN}, 404, headers)
    content = await _in_turn(call, lambda: json.dumps(as_json(call), separators=(",", ":")))
    return Response(content, media_type="application/json", headers=headers)


async def _in_turn(call: SeenCall, write: Callable[[], str]) -> str:
    """Write the text of a conversation: a long one in a thread, so that the event loop goes on."""
    return await trio.to_thread.run_sync(write) if len(call.turns) > _LONG_CALL else write()


def routes(
    shown: Shown,
    *,
    telemetry_path: str,
    route_prefix: str,
    link_prefix: str,
    version: str,
    limited: Callable[[Callable[[Request], Awaitable[Response]]], object],
) -> list[Route]:
    """The routes of the pages, but ``/`` where the metrics page is there.

    ``limited`` wraps an endpoint so that few of its answers are made at once.
    """
    links = (
        ("/conversations", "conversations, live and remembered"),
        (telemetry_path, "metrics for Prometheus"),
        ("/-/healthy", "whether this process is healthy"),
        ("/-/ready", "whether the metrics are complete"),
        ("/api/v1/conversations", "the conversations being watched, as JSON"),
    )
    endpoints = _Endpoints(
        shown=shown, pages=Pages(telemetry_path=telemetry_path, version=version, prefix=link_prefix), links=links
    )
    found: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
        (f"{route_prefix}/conversations", endpoints.conversations),
        (f"{route_prefix}/conversations/{{conversation_id}}", endpoints.conversation),
    ]
    if telemetry_path != "/":
        found.append((f"{route_prefix}/", endpoints.landing))
    return [Route(path, limited(endpoint), methods=["GET"]) for path, endpoint in found]  # type: ignore[arg-type]


def _page(text: str, status: int = 200) -> Response:
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return HTMLResponse(text, status, headers)
