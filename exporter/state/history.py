"""Pure: a conversation that is over as the state file remembers it, in versions that every later release reads.

Rules for this file: MessagePack, an array for each turn, times in milliseconds as Phonic sends them; whole ones
take two to five bytes, so that a call of 20 turns stays well below 1,000 bytes. No text but names of projects and
agents, and closed words. A change that an older reader could misread gets a new version, and the reader of the old
one stays.
"""

from typing import Any, Final

import attrs
import msgspec

from ..counting.turns import CallState, SeenCall, SeenTurn

VERSION: Final = 1
"""Without the name of a workspace; written wherever there is none."""
NAMED_VERSION: Final = 2
"""As version 1, followed by the name of the workspace."""
_SILENT, _OVERLAP, _BARGE_IN = 1, 2, 4
_ROLES: Final = ("assistant", "user", "other")


class UnreadableHistory(Exception):
    """Bytes that no version of this file has written."""


@attrs.frozen(kw_only=True)
class Remembered:
    """A row of the memory: what a list shows of a conversation, and ``packed``, all of it.

    ``ended_at``: Unix time; ``slowest``: the longest response in seconds. ``project`` is ``WORKSPACE/PROJECT``
    where workspaces have names, so that a search finds both.
    """

    conversation_id: str
    ended_at: float
    project: str
    agent: str
    ended_by: str
    is_failed: bool
    duration: float | None
    turns: int
    slowest: float | None
    packed: bytes = attrs.field(repr=False, default=b"")

    @classmethod
    def of(cls, call: SeenCall, *, ended_at: float, is_failed: bool) -> "Remembered":
        slowest, project = call.slowest, call.project or ""
        return cls(
            conversation_id=call.conversation_id,
            ended_at=ended_at,
            project=project if call.workspace is None else f"{call.workspace}/{project}",
            agent=call.agent or "",
            ended_by=call.ended_by or "unknown",
            is_failed=is_failed,
            duration=call.duration,
            turns=len(call.turns),
            slowest=slowest.response if slowest else None,
            packed=pack(call),
        )


def pack(call: SeenCall) -> bytes:
    """A conversation that is over."""
    workspace = () if call.workspace is None else (call.workspace,)
    return msgspec.msgpack.encode(
        (
            NAMED_VERSION if workspace else VERSION,
            call.project,
            call.agent,
            call.origin,
            _milliseconds(call.started_at),
            _milliseconds(call.duration),
            call.ended_by,
            call.lost,
            [
                (
                    turn.index,
                    _ROLES.index(turn.role) if turn.role in _ROLES else _ROLES.index("other"),
                    _milliseconds(turn.offset),
                    _milliseconds(turn.duration),
                    _milliseconds(turn.response),
                    _milliseconds(turn.model_input),
                    _milliseconds(turn.model_generation),
                    _milliseconds(turn.first_audio),
                    _milliseconds(turn.end_of_turn),
                    turn.is_silent * _SILENT + turn.is_overlap * _OVERLAP + turn.is_barge_in * _BARGE_IN,
                    turn.tool_calls,
                    turn.tool_failures,
                )
                for turn in call.turns
            ],
            *workspace,
        )
    )


def unpack(conversation_id: str, packed: bytes) -> SeenCall:
    """What `pack` was given. Raises `UnreadableHistory`."""
    try:
        version, *fields = msgspec.msgpack.decode(packed)
        if version not in (VERSION, NAMED_VERSION):
            raise UnreadableHistory(f"version {version}")
        workspace = fields.pop() if version == NAMED_VERSION else None
        project, agent, origin, started_at, duration, ended_by, lost, turns = fields
        return SeenCall(
            conversation_id=conversation_id,
            state=CallState.ENDED,
            workspace=workspace,
            project=project,
            agent=agent,
            origin=origin,
            started_at=_seconds(started_at),
            duration=_seconds(duration),
            ended_by=ended_by,
            lost=lost,
            turns=tuple(map(_turn, turns)),
        )
    except (msgspec.MsgspecError, TypeError, ValueError, IndexError) as bad:
        raise UnreadableHistory(type(bad).__name__) from None


def _turn(packed: list[Any]) -> SeenTurn:
    index, role, *times, flags, calls, failed = packed
    offset, duration, response, model_input, generation, first_audio, end_of_turn = map(_seconds, times)
    return SeenTurn(
        index=index,
        role=_ROLES[role],
        offset=offset,
        duration=duration,
        response=response,
        model_input=model_input,
        model_generation=generation,
        first_audio=first_audio,
        end_of_turn=end_of_turn,
        is_silent=bool(flags & _SILENT),
        is_overlap=bool(flags & _OVERLAP),
        is_barge_in=bool(flags & _BARGE_IN),
        tool_calls=calls,
        tool_failures=failed,
    )


def _milliseconds(seconds: float | None) -> int | float | None:
    """Rounded to the microsecond, and whole where it is."""
    if seconds is None:
        return None
    milliseconds = round(seconds * 1000, 3)
    return int(milliseconds) if milliseconds.is_integer() else milliseconds


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds / 1000, 6)
