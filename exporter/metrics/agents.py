"""State: the agents behind `phonic_agent_info`: those that REST lists and those that conversations name.

At most ``limit`` agents are kept, divided among the workspaces. When more are known, agents that had a
conversation replace listed ones of their workspace that had none. All names and ids given to this class are label
values (`exporter.counting.labels.label_value`).
"""

from collections.abc import Iterable

from ..counting.labels import OTHER
from ..shares import ONLY, Divided, Shares

Agent = tuple[str, str, str, str]
"""Names of the workspace, the project and the agent, and the agent's id: the labels of `phonic_agent_info`."""
Project = tuple[str, str]
"""Names of the workspace and the project."""


class Agents:
    """Agents by project, and which of them had a conversation."""

    def __init__(self, *, limit: int, shares: Shares | None = None) -> None:
        self._limit = limit
        self._shares = shares or Shares()
        self._had_conversation: dict[Agent, bool] = {}
        self._kept: Divided[Agent] = Divided(self._shares)
        self._listed: dict[Project, set[str]] = {}  # ids by project, as REST listed them
        self._unlisted: set[Project] = set()  # those in which a conversation named an agent that REST did not list

    def listed(self, project: str, agents: Iterable[tuple[str, str]], *, workspace: str = ONLY) -> None:
        """REST lists these agents (id, name) as all agents of the project."""
        agents = list(agents)
        self._listed[workspace, project] = {agent_id for agent_id, _ in agents}
        self._unlisted.discard((workspace, project))
        for agent_id, name in agents:
            self._learn((workspace, project, name, agent_id), has_conversation=False)

    def named(self, agent: Agent) -> None:
        """A conversation names this agent."""
        workspace, project, _, agent_id = agent
        if agent_id not in self._listed.get((workspace, project), ()):
            self._unlisted.add((workspace, project))
        self._learn(agent, has_conversation=True)

    def has_unlisted(self, project: str, *, workspace: str = ONLY) -> bool:
        """Whether a conversation named an agent that the latest list of the project does not have."""
        return (workspace, project) in self._unlisted

    def rows(self, *, most_values: int) -> Iterable[tuple[Agent, float]]:
        """Rows of `phonic_agent_info`, agents with conversations first.

        Each label has at most ``most_values`` values; the agents beyond share one row of `OTHER` in each
        workspace.
        """
        values: tuple[Divided[str], ...] = tuple(Divided(self._shares) for _ in range(3))
        shown: dict[Agent, float] = {}
        for agent in sorted(self._had_conversation, key=lambda each: not self._had_conversation[each]):
            owner, *labels = agent
            pairs = list(zip(values, labels, strict=True))
            fits = all(seen.holds(owner, value) or seen.has_room(owner, most_values) for seen, value in pairs)
            if fits:
                for seen, value in pairs:
                    seen.add(owner, value)
            shown[agent if fits else (owner, OTHER, OTHER, OTHER)] = 1.0
        return shown.items()

    def _learn(self, agent: Agent, *, has_conversation: bool) -> None:
        known, owner = self._had_conversation, agent[0]
        if has_conversation and agent not in known and not self._kept.has_room(owner, self._limit):
            idle = next((each for each, had in known.items() if not had and each[0] == owner), None)
            if idle is not None:
                del known[idle]
                self._kept.discard(owner, idle)
        if agent in known or self._kept.has_room(owner, self._limit):
            known[agent] = has_conversation or known.get(agent, False)
            self._kept.add(owner, agent)
