"""Pure: a conversation as a drawing: one row for each turn, its wait and its speech on the time axis of the call.

A long call is drawn in blocks of a few turns, each with the part of the axis that it needs: on one axis for all of
it a wait would be too thin to be seen. Positions are percent of the width, so that a drawing fits any screen. What
is drawn is also in the table below it.
"""

from collections.abc import Sequence
from math import floor, log10
from typing import Final

import attrs

from ..counting.turns import SeenCall, SeenTurn

ROW: Final = 18
"""Height of a turn in pixels."""
BLOCK: Final = 25
"""Turns of a block."""
MOST_ROWS: Final = 200
"""Turns of one page: a page of them is written in a few milliseconds."""
_TICKS: Final = 6
_NICE: Final = (1, 2, 5, 10)
_THINNEST: Final = 0.15  # percent; a shorter piece would not be seen


@attrs.frozen
class Piece:
    """A part of a row: ``kind`` is its class in the style sheet, ``title`` what a pointer shows."""

    kind: str
    x: float
    width: float
    title: str


@attrs.frozen(kw_only=True)
class Row:
    """One turn: its pieces from left to right, ``y`` pixels from the top; slow if over the objective."""

    turn: SeenTurn
    y: int
    pieces: tuple[Piece, ...]
    is_slow: bool


@attrs.frozen(kw_only=True)
class Tick:
    x: float
    label: str


@attrs.frozen(kw_only=True)
class Block:
    """Turns on one axis. ``height`` in pixels."""

    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    height: int


@attrs.frozen(kw_only=True)
class Timeline:
    """A drawing of the turns from ``first`` on, of ``total``."""

    blocks: tuple[Block, ...]
    first: int
    total: int

    @property
    def rows(self) -> tuple[Row, ...]:
        """Those of all blocks."""
        return tuple(row for block in self.blocks for row in block.rows)

    @property
    def has_more(self) -> bool:
        return self.first + len(self.rows) < self.total


def timeline(call: SeenCall, *, objective: float, first: int = 0) -> Timeline:
    """Draw up to `MOST_ROWS` turns from the ``first`` one on (by position). ``objective``: seconds of response."""
    first = max(0, min(first, max(0, len(call.turns) - 1)))
    shown = call.turns[first : first + MOST_ROWS]
    blocks = (shown[at : at + BLOCK] for at in range(0, len(shown), BLOCK))
    return Timeline(blocks=tuple(_block(each, objective) for each in blocks), first=first, total=len(call.turns))


def _block(turns: Sequence[SeenTurn], objective: float) -> Block:
    begin, end = _span(turns)
    scale = 100.0 / (end - begin)
    rows = tuple(
        Row(
            turn=turn,
            y=number * ROW,
            pieces=_pieces(turn, begin, scale, objective),
            is_slow=turn.response is not None and turn.response > objective,
        )
        for number, turn in enumerate(turns)
    )
    return Block(rows=rows, ticks=_ticks(begin, end), height=len(rows) * ROW)


def _span(turns: Sequence[SeenTurn]) -> tuple[float, float]:
    """Where the axis begins and ends, in seconds of the call."""
    starts = [turn.offset - (turn.response or 0.0) for turn in turns if turn.offset is not None]
    ends = [turn.offset + (turn.duration or 0.0) for turn in turns if turn.offset is not None]
    begin = min(starts, default=0.0)
    return begin, max(max(ends, default=1.0), begin + 1.0)


def _pieces(turn: SeenTurn, begin: float, scale: float, objective: float) -> tuple[Piece, ...]:
    if turn.offset is None:
        return ()
    start = turn.offset - begin
    pieces = []
    if turn.response is not None:
        at = start - turn.response
        for kind, seconds, title in _stages(turn):
            pieces.append(_piece(kind, at, seconds, scale, f"{title} {seconds:.3f} s"))
            at += seconds
        if turn.response > objective:
            pieces.append(
                _piece("over", start - turn.response + objective, 0.0, scale, f"objective {objective:g} s")
            )
    seconds = turn.duration or 0.0
    pieces.append(_piece(turn.role, start, seconds, scale, f"{turn.role} speaks {seconds:.3f} s"))
    return tuple(pieces)


def _stages(turn: SeenTurn) -> list[tuple[str, float, str]]:
    """The wait before a turn in its parts, as far as they are known; the rest of it is one part."""
    left = turn.response or 0.0
    stages = []
    # In the order in which they happen. Phonic's three timings need not add up (API 2.5).
    for kind, seconds, title in (
        ("end-of-turn", turn.end_of_turn, "end of turn"),
        ("model-input", turn.model_input, "model input"),
        ("generation", turn.model_generation, "model generation"),
    ):
        if seconds is not None and 0 < seconds <= left:
            stages.append((kind, seconds, title))
            left -= seconds
    if left > 1e-6:
        stages.append(("wait", left, "wait" if not stages else "rest of the wait"))
    return stages


def _piece(kind: str, at: float, seconds: float, scale: float, title: str) -> Piece:
    return Piece(kind, round(at * scale, 3), round(max(seconds * scale, _THINNEST), 3), title)


def _ticks(begin: float, end: float) -> tuple[Tick, ...]:
    step = _nice_step((end - begin) / _TICKS)
    number = floor(begin / step) + 1
    ticks = []
    while number * step < end:
        at = number * step
        ticks.append(Tick(x=round((at - begin) * 100 / (end - begin), 3), label=clock(at)))
        number += 1
    return tuple(ticks)


def _nice_step(least: float) -> float:
    power = 10.0 ** floor(log10(least))
    return next(nice * power for nice in _NICE if nice * power >= least)


def clock(seconds: float) -> str:
    """``m:ss`` of a call, with tenths where it is short."""
    if abs(seconds) < 10 and seconds != int(seconds):
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
