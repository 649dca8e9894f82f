"""State: what the watching tasks of one workspace report, and that it is of that workspace."""

from collections.abc import Iterable, Mapping

from .conversations import Conversations
from .enums import Lost
from .phonic.schema import Snapshot


class Reports:
    """`Conversations` for the tasks of one workspace. Implements `Sink` and `Directory` of `exporter.watch`.

    What concerns no label goes straight through.
    """

    def __init__(self, conversations: Conversations, workspace: str) -> None:
        """``workspace``: its name; empty where workspaces have no names."""
        self._conversations = conversations
        self._workspace = workspace
        self.connected = conversations.connected
        self.message = conversations.message
        self.decoded = conversations.decoded
        self.superseded = conversations.superseded
        self.invalid = conversations.invalid
        self.drift = conversations.drift
        self.feed_error = conversations.feed_error
        self.crashed = conversations.crashed
        self.task_crashed = conversations.task_crashed
        self.over_limit = conversations.over_limit
        self.reconciled = conversations.reconciled
        self.ended = conversations.ended
        self.stopped = conversations.stopped
        self.dismiss = conversations.dismiss
        self.is_finished = conversations.is_finished
        self.has_seen = conversations.has_seen

    @property
    def first_start(self) -> float:
        return self._conversations.first_start

    def update(self, conversation_id: str, snapshot: Snapshot) -> None:
        self._conversations.update(conversation_id, snapshot, self._workspace)

    def finish(self, conversation_id: str, record: Snapshot | None, lost: Lost | None = None) -> None:
        self._conversations.finish(conversation_id, record, lost, self._workspace)

    def forget(self, conversation_id: str) -> None:
        self._conversations.forget(conversation_id, self._workspace)

    def learn_projects(self, names: Mapping[str, str]) -> None:
        self._conversations.learn_projects(names, self._workspace)

    def learn_agents(self, project: str, agents: Iterable[tuple[str, str]]) -> None:
        self._conversations.learn_agents(project, agents, self._workspace)

    def unknown_agents(self, project: str) -> bool:
        return self._conversations.unknown_agents(project, self._workspace)
