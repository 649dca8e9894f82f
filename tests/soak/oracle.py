"""Pure: computes the final totals from the plan alone, as simply as possible.

This module knows only the simulator's plan and the public contract (names, labels, buckets, semantics). It must
not import any code of the exporter that counts. Times are whole milliseconds, so that sums are exact.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import pairwise

from exporter.simulator.scenario import FIRST_AUDIO, MODEL_GENERATION, MODEL_INPUT, Conversation, Turn

SampleKey = tuple[str, frozenset[tuple[str, str]]]
Totals = dict[SampleKey, float]
"""Values by sample name and labels (``le`` as ``repr(float)``). Missing samples are 0."""

Absences = Sequence[tuple[float, float]]
"""Windows of plan time: a conversation that begins after the start and ends by the end cannot be observed."""

_TIMING_BUCKETS = "0.05 0.1 0.15 0.2 0.25 0.3 0.4 0.5 0.6 0.8 1 1.5 2 3 5 10"
_RESPONSE_BUCKETS = "0.1 0.2 0.3 0.4 0.5 0.65 0.8 1 1.2 1.5 2 2.5 3 3.5 5 7 8 10 15 20 30 60"
_OBJECTIVE_MS = 1500
BUCKETS = {
    "phonic_conversation_greeting_seconds": _RESPONSE_BUCKETS,
    "phonic_conversation_hangup_wait_seconds": _RESPONSE_BUCKETS,
    "phonic_turn_end_of_turn_seconds": _TIMING_BUCKETS,
    "phonic_turn_tool_response_seconds": _RESPONSE_BUCKETS,
    "phonic_turn_user_response_seconds": _RESPONSE_BUCKETS,
    "phonic_conversation_duration_seconds": "5 10 30 60 120 180 300 600 900 1200 1800 2700 3600 7200",
    "phonic_conversation_turns": "1 2 3 5 8 13 20 30 50 80 130 200",
    "phonic_turn_duration_seconds": "0.25 0.5 1 2 3 5 8 13 20 30 60 120",
    "phonic_turn_model_generation_seconds": _TIMING_BUCKETS,
    "phonic_turn_first_audio_seconds": _TIMING_BUCKETS,
    "phonic_turn_model_input_seconds": "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.5 1 2.5 5",
    "phonic_turn_response_seconds": _RESPONSE_BUCKETS,
}
ERRORS = (
    "error",
    "configuration_endpoint_timed_out",
    "configuration_endpoint_error",
    "configuration_endpoint_invalid_response",
)
TIMINGS = {
    MODEL_GENERATION: "phonic_turn_model_generation_seconds",
    FIRST_AUDIO: "phonic_turn_first_audio_seconds",
    MODEL_INPUT: "phonic_turn_model_input_seconds",
}


def expected(conversations: Iterable[Conversation], absences: Absences) -> Totals:
    """Return the totals after all ``conversations`` have ended and were reconciled."""
    sheet = _Sheet()
    for conversation in conversations:
        if not is_history(conversation):
            sheet.conversation(conversation, was_watched=not was_missed(conversation, absences))
    return sheet.totals()


def is_history(conversation: Conversation) -> bool:
    """Whether the conversation ended before the simulator, and so the exporter, started."""
    return conversation.ended_ms <= 0


def was_missed(conversation: Conversation, absences: Absences) -> bool:
    """Whether the conversation began and ended while the exporter was away."""
    return any(since < conversation.created_ms and conversation.ended_ms <= until for since, until in absences)


class _Sheet:
    """Counts and observed values, each with its labels."""

    def __init__(self) -> None:
        self._counts: dict[SampleKey, int] = defaultdict(int)
        self._observed: dict[SampleKey, list[int]] = defaultdict(list)

    def conversation(self, conversation: Conversation, *, was_watched: bool) -> None:
        named = {
            "project": conversation.project.name,
            "agent": conversation.agent.name if conversation.agent else "none",
        }
        turns = conversation.turns
        self._count("phonic_conversations_total", **named)
        self._count("phonic_conversations_ended_total", **named, ended_by=conversation.ended_by)
        if conversation.ended_by in ERRORS:
            self._count("phonic_conversation_errors_total", **named, reason=conversation.ended_by)
        if not was_watched:
            self._count("phonic_exporter_conversations_lost_total", reason="never_live")
        self._observe("phonic_conversation_duration_seconds", conversation.duration_ms, **named)
        self._observe("phonic_conversation_turns", 1000 * len(turns), **named)
        self._count("phonic_interruptions_total", conversation.interruptions, **named)
        for turn in turns:
            self._count("phonic_turns_total", **named, role=turn.role)
            self._observe("phonic_turn_duration_seconds", turn.duration_ms, **named, role=turn.role)
            for call in turn.tool_calls:
                self._count("phonic_tool_calls_total", **named)
                self._count("phonic_tool_calls_completed_total", **named, tool=call.name)
                if call.failure:
                    self._count("phonic_tool_call_failures_total", **named, reason=call.failure)
                    self._count("phonic_tool_calls_failed_total", **named, tool=call.name, reason=call.failure)
            if was_watched:
                self._count("phonic_silent_turns_total", int(turn.silent), **named)
                for field, milliseconds in (turn.timings or {}).items():
                    self._observe(TIMINGS[field], milliseconds, **named)
        if turns and turns[0].role == "assistant" and conversation.started_ms is not None:
            wait = turns[0].started_ms - conversation.started_ms
            self._observe("phonic_conversation_greeting_seconds", wait, **named)
        if turns and turns[-1].role == "user" and conversation.ended_by in ("user", "user_canceled"):
            wait = conversation.ended_ms - turns[-1].ended_ms
            self._observe("phonic_conversation_hangup_wait_seconds", wait, **named)
        for before, after in pairwise(turns):
            gap = after.started_ms - before.ended_ms
            if before.role == "user" and after.role == "assistant" and not after.silent:
                if gap < 0:
                    self._count("phonic_turn_overlaps_total", **named)
                else:
                    self._observe("phonic_turn_response_seconds", gap, **named)
                    self._parts(before, after, gap, named, was_watched=was_watched)
            # That a turn was silent is only told live.
            if before.role == "assistant" and after.role == "user" and not (before.silent and was_watched):
                if gap < 0:
                    self._count("phonic_turn_barge_ins_total", **named)
                else:
                    self._observe("phonic_turn_user_response_seconds", gap, **named)

    def _parts(self, question: Turn, answer: Turn, gap: int, named: dict[str, str], *, was_watched: bool) -> None:
        """What follows from a response."""
        timings = (answer.timings or {}) if was_watched else {}
        parts = {"model_input": timings.get(MODEL_INPUT), "model_generation": timings.get(MODEL_GENERATION)}
        if FIRST_AUDIO in timings and timings[FIRST_AUDIO] <= gap:
            parts["end_of_turn"] = gap - timings[FIRST_AUDIO]
            self._observe("phonic_turn_end_of_turn_seconds", gap - timings[FIRST_AUDIO], **named)
        if gap > _OBJECTIVE_MS:
            known = {stage: length for stage, length in parts.items() if length is not None}
            largest = max(known, key=lambda stage: known[stage]) if known else "unknown"
            self._count("phonic_slow_turns_total", **named, stage=largest)
        if was_watched and (question.tool_calls or answer.tool_calls):
            self._observe("phonic_turn_tool_response_seconds", gap, **named)

    def totals(self) -> Totals:
        totals: Totals = {key: value for key, value in self._counts.items() if value}
        for (name, labels), values in self._observed.items():
            totals[f"{name}_count", labels] = len(values)
            totals[f"{name}_sum", labels] = sum(values) / 1000
            for text in (*BUCKETS[name].split(), "inf"):
                bound_ms = Decimal(text) * 1000
                below = sum(value <= bound_ms for value in values)
                totals[f"{name}_bucket", labels | {("le", repr(float(text)))}] = below
        return totals

    def _count(self, name: str, amount: int = 1, /, **labels: str) -> None:
        self._counts[name, frozenset(labels.items())] += amount

    def _observe(self, name: str, milliseconds: int, /, **labels: str) -> None:
        """Observe one value, in thousandths of the family's unit."""
        self._observed[name, frozenset(labels.items())].append(milliseconds)


def differences(wanted: Totals, got: Totals) -> list[str]:
    """Return one line for each sample that differs; missing samples are 0; buckets come last."""
    keys: Iterable[SampleKey] = sorted(
        wanted.keys() | got.keys(), key=lambda key: (key[0].endswith("_bucket"), key[0], sorted(key[1]))
    )
    return [
        f"{name}{{{', '.join(f'{label}={value!r}' for label, value in sorted(labels))}}}: "
        f"expected {wanted.get((name, labels), 0)!r}, got {got.get((name, labels), 0)!r}"
        for name, labels in keys
        if wanted.get((name, labels), 0) != got.get((name, labels), 0)
    ]
