"""Pure: what the fast paths assume about how Phonic lays out the bytes of its JSON, in one place.

JSON leaves white space and the order of keys open. Phonic happens to write without spaces, with ``type`` first,
``conversation`` second and ``id`` first in each object, and it repeats settled turns byte for byte. Two fast paths
use that: the mailbox tells a snapshot from its first and last characters, and the incremental decoder finds the
turns that it has decoded before.

Nothing becomes wrong when Phonic writes differently:

- `is_snapshot` accepts any white space at the same cost. For other orders of keys it has the frame decoded for its
  type and id only, which skips the rest at memory speed and is bounded by `LONGEST_CHECKED`.
- `settled_turns` and `without_settled` find nothing, so every frame is decoded in full.
  ``phonic_exporter_decodes_total{path="full"}`` shows it.
"""

import re

import attrs

from ..decode import snapshot_id

LONGEST_CHECKED = 1024 * 1024
"""Characters of a frame beyond which only its ends are looked at: skipping more would take over 2 ms at worst."""
_BEGINNING = re.compile(
    r'\s*+\{\s*+"type"\s*+:\s*+"conversation-updated"\s*+,\s*+"conversation"\s*+:\s*+\{\s*+"id"\s*+:\s*+"([^"\\]*+)"'
)
_LONGEST_BEGINNING = 512
_TAIL = 256  # characters at the end: two brackets as a rule, and all of a short message that follows a snapshot
_NEXT_DOCUMENT = re.compile(r"\}[\s\x00\ufeff]*+\{")
_MESSAGE_TYPE = "conversation-updated"
_TURNS = '"items":['
_TURNS_BEGIN = '"items":[{"id":"'


def is_snapshot(frame: str | bytes, conversation_id: str) -> bool:
    """Whether a frame is exactly one snapshot of this conversation, so that a newer one may replace it.

    False in doubt: for bytes, for several messages in one frame, and for a large frame with keys in another order.
    """
    if not isinstance(frame, str):
        return False
    begins = _BEGINNING.match(frame, 0, _LONGEST_BEGINNING)
    if begins is not None and begins[1] == conversation_id:
        tail = frame[-_TAIL:]
        if (tail.endswith("}}") or "".join(tail.split()).endswith("}}")) and not _NEXT_DOCUMENT.search(tail):
            return True
    if len(frame) > LONGEST_CHECKED or _MESSAGE_TYPE not in frame:
        return False
    found = snapshot_id(frame)
    return found is not None and found.lower() == conversation_id.lower()


@attrs.define  # not frozen, which makes it slower: one is made for each update
class SettledTurns:
    """The text of the turns at the beginning of ``items``, from ``"items":[`` to the comma before the next turn.

    ``start`` is where it was in the frame; ``next_begins`` is how the next turn begins.
    """

    start: int
    text: str
    next_begins: str


def settled_turns(frame: str, next_id: str | None, start: int = 0) -> SettledTurns | None:
    """The turns before the one whose id is ``next_id``; None where the frame is laid out in another way.

    ``start`` is a place at or before the turns.
    """
    start = frame.find(_TURNS_BEGIN, start)
    next_begins = f'{{"id":"{next_id}"'
    end = frame.rfind(next_begins)
    if start < 0 or end <= start or frame[end - 1] != ",":
        return None
    return SettledTurns(start, frame[start:end], next_begins)


def without_settled(frame: str, settled: SettledTurns) -> tuple[str, int] | None:
    """The frame without these turns and where they were; None unless it has them unchanged in the same order.

    What precedes the turns (the fields of the conversation) only grows as a rule, so the search begins where they
    were before.
    """
    start = frame.find(_TURNS_BEGIN, settled.start)
    end = start + len(settled.text)
    if start < 0 or not frame.startswith(settled.text, start) or not frame.startswith(settled.next_begins, end):
        return None
    return f"{frame[:start]}{_TURNS}{frame[end:]}", start
