"""Large and unusual frames: decoded in steps as in one piece, and one bad value costs only that value."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from time import thread_time
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.counting.derive import NOTHING, Progress, derive
from exporter.enums import Field, Invalid, MessageType, Rejection
from exporter.phonic import decode as decoding
from exporter.phonic.decode import (
    MOST_CALLED,
    MOST_DOCUMENTS,
    MOST_ITEMS,
    MOST_RECORDED,
    MOST_UNNUMBERED,
    PIECE,
    InvalidMessage,
    Message,
    decode,
    decode_record,
    pieces,
    read,
)
from exporter.phonic.live.incremental import IncrementalDecoder
from exporter.phonic.schema import LONGEST_TEXT, MOST_TIMINGS, MOST_TOOL_CALLS, BadValue, Snapshot
from tests.feeds import ENDED
from tests.strategies import Json, damaged, frame, histories

ID = "conv_1"
TOO_LARGE = Rejection.TOO_LARGE
LONGEST_STEP = 0.1  # seconds of CPU, garbage collection included; 10 ms as a rule


def in_steps(text: str) -> Message:
    """The first message of a text, decoded in steps whatever its size."""
    steps = decoding._document_in_steps(text, 0)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            document, _ = done.value
            return decoding._message_from(document)


def snapshot_of(frame_: str | bytes) -> Snapshot:
    snapshot = decode(frame_).snapshot
    assert snapshot is not None
    return snapshot


def turns(count: int, **fields: Any) -> list[Json]:
    return [{"item_idx": at, "role": ("user", "assistant")[at % 2], **fields} for at in range(count)]


# --- in steps


def test_decoding_in_steps_equals_decoding_in_one_piece() -> None:
    @given(st.data())
    def check(data: st.DataObject) -> None:
        history = data.draw(histories(ID))
        document = data.draw(damaged(st.sampled_from(history.snapshots())))
        text = frame(document)
        try:
            whole: Any = decode(text)
        except InvalidMessage as bad:
            whole = bad.reason
        try:
            stepped: Any = in_steps(text)
        except InvalidMessage as bad:
            stepped = bad.reason
        assert repr(stepped) == repr(whole)  # by repr: bad values may be listed in another order

    check()


@pytest.mark.parametrize("text", ["[]", "{}", "7", '{"type": 7}', '{"type":"conversation-updated"}'])
def test_an_invalid_message_is_invalid_in_steps_too(text: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        in_steps(text)
    assert caught.value.reason is Invalid.WRONG_SHAPE


@pytest.mark.parametrize("text", ['{"a": 1', '{"a" 1}', '{"conversation": {"items": [{"a": 1]}}', '{"a":"x}'])
def test_a_text_that_is_no_json_is_invalid_in_steps_too(text: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        in_steps(text)
    assert caught.value.reason is Invalid.NOT_JSON


def conversation(inside: str) -> str:
    return f'{{"type":"conversation-updated","conversation":{{"id":"{ID}",{inside}}}}}'


MANY_TIMINGS = {str(number): 1 for number in range(100_000)}
HEAVY: dict[str, tuple[Callable[[], str], set[BadValue], int]] = {
    "900,000 empty turns": (
        lambda: '"items":[' + "{}," * 899_999 + "{}]",
        {BadValue(-1, Field.ITEMS, TOO_LARGE)},
        MOST_UNNUMBERED,
    ),
    "450,000 that are no turns": (
        lambda: '"items":[' + "0," * 449_999 + "0]",
        {BadValue(-1, Field.ITEMS, TOO_LARGE)},
        0,
    ),
    "150,000 turns": (
        lambda: '"items":' + json.dumps(turns(150_000)),
        {BadValue(-1, Field.ITEMS, TOO_LARGE)},
        MOST_ITEMS,
    ),
    "many timings": (
        lambda: '"items":[{"item_idx":0,"timings":' + json.dumps(MANY_TIMINGS) + "}]",
        {BadValue(0, Field.TIMINGS, TOO_LARGE)},
        1,
    ),
    "many tool calls": (
        lambda: '"items":[{"item_idx":0,"tool_call_ids":' + json.dumps([str(at) for at in range(100_000)]) + "}]",
        {BadValue(0, Field.TOOL_CALLS, TOO_LARGE)},
        1,
    ),
    "numbers nobody reads": (lambda: '"vad_info":[' + "0," * 5_000_000 + '0],"items":[{}]', set(), 1),
    "many fields": (lambda: ",".join(f'"{at}":0' for at in range(300_000)) + ',"x":0', set(), 0),
    "a long text": (lambda: '"text":"' + "x" * 20_000_000 + '","items":[{}]', set(), 1),
    "a long text with an emoji": (lambda: '"text":"' + "x" * 20_000_000 + '\U0001f600","items":[{}]', set(), 1),
    "a turn with a long text": (lambda: '"items":[{"item_idx":3,"text":"' + ",x" * 5_000_000 + '"}]', set(), 1),
    "nested deeper than any stack": (
        lambda: '"vad_info":' + "[" * 300_000 + "]" * 300_000 + ',"items":[{}]',
        set(),
        1,
    ),
    "NaN among many turns": (
        lambda: '"items":[' + '{"x":NaN},' * 20_000 + "{}]",
        {BadValue(-1, Field.ITEMS, TOO_LARGE)},
        MOST_UNNUMBERED,
    ),
}


@pytest.mark.usefixtures("calm_collector")
@pytest.mark.parametrize(("inside", "bad", "count"), HEAVY.values(), ids=HEAVY)
def test_values_that_are_too_large_are_listed_as_bad_and_steps_are_short(
    inside: Callable[[], str], bad: set[BadValue], count: int
) -> None:
    text = conversation(inside())
    longest, found = 0.0, None
    steps: Iterator[Message | None] = read(text)
    while found is None:
        start = thread_time()
        found = next(steps)
        longest = max(longest, thread_time() - start)
    assert found.snapshot is not None
    assert set(found.snapshot.bad) == bad
    assert len(found.snapshot.conversation.items or ()) == count
    assert longest < LONGEST_STEP


@pytest.mark.usefixtures("calm_collector")
def test_a_message_of_nothing_but_brackets_is_refused() -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(conversation('"vad_info":' + "[" * 3_000_000))
    assert caught.value.reason is Invalid.TOO_LARGE


def test_tool_calls_of_a_large_snapshot_are_bounded_together() -> None:
    items = turns(200)
    for item in items:
        item["tool_call_ids"] = [f"{item['item_idx']}.{at}" for at in range(400)]
    snapshot = snapshot_of(frame({"id": ID, "items": items}))
    called = [len(item.tool_call_ids or ()) for item in snapshot.conversation.items or ()]
    assert sum(called) == MOST_CALLED
    assert {(bad.field, bad.reason) for bad in snapshot.bad} == {(Field.TOOL_CALLS, TOO_LARGE)}


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({"timings": dict.fromkeys(map(str, range(MOST_TIMINGS)), 1)}, ()),
        (
            {"timings": dict.fromkeys(map(str, range(MOST_TIMINGS + 1)), 1)},
            (BadValue(0, Field.TIMINGS, TOO_LARGE),),
        ),
        ({"tool_call_ids": ["x"] * MOST_TOOL_CALLS}, ()),
        ({"tool_call_ids": ["x"] * (MOST_TOOL_CALLS + 1)}, (BadValue(0, Field.TOOL_CALLS, TOO_LARGE),)),
        ({"tool_calls": [{}] * (MOST_TOOL_CALLS + 1)}, (BadValue(0, Field.TOOL_CALLS, TOO_LARGE),)),
    ],
)
def test_the_size_of_a_turn_is_bounded(fields: Json, bad: tuple[BadValue, ...]) -> None:
    snapshot = snapshot_of(frame({"id": ID, "items": [{"item_idx": 7, "role": "user", **fields}]}))
    assert snapshot.bad == bad
    [item] = snapshot.conversation.items or []
    assert (item.item_idx, item.role) == (7, "user")


def test_texts_are_cut_to_the_length_of_a_label() -> None:
    long = "x" * (LONGEST_TEXT + 1)
    kept = snapshot_of(frame({"id": ID, "agent": {"name": long}, "origin": long, "items": [{"role": long}]}))
    assert kept.conversation.agent is not None
    assert kept.conversation.agent.name == kept.conversation.origin == long[:LONGEST_TEXT]
    assert [item.role for item in kept.conversation.items or ()] == [long[:LONGEST_TEXT]]


def test_a_record_of_very_many_turns_is_cut() -> None:
    body = json.dumps({"conversation": {"id": ID, "ended_by": "user", "items": turns(MOST_RECORDED + 5)}}).encode()
    record = decode_record(body)
    assert len(record.conversation.items or ()) == MOST_RECORDED
    assert record.bad == (BadValue(-1, Field.ITEMS, TOO_LARGE),)
    assert record.conversation.ended_by == "user"


# --- pieces


def test_the_pieces_of_a_snapshot_add_up_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "PIECE", 4)

    @given(st.data())
    def check(data: st.DataObject) -> None:
        count = data.draw(st.integers(0, 25))
        items = turns(count)
        for item in items:
            item["duration_ms"] = data.draw(st.sampled_from([1000, 0, None, "x", -1]))
            item["started_at"] = f"2026-01-01T00:00:{item['item_idx']:02}Z"
            item["timings"] = data.draw(st.sampled_from([{}, {"model_generation_time": 400}, {"x": 1}, 7]))
            item["tool_call_ids"] = data.draw(st.lists(st.sampled_from("abc"), max_size=2))
        documents = [{"id": ID, "duration_ms": 30_000, "items": items[: data.draw(st.integers(0, count))]}]
        documents.append({"id": ID, "duration_ms": 40_000, "items": [*items, None]})
        whole = pieced = NOTHING
        whole_added: Counter[Any] = Counter()
        pieced_added: Counter[Any] = Counter()
        for document in documents:
            snapshot = snapshot_of(frame(document))
            whole = _derived(whole, [snapshot], whole_added)
            pieced = _derived(pieced, list(pieces(snapshot)), pieced_added)
        assert pieced_added == whole_added
        assert pieced == whole

    check()


def _derived(progress: Progress, snapshots: list[Snapshot], added: Counter[Any]) -> Progress:
    for snapshot in snapshots:
        progress, increments = derive(progress, snapshot)
        added.update(increments)
    return progress


def test_a_first_snapshot_of_very_many_turns_is_yielded_in_pieces() -> None:
    text = frame({"id": ID, "items": turns(3 * PIECE)})
    found = [each for each in IncrementalDecoder(ID).read(text) if each is not None]
    assert isinstance(found[0], Message)
    assert all(isinstance(each, Snapshot) for each in found[1:])
    progress = NOTHING
    for each in found:
        snapshot = each.snapshot if isinstance(each, Message) else each
        assert snapshot is not None
        assert len(snapshot.conversation.items or ()) <= PIECE
        progress, _ = derive(progress, snapshot)
    assert sorted(progress.turns) == list(range(3 * PIECE))


# --- text around a message


def messages(frame_: str | bytes) -> list[MessageType | Invalid]:
    """The types of the messages in a frame, and the reason why the rest is invalid."""
    found: list[MessageType | Invalid] = []
    try:
        found.extend(message.type for message in read(frame_) if message is not None)
    except InvalidMessage as bad:
        found.append(bad.reason)
    return found


UPDATED = frame({"id": ID, "items": turns(2)})
AROUND = ["\ufeff", " ", "\n", "\r\n", "\t", "\x00", "\x00" * 100, "\x1e", "\ufeff \n"]


@pytest.mark.parametrize("before", ["", *AROUND], ids=repr)
@pytest.mark.parametrize("behind", ["", *AROUND], ids=repr)
def test_a_byte_order_mark_spaces_and_padding_around_a_message_are_ignored(before: str, behind: str) -> None:
    text = before + UPDATED + behind
    assert decode(text) == decode(UPDATED) == decode(text.encode())
    assert messages(text) == [MessageType.CONVERSATION_UPDATED]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_in_a_binary_frame_of_any_encoding_is_decoded(encoding: str) -> None:
    assert decode(UPDATED.encode(encoding)) == decode(UPDATED)


def test_bytes_that_are_no_utf8_in_an_unused_field_do_not_cost_the_message() -> None:
    odd = UPDATED.encode().replace(b'"items"', b'"duration_ms": NaN, "text": "\xff\xfe", "items"')
    assert snapshot_of(odd).conversation.items == snapshot_of(UPDATED).conversation.items


@pytest.mark.parametrize("between", ["", " ", "\n", "\x1e", "\r\n\r\n"], ids=repr)
def test_several_messages_in_one_frame_are_all_decoded(between: str) -> None:
    assert messages(between.join([UPDATED, UPDATED, ENDED])) == [
        MessageType.CONVERSATION_UPDATED,
        MessageType.CONVERSATION_UPDATED,
        MessageType.CONVERSATION_ENDED,
    ]


@pytest.mark.parametrize("rest", ["x", "{", ",", "]", '{"type"}'])
def test_invalid_text_after_a_message_does_not_cost_the_message(rest: str) -> None:
    assert messages(UPDATED + rest) == [MessageType.CONVERSATION_UPDATED, Invalid.NOT_JSON]


def test_very_many_messages_in_one_frame_are_refused_beyond_a_number() -> None:
    ended = [MessageType.CONVERSATION_ENDED] * MOST_DOCUMENTS
    assert messages(ENDED * MOST_DOCUMENTS) == ended
    assert messages(ENDED * (MOST_DOCUMENTS + 1)) == [*ended, Invalid.TOO_LARGE]


# --- one bad value costs that value only

ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([10**30, -(10**400), "\ud800", "\x00", "x" * 2000, [], {}, [None], {"id": 7}]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
SOUND: Json = {
    "id": ID,
    "agent": {"id": "agent_1", "name": "clerk"},
    "project_id": "proj_1",
    "project": {"id": "proj_1", "name": "main"},
    "origin": "inbound",
    "is_test": False,
    "call_provider": "twilio",
    "default_language": "en",
    "model": "merritt",
    "duration_ms": 12_500,
    "started_at": "2026-01-01T00:00:00Z",
    "ended_at": None,
    "end_reason": "user",
    "ended_by": "user",
    "items": [
        {
            "id": f"{ID}-{at}",
            "item_idx": at,
            "role": ("user", "assistant")[at],
            "started_at": f"2026-01-01T00:00:0{at}Z",
            "duration_ms": 500,
            "timings": {"model_generation_time": 450, "phonic_api_output_to_first_audio_chunk": 570},
            "assistant_chose_not_to_respond": False,
            "tool_call_ids": ["call_1"],
        }
        for at in range(2)
    ],
}


def without(snapshot: Snapshot, *path: str | int) -> Any:
    """A snapshot as plain data, without the values at a path."""
    plain = attrs.asdict(snapshot.conversation)
    *way, last = path
    place = plain
    for step in way:
        place = place[step]  # type: ignore[index]
    del place[last]  # type: ignore[arg-type]
    return plain


PATHS: list[tuple[str | int, ...]] = [
    *((key,) for key in SOUND if key not in ("id", "items")),
    *(("items", 1, key) for key in SOUND["items"][0]),
]


@pytest.mark.parametrize("reader", [decode, in_steps], ids=["in one piece", "in steps"])
@given(st.sampled_from(PATHS), ANY_JSON, st.booleans())
def test_any_json_in_any_field_costs_that_field_only(
    reader: Callable[[str], Message], path: tuple[str | int, ...], value: Any, is_ascii: bool
) -> None:
    document = deepcopy(SOUND)
    *way, last = path
    place: Any = document
    for step in way:
        place = place[step]
    place[last] = value
    text = json.dumps({"type": "conversation-updated", "conversation": document}, ensure_ascii=is_ascii)
    snapshot = reader(text).snapshot
    assert snapshot is not None
    assert without(snapshot, *path) == without(snapshot_of(frame(SOUND)), *path)
    assert snapshot.malformed == 0


@pytest.mark.parametrize("style", ["as it is", "upper", "lower"])
def test_the_id_of_a_conversation_ignores_case(style: str) -> None:
    identity = {"as it is": "Conv_A", "upper": "CONV_A", "lower": "conv_a"}[style]
    [message] = IncrementalDecoder("Conv_A").read(frame({"id": identity, "items": []}))
    assert isinstance(message, Message)


def test_the_last_of_duplicate_keys_counts() -> None:
    text = conversation('"duration_ms":1,"items":[{}],"duration_ms":2,"items":[{},{}]')
    for found in (decode(text), in_steps(text)):
        assert found.snapshot is not None
        assert found.snapshot.conversation.duration_ms == 2
        assert len(found.snapshot.conversation.items or ()) == 2
