"""Pure: what a conversation id looks like, before it becomes a path, a label or a log field."""

import re

_CONVERSATION_ID = re.compile(r"conv_[A-Za-z0-9_-]{1,100}")


def is_conversation_id(text: str) -> bool:
    """Whether ``text`` can be a conversation id (API 2.1: ``conv_`` and a UUID; other tails are tolerated)."""
    return _CONVERSATION_ID.fullmatch(text) is not None
