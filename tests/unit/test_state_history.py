"""A remembered conversation comes back as it was, in few bytes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.counting.turns import CallState, SeenCall, SeenTurn, as_json
from exporter.state.history import Remembered, UnreadableHistory, pack, unpack

MOST_BYTES = 1000
seconds = st.none() | st.integers(0, 10**9).map(lambda microseconds: microseconds / 1e6)
names = st.none() | st.text(max_size=200)
turns = st.builds(
    SeenTurn,
    index=st.integers(0, 100_000),
    role=st.sampled_from(["assistant", "user", "other"]),
    offset=seconds,
    duration=seconds,
    response=seconds,
    model_input=seconds,
    model_generation=seconds,
    first_audio=seconds,
    end_of_turn=seconds,
    is_silent=st.booleans(),
    is_overlap=st.booleans(),
    is_barge_in=st.booleans(),
    tool_calls=st.integers(0, 1000),
    tool_failures=st.integers(0, 1000),
)
calls = st.builds(
    SeenCall,
    conversation_id=st.just("conv_1"),
    state=st.just(CallState.ENDED),
    project=names,
    agent=names,
    origin=names,
    started_at=st.none() | st.integers(0, 4 * 10**12).map(lambda milliseconds: milliseconds / 1e3),
    duration=seconds,
    ended_by=names,
    lost=names,
    turns=st.lists(turns, max_size=20).map(tuple),
)


@given(calls)
def test_what_is_unpacked_reads_as_what_was_packed(call: SeenCall) -> None:
    assert as_json(unpack("conv_1", pack(call))) == as_json(call)


@given(st.binary())
def test_no_bytes_are_read_as_a_conversation_by_accident(packed: bytes) -> None:
    try:
        call = unpack("conv_1", packed)
    except UnreadableHistory:
        return
    assert isinstance(call, SeenCall)


def test_later_version_is_refused() -> None:
    packed = bytearray(pack(SeenCall(conversation_id="conv_1", state=CallState.ENDED)))
    assert packed[1] == 1
    packed[1] = 2
    with pytest.raises(UnreadableHistory):
        unpack("conv_1", bytes(packed))


def test_call_of_20_turns_takes_less_than_1000_bytes() -> None:
    rng = random.Random(1)
    long = SeenCall(
        conversation_id="conv_12cf6e88-c254-4d3e-a149-ddf1bdd2254c",
        state=CallState.ENDED,
        project="customer-support-production",
        agent="support-agent-english-tier-2",
        origin="telephony-inbound",
        started_at=1795355859.212,
        duration=611.4,
        ended_by="assistant_silence_limit_reached",
        turns=tuple(
            SeenTurn(
                index=index,
                role="assistant" if index % 2 else "user",
                offset=index * 30 + rng.randrange(30_000) / 1000,
                duration=rng.randrange(60_000) / 1000,
                response=rng.randrange(9000) / 1000 if index % 2 else None,
                model_input=rng.randrange(2000) / 1000 if index % 2 else None,
                model_generation=rng.randrange(5000) / 1000 if index % 2 else None,
                first_audio=rng.randrange(5000) / 1000 if index % 2 else None,
                end_of_turn=rng.randrange(2000) / 1000 if index % 2 else None,
                tool_calls=1,
            )
            for index in range(20)
        ),
    )
    row = Remembered.of(long, ended_at=1795356470.612, is_failed=False)
    assert len(row.packed) + len(row.conversation_id) + len(row.project) + len(row.agent) < MOST_BYTES
    assert row.slowest == max(turn.response or 0 for turn in long.turns)
