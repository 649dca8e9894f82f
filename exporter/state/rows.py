"""Pure: what a state file holds, as plain values: those who count and the file know nothing of each other."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs


@attrs.frozen
class SavedSeries:
    """One series. ``layout`` is the bucket layout (finite bounds) of its numbers; empty for a counter."""

    family: str
    labels: tuple[str, ...]
    layout: tuple[float, ...]
    numbers: tuple[int, ...]


@attrs.frozen
class HeldBack:
    """New series that pages show at 0 so far.

    ``labels`` of one series of ``family``, or no labels for all of its series; without a family, the values of a
    label set. ``is_expected``: it was known before anything was counted in it.
    """

    family: str
    labels: tuple[str, ...]
    is_expected: bool


@attrs.frozen
class SavedConversation:
    """A conversation that is not finished; ``blob`` is its progress, encoded by whoever understands it."""

    id: str
    blob: bytes


@attrs.frozen
class SavedEnds:
    """Packed hashes of the ids of ended conversations (`ended`); ``at``: Unix time of the newest end."""

    at: float
    hashes: bytes


@attrs.frozen(kw_only=True)
class Changes:
    """What a write puts into the file: rows of one moment, so that numbers and progress agree.

    The rows are made when they are asked for, which may be in another thread; what they are made of does not
    change. ``finished`` (ids) and ``forgotten`` take a conversation out of the unfinished ones; ``finished`` wins
    over ``conversations``, which wins over ``forgotten``. ``ends`` are new ones, or with everything all there are.
    """

    series: Callable[[], Iterable[SavedSeries]]
    held: Sequence[HeldBack] | None
    conversations: Callable[[], Iterable[SavedConversation]]
    finished: Sequence[str]
    forgotten: Sequence[str]
    ends: Callable[[], Iterable[SavedEnds]]
    families: Sequence[str]
    first_start: float
    is_empty: bool
    token: Any = None
    """Its maker's, who gets the changes back when it is known what became of the write."""

    def __bool__(self) -> bool:
        return not self.is_empty


@attrs.frozen(kw_only=True)
class Saved:
    """What a file held when it was opened.

    ``label_names`` are those that the series were saved under, which need not be today's; ``families`` names the
    families that its writer had; ``first_start`` is the Unix time at which the exporter ran with this file for the
    first time.
    """

    label_names: tuple[str, ...]
    families: tuple[str, ...]
    first_start: float
    series: list[SavedSeries]
    held: list[HeldBack]
    conversations: list[SavedConversation]
    ends: list[SavedEnds]
