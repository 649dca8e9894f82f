"""Conversations as hypothesis draws them: what happened, and every message Phonic would have sent about it.

Rules for this file: it imports nothing of the exporter, so that what tests expect is counted from the plan of a
conversation and never from the code under test. Times are whole milliseconds, so expected sums are exact.
"""

import json
from collections import Counter, defaultdict
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import attrs
from hypothesis import strategies as st

Json = dict[str, Any]
START = datetime(2025, 7, 30, 23, 45, tzinfo=UTC)
GENERATION, FIRST_AUDIO, MODEL_INPUT = (
    "model_generation_time",
    "phonic_api_output_to_first_audio_chunk",
    "phonic_api_output_to_modal_input",
)
TIMING_METRICS = {
    GENERATION: "phonic_turn_model_generation_seconds",
    FIRST_AUDIO: "phonic_turn_first_audio_seconds",
    MODEL_INPUT: "phonic_turn_model_input_seconds",
}
FAILURES: dict[str, Json] = {
    "": {"timed_out": False, "response_status_code": 200, "error_message": None},
    "timeout": {"timed_out": True, "response_status_code": None, "error_message": "timed out"},
    "http_4xx": {"timed_out": False, "response_status_code": 404, "error_message": "no such thing"},
    "http_5xx": {"timed_out": None, "response_status_code": 503, "error_message": None},
    "error": {"timed_out": False, "response_status_code": None, "error_message": "refused"},
}
ERROR_ENDINGS = (
    "error",
    "configuration_endpoint_timed_out",
    "configuration_endpoint_error",
    "configuration_endpoint_invalid_response",
)
ENDINGS = ("user", "user_canceled", "assistant", "assistant_silence_limit_reached", *ERROR_ENDINGS)
OBJECTIVE_MS = 1500
TOOLS = ("search", "book a table", 'é\n"', None)


@attrs.frozen(kw_only=True)
class Turn:
    """One turn as it happened. ``lengths_ms`` is its duration in one message after the other, rising.

    ``tools`` maps the ids of its calls to the name of the tool, None if the record lacks it, and how each failed
    ("" for not at all). ``timings_late``: they arrive one message after the turn itself.
    """

    role: str
    start_ms: int
    lengths_ms: tuple[int, ...]
    timings: dict[str, float] = attrs.Factory(dict)
    timings_late: bool = False
    is_silent: bool = False
    tools: dict[str, tuple[str | None, str]] = attrs.Factory(dict)

    @property
    def end_ms(self) -> int:
        return self.start_ms + self.lengths_ms[-1]


@attrs.frozen(kw_only=True)
class Stage:
    """How far a conversation had come at one message: its newest turn (-1: none yet), and how far that was."""

    newest: int
    length_ms: int = 0
    has_timings: bool = False


@attrs.frozen(kw_only=True)
class History:
    """A whole conversation as it happened.

    ``answered_ms``: its start, from which Phonic counts; None if it never says. ``hangs_up_after_ms``: from the
    end of its longest turn to its end.
    """

    id: str
    agent: str
    turns: tuple[Turn, ...]
    ended_by: str
    interruptions: int
    tells_duration: bool = True
    answered_ms: int | None = 0
    hangs_up_after_ms: int = 0

    @property
    def labels(self) -> tuple[str, str]:
        return ("proj_1", self.agent)

    def stages(self) -> list[Stage]:
        """What each message shows, in order: the list grows turn by turn, the newest turn's length rises."""
        stages = [Stage(newest=-1)]
        for at, turn in enumerate(self.turns):
            stages += [
                Stage(newest=at, length_ms=length, has_timings=step > 0 or not turn.timings_late)
                for step, length in enumerate(turn.lengths_ms)
            ]
        if self.turns:
            stages.append(attrs.evolve(stages[-1], has_timings=True))
        return stages

    def snapshots(self) -> list[Json]:
        """The conversation object of each live message."""
        return [self._snapshot(stage) for stage in self.stages()]

    def _snapshot(self, stage: Stage) -> Json:
        items = []
        for at, turn in enumerate(self.turns[: stage.newest + 1]):
            is_newest = at == stage.newest
            item = {
                "id": f"{self.id}-{at}",
                "item_idx": at,
                "role": turn.role,
                "text": "what was said",
                "duration_ms": stage.length_ms if is_newest else turn.lengths_ms[-1],
                "started_at": iso(turn.start_ms),
                "assistant_chose_not_to_respond": turn.is_silent,
                "tool_call_ids": list(turn.tools),
            }
            if turn.timings and (stage.has_timings or not is_newest):
                item["timings"] = turn.timings
            items.append(item)
        return {
            "id": self.id,
            "agent": {"id": f"id of {self.agent}", "name": self.agent, "is_deleted": False},
            "project_id": "proj_1",
            "origin": "inbound",
            "duration_ms": self.duration_ms(stage) if self.tells_duration else None,
            "started_at": None if self.answered_ms is None else iso(self.answered_ms),
            "ended_at": None,
            "items": items,
        }

    def duration_ms(self, stage: Stage) -> int:
        """Length of the conversation at a stage; it need not rise while a turn runs beside a longer one."""
        before = max((turn.end_ms for turn in self.turns[: max(stage.newest, 0)]), default=0)
        return before if stage.newest < 0 else max(before, self.turns[stage.newest].start_ms + stage.length_ms)

    @property
    def ended_ms(self) -> int:
        return self.duration_ms(self.stages()[-1]) + self.hangs_up_after_ms

    def record(self) -> Json:
        """The REST record after the end."""
        return {
            "id": self.id,
            "agent": {"id": f"id of {self.agent}", "name": self.agent, "is_deleted": False},
            "project": {"id": "proj_1", "name": "proj_1"},
            "origin": "inbound",
            "duration_ms": self.duration_ms(self.stages()[-1]) if self.tells_duration else None,
            "started_at": None if self.answered_ms is None else iso(self.answered_ms),
            "ended_at": iso(self.ended_ms),
            "ended_by": self.ended_by,
            "analysis": {
                "latencies_ms": [gap for _, gap in self.gaps(()) if gap >= 0],
                "interruptions_count": self.interruptions,
            },
            "items": [
                {
                    "item_idx": at,
                    "role": turn.role,
                    "duration_ms": turn.lengths_ms[-1],
                    "started_at": iso(turn.start_ms),
                    "tool_calls": [
                        {"id": call, "tool": {"id": "tool_1", "name": name}, **FAILURES[how]}
                        for call, (name, how) in turn.tools.items()
                    ],
                }
                for at, turn in enumerate(self.turns)
            ],
        }

    def gaps(self, silent: tuple[int, ...]) -> list[tuple[int, int]]:
        """(turn, ms from the user's end to the assistant's start) of each response, without ``silent`` turns."""
        return [
            (at, turn.start_ms - before.end_ms)
            for at, (before, turn) in enumerate(zip(self.turns, self.turns[1:], strict=False), start=1)
            if (before.role, turn.role) == ("user", "assistant") and at not in silent
        ]

    def silent(self, newest: int) -> tuple[int, ...]:
        return tuple(at for at, turn in enumerate(self.turns[: newest + 1]) if turn.is_silent)


def iso(ms: int) -> str:
    """Milliseconds after the start as Phonic writes a time."""
    return (START + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def frame(snapshot: Json) -> str:
    """A live message as it comes off the socket."""
    return json.dumps({"type": "conversation-updated", "conversation": snapshot})


Series = tuple[str, tuple[str, ...]]


class Expected:
    """Totals counted from plans: counters by name and labels, measurements in ms one by one."""

    def __init__(self) -> None:
        self.counts: Counter[Series] = Counter()
        self.measured: defaultdict[Series, list[float]] = defaultdict(list)

    def conversation(
        self,
        history: History,
        seen: Stage | None,
        *,
        finished: bool = False,
        record: bool = False,
        lost: str | None = None,
    ) -> None:
        """Add what one conversation amounts to.

        ``seen`` is the furthest stage that arrived live, None for none; ``record``: REST completed it.
        """
        if seen is None and not finished:
            return
        own = history.labels
        self.counts["phonic_conversations_total", own] += 1
        turns = history.turns
        newest = len(turns) - 1 if record else seen.newest if seen else -1
        for at, turn in enumerate(turns[: newest + 1]):
            self.counts["phonic_turns_total", (*own, turn.role)] += 1
            if record or at < newest:
                self._measure("phonic_turn_duration_seconds", (*own, turn.role), turn.lengths_ms[-1])
            elif finished and seen is not None:
                self._measure("phonic_turn_duration_seconds", (*own, turn.role), seen.length_ms)
            if seen is not None and (at < seen.newest or (at == seen.newest and seen.has_timings)):
                for key, value in turn.timings.items():
                    self._measure(TIMING_METRICS[key], own, value)
        silent = history.silent(seen.newest) if seen else ()
        self.counts["phonic_silent_turns_total", own] += len(silent)
        for at, gap in history.gaps(silent):
            if at <= newest and gap < 0:
                self.counts["phonic_turn_overlaps_total", own] += 1
            elif at <= newest:
                self._measure("phonic_turn_response_seconds", own, gap)
                if lost is None:
                    self._parts(history, seen, at, gap, finished=finished)
                elif gap > OBJECTIVE_MS:
                    self.counts["phonic_slow_turns_total", (*own, "unknown")] += 1
        for at, (before, turn) in enumerate(pairwise(turns), start=1):
            if at <= newest and (before.role, turn.role) == ("assistant", "user") and at - 1 not in silent:
                gap = turn.start_ms - before.end_ms
                if gap < 0:
                    self.counts["phonic_turn_barge_ins_total", own] += 1
                else:
                    self._measure("phonic_turn_user_response_seconds", own, gap)
        if newest >= 0 and turns[0].role == "assistant" and history.answered_ms is not None:
            wait = turns[0].start_ms - history.answered_ms
            if wait < 0:
                self._rejected("greeting", "negative")
            else:
                self._measure("phonic_conversation_greeting_seconds", own, wait)
        calls = {call: how for turn in turns[: newest + 1] for call, how in turn.tools.items()}
        self.counts["phonic_tool_calls_total", own] += len(calls)
        if finished:
            self._ending(history, seen, newest, calls, record=record)
        if lost:
            self.counts["phonic_exporter_conversations_lost_total", (lost,)] += 1
        if seen is None:
            missed = sum(turn.role == "assistant" for turn in turns[: newest + 1])
            self.counts["phonic_exporter_handover_timings_lost_total", ()] += missed

    def _parts(self, history: History, seen: Stage | None, at: int, gap: float, *, finished: bool) -> None:
        """What follows from the response of turn ``at``, of a conversation that was watched."""
        own, turn, before = history.labels, history.turns[at], history.turns[at - 1]
        is_timed = seen is not None and (at < seen.newest or (at == seen.newest and seen.has_timings))
        timings = turn.timings if is_timed else {}
        parts = {"model_input": timings.get(MODEL_INPUT), "model_generation": timings.get(GENERATION)}
        if FIRST_AUDIO in timings:
            rest = gap - timings[FIRST_AUDIO]
            if rest < 0:
                self._rejected("end_of_turn", "negative")
            else:
                self._measure("phonic_turn_end_of_turn_seconds", own, rest)
                parts["end_of_turn"] = rest
        if gap > OBJECTIVE_MS and (finished or len(timings) == 3):
            known = {stage: length for stage, length in parts.items() if length is not None}
            stage = max(known, key=lambda each: known[each]) if known else "unknown"
            self.counts["phonic_slow_turns_total", (*own, stage)] += 1
        if turn.tools or before.tools:
            self._measure("phonic_turn_tool_response_seconds", own, gap)

    def _rejected(self, field: str, reason: str) -> None:
        self.counts["phonic_exporter_rejected_values_total", (field, reason)] += 1

    def _ending(
        self,
        history: History,
        seen: Stage | None,
        newest: int,
        calls: dict[str, tuple[str | None, str]],
        *,
        record: bool,
    ) -> None:
        own = history.labels
        ended_by = history.ended_by if record else "unknown"
        self.counts["phonic_conversations_ended_total", (*own, ended_by)] += 1
        if ended_by in ERROR_ENDINGS:
            self.counts["phonic_conversation_errors_total", (*own, ended_by)] += 1
        last = history.stages()[-1] if record else seen
        if last is not None and history.tells_duration:
            self._measure("phonic_conversation_duration_seconds", own, history.duration_ms(last))
        self._measure("phonic_conversation_turns", own, 1000 * (newest + 1))
        if record:
            self.counts["phonic_interruptions_total", own] += history.interruptions
            for name, how in calls.values():
                self.counts["phonic_tool_calls_completed_total", (*own, name or "unknown")] += 1
                if how:
                    self.counts["phonic_tool_call_failures_total", (*own, how)] += 1
                    self.counts["phonic_tool_calls_failed_total", (*own, name or "unknown", how)] += 1
            if ended_by in ("user", "user_canceled") and history.turns and history.turns[-1].role == "user":
                self._measure(
                    "phonic_conversation_hangup_wait_seconds", own, history.ended_ms - history.turns[-1].end_ms
                )

    def _measure(self, name: str, labels: tuple[str, ...], ms: float) -> None:
        self.measured[name, labels].append(ms)

    def totals(self, buckets: dict[str, tuple[float, ...]]) -> dict[Series, tuple[int, ...]]:
        """Non-zero series: a counter's total; a histogram's sum in billionths and its count in each bucket."""
        totals: dict[Series, tuple[int, ...]] = {
            series: (count,) for series, count in self.counts.items() if count
        }
        for (name, labels), values in self.measured.items():
            bounds = buckets[name]
            counts = [0] * (len(bounds) + 1)
            for ms in values:
                counts[sum(bound < ms / 1000 for bound in bounds)] += 1
            totals[name, labels] = (sum(round(ms * 1_000_000) for ms in values), *counts)
        return totals


# Made once: a strategy made at each draw is checked and measured again each time, which costs more than the draw.
_timing = st.integers(0, 60_000) | st.integers(0, 8_000_000).map(lambda eighths: eighths / 16)
_number_of_turns = st.integers(0, 5)
_role = st.sampled_from(("user", "assistant"))
_pause_ms = st.integers(-900, 4_000)
_lengths_ms = st.lists(st.integers(0, 30_000), min_size=1, max_size=3)
_timings = st.dictionaries(st.sampled_from(tuple(TIMING_METRICS)), _timing)
_yes_or_no = st.booleans()
_one_in_five = st.integers(0, 4)
_calls = st.lists(st.tuples(st.sampled_from(TOOLS), st.sampled_from(tuple(FAILURES))), max_size=2)


@st.composite
def _turns(draw: st.DrawFn) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    end = 0
    for at in range(draw(_number_of_turns)):
        role = draw(_role)
        is_assistant = role == "assistant"
        turn = Turn(
            role=role,
            start_ms=max(0, end + draw(_pause_ms)),
            lengths_ms=tuple(sorted(draw(_lengths_ms))),
            timings=draw(_timings) if is_assistant else {},
            timings_late=draw(_yes_or_no),
            is_silent=is_assistant and draw(_one_in_five) == 0,
            tools={f"call {at}.{n}": call for n, call in enumerate(draw(_calls))},
        )
        turns.append(turn)
        end = turn.end_ms
    return tuple(turns)


def histories(conversation_id: str = "conv_1") -> st.SearchStrategy[History]:
    """Whole conversations in which no value is revised and nothing vanishes."""
    return st.builds(
        History,
        id=st.just(conversation_id),
        agent=st.sampled_from(("support", "sales")),
        turns=_turns(),
        ended_by=st.sampled_from(ENDINGS),
        interruptions=st.integers(0, 3),
        tells_duration=st.booleans(),
        answered_ms=st.none() | st.integers(0, 3_000),
        hangs_up_after_ms=st.integers(0, 30_000),
    )


def deliveries(count: int) -> st.SearchStrategy[list[int]]:
    """Which of ``count`` messages arrive in which order: any lost, repeated or late, but the last one arrives."""
    last = count - 1
    return st.tuples(
        st.lists(st.integers(0, last), max_size=2 * count), st.lists(st.integers(0, last), max_size=count)
    ).map(lambda parts: [*parts[0], last, *parts[1]])


JUNK: tuple[Any, ...] = (
    None, True, False, -1, -0.5, 0, 1.5, int(1e30), 1e300, float("nan"), float("inf"), float("-inf"),
    "", "1", "\ud800", "\U0001f600\"\n\\}", [], [[]], [None, 7, "x", {}], {}, {"id": 7, "name": []}, {"": None},
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, documents: st.SearchStrategy[Json]) -> Json:
    """A document in which up to four places hold something else, or nothing at all."""
    document: Json = json.loads(json.dumps(draw(documents)))
    for _ in range(draw(st.integers(1, 4))):
        place: Any = document
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            below = place[key]
            if isinstance(below, dict | list) and below and draw(st.integers(0, 3)):
                place = below
                continue
            if draw(st.integers(0, 4)):
                place[key] = deepcopy(draw(st.sampled_from(JUNK)))  # a copy, because it may be damaged further
            else:
                del place[key]
            break
    return document
