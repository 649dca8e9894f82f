"""Each rule of what a snapshot adds, with one small conversation."""

from collections.abc import Iterable
from math import inf, nan
from time import process_time
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.counting.derive import LARGEST_INDEX, NOTHING, LiveState, Progress, derive, index_of, parse_time
from exporter.counting.finish import End
from exporter.counting.finish import finish as finish_
from exporter.counting.increments import Increment, Measure, rejected
from exporter.counting.seen import seen_turns
from exporter.enums import EndedBy, Field, Lost, Rejection, Role, ToolFailure
from exporter.phonic.schema import Analysis, BadValue, Conversation, Item, Snapshot, ToolCall

TIMINGS: dict[str, float | None] = {
    "model_generation_time": 450,
    "phonic_api_output_to_first_audio_chunk": 570,
    "phonic_api_output_to_modal_input": 120,
}
GENERATION, FIRST_AUDIO = (Measure.MODEL_GENERATION,), (Measure.FIRST_AUDIO,)
RESPONSE, OVERLAP, SILENT = (Measure.RESPONSE,), (Measure.OVERLAP,), (Measure.SILENT_TURN,)
REVISED, TOOL_CALL = (Measure.REVISED,), (Measure.TOOL_CALL,)


def at(seconds: float) -> str:
    return f"2025-07-30T23:45:{seconds:06.3f}Z"


def turn(index: int | None, role: str = "assistant", **fields: Any) -> Item:
    return Item(item_idx=index, role=role, **fields)


def snapshot(*items: Item, duration_ms: float | None = None, **fields: Any) -> Snapshot:
    return Snapshot(conversation=Conversation("conv_1", items=list(items), duration_ms=duration_ms, **fields))


def step(progress: Progress, *snapshots: Snapshot) -> tuple[Progress, list[Increment]]:
    """Progress after the snapshots, and what all of them added."""
    increments: list[Increment] = []
    for each in snapshots:
        progress, added = derive(progress, each)
        increments += added
    return progress, increments


def added(*snapshots: Snapshot) -> list[Increment]:
    """What snapshots add to a conversation already known, without the turns themselves."""
    _, increments = step(Progress(seen=True), *snapshots)
    return [(key, value) for key, value in increments if key[0] != Measure.TURN]


def finish(progress: Progress, end: End) -> list[Increment]:
    """What the end adds."""
    _, increments = finish_(progress, end)
    return increments


def rejections(increments: Iterable[Increment]) -> list[tuple[str, ...]]:
    return [key[1:] for key, _ in increments if key[0] == Measure.REJECTED]


# --- conversations and turns


def test_a_conversation_counts_once_and_each_turn_when_first_seen_with_its_role() -> None:
    first = snapshot(turn(0), turn(1, "user"))
    progress, increments = step(NOTHING, first)
    assert increments == [
        ((Measure.CONVERSATION,), 1),
        ((Measure.TURN, Role.ASSISTANT), 1),
        ((Measure.TURN, Role.USER), 1),
    ]
    progress, increments = step(progress, first, snapshot(turn(0), turn(1, "user"), turn(2)))
    assert increments == [((Measure.TURN, Role.ASSISTANT), 1)]


def test_a_turn_keeps_the_role_it_had_when_first_seen() -> None:
    before, after = snapshot(turn(0, "user"), turn(1)), snapshot(turn(0, duration_ms=2000.0), turn(1))
    _, increments = step(NOTHING, before, after)
    assert increments[-1] == ((Measure.TURN_DURATION, Role.USER), 2.0)
    assert [key for key, _ in increments].count((Measure.TURN, Role.ASSISTANT)) == 1


def test_an_unknown_role_is_other_and_counted_as_drift() -> None:
    _, increments = step(Progress(seen=True), snapshot(turn(0, "robot"), turn(1, role=None)))  # type: ignore[arg-type]
    assert increments == [((Measure.TURN, Role.OTHER), 1), ((Measure.UNKNOWN_ROLE,), 1)] * 2


def test_vanished_turns_stay_counted_and_return_without_counting_again() -> None:
    three = snapshot(turn(0), turn(1, "user"), turn(2))
    _, increments = step(NOTHING, three, snapshot(turn(0)), snapshot(), three)
    assert sum(key[0] == Measure.TURN for key, _ in increments) == 3


def test_the_order_of_the_list_does_not_matter() -> None:
    user = turn(0, "user", started_at=at(1), duration_ms=2000.0)
    answer = turn(1, started_at=at(3.7), duration_ms=900.0, timings=TIMINGS)
    assert sorted(added(snapshot(answer, user))) == sorted(added(snapshot(user, answer)))


def test_a_second_element_with_the_same_index_is_skipped_and_counted_once() -> None:
    doubled = snapshot(turn(0, timings=TIMINGS), turn(0, timings=TIMINGS))
    _, increments = step(NOTHING, doubled, doubled)
    assert sum(key[0] == Measure.TURN for key, _ in increments) == 1
    assert [value for key, value in increments if key == (Measure.SKIPPED, "duplicate_index")] == [1]


def test_elements_that_are_no_turns_are_counted_once() -> None:
    bad = attrs.evolve(snapshot(turn(0)), malformed=2)
    assert added(bad, bad, attrs.evolve(bad, malformed=3)) == [
        ((Measure.SKIPPED, "malformed"), 2), ((Measure.SKIPPED, "malformed"), 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("item", "index"),
    [
        (Item(item_idx=3, id="conv-9"), 3),
        (Item(id="conv_12cf6e88-c254-4d3e-a149-ddf1bdd2254c-4"), 4),
        (Item(id="conv_12cf6e88-c254-4d3e-a149-ddf1bdd2254c"), 7),
        (Item(id="00000000-0000-0000-0000-446655440000"), 7),
        (Item(id="turn-٣"), 7),
        (Item(item_idx=-1, id="conv-2"), 2),
        (Item(item_idx=10**30), 7),
        (Item(item_idx=100_000), 100_000),
        (Item(id="conv_x-100000"), 100_000),
        (Item(id="conv_x-100001"), 7),
        (Item(item_idx=100_001, id="conv_x-100001"), 7),
        (Item(item_idx=100_001, id="conv_x-3"), 3),
        (Item(), 7),
    ],
)
def test_index_of_a_turn_is_item_idx_else_the_end_of_its_id_else_its_position(item: Item, index: int) -> None:
    assert index_of(item, 7) == index


@given(st.integers() | st.integers(99_990, 100_010), st.text(max_size=9) | st.integers(0, 10**7).map(str))
def test_index_of_a_turn_is_within_its_bound(index: int, tail: str) -> None:
    assert 0 <= index_of(Item(item_idx=index, id=f"conv_x-{tail}"), 7) <= LARGEST_INDEX


@pytest.mark.parametrize(("index", "reason"), [(-1, "negative"), (100_001, "too_large"), (10**30, "too_large")])
def test_an_index_out_of_range_is_rejected_once_and_the_turn_still_counts(index: int, reason: str) -> None:
    odd = snapshot(turn(index, id=f"conv_x-{index}"))
    _, increments = step(Progress(seen=True), odd, odd)
    assert increments == [((Measure.TURN, Role.ASSISTANT), 1), ((Measure.REJECTED, "item_idx", reason), 1)]


# --- timings


def test_timings_are_observed_once_each_in_seconds_when_they_first_come() -> None:
    late = snapshot(turn(0, timings=TIMINGS))
    assert added(snapshot(turn(0)), late, late) == [
        (GENERATION, 0.45), (FIRST_AUDIO, 0.57), ((Measure.MODEL_INPUT,), 0.12)
    ]  # fmt: skip


def test_timings_may_come_one_by_one() -> None:
    partial = snapshot(turn(0, timings={"model_generation_time": 450, "phonic_api_output_to_modal_input": None}))
    assert [key for key, _ in added(partial, snapshot(turn(0, timings=TIMINGS)))] == [
        GENERATION, FIRST_AUDIO, (Measure.MODEL_INPUT,)
    ]  # fmt: skip


def test_a_revised_value_counts_once_for_each_turn_and_field_and_is_not_observed() -> None:
    def timed(ms: float) -> Snapshot:
        return snapshot(turn(0, timings={**TIMINGS, "model_generation_time": ms}))

    increments = added(timed(450), timed(451), timed(450), timed(452))
    assert increments[3:] == [(REVISED, 1)]


@pytest.mark.parametrize(
    ("ms", "reason"),
    [
        (-0.001, "negative"),
        (nan, "not_finite"),
        (inf, "not_finite"),
        (-inf, "not_finite"),
        (600_000.1, "too_large"),
    ],
)
def test_an_unusable_timing_is_rejected_once_and_a_usable_one_may_follow(ms: float, reason: str) -> None:
    bad = snapshot(turn(0, timings={"model_generation_time": ms}))
    good = snapshot(turn(0, timings={"model_generation_time": 0}))
    assert added(bad, bad, good, bad) == [
        ((Measure.REJECTED, "model_generation_time", reason), 1),
        (GENERATION, 0.0),
    ]


def test_rejections_are_counted_for_each_turn_field_and_reason() -> None:
    worse = snapshot(turn(0, timings={"model_generation_time": -1, "phonic_api_output_to_modal_input": -1}))
    other = snapshot(
        turn(0, timings={"model_generation_time": 1e9}), turn(1, timings={"model_generation_time": -1})
    )
    assert rejections(added(worse, other, worse)) == [
        ("model_generation_time", "negative"),
        ("phonic_api_output_to_modal_input", "negative"),
        ("model_generation_time", "too_large"),
        ("model_generation_time", "negative"),
    ]


def test_values_the_decoder_could_not_read_are_rejected_once() -> None:
    unreadable = attrs.evolve(
        snapshot(turn(0), turn(1)),
        bad=(
            BadValue(1, Field.FIRST_AUDIO, Rejection.WRONG_TYPE),
            BadValue(-1, Field.ITEMS, Rejection.WRONG_TYPE),
        ),
    )
    assert rejections(added(unreadable, unreadable)) == [
        ("items", "wrong_type"), ("phonic_api_output_to_first_audio_chunk", "wrong_type")
    ]  # fmt: skip


def test_ten_minutes_to_the_millisecond_is_a_timing() -> None:
    assert added(snapshot(turn(0, timings={"model_generation_time": 600_000}))) == [(GENERATION, 600.0)]


def test_unknown_timing_keys_are_drift_once_for_each_turn() -> None:
    new = snapshot(turn(0, timings={"queue_time": 3, "other_time": None}), turn(1, timings={"queue_time": 3}))
    assert added(new, new) == [((Measure.UNKNOWN_TIMING,), 1)] * 2


# --- durations of turns


def test_a_turns_duration_waits_until_a_later_turn_exists() -> None:
    growing = [snapshot(turn(0, duration_ms=ms), duration_ms=ms) for ms in (500.0, 900.0)]
    settled = snapshot(turn(0, duration_ms=1200.0), turn(1), duration_ms=1300.0)
    assert added(*growing) == []
    assert added(*growing, settled, *growing, settled) == [((Measure.TURN_DURATION, Role.ASSISTANT), 1.2)]


def test_a_settled_duration_that_changes_is_revised_once() -> None:
    def settled(ms: float) -> Snapshot:
        return snapshot(turn(0, duration_ms=ms), turn(1))

    assert added(settled(900.0), settled(901.0), settled(902.0))[1:] == [(REVISED, 1)]


@pytest.mark.parametrize("ms", [-1.0, nan, inf, 86_400_001.0])
def test_an_unusable_duration_is_rejected_and_not_observed(ms: float) -> None:
    (increment,) = added(snapshot(turn(0, duration_ms=ms), turn(1)))
    assert increment[0][:2] == (Measure.REJECTED, Field.DURATION)


def test_a_stale_snapshot_overwrites_nothing() -> None:
    old = snapshot(turn(0, duration_ms=500.0), duration_ms=500.0)
    new = snapshot(turn(0, duration_ms=900.0), duration_ms=900.0)
    untold_old, untold_new = snapshot(turn(0, duration_ms=500.0)), snapshot(turn(0, duration_ms=900.0))
    for first, stale in ((new, old), (untold_new, untold_old)):
        progress, _ = step(NOTHING, first)
        assert step(progress, stale) == (progress, [])
        assert ((Measure.TURN_DURATION, Role.ASSISTANT), 0.9) in finish(progress, End(record=None))


# --- response


def question(seconds: float = 2.0, **fields: Any) -> Item:
    return turn(0, "user", **{"started_at": at(1), "duration_ms": 1000 * seconds, **fields})


@pytest.mark.parametrize(
    ("user", "assistant", "expected"),
    [
        (question(), turn(1, started_at=at(3.7)), [(RESPONSE, 0.7)]),
        (question(), turn(1, started_at=at(3)), [(RESPONSE, 0.0)]),
        (question(), turn(1, started_at=at(2.999)), [(OVERLAP, 1)]),
        (question(), turn(1, started_at=at(3.7), assistant_chose_not_to_respond=True), [(SILENT, 1)]),
        (question(), turn(1, started_at=None), []),
        (question(started_at=None), turn(1, started_at=at(3.7)), []),
        (question(duration_ms=None), turn(1, started_at=at(3.7)), []),
        (question(), turn(2, started_at=at(3.7)), []),
        (question(), turn(1, "user", started_at=at(3.7)), []),
        (turn(0, started_at=at(1), duration_ms=2000.0), turn(1, started_at=at(3.7)), []),
        (
            question(started_at="2025-07-30T23:45:01"),
            turn(1, started_at="2025-07-31T01:45:03.700+02:00"),
            [(RESPONSE, 0.7)],
        ),
    ],
    ids=(
        "gap at-once overlap silent no-start no-user-start no-length not-neighbours user-user assistant-first "
        "zones"
    ).split(),
)
def test_response_is_from_the_end_of_the_users_turn_to_the_start_of_the_next(
    user: Item, assistant: Item, expected: list[Increment]
) -> None:
    both = snapshot(user, assistant)
    assert [each for each in added(both, both) if each[0][0] != Measure.TURN_DURATION] == expected


def test_a_response_over_ten_minutes_is_rejected_once() -> None:
    long = snapshot(question(), turn(1, started_at="2025-07-31T00:05:00Z"))
    assert rejections(added(long, long)) == [("response", "too_large")]


def test_ten_minutes_to_the_millisecond_is_a_response() -> None:
    assert (RESPONSE, 600.0) in added(snapshot(question(), turn(1, started_at="2025-07-30T23:55:03Z")))


def test_a_response_is_observed_when_its_missing_part_arrives() -> None:
    answer = turn(1, started_at=at(3.7))
    increments = added(snapshot(question(duration_ms=None), answer), snapshot(question(), answer))
    assert increments.count((RESPONSE, 0.7)) == 1


@pytest.mark.parametrize("bad", ["yesterday", "2025-13-01T00:00:00Z", "9999-12-31T23:59:59-05:00", ""])
@pytest.mark.parametrize("is_users", [True, False])
def test_a_malformed_time_is_rejected_once_on_either_turn(bad: str, is_users: bool) -> None:
    both = snapshot(
        question(started_at=bad if is_users else at(1)), turn(1, started_at=at(3.7) if is_users else bad)
    )
    assert rejections(added(both, both)) == [("started_at", "wrong_type")]


def test_silence_counts_once_on_either_role() -> None:
    silent = snapshot(turn(0, "user", assistant_chose_not_to_respond=True))
    assert added(silent, silent) == [(SILENT, 1)]


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("1970-01-01T00:00:01.000001Z", 1_000_001),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:00", 0),
        ("1969-12-31T23:59:59.5Z", -500_000),
        ("0002-01-01T00:00:00Z", -62_104_060_800_000_000),
        ("0001-12-31T23:59:59Z", None),
        ("0001-01-01T00:00:00+01:00", None),
        ("9998-12-31T23:59:59.999999Z", 253_370_764_799_999_999),
        ("9998-12-31T23:59:59-05:00", None),
        ("9999-12-31T23:59:59-05:00", None),
        ("now", None),
        (None, None),
    ],
)
def test_times_are_exact_microseconds_and_utc_without_a_zone(text: str | None, microseconds: int | None) -> None:
    assert parse_time(text) == microseconds


# --- tools


def test_tool_calls_count_once_by_id_on_both_roles_and_in_both_shapes() -> None:
    live = snapshot(turn(0, "user", tool_call_ids=["a"]), turn(1, tool_call_ids=["b", "a"]))
    rest = snapshot(turn(1, tool_calls=[ToolCall(id="b"), ToolCall(id="c"), ToolCall(id=None)]))
    assert added(live, live, rest) == [(TOOL_CALL, 1)] * 3


called = st.lists(st.builds(ToolCall, id=st.sampled_from([None, "", "a", "b", "c"]), timed_out=st.booleans()))


@given(called)
@example([ToolCall(id="a", timed_out=True)] * 2)
def test_a_turn_has_the_tool_calls_and_failures_that_are_counted_of_it(calls: list[ToolCall]) -> None:
    progress, ended = finish_(NOTHING, End(record=snapshot(turn(0, tool_calls=calls))))
    (seen,) = seen_turns(progress)
    for number, measure in (
        (seen.tool_calls, Measure.TOOL_COMPLETED),
        (seen.tool_failures, Measure.TOOL_FAILURE),
    ):
        assert number == sum(value for key, value in ended if key[0] == measure)


@given(st.lists(st.sampled_from("abc")))
@example(["a", "a", "b"])
def test_a_turn_has_each_live_tool_call_once(ids: list[str]) -> None:
    progress, increments = step(NOTHING, snapshot(turn(0, tool_call_ids=ids)))
    (seen,) = seen_turns(progress)
    assert seen.tool_calls == increments.count((TOOL_CALL, 1))


def test_cost_is_linear_in_tool_calls_and_in_turns_in_any_order() -> None:
    calls = [f"tool_{number:08d}" for number in range(20_000)]
    roles = ["user", "assistant"] * 10_000
    turns = [turn(index, role, started_at=at(1), duration_ms=0.0) for index, role in enumerate(roles)]
    begun = process_time()
    assert added(snapshot(turn(0, tool_call_ids=calls))) == [(TOOL_CALL, 1)] * 20_000
    assert added(snapshot(*reversed(turns))).count((RESPONSE, 0.0)) == 10_000
    assert process_time() - begun < 2  # a quadratic cost takes several times as long


@pytest.mark.parametrize(
    ("call", "failure"),
    [
        (ToolCall(timed_out=True, response_status_code=500), ToolFailure.TIMEOUT),
        (ToolCall(response_status_code=499), ToolFailure.HTTP_4XX),
        (ToolCall(response_status_code=500, error_message="x"), ToolFailure.HTTP_5XX),
        (ToolCall(error_message="x"), ToolFailure.ERROR),
        (ToolCall(timed_out=False, response_status_code=302, error_message=""), None),
        (ToolCall(), None),
    ],
)
def test_tool_failures_are_known_after_the_end(call: ToolCall, failure: ToolFailure | None) -> None:
    ended = finish(NOTHING, End(record=snapshot(turn(0, tool_calls=[call]))))
    assert [key[1] for key, _ in ended if key[0] == Measure.TOOL_FAILURE] == ([failure] if failure else [])


# --- the end


def ended_by(increments: Iterable[Increment]) -> list[Increment]:
    return [each for each in increments if each[0][0] in (Measure.ENDED, Measure.ERROR, Measure.UNKNOWN_ENDED_BY)]


@pytest.mark.parametrize(
    ("live", "record", "word"),
    [
        (None, None, "unknown"),
        ("user", None, "user"),
        ("user", "assistant", "assistant"),
        (None, "error", "error"),
        (None, "configuration_endpoint_timed_out", "configuration_endpoint_timed_out"),
        (None, "alien_abduction", "other"),
    ],
)
def test_rest_says_what_ended_a_conversation_else_the_live_feed_else_it_is_unknown(
    live: str | None, record: str | None, word: str
) -> None:
    progress, _ = step(NOTHING, snapshot(end_reason=live))
    increments = ended_by(finish(progress, End(record=snapshot(ended_by=record) if record else None)))
    assert increments[0] == ((Measure.ENDED, EndedBy(word)), 1)
    more = {"error": (Measure.ERROR, word), "configuration_endpoint_timed_out": (Measure.ERROR, word)}
    assert increments[1:] == (
        [(more[word], 1)] if word in more else [((Measure.UNKNOWN_ENDED_BY,), 1)] * (word == "other")
    )


def test_the_end_settles_the_last_turn_with_the_newest_value() -> None:
    progress, _ = step(NOTHING, snapshot(turn(0, duration_ms=900.0), duration_ms=5000.0))
    assert finish(progress, End(record=None)) == [
        ((Measure.TURN_DURATION, Role.ASSISTANT), 0.9),
        ((Measure.ENDED, EndedBy.UNKNOWN), 1),
        ((Measure.CONVERSATION_DURATION,), 5.0),
        ((Measure.CONVERSATION_TURNS,), 1),
    ]


@pytest.mark.parametrize("items", [(), (turn(0),)])
def test_the_records_duration_is_final_even_if_it_lists_fewer_turns(items: tuple[Item, ...]) -> None:
    progress, _ = step(NOTHING, snapshot(turn(0), turn(1), duration_ms=5000.0))
    ended = finish(progress, End(record=snapshot(*items, duration_ms=7000.0)))
    assert ((Measure.CONVERSATION_DURATION,), 7.0) in ended
    assert ((Measure.CONVERSATION_TURNS,), 2) in ended


def test_a_record_revises_nothing() -> None:
    progress, _ = step(NOTHING, snapshot(turn(0, duration_ms=900.0), turn(1)))
    ended = finish(progress, End(record=snapshot(turn(0, duration_ms=905.0), turn(1, duration_ms=700.0))))
    assert [each for each in ended if each[0][0] in (Measure.REVISED, Measure.TURN_DURATION)] == [
        ((Measure.TURN_DURATION, Role.ASSISTANT), 0.7)
    ]


def test_the_failure_of_a_tool_call_counts_once_by_id() -> None:
    call, other = ToolCall(id="a", timed_out=True), ToolCall(timed_out=True)
    record = snapshot(turn(0, tool_calls=[call, call, other]), turn(1, tool_calls=[call, other]))
    assert [key for key, _ in finish(NOTHING, End(record=record)) if key[0] == Measure.TOOL_FAILURE] == [
        (Measure.TOOL_FAILURE, ToolFailure.TIMEOUT)
    ] * 3


@pytest.mark.parametrize(("count", "reason"), [(-1, "negative"), (10**9, "too_large")])
def test_unusable_interruptions_are_rejected(count: int, reason: str) -> None:
    ended = finish(NOTHING, End(record=snapshot(analysis=Analysis(interruptions_count=count))))
    assert rejected(Field.INTERRUPTIONS, Rejection(reason)) in ended


@pytest.mark.parametrize(("count", "counted"), [(3, [3]), (0, []), (-1, []), (10**9, []), (None, [])])
def test_interruptions_are_the_records(count: int | None, counted: list[int]) -> None:
    ended = finish(NOTHING, End(record=snapshot(analysis=Analysis(interruptions_count=count))))
    assert [value for key, value in ended if key[0] == Measure.INTERRUPTIONS] == counted


def test_never_live_takes_response_times_from_rest_and_says_that_timings_are_lost() -> None:
    record = snapshot(
        question(), turn(1, started_at=at(3.7)),
        analysis=Analysis(latencies_ms=[1064.0, 578.0, -1.0, nan, 600_001.0]),
    )  # fmt: skip
    ended = finish(NOTHING, End(record=record, lost=Lost.NEVER_LIVE))
    assert [value for key, value in ended if key == RESPONSE] == [1.064, 0.578]
    assert rejections(ended) == [("response", "negative"), ("response", "not_finite"), ("response", "too_large")]
    assert ended[-1] == ((Measure.LOST, Lost.NEVER_LIVE), 1)


def test_watched_takes_response_times_from_its_turns() -> None:
    record = snapshot(question(), turn(1, started_at=at(3.7)), analysis=Analysis(latencies_ms=[1064.0]))
    assert [value for key, value in finish(NOTHING, End(record=record)) if key == RESPONSE] == [0.7]


@pytest.mark.parametrize("ms", [-1.0, nan, 1e12])
def test_an_unusable_conversation_duration_is_rejected_once(ms: float) -> None:
    progress, increments = step(Progress(seen=True), *[snapshot(duration_ms=ms)] * 2)
    assert [each[0] for each in rejections(increments)] == ["conversation_duration_ms"]
    assert progress.duration_ms is None


# --- the live state


def live_state(*snapshots: Snapshot) -> LiveState:
    return step(NOTHING, *snapshots)[0].live


def test_the_live_state_shows_the_newest_of_each_value() -> None:
    timed = snapshot(question(), turn(1, timings=TIMINGS), turn(2, "user"), duration_ms=12_500.0)
    assert live_state(timed) == LiveState(turns=3, duration=12.5, model_generation=0.45, first_audio=0.57)


def test_the_live_state_shows_a_timing_whose_sibling_never_comes() -> None:
    first, second = {"model_generation_time": 450.0}, {"model_generation_time": 380.0}
    assert live_state(snapshot(turn(0, timings=first), turn(1, timings=second))).model_generation == 0.38


@pytest.mark.parametrize(
    ("items", "waiting"),
    [
        ((question(),), True),
        ((question(), turn(1)), False),
        ((turn(1), question()), False),
        ((question(started_at=None),), False),
        ((question(duration_ms=None),), False),
        ((question(duration_ms=-1.0),), False),
        ((question(assistant_chose_not_to_respond=True),), False),
        ((), False),
    ],
)
def test_waiting_since_is_the_end_of_the_newest_turn_if_it_is_the_users(
    items: tuple[Item, ...], waiting: bool
) -> None:
    assert live_state(snapshot(*items)).waiting_since == (1_753_919_103.0 if waiting else None)


def test_a_stale_snapshot_does_not_change_the_live_state() -> None:
    old, new = snapshot(question(), duration_ms=1000.0), snapshot(question(), turn(1), duration_ms=2000.0)
    assert live_state(new, old) == live_state(new)


def test_a_snapshot_without_a_duration_keeps_the_one_before() -> None:
    view = live_state(snapshot(question(), duration_ms=1000.0), snapshot(question(), turn(1)))
    assert (view.duration, view.turns) == (1.0, 2)
