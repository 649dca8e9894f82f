"""Tasks: containing crashes, so that a bug in the exporter ends only the piece of work in which it shows.

A crash is any `Exception` that the guarded work does not handle itself. `Cancelled` is none and passes.
"""

from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

import structlog
import trio

from ..enums import Task
from ..logs import frames
from .backoff import backoff

log = structlog.get_logger("exporter.watch")

MAX_LOGGED_PLACES = 100  # places in the code, of which each logs its crashes as errors once
CRASH_FIRST, CRASH_LONGEST = 1.0, 60.0  # seconds before a task that crashed is started again

_T = TypeVar("_T")


class CrashGuard:
    """Contains the crashes of one task: counts each, and logs the first at each place in the code as an error."""

    def __init__(self, task: Task, crashed: Callable[[Task], None]) -> None:
        """``crashed`` is called with ``task`` for each crash, to count it."""
        self._task = task
        self._crashed = crashed
        self._logged: set[tuple[str, str]] = set()

    async def run(self, work: Awaitable[_T], default: _T) -> _T:
        """Await ``work``. Returns its result, or ``default`` if it crashes.

        Cancellation: passes through ``work``.
        """
        try:
            return await work
        except Exception as crash:
            self.report(crash)
            return default

    def report(self, crash: Exception) -> None:
        """Count a crash, and log its type and place.

        Its text and its local values are not logged, because both may hold what a caller said (semantics 13).
        """
        what = (type(crash).__name__, frames(crash))
        write = log.debug if what in self._logged else log.error
        if len(self._logged) < MAX_LOGGED_PLACES:
            self._logged.add(what)
        write("task crashed", task=self._task.value, error=what[0], at=what[1])
        self._crashed(self._task)


async def keep_running(
    task: Task, run: Callable[[], Awaitable[None]], crashed: Callable[[Task], None], rng: Random | None = None
) -> None:
    """Await ``run()`` until it returns; start it again after each crash.

    The delay before a start grows from `CRASH_FIRST` to `CRASH_LONGEST` seconds, and begins anew once ``run()``
    has lasted that long. ``crashed`` is called with ``task`` for each crash. Cancellation: passes through
    ``run()``.
    """
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
