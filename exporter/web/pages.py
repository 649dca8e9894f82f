"""Pure: the pages for people: what the exporter does, its conversations, and one conversation turn by turn.

Strategy: Jinja templates that escape everything, one style sheet inside each page, and no script: a page is
complete as it comes, refreshes itself while something goes on, and loads nothing. The policy that is sent with a
page allows its style sheet by its hash, and nothing else.
"""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any, Final

import attrs
import jinja2
from markupsafe import Markup

from ..counting.turns import CallState, SeenCall, SeenTurn, for_people
from ..enums import Stage
from .timeline import MOST_ROWS, timeline

REFRESH: Final = 5
"""Seconds after which a page with something live asks for itself again."""
MOST_LISTED: Final = 200
"""Conversations of one list."""

_environment = jinja2.Environment(
    loader=jinja2.PackageLoader("exporter.web"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_STYLE: Final = _environment.loader.get_source(_environment, "style.css")[0]  # type: ignore[union-attr]
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of every page."""


@attrs.frozen(kw_only=True)
class Part:
    """A part of the exporter and how it is: ``is_well`` is None where it is off or not known yet."""

    name: str
    is_well: bool | None
    text: str


@attrs.frozen(kw_only=True)
class Bar:
    """A bucket: ``label`` is its upper bound, ``share`` of the fullest bucket in percent."""

    label: str
    count: int
    share: float


@attrs.frozen(kw_only=True)
class Latency:
    """A histogram over all label sets since the counters began: quantiles in seconds, None while it is empty."""

    name: str
    count: int
    p50: float | None
    p95: float | None
    p99: float | None
    bars: tuple[Bar, ...]


@attrs.frozen(kw_only=True)
class LiveRow:
    """A conversation that goes on. Seconds; ``waiting``: how long the caller has been waiting, None if not.

    ``workspace`` is None where workspaces have no names.
    """

    conversation_id: str
    workspace: str | None = None
    project: str | None
    agent: str | None
    state: str
    duration: float | None
    turns: int
    last_response: float | None
    waiting: float | None


@attrs.frozen(kw_only=True)
class PastRow:
    """A remembered conversation. ``slowest``: the longest response in seconds."""

    conversation_id: str
    project: str
    agent: str
    ended_at: str
    ended_by: str
    duration: float | None
    turns: int
    slowest: float | None
    is_failed: bool


@attrs.frozen(kw_only=True)
class Pages:
    """Writes pages. ``prefix``: what links begin with for a browser, which a proxy may have changed."""

    telemetry_path: str
    version: str
    prefix: str = ""

    def landing(
        self,
        *,
        parts: Sequence[Part],
        live: Sequence[LiveRow],
        live_count: int,
        latencies: Sequence[Latency],
        uptime: float,
        links: Sequence[tuple[str, str]],
    ) -> str:
        """The page at ``/``. ``uptime`` in seconds; ``links``: further paths, and what is there.

        ``live_count``: how many conversations go on, of which ``live`` are shown.
        """
        return self._page(
            "landing.html",
            refresh=REFRESH,
            parts=parts,
            live=live,
            has_workspaces=_have_workspaces(live),
            live_count=live_count,
            latencies=latencies,
            uptime=_duration(uptime),
            links=links,
        )

    def conversations(
        self,
        *,
        live: Sequence[LiveRow],
        live_count: int,
        past: Sequence[PastRow] | None,
        remembered: int,
        remembers: bool,
        query: str,
    ) -> str:
        """The list. ``live`` are shown of ``live_count``, ``past`` of ``remembered`` that match ``query``.

        ``remembers``: whether any conversation is remembered. ``past`` is None if that cannot be read now.
        """
        return self._page(
            "conversations.html",
            refresh=None,
            live=live,
            has_workspaces=_have_workspaces(live),
            live_count=live_count,
            past=past,
            remembered=remembered,
            remembers=remembers,
            query=query,
        )

    def conversation(self, call: SeenCall, *, objective: float, first: int = 0) -> str:
        """One conversation, up to `MOST_ROWS` turns from the ``first`` on. ``objective``: seconds of response."""
        slowest = call.slowest
        drawing = timeline(call, objective=objective, first=first)
        slowest_page = ""
        if slowest is not None:
            position = next(at for at, turn in enumerate(call.turns) if turn is slowest)
            if not drawing.first <= position < drawing.first + len(drawing.rows):
                slowest_page = f"?from={position // MOST_ROWS * MOST_ROWS}"
        return self._page(
            "conversation.html",
            refresh=REFRESH if call.state is CallState.LIVE and not first else None,
            call=call,
            started_at=for_people(call.started_at),
            waiting_since=for_people(call.waiting_since),
            slowest=slowest,
            slowest_page=slowest_page,
            drawing=drawing,
            most_rows=MOST_ROWS,
            objective=f"{objective:g}",
            notes=_notes,
            cause=_cause,
        )

    def missing(self, conversation_id: str, *, is_readable: bool) -> str:
        """What is said of a conversation that is not known. ``is_readable``: whether what is remembered is."""
        return self._page("missing.html", refresh=None, conversation_id=conversation_id, is_readable=is_readable)

    def _page(self, template: str, **values: Any) -> str:
        return _environment.get_template(template).render(
            style=Markup(_STYLE),  # noqa: S704  # our own file
            prefix=self.prefix,
            telemetry_path=self.telemetry_path,
            version=self.version,
            **values,
        )


def _have_workspaces(live: Sequence[LiveRow]) -> bool:
    """Whether a list has a column for the workspace."""
    return any(each.workspace is not None for each in live)


def _notes(turn: SeenTurn) -> str:
    notes = []
    if turn.is_silent:
        notes.append("chose not to respond")
    if turn.is_overlap:
        notes.append("spoke over the user")
    if turn.is_barge_in:
        notes.append("barge-in")
    if turn.tool_calls:
        notes.append(f"{turn.tool_calls} tool call{'s' if turn.tool_calls > 1 else ''}")
    if turn.tool_failures:
        notes.append(f"{turn.tool_failures} failed")
    return ", ".join(notes)


def _cause(turn: SeenTurn) -> str:
    """Which part of a slow response to look at."""
    stage = turn.largest_stage
    return "" if stage in (None, Stage.UNKNOWN) else f"mostly {stage.replace('_', ' ')}"


def _duration(seconds: float) -> str:
    minutes, _ = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
