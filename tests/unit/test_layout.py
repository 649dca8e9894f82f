"""Frames in other layouts than Phonic's own: told apart, superseded and counted the same."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.counting.derive import NOTHING, derive
from exporter.enums import DecodePath
from exporter.phonic.decode import InvalidMessage, Message, decode, read
from exporter.phonic.live.incremental import SHORTEST, IncrementalDecoder
from exporter.phonic.live.layout import LONGEST_CHECKED, is_snapshot, settled_turns, without_settled
from exporter.watch.watcher import Retry, watch
from tests.feeds import (
    AUDIO,
    ENDED,
    NESTED_ERROR,
    SAVED,
    TOP_LEVEL_ERROR,
    RecordingSink,
    ScriptedFeeds,
    snapshot,
)
from tests.strategies import damaged, histories

ID = "conv_1"
PAYLOADS = Path(__file__).parents[1] / "data" / "payloads"


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(each) for each in value] if isinstance(value, list) else value


LAYOUTS: dict[str, Callable[[Any], str]] = {
    "compact": lambda message: json.dumps(message, separators=(",", ":")),
    "spaces": json.dumps,
    "indented": lambda message: json.dumps(message, indent=2) + "\n",
    "sorted keys": lambda message: json.dumps(message, sort_keys=True, separators=(",", ":")),
    "reversed keys": lambda message: json.dumps(reversed_keys(message), separators=(",", ":")),
    "not ASCII": lambda message: json.dumps(message, ensure_ascii=False),
}
layouts = pytest.mark.parametrize("written", LAYOUTS.values(), ids=LAYOUTS)


def call(turns: int) -> dict[str, Any]:
    """A snapshot of so many turns, long enough for the incremental decoder."""
    message = json.loads(snapshot(ID, turns, text="später 😀" + "x" * SHORTEST))
    for item in message["conversation"]["items"]:
        at = item.pop("item_idx")
        item.update({"id": f"item_{at}", "item_idx": at})
    message["conversation"]["items"] = [{"id": item["id"], **item} for item in message["conversation"]["items"]]
    return dict(message)


@layouts
def test_a_snapshot_is_recognised_in_any_layout(written: Callable[[Any], str]) -> None:
    assert is_snapshot(written(call(3)), ID)
    assert not is_snapshot(written(call(3)), "conv_2")
    recorded = json.loads((PAYLOADS / "live_conversation_updated.co.json").read_text())
    assert is_snapshot(written(recorded), recorded["conversation"]["id"])


@layouts
def test_no_other_message_is_taken_for_a_snapshot(written: Callable[[Any], str]) -> None:
    whole = call(3)
    others: list[Any] = [json.loads(each) for each in (AUDIO, ENDED, SAVED, NESTED_ERROR, TOP_LEVEL_ERROR)]
    others += json.loads((PAYLOADS / "live_other_frames.json").read_text())
    others += [
        {"type": "conversation-updated"},
        {"type": "conversation-updated", "conversation": None},
        {"type": "conversation-updated", "conversation": {"items": []}},
        {"type": "error", "snapshot": whole},
        {"type": "conversation-saved", "conversation": whole["conversation"]},
        [whole],
        "conversation-updated",
    ]
    for each in others:
        assert not is_snapshot(written(each), ID)
    assert not is_snapshot(written(whole).encode(), ID)


@layouts
@pytest.mark.parametrize("between", ["", "\n", "\x1e", "\0", "\ufeff"])
@pytest.mark.parametrize("other", [ENDED, NESTED_ERROR, '{"type":"error","error":{"message":"Invalid token"}}'])
def test_a_frame_of_several_messages_is_no_snapshot(
    written: Callable[[Any], str], between: str, other: str
) -> None:
    assert not is_snapshot(written(call(3)) + between + other, ID)
    assert not is_snapshot(other + between + written(call(3)), ID)


def test_a_damaged_snapshot_in_another_layout_replaces_nothing() -> None:
    for written in (LAYOUTS["sorted keys"], LAYOUTS["reversed keys"]):
        assert not is_snapshot(written(call(3))[:-1], ID)
        assert not is_snapshot(written(call(3)).replace("item_1", "item\n1"), ID)


@given(st.data())
def test_what_is_recognised_is_decoded_as_one_snapshot_of_that_conversation(data: st.DataObject) -> None:
    documents = st.sampled_from([call(turns) for turns in range(3)])
    document = data.draw(documents | damaged(documents))
    text = data.draw(st.sampled_from(list(LAYOUTS.values())))(document)
    if not is_snapshot(text, ID):
        return
    try:
        [message] = [each for each in read(text) if each is not None]
    except InvalidMessage:
        return  # too damaged to be used at all
    assert message.snapshot is not None
    assert message.snapshot.conversation.id == ID


def test_a_large_frame_in_another_layout_is_not_searched() -> None:
    message = call(1)
    message["conversation"]["text"] = "x" * LONGEST_CHECKED
    assert is_snapshot(LAYOUTS["compact"](message), ID)
    assert is_snapshot(LAYOUTS["spaces"](message), ID)
    assert not is_snapshot(LAYOUTS["reversed keys"](message), ID)


def test_white_space_without_end_is_not_searched() -> None:
    assert not is_snapshot(" " * (2 * LONGEST_CHECKED), ID)
    assert not is_snapshot("{" + " " * (2 * LONGEST_CHECKED) + LAYOUTS["compact"](call(1))[1:], ID)


@layouts
def test_a_call_in_any_layout_counts_the_same_and_tells_how_it_was_decoded(written: Callable[[Any], str]) -> None:
    decoder, off = IncrementalDecoder(ID), IncrementalDecoder(ID, incremental=False)
    paths = set()
    progress = [NOTHING] * 3
    for turns in range(1, 12):
        frame = written(call(turns))
        messages = [*decoder.read(frame), *off.read(frame), decode(frame)]
        steps = []
        for at, message in enumerate(messages):
            assert isinstance(message, Message)
            assert message.snapshot is not None
            steps.append(derive(progress[at], message.snapshot))
            progress[at] = steps[at][0]
        assert steps[0] == steps[1] == steps[2]
        assert isinstance(messages[1], Message)
        assert messages[1].path is DecodePath.FULL
        assert isinstance(messages[0], Message)
        paths.add(messages[0].path)
    is_phonic = written is LAYOUTS["compact"]
    assert paths == ({DecodePath.FULL, DecodePath.INCREMENTAL} if is_phonic else {DecodePath.FULL})


@given(histories(ID))
def test_settled_turns_are_found_again_and_cut_out(history: Any) -> None:
    for each in history.snapshots():
        items = each["items"]
        if len(items) < 2 or items[-1].get("id") is None:
            continue
        text = LAYOUTS["compact"]({"type": "conversation-updated", "conversation": each})
        turns = settled_turns(text, items[-1]["id"])
        if turns is not None:
            found = without_settled(text, turns)
            assert found is not None
            assert len(json.loads(found[0])["conversation"]["items"]) < len(items)


@pytest.mark.parametrize(("name", "incremental"), [("compact", 7), ("spaces", 0), ("sorted keys", 0)])
async def test_the_watcher_counts_how_each_snapshot_was_decoded(name: str, incremental: int) -> None:
    sink = RecordingSink()
    frames = [LAYOUTS[name](call(turns)) for turns in range(1, 11)]
    await watch(
        ID,
        open_feed=ScriptedFeeds([*frames, ENDED]).open,
        sink=sink,
        retry=Retry(),
        rng=Random(0),
        set_state=lambda _: None,
        on_snapshot=lambda _: None,
    )
    paths = sink.of("decoded")
    assert (len(paths), paths.count(DecodePath.INCREMENTAL)) == (10, incremental)
    assert len(sink.of("update")) == 10
