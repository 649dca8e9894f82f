"""Pure: what the keeper needs of a place that holds the state: a file, or a shard in PostgreSQL.

All methods of a `Storage` block; the keeper calls them in one thread, but for `Storage.abort` and the properties.
If there is a lease, it calls `Storage.recall` and `Storage.list_history` in a second thread.
"""

from collections.abc import Sequence
from typing import Protocol

import attrs

from ..enums import Word
from .history import Remembered
from .rows import Changes


class Unusable(Exception):
    """The storage cannot be used now: it is locked or read-only, the disk is full, the server does not answer.

    ``str()`` says why, without quoting a row.
    """


class Lost(Exception):
    """The file is empty although it was written before, so everything must be written again."""


class Fenced(Exception):
    """Another process has taken the shard. Nothing was written, and nothing more can be."""


class Outdated(Fenced):
    """A later release has changed the tables. Nothing was written, and nothing more can be."""


@attrs.frozen
class Assigned:
    """A conversation of a shard. ``workspace`` is empty where there is only one."""

    id: str
    workspace: str
    word: Word


class Storage(Protocol):
    """A place that holds the state of one exporter."""

    @property
    def name(self) -> str:
        """What log lines call it: the path of a file, or the number of a shard."""
        ...

    @property
    def size_bytes(self) -> int | None:
        """Its size; None where that is not known."""
        ...

    @property
    def is_ours(self) -> bool:
        """Whether no other process can have written since the last acknowledged write."""
        ...

    @property
    def lease(self) -> float | None:
        """Seconds after a write for which that stays so; None for ever."""
        ...

    def put(
        self, changes: Changes, *, everything: bool, at: float, received: Sequence[Assigned]
    ) -> Sequence[Assigned]:
        """Write changes, all or none of them. ``at`` is Unix time.

        ``everything``: they replace all that the storage holds. ``received``: conversations that earlier calls
        have returned. Returns conversations assigned to this shard since; some may be returned more than once.

        Raises: Unusable, Lost, Fenced. After Unusable the changes may have been written all the same.
        """
        ...

    def recall(self, conversation_id: str) -> bytes | None:
        """Return what is remembered of an ended conversation, packed, or None. Raises: Unusable."""
        ...

    def list_history(self, query: str, limit: int) -> tuple[list[Remembered], int]:
        """Return up to ``limit`` remembered conversations that match, and how many do. Raises: Unusable."""
        ...

    def abort(self) -> None:
        """Make a write in another thread fail soon, if that is possible."""

    def abort_question(self) -> None:
        """Make a question about ended conversations fail soon, if that is possible."""

    def close(self) -> None:
        """Release it. Raises nothing."""
