"""State: the agents behind `phonic_agent_info`: those that REST lists and those that conversations name.

At most ``limit`` agents are kept. When more are known, agents that had a conversation replace listed ones that had
none. All names and ids given to this class are label values (`exporter.counting.labels.label_value`).
"""

from collections.abc import Iterable

from ..counting.labels import OTHER

Agent = tuple[str, str, str]
"""Names of the project and the agent, and the agent's id: the labels of `phonic_agent_info`."""


class Agents:
    """Agents by project, and which of them had a conversation."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._had_conversation: dict[Agent, bool] = {}
        self._listed: dict[str, set[str]] = {}  # ids by project, as REST listed them
        self._unlisted: set[str] = set()  # projects in which a conversation named an agent that REST did not list

    def listed(self, project: str, agents: Iterable[tuple[str, str]]) -> None:
        """REST lists these agents (id, name) as all agents of the project."""
        agents = list(agents)
        self._listed[project] = {agent_id for agent_id, _ in agents}
        self._unlisted.discard(project)
        for agent_id, name in agents:
            self._learn((project, name, agent_id), has_conversation=False)

    def named(self, agent: Agent) -> None:
        """A conversation names this agent."""
        project, _, agent_id = agent
        if agent_id not in self._listed.get(project, ()):
            self._unlisted.add(project)
        self._learn(agent, has_conversation=True)

    def has_unlisted(self, project: str) -> bool:
        """Whether a conversation named an agent that the latest list of the project does not have."""
        return project in self._unlisted

    def rows(self, *, most_values: int) -> Iterable[tuple[Agent, float]]:
        """Rows of `phonic_agent_info`, agents with conversations first.

        Each label has at most ``most_values`` values; the agents beyond share one row of `OTHER`.
        """
        values: tuple[set[str], ...] = (set(), set(), set())
        shown: dict[Agent, float] = {}
        for agent in sorted(self._had_conversation, key=lambda each: not self._had_conversation[each]):
            fits = all(value in seen or len(seen) < most_values for seen, value in zip(values, agent, strict=True))
            if fits:
                for seen, value in zip(values, agent, strict=True):
                    seen.add(value)
            shown[agent if fits else (OTHER, OTHER, OTHER)] = 1.0
        return shown.items()

    def _learn(self, agent: Agent, *, has_conversation: bool) -> None:
        known = self._had_conversation
        if has_conversation and agent not in known and len(known) >= self._limit:
            idle = next((each for each, had in known.items() if not had), None)
            if idle is not None:
                del known[idle]
        if agent in known or len(known) < self._limit:
            known[agent] = has_conversation or known.get(agent, False)
