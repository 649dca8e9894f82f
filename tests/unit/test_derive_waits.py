"""Why a turn was slow, and what callers wait for: each rule with one small conversation (semantics 18 and 19)."""

from typing import Any

import pytest

from exporter.counting.derive import NOTHING, Progress, derive
from exporter.counting.finish import End, finish
from exporter.counting.increments import Increment, Measure, rejected
from exporter.enums import EndedBy, Field, Lost, Rejection, Stage, ToolFailure
from exporter.phonic.schema import Analysis, Conversation, Item, Snapshot, Tool, ToolCall
from exporter.state.blob import SavedEntry, decode, encode

GENERATION, FIRST_AUDIO, MODEL_INPUT = (
    "model_generation_time",
    "phonic_api_output_to_first_audio_chunk",
    "phonic_api_output_to_modal_input",
)
BARGE_IN = ((Measure.BARGE_IN,), 1)


def at(seconds: float) -> str:
    return f"2025-07-30T23:{45 + int(seconds // 60):02d}:{seconds % 60:06.3f}Z"


def turn(index: int, role: str, start: float | None, duration: float | None, **fields: Any) -> Item:
    return Item(
        item_idx=index,
        role=role,
        started_at=None if start is None else at(start),
        duration_ms=None if duration is None else 1000 * duration,
        **fields,
    )


def question(**fields: Any) -> Item:
    """A user's turn 0 that ends 3 s after the start."""
    return turn(0, "user", 1, 2, **fields)


def answer(wait: float, *, duration: float | None = 1, **fields: Any) -> Item:
    """Turn 1, which begins ``wait`` seconds after the question ends."""
    return turn(1, "assistant", 3 + wait, duration, **fields)


def timings(model_input: float | None, generation: float | None, first_audio: float | None) -> dict[str, Any]:
    """In ms; those that are not None."""
    given = {MODEL_INPUT: model_input, GENERATION: generation, FIRST_AUDIO: first_audio}
    return {"timings": {name: value for name, value in given.items() if value is not None}}


def snapshot(*items: Item, **fields: Any) -> Snapshot:
    return Snapshot(conversation=Conversation("conv_1", items=list(items), **fields))


def step(progress: Progress, *snapshots: Snapshot, objective: float = 1.5) -> tuple[Progress, list[Increment]]:
    increments: list[Increment] = []
    for each in snapshots:
        progress, added = derive(progress, each, objective=objective)
        increments += added
    return progress, increments


def of(measures: Measure | tuple[Measure, ...], increments: list[Increment]) -> list[Increment]:
    wanted = (measures,) if isinstance(measures, Measure) else measures
    return [each for each in increments if each[0][0] in wanted]


def stages(increments: list[Increment]) -> list[str]:
    return [key[1] for key, _ in of((Measure.SLOW_TURN,), increments)]


def values(measure: Measure, increments: list[Increment]) -> list[float]:
    return [value for key, value in increments if key[0] == measure]


# --- end of turn


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["response first", "timing first"])
def test_an_end_of_turn_is_the_response_less_the_first_audio_whichever_comes_first(order: tuple[int, int]) -> None:
    parts = (
        snapshot(question(), answer(1)),
        snapshot(question(), turn(1, "assistant", None, 1, **timings(120, 450, 570))),
    )
    whole = snapshot(question(), answer(1, **timings(120, 450, 570)))
    _, increments = step(NOTHING, *(parts[each] for each in order), whole, whole)
    assert values(Measure.END_OF_TURN, increments) == [0.43]


def test_a_first_audio_longer_than_the_response_is_rejected_once() -> None:
    odd = snapshot(question(), answer(0.5, **timings(120, 450, 570)))
    _, increments = step(NOTHING, odd, odd)
    assert of((Measure.END_OF_TURN, Measure.REJECTED), increments) == [
        rejected(Field.END_OF_TURN, Rejection.NEGATIVE)
    ]


def test_an_overlap_and_a_turn_without_a_question_have_no_parts() -> None:
    early = snapshot(question(), answer(-0.5, **timings(120, 450, 570)))
    alone = snapshot(turn(1, "assistant", 9, 1, **timings(120, 450, 570)))
    for each in (early, alone):
        _, increments = step(NOTHING, each, objective=0.1)
        assert of((Measure.END_OF_TURN, Measure.SLOW_TURN, Measure.TOOL_RESPONSE), increments) == []


# --- slow turns


@pytest.mark.parametrize(
    ("parts", "stage"),
    [
        ((900, 450, 1350), Stage.MODEL_INPUT),
        ((120, 1450, 1570), Stage.MODEL_GENERATION),
        ((120, 450, 570), Stage.END_OF_TURN),
        ((1000, 1000, 1000), Stage.MODEL_INPUT),
    ],
)
def test_a_slow_turn_counts_once_by_its_largest_part(parts: tuple[int, int, int], stage: Stage) -> None:
    slow = snapshot(question(), answer(2, **timings(*parts)))
    progress, increments = step(NOTHING, slow, slow)
    assert stages(increments) == [stage]
    _, ended = finish(progress, End(record=None))
    assert stages(ended) == []


@pytest.mark.parametrize(("wait", "count"), [(1.5, 0), (1.501, 1)])
def test_a_turn_is_slow_above_the_objective_as_the_bucket_at_it_has_it(wait: float, count: int) -> None:
    _, increments = step(NOTHING, snapshot(question(), answer(wait, **timings(120, 450, 570))))
    assert len(stages(increments)) == count


@pytest.mark.parametrize(
    ("parts", "stage"),
    [
        ((None, None, None), Stage.UNKNOWN),
        ((None, 450, None), Stage.MODEL_GENERATION),
        ((None, 450, 570), Stage.END_OF_TURN),
        ((120, None, 2500), Stage.MODEL_INPUT),
    ],
)
def test_a_slow_turn_without_all_timings_counts_at_the_end_by_what_is_known(
    parts: tuple[float | None, float | None, float | None], stage: Stage
) -> None:
    later = turn(2, "user", 9, 1)
    progress, increments = step(NOTHING, snapshot(question(), answer(2, **timings(*parts)), later))
    assert stages(increments) == []
    _, ended = finish(progress, End(record=snapshot(question(), answer(2), later)))
    assert stages(ended) == [stage]


def test_a_timing_that_comes_after_the_next_turn_still_tells_the_part() -> None:
    later = turn(2, "user", 9, 1)
    untimed = snapshot(question(), answer(2), later)
    _, increments = step(NOTHING, untimed, snapshot(question(), answer(2, **timings(120, 1450, 1570)), later))
    assert stages(increments) == [Stage.MODEL_GENERATION]


def test_slow_responses_of_a_call_that_was_never_watched_have_no_known_part() -> None:
    record = snapshot(question(), answer(2), analysis=Analysis(latencies_ms=[2000.0, 1500.0, 1501.0]))
    _, ended = finish(NOTHING, End(record=record, lost=Lost.NEVER_LIVE))
    assert stages(ended) == [Stage.UNKNOWN, Stage.UNKNOWN]
    assert values(Measure.TOOL_RESPONSE, ended) == []


def test_a_turn_is_judged_by_the_objective_at_its_time() -> None:
    fast = snapshot(question(), answer(1.2, **timings(120, 450, 570)))
    progress, first = step(NOTHING, fast, objective=1.5)
    _, second = step(progress, fast, objective=1.0)
    assert stages(first + second) == []


# --- responses with tools


@pytest.mark.parametrize(
    ("asked", "answered"),
    [({"tool_call_ids": ["a"]}, {}), ({}, {"tool_call_ids": ["a"]}), ({}, {"tool_calls": [ToolCall(id="a")]})],
    ids=["in the question", "in the answer", "in the record"],
)
def test_a_response_with_tools_counts_once_as_a_part_of_all_responses(
    asked: dict[str, Any], answered: dict[str, Any]
) -> None:
    late = snapshot(question(**asked), answer(1, **answered))
    _, increments = step(NOTHING, snapshot(question(), answer(1)), late, late)
    assert (values(Measure.RESPONSE, increments), values(Measure.TOOL_RESPONSE, increments)) == ([1.0], [1.0])


def test_tools_of_other_turns_make_no_response_with_tools() -> None:
    calls = {"tool_call_ids": ["a"]}
    _, increments = step(
        NOTHING, snapshot(question(), answer(1), turn(2, "user", 5, 1, **calls), turn(3, "assistant", 5.5, 1))
    )
    assert values(Measure.TOOL_RESPONSE, increments) == []


# --- what the user does


def test_a_user_response_is_from_the_end_of_the_assistants_turn_to_the_start_of_the_next() -> None:
    both = snapshot(turn(0, "assistant", 1, 2), turn(1, "user", 3.25, 1))
    _, increments = step(NOTHING, both, both)
    assert of((Measure.USER_RESPONSE, Measure.BARGE_IN), increments) == [((Measure.USER_RESPONSE,), 0.25)]


def test_a_barge_in_counts_once_against_the_settled_length() -> None:
    growing = snapshot(turn(0, "assistant", 1, 0.5))
    both = snapshot(turn(0, "assistant", 1, 2), turn(1, "user", 2.999, 1))
    _, increments = step(NOTHING, growing, both, both, growing)
    assert of((Measure.USER_RESPONSE, Measure.BARGE_IN), increments) == [BARGE_IN]


def test_a_silent_turn_of_the_assistant_is_not_interrupted() -> None:
    silent = turn(0, "assistant", 1, 2, assistant_chose_not_to_respond=True)
    _, increments = step(NOTHING, snapshot(silent, turn(1, "user", 2, 1)))
    assert of((Measure.USER_RESPONSE, Measure.BARGE_IN), increments) == []


def test_a_user_response_over_ten_minutes_is_rejected_once() -> None:
    both = snapshot(turn(0, "assistant", 1, 2), turn(1, "user", 604, 1))
    _, increments = step(NOTHING, both, both)
    assert of((Measure.USER_RESPONSE, Measure.REJECTED), increments) == [
        rejected(Field.USER_RESPONSE, Rejection.TOO_LARGE)
    ]


# --- greetings


def test_a_greeting_is_from_the_start_of_the_conversation_to_the_assistants_first_turn() -> None:
    ringing, answered = snapshot(turn(0, "assistant", 1.5, 2)), snapshot(started_at=at(0.25))
    _, increments = step(NOTHING, ringing, answered, answered)
    assert values(Measure.GREETING, increments) == [1.25]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([turn(0, "user", 1, 1)], []),
        ([turn(1, "assistant", 1, 1)], []),
        ([turn(0, "assistant", None, 1)], []),
        ([turn(0, "assistant", 0.1, 1)], [rejected(Field.GREETING, Rejection.NEGATIVE)]),
        ([turn(0, "assistant", 601, 1)], [rejected(Field.GREETING, Rejection.TOO_LARGE)]),
    ],
    ids="user-first not-the-first no-start before-the-start too-late".split(),
)
def test_no_other_turn_is_a_greeting(items: list[Item], expected: list[Increment]) -> None:
    both = snapshot(*items, started_at=at(0.25))
    _, increments = step(NOTHING, both, both)
    assert of((Measure.GREETING, Measure.REJECTED), increments) == expected


def test_a_start_that_is_no_time_is_rejected_once() -> None:
    bad = snapshot(turn(0, "assistant", 1, 1), started_at="yesterday", ended_at="tomorrow")
    _, increments = step(NOTHING, bad, bad)
    assert of(Measure.REJECTED, increments) == [
        rejected(Field.STARTED_AT, Rejection.WRONG_TYPE), rejected(Field.ENDED_AT, Rejection.WRONG_TYPE)
    ]  # fmt: skip


# --- hanging up


def hangup(
    *items: Item, ended_by: str = "user", ended_at: float | None = 10.0, live: bool = False
) -> list[Increment]:
    """What the end adds of the wait before it, the end being told by the record or by the live feed alone."""
    end = snapshot(
        *items,
        ended_at=None if ended_at is None else at(ended_at),
        **{"end_reason" if live else "ended_by": ended_by},
    )
    progress, _ = step(NOTHING, end if live else snapshot(*items))
    _, increments = finish(progress, End(record=None if live else end))
    return of((Measure.HANGUP_WAIT, Measure.REJECTED), increments)


@pytest.mark.parametrize("ended_by", ["user", "user_canceled"])
@pytest.mark.parametrize("live", [False, True])
def test_a_caller_who_hangs_up_after_the_own_turn_waited_from_its_end(ended_by: str, live: bool) -> None:
    assert hangup(question(), ended_by=ended_by, live=live) == [((Measure.HANGUP_WAIT,), 7.0)]


@pytest.mark.parametrize(
    ("items", "fields"),
    [
        ([question()], {"ended_by": "assistant"}),
        ([question()], {"ended_by": "error"}),
        ([question(), answer(1)], {}),
        ([], {}),
        ([question(assistant_chose_not_to_respond=True)], {}),
        ([turn(0, "user", None, 1)], {}),
        ([turn(0, "user", 1, None)], {}),
        ([question()], {"ended_at": None}),
    ],
    ids="assistant error answered no-turns silent no-start no-length no-end".split(),
)
def test_no_other_end_is_a_wait(items: list[Item], fields: dict[str, Any]) -> None:
    assert hangup(*items, **fields) == []


@pytest.mark.parametrize(("ended_at", "reason"), [(2.9, Rejection.NEGATIVE), (604, Rejection.TOO_LARGE)])
def test_a_wait_out_of_range_is_rejected(ended_at: float, reason: Rejection) -> None:
    assert hangup(question(), ended_at=ended_at) == [rejected(Field.HANGUP_WAIT, reason)]


def test_the_last_turn_is_the_one_with_the_highest_index() -> None:
    assert hangup(answer(1), question()) == []


# --- tools by name


def test_calls_of_a_record_count_by_tool_once_for_each_id_and_failures_sum_up_to_all_failures() -> None:
    search, nameless = Tool(name="search"), Tool()
    record = snapshot(
        question(tool_calls=[ToolCall(id="a"), ToolCall(id="b", tool=nameless, timed_out=True)]),
        answer(
            1,
            tool_calls=[
                ToolCall(id="a", tool=search, response_status_code=500),
                ToolCall(id="a", tool=Tool(name="other"), timed_out=True),
                ToolCall(tool=search), ToolCall(tool=search, error_message="refused"), ToolCall(),
            ],
        ),
    )  # fmt: skip
    _, ended = finish(NOTHING, End(record=record))
    completed = sorted(key[1] for key, _ in of(Measure.TOOL_COMPLETED, ended))
    assert completed == ["search", "search", "search", "unknown", "unknown"]
    assert sorted(key[1:] for key, _ in of(Measure.TOOL_FAILED, ended)) == [
        ("search", ToolFailure.ERROR), ("search", ToolFailure.HTTP_5XX), ("unknown", ToolFailure.TIMEOUT)
    ]  # fmt: skip
    assert sorted(key[1] for key, _ in of(Measure.TOOL_FAILURE, ended)) == ["error", "http_5xx", "timeout"]


def test_the_name_of_a_tool_is_bounded_and_can_be_encoded() -> None:
    record = snapshot(question(tool_calls=[ToolCall(id="a", tool=Tool(name="\ud800" * 900))]))
    _, ended = finish(NOTHING, End(record=record))
    assert [key[1] for key, _ in of(Measure.TOOL_COMPLETED, ended)] == ["?" * 200]


# --- upgrades


def test_a_state_file_of_an_earlier_release_adds_what_it_did_not_count_and_no_response_twice() -> None:
    """Of a turn it has flags and four values only; the next snapshot brings the rest."""
    whole = snapshot(
        question(tool_call_ids=["a"]),
        answer(2, **timings(120, 450, 570)),
        turn(2, "user", 5.5, 1),
        started_at=at(0),
    )
    progress, _ = step(NOTHING, whole)
    old = Progress(
        seen=True,
        turns={index: (each[0] & 0x1FFF, *each[1:5], None, None, 0, 0) for index, each in progress.turns.items()},
        tools=progress.tools,
        position=progress.position,
    )
    again, increments = step(old, whole)
    assert {key[0] for key, _ in increments} == {
        Measure.END_OF_TURN, Measure.SLOW_TURN, Measure.TOOL_RESPONSE, Measure.BARGE_IN
    }  # fmt: skip
    assert again == progress


def test_progress_goes_on_from_a_state_file_without_counting_again() -> None:
    whole = snapshot(
        turn(0, "assistant", 1, 1), turn(1, "user", 1.5, 1, tool_call_ids=["a"]),
        turn(2, "assistant", 9, 1, **timings(1, 2, None)), started_at=at(0), ended_at=at(12), end_reason="user",
    )  # fmt: skip
    progress, _ = step(NOTHING, whole)
    saved = SavedEntry(
        project="", agent="", origin="", labels={}, label_values=(), progress=progress, has_ended=False
    )
    restored = decode(encode(saved)).progress
    assert restored == progress
    assert step(restored, whole) == (progress, [])
    assert progress.end_reason is EndedBy.USER
