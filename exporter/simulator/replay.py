"""Edge: replays a recording: its only conversation is live from the first request until its recorded feed ends.

It begins with the first request that has the key, and all times in it are shifted so that they begin then: to an
exporter that started after its end, it would be history. An observer that connects late gets the newest snapshot
at once, as from the real Phonic, and then every frame when it is due. REST shows the conversation without an end
until it is over, and then returns the recorded replies, each from the time on at which it was recorded. A reply
that is no record, cut off or a page of HTML, is played as it is, and lists and projects are made of the others.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from ..recording.file import YEARS_OF_NO_TIME, Entry, Kind, Recording
from .access import Access, bearer
from .live import lose
from .replies import failure, raw_reply

_Dated = TypeVar("_Dated")
Handler = Callable[[Request], Awaitable[Response]]

_TIME: Final = re.compile(r'"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)?"')
_UNSENT: Final = (None, 1005, 1006, 1015)  # say that no close code came (RFC 6455, 7.4.1)
_UPDATED: Final = "conversation-updated"


class Replay:
    """The routes of a Phonic with one conversation."""

    def __init__(self, recording: Recording, access: Access, *, now: Callable[[], float]) -> None:
        """Prepare a replay.

        Args:
            recording: what to replay.
            access: the accepted credentials.
            now: gives Unix time in seconds.
        """
        self._id = recording.conversation_id
        self._access = access
        self._now = now
        self._has_begun = False
        self._begin(recording.entries)

    def _begin(self, entries: Sequence[Entry]) -> None:
        """Have the conversation begin at this moment."""
        self._began = trio.current_time()
        offset = datetime.fromtimestamp(self._now(), UTC) - _first_time(entries)
        self._entries = [_moved(each, offset) for each in entries]
        self._feed = [each for each in self._entries if each.kind is not Kind.RECORD]
        self._records = [each for each in self._entries if each.kind is Kind.RECORD]
        self._ends_at = self._feed[-1].at if self._feed else 0.0
        self._live_objects = _conversations(self._feed)
        self._rest_objects = _conversations(self._records)

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/workspace", self._guarded(self._workspace)),
            Route("/v1/projects", self._guarded(self._projects)),
            Route("/v1/agents", self._guarded(self._agents)),
            Route("/v1/conversations", self._guarded(self._conversations)),
            Route("/v1/conversations/{conversation_id}", self._guarded(self._conversation)),
            WebSocketRoute("/v1/conversations/{conversation_id}/live/ws", self._live),
        ]

    def _asked(self) -> None:
        """A request with the key has come; the first one begins the conversation."""
        if not self._has_begun:
            self._has_begun = True
            self._begin(self._entries)

    @property
    def _elapsed(self) -> float:
        return trio.current_time() - self._began

    def _newest_due(self, dated: Sequence[tuple[float, _Dated]]) -> _Dated | None:
        due = [found for at, found in dated if at <= self._elapsed]
        return due[-1] if due else None

    @property
    def _is_over(self) -> bool:
        return self._elapsed >= self._ends_at

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            if not self._access.is_api_key(bearer(request.headers.get("authorization"))):
                return failure(401, "Invalid API key")
            self._asked()
            return await handler(request)

        return guarded

    async def _workspace(self, _: Request) -> Response:
        return _reply({"active_conversations": int(not self._is_over), "max_active_conversations": None})

    async def _projects(self, _: Request) -> Response:
        project = {**self._project(), "default_agent": None, "max_active_conversations": None}
        return _reply({"projects": [{**project, "active_conversations": int(not self._is_over)}]})

    async def _agents(self, _: Request) -> Response:
        agent = self._newest().get("agent")
        return _reply({"agents": [agent] if isinstance(agent, dict) else []})

    async def _conversations(self, _: Request) -> Response:
        record = self._newest_due(self._rest_objects) if self._is_over else None
        row = self._row() if record is None else record
        return _reply({"conversations": [row], "pagination": {"prev_cursor": None, "next_cursor": None}})

    async def _conversation(self, request: Request) -> Response:
        if request.path_params["conversation_id"] != self._id:
            return failure(404, "Conversation not found")
        bodies = [(each.at, each.body) for each in self._records]
        body = self._newest_due(bodies) if self._is_over else None
        if body is None:
            return _reply({"conversation": self._row()})
        return raw_reply(body.encode(), "application/json")

    def _newest(self) -> dict[str, Any]:
        """Return the live object of the newest frame that is due."""
        due = self._newest_due(self._live_objects)
        first = self._live_objects[0][1] if self._live_objects else {"id": self._id}
        return first if due is None else due

    def _row(self) -> dict[str, Any]:
        """Return the REST object of the conversation until a record of its end is due."""
        found = self._newest()
        ended_at = found.get("ended_at")
        if self._is_over and ended_at is None:
            ended_at = datetime.now(UTC).isoformat()
        kept = ("id", "agent", "origin", "started_at", "duration_ms")
        return {**{key: found.get(key) for key in kept}, "project": self._project(), "ended_at": ended_at}

    def _project(self) -> dict[str, Any]:
        for _, record in self._rest_objects:
            project = record.get("project")
            if isinstance(project, dict) and project.get("name"):
                return {"id": project.get("id"), "name": project["name"]}
        found = self._live_objects[0][1].get("project_id") if self._live_objects else None
        return {"id": found or "proj_recorded", "name": "main"}

    async def _live(self, websocket: WebSocket) -> None:
        if not self._access.is_api_key(bearer(websocket.headers.get("authorization"))):
            return await websocket.send_denial_response(failure(401, "Invalid API key"))
        self._asked()
        if websocket.path_params["conversation_id"] != self._id:
            return await websocket.send_denial_response(failure(404, "Conversation not found"))
        refused = next((each for each in self._feed if each.kind is Kind.REFUSED), None)
        if refused is not None:
            return await websocket.send_denial_response(failure(refused.code or 500, "Refused when recorded"))
        await websocket.accept()
        for entry in self._due_from_now():
            await trio.sleep_until(self._began + entry.at)
            if entry.kind is Kind.FRAME:
                await websocket.send_text(entry.body)
            elif entry.kind is Kind.CLOSED:
                return await (lose(websocket) if entry.code in _UNSENT else websocket.close(entry.code))
        return await websocket.close(1000)

    def _due_from_now(self) -> Iterator[Entry]:
        """Yield the newest snapshot that is due, and all entries after it."""
        elapsed = self._elapsed
        due = [number for number, each in enumerate(self._feed) if each.at <= elapsed]
        snapshots = [number for number in due if _conversation(self._feed[number]) is not None]
        return iter(self._feed[snapshots[-1] if snapshots else 0 :])


def _reply(content: object) -> Response:
    """Reply as Python's JSON, which escapes what cannot be encoded: recorded texts may have half a character."""
    return raw_reply(json.dumps(content).encode(), "application/json")


def _conversations(entries: Sequence[Entry]) -> list[tuple[float, dict[str, Any]]]:
    """Return the conversations of the entries that have one, each with its time."""
    return [(each.at, found) for each in entries if (found := _conversation(each)) is not None]


def _conversation(entry: Entry) -> dict[str, Any] | None:
    """Return the conversation of a snapshot or of a record, or None for any other entry."""
    try:
        content = json.loads(entry.body) if entry.kind in (Kind.FRAME, Kind.RECORD) else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or (entry.kind is Kind.FRAME and content.get("type") != _UPDATED):
        return None
    found = content.get("conversation")
    return found if isinstance(found, dict) else None


def _first_time(entries: Sequence[Entry]) -> datetime:
    """Return the recorded time of the start: the newest time in the first snapshot, which is close to it."""
    for entry in entries:
        if entry.kind is Kind.FRAME and _conversation(entry) is not None:
            times = [moment for found in _TIME.finditer(entry.body) if (moment := _time(found)) is not None]
            if times:
                return max(times)
    return datetime.now(UTC)


def _moved(entry: Entry, offset: timedelta) -> Entry:
    return Entry(
        at=entry.at,
        kind=entry.kind,
        code=entry.code,
        body=_TIME.sub(lambda found: _written(found, offset), entry.body),
    )


def _time(found: re.Match[str]) -> datetime | None:
    """Return the time, or None for an impossible one and for one that stands for none."""
    try:
        moment = datetime.fromisoformat(found[1] + (found[2] or "") + (found[3] or ""))
    except ValueError:
        return None
    if moment.year in YEARS_OF_NO_TIME:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _written(found: re.Match[str], offset: timedelta) -> str:
    """Move a time and keep its form; one that cannot be moved stays as it is."""
    moment = _time(found)
    if moment is None:
        return found[0]
    try:
        text = (moment + offset).isoformat(timespec="microseconds")
    except OverflowError:
        return found[0]
    digits = len(found[2] or "") - 1
    fraction = f".{text[20:26].ljust(digits, '0')[:digits]}" if digits > 0 else ""
    return f'"{text[:19]}{fraction}{found[3] or ""}"'
