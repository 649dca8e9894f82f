"""State: what changed about conversations since the last write of the state file.

An `Unsaved` collects changes. For a write, the caller keeps it and replaces it with a new, empty one. If the write
fails, the caller puts the old one back into the new one (`Unsaved.put_back`), so that the next write has both.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import attrs

from .ended import hash_of, packed
from .history import Remembered
from .rows import SavedEnds

T = TypeVar("T")


@attrs.define(eq=False)
class Unsaved(Generic[T]):
    """Changes by conversation id. ``T`` is a conversation at one moment.

    ``conversations``: the latest state of each unfinished conversation that changed; a value must never change.
    ``finished``: ids and Unix times of the ends, oldest first; ``remembered``: what to remember of each.
    ``forgotten``: dropped without an end.
    """

    conversations: dict[str, T] = attrs.Factory(dict)
    finished: list[tuple[str, float]] = attrs.Factory(list)
    remembered: dict[str, Callable[[], Remembered]] = attrs.Factory(dict)
    forgotten: list[str] = attrs.Factory(list)

    def __bool__(self) -> bool:
        return bool(self.conversations or self.finished or self.forgotten)

    def finish(self, conversation_id: str, at: float, remembered: Callable[[], Remembered]) -> None:
        """The conversation ended at this Unix time. ``remembered`` tells what to remember of it, in any thread."""
        self.conversations.pop(conversation_id, None)
        self.finished.append((conversation_id, at))
        self.remembered[conversation_id] = remembered

    def forget(self, conversation_id: str) -> None:
        """The conversation is dropped, and not remembered as ended."""
        self.conversations.pop(conversation_id, None)
        self.forgotten.append(conversation_id)

    def ends(self) -> Sequence[SavedEnds]:
        """The finished conversations as a row of the state file."""
        if not self.finished:
            return ()
        return (SavedEnds(self.finished[-1][1], packed(hash_of(each) for each, _ in self.finished)),)

    def put_back(self, earlier: "Unsaved[T]") -> None:
        """Add the changes of a failed write. Newer changes of the same conversation win."""
        gone = {each for each, _ in self.finished} | set(self.forgotten)
        for conversation_id, each in earlier.conversations.items():
            if conversation_id not in gone:
                self.conversations.setdefault(conversation_id, each)
        self.finished[:0] = earlier.finished
        self.remembered = {**earlier.remembered, **self.remembered}
        self.forgotten[:0] = earlier.forgotten
