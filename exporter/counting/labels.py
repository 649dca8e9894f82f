"""Pure: the names and values of a conversation's labels.

A label value is text from Phonic of limited length, or one of three words of the exporter: `NONE` (the
conversation has no such thing), `UNKNOWN` (Phonic did not send it) and `OTHER` (there are more values than a
limit allows).
"""

from collections.abc import Mapping

from ..enums import IntelligenceLevel, Origin
from ..phonic.schema import Conversation

LABEL_CHOICES = (
    "project",
    "agent",
    "origin",
    "is_test",
    "call_provider",
    "language",
    "model",
    "intelligence_level",
)
WORKSPACE = "workspace"
"""The label of the workspace: the first one, where the settings name workspaces; it cannot be left out."""
LABEL_LENGTH = 200  # most characters of a label value, so that dashboards stay readable
NONE, UNKNOWN, OTHER = "none", "unknown", "__other__"


def labels_of(conversation: Conversation, project_names: Mapping[str, str]) -> dict[str, str]:
    """Return a value for each of `LABEL_CHOICES`.

    ``project_names``: names of projects by id, because snapshots have only the id. The label of a project or an
    agent without a name is its id.
    """
    agent, project = conversation.agent, conversation.project
    project_id = conversation.project_id or (project.id if project else None) or ""
    name = (project.name if project else None) or project_names.get(project_id) or project_id
    level = conversation.intelligence_level
    return {
        "project": label_value(name) or NONE,
        "agent": label_value((agent.name or agent.id or "") if agent else "") or NONE,
        "origin": Origin(conversation.origin).value if conversation.origin else UNKNOWN,
        "is_test": UNKNOWN if conversation.is_test is None else str(conversation.is_test).lower(),
        "call_provider": label_value(conversation.call_provider or "") or UNKNOWN,
        "language": label_value(conversation.default_language or "") or UNKNOWN,
        "model": label_value(conversation.model or "") or UNKNOWN,
        "intelligence_level": IntelligenceLevel(level).value if level else UNKNOWN,
    }


def label_value(text: str) -> str:
    """``text`` as a label value: valid UTF-8, at most `LABEL_LENGTH` characters."""
    return text[:LABEL_LENGTH].encode("utf-8", "replace").decode()
