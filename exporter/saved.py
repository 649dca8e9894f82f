"""Pure: what a checkpoint holds, as plain values: those who count and the file know nothing of each other."""

from typing import Final

import attrs

# Seconds for which a finished conversation is remembered: a late frame or REST row must not bring it back.
TOMBSTONE_LIFE: Final = 24 * 3600.0


@attrs.frozen
class SavedSeries:
    """One series. ``layout`` is the bucket layout (finite bounds) of its numbers; empty for a counter."""

    family: str
    labels: tuple[str, ...]
    layout: tuple[float, ...]
    numbers: tuple[int, ...]


@attrs.frozen
class SavedConversation:
    """A conversation that is not finished; ``blob`` is its progress, encoded by whoever understands it."""

    id: str
    blob: bytes


@attrs.frozen
class Tombstone:
    """A conversation that is finished, since ``finished_at`` (Unix time)."""

    id: str
    finished_at: float


@attrs.frozen(kw_only=True)
class Changes:
    """What a write puts into the file: rows of one moment, so that numbers and progress agree.

    ``finished`` and ``forgotten`` take a conversation out of the unfinished ones; ``finished`` wins over
    ``conversations``, which wins over ``forgotten``.
    """

    series: list[SavedSeries]
    conversations: list[SavedConversation]
    finished: list[Tombstone]
    forgotten: list[str]

    def __bool__(self) -> bool:
        return bool(self.series or self.conversations or self.finished or self.forgotten)


@attrs.frozen(kw_only=True)
class Saved:
    """What a file held when it was opened.

    ``label_names`` are those that the series were saved under, which need not be today's; ``first_start`` is
    the Unix time at which the exporter ran with this file for the first time.
    """

    label_names: tuple[str, ...]
    first_start: float
    series: list[SavedSeries]
    conversations: list[SavedConversation]
    tombstones: list[Tombstone]
