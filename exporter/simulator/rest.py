"""Edge: the REST API of the simulated Phonic (API 2), limited to what observers use."""

import datetime as dt
import random
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Final

import msgspec
import trio
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .access import Access, BadTokenRequest, bearer
from .faults import REST_FAULTS, chosen, strength
from .playback import Playback
from .replies import failure, raw_reply, reply
from .scenario import Conversation, Project
from .views import Json, agent_object, analysis, iso, project_object, rest_object, workspace_object

Handler = Callable[[Request], Awaitable[Response]]

_LARGEST_PAGE: Final = 100
_USUAL_PAGE: Final = 20
_NEVER_ANSWERED_S: Final = 120  # longer than any client waits
_HTML: Final = b"<!doctype html><title>502 Bad Gateway</title><h1>502 Bad Gateway</h1>"


class Refused(Exception):
    """Ends a request with this reply."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class Rest:
    """The REST handlers. ``_guarded`` wraps each: it applies the faults, then checks the credential."""

    def __init__(self, playback: Playback, access: Access) -> None:
        self._playback = playback
        self._access = access

    def routes(self) -> list[Route]:
        return [
            Route("/v1/workspace", self._guarded(self._workspace)),
            Route("/v1/projects", self._guarded(self._projects)),
            Route("/v1/agents", self._guarded(self._agents)),
            Route("/v1/conversations", self._guarded(self._conversations)),
            Route("/v1/conversations/{conversation_id}", self._guarded(self._conversation)),
            Route("/v1/conversations/{conversation_id}/analysis", self._guarded(self._analysis)),
            Route("/v1/auth/session_token", self._guarded(self._session_token), methods=["POST"]),
        ]

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            playback, path = self._playback, request.url.path
            rng = playback.request_rng(path)
            if rng.random() < strength(playback.faults, "outage", playback.now_ms()):
                playback.sent["rest-503"] += 1
                return failure(503, "Service unavailable")
            fault = chosen(playback.faults, REST_FAULTS, playback.now_ms(), rng)
            if fault is not None:
                playback.sent[fault] += 1
            match fault:
                case "rest-500":
                    return failure(500, "Internal server error")
                case "rest-429":
                    return failure(429, "Rate limit exceeded", headers={"Retry-After": "1"})
                case "rest-html":
                    return raw_reply(_HTML, "text/html", 502)
                case "rest-timeout":
                    await trio.sleep(_NEVER_ANSWERED_S)
            try:
                self._authenticate(request)
                response = await handler(request)
            except Refused as refused:
                return refused.response
            if fault == "rest-truncated":
                return raw_reply(bytes(response.body)[: len(response.body) // 2], "application/json")
            return response

        return guarded

    def _authenticate(self, request: Request) -> None:
        credential = bearer(request.headers.get("authorization"))
        if self._access.token(credential) is not None:
            raise Refused(failure(403, "Only API keys can be used to create session tokens"))
        if not self._access.is_api_key(credential):
            raise Refused(failure(401, "Invalid API key"))

    async def _workspace(self, _: Request) -> Response:
        return reply(workspace_object(self._playback.workspace, self._playback.active()))

    async def _projects(self, _: Request) -> Response:
        playback = self._playback
        return reply(
            {
                "projects": [
                    project_object(project, playback.workspace.agents, playback.active(project))
                    for project in playback.workspace.projects
                ]
            }
        )

    async def _agents(self, request: Request) -> Response:
        project = self._project(request)
        unlisted = strength(self._playback.faults, "unlisted-agents", self._playback.now_ms())
        agents = (
            agent
            for agent in self._playback.workspace.agents
            if agent.project.id == project.id and random.Random(agent.id).random() >= unlisted
        )
        return reply({"agents": [agent_object(agent) for agent in agents]})

    async def _conversations(self, request: Request) -> Response:
        project, query = self._project(request), request.query_params
        problems: dict[str, str] = {}
        limit = _whole(query.get("limit", str(_USUAL_PAGE)), "limit", problems)
        if limit is None or not 1 <= limit <= _LARGEST_PAGE:
            problems["limit"] = f"Must be an integer from 1 to {_LARGEST_PAGE}"
        matches = self._filter(query, problems)
        if "before" in query and "after" in query:
            problems["before"] = "Cannot be combined with after"
        if limit is None or problems:
            raise Refused(failure(400, "Invalid parameters", problems=problems))
        external = query.get("external_id")
        if external is not None:
            found = [each for each in self._playback.newest_first(project) if f"call-{each.number}" == external]
            if len(found) == 1:
                return reply({"conversation": self._object(found[0])})
            return reply(_page([], None, None))
        rows: Iterator[Conversation] = filter(matches, self._playback.newest_first(project))
        if "before" in query:
            return self._page_before(list(rows), query["before"], limit)
        if "after" in query:
            cursor = self._cursor(query["after"])
            rows = (each for each in rows if each.number < cursor.number)
        # One more row than requested tells whether there is an older page.
        page = list(islice(rows, limit + 1))
        return reply(
            _page(
                [self._object(each) for each in page[:limit]],
                page[0].id if page and "after" in query else None,
                page[limit - 1].id if len(page) > limit else None,
            )
        )

    def _filter(self, query: QueryParams, problems: dict[str, str]) -> Callable[[Conversation], bool]:
        """Return the filter of a list request; add invalid parameters to ``problems``."""
        shortest = _whole(query.get("duration_min"), "duration_min", problems)
        longest = _whole(query.get("duration_max"), "duration_max", problems)
        earliest = _moment(query.get("started_at_min"), "started_at_min", problems)
        latest = _moment(query.get("started_at_max"), "started_at_max", problems)
        playback = self._playback

        def matches(conversation: Conversation) -> bool:
            started_ms, duration_ms = conversation.started_ms, conversation.duration_ms
            if started_ms is None or started_ms > playback.now_ms():  # null while ringing, which matches no bound
                return earliest is None and latest is None
            unix_ms = playback.epoch_ms + started_ms
            return (
                (earliest is None or earliest <= unix_ms)
                and (latest is None or unix_ms <= latest)
                and (shortest is None or shortest * 1000 <= duration_ms)
                and (longest is None or duration_ms <= longest * 1000)
            )

        return matches

    def _page_before(self, rows: list[Conversation], before: str, limit: int) -> Response:
        """Return the newer page: the rows right before the cursor in a newest-first list."""
        cursor = self._cursor(before)
        newer = [each for each in rows if each.number > cursor.number]
        page = newer[-limit:]
        return reply(
            _page(
                [self._object(each) for each in page],
                page[0].id if len(newer) > limit else None,
                page[-1].id if page else None,
            )
        )

    async def _conversation(self, request: Request) -> Response:
        return reply({"conversation": self._object(self._cursor(request.path_params["conversation_id"]))})

    async def _analysis(self, request: Request) -> Response:
        conversation = self._cursor(request.path_params["conversation_id"])
        over_ms = self._playback.over_ms(conversation)
        if over_ms is None or self._playback.now_ms() < over_ms + conversation.settle_ms:
            raise Refused(failure(404, "Analysis not found"))
        return reply({"analysis": analysis(conversation)})

    async def _session_token(self, request: Request) -> Response:
        try:
            token, seconds = self._access.mint(msgspec.json.decode(await request.body() or b"{}"))
        except BadTokenRequest as bad:
            raise Refused(failure(400, "Invalid parameters", problems=bad.problems)) from bad
        except msgspec.DecodeError as bad:
            raise Refused(failure(400, "Invalid JSON")) from bad
        expires_ms = self._playback.epoch_ms + self._playback.now_ms() + seconds * 1000
        return reply({"session_token": token.text, "expires_at": iso(expires_ms)})

    def _object(self, conversation: Conversation) -> Json:
        playback = self._playback
        over_ms = playback.over_ms(conversation)
        return rest_object(conversation, playback.workspace, playback.epoch_ms, playback.now_ms(), over_ms=over_ms)

    def _project(self, request: Request) -> Project:
        name = request.query_params.get("project", "main")
        for project in self._playback.workspace.projects:
            if project.name == name:
                return project
        raise Refused(failure(404, "Project not found"))

    def _cursor(self, identity: str) -> Conversation:
        conversation = self._playback.conversation(identity)
        if conversation is None:
            raise Refused(failure(404, "Conversation not found"))
        return conversation


def _page(rows: list[Json], newer: str | None, older: str | None) -> Json:
    return {"conversations": rows, "pagination": {"prev_cursor": newer, "next_cursor": older}}


def _whole(text: str | None, name: str, problems: dict[str, str]) -> int | None:
    """Parse a non-negative integer parameter."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    problems[name] = "Must be a non-negative integer"
    return None


def _moment(text: str | None, name: str, problems: dict[str, str]) -> float | None:
    """Parse a date or date-time, in UTC by default; return Unix time in ms."""
    if text is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        problems[name] = "Must be a date or a date-time"
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp() * 1000
