"""Tasks: rounds, which find over REST the conversations that are live now, and have them watched.

Theory of operation
===================

Phonic announces no new conversation and has no list of live ones (API 3.1). Two requests together tell which are
live: `/projects` has the number of active conversations of each project, and a project's list has its newest
conversations first, with an `ended_at` once they are over. A *round*, every few seconds, requests the numbers, and
then reads as much of each project's list as its number calls for (`search.py`).

`Discovery.run` runs three kinds of search:

    rounds    every few seconds    which conversations are live?     `search.py`
    sweeps    every minute         which ended unwatched?            `sweep.py`, and `backfill.py` to count them
    agents    with both            which agents does a project have? `agents.py`

Why this finds everything:

- A round may miss a live conversation, because it stops as early as it can. The exporter then watches it late or
  never and misses its timings, but it counts its end, because sweeps see every row. So rounds need to be fast, and
  only sweeps need to be complete.
- Rounds and sweeps may see the same row any number of times and in any order, because acting on a row is
  idempotent (`lists.py`).
- What fails is repeated. A failed request costs one project one round. When nothing succeeds, rounds slow down. A
  crash costs no more than a failed request (`crash_guard.py`).
"""

import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from random import Random

import attrs
import structlog
import trio

from ..enums import Task
from ..phonic.listing import ProjectRow, Workspace
from ..phonic.rest import REFUSALS, RestFailed
from .agents import Agents
from .backfill import Backfill
from .backoff import backoff
from .crash_guard import CrashGuard
from .interfaces import Directory, EndedUnwatched, Rest, Sink, Targets
from .lists import ConversationLists, Project
from .search import LiveSearch
from .sweep import Sweeps

log = structlog.get_logger("exporter.watch")

LONGEST_DELAY = 60.0  # seconds between rounds while they fail
WORKSPACE_INTERVAL = 30.0  # seconds between two requests for the workspace's numbers


Elect = Callable[[Collection[str]], Awaitable[Collection[str]]]


class Discovery:
    """Finds conversations. Attributes without underscore may be read at any time.

    ``projects``, ``workspace``: as REST last sent them. ``found``: number of live conversations known, by project.
    ``last_success``: Unix time of the last round without a failure. ``duration``: seconds the last round took.
    ``first_round_done``: whether a round has ended, with or without success. ``projects_known``: set once the
    names of the projects are known; ``agents_known``: once the agents of all projects have been requested.
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
        elect: Elect | None = None,
        ended: EndedUnwatched | None = None,
    ) -> None:
        """``interval``, ``sweep_interval``: seconds from the start of one round or sweep to that of the next.

        ``finds=False`` learns names and numbers but searches no list. ``only`` restricts the search to projects of
        these names. ``now`` gives Unix time by Phonic's clock, ``own_now`` by ours. ``elect``: which of the
        projects this process searches now; without it all. ``ended`` counts conversations that ended unwatched; by
        default a `Backfill`.
        """
        self.projects: list[ProjectRow] = []
        self.workspace: Workspace | None = None
        self.last_success: float | None = None
        self.duration: float | None = None
        self.first_round_done = False
        self.projects_known = trio.Event()
        self._rest = rest
        self._directory = directory
        self._rng = rng
        self._interval = interval
        self._finds = finds
        self._only = frozenset(only)
        self._own_now = own_now
        self._rows: list[ProjectRow] = []  # of the projects searched, one for each name
        self._searched: dict[str, Project] = {}  # the same projects, by name
        self._workspace_at = -math.inf
        self._missing_names: frozenset[str] = frozenset()
        self._is_failing = False
        self._guard = CrashGuard(Task.DISCOVERY, sink.task_crashed)
        self._elect = elect
        self._elected: Collection[str] = ()
        backfill = ended or Backfill(rest.record, targets=targets, sink=sink, rng=rng, now=now)
        lists = ConversationLists(rest, targets=targets, sink=sink, backfill=backfill, rng=rng, now=now)
        self._search = LiveSearch(rest, lists, targets=targets, shallow_for=sweep_interval)
        self._agents = Agents(rest, directory, self._guard)
        self.agents_known = self._agents.known
        self._sweeps = Sweeps(
            lists,
            agents=self._agents,
            backfill=backfill,
            sink=sink,
            agents_of=lambda: self._searched.values(),
            projects=self._elected_projects,
            finds=finds,
            interval=sweep_interval,
            rng=rng,
        )

    @property
    def found(self) -> dict[str, int]:
        """How many live conversations are known, by name of the project searched."""
        return {project.name: project.found for project in self._elected_projects()} if self._finds else {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Search until cancelled. Failed requests and crashes are retried, not raised.

        Conversations resumed after a restart must have been started before. ``task_status`` is started after the
        first round. Cancellation: at any request; what was started or counted stays so.
        """
        delays = self._delays()
        async with trio.open_nursery() as nursery:
            while True:
                begun = trio.current_time()
                is_worth_repeating = await self._guard.run(self._round(), default=False)
                if not self.first_round_done:
                    self.first_round_done = True
                    task_status.started()
                    nursery.start_soon(self._sweeps.run, self.projects_known)
                if is_worth_repeating:
                    delays = self._delays()
                    await trio.sleep_until(begun + self._interval * self._rng.uniform(0.95, 1.05))
                else:
                    await trio.sleep(next(delays))

    def _is_elected(self, name: str) -> bool:
        return self._elect is None or name in self._elected

    def _elected_projects(self) -> list[Project]:
        return [project for name, project in self._searched.items() if self._is_elected(name)]

    def _delays(self) -> Iterator[float]:
        return backoff(self._rng, first=self._interval, longest=max(LONGEST_DELAY, self._interval))

    # --- a round

    async def _round(self) -> bool:
        """Search every project once. Returns False if everything failed, so that the next round should wait."""
        begun = trio.current_time()
        failures: list[RestFailed] = []
        outcomes: list[bool] = []
        is_answered = await self._succeeds(self._learn_projects(), failures)
        if self._elect is not None and self._finds:
            self._elected = await self._elect(self._searched)
        if is_answered:
            await self._agents.learn_new(self._searched.values())
            outcomes = [
                await self._guard.run(
                    self._succeeds(self._search.run(row, self._searched[row.name]), failures), default=False
                )
                for row in self._rows
                if self._finds and self._is_elected(row.name)
            ]
            is_answered = any(outcomes) or not outcomes
        if is_answered and begun - self._workspace_at >= WORKSPACE_INTERVAL:
            await self._succeeds(self._learn_workspace(), failures)
        self.duration = trio.current_time() - begun
        self._note_round(failures, is_complete=all(outcomes))
        return is_answered

    async def _succeeds(self, step: Awaitable[None], failures: list[RestFailed]) -> bool:
        try:
            await step
        except RestFailed as failed:
            failures.append(failed)
            return False
        return True

    def _note_round(self, failures: list[RestFailed], *, is_complete: bool) -> None:
        if failures and not self._is_failing:
            # `access.py` logs that the credential is refused.
            write = log.debug if failures[0].reason in REFUSALS else log.warning
            write("discovery failing", reason=failures[0].reason.value, request_id=failures[0].request_id)
        if not failures and is_complete:
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
        missing_names = self._only.difference(names)
        if missing_names - self._missing_names:
            log.warning("no project of this name", projects=sorted(missing_names))
        self._missing_names = missing_names
        self.projects_known.set()

    def _rows_searched(self) -> list[ProjectRow]:
        """One row for each name. Lists are requested by name, so projects of one name share one list."""
        merged: dict[str, ProjectRow] = {}
        for row in self.projects:
            if not self._only or row.name in self._only:
                known = merged.get(row.name)
                if known is not None:
                    both = known.active is not None and row.active is not None
                    row = attrs.evolve(row, active=(known.active or 0) + (row.active or 0) if both else None)
                merged[row.name] = row
        return list(merged.values())

    async def _learn_workspace(self) -> None:
        self.workspace = await self._rest.workspace()
        self._workspace_at = trio.current_time()
