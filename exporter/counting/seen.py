"""Pure: the turns of a conversation as pages show them, from the memory that counting has of it."""

from .derive import BARGE_IN_FLAG, OVERLAP_FLAG, SILENT_FLAG, Progress, Turn, end_of_turn, role_of
from .turns import SeenTurn


def seen_turns(progress: Progress) -> tuple[SeenTurn, ...]:
    """The turns of a conversation, in the order of their indexes.

    ``progress`` may be that of a live conversation, or the last one (`finish.finish`), which also knows how many
    tool calls failed.
    """
    return tuple(_seen(index, turn, progress.started) for index, turn in sorted(progress.turns.items()))


def _seen(index: int, turn: Turn, started: int | None) -> SeenTurn:
    flags, generation, first_audio, model_input, duration, start, response, calls, failures = turn
    return SeenTurn(
        index=index,
        role=role_of(turn).value,
        offset=None if start is None or started is None else (start - started) / 1_000_000,
        duration=_seconds(duration),
        response=_seconds(response),
        model_input=_seconds(model_input),
        model_generation=_seconds(generation),
        first_audio=_seconds(first_audio),
        end_of_turn=_seconds(end_of_turn(turn)),
        is_silent=bool(flags & SILENT_FLAG),
        is_overlap=bool(flags & OVERLAP_FLAG),
        is_barge_in=bool(flags & BARGE_IN_FLAG),
        tool_calls=calls,
        tool_failures=failures,
    )


def last_response(progress: Progress) -> float | None:
    """Seconds of the newest response; None if there is none."""
    responses = (progress.turns[index][6] for index in sorted(progress.turns, reverse=True))
    return _seconds(next((each for each in responses if each is not None), None))


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000
