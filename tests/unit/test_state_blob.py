"""Saved progress: it is restored as it was saved, and blobs of every release can be read."""

from contextlib import suppress
from typing import Any

import attrs
import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from exporter.counting import derive
from exporter.counting.derive import CONVERSATION_INDEX, LiveState, Progress
from exporter.enums import EndedBy, Field, Rejection
from exporter.state.blob import SavedEntry, UnreadableBlob, decode, encode

# conv_b of tests/data/state/0.1.0.sqlite: all kinds of rejected values, as bits above the flags.
VERSION_1 = bytes.fromhex(
    "88a56167656e74a46e6f6e65a96861735f656e646564c2ac6c6162656c5f76616c75657392a46d61696ea46e6f6e65a6"
    "6c6162656c7387a770726f6a656374a46d61696ea56167656e74a46e6f6e65a66f726967696ea7696e626f756e64a769"
    "735f74657374a7756e6b6e6f776ead63616c6c5f70726f7669646572a7756e6b6e6f776ea86c616e6775616765a7756e"
    "6b6e6f776ea56d6f64656ca7756e6b6e6f776ea66f726967696ea7696e626f756e64a870726f67726573738aaa647570"
    "6c69636174657301ab6475726174696f6e5f6d73c0aa656e645f726561736f6ea56572726f72a46c69766585a8647572"
    "6174696f6ec0ab66697273745f617564696fcb3fdcd0e560418937b06d6f64656c5f67656e65726174696f6ecb3fd33b"
    "645a1cac08a57475726e7306ad77616974696e675f73696e6365c0a96d616c666f726d656401a8706f736974696f6e93"
    "05cbbff0000000000000cb4072c00000000000a872656a65637465649192b8636f6e766572736174696f6e5f64757261"
    "74696f6e5f6d73a86e65676174697665a47365656ec3a5746f6f6c7390a57475726e73860095cf0000010288001000c0"
    "c0c0c00195ce02000001c0c0c0c00295ce20000800c0c0c0c0039522c0c0c0cb4059000000000000049521c0c0c0cb40"
    "72c000000000000595cf000200000000041ccb4072c80000000000cb407c240000000000cb4044000000000000cb4072"
    "c00000000000a770726f6a656374a46d61696eaa757064617465645f6174cb41dabf61b0000000"
)
VERSION_2 = bytes.fromhex(
    "89a56167656e74a7737570706f7274a96861735f656e646564c3ac6c6162656c5f76616c75657392a46d61696ea95f5f"
    "6f746865725f5fa66c6162656c7382a770726f6a656374a46d61696ea56167656e74a7737570706f7274a66f72696769"
    "6ea7696e626f756e64a870726f67726573738aaa6475706c69636174657302ab6475726174696f6e5f6d73cb40bf4000"
    "00000000aa656e645f726561736f6ea475736572a46c69766585a86475726174696f6ecb4020000000000000ab666972"
    "73745f617564696fcb3fdccccccccccccdb06d6f64656c5f67656e65726174696f6ecb3fd3333333333333a57475726e"
    "7302ad77616974696e675f73696e6365cb3ff8000000000000a96d616c666f726d656401a8706f736974696f6e9303cb"
    "40bf400000000000cb4085e00000000000a872656a65637465649193ffb8636f6e766572736174696f6e5f6475726174"
    "696f6e5f6d73a86e65676174697665a47365656ec3a5746f6f6c7391a663616c6c5f31a57475726e73820095cd043ccb"
    "4072c80000000000cb407c240000000000cb4044000000000000cb408c200000000000039502c0c0c0c0a770726f6a65"
    "6374a46d61696eaa757064617465645f6174cb41dabf61b0200000a776657273696f6e02"
)
VERSION_3 = bytes.fromhex(
    "89a56167656e74a7737570706f7274a96861735f656e646564c3ac6c6162656c5f76616c75657392a46d61696ea95f5f"
    "6f746865725f5fa66c6162656c7382a770726f6a656374a46d61696ea56167656e74a7737570706f7274a66f72696769"
    "6ea7696e626f756e64a870726f67726573738caa6475706c69636174657302ab6475726174696f6e5f6d73cb40bf4000"
    "00000000aa656e645f726561736f6ea475736572a5656e646564cf0006608b01e88440a46c69766585a8647572617469"
    "6f6ecb4020000000000000ab66697273745f617564696fcb3fdccccccccccccdb06d6f64656c5f67656e65726174696f"
    "6ecb3fd3333333333333a57475726e7302ad77616974696e675f73696e6365cb3ff8000000000000a96d616c666f726d"
    "656401a8706f736974696f6e9303cb40bf400000000000cb4085e00000000000a872656a65637465649193ffb8636f6e"
    "766572736174696f6e5f6475726174696f6e5f6d73a86e65676174697665a47365656ec3a773746172746564cf000660"
    "8b015f3000a5746f6f6c7391a663616c6c5f31a57475726e73820099cd043ccb4072c80000000000cb407c2400000000"
    "00cb4044000000000000cb408c200000000000cf0006608b01761360cb40890200000000000201039902c0c0c0c0c0c0"
    "0000a770726f6a656374a46d61696eaa757064617465645f6174cb41dabf61b0200000a776657273696f6e03"
)


def test_a_blob_of_version_1_is_read_for_ever() -> None:
    entry = decode(VERSION_1)
    progress = entry.progress
    assert (entry.project, entry.agent, entry.origin, entry.label_values) == (
        "main",
        "none",
        "inbound",
        ("main", "none"),
    )
    assert entry.labels == {
        "project": "main", "agent": "none", "origin": "inbound", "is_test": "unknown", "call_provider": "unknown",
        "language": "unknown", "model": "unknown",
    }  # fmt: skip
    assert (entry.has_ended, entry.updated_at, entry.version) == (False, 1795000000.0, 3)
    assert (progress.malformed, progress.duplicates, progress.seen, progress.tools) == (1, 1, True, frozenset())
    assert progress.position == (5, -1.0, 300.0)
    assert (progress.duration_ms, progress.end_reason) == (None, EndedBy.ERROR)
    assert progress.turns == {
        0: (0b1_0000_0000_0000, None, None, None, None, None, None, 0, 0),
        1: (1, None, None, None, None, None, None, 0, 0),
        2: (0b1000_0000_0000, None, None, None, None, None, None, 0, 0),
        3: (34, None, None, None, 100.0, None, None, 0, 0),
        4: (33, None, None, None, 300.0, None, None, 0, 0),
        5: (0b100_0001_1100, 300.5, 450.25, 40.0, 300.0, None, None, 0, 0),
    }
    assert (progress.started, progress.ended) == (None, None)
    assert progress.rejected == {
        (-1, "conversation_duration_ms", "negative"),
        (0, "duration_ms", "negative"),
        (0, "model_generation_time", "negative"),
        (0, "phonic_api_output_to_first_audio_chunk", "wrong_type"),
        (0, "phonic_api_output_to_modal_input", "too_large"),
        (1, "duration_ms", "wrong_type"),
        (2, "model_generation_time", "wrong_type"),
        (5, "tool_calls", "wrong_type"),
    }


def saved_entry() -> SavedEntry:
    return SavedEntry(
        project="main",
        agent="support",
        origin="inbound",
        labels={"project": "main", "agent": "support"},
        label_values=("main", "__other__"),
        progress=Progress(
            seen=True,
            turns={
                0: (0x43C, 300.5, 450.25, 40.0, 900.0, 1795000001_500000, 800.25, 2, 1),
                3: (2, None, None, None, None, None, None, 0, 0),
            },
            tools=frozenset({"call_1"}),
            rejected=frozenset({(CONVERSATION_INDEX, "conversation_duration_ms", "negative")}),
            malformed=1,
            duplicates=2,
            position=(3, 8000.0, 700.0),
            duration_ms=8000.0,
            end_reason=EndedBy.USER,
            live=LiveState(turns=2, duration=8.0, model_generation=0.3, first_audio=0.45, waiting_since=1.5),
            started=1795000000_000000,
            ended=1795000009_000000,
        ),
        has_ended=True,
        updated_at=1795000000.5,
    )


def test_a_blob_of_version_2_is_read_for_ever() -> None:
    entry = saved_entry()
    turns = {index: (*turn[:5], None, None, 0, 0) for index, turn in entry.progress.turns.items()}
    progress = attrs.evolve(entry.progress, turns=turns, started=None, ended=None)
    assert decode(VERSION_2) == attrs.evolve(entry, progress=progress)


def test_a_blob_of_version_3_is_read_for_ever_and_written_today() -> None:
    assert decode(VERSION_3) == saved_entry()
    assert msgspec.msgpack.decode(encode(saved_entry())) == msgspec.msgpack.decode(VERSION_3)


def test_flags_of_a_turn_never_change_their_meaning() -> None:
    """State files contain them, so they must not depend on an enumeration."""
    names = (
        "_ROLE_MASK", "_OBSERVED", "_REVISED", "_TIMINGS_OBSERVED", "_RESPONSE_DECIDED", "SILENT_FLAG",
        "_UNKNOWN_TIMING_COUNTED", "_DURATION_OBSERVED", "_DURATION_REVISED", "OVERLAP_FLAG",
        "_ASSISTANT_COMPARED", "BARGE_IN_FLAG", "_END_OF_TURN_DECIDED", "_SLOW_DECIDED", "_TOOL_RESPONSE_OBSERVED",
        "_GREETING_DECIDED",
    )  # fmt: skip
    assert {name: getattr(derive, name) for name in names} == {
        "_ROLE_MASK": 0b11,
        "_OBSERVED": 1 << 2,
        "_REVISED": 1 << 6,
        "_TIMINGS_OBSERVED": 0b11100,
        "_RESPONSE_DECIDED": 1 << 10,
        "SILENT_FLAG": 1 << 11,
        "_UNKNOWN_TIMING_COUNTED": 1 << 12,
        "_DURATION_OBSERVED": 1 << 5,
        "_DURATION_REVISED": 1 << 9,
        "OVERLAP_FLAG": 1 << 13,
        "_ASSISTANT_COMPARED": 1 << 14,
        "BARGE_IN_FLAG": 1 << 15,
        "_END_OF_TURN_DECIDED": 1 << 16,
        "_SLOW_DECIDED": 1 << 17,
        "_TOOL_RESPONSE_OBSERVED": 1 << 18,
        "_GREETING_DECIDED": 1 << 19,
    }
    assert CONVERSATION_INDEX == -1
    assert {role.value: bits for role, bits in derive._ROLE_BITS.items()} == {
        "assistant": 0,
        "user": 1,
        "other": 2,
    }
    assert [name for name, _, _ in derive._TIMINGS] == [
        "model_generation_time", "phonic_api_output_to_first_audio_chunk", "phonic_api_output_to_modal_input"
    ]  # fmt: skip


numbers = st.none() | st.floats(allow_nan=False)
texts = st.text(st.characters(codec="utf-8"))  # labels and ids are valid UTF-8
progresses = st.builds(
    Progress,
    seen=st.booleans(),
    turns=st.dictionaries(
        st.integers(0, derive.LARGEST_INDEX),
        st.tuples(
            st.integers(0, (1 << 20) - 1),
            *(numbers,) * 4,
            st.none() | st.integers(-(2**55), 2**55),
            numbers,
            st.integers(0, 1000),
            st.integers(0, 1000),
        ),
    ),
    tools=st.frozensets(texts),
    rejected=st.frozensets(
        st.tuples(st.integers(-1, derive.LARGEST_INDEX), st.sampled_from(Field), st.sampled_from(Rejection)).map(
            lambda each: (each[0], each[1].value, each[2].value)
        )
    ),
    malformed=st.integers(0, 2**40),
    duplicates=st.integers(0, 2**40),
    position=st.tuples(st.integers(-1, 2**40), st.floats(allow_nan=False), st.floats(allow_nan=False)),
    duration_ms=numbers,
    end_reason=st.none() | st.sampled_from(EndedBy),
    live=st.builds(
        LiveState,
        turns=st.integers(0, 2**40),
        duration=numbers,
        model_generation=numbers,
        first_audio=numbers,
        waiting_since=numbers,
    ),
    started=st.none() | st.integers(-(2**55), 2**55),
    ended=st.none() | st.integers(-(2**55), 2**55),
)


@given(
    st.builds(
        SavedEntry,
        project=texts,
        agent=texts,
        origin=texts,
        labels=st.dictionaries(texts, texts),
        label_values=st.lists(texts).map(tuple),
        progress=progresses,
        has_ended=st.booleans(),
        updated_at=numbers,
    )
)
def test_any_entry_survives_encoding(entry: SavedEntry) -> None:
    assert decode(encode(entry)) == entry


@pytest.mark.parametrize("change", [{"version": 4}, {"version": 0}, {"version": "2"}, {"progress": {"turns": []}}])
def test_an_undecodable_blob_is_refused_without_quoting_it(change: dict[str, Any]) -> None:
    blob = msgspec.msgpack.encode({**msgspec.msgpack.decode(VERSION_3, strict=False), **change})
    with pytest.raises(UnreadableBlob) as refused:
        decode(blob)
    assert "support" not in str(refused.value)


@given(st.binary(max_size=60), st.integers(0, len(VERSION_3)))
def test_a_damaged_blob_is_read_or_refused(junk: bytes, at: int) -> None:
    for blob in (junk, VERSION_3[:at] + junk, VERSION_2[:at] + junk, VERSION_1[:at] + junk + VERSION_1[at + 1 :]):
        with suppress(UnreadableBlob):
            decode(blob)
