"""Pure: the contents of a state file as plain values, which separate counting from the file format."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from .history import Remembered


@attrs.frozen
class SavedSeries:
    """One series. ``layout``: the finite bucket bounds of its numbers, empty for a counter."""

    family: str
    labels: tuple[str, ...]
    layout: tuple[float, ...]
    numbers: tuple[int, ...]


@attrs.frozen
class HeldBack:
    """New series that are held back: pages show them at 0 for now (`exporter.metrics.store`).

    With a ``family``: its series with these ``labels``, or all its series if there are no labels. Without one: the
    label set with the values ``labels``. ``is_expected``: known before anything was counted in it.
    """

    family: str
    labels: tuple[str, ...]
    is_expected: bool


@attrs.frozen
class SavedConversation:
    """An unfinished conversation. ``blob`` is its encoded progress (`exporter.state.blob`)."""

    id: str
    blob: bytes


@attrs.frozen
class SavedEnds:
    """Packed hashes (`exporter.state.ended`) of ids of ended conversations. ``at``: Unix time of the newest."""

    at: float
    hashes: bytes


@attrs.frozen(kw_only=True)
class HistoryLimits:
    """How much is remembered of conversations that are over: at most so many, for so many seconds."""

    conversations: int
    seconds: float


NO_HISTORY = HistoryLimits(conversations=0, seconds=0.0)


@attrs.frozen(kw_only=True)
class Changes:
    """The rows of one write, all of one moment, so that numbers and progress agree.

    ``series``, ``conversations`` and ``ends`` create their rows when they are called, which may be in another
    thread, from values that do not change. ``finished`` and ``forgotten`` are ids that are no longer unfinished
    conversations. The file applies ``forgotten`` first, then ``conversations``, then ``finished``. ``ends`` are
    the new ones, or all of them if the write replaces everything. ``remembered`` are the conversations that ended,
    turn by turn: always only the new ones. ``held`` is None if it has not changed.
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
    remembered: Callable[[], Iterable[Remembered]] = tuple
    token: Any = None
    """For the maker of the changes, which gets them back when the write has succeeded or failed."""

    def __bool__(self) -> bool:
        return not self.is_empty


@attrs.frozen(kw_only=True)
class Saved:
    """The contents of a file when it was opened.

    ``label_names``: labels of the saved series, which may differ from the current ``--metrics.labels``.
    ``families``: names of all families of the release that wrote the file. ``first_start``: Unix time of the
    first start with this file.
    """

    label_names: tuple[str, ...]
    families: tuple[str, ...]
    first_start: float
    series: list[SavedSeries]
    held: list[HeldBack]
    conversations: list[SavedConversation]
    ends: list[SavedEnds]
