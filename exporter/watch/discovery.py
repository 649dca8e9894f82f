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
from collections.abc import Awaitable, Callable, Collection, Iterator
from random import Random

import attrs
import structlog
import trio

from ..counting import retention
from ..counting.derive import parse_time
from ..enums import Task
from ..phonic.listing import ListedRow, ProjectRow, Workspace
from ..phonic.rest import REFUSALS, RestFailed
from .agents import Agents
from .backfill import Backfill
from .backoff import backoff
from .crash_guard import CrashGuard
from .interfaces import Directory, Rest, Sink, Targets
from .lists import FIRST_LIMIT, LIMIT, Lists, Project, in_slices
from .sweep import Sweeps

log = structlog.get_logger("exporter.watch")

LONGEST_DELAY = 60.0  # seconds between rounds while they fail
WORKSPACE_SECONDS = 30.0
EXCESS_ROUNDS = 2  # in a row, with more conversations believed live than are active, before these are doubted
DOUBTED_A_ROUND = 10  # records asked for then
DOUBT_SECONDS = 60.0  # between two questions about the same one, and between two longer lists
DOUBT_PAGES = 20  # of such a list
WARNING_SECONDS = 3600.0  # between two warnings that a project has more active conversations than are found
SHORT_ROUNDS = 3  # in a row before such a warning: conversations begin and end between two requests
# A list of more pages never ends: 100,000 rows for live ones.
ROUND_PAGES = 1_000


class Discovery:
    """The search and its state; attributes without underscore may be read at any time.

    ``projects`` and ``workspace`` are as last heard. ``found``: live conversations known, by project searched.
    ``last_success``: Unix time of the last round without a failure. ``duration``: seconds the last round took.
    ``first_round_done``: whether there was one, successful or not. ``projects_known``: once their names are, and
    ``agents_known`` once the agents of all of them were asked for.
    """

    def __init__(
        self,
        rest: Rest,
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
        self._rest = rest
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
        self._searched: dict[str, Project] = {}
        self._round_guard = CrashGuard(Task.DISCOVERY, sink.task_crashed)
        backfill = Backfill(rest.record, targets=targets, sink=sink, rng=rng, now=now)
        self._lists = Lists(rest, targets=targets, sink=sink, backfill=backfill, rng=rng, now=now)
        self._agents = Agents(rest, directory, self._round_guard)
        self.agents_known = self._agents.known
        self._sweeps = Sweeps(
            self._lists,
            agents=self._agents,
            backfill=backfill,
            sink=sink,
            projects=self._searched_projects,
            finds=finds,
            interval=sweep_interval,
            rng=rng,
        )
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
                    nursery.start_soon(self._sweeps.run, self.projects_known)
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
            await self._agents.learn_new(self._searched_projects())
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
        self.projects = await self._rest.projects()
        self._directory.learn_projects({row.id: row.name for row in self.projects})
        self._rows = self._rows_searched()
        names = [row.name for row in self._rows]
        self._searched = {name: self._searched.get(name) or Project(name) for name in names}
        self.found = {name: self.found.get(name, 0) for name in names} if self._finds else {}
        absent = self._only.difference(names)
        if absent - self._absent:
            log.warning("no project of this name", projects=sorted(absent))
        self._absent = absent
        self.projects_known.set()

    async def _learn_workspace(self) -> None:
        self.workspace = await self._rest.workspace()
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

    def _searched_projects(self) -> Collection[Project]:
        return self._searched.values()

    async def _look(self, row: ProjectRow, project: Project) -> None:
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
            oldest = self._lists.ago(retention.OLDEST_LIVE)
            async for each in in_slices(rows):
                unseen.discard(each.id)
                is_new = each.id not in project.listed
                if self._lists.take(each, project):
                    live.add(each.id)
                else:
                    live.discard(each.id)
                    is_new = False
                reaches_past = reaches_past or (parse_time(each.started_at) or math.inf) < oldest
            # A page that ends with a conversation just found may have cut a wave in two.
            is_short = not is_shallow and (len(live) < wanted or is_new)
            return (is_short or (is_searching and bool(unseen) and pages < DOUBT_PAGES)) and not reaches_past

        first_limit = LIMIT if wanted else FIRST_LIMIT
        await self._lists.read_pages(row.name, wants_older, first_limit=first_limit, most=ROUND_PAGES)
        if len(live) < wanted and not is_shallow:
            # Rows may be missing for long; what is new comes on top, and sweeps look deeper anyway.
            project.deep_again_at = trio.current_time() + self._sweep_interval
        self._note_found(row, project, len(live))
        if is_doubtful:
            await self._doubt(unseen, project)

    async def _doubt(self, unseen: Collection[str], project: Project) -> None:
        """Ask for the records of conversations that are watched and that the list does not show."""
        now = trio.current_time()
        project.doubted = {each: at for each, at in project.doubted.items() if each in project.listed}
        due = [each for each in unseen if now - project.doubted.get(each, -math.inf) >= DOUBT_SECONDS]
        for each in sorted(due)[:DOUBTED_A_ROUND]:
            record = await self._rest.record(each)
            if record is None or record.conversation.ended_at is None:
                project.doubted[each] = now
            else:
                project.listed.pop(each, None)
                self._targets.over(each)

    def _note_found(self, row: ProjectRow, project: Project, found: int) -> None:
        self.found[row.name] = found
        if found >= (row.active or 0):
            project.short_rounds = 0
            return
        project.short_rounds += 1
        now = trio.current_time()
        if project.short_rounds >= SHORT_ROUNDS and now - project.warned_at >= WARNING_SECONDS:
            project.warned_at = now
            log.warning("fewer conversations found than active", project=row.name, active=row.active, found=found)
