"""Tasks: sweeps over the lists of conversations, for those that ended unwatched."""

from collections.abc import Callable, Collection, Iterable
from random import Random

import structlog
import trio

from ..counting.derive import parse_time
from ..enums import Task
from ..phonic.listing import ListedRow
from ..phonic.rest import RestFailed
from .agents import Agents
from .backfill import Backfill
from .crash_guard import CrashGuard
from .interfaces import Sink
from .lists import FIRST_LIMIT, LIMIT, SECOND, Lists, Project, in_slices

log = structlog.get_logger("exporter.watch")

CALL = 2 * 3600.0  # seconds; longer calls may escape that were over before the first look at a project
OVERLAP = 300.0  # seconds between the creation of a row and its `started_at`, at most
# A list of more pages never ends: a day of 30 ends a second.
SWEEP_PAGES = 30_000
PAGE_ATTEMPTS = 5  # before a sweep gives up until the next one


class Sweeps:
    """The sweeps of all projects searched."""

    def __init__(
        self,
        lists: Lists,
        *,
        agents: Agents,
        backfill: Backfill,
        sink: Sink,
        projects: Callable[[], Collection[Project]],
        finds: bool,
        interval: float,
        rng: Random,
    ) -> None:
        self._lists = lists
        self._agents = agents
        self._backfill = backfill
        self._sink = sink
        self._projects = projects
        self._finds = finds
        self._interval = interval
        self._rng = rng
        self._sweep_guard = CrashGuard(Task.SWEEP, sink.task_crashed)
        self._record_guard = CrashGuard(Task.RECORDS, sink.task_crashed)

    async def run(self, projects_known: trio.Event) -> None:
        await projects_known.wait()
        while True:
            begun = trio.current_time()
            await self._agents.learn_all(list(self._projects()))
            swept = [
                await self._sweep_guard.run(self._succeeds(project), default=False)
                for project in list(self._projects())
                if self._finds
            ]
            log.debug("discovery sweep", projects=sum(swept), failures=len(swept) - sum(swept))
            if any(swept):  # so REST works, and a record that cannot be read is a case of its own
                await self._record_guard.run(self._backfill.count(), default=None)
            await trio.sleep_until(begun + self._interval * self._rng.uniform(0.95, 1.05))

    async def _succeeds(self, project: Project) -> bool:
        try:
            await self._sweep(project)
        except RestFailed:
            return False
        return True

    async def _sweep(self, project: Project) -> None:
        """See every conversation that began since the last sweep, and those that were live but unwatched."""
        unwatched = {each: start for each, start in project.listed.items() if not self._lists.is_known(each)}
        missing = set(unwatched)
        horizon = self._horizon(project, unwatched.values())
        newest = project.swept_to

        async def wants_older(rows: list[ListedRow]) -> bool:
            nonlocal newest
            reached = False
            async for each in in_slices(rows):
                self._lists.take(each, project)
                missing.discard(each.id)
                started = parse_time(each.started_at)
                if started is not None:
                    newest = max(started, newest or started)
                    reached = reached or started < horizon
            return not reached

        first_limit = LIMIT if project.swept_to is None else FIRST_LIMIT
        await self._lists.read_pages(
            project.name, wants_older, first_limit=first_limit, most=SWEEP_PAGES, attempts=PAGE_ATTEMPTS
        )
        # A time in the future is an error, and would hide all that begins before it.
        project.swept_to = None if newest is None else min(newest, int(self._lists.ago(0)))
        async for each in in_slices(missing):  # not where they should be, or where is unknown: their records tell
            if not self._lists.is_known(each):
                self._backfill.add(each)
        for each in [each for each in project.listed if self._sink.is_finished(each)]:
            del project.listed[each]

    def _horizon(self, project: Project, unwatched: Iterable[int | None]) -> float:
        """The start, in Unix microseconds, before which this sweep need not look."""
        if project.swept_to is None:
            return (self._lists.history_ends() - CALL) * SECOND
        starts = [start for start in unwatched if start is not None]
        return min(project.swept_to, *starts) - OVERLAP * SECOND if starts else project.swept_to - OVERLAP * SECOND
