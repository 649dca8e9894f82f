"""Pure: increments, the output of `derive` and `finish`, which name no metric.

An increment is a key and a value, ``((Measure.ENDED, "user"), 1)``. The key is a measure, and the words by which
it is broken down. They come from closed sets, but for the names of tools. The value is 1 or more for something
that is counted, and seconds or turns for something that is measured. `exporter.metrics` maps each measure to its
metric.
"""

from enum import StrEnum

from ..enums import Field, Rejection, Role, Skipped, Stage


class Measure(StrEnum):
    """What is counted or measured. Comments name the further words of the key and the unit of a measurement."""

    # Conversations
    CONVERSATION = "conversation"  # when first seen
    ENDED = "ended"  # EndedBy
    ERROR = "error"  # EndedBy, of those in ERROR_ENDINGS
    CONVERSATION_DURATION = "conversation duration"  # seconds
    CONVERSATION_TURNS = "conversation turns"  # turns
    INTERRUPTIONS = "interruptions"
    GREETING = "greeting"  # seconds
    HANGUP_WAIT = "hang-up wait"  # seconds
    LOST = "lost"  # Lost
    TIMINGS_LOST = "timings lost"  # turns

    # Turns
    TURN = "turn"  # Role
    TURN_DURATION = "turn duration"  # Role; seconds
    MODEL_GENERATION = "model generation"  # seconds
    FIRST_AUDIO = "first audio"  # seconds
    MODEL_INPUT = "model input"  # seconds
    RESPONSE = "response"  # seconds
    OVERLAP = "overlap"
    SILENT_TURN = "silent turn"
    END_OF_TURN = "end of turn"  # seconds
    SLOW_TURN = "slow turn"  # Stage
    TOOL_RESPONSE = "tool response"  # seconds
    USER_RESPONSE = "user response"  # seconds
    BARGE_IN = "barge-in"

    # Tool calls
    TOOL_CALL = "tool call"
    TOOL_FAILURE = "tool failure"  # ToolFailure
    TOOL_COMPLETED = "tool call completed"  # name of the tool
    TOOL_FAILED = "tool call failed"  # name of the tool, ToolFailure

    # What is odd about the data
    REVISED = "revised"  # a value that changed after it was observed
    REJECTED = "rejected"  # Field, Rejection
    SKIPPED = "skipped"  # Skipped
    UNKNOWN_TIMING = "unknown timing"
    UNKNOWN_ROLE = "unknown role"
    UNKNOWN_ENDED_BY = "unknown ended_by"


Key = tuple[str, ...]
Increment = tuple[Key, float]

CONVERSATION: Increment = ((Measure.CONVERSATION,), 1)
OVERLAP: Increment = ((Measure.OVERLAP,), 1)
SILENT_TURN: Increment = ((Measure.SILENT_TURN,), 1)
TOOL_CALL: Increment = ((Measure.TOOL_CALL,), 1)
BARGE_IN: Increment = ((Measure.BARGE_IN,), 1)
SLOW_TURN: dict[Stage, Increment] = {stage: ((Measure.SLOW_TURN, stage), 1) for stage in Stage}
REVISED: Increment = ((Measure.REVISED,), 1)
UNKNOWN_TIMING: Increment = ((Measure.UNKNOWN_TIMING,), 1)
UNKNOWN_ROLE: Increment = ((Measure.UNKNOWN_ROLE,), 1)
UNKNOWN_ENDED_BY: Increment = ((Measure.UNKNOWN_ENDED_BY,), 1)
TURN: dict[Role, Increment] = {role: ((Measure.TURN, role), 1) for role in Role}
TURN_DURATION: dict[Role, Key] = {role: (Measure.TURN_DURATION, role) for role in Role}
MALFORMED: Key = (Measure.SKIPPED, Skipped.MALFORMED)
DUPLICATE_INDEX: Key = (Measure.SKIPPED, Skipped.DUPLICATE_INDEX)


def rejected(field: Field, reason: Rejection) -> Increment:
    """A value of ``field`` was rejected."""
    return ((Measure.REJECTED, field, reason), 1)
