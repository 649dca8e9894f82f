"""Pure: what a snapshot can add to what was counted, in words that know nothing of Prometheus.

An increment is ``(key, value)``: the key says what happened (with the closed label value it happened to, if
any), the value is 1 for an event and the amount in base units (seconds, turns) for a measurement.
"""

from enum import StrEnum

from ..enums import Field, Rejection, Role, Skipped


class Measure(StrEnum):
    """Kinds of increment."""

    CONVERSATION = "conversation"
    ENDED = "ended"
    ERROR = "error"
    CONVERSATION_DURATION = "conversation duration"
    CONVERSATION_TURNS = "conversation turns"
    TURN = "turn"
    TURN_DURATION = "turn duration"
    MODEL_GENERATION = "model generation"
    FIRST_AUDIO = "first audio"
    MODEL_INPUT = "model input"
    RESPONSE = "response"
    OVERLAP = "overlap"
    SILENT_TURN = "silent turn"
    INTERRUPTIONS = "interruptions"
    TOOL_CALL = "tool call"
    TOOL_FAILURE = "tool failure"
    REVISED = "revised"
    REJECTED = "rejected"
    SKIPPED = "skipped"
    LOST = "lost"
    UNKNOWN_TIMING = "unknown timing"
    UNKNOWN_ROLE = "unknown role"
    UNKNOWN_ENDED_BY = "unknown ended_by"


Key = tuple[str, ...]
Increment = tuple[Key, float]

CONVERSATION: Increment = ((Measure.CONVERSATION,), 1)
OVERLAP: Increment = ((Measure.OVERLAP,), 1)
SILENT_TURN: Increment = ((Measure.SILENT_TURN,), 1)
TOOL_CALL: Increment = ((Measure.TOOL_CALL,), 1)
REVISED: Increment = ((Measure.REVISED,), 1)
UNKNOWN_TIMING: Increment = ((Measure.UNKNOWN_TIMING,), 1)
UNKNOWN_ROLE: Increment = ((Measure.UNKNOWN_ROLE,), 1)
UNKNOWN_ENDED_BY: Increment = ((Measure.UNKNOWN_ENDED_BY,), 1)
TURN: dict[Role, Increment] = {role: ((Measure.TURN, role), 1) for role in Role}
TURN_DURATION: dict[Role, Key] = {role: (Measure.TURN_DURATION, role) for role in Role}
MALFORMED: Key = (Measure.SKIPPED, Skipped.MALFORMED)
DUPLICATE_INDEX: Key = (Measure.SKIPPED, Skipped.DUPLICATE_INDEX)


def rejected(field: Field, reason: Rejection) -> Increment:
    """One value of ``field`` was not used."""
    return ((Measure.REJECTED, field, reason), 1)
