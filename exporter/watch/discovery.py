"""Tasks: finding conversations over REST: the live ones to watch, and those that ended unwatched to count.

Strategy: three loops of different pace share what they learn.

- A *round*, every few seconds: counts of all projects; of a project with active conversations the newest pages,
  until as many live rows are known as are active. A live row that was listed before and is watched need not be
  listed again, so a round usually reads what is new since the last one.
- A *sweep*, every minute: all rows of each project that began since the newest one of the last sweep, less an
  overlap for those that rang meanwhile, and since the oldest one known to be live yet unwatched. By induction no
  row escapes: whatever a sweep finds is over (counted), watched, or remembered as unwatched until a later one.
  The first sweep goes back to the first start ever or 24 h, and `CALL` further, for calls that began before.
- Where Phonic counts fewer active conversations than are believed to be live, a round lists further and asks for
  records, until it is known which ones are over: an open feed proves nothing.
- After each sweep the conversations that ended unwatched are counted from their records.

Rules for this file: a row, a page or a sweep may come twice or late, since all that follows from it asks first
whether it happened already; times that are compared with rows are by Phonic's clock, because ours may be wrong;
between two awaits no other task runs, so checks and the acts upon them are atomic; what comes as a list is worked
off in slices, and ends; a defect of ours costs one project one round or sweep.
"""

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from random import Random
from typing import Protocol, TypeVar

import attrs
import structlog
import trio

from ..counting import retention
from ..counting.derive import parse_time
from ..counting.finish import judge
from ..enums import RestError, Started, Task
from ..phonic.listing import AgentRow, ListedRow, ListPage, ProjectRow, Workspace
from ..phonic.rest import REFUSALS, RestFailed
from ..phonic.schema import Snapshot
from .backfill import Backfill, is_known
from .backoff import backoff
from .crash_guard import CrashGuard
from .interfaces import Directory, Requester, Sink, Targets

log = structlog.get_logger("exporter.watch")

LONGEST_DELAY = 60.0  # seconds between rounds while they fail
WORKSPACE_SECONDS = 30.0
AGENTS_SECONDS = 600.0
AGENTS_AGAIN = 30.0  # seconds between two lists of a project's agents while conversations name unlisted ones
AGENTS_PATIENCE = 5.0  # seconds for the agents of all projects in the first round
AGENTS_AT_ONCE = 10  # lists of agents asked for together then
EXCESS_ROUNDS = 2  # in a row, with more conversations believed live than are active, before these are doubted
DOUBTED_A_ROUND = 10  # records asked for then
DOUBT_SECONDS = 60.0  # between two questions about the same one, and between two longer lists
DOUBT_PAGES = 20  # of such a list
WARNING_SECONDS = 3600.0  # between two warnings that a project has more active conversations than are found
SHORT_ROUNDS = 3  # in a row before such a warning: conversations begin and end between two requests
CALL = 2 * 3600.0  # seconds; longer calls may escape that were over before the first look at a project
OVERLAP = 300.0  # seconds between the creation of a row and its `started_at`, at most
FIRST_LIMIT, LIMIT = 10, 100  # rows: whole conversations each, so an idle sweep asks for few
SLICE = 200  # rows worked off at a time: about a millisecond
# A list of more pages never ends: 100,000 rows for live ones; a day of 30 ends a second for a sweep.
ROUND_PAGES, SWEEP_PAGES = 1_000, 30_000
RECENT_ROWS = 10_000  # of a list that are remembered, to see that a page brings no new ones
PAGE_ATTEMPTS = 5  # before a sweep gives up until the next one
RETRY_FIRST, RETRY_LONGEST = 1.0, 8.0  # seconds between them

_T = TypeVar("_T")
_SECOND = 1_000_000  # `parse_time` gives microseconds
_HOPELESS = {*REFUSALS, RestError.HTTP_404, RestError.HTTP_4XX}


class Api(Protocol):
    """What is asked of REST. See `exporter.phonic.rest`; everything may raise `RestFailed`."""

    async def projects(self) -> list[ProjectRow]: ...
    async def workspace(self) -> Workspace: ...
    async def agents(self, project_name: str) -> list[AgentRow]: ...
    async def conversations(
        self, project_name: str, *, after: str | None = None, limit: int = LIMIT
    ) -> ListPage: ...
    async def record(self, conversation_id: str) -> Snapshot | None: ...

    def paged_without_end(self) -> None:
        """A list was broken off that brought nothing new, or did not end."""


@attrs.define(eq=False)
class _Project:
    """What is known of one project's conversations."""

    listed: dict[str, int | None] = attrs.field(factory=dict)  # running when last listed: id -> start, if known
    swept_to: int | None = None  # newest start that a sweep to its end has seen, on Phonic's clock
    agents_at: float = -math.inf
    agents_asked_at: float = -math.inf
    excess_rounds: int = 0
    doubted_at: float = -math.inf
    doubted: dict[str, float] = attrs.field(factory=dict)  # when its record called it live: id -> trio time
    deep_again_at: float = -math.inf  # until then a list that was short of live rows is not read to its end
    short_rounds: int = 0
    warned_at: float = -math.inf


class Discovery:
    """The search and its state; attributes without underscore may be read at any time.

    ``projects`` and ``workspace`` are as last heard. ``found``: live conversations known, by project searched.
    ``last_success``: Unix time of the last round without a failure. ``duration``: seconds the last round took.
    ``first_round_done``: whether there was one, successful or not. ``projects_known``: once their names are, and
    ``agents_known`` once the agents of all of them were asked for.
    """

    def __init__(
        self,
        api: Api,
        *,
        targets: Targets,
        sink: Sink,
        directory: Directory,
        rng: Random,
        interval: float,
        finds: bool = True,
        only: Collection[str] = (),
        sweep_interval: float = 60.0,
        now: Callable[[], float] = time.time,
        own_now: Callable[[], float] = time.time,
    ) -> None:
        """``now`` is Phonic's time, ``own_now`` ours; both Unix.

        ``interval``: seconds from the start of one round to that of the next.

        ``finds=False`` learns only names and counts. ``only`` restricts the search to projects of these names.
        """
        self.projects: list[ProjectRow] = []
        self.workspace: Workspace | None = None
        self.found: dict[str, int] = {}
        self.last_success: float | None = None
        self.duration: float | None = None
        self.first_round_done = False
        self.projects_known = trio.Event()
        self.agents_known = trio.Event()
        self._api = api
        self._targets = targets
        self._sink = sink
        self._directory = directory
        self._rng = rng
        self._interval = interval
        self._finds = finds
        self._only = frozenset(only)
        self._sweep_interval = sweep_interval
        self._now = now
        self._own_now = own_now
        self._rows: list[ProjectRow] = []  # of the projects searched, one for each name
        self._round_guard = CrashGuard(Task.DISCOVERY, sink.task_crashed)
        self._sweep_guard = CrashGuard(Task.SWEEP, sink.task_crashed)
        self._record_guard = CrashGuard(Task.RECORDS, sink.task_crashed)
        self._searched: dict[str, _Project] = {}
        self._unwatched = Backfill(api.record, targets=targets, sink=sink, rng=rng, now=now)
        self._workspace_at = -math.inf
        self._absent: frozenset[str] = frozenset()
        self._is_failing = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Search until cancelled; trouble with REST or with ourselves is retried, never raised.

        Started after the first round.

        Conversations to go on with after a restart must be among the targets before.
        """
        delays = self._delays()
        async with trio.open_nursery() as nursery:
            while True:
                begun = trio.current_time()
                can_go_on = await self._round_guard.run(self._round(), default=False)
                if not self.first_round_done:
                    self.first_round_done = True
                    task_status.started()
                    nursery.start_soon(self._sweeps)
                if can_go_on:
                    delays = self._delays()
                    await trio.sleep_until(begun + self._interval * self._rng.uniform(0.95, 1.05))
                else:
                    await trio.sleep(next(delays))

    def _delays(self) -> Iterator[float]:
        return backoff(self._rng, first=self._interval, longest=max(LONGEST_DELAY, self._interval))

    # --- rounds

    async def _round(self) -> bool:
        """Look at everything once. False when there is no point in doing so again at the usual pace."""
        begun = trio.current_time()
        failures: list[RestFailed] = []
        outcomes: list[bool] = []
        can_go_on = await self._succeeds(self._learn_projects(), failures)
        if can_go_on:
            await self._learn_new_agents()
            outcomes = [
                await self._round_guard.run(
                    self._succeeds(self._look(row, self._searched[row.name]), failures), default=False
                )
                for row in self._rows
                if self._finds
            ]
            can_go_on = any(outcomes) or not outcomes
        if can_go_on and begun - self._workspace_at >= WORKSPACE_SECONDS:
            await self._succeeds(self._learn_workspace(), failures)
        self.duration = trio.current_time() - begun
        self._note_round(failures, is_whole=all(outcomes))
        return can_go_on

    async def _succeeds(self, step: Awaitable[None], failures: list[RestFailed]) -> bool:
        try:
            await step
        except RestFailed as failed:
            failures.append(failed)
            return False
        return True

    def _note_round(self, failures: list[RestFailed], *, is_whole: bool) -> None:
        if failures and not self._is_failing:
            say = log.debug if failures[0].reason in REFUSALS else log.warning  # which has a line of its own
            say("discovery failing", reason=failures[0].reason.value, request_id=failures[0].request_id)
        if not failures and is_whole:
            self.last_success = self._own_now()
            if self._is_failing:
                log.info("discovery recovered")
        self._is_failing = bool(failures)
        log.debug(
            "discovery round",
            projects=len(self.projects),
            found=sum(self.found.values()),
            failures=len(failures),
            seconds=round(self.duration or 0.0, 3),
        )

    async def _learn_projects(self) -> None:
        self.projects = await self._api.projects()
        self._directory.learn_projects({row.id: row.name for row in self.projects})
        self._rows = self._rows_searched()
        names = [row.name for row in self._rows]
        self._searched = {name: self._searched.get(name) or _Project() for name in names}
        self.found = {name: self.found.get(name, 0) for name in names} if self._finds else {}
        absent = self._only.difference(names)
        if absent - self._absent:
            log.warning("no project of this name", projects=sorted(absent))
        self._absent = absent
        self.projects_known.set()

    async def _learn_workspace(self) -> None:
        self.workspace = await self._api.workspace()
        self._workspace_at = trio.current_time()

    def _rows_searched(self) -> list[ProjectRow]:
        """One for each name: REST is asked by name, so several projects of one name are one to it."""
        merged: dict[str, ProjectRow] = {}
        for row in self.projects:
            if not self._only or row.name in self._only:
                known = merged.get(row.name)
                if known is not None:
                    both = known.active is not None and row.active is not None
                    row = attrs.evolve(row, active=(known.active or 0) + (row.active or 0) if both else None)
                merged[row.name] = row
        return list(merged.values())

    async def _learn_new_agents(self) -> None:
        """All agents in the first round; later those of projects in which a conversation named an unlisted one."""
        if not self.agents_known.is_set():
            with trio.move_on_after(AGENTS_PATIENCE):
                pending = list(self._searched.items())
                while pending:
                    async with trio.open_nursery() as nursery:
                        for name, project in pending[:AGENTS_AT_ONCE]:
                            nursery.start_soon(self._learn_agents_safely, name, project, AGENTS_SECONDS)
                    del pending[:AGENTS_AT_ONCE]
                self.agents_known.set()
        for name, project in self._searched.items():
            if self._directory.unknown_agents(name):
                await self._learn_agents_safely(name, project, AGENTS_AGAIN)

    async def _learn_agents_safely(self, name: str, project: _Project, every: float) -> None:
        work = self._succeeds(self._learn_agents(name, project, every), [])
        await self._round_guard.run(work, default=False)

    async def _look(self, row: ProjectRow, project: _Project) -> None:
        """Watch the project's live conversations, and doubt those that Phonic does not count.

        Costs nothing where there are none.
        """
        believed = {each for each in project.listed if self._targets.is_watched(each)}
        if row.active == 0 and not believed:
            project.excess_rounds = 0
            self._note_found(row, project, 0)
            return
        wanted = 1 if row.active is None else row.active
        now = trio.current_time()
        is_excess = row.active is not None and len(believed) > row.active
        project.excess_rounds = project.excess_rounds + 1 if is_excess else 0
        is_doubtful = project.excess_rounds >= EXCESS_ROUNDS
        is_searching = is_doubtful and now >= project.doubted_at + DOUBT_SECONDS
        if is_searching:
            project.doubted_at = now
        is_shallow = now < project.deep_again_at
        live, unseen, pages = set(believed), set(believed), 0

        async def wants_older(rows: list[ListedRow]) -> bool:
            nonlocal pages
            pages += 1
            is_new = reaches_past = False
            oldest = self._ago(retention.OLDEST_LIVE)
            async for each in _in_slices(rows):
                unseen.discard(each.id)
                is_new = each.id not in project.listed
                if self._take(each, project):
                    live.add(each.id)
                else:
                    live.discard(each.id)
                    is_new = False
                reaches_past = reaches_past or (parse_time(each.started_at) or math.inf) < oldest
            # A page that ends with a conversation just found may have cut a wave in two.
            is_short = not is_shallow and (len(live) < wanted or is_new)
            return (is_short or (is_searching and bool(unseen) and pages < DOUBT_PAGES)) and not reaches_past

        first_limit = LIMIT if wanted else FIRST_LIMIT
        await self._read_pages(row.name, wants_older, first_limit=first_limit, most=ROUND_PAGES)
        if len(live) < wanted and not is_shallow:
            # Rows may be missing for long; what is new comes on top, and sweeps look deeper anyway.
            project.deep_again_at = trio.current_time() + self._sweep_interval
        self._note_found(row, project, len(live))
        if is_doubtful:
            await self._doubt(unseen, project)

    async def _doubt(self, unseen: Collection[str], project: _Project) -> None:
        """Ask for the records of conversations that are watched and that the list does not show."""
        now = trio.current_time()
        project.doubted = {each: at for each, at in project.doubted.items() if each in project.listed}
        due = [each for each in unseen if now - project.doubted.get(each, -math.inf) >= DOUBT_SECONDS]
        for each in sorted(due)[:DOUBTED_A_ROUND]:
            record = await self._api.record(each)
            if record is None or record.conversation.ended_at is None:
                project.doubted[each] = now
            else:
                project.listed.pop(each, None)
                self._targets.over(each)

    def _note_found(self, row: ProjectRow, project: _Project, found: int) -> None:
        self.found[row.name] = found
        if found >= (row.active or 0):
            project.short_rounds = 0
            return
        project.short_rounds += 1
        now = trio.current_time()
        if project.short_rounds >= SHORT_ROUNDS and now - project.warned_at >= WARNING_SECONDS:
            project.warned_at = now
            log.warning("fewer conversations found than active", project=row.name, active=row.active, found=found)

    # --- rows

    def _take(self, row: ListedRow, project: _Project) -> bool:
        """Do what a row asks for, once; whether it is a live conversation."""
        if row.ended_at is not None:
            project.listed.pop(row.id, None)
            self._targets.over(row.id)
            if self._is_ours(row) and not self._is_known(row.id):
                self._unwatched.add(row.id)
            return False
        started = parse_time(row.started_at)
        if started is not None and started < self._ago(retention.OLDEST_LIVE):
            project.listed.pop(row.id, None)
            return False
        if self._targets.start(row.id, Requester.DISCOVERY) is Started.FINISHED:
            project.listed.pop(row.id, None)  # REST may lag behind the end that was seen
            return False
        project.listed[row.id] = started
        return True

    def _is_known(self, conversation_id: str) -> bool:
        return is_known(conversation_id, self._targets, self._sink)

    def _is_ours(self, row: ListedRow) -> bool:
        """Whether an ended conversation is ours to count."""
        return judge(row, seen=False, history_ends=self._history_ends()).counts

    def _history_ends(self) -> float:
        return retention.history_ends(self._sink.first_start, self._now())

    def _ago(self, seconds: float) -> float:
        return (self._now() - seconds) * _SECOND

    async def _read_pages(
        self,
        name: str,
        wants_older: Callable[[list[ListedRow]], Awaitable[bool]],
        *,
        first_limit: int,
        most: int,
        attempts: int = 1,
    ) -> None:
        """Hand over a project's rows page by page, newest first, until no older ones are wanted or left.

        Ends after ``most`` pages, and at a page that brings nothing new.
        """
        cursor: str | None = None
        cursors: set[str] = set()
        recent: set[str] = set()
        before: set[str] = set()
        limit = first_limit
        left = float(most)
        while left > 0:
            page = await self._read_page(name, cursor, limit, attempts)
            left -= max(1.0, len(page.rows) / LIMIT)  # pages may be larger than was asked for
            cursor, limit = page.next_cursor, LIMIT
            if not await wants_older(page.rows) or cursor is None:
                return
            ids = {each.id for each in page.rows} - recent - before
            if not ids or cursor in cursors:
                break
            cursors.add(cursor)
            recent |= ids
            if len(recent) >= RECENT_ROWS:
                recent, before = set(), recent
        self._api.paged_without_end()

    async def _read_page(self, name: str, cursor: str | None, limit: int, attempts: int) -> ListPage:
        delays = backoff(self._rng, first=RETRY_FIRST, longest=RETRY_LONGEST)
        for left in reversed(range(attempts)):
            try:
                return await self._api.conversations(name, after=cursor, limit=limit)
            except RestFailed as failed:
                if not left or failed.reason in _HOPELESS:
                    raise
            await trio.sleep(next(delays))
        raise AssertionError("attempts is at least 1")

    # --- sweeps

    async def _sweeps(self) -> None:
        await self.projects_known.wait()
        while True:
            begun = trio.current_time()
            failures: list[RestFailed] = []
            for name, project in list(self._searched.items()):
                await self._learn_agents_safely(name, project, AGENTS_SECONDS)
            self.agents_known.set()
            swept = [
                await self._sweep_guard.run(self._succeeds(self._sweep(name, project), failures), default=False)
                for name, project in list(self._searched.items())
                if self._finds
            ]
            log.debug("discovery sweep", projects=sum(swept), failures=len(failures))
            if any(swept):  # so REST works, and a record that cannot be read is a case of its own
                await self._record_guard.run(self._unwatched.count(), default=None)
            await trio.sleep_until(begun + self._sweep_interval * self._rng.uniform(0.95, 1.05))

    async def _learn_agents(self, name: str, project: _Project, every: float) -> None:
        """List a project's agents, unless that was done within so many seconds, or tried within `AGENTS_AGAIN`."""
        now = trio.current_time()
        if now - project.agents_at >= every and now - project.agents_asked_at >= AGENTS_AGAIN:
            project.agents_asked_at = now
            agents = await self._api.agents(name)
            project.agents_at = trio.current_time()
            self._directory.learn_agents(name, [(each.id, each.name) for each in agents])

    async def _sweep(self, name: str, project: _Project) -> None:
        """See every conversation that began since the last sweep, and those that were live but unwatched."""
        unwatched = {each: start for each, start in project.listed.items() if not self._is_known(each)}
        missing = set(unwatched)
        horizon = self._horizon(project, unwatched.values())
        newest = project.swept_to

        async def wants_older(rows: list[ListedRow]) -> bool:
            nonlocal newest
            reached = False
            async for each in _in_slices(rows):
                self._take(each, project)
                missing.discard(each.id)
                started = parse_time(each.started_at)
                if started is not None:
                    newest = max(started, newest or started)
                    reached = reached or started < horizon
            return not reached

        first_limit = LIMIT if project.swept_to is None else FIRST_LIMIT
        await self._read_pages(
            name, wants_older, first_limit=first_limit, most=SWEEP_PAGES, attempts=PAGE_ATTEMPTS
        )
        # A time in the future is an error, and would hide all that begins before it.
        project.swept_to = None if newest is None else min(newest, int(self._ago(0)))
        async for each in _in_slices(missing):  # not where they should be, or where is unknown: their records tell
            if not self._is_known(each):
                self._unwatched.add(each)
        for each in [each for each in project.listed if self._sink.is_finished(each)]:
            del project.listed[each]

    def _horizon(self, project: _Project, unwatched: Iterable[int | None]) -> float:
        """The start, in Unix microseconds, before which this sweep need not look."""
        if project.swept_to is None:
            return (self._history_ends() - CALL) * _SECOND
        starts = [start for start in unwatched if start is not None]
        return (
            min(project.swept_to, *starts) - OVERLAP * _SECOND if starts else project.swept_to - OVERLAP * _SECOND
        )


async def _in_slices(values: Collection[_T]) -> AsyncIterator[_T]:
    """All of them, with a checkpoint after each `SLICE`."""
    for at, each in enumerate(values, 1):
        yield each
        if at % SLICE == 0:
            await trio.lowlevel.checkpoint()
