"""The turns of a conversation as pages show them are what was counted of them, and nothing else."""

from typing import Any

from exporter.counting.derive import NOTHING, Progress, derive
from exporter.counting.finish import End, finish
from exporter.counting.seen import seen_turns
from exporter.counting.turns import SeenTurn
from exporter.enums import Lost
from exporter.phonic.schema import Analysis, Conversation, Item, Snapshot, ToolCall

TIMINGS: dict[str, float | None] = {
    "model_generation_time": 450,
    "phonic_api_output_to_first_audio_chunk": 570,
    "phonic_api_output_to_modal_input": 120,
}


def at(seconds: float) -> str:
    return f"2025-07-30T23:45:{seconds:06.3f}Z"


GREETING = Item(item_idx=0, role="assistant", started_at=at(1), duration_ms=2000.0)
QUESTION = Item(item_idx=1, role="user", started_at=at(2.5), duration_ms=1500.0, tool_call_ids=["a", "b"])
ANSWER = Item(item_idx=2, role="assistant", started_at=at(5), duration_ms=900.0, timings=TIMINGS)
HASTE = Item(item_idx=3, role="user", started_at=at(6), duration_ms=2000.0)
OVERLAP = Item(item_idx=4, role="assistant", started_at=at(7), assistant_chose_not_to_respond=False)
ITEMS = (GREETING, QUESTION, ANSWER, HASTE, OVERLAP)


def snapshot(*items: Item, **fields: Any) -> Snapshot:
    return Snapshot(conversation=Conversation("conv_1", items=list(items), started_at=at(0.25), **fields))


def seen(*snapshots: Snapshot) -> tuple[SeenTurn, ...]:
    return seen_turns(progress_of(*snapshots))


def progress_of(*snapshots: Snapshot) -> Progress:
    progress = NOTHING
    for each in snapshots:
        progress, _ = derive(progress, each)
    return progress


def test_a_turn_is_seen_with_its_times_in_seconds_and_its_parts() -> None:
    assert seen(snapshot(*ITEMS)) == (
        SeenTurn(index=0, role="assistant", offset=0.75, duration=2.0),
        SeenTurn(index=1, role="user", offset=2.25, duration=1.5, is_barge_in=True, tool_calls=2),
        SeenTurn(
            index=2, role="assistant", offset=4.75, duration=0.9, response=1.0, model_input=0.12,
            model_generation=0.45, first_audio=0.57, end_of_turn=0.43,
        ),
        SeenTurn(index=3, role="user", offset=5.75, duration=2.0),
        SeenTurn(index=4, role="assistant", offset=6.75, is_overlap=True),
    )  # fmt: skip


def test_turns_are_the_same_in_whatever_order_snapshots_and_items_come() -> None:
    whole = seen(snapshot(*ITEMS))
    assert seen(*(snapshot(*ITEMS[:count]) for count in range(6))) == whole
    assert seen(snapshot(*ITEMS[::-1]), snapshot(*ITEMS[:2])) == whole


def test_a_start_that_comes_late_gives_all_offsets() -> None:
    ringing = Snapshot(conversation=Conversation("conv_1", items=list(ITEMS)))
    assert [turn.offset for turn in seen(ringing)] == [None] * 5
    assert seen(ringing, snapshot(ITEMS[4])) == seen(snapshot(*ITEMS))


def test_an_end_of_turn_needs_a_response_that_is_longer_than_the_first_audio() -> None:
    early = Item(item_idx=2, role="assistant", started_at=at(4.1), timings=TIMINGS)
    untimed = Item(item_idx=2, role="assistant", started_at=at(5))
    assert [(turn.response, turn.end_of_turn) for turn in seen(snapshot(QUESTION, early))[1:]] == [(0.1, None)]
    assert [(turn.response, turn.end_of_turn) for turn in seen(snapshot(QUESTION, untimed))[1:]] == [(1.0, None)]


def test_the_record_tells_how_many_tool_calls_of_a_turn_failed() -> None:
    calls = [ToolCall(id="a", timed_out=True), ToolCall(id="b"), ToolCall(id="c", response_status_code=500)]
    record = snapshot(Item(item_idx=1, role="user", started_at=at(2.5), tool_calls=calls))
    progress, _ = finish(progress_of(snapshot(QUESTION)), End(record=record))
    assert [(turn.tool_calls, turn.tool_failures) for turn in seen_turns(progress)] == [(3, 2)]


def test_a_conversation_that_was_never_watched_has_the_responses_of_its_turns() -> None:
    record = snapshot(QUESTION, ANSWER, analysis=Analysis(latencies_ms=[1010.0]))
    progress, _ = finish(NOTHING, End(record=record, lost=Lost.NEVER_LIVE))
    assert [turn.response for turn in seen_turns(progress)] == [None, 1.0]
