"""Pure: the labels of a conversation: which ones there are, and what their values are.

A label value is text from Phonic of bounded length, or one of three words of our own: `NONE`, `UNKNOWN`, `OTHER`.
"""

from collections.abc import Mapping

from ..enums import Origin
from ..phonic.schema import Conversation

LABEL_CHOICES = ("project", "agent", "origin", "is_test", "call_provider", "language", "model")
LABEL_LENGTH = 200  # characters of a label value; Prometheus has no limit by default, dashboards have
NONE, UNKNOWN, OTHER = "none", "unknown", "__other__"


def labels_of(conversation: Conversation, project_names: Mapping[str, str]) -> dict[str, str]:
    """A value for each of `LABEL_CHOICES`.

    ``project_names`` are the names of projects by id: the live object has only the id. A project or an agent
    without a name is told by its id; `NONE` means that a conversation has none, `UNKNOWN` that Phonic did not say.
    """
    agent, project = conversation.agent, conversation.project
    project_id = conversation.project_id or (project.id if project else None) or ""
    name = (project.name if project else None) or project_names.get(project_id) or project_id
    return {
        "project": label_value(name) or NONE,
        "agent": label_value((agent.name or agent.id or "") if agent else "") or NONE,
        "origin": Origin(conversation.origin).value if conversation.origin else UNKNOWN,
        "is_test": UNKNOWN if conversation.is_test is None else str(conversation.is_test).lower(),
        "call_provider": label_value(conversation.call_provider or "") or UNKNOWN,
        "language": label_value(conversation.default_language or "") or UNKNOWN,
        "model": label_value(conversation.model or "") or UNKNOWN,
    }


def label_value(text: str) -> str:
    """``text`` as a label value: valid UTF-8, at most `LABEL_LENGTH` characters."""
    return text[:LABEL_LENGTH].encode("utf-8", "replace").decode()
