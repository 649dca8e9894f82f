"""Doubles for discovery: a REST API that answers from planned calls, and an exporter that counts their ends."""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from random import Random

import attrs
import httpx
import trio

from exporter.enums import Lost, Reconciled, RestError, Started, Task
from exporter.phonic.listing import AgentRow, ListedRow, ListPage, ProjectRow, Workspace
from exporter.phonic.rest import RestFailed
from exporter.phonic.schema import Analysis, Conversation, Snapshot
from exporter.watch.discovery import Discovery
from exporter.watch.interfaces import Requester

EPOCH = 1_767_225_600.0  # Unix time at trio time 0; any value works
HOUR = 3600.0
SETTLE = 6.6  # seconds from the end of a call until its record has the analysis


def unix_now() -> float:
    return EPOCH + trio.current_time()


def iso(at: float | None, now: float) -> str | None:
    return None if at is None or at > now else text_of(at)


@cache
def text_of(at: float) -> str:
    return datetime.fromtimestamp(EPOCH + at, UTC).isoformat()


@attrs.frozen(kw_only=True)
class Call:
    """A planned conversation. Times are trio times. It is listed once created, and may never start or end."""

    id: str
    created: float = 0.0
    started: float | None = 0.0
    ended: float | None = None
    project: str = "main"

    def is_over(self, now: float) -> bool:
        return self.ended is not None and self.ended <= now


@attrs.define
class FakeRest:
    """Answers as REST would at the current trio time. Implements `Rest`; `handle` answers the same over HTTP."""

    calls: list[Call] = attrs.field(factory=list)
    names: tuple[str, ...] = ("main",)
    page_size: int = 100
    fails: Callable[[str], bool] = lambda _: False
    inflated: int = 0  # active conversations that no list shows
    asked: list[tuple[str, str]] = attrs.field(factory=list)
    endless: int = 0

    def paged_without_end(self) -> None:
        self.endless += 1

    def _ask(self, what: str, project: str = "") -> None:
        self.asked.append((what, project))
        if self.fails(what):
            raise RestFailed(RestError.HTTP_5XX)

    def _active(self, name: str) -> int:
        now = trio.current_time()
        return self.inflated + sum(each.project == name and not each.is_over(now) for each in self._created(now))

    def _created(self, now: float) -> list[Call]:
        return [each for each in self.calls if each.created <= now]

    def _newest_first(self, now: float) -> list[Call]:
        return sorted(self._created(now), key=lambda each: each.created, reverse=True)

    async def projects(self) -> list[ProjectRow]:
        await trio.lowlevel.checkpoint()
        self._ask("projects")
        return [ProjectRow(id=f"id-{name}", name=name, active=self._active(name), limit=50) for name in self.names]

    async def workspace(self) -> Workspace:
        await trio.lowlevel.checkpoint()
        self._ask("workspace")
        return Workspace(sum(map(self._active, self.names)), None)

    async def agents(self, project_name: str) -> list[AgentRow]:
        await trio.lowlevel.checkpoint()
        self._ask("agents", project_name)
        return [AgentRow("agent_1", f"{project_name} agent")]

    async def conversations(self, project_name: str, *, after: str | None = None, limit: int = 100) -> ListPage:
        await trio.lowlevel.checkpoint()
        self._ask("conversations", project_name)
        now = trio.current_time()
        rows = [each for each in self._newest_first(now) if each.project == project_name]
        begin = 0 if after is None else 1 + next(at for at, each in enumerate(rows) if each.id == after)
        page = rows[begin : begin + min(limit, self.page_size)]
        has_older = bool(page) and page[-1] is not rows[-1]
        return ListPage(
            rows=[
                ListedRow(id=each.id, started_at=iso(each.started, now), ended_at=iso(each.ended, now))
                for each in page
            ],
            next_cursor=page[-1].id if has_older else None,
            unusable=0,
        )

    async def record(self, conversation_id: str) -> Snapshot | None:
        await trio.lowlevel.checkpoint()
        self._ask("record", conversation_id)
        now = trio.current_time()
        for each in self._created(now):
            if each.id == conversation_id:
                settled = each.ended is not None and now >= each.ended + SETTLE
                conversation = Conversation(
                    each.id,
                    started_at=iso(each.started, now),
                    ended_at=iso(each.ended, now),
                    ended_by="user" if each.is_over(now) else None,
                    analysis=Analysis() if settled else None,
                )
                return Snapshot(conversation=conversation)
        return None

    async def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer a request with JSON (API 3.1, 3.2)."""
        query = request.url.params
        match request.url.path.split("/")[2:]:
            case ["projects"]:
                reply: object = {"projects": [project_object(row) for row in await self.projects()]}
            case ["workspace"]:
                workspace = await self.workspace()
                reply = {"active_conversations": workspace.active, "max_active_conversations": workspace.limit}
            case ["agents"]:
                reply = {"agents": [attrs.asdict(row) for row in await self.agents(query["project"])]}
            case ["conversations"]:
                page = await self.conversations(
                    query["project"], after=query.get("after"), limit=int(query["limit"])
                )
                rows = [attrs.asdict(row) for row in page.rows]
                reply = {"conversations": rows, "pagination": {"next_cursor": page.next_cursor}}
            case [_, conversation_id]:
                record = await self.record(conversation_id)
                if record is None:
                    return httpx.Response(404)
                reply = {"conversation": attrs.asdict(record.conversation)}
        return httpx.Response(200, content=json.dumps(reply))


def project_object(row: ProjectRow) -> dict[str, object]:
    counts = {"active_conversations": row.active, "max_active_conversations": row.limit}
    return {"id": row.id, "name": row.name, **counts}


@attrs.define
class FakeExporter:
    """Supervisor, sink and directory in one: what is watched is finished when its call ends."""

    rest: FakeRest
    first_start: float = EPOCH
    settled_at: float = -1.0
    more_finished: trio.Event = attrs.field(factory=trio.Event)
    limit: int = 1000
    watching: set[str] = attrs.field(factory=set)
    over_limit: set[str] = attrs.field(factory=set)
    told_over: set[str] = attrs.field(factory=set)
    seen: set[str] = attrs.field(factory=set)
    finished: dict[str, Lost | None] = attrs.field(factory=dict)
    complete: set[str] = attrs.field(factory=set)
    crashes: Counter[Task] = attrs.field(factory=Counter)
    unknown: set[str] = attrs.field(factory=set)
    results: Counter[Reconciled] = attrs.field(factory=Counter)
    project_names: Mapping[str, str] = attrs.field(factory=dict)
    agents: dict[str, list[tuple[str, str]]] = attrs.field(factory=dict)

    def _settle(self) -> None:
        now = trio.current_time()
        if self.settled_at == now:
            return
        self.settled_at = now
        for each in self.rest.calls:
            if each.id in self.watching and each.is_over(now):
                self.watching.remove(each.id)
                self.finished[each.id] = None

    def start(self, conversation_id: str, requester: Requester) -> Started:
        assert requester is Requester.DISCOVERY
        self._settle()
        if conversation_id in self.finished:
            return Started.FINISHED
        if conversation_id in self.watching:
            return Started.ALREADY_WATCHED
        if len(self.watching) >= self.limit:
            self.over_limit.add(conversation_id)
            return Started.LIMIT_REACHED
        self.watching.add(conversation_id)
        self.seen.add(conversation_id)
        return Started.STARTED

    def over(self, conversation_id: str) -> None:
        self.told_over.add(conversation_id)

    def is_watched(self, conversation_id: str) -> bool:
        self._settle()
        return conversation_id in self.watching

    def is_over_limit(self, conversation_id: str) -> bool:
        return conversation_id in self.over_limit

    def is_finished(self, conversation_id: str) -> bool:
        self._settle()
        return conversation_id in self.finished

    def has_seen(self, conversation_id: str) -> bool:
        return conversation_id in self.seen

    async def has_finished(self, count: int) -> None:
        """Wait until so many conversations are finished."""
        while len(self.finished) < count:
            await self.more_finished.wait()

    def task_crashed(self, task: Task) -> None:
        self.crashes[task] += 1

    def unknown_agents(self, project: str) -> bool:
        return project in self.unknown

    def reconciled(self, result: Reconciled) -> None:
        self.results[result] += 1

    def finish(self, conversation_id: str, record: Snapshot | None, lost: Lost | None) -> None:
        assert conversation_id not in self.finished
        self.finished[conversation_id] = lost
        self.more_finished.set()
        self.more_finished = trio.Event()
        if record is not None and record.conversation.analysis is not None:
            self.complete.add(conversation_id)

    def learn_projects(self, names: Mapping[str, str]) -> None:
        self.project_names = names

    def learn_agents(self, project: str, agents: Iterable[tuple[str, str]]) -> None:
        self.agents[project] = list(agents)


def discovery(rest: FakeRest, exporter: FakeExporter, **options: object) -> Discovery:
    options = {"interval": 5.0, "rng": Random(0), "now": unix_now, **options}
    return Discovery(rest, targets=exporter, sink=exporter, directory=exporter, **options)  # type: ignore[arg-type]


async def run_for(seconds: float, found: Discovery) -> None:
    with trio.move_on_after(seconds):
        await found.run()


def virtual(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
