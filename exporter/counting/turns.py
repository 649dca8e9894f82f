"""Pure: one conversation, turn by turn, as it is told to people: what the pages and their JSON show.

Rules for this file: no text, name of a caller, or number of a phone has a place in these values. Seconds
everywhere; an absent value is None.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import attrs

from ..enums import Stage


class CallState(StrEnum):
    """Whether a conversation goes on."""

    LIVE = "live"
    ENDED = "ended"


@attrs.frozen(kw_only=True)
class SeenTurn:
    """One turn (API 2.3). ``offset``: from the start of the conversation to that of the turn.

    ``response``: the caller's wait before it; ``end_of_turn``: the part of that before Phonic began to answer
    (response less first audio). ``barge_in``: a user's turn that began while the assistant still spoke;
    ``overlap``: an assistant's that began before the user's had ended.
    """

    index: int
    role: str
    offset: float | None = None
    duration: float | None = None
    response: float | None = None
    model_input: float | None = None
    model_generation: float | None = None
    first_audio: float | None = None
    end_of_turn: float | None = None
    is_silent: bool = False
    is_overlap: bool = False
    is_barge_in: bool = False
    tool_calls: int = 0
    tool_failures: int = 0

    @property
    def largest_stage(self) -> Stage | None:
        """The largest known part of the response (semantics 18); None without a response."""
        if self.response is None:
            return None
        parts = (
            (self.model_input, Stage.MODEL_INPUT),
            (self.model_generation, Stage.MODEL_GENERATION),
            (self.end_of_turn, Stage.END_OF_TURN),
        )
        known = [(seconds, stage) for seconds, stage in parts if seconds is not None]
        return max(known, key=lambda part: part[0])[1] if known else Stage.UNKNOWN


@attrs.frozen(kw_only=True)
class SeenCall:
    """One conversation. ``started_at``: Unix time; ``lost``: why its timings were never seen, else None.

    ``workspace`` is None where workspaces have no names. Nothing but the state is known of a conversation that is
    watched and of which nothing was received yet.
    """

    conversation_id: str
    state: CallState
    workspace: str | None = None
    project: str | None = None
    agent: str | None = None
    origin: str | None = None
    started_at: float | None = None
    duration: float | None = None
    ended_by: str | None = None
    lost: str | None = None
    waiting_since: float | None = None
    turns: tuple[SeenTurn, ...] = ()

    @property
    def is_heard(self) -> bool:
        """Whether anything was received of it: all that was has a project, if only an unknown one."""
        return self.project is not None

    @property
    def slowest(self) -> SeenTurn | None:
        """The turn with the longest response."""
        return max((each for each in self.turns if each.response is not None), key=_response, default=None)


def _response(turn: SeenTurn) -> float:
    return turn.response or 0.0


def as_json(call: SeenCall) -> dict[str, Any]:
    """The public form of a conversation, as ``GET /api/v1/conversations/{id}`` gives it."""
    return {
        "conversation_id": call.conversation_id,
        "state": call.state.value,
        **({} if call.workspace is None else {"workspace": call.workspace}),
        "project": call.project,
        "agent": call.agent,
        "origin": call.origin,
        "started_at": rfc3339(call.started_at),
        "duration_seconds": _rounded(call.duration),
        "ended_by": call.ended_by,
        "lost": call.lost,
        "turns": [
            {
                "index": turn.index,
                "role": turn.role,
                "offset_seconds": _rounded(turn.offset),
                "duration_seconds": _rounded(turn.duration),
                "response_seconds": _rounded(turn.response),
                "model_input_seconds": _rounded(turn.model_input),
                "model_generation_seconds": _rounded(turn.model_generation),
                "first_audio_seconds": _rounded(turn.first_audio),
                "end_of_turn_seconds": _rounded(turn.end_of_turn),
                "largest_stage": turn.largest_stage,
                "silent": turn.is_silent,
                "overlap": turn.is_overlap,
                "barge_in": turn.is_barge_in,
                "tool_calls": turn.tool_calls,
                "tool_failures": turn.tool_failures,
            }
            for turn in call.turns
        ],
    }


def rfc3339(at: float | None) -> str | None:
    """Unix time as text, in UTC, to the millisecond; None if it is not known or not in the years 1 to 9999.

    Earlier releases took such times from Phonic, and their state files hold them.
    """
    if at is None:
        return None
    try:
        moment = datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def for_people(at: float | None) -> str:
    """Unix time as text, in UTC, to the second."""
    return (rfc3339(at) or "unknown")[:19].replace("T", " ")


def _rounded(seconds: float | None) -> float | None:
    """To the microsecond, by way of milliseconds as the state file does, so that both round the same way."""
    return None if seconds is None else round(round(seconds * 1000, 3) / 1000, 6)
