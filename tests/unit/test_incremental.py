"""Incremental decoding counts what full decoding counts.

Each test compares, message by message, the progress and the increments of both ways of reading.
"""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from exporter.counting.derive import NOTHING, Progress, derive
from exporter.enums import DecodePath, Invalid
from exporter.phonic.decode import InvalidMessage, Message, decode
from exporter.phonic.live import incremental
from exporter.phonic.live.incremental import IncrementalDecoder
from tests.strategies import damaged, deliveries, histories

CONVERSATION = "conv_1"
FILLER = "x" * incremental.SHORTEST  # makes every message long enough to be decoded incrementally


def written(snapshot: dict[str, Any], *, filler: str = FILLER, **style: Any) -> str:
    """A message as Phonic writes it (compact) unless ``style`` says otherwise."""
    message = {"type": "conversation-updated", "conversation": {"system_prompt": filler, **snapshot}}
    return json.dumps(message, **({"separators": (",", ":")} | style))


def call(turns: int, **changes: Any) -> dict[str, Any]:
    """A conversation of ``turns`` turns; ``changes`` maps the number of a turn (``t3``) to what differs in it."""
    items = []
    for index in range(turns):
        item = {
            "id": f"{CONVERSATION}-{index}",
            "item_idx": index,
            "role": ("assistant", "user")[index % 2],
            "text": f'words of turn {index}, with a {{brace}} and "quotes"',
            "duration_ms": 1000 + index,
            "started_at": f"2026-01-01T00:{index // 6:02d}:{index % 6 * 10:02d}.500Z",
        }
        if index % 2 == 0:
            item["timings"] = {"model_generation_time": 400 + index}
        items.append(item | changes.get(f"t{index}", {}))
    return {"id": CONVERSATION, "duration_ms": 10_000 * turns, "items": items}


def first(decoder: IncrementalDecoder, frame: str | bytes) -> Message:
    """The only message of a frame."""
    [message] = [each for each in decoder.read(frame) if each is not None]
    assert isinstance(message, Message)
    return message


def read_both_ways(frames: Sequence[str | bytes]) -> None:
    """Feed ``frames`` to both readers and compare."""
    decoder = IncrementalDecoder(CONVERSATION)
    quick = slow = NOTHING
    for frame in frames:
        quick_step, slow_step = _step(partial(first, decoder), quick, frame), _step(decode, slow, frame)
        assert quick_step == slow_step
        quick, slow = quick_step[0], slow_step[0]


def _step(read: Any, progress: Progress, frame: str | bytes) -> tuple[Progress, Any]:
    try:
        message = read(frame)
    except InvalidMessage as bad:
        return progress, bad.reason
    if message.snapshot is None:
        return progress, message
    if message.snapshot.conversation.id != CONVERSATION:
        return progress, Invalid.WRONG_CONVERSATION
    return derive(progress, message.snapshot)


def test_a_growing_call_is_decoded_incrementally() -> None:
    frames: list[str | bytes] = [written(call(turns)) for turns in range(1, 40)]
    read_both_ways(frames)
    decoder = IncrementalDecoder(CONVERSATION)
    paths = [first(decoder, frame).path for frame in frames]
    # All but the first messages, which have no settled turns.
    assert paths == [DecodePath.FULL] * 3 + [DecodePath.INCREMENTAL] * 36


@pytest.mark.parametrize("beginning", [-10, 99_990, 100_001, 10**9])
def test_a_growing_call_with_indexes_out_of_bounds_counts_the_same(beginning: int) -> None:
    moved = {f"t{number}": {"item_idx": beginning + number, "id": f"turn_{number}"} for number in range(30)}
    read_both_ways([written(call(turns, **moved)) for turns in range(1, 30)])


@given(st.data())
def test_any_delivery_of_any_history_counts_the_same(data: st.DataObject) -> None:
    history = data.draw(histories(CONVERSATION))
    filler = data.draw(st.sampled_from([FILLER, FILLER + "ü", FILLER + "😀", ""]))
    messages = [written(each, filler=filler, ensure_ascii=False) for each in history.snapshots()]
    read_both_ways([messages[at] for at in data.draw(deliveries(len(messages)))])


@given(st.data())
def test_damaged_messages_between_valid_ones_count_the_same(data: st.DataObject) -> None:
    history = data.draw(histories(CONVERSATION))
    sound = [written(each) for each in history.snapshots()]
    frames: list[str | bytes] = []
    for at in data.draw(st.lists(st.integers(0, len(sound) - 1), max_size=12)):
        kind = data.draw(st.sampled_from(["sound", "damaged", "cut off", "bytes"]))
        if kind == "damaged":
            document = data.draw(damaged(st.just(history.snapshots()[at])))
            frames.append(written(document))
        elif kind == "cut off":
            frames.append(sound[at][: data.draw(st.integers(0, len(sound[at])))])
        else:
            frames.append(sound[at].encode() if kind == "bytes" else sound[at])
    read_both_ways(frames)


CHANGES: dict[str, dict[str, Any]] = {
    "a late timing": {"timings": {"model_generation_time": 402, "phonic_api_output_to_modal_input": 50}},
    "a revised timing": {"timings": {"model_generation_time": 999}},
    "a revised duration": {"duration_ms": 5555},
    "a late silence": {"assistant_chose_not_to_respond": True},
    "a late tool call": {"tool_call_ids": ["call_1"]},
    "an unusable duration": {"duration_ms": -1},
    "another index": {"item_idx": 77},
    "no index": {"item_idx": None},
    "another id": {"id": "other"},
    "a word of the caller": {"text": "rewritten"},
}


@pytest.mark.parametrize("turn", [0, 2, 10, 18, 19], ids="turn {}".format)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_in_any_turn_counts_the_same(change: dict[str, Any], turn: int) -> None:
    before = [written(call(turns)) for turns in (18, 19, 20)]
    after = [written(call(turns, **{f"t{turn}": change})) for turns in (20, 20, 21, 22)]
    read_both_ways(before + after)


def test_turns_that_vanish_return_or_change_places_count_the_same() -> None:
    whole = call(20)
    items = whole["items"]
    variants = [
        items[:7] + items[8:],
        items[1:],
        list(reversed(items)),
        [*items[:10], items[10], *items[10:]],
        [],
        [*items[:18], items[19], items[18]],
        items[5:6] + items,
    ]
    frames = []
    for variant in variants:
        frames += [written(whole), written(whole | {"items": variant}), written(whole)]
    read_both_ways(frames)


def test_copies_of_the_turns_elsewhere_in_the_frame_count_the_same() -> None:
    decoys: list[dict[str, Any]] = []
    for turns in range(10, 16):
        snapshot = call(turns)
        decoys.append({"annotations": {"items": snapshot["items"]}} | snapshot)
        decoys.append(snapshot | {"annotations": {"items": snapshot["items"]}})
        decoys.append({"text": json.dumps(snapshot["items"], separators=(",", ":"))} | snapshot)
    read_both_ways([written(each) for each in decoys for _ in range(2)])


@pytest.mark.parametrize("style", [{"indent": 1}, {"separators": (", ", ": ")}, {"sort_keys": True}], ids=str)
def test_other_layouts_count_the_same(style: dict[str, Any]) -> None:
    read_both_ways([written(call(turns), **style) for turns in range(1, 20)])
    mixed = [written(call(turns), **(style if turns % 3 else {})) for turns in range(1, 20)]
    read_both_ways(mixed)


def test_a_message_of_another_conversation_is_refused_and_forgotten() -> None:
    decoder = IncrementalDecoder(CONVERSATION)
    for turns in (10, 11):
        first(decoder, written(call(turns)))
    for _ in range(2):
        with pytest.raises(InvalidMessage) as refused:
            first(decoder, written(call(12) | {"id": "conv_2"}))
        assert refused.value.reason is Invalid.WRONG_CONVERSATION
    assert first(decoder, written(call(12))).snapshot is not None


def test_an_answer_is_compared_with_a_question_that_is_no_longer_decoded() -> None:
    """The start of the answer arrives late."""
    untimed = {"started_at": None}
    frames = [written(call(turns, t18=untimed)) for turns in (18, 19, 20, 20)]
    decoder = IncrementalDecoder(CONVERSATION)
    progress = NOTHING
    for frame in frames:
        snapshot = first(decoder, frame).snapshot
        assert snapshot is not None
        progress, _ = derive(progress, snapshot)
    snapshot = first(decoder, written(call(20))).snapshot
    assert snapshot is not None
    assert len(snapshot.conversation.items or []) == 2
    progress, increments = derive(progress, snapshot)
    assert ("response",) in [key for key, _ in increments]
