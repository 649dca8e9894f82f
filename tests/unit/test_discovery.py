"""Discovery: every live conversation is found, every end that nobody watched counted once; and what that costs."""

import json
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import formatdate
from functools import cache, partial
from random import Random

import attrs
import httpx
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.abc import Clock

from exporter.enums import Lost, Reconciled, RestError, Started, Task
from exporter.phonic.clock import PhonicClock
from exporter.phonic.credentials import ApiKey, Credentials
from exporter.phonic.listing import AgentRow, ListedRow, ListPage, ProjectRow, Workspace
from exporter.phonic.rest import RestFailed, open_rest
from exporter.phonic.schema import Analysis, Conversation, Snapshot
from exporter.simulator.plan import plan
from exporter.simulator.scenario import Scenario
from exporter.simulator.server import serve
from exporter.watch.discovery import Api, Discovery
from exporter.watch.interfaces import Source

EPOCH = 1_767_225_600.0  # Unix time of trio time 0; any will do
HOUR = 3600.0
SETTLE = 6.6  # seconds from the end to the analysis


def unix_now() -> float:
    return EPOCH + trio.current_time()


def iso(at: float | None, now: float) -> str | None:
    return None if at is None or at > now else text_of(at)


@cache
def text_of(at: float) -> str:
    return datetime.fromtimestamp(EPOCH + at, UTC).isoformat()


@attrs.frozen(kw_only=True)
class Call:
    """A conversation's life in seconds of trio time; it appears as it is created and may never start, or end."""

    id: str
    created: float = 0.0
    started: float | None = 0.0
    ended: float | None = None
    project: str = "main"

    def is_over(self, now: float) -> bool:
        return self.ended is not None and self.ended <= now


@attrs.define
class Phonic:
    """What REST would say now. Implements `Api`, and `handle` says the same over HTTP."""

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
        """The same as JSON (API 3.1, 3.2)."""
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
class Desk:
    """Supervisor, sink and directory in one: watched conversations are counted when they end."""

    phonic: Phonic
    first_start: float = EPOCH
    settled_at: float = -1.0
    more_finished: trio.Event = attrs.field(factory=trio.Event)
    limit: int = 1000
    watching: set[str] = attrs.field(factory=set)
    refused: set[str] = attrs.field(factory=set)
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
        for each in self.phonic.calls:
            if each.id in self.watching and each.is_over(now):
                self.watching.remove(each.id)
                self.finished[each.id] = None

    def start(self, conversation_id: str, source: Source) -> Started:
        assert source is Source.DISCOVERY
        self._settle()
        if conversation_id in self.finished:
            return Started.FINISHED
        if conversation_id in self.watching:
            return Started.ALREADY_WATCHED
        if len(self.watching) >= self.limit:
            self.refused.add(conversation_id)
            return Started.LIMIT_REACHED
        self.watching.add(conversation_id)
        self.seen.add(conversation_id)
        return Started.STARTED

    def withdraw(self, conversation_id: str, source: Source) -> None:  # noqa: ARG002
        raise AssertionError("discovery never withdraws a conversation")

    def over(self, conversation_id: str) -> None:
        self.told_over.add(conversation_id)

    def is_watched(self, conversation_id: str) -> bool:
        self._settle()
        return conversation_id in self.watching

    def is_refused(self, conversation_id: str) -> bool:
        return conversation_id in self.refused

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


def discovery(phonic: Phonic, desk: Desk, **options: object) -> Discovery:
    options = {"interval": 5.0, "rng": Random(0), "now": unix_now, **options}
    return Discovery(phonic, targets=desk, sink=desk, directory=desk, **options)  # type: ignore[arg-type]


async def run_for(seconds: float, found: Discovery) -> None:
    with trio.move_on_after(seconds):
        await found.run()


def virtual(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# --- the fake is like the real thing


@pytest.mark.parametrize("is_real", [False, True], ids=["fake", "real"])
async def test_api_contract(is_real: bool) -> None:
    calls = [
        Call(id="conv_a", created=-30, started=-20, ended=-10, project="a b/c"),
        Call(id="conv_b", created=-20, started=-20, project="a b/c"),
        Call(id="conv_c", created=-10, started=None, project="a b/c"),
        Call(id="other", project="other"),
    ]
    now = trio.current_time()
    phonic = Phonic(
        [
            attrs.evolve(
                each,
                created=now + each.created,
                started=None if each.started is None else now + each.started,
                ended=None if each.ended is None else now + each.ended,
            )
            for each in calls
        ],
        names=("a b/c", "other"),
    )

    async def check(api: Api) -> None:
        assert [(row.name, row.active) for row in await api.projects()] == [("a b/c", 2), ("other", 1)]
        assert await api.workspace() == Workspace(3, None)
        assert await api.agents("a b/c") == [AgentRow("agent_1", "a b/c agent")]
        newest = await api.conversations("a b/c", limit=2)
        assert [(row.id, bool(row.started_at), bool(row.ended_at)) for row in newest.rows] == [
            ("conv_c", False, False),
            ("conv_b", True, False),
        ]
        older = await api.conversations("a b/c", limit=2, after=newest.next_cursor)
        assert [row.id for row in older.rows] == ["conv_a"]
        assert older.next_cursor is None
        record = await api.record("conv_a")
        assert record is not None
        assert record.conversation.ended_at == older.rows[0].ended_at
        assert await api.record("nobody") is None

    with trio.fail_after(5):
        if not is_real:
            await check(phonic)
            return
        async with open_rest(
            "http://127.0.0.1",
            Credentials(ApiKey("ph_key")),
            on_error=lambda _: None,
            requests_per_second=1000,
            transport=httpx.MockTransport(phonic.handle),
        ) as api:
            await check(api)


# --- rounds

# pytest-trio looks for a clock among the arguments of a test, so all tests below that wait take one.


async def test_live_conversation_is_watched_within_one_interval(autojump_clock: Clock) -> None:
    now = autojump_clock.current_time()
    phonic = Phonic([Call(id="c", created=now + 12, started=now + 12)])
    desk = Desk(phonic)
    await run_for(18, discovery(phonic, desk))
    assert desk.watching == {"c"}


async def test_first_round_is_over_when_started(autojump_clock: Clock) -> None:
    del autojump_clock
    for fails in (lambda _: False, lambda _: True):
        phonic = Phonic([Call(id="c")], fails=fails)
        desk = Desk(phonic)
        found = discovery(phonic, desk)
        async with trio.open_nursery() as nursery:
            await nursery.start(found.run)
            assert found.first_round_done
            assert desk.watching == (set() if phonic.fails("") else {"c"})
            assert (found.last_success is None) == phonic.fails("")
            nursery.cancel_scope.cancel()


async def test_idle_costs_one_small_request_an_interval(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic(
        [Call(id=f"c{at}", created=-HOUR - 60 * at, started=-HOUR - 60 * at, ended=-HOUR) for at in range(300)]
    )
    desk = Desk(phonic)
    await run_for(600, discovery(phonic, desk))
    counts = Counter(what for what, _ in phonic.asked)
    assert counts["projects"] == pytest.approx(120, abs=4)
    assert counts["workspace"] == pytest.approx(20, abs=4)
    assert counts["conversations"] <= 16  # a page a minute, and a few at the start
    assert (counts["record"], counts["agents"], desk.finished) == (0, 1, {})


async def test_many_live_conversations_cost_one_page_a_round(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic([Call(id=f"c{at}", created=-at, started=-at) for at in range(1000)])
    desk = Desk(phonic)
    found = discovery(phonic, desk)
    await run_for(1, found)
    assert len(desk.watching) == found.found["main"] == 1000
    phonic.asked.clear()
    await run_for(299, found)
    pages = Counter(what for what, _ in phonic.asked)["conversations"]
    assert pages <= 60 + 5 * 12  # each round one, each sweep what began within the overlap


async def test_wave_larger_than_a_page_is_found_at_once(autojump_clock: Clock) -> None:
    now = autojump_clock.current_time()
    phonic = Phonic([Call(id=f"old{at}", created=now - at, started=now - at) for at in range(50)])
    phonic.calls += [Call(id=f"new{at}", created=now + 11, started=now + 11 + at / 1000) for at in range(350)]
    desk = Desk(phonic)
    await run_for(17, discovery(phonic, desk))
    assert len(desk.watching) == 400


async def test_end_that_rest_knows_is_told_to_those_who_watch(autojump_clock: Clock) -> None:
    now = autojump_clock.current_time()
    phonic = Phonic([Call(id="c", ended=now + 12), Call(id="d")])
    desk = Desk(phonic)
    await run_for(20, discovery(phonic, desk))
    assert desk.told_over == {"c"}


async def test_ringing_conversation_is_watched(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic([Call(id="c", started=None)])
    desk = Desk(phonic)
    await run_for(1, discovery(phonic, desk))
    assert desk.watching == {"c"}


async def test_conversation_without_end_is_left_alone_after_a_day(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic([Call(id="c", created=-25 * HOUR, started=-25 * HOUR)])
    desk = Desk(phonic)
    await run_for(60, discovery(phonic, desk))
    assert (desk.watching, desk.finished) == (set(), {})


async def test_only_named_projects_are_searched(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic([Call(id=name, project=name) for name in ("main", "a b")], names=("main", "a b"))
    desk = Desk(phonic)
    with capture_logs() as lines:
        await run_for(60, discovery(phonic, desk, only={"a b", "gone"}))
    assert desk.watching == {"a b"}
    assert {project for _, project in phonic.asked if project} == {"a b"}
    assert [line["projects"] for line in lines if line["event"] == "no project of this name"] == [["gone"]]


async def test_without_search_only_names_and_counts_are_learnt(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic([Call(id="c"), Call(id="over", ended=1.0)])
    desk = Desk(phonic)
    found = discovery(phonic, desk, finds=False, interval=60.0)
    await run_for(600, found)
    assert desk.project_names == {"id-main": "main"}
    assert desk.agents == {"main": [("agent_1", "main agent")]}
    assert [row.active for row in found.projects] == [1]
    assert found.workspace == Workspace(1, None)
    assert (desk.watching, desk.finished, found.found) == (set(), {}, {})
    assert {what for what, _ in phonic.asked} == {"projects", "workspace", "agents"}


async def test_agents_and_workspace_that_fail_stop_nothing(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic(
        [Call(id="c"), Call(id="over", started=1.0, ended=2.0)], fails=lambda what: what in {"agents", "workspace"}
    )
    desk = Desk(phonic)
    await run_for(200, discovery(phonic, desk))
    assert desk.watching == {"c"}
    assert "over" in desk.finished


async def test_one_failing_project_does_not_stop_the_others(autojump_clock: Clock) -> None:
    del autojump_clock
    names = ("bad", "good")
    phonic = Phonic([Call(id=name, project=name) for name in names], names=names)
    phonic.fails = lambda what: what == "conversations" and phonic.asked[-1][1] == "bad"
    desk = Desk(phonic)
    found = discovery(phonic, desk)
    await run_for(60, found)
    assert desk.watching == {"good"}
    assert found.last_success is None


async def test_outage_is_asked_about_less_and_less_and_told_once(autojump_clock: Clock) -> None:
    begun = autojump_clock.current_time()
    phonic = Phonic([Call(id="c")], fails=lambda _: trio.current_time() - begun < 600)
    desk = Desk(phonic)
    with capture_logs() as lines:
        await run_for(680, discovery(phonic, desk))
    assert 10 <= sum(what == "projects" for what, _ in phonic.asked) <= 45
    assert desk.watching == {"c"}
    told = [line["event"] for line in lines if line["log_level"] != "debug"]
    assert told == ["discovery failing", "discovery recovered"]


async def test_missing_live_rows_are_told_once_and_not_searched_for_at_every_round(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic(
        [Call(id=f"c{at}", created=-at - 60, started=-at - 60, ended=-1) for at in range(1000)], inflated=2
    )
    with capture_logs() as lines:
        await run_for(600, discovery(phonic, Desk(phonic)))
    told = [line for line in lines if line["event"] == "fewer conversations found than active"]
    assert [(line["active"], line["found"]) for line in told] == [(2, 0)]
    pages = sum(what == "conversations" for what, _ in phonic.asked)
    assert pages <= 120 + 11 * 10 + 11 * 6  # one a round, all each minute, sweeps


async def test_cursor_that_goes_round_ends_the_list(autojump_clock: Clock) -> None:
    del autojump_clock

    class Circular(Phonic):
        async def conversations(
            self, project_name: str, *, after: str | None = None, limit: int = 100
        ) -> ListPage:
            assert after in {None, "round"}
            page = await super().conversations(project_name, limit=limit)
            return attrs.evolve(page, next_cursor="round")

    phonic = Circular([Call(id="c")], inflated=1)
    await run_for(10, discovery(phonic, Desk(phonic)))
    assert phonic.endless > 0
    assert sum(what == "conversations" for what, _ in phonic.asked) <= 10


class Endless(Phonic):
    """Its lists never end: ``next_page`` makes each of the pages that follow."""

    def next_page(self, at: int) -> list[ListedRow]:
        raise NotImplementedError

    async def conversations(
        self,
        project_name: str,
        *,
        after: str | None = None,
        limit: int = 100,  # noqa: ARG002
    ) -> ListPage:
        await trio.lowlevel.checkpoint()
        self._ask("conversations", project_name)
        at = int(after or 0)
        return ListPage(rows=self.next_page(at), next_cursor=str(at + 1), unusable=0)


class EmptyPages(Endless):
    def next_page(self, at: int) -> list[ListedRow]:  # noqa: ARG002
        return []


class SamePage(Endless):
    def next_page(self, at: int) -> list[ListedRow]:  # noqa: ARG002
        return [ListedRow(id="c", started_at=None, ended_at=None)]


class NewRows(Endless):
    def next_page(self, at: int) -> list[ListedRow]:
        return [ListedRow(id=f"c{at}", started_at=None, ended_at=text_of(-HOUR))]


@pytest.mark.parametrize("kind", [EmptyPages, SamePage, NewRows])
async def test_list_without_end_ends_and_the_first_round_completes(
    kind: type[Endless], autojump_clock: Clock
) -> None:
    del autojump_clock
    phonic = kind(inflated=2)
    found = discovery(phonic, Desk(phonic))
    async with trio.open_nursery() as nursery:
        await nursery.start(found.run)
        assert found.first_round_done
        assert found.last_success is not None
        assert phonic.endless == 1
        nursery.cancel_scope.cancel()


async def test_huge_page_is_worked_off_in_slices(autojump_clock: Clock) -> None:
    del autojump_clock

    class Huge(Endless):
        def next_page(self, at: int) -> list[ListedRow]:
            size = 50_000 if at == 0 else 0
            return [ListedRow(id=f"c{each}", started_at=None, ended_at=None) for each in range(size)]

    phonic = Huge(inflated=50_000)
    desk = Desk(phonic, limit=10)
    others, longest = 0, 0.0

    async def other() -> None:
        nonlocal others, longest
        while True:
            began = time.perf_counter()
            await trio.lowlevel.checkpoint()
            others, longest = others + 1, max(longest, time.perf_counter() - began)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await nursery.start(discovery(phonic, desk).run)
        nursery.cancel_scope.cancel()
    assert others >= 50_000 / 200
    assert longest < 1


async def test_projects_of_one_name_are_searched_as_one(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic([Call(id="c"), Call(id="d")], names=("main", "main"))
    desk = Desk(phonic)
    found = discovery(phonic, desk)
    await run_for(4, found)
    assert found.found == {"main": 2}
    assert sum(what == "conversations" for what, _ in phonic.asked) == 2  # a round and a sweep


# --- agents


async def test_agents_are_known_before_the_first_conversation_is_watched(autojump_clock: Clock) -> None:
    del autojump_clock

    class Eager(Desk):
        def start(self, conversation_id: str, source: Source) -> Started:
            assert self.agents.keys() == {"a", "b"}
            return super().start(conversation_id, source)

    phonic = Phonic([Call(id="c", project="a"), Call(id="d", project="b")], names=("a", "b"))
    desk = Eager(phonic)
    found = discovery(phonic, desk)
    await run_for(1, found)
    assert found.agents_known.is_set()
    assert desk.watching == {"c", "d"}


@pytest.mark.parametrize("hangs", [False, True])
async def test_agents_that_cannot_be_listed_hold_up_the_first_round_for_seconds(
    hangs: bool, autojump_clock: Clock
) -> None:
    begun = autojump_clock.current_time()

    class Agentless(Phonic):
        async def agents(self, project_name: str) -> list[AgentRow]:  # noqa: ARG002
            if hangs:
                await trio.sleep(60)
            raise RestFailed(RestError.HTTP_5XX)

    phonic = Agentless([Call(id="c")])
    found = discovery(phonic, Desk(phonic))
    async with trio.open_nursery() as nursery:
        await nursery.start(found.run)
        assert trio.current_time() - begun <= 5
        assert found.agents_known.is_set() != hangs
        await found.agents_known.wait()
        nursery.cancel_scope.cancel()


async def test_agent_that_is_not_listed_has_its_project_listed_again_soon(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic(names=("a", "b"))
    desk = Desk(phonic)
    found = discovery(phonic, desk)
    async with trio.open_nursery() as nursery:
        await nursery.start(found.run)
        await trio.sleep(40)
        phonic.asked.clear()
        desk.unknown = {"a"}
        await trio.sleep(6)
        assert [project for what, project in phonic.asked if what == "agents"] == ["a"]
        await trio.sleep(294)  # still unknown: asked again at most every 30 s
        assert 8 <= sum(what == "agents" for what, _ in phonic.asked) <= 10
        nursery.cancel_scope.cancel()


# --- open feeds whose conversation is over


class Stubborn(Desk):
    """Watches go on until they are told of the end, as an open feed that brings nothing does."""

    def _settle(self) -> None:
        for each in self.told_over & self.watching:
            self.watching.remove(each)
            self.finished[each] = None


@pytest.mark.parametrize("others", [0, 1, 150])
async def test_end_that_only_rest_knows_is_noticed_within_a_few_rounds(others: int, autojump_clock: Clock) -> None:
    now = autojump_clock.current_time()
    phonic = Phonic([Call(id="c", created=now - 4 * HOUR, started=now - 4 * HOUR, ended=now + 100)])
    phonic.calls += [Call(id=f"o{at}", created=now - at, started=now - at) for at in range(others)]
    desk = Stubborn(phonic)
    found = discovery(phonic, desk)
    await run_for(112, found)
    assert desk.told_over == {"c"}


async def test_conversation_that_the_list_does_not_show_is_asked_for(autojump_clock: Clock) -> None:
    now = autojump_clock.current_time()

    class Forgetful(Phonic):
        def _newest_first(self, now: float) -> list[Call]:
            return [each for each in super()._newest_first(now) if not each.is_over(now)]

    phonic = Forgetful([Call(id=f"c{at}", ended=now + 100) for at in range(15)])
    desk = Stubborn(phonic)
    await run_for(125, discovery(phonic, desk))
    assert len(desk.told_over) == 15


async def test_doubts_about_live_conversations_cost_a_bounded_number_of_requests(autojump_clock: Clock) -> None:
    del autojump_clock

    class Miscounting(Phonic):
        def _active(self, name: str) -> int:
            return max(0, super()._active(name) - 100)

    phonic = Miscounting([Call(id=f"c{at}", created=-at, started=-at) for at in range(400)])
    await run_for(30, discovery(phonic, Desk(phonic)))
    phonic.asked.clear()
    await run_for(300, discovery(phonic, Desk(phonic)))
    counts = Counter(what for what, _ in phonic.asked)
    assert counts["record"] <= 10 * 61
    assert counts["conversations"] <= 62 + 6 * 20 + 6 * 5


# --- clocks


@pytest.mark.parametrize("ahead", [180.0, HOUR, -HOUR, -180.0, 0.0])
def test_history_is_judged_by_phonics_clock_whatever_ours_says(ahead: float) -> None:
    """The first start of an exporter whose clock is wrong by so many seconds."""
    phonic = Phonic(
        [
            Call(id="history", created=-40 * 60, started=-40 * 60, ended=-30 * 60),
            Call(id="just before", created=-100, started=-100, ended=-5),
            Call(id="ours", created=-60, started=-60, ended=3),
        ]
    )
    phonic.fails = lambda what: trio.current_time() < 5 and what == "conversations"  # so it ends unseen
    clock = PhonicClock(lambda: unix_now() + ahead)
    desk = Desk(phonic)

    async def handle(request: httpx.Request) -> httpx.Response:
        reply = await phonic.handle(request)
        reply.headers["Date"] = formatdate(int(unix_now()), usegmt=True)
        return reply

    async def main() -> None:
        desk.first_start = unix_now() + ahead
        began = desk.first_start
        async with open_rest(
            "http://127.0.0.1",
            Credentials(ApiKey("ph_key")),
            on_error=lambda _: None,
            transport=httpx.MockTransport(handle),
            clock=clock,
            now=lambda: unix_now() + ahead,
        ) as api:
            await api.workspace()
            assert clock.offset is not None
            desk.first_start = began - clock.offset  # as the conversations does
            found = Discovery(
                api,
                targets=desk,
                sink=desk,  # type: ignore[arg-type]
                directory=desk,
                rng=Random(0),
                interval=5.0,
                now=clock.now,
            )
            await run_for(200, found)

    with capture_logs():
        virtual(main)
    assert desk.finished.keys() == {"ours"}


# --- defects of ours


def crash() -> None:
    raise ValueError("planted words of a caller")


class CrashingAt(Phonic):
    """REST whose client has a defect in one of its methods, until a moment."""

    crashes_at: str = ""
    until: float = math.inf

    def _ask(self, what: str, project: str = "") -> None:
        if what == self.crashes_at and trio.current_time() < self.until:
            crash()
        super()._ask(what, project)


@pytest.mark.parametrize(
    ("what", "task"),
    [
        ("projects", Task.DISCOVERY),
        ("workspace", Task.DISCOVERY),
        ("agents", Task.DISCOVERY),
        ("conversations", Task.DISCOVERY),
        ("conversations", Task.SWEEP),
        ("record", Task.RECORDS),
    ],
)
async def test_defect_is_counted_logged_once_without_its_words_and_gone_on_after(
    what: str, task: Task, autojump_clock: Clock
) -> None:
    now = autojump_clock.current_time()
    phonic = CrashingAt([Call(id="c"), Call(id="short", created=now + 12.5, started=now + 12.5, ended=now + 12.6)])
    phonic.crashes_at, phonic.until = what, now + 130
    desk = Desk(phonic, first_start=EPOCH + now)
    found = discovery(phonic, desk)
    with capture_logs() as lines:
        await run_for(600, found)
    assert desk.crashes[task] >= 1
    assert desk.watching == {"c"}
    assert desk.finished.keys() == {"short"}
    assert found.last_success is not None
    told = [line for line in lines if line["event"] == "task crashed" and line["log_level"] == "error"]
    assert all(line["error"] == "ValueError" and "test_discovery.py" in line["at"] for line in told)
    assert 1 <= len(told) <= 3  # one for each way that leads there
    assert "planted" not in str(lines)


async def test_record_with_a_defect_holds_up_no_other(autojump_clock: Clock) -> None:
    now = autojump_clock.current_time()

    class Poisoned(Phonic):
        async def record(self, conversation_id: str) -> Snapshot | None:
            if conversation_id == "c0":
                crash()
            return await super().record(conversation_id)

    phonic = Poisoned(
        [Call(id=f"c{at}", created=now + 1 + at / 9, started=now + 1 + at / 9, ended=now + 3) for at in range(9)]
    )
    desk = Desk(phonic, first_start=EPOCH + now)
    await run_for(200, discovery(phonic, desk))
    assert {f"c{at}" for at in range(1, 9)} <= desk.finished.keys()
    assert desk.crashes[Task.RECORDS] >= 1


# --- ends that nobody watched


@pytest.mark.parametrize(
    ("started", "ended", "expected"),
    [
        pytest.param(1.0, 3.0, {"c": Lost.NEVER_LIVE}, id="between two rounds"),
        pytest.param(None, 3.0, {"c": Lost.NEVER_LIVE}, id="never started"),
        pytest.param(-HOUR, 0.5, {"c": Lost.NEVER_LIVE}, id="began before the first start"),
        pytest.param(-10.0, -1.0, {}, id="history"),
        pytest.param(None, -1.0, {}, id="history that never started"),
    ],
)
def test_end_is_counted_from_its_record_unless_it_is_history(
    started: float | None, ended: float, expected: dict[str, Lost]
) -> None:
    phonic = Phonic([Call(id="c", created=-HOUR if started is None else started, started=started, ended=ended)])
    phonic.fails = lambda what: trio.current_time() < 4 and what == "projects"  # no round while it lives
    desk = Desk(phonic)
    virtual(partial(run_for, 200, discovery(phonic, desk)))
    assert desk.finished == expected
    assert desk.complete == set(expected)  # the analysis was waited for


def test_restart_counts_what_ended_meanwhile_and_within_a_day() -> None:
    day = 24 * HOUR
    phonic = Phonic(
        [
            Call(id="long ago", created=-30 * HOUR, started=-30 * HOUR, ended=-25 * HOUR),
            Call(id="meanwhile", created=-9 * HOUR, started=-9 * HOUR, ended=-8 * HOUR),
            Call(id="counted", created=-9 * HOUR, started=-9 * HOUR, ended=-8 * HOUR),
            Call(id="before the first start", created=-20 * HOUR, started=-20 * HOUR, ended=-19 * HOUR),
        ],
        page_size=2,
    )
    desk = Desk(phonic, first_start=EPOCH - 18 * HOUR, finished={"counted": None})
    virtual(partial(run_for, 100, discovery(phonic, desk)))
    assert desk.finished == {"counted": None, "meanwhile": Lost.NEVER_LIVE}
    desk = Desk(phonic, first_start=EPOCH - 10 * day)
    virtual(partial(run_for, 100, discovery(phonic, desk)))
    assert desk.finished.keys() == {"meanwhile", "counted", "before the first start"}


def test_refused_conversation_is_counted_when_it_ends_however_long_it_took() -> None:
    phonic = Phonic([Call(id=f"c{at}", created=-at, started=-at, ended=HOUR) for at in range(3)])
    phonic.calls += [
        Call(id=f"short{at}", created=at * 30, started=at * 30, ended=at * 30 + 3) for at in range(1, 100)
    ]
    desk = Desk(phonic, limit=1)
    virtual(partial(run_for, HOUR + 200, discovery(phonic, desk)))
    assert len(desk.finished) == 3 + 99
    assert sorted(map(str, (desk.finished[f"c{at}"] for at in range(3)))) == ["None", "watch_limit", "watch_limit"]


def test_conversation_left_by_its_watcher_is_counted_without_a_loss() -> None:
    phonic = Phonic([Call(id="c", ended=50.0)])
    desk = Desk(phonic)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(discovery(phonic, desk).run)
            await trio.sleep(48)
            desk.watching.clear()
            desk.limit = 0
            await trio.sleep(150)
            nursery.cancel_scope.cancel()

    virtual(main)
    assert desk.finished == {"c": None}


@pytest.mark.parametrize(
    ("fails", "result", "lost"),
    [
        (True, Reconciled.UNAVAILABLE, Lost.NEVER_LIVE),
        (False, Reconciled.NOT_FOUND, Lost.NOT_FOUND),
    ],
)
def test_record_that_cannot_be_had_is_given_up(fails: bool, result: Reconciled, lost: Lost) -> None:
    class Recordless(Phonic):
        async def record(self, conversation_id: str) -> Snapshot | None:
            if conversation_id != "c":
                return await super().record(conversation_id)
            if fails:
                raise RestFailed(RestError.WRONG_SHAPE)
            return None

    phonic = Recordless([Call(id=each, created=1.0, started=1.0, ended=2.0) for each in "cd"])
    desk = Desk(phonic)
    virtual(partial(run_for, 1000, discovery(phonic, desk)))
    assert desk.finished["c"] is lost
    assert "d" in desk.complete
    assert desk.results[result] == 1


def test_wave_during_an_outage_is_counted_over_many_pages() -> None:
    phonic = Phonic([Call(id=f"c{at}", created=at, started=at, ended=at + 3) for at in range(20, 600, 20)])
    phonic.calls += [Call(id=f"w{at}", created=600 + at, started=600 + at, ended=602 + at) for at in range(70)]
    phonic.fails = lambda _: 590 < trio.current_time() < 700
    desk = Desk(phonic)
    virtual(partial(run_for, 1100, discovery(phonic, desk)))
    assert len(desk.finished) == 29 + 70


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_step_of_our_clock_hides_nothing(step: float) -> None:
    phonic = Phonic(
        [Call(id=f"c{at}", created=at * 40, started=at * 40, ended=at * 40 + 2) for at in range(1, 50)]
    )
    desk = Desk(phonic, first_start=EPOCH - 2 * HOUR)
    stepping = discovery(phonic, desk, now=lambda: unix_now() + (step if trio.current_time() > 900 else 0.0))
    virtual(partial(run_for, 2300, stepping))
    assert len(desk.finished) == 49


def test_start_in_the_future_hides_nothing() -> None:
    phonic = Phonic(
        [Call(id=f"c{at}", created=at * 40, started=at * 40, ended=at * 40 + 2) for at in range(1, 50)]
    )

    class Odd(Phonic):
        async def conversations(
            self, project_name: str, *, after: str | None = None, limit: int = 100
        ) -> ListPage:
            page = await super().conversations(project_name, after=after, limit=limit)
            rows = [
                attrs.evolve(row, started_at="2199-01-01T00:00:00Z") if row.id == "c9" else row
                for row in page.rows
            ]
            return attrs.evolve(page, rows=rows)

    phonic = Odd(phonic.calls)
    desk = Desk(phonic)
    virtual(partial(run_for, 2300, discovery(phonic, desk)))
    assert len(desk.finished) == 49


async def test_calls_of_the_simulator_that_nobody_watched_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    scenario = Scenario(seed=3, projects=2, calls_per_minute=10, total=120, pace=0.02, warm_up_s=0)
    planned = {each.id for each in plan(scenario)}
    desk = Desk(Phonic(), first_start=time.time() - HOUR)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            # Played an hour ago, in a few minutes: all of it is over.
            url = await nursery.start(partial(serve, scenario, api_key="ph_key", epoch=desk.first_start))
            async with open_rest(
                url, Credentials(ApiKey("ph_key")), on_error=failed, requests_per_second=1000
            ) as api:
                found = Discovery(
                    api,
                    targets=desk,
                    sink=desk,  # type: ignore[arg-type]
                    directory=desk,
                    rng=Random(0),
                    interval=5.0,
                )
                await nursery.start(found.run)
                await desk.has_finished(len(planned))
            nursery.cancel_scope.cancel()
    assert desk.finished == dict.fromkeys(planned, Lost.NEVER_LIVE)
    assert desk.complete == planned
    assert desk.agents.keys() == {row.name for row in found.projects}


def failed(reason: RestError) -> None:
    raise AssertionError(reason)


# --- whatever happens, with the exception of what nobody could know: calls of over two hours that ended before
# the first look, and calls that ring for longer than the overlap

# Calls may begin long before the first start (time 0), or in a wave, and ring, or last, for minutes or hours.
moments = st.one_of(st.floats(-1.9 * HOUR, 1200), st.floats(600, 630)).map(lambda at: round(at, 3))
lives = st.tuples(
    moments,
    st.one_of(st.none(), st.floats(0, 250)),  # until it starts; some never do
    st.one_of(st.none(), st.floats(0.1, 20), st.floats(0.1, 1.5 * HOUR)),  # until it ends; some never do
)
outages = st.lists(st.tuples(st.one_of(st.just(590), st.floats(0, 1500)), st.floats(1, 400)), max_size=2)


@given(
    lives=st.lists(lives, max_size=25),
    page_size=st.integers(1, 12),
    limit=st.sampled_from([0, 1, 5, 1000]),
    outages=outages,
    flaky=st.sampled_from([0.0, 0.2]),
    kills=st.lists(st.tuples(st.floats(1, 700), st.floats(1, 700)), max_size=2),
    seed=st.integers(0, 10),
)
@settings(max_examples=settings().max_examples // 2)  # an example takes hours of virtual time
def test_every_end_is_counted_exactly_once(
    lives: list[tuple[float, float | None, float | None]],
    page_size: int,
    limit: int,
    outages: list[tuple[float, float]],
    flaky: float,
    kills: list[tuple[float, float]],
    seed: int,
) -> None:
    rng = Random(seed)
    calls = [
        Call(
            id=f"c{at}",
            created=created,
            started=None if ringing is None else created + ringing,
            ended=None if talk is None else created + (ringing or 0) + talk,
        )
        for at, (created, ringing, talk) in enumerate(lives)
    ]

    def fails(_: str) -> bool:
        now = trio.current_time()
        return any(begin <= now < begin + length for begin, length in outages) or (
            now < 3000 and rng.random() < flaky
        )

    phonic = Phonic(calls, page_size=page_size, fails=fails)
    desk = Desk(phonic, limit=limit)

    async def main() -> None:
        for alive, dead in kills:
            await run_for(alive, discovery(phonic, desk, rng=rng))
            desk.refused.clear()  # not in the checkpoint
            await trio.sleep(dead)
        await run_for(2.5 * HOUR, discovery(phonic, desk, rng=rng, interval=20.0))

    with capture_logs():  # thousands of lines
        virtual(main)
    assert desk.finished.keys() == {each.id for each in calls if each.ended is not None and each.ended >= 0}
    assert all((lost is None) == (each in desk.seen) for each, lost in desk.finished.items())
    assert desk.complete == {each for each, lost in desk.finished.items() if lost is not None}
