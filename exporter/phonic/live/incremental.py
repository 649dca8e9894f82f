"""State: decodes the frames of one feed, and skips the turns that it has decoded before.

Theory of operation. A snapshot repeats its settled turns byte for byte, and they are most of it. The decoder has
two states:

- *nothing known* (``_known`` is None): a frame is decoded in full. Then, if it is one snapshot of at least
  `SHORTEST` and at most `LONGEST` characters, all as documented, with ascending ``item_idx``, the text of all
  turns but the last `KEPT` is remembered, with the index of the next turn.
- *some known*: the remembered text is looked for in the next frame (one comparison of memory). Found in one piece,
  at the beginning of ``items`` and directly before the turn that has to come next, it is cut out, and only the
  rest is decoded. The result must begin with the next index and ascend. Then more turns are remembered, and the
  state stays. Otherwise the state becomes *nothing known* and the same frame is decoded in full, as it came.

Invariants, and why nothing is counted differently:

- Remembered text was decoded by this decoder, so the caller has derived from each turn in it. The same text would
  give the same turns, and deriving from a turn again adds nothing.
- The last `KEPT` turns are never remembered: they may still change. The caller remembers of a turn what it needs
  to compare the next one with it.
- Nothing is assumed about which fields may change: a change anywhere in the remembered text means a full decode.
- A copy of the text elsewhere in the frame does not mislead: with that cut out, ``items`` still begin with their
  first turn, whose index is not the next one.
- The JSON layout may change at any time (`layout`): then the text is not found, and each frame is decoded in full.
  `Message.path` tells which of the two happened.

The remembered text holds what callers said. It is in no log, error or state file, and goes with the feed. See
docs/decisions/0005-incremental-decoding.md.
"""

from collections.abc import Iterator

import attrs

from ...enums import DecodePath, Invalid, MessageType
from ..decode import KEPT, PIECE, InvalidMessage, Message, documented_conversation, is_ascending, pieces, read
from ..schema import Item, Snapshot
from .layout import SettledTurns, settled_turns, without_settled

SHORTEST = 4096  # characters of a frame below which a full decode is cheaper
LONGEST = (
    2 * 1024 * 1024
)  # characters of a frame beyond which nothing is remembered, to bound the memory of a feed


@attrs.define  # not frozen, which makes it slower: one is made for each update
class _Known:
    """Turns to skip while their text stays the same: the text, and the index of the next turn."""

    turns: SettledTurns
    next_index: int


class IncrementalDecoder:
    """Decodes the frames of one conversation, in their order."""

    def __init__(self, conversation_id: str, *, incremental: bool = True) -> None:
        """``incremental``: False decodes every frame in full, to compare or debug."""
        self._conversation_id = conversation_id.lower()
        self._incremental = incremental
        self._known: _Known | None = None

    def read(self, frame: str | bytes) -> Iterator[Message | Snapshot | None]:
        """Decode one frame.

        Yields its messages. A snapshot of very many turns is yielded in pieces, to be derived from one by one: the
        message with the first piece, then a `Snapshot` for each further piece. ``None`` is a pause, at which the
        caller should let other tasks run.

        Raises: `InvalidMessage`, also for a snapshot of another conversation.
        """
        if self._known is not None:
            message = self._decode_incrementally(frame, self._known) if isinstance(frame, str) else None
            if message is not None:
                yield message
                return
            self._known = None
        snapshots: list[Snapshot | None] = []
        for message in read(frame):
            if message is None:
                yield None
                continue
            snapshots.append(message.snapshot)
            self._check(message.snapshot)
            if message.snapshot is None or len(message.snapshot.conversation.items or ()) <= PIECE:
                yield message
                continue
            first, *others = pieces(message.snapshot)
            yield attrs.evolve(message, snapshot=first)
            for piece in others:
                yield None
                yield piece
        if self._incremental and len(snapshots) == 1 and isinstance(frame, str):
            self._begin(frame, snapshots[0])

    def _check(self, snapshot: Snapshot | None) -> None:
        if snapshot is not None and snapshot.conversation.id.lower() != self._conversation_id:
            raise InvalidMessage(Invalid.WRONG_CONVERSATION)

    def _begin(self, frame: str, snapshot: Snapshot | None) -> None:
        """Remember the settled turns of a frame that was decoded in full."""
        if snapshot is not None and SHORTEST <= len(frame) <= LONGEST and not snapshot.bad:
            items = snapshot.conversation.items or []
            if is_ascending(items):
                self._remember(frame, items, 0)

    def _decode_incrementally(self, frame: str, known: _Known) -> Message | None:
        """Decode the turns after the known ones; None in any doubt."""
        found = without_settled(frame, known.turns)
        if found is None:
            return None
        remainder, start = found
        conversation = documented_conversation(remainder)
        if conversation is None:
            return None
        items = conversation.items
        if not items or items[0].item_idx != known.next_index or not is_ascending(items):
            return None
        snapshot = Snapshot(conversation=conversation)
        self._check(snapshot)
        if len(items) > KEPT and len(frame) <= LONGEST:
            self._remember(frame, items, start)
        return Message(MessageType.CONVERSATION_UPDATED, snapshot, path=DecodePath.INCREMENTAL)

    def _remember(self, frame: str, items: list[Item], start: int) -> None:
        """Skip all but the last `KEPT` turns from now on, if the frame is laid out as expected."""
        if len(items) <= KEPT:
            return
        next_index = items[-KEPT].item_idx
        turns = settled_turns(frame, items[-KEPT].id, start)
        if turns is not None and next_index is not None:
            self._known = _Known(turns, next_index)
