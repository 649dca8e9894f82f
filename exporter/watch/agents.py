"""Tasks: listing the agents of projects, so that their series exist at 0 before their first conversation."""

from collections.abc import Collection
from contextlib import suppress

import trio

from ..phonic.rest import RestFailed
from .crash_guard import CrashGuard
from .interfaces import Directory, Rest
from .lists import Project

MAX_AGE = 600.0  # seconds between two lists of a project's agents
# The same while a conversation of the project has an agent that was not listed, and after a failed request.
MAX_AGE_INCOMPLETE = 30.0
FIRST_TIMEOUT = 5.0  # seconds that the first round waits for the agents of all projects
AT_ONCE = 10  # concurrent requests meanwhile


class Agents:
    """Lists agents. A failed request is repeated at a later call; `exporter.phonic.rest` counts it.

    ``known`` is set once the agents of all projects have been requested, whether or not REST answered.
    """

    def __init__(self, rest: Rest, directory: Directory, guard: CrashGuard) -> None:
        """``directory`` receives the names."""
        self.known = trio.Event()
        self._rest = rest
        self._directory = directory
        self._guard = guard

    async def learn_new(self, projects: Collection[Project]) -> None:
        """In the first round list the agents of all projects, in later ones of projects with an unlisted agent.

        Takes at most `FIRST_TIMEOUT` in the first round. Cancellation: at any request.
        """
        if not self.known.is_set():
            with trio.move_on_after(FIRST_TIMEOUT):
                pending = list(projects)
                while pending:
                    async with trio.open_nursery() as nursery:
                        for project in pending[:AT_ONCE]:
                            nursery.start_soon(self._learn_guarded, project, MAX_AGE)
                    del pending[:AT_ONCE]
                self.known.set()
        for project in projects:
            if self._directory.unknown_agents(project.name):
                await self._learn_guarded(project, MAX_AGE_INCOMPLETE)

    async def learn_all(self, projects: Collection[Project]) -> None:
        """List the agents of each project whose list is older than `MAX_AGE`. Cancellation: at any request."""
        for project in projects:
            await self._learn_guarded(project, MAX_AGE)
        self.known.set()

    async def _learn_guarded(self, project: Project, max_age: float) -> None:
        await self._guard.run(self._learn(project, max_age), default=None)

    async def _learn(self, project: Project, max_age: float) -> None:
        now = trio.current_time()
        is_old = now - project.agents_listed_at >= max_age
        if is_old and now - project.agents_asked_at >= MAX_AGE_INCOMPLETE:
            project.agents_asked_at = now
            with suppress(RestFailed):
                agents = await self._rest.agents(project.name)
                project.agents_listed_at = trio.current_time()
                self._directory.learn_agents(project.name, [(each.id, each.name) for each in agents])
