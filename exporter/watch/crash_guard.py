"""Tasks: what keeps a defect of ours from ending more than the piece of work that met it."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

import structlog
import trio

from ..enums import Task
from ..logs import frames
from .backoff import backoff

log = structlog.get_logger("exporter.watch")

MAX_LOGGED_PLACES = 100  # places remembered
CRASH_FIRST, CRASH_LONGEST = 1.0, 60.0  # seconds before a task that crashed is started again

_T = TypeVar("_T")


class CrashGuard:
    """Contains the crashes of one task: each is counted, and logged once for each place."""

    def __init__(self, task: Task, crashed: Callable[[Task], None]) -> None:
        """``crashed`` counts."""
        self._task = task
        self._crashed = crashed
        self._logged: set[tuple[str, str]] = set()

    async def run(self, work: Awaitable[_T], default: _T) -> _T:
        """What ``work`` gives, or ``default`` where it crashes. Cancellation passes."""
        try:
            return await work
        except Exception as crash:
            self.report(crash)
            return default

    def report(self, crash: Exception) -> None:
        """Count a crash; its text and its values stay here, since both may quote what a caller said."""
        what = (type(crash).__name__, frames(crash))
        write = log.debug if what in self._logged else log.error
        if len(self._logged) < MAX_LOGGED_PLACES:
            self._logged.add(what)
        write("task crashed", task=self._task.value, error=what[0], at=what[1])
        self._crashed(self._task)


async def keep_running(
    task: Task, run: Callable[[], Awaitable[None]], crashed: Callable[[Task], None], rng: Random | None = None
) -> None:
    """Run until cancelled, again and again after crashes, with growing delays between them."""
    guard = CrashGuard(task, crashed)
    rng = rng or Random()  # noqa: S311  # jitter
    delays = backoff(rng, first=CRASH_FIRST, longest=CRASH_LONGEST)
    began = trio.current_time()
    while not await guard.run(_done(run), default=False):
        if trio.current_time() - began > CRASH_LONGEST:
            delays = backoff(rng, first=CRASH_FIRST, longest=CRASH_LONGEST)
        await trio.sleep(next(delays))
        began = trio.current_time()


async def _done(run: Callable[[], Awaitable[None]]) -> bool:
    await run()
    return True
