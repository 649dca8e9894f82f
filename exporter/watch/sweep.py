"""Tasks: sweeps, which find over REST the conversations that ended without having been watched.

Theory of operation
===================

A round (`search.py`) sees only the top of a project's list. A conversation may begin and end between two rounds,
during an outage, while the exporter is down, or while the watch limit keeps it out. Its end must be counted all
the same, once (semantics 7). So every minute a *sweep* reads the list of each project further down: from the
newest row to the *horizon*, a start before which earlier sweeps have seen everything that matters.

What becomes of a row (`ConversationLists.act_on`). After a sweep each row it has read is in one of four states:

    counted    its end was counted, or it is history                            final
    watched    the supervisor has it and will finish it                         -> counted, or running
    backfill   it ended unwatched: `Backfill` reads its record until counted    -> counted, or watched
    running    it has no end yet and is not watched (watch limit, given up)     -> any of the others

The first three need no further sweep: another task is responsible. Rows that are running and unwatched are kept in
`Project.running`, and the next sweep looks for each of them again.

Invariant. After a completed sweep, every row that was created between the first horizon and
``swept_to - OVERLAP`` is in one of the four states. ``swept_to`` is the newest start that the sweep has seen.

Why no row escapes, by induction over completed sweeps:

- The first sweep reads down to `CALL` before the time at which history ends. A conversation that ended after that
  time and lasted at most `CALL`, ringing included, was created after the horizon, so the first sweep reads its
  row. Longer calls that were over before the exporter's first look may be missed.
- The list is ordered by creation, and a row is listed from its creation on. `started_at` follows at most
  `OVERLAP` later (the phone rings) and is empty until then.
- A later sweep may leave out rows below the first one whose start lies before ``swept_to - OVERLAP``. These were
  created before ``swept_to - OVERLAP``, and the row with the start ``swept_to`` at most `OVERLAP` before
  ``swept_to``. So all of them were created before that row, had been listed when the previous sweep read it, and
  stood further down: the previous sweep read them or could leave them out for the same reason.
- A row in state *running* may be older. The horizon is moved down to the oldest start among them. Those whose
  start is unknown, or that the sweep does not meet where they should be, go to the backfill: their record tells.
- A sweep that fails half-way leaves ``swept_to`` as it was, so the next one reads the same rows again. That does
  no harm, because acting on a row is idempotent.
- A start in the future is wrong, and as ``swept_to`` it would hide all rows until then. So ``swept_to`` is never
  later than the beginning of the sweep, by Phonic's clock: what was created before that had been listed when the
  sweep read its first page, and what is created during a long sweep is left to the next one. A step of our own
  clock does not move ``swept_to``.
- A list that repeats itself or is longer than `MAX_PAGES` is left before the horizon. `Rest.paged_without_end`
  counts that; it is the other way in which a row may be missed.

A restart forgets ``swept_to`` and `Project.running`; the next sweep is a first sweep again. It reads as far back
as history reaches, and what was counted before the restart is known from the state file.

Each sweep that reached REST is followed by one pass of the backfill. A crash costs one project one sweep.
"""

from collections.abc import Callable, Collection, Iterable
from random import Random

import structlog
import trio

from ..counting.derive import parse_time
from ..enums import Task
from ..phonic.listing import ListedRow
from ..phonic.rest import RestFailed
from .agents import Agents
from .crash_guard import CrashGuard
from .interfaces import EndedUnwatched, Sink
from .lists import PAGE, SECOND, SMALL_PAGE, ConversationLists, Project, in_slices

log = structlog.get_logger("exporter.watch")

CALL = 2 * 3600.0  # seconds; longest call that the first sweep is sure to find
OVERLAP = 300.0  # seconds; longest time from the creation of a row to its `started_at`
MAX_PAGES = 30_000  # of one sweep: a day in which 30 conversations end every second
PAGE_ATTEMPTS = 5  # requests for one page before the sweep fails


class Sweeps:
    """Sweeps all projects once a minute."""

    def __init__(
        self,
        lists: ConversationLists,
        *,
        agents: Agents,
        backfill: EndedUnwatched,
        sink: Sink,
        projects: Callable[[], Collection[Project]],
        agents_of: Callable[[], Collection[Project]],
        finds: bool,
        interval: float,
        rng: Random,
    ) -> None:
        """``projects`` gives the projects to sweep now, ``agents_of`` those whose agents are listed. ``interval``:
        seconds from one start to the next.

        ``finds=False`` only lists agents.
        """
        self._lists = lists
        self._agents = agents
        self._backfill = backfill
        self._sink = sink
        self._projects = projects
        self._agents_of = agents_of
        self._finds = finds
        self._interval = interval
        self._rng = rng
        self._sweep_guard = CrashGuard(Task.SWEEP, sink.task_crashed)
        self._backfill_guard = CrashGuard(Task.RECORDS, sink.task_crashed)

    async def run(self, projects_known: trio.Event) -> None:
        """Sweep until cancelled, from ``projects_known`` on. Failed requests and crashes are retried, not raised.

        Cancellation: at any request; what was counted stays counted.
        """
        await projects_known.wait()
        while True:
            begun = trio.current_time()
            await self._agents.learn_all(list(self._agents_of()))
            swept = [
                await self._sweep_guard.run(self._succeeds(project), default=False)
                for project in list(self._projects())
                if self._finds
            ]
            log.debug("discovery sweep", projects=sum(swept), failures=len(swept) - sum(swept))
            if any(swept):  # REST answers, so a record that cannot be read is that record's own failure
                await self._backfill_guard.run(self._backfill.run_pass(), default=None)
            await trio.sleep_until(begun + self._interval * self._rng.uniform(0.95, 1.05))

    async def _succeeds(self, project: Project) -> bool:
        try:
            await self._sweep(project)
        except RestFailed:
            return False
        return True

    async def _sweep(self, project: Project) -> None:
        unwatched = {each: start for each, start in project.running.items() if not self._lists.is_handled(each)}
        not_met = set(unwatched)
        horizon = self._horizon(project, unwatched.values())
        began = int(self._lists.ago(0))
        newest = project.swept_to

        async def wants_older(rows: list[ListedRow]) -> bool:
            nonlocal newest
            has_reached_horizon = False
            async for each in in_slices(rows):
                self._lists.act_on(each, project)
                not_met.discard(each.id)
                started = parse_time(each.started_at)
                if started is not None:
                    newest = max(started, newest or started)
                    has_reached_horizon = has_reached_horizon or started < horizon
            return not has_reached_horizon

        await self._lists.read(
            project.name,
            wants_older,
            first_page=PAGE if project.swept_to is None else SMALL_PAGE,
            max_pages=MAX_PAGES,
            attempts=PAGE_ATTEMPTS,
        )
        project.swept_to = None if newest is None else min(newest, began)
        async for each in in_slices(not_met):
            if not self._lists.is_handled(each):
                self._backfill.add(each)
        for each in [each for each in project.running if self._sink.is_finished(each)]:
            del project.running[each]

    def _horizon(self, project: Project, unwatched_starts: Iterable[int | None]) -> float:
        """The start, in Unix microseconds, below which this sweep may leave rows out."""
        if project.swept_to is None:
            return (self._lists.history_ends() - CALL) * SECOND
        known = [start for start in unwatched_starts if start is not None]
        return min([project.swept_to, *known]) - OVERLAP * SECOND
