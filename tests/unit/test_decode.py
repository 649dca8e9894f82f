"""Decoding: all of a documented message, and as much as can be used of any other."""

import json
from contextlib import suppress
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.enums import Drift, Field, Invalid, MessageType, Rejection
from exporter.phonic.decode import (
    InvalidMessage,
    decode,
    decode_record,
    documented_conversation,
    snapshot_from,
    unknown_fields,
)
from exporter.phonic.schema import Analysis, BadValue, Snapshot, Tool
from tests.strategies import Json, damaged, frame, histories

PAYLOADS = Path(__file__).parents[1] / "data" / "payloads"
TIMING = Field.MODEL_GENERATION.value
WRONG_TYPE, NOT_FINITE = Rejection.WRONG_TYPE, Rejection.NOT_FINITE


def payload(name: str) -> Any:
    return json.loads((PAYLOADS / f"{name}.json").read_text())


def read(text: str | bytes) -> Snapshot:
    snapshot = decode(text).snapshot
    assert snapshot is not None
    return snapshot


def raw(conversation: str) -> str:
    """A frame from JSON text that json.dumps would not write."""
    return f'{{"type": "conversation-updated", "conversation": {conversation}}}'


def item(**fields: Any) -> Snapshot:
    return read(frame({"id": "conv_1", "items": [fields]}))


# --- documented messages


def test_the_documented_snapshot_is_decoded_by_the_typed_pass() -> None:
    text = json.dumps(payload("live_conversation_updated.co"))
    message = decode(text)
    assert message == decode(text.encode())
    assert message.type is MessageType.CONVERSATION_UPDATED
    conversation = read(text).conversation
    assert documented_conversation(text) == conversation
    assert (conversation.agent and conversation.agent.name, conversation.duration_ms) == ("support-agent", 12_500)
    assert [(each.item_idx, each.role, each.duration_ms) for each in conversation.items or ()] == [
        (0, "assistant", 1800), (1, "user", 2500), (2, "assistant", 2100)
    ]  # fmt: skip


def test_no_field_of_the_documented_snapshot_is_drift() -> None:
    assert unknown_fields(json.dumps(payload("live_conversation_updated.co"))) == set()


def test_documented_frames_of_other_types_are_decoded() -> None:
    frames = payload("live_other_frames")
    assert {name: decode(json.dumps(each)).type.value for name, each in frames.items()} == {
        "conversation_ended": "conversation-ended",
        "error_nested_message": "error",
        "error_top_level_message": "error",
    }
    assert all(decode(json.dumps(each)).denied for name, each in frames.items() if name.startswith("error"))


def test_the_documented_record_is_decoded_with_tool_calls_and_analysis() -> None:
    snapshot = decode_record(json.dumps(payload("rest_conversation_get")).encode())
    conversation = snapshot.conversation
    assert (snapshot.bad, snapshot.malformed) == ((), 0)
    assert (conversation.ended_by, conversation.duration_ms) == ("user", 120_500)
    assert conversation.analysis is not None
    assert (conversation.analysis.latencies_ms, conversation.analysis.interruptions_count) == ([1064, 578, 797], 0)
    (call,) = (conversation.items or [])[1].tool_calls or []
    assert (call.response_status_code, call.timed_out, call.error_message) == (200, False, None)
    assert call.tool == Tool(name="check_availability")


@pytest.mark.parametrize("name", sorted(path.stem for path in PAYLOADS.glob("*.json")))
def test_any_documented_payload_is_decoded_or_invalid(name: str) -> None:
    text = json.dumps(payload(name))
    for read_it in (decode, lambda each: decode_record(each.encode()), unknown_fields):
        try:
            read_it(text)
        except InvalidMessage as invalid:
            assert invalid.reason is Invalid.WRONG_SHAPE  # noqa: PT017  # some of them must be readable


@given(histories(), st.booleans())
def test_the_lenient_pass_agrees_with_the_typed_pass_where_that_succeeds(history: Any, is_record: bool) -> None:
    documents = [history.record()] if is_record else history.snapshots()
    for document in documents:
        strict = documented_conversation(frame(document))
        assert strict is not None
        assert Snapshot(conversation=strict) == snapshot_from(json.loads(json.dumps(document)))


@given(damaged(histories().map(lambda history: history.snapshots()[-1])))
def test_the_passes_agree_on_damaged_documents_too(document: Json) -> None:
    strict = documented_conversation(frame(document))
    if strict is not None:
        assert Snapshot(conversation=strict) == snapshot_from(document)


# --- whole messages


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Invalid.NOT_JSON),
        (b"", Invalid.NOT_JSON),
        ("hello", Invalid.NOT_JSON),
        ('{"type": "conversation-updated", ', Invalid.NOT_JSON),
        (b"\xff\xfe\x00", Invalid.NOT_JSON),
        ("[" * 100_000, Invalid.NOT_JSON),
        ('{"type": "error", "error": ' + "[" * 100_000, Invalid.NOT_JSON),
        ("null", Invalid.WRONG_SHAPE),
        ("[]", Invalid.WRONG_SHAPE),
        ("{}", Invalid.WRONG_SHAPE),
        ('{"type": null}', Invalid.WRONG_SHAPE),
        ('{"type": 7}', Invalid.WRONG_SHAPE),
        ('{"type": "conversation-updated"}', Invalid.WRONG_SHAPE),
        (raw("null"), Invalid.WRONG_SHAPE),
        (raw("[]"), Invalid.WRONG_SHAPE),
        (raw("{}"), Invalid.WRONG_SHAPE),
        (raw('{"id": null}'), Invalid.WRONG_SHAPE),
        (raw('{"id": 7}'), Invalid.WRONG_SHAPE),
    ],
)
def test_unusable_messages_are_invalid_with_a_reason(text: str | bytes, reason: Invalid) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(text)
    assert caught.value.reason is reason
    assert str(caught.value) == reason.value


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ('{"type": "conversation-saved", "anything": 1e999}', MessageType.CONVERSATION_SAVED),
        ('{"type": "conversation-audio", "audio": NaN}', MessageType.CONVERSATION_AUDIO),
        ('{"type": "conversation-ended", "conversation": 7}', MessageType.CONVERSATION_ENDED),
        ('{"type": "news"}', MessageType.OTHER),
        ('{"type": "\\ud800"}', MessageType.OTHER),
        ('\n {"type" : "conversation-ended"} ', MessageType.CONVERSATION_ENDED),
    ],
)
def test_other_messages_need_only_a_type(text: str, type_: MessageType) -> None:
    assert decode(text).type is type_
    assert decode(text).snapshot is None


@pytest.mark.parametrize(
    ("body", "denied"),
    [
        ({"error": {"message": "Invalid token"}}, True),
        ({"message": "Unauthorized access to conversation"}, True),
        ({"error": {"message": "FORBIDDEN"}}, True),
        ({"error": {"message": "Internal error"}}, False),
        ({"error": {"message": None}, "message": "forbidden"}, True),
        ({"error": "forbidden"}, False),
        ({"error": {"message": ["forbidden"]}}, False),
        ({"message": 403}, False),
        ({"error": None, "message": None}, False),
        ({}, False),
    ],
)
def test_only_whether_access_was_denied_is_kept_of_an_error(body: Json, denied: bool) -> None:
    assert decode(json.dumps({"type": "error", **body})).denied is denied


@given(st.binary() | st.text())
def test_any_frame_is_decoded_or_invalid(text: str | bytes) -> None:
    with suppress(InvalidMessage):
        decode(text)
    unknown_fields(text)


@given(
    damaged(histories().map(lambda history: {"type": "conversation-updated", "conversation": history.record()}))
)
def test_any_damaged_record_is_decoded_or_invalid(document: Json) -> None:
    text = json.dumps(document)
    for read_it in (decode, unknown_fields, lambda each: decode_record(each.encode())):
        with suppress(InvalidMessage):
            read_it(text)


# --- values


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("NaN", NOT_FINITE),
        ("Infinity", NOT_FINITE),
        ("-Infinity", NOT_FINITE),
        ("1e999", NOT_FINITE),
        ("9" * 5000, NOT_FINITE),
        ("true", WRONG_TYPE),
        ('"450"', WRONG_TYPE),
        ("[450]", WRONG_TYPE),
        ("{}", WRONG_TYPE),
    ],
)
@pytest.mark.parametrize(
    ("conversation", "field", "position"),
    [
        ('{"id": "c", "items": [{}, {"timings": {"model_generation_time": VALUE}}]}', Field.MODEL_GENERATION, 1),
        ('{"id": "c", "items": [{"duration_ms": VALUE}]}', Field.DURATION, 0),
        ('{"id": "c", "duration_ms": VALUE}', Field.CONVERSATION_DURATION, -1),
    ],
)
def test_a_value_that_is_no_number_is_listed_as_bad(
    conversation: str, field: Field, position: int, text: str, reason: Rejection
) -> None:
    snapshot = read(raw(conversation.replace("VALUE", text)))
    assert snapshot.bad == (BadValue(position, field, reason),)
    assert snapshot.conversation.duration_ms is None


@pytest.mark.parametrize("number", [0, -1, 0.25, 10**18, 10**40, -(10**40)])
def test_any_finite_number_is_decoded(number: float) -> None:
    timings = item(timings={TIMING: number, "\ud800": 1}).conversation.items
    assert timings is not None
    assert timings[0].timings is not None
    assert timings[0].timings[TIMING] == float(number)


def test_a_bad_value_does_not_cost_the_others() -> None:
    snapshot = item(item_idx=0, role="assistant", timings={TIMING: "fast", Field.FIRST_AUDIO.value: 570})
    (only,) = snapshot.conversation.items or []
    assert (only.item_idx, only.role) == (0, "assistant")
    assert only.timings == {TIMING: None, Field.FIRST_AUDIO.value: 570.0}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"item_idx": "0"}, Field.ITEM_IDX),
        ({"item_idx": 0.5}, Field.ITEM_IDX),
        ({"item_idx": True}, Field.ITEM_IDX),
        ({"started_at": 1_753_919_100}, Field.STARTED_AT),
        ({"timings": "fast"}, Field.TIMINGS),
        ({"timings": [450]}, Field.TIMINGS),
        ({"tool_call_ids": "call"}, Field.TOOL_CALLS),
        ({"tool_call_ids": ["call", 7]}, Field.TOOL_CALLS),
        ({"tool_calls": {}}, Field.TOOL_CALLS),
        ({"tool_calls": [None]}, Field.TOOL_CALLS),
    ],
)
def test_a_value_of_the_wrong_type_in_a_turn_is_listed_as_bad(fields: Json, field: Field) -> None:
    assert item(**fields).bad == (BadValue(0, field, WRONG_TYPE),)


@pytest.mark.parametrize("tool", [None, "search", 7, [], {}, {"name": 7}, {"name": None}])
def test_a_tool_without_a_usable_name_costs_nothing_else(tool: Any) -> None:
    (call,) = (item(tool_calls=[{"id": "a", "tool": tool, "timed_out": True}]).conversation.items or [])[
        0
    ].tool_calls or []
    assert (call.id, call.timed_out, call.tool and call.tool.name) == ("a", True, None)


@pytest.mark.parametrize(("key", "field"), [("started_at", Field.STARTED_AT), ("ended_at", Field.ENDED_AT)])
def test_a_time_of_the_conversation_that_is_no_text_is_listed_as_bad(key: str, field: Field) -> None:
    assert snapshot_from({"id": "conv_1", key: 1_753_919_100}).bad == (BadValue(-1, field, WRONG_TYPE),)


def test_a_whole_number_written_with_a_fraction_is_an_index() -> None:
    assert item(item_idx=3.0).conversation.items == item(item_idx=3).conversation.items


def test_items_that_are_no_objects_are_counted_as_malformed() -> None:
    snapshot = read(frame({"id": "conv_1", "items": [None, 7, "x", [], {"item_idx": 5}]}))
    assert snapshot.malformed == 4
    assert [each.item_idx for each in snapshot.conversation.items or ()] == [5]


@pytest.mark.parametrize("items", ["x", 7, {"0": {}}, True])
def test_items_that_are_no_list_are_listed_as_bad(items: Any) -> None:
    snapshot = read(frame({"id": "conv_1", "items": items}))
    assert snapshot.bad == (BadValue(-1, Field.ITEMS, WRONG_TYPE),)
    assert snapshot.conversation.items is None


def test_latencies_that_are_no_numbers_are_listed_as_bad() -> None:
    record = {"id": "conv_1", "analysis": {"latencies_ms": [1064, True, "578", None], "interruptions_count": 2}}
    snapshot = snapshot_from(record)
    assert snapshot.conversation.analysis is not None
    assert (snapshot.conversation.analysis.latencies_ms, snapshot.bad) == (
        [1064.0],
        (BadValue(-1, Field.RESPONSE, WRONG_TYPE),),
    )


@pytest.mark.parametrize(
    ("count", "reason"), [("2", WRONG_TYPE), (True, WRONG_TYPE), (2.5, WRONG_TYPE), (inf, NOT_FINITE)]
)
def test_interruptions_that_are_no_count_are_listed_as_bad(count: Any, reason: Rejection) -> None:
    snapshot = snapshot_from({"id": "conv_1", "analysis": {"interruptions_count": count}})
    assert snapshot.conversation.analysis == Analysis()
    assert snapshot.bad == (BadValue(-1, Field.INTERRUPTIONS, reason),)


def test_missing_and_null_fields_are_none() -> None:
    for conversation in ({}, {"agent": None, "items": None, "duration_ms": None, "analysis": None}):
        assert documented_conversation(frame({"id": "conv_1", **conversation})) is not None
    nulls = dict.fromkeys(("id", "item_idx", "role", "started_at", "duration_ms", "timings", "tool_call_ids"))
    assert item(**nulls) == item()
    assert documented_conversation(frame({"id": "conv_1", "items": [nulls]})) is not None


def test_lone_surrogates_are_replaced_wherever_text_is_kept() -> None:
    snapshot = read(
        frame({
            "id": "conv_1", "agent": {"name": "a\ud800"}, "end_reason": "\udfff",
            "items": [{"id": "\ud800-1", "role": "\ud800", "tool_call_ids": ["call \ud800"]}],
        })
    )  # fmt: skip
    kept = snapshot.conversation
    assert kept.agent is not None
    assert kept.items is not None
    assert (kept.agent.name, kept.end_reason) == ("a?", "?")
    assert (kept.items[0].id, kept.items[0].tool_call_ids) == ("?-1", ["call ?"])


def test_deep_nesting_in_unused_fields_does_not_cost_the_message() -> None:
    deep = "[" * 500 + "]" * 500
    assert read(raw(f'{{"id": "conv_1", "vad_info": {deep}}}')).conversation.id == "conv_1"


def test_a_snapshot_of_three_megabytes_is_decoded() -> None:
    items = [{"item_idx": at, "role": "user", "text": "x" * 3000} for at in range(1000)]
    text = frame({"id": "conv_1", "items": items})
    assert len(text) > 3_000_000
    assert len(read(text).conversation.items or ()) == 1000
    text = text.replace('"item_idx": 999', '"item_idx": NaN')
    assert read(text).bad == (BadValue(999, Field.ITEM_IDX, NOT_FINITE),)


def test_no_words_of_a_caller_are_kept() -> None:
    secret = "+49 170 planted"
    document = payload("live_conversation_updated.co")
    conversation = document["conversation"]
    for key in (
        "text",
        "external_id",
        "from_phone_number",
        "to_phone_number",
        "system_prompt",
        "template_variables",
    ):
        conversation[key] = secret
    for each in conversation["items"]:
        each["text"] = each["retranscribed_text"] = secret
    assert secret not in repr(decode(json.dumps(document)))
    conversation["duration_ms"] = nan
    assert secret not in repr(decode(json.dumps(document)))


# --- drift


def test_unknown_fields_are_named_by_the_object_they_are_in() -> None:
    document = {"id": "conv_1", "mood": 1, "items": [{"item_idx": 0, "tone": 2}, {"tone": 3, "role": "user"}]}
    assert unknown_fields(frame(document)) == {(Drift.CONVERSATION, "mood"), (Drift.ITEM, "tone")}


@pytest.mark.parametrize("text", ["", "7", "{}", raw("null"), raw('{"id": "c"}'), raw('{"items": null}')])
def test_frames_of_another_shape_have_no_unknown_fields(text: str) -> None:
    assert unknown_fields(text) == set()


def test_one_bad_item_does_not_hide_the_unknown_fields_of_the_others() -> None:
    assert unknown_fields(frame({"id": "c", "items": [None, {"tone": 1}]})) == {(Drift.ITEM, "tone")}
