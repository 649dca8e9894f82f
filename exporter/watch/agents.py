"""Tasks: listing the agents of projects, so that their series exist before their first conversation."""

from collections.abc import Collection
from contextlib import suppress

import trio

from ..phonic.rest import RestFailed
from .crash_guard import CrashGuard
from .interfaces import Directory, Rest
from .lists import Project

AGENTS_SECONDS = 600.0
AGENTS_AGAIN = 30.0  # seconds between two lists of a project's agents while conversations name unlisted ones
AGENTS_PATIENCE = 5.0  # seconds for the agents of all projects in the first round
AGENTS_AT_ONCE = 10  # lists of agents asked for together then


class Agents:
    """``known`` is set once the agents of all projects were asked for."""

    def __init__(self, rest: Rest, directory: Directory, guard: CrashGuard) -> None:
        self.known = trio.Event()
        self._rest = rest
        self._directory = directory
        self._guard = guard

    async def learn_new(self, projects: Collection[Project]) -> None:
        """All agents in the first round; later those of projects in which a conversation named an unlisted one."""
        if not self.known.is_set():
            with trio.move_on_after(AGENTS_PATIENCE):
                pending = list(projects)
                while pending:
                    async with trio.open_nursery() as nursery:
                        for project in pending[:AGENTS_AT_ONCE]:
                            nursery.start_soon(self._learn_safely, project, AGENTS_SECONDS)
                    del pending[:AGENTS_AT_ONCE]
                self.known.set()
        for project in projects:
            if self._directory.unknown_agents(project.name):
                await self._learn_safely(project, AGENTS_AGAIN)

    async def learn_all(self, projects: Collection[Project]) -> None:
        for project in projects:
            await self._learn_safely(project, AGENTS_SECONDS)
        self.known.set()

    async def _learn_safely(self, project: Project, every: float) -> None:
        await self._guard.run(self._learn(project, every), default=None)

    async def _learn(self, project: Project, every: float) -> None:
        """List a project's agents, unless that was done within so many seconds, or tried within `AGENTS_AGAIN`."""
        now = trio.current_time()
        if now - project.agents_at >= every and now - project.agents_asked_at >= AGENTS_AGAIN:
            project.agents_asked_at = now
            with suppress(RestFailed):
                agents = await self._rest.agents(project.name)
                project.agents_at = trio.current_time()
                self._directory.learn_agents(project.name, [(each.id, each.name) for each in agents])
