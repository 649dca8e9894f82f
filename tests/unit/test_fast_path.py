"""With and without the sieve before the WebSocket library the same is heard, however the bytes are cut."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from exporter.phonic.live.fast_path import (
    MOST_AT_ONCE,
    MOST_WORK,
    NOT_UTF8,
    PROTOCOL,
    TOO_LARGE,
    WORK_PER_SECOND,
    Sieve,
)

LARGEST = 70_000


@attrs.define
class Heard:
    """What came of some bytes. ``refused`` is the close code with which they were given up."""

    messages: list[str | bytes] = attrs.field(factory=list)
    controls: list[tuple[Opcode, object]] = attrs.field(factory=list)
    refused: int | None = None


class Library:
    """Frames as the library behind trio-websocket reads them, put together to messages of at most ``largest``."""

    def __init__(self, heard: Heard, largest: int) -> None:
        self._protocol = FrameProtocol(client=True, extensions=[])
        self._heard = heard
        self._largest = largest
        self._parts: list[str | bytes] = []
        self._length = 0

    def read(self, data: bytes) -> None:
        heard = self._heard
        if heard.refused is not None:
            return
        self._protocol.receive_bytes(data)
        try:
            for frame in self._protocol.received_frames():
                if frame.opcode.iscontrol():
                    payload: Any = frame.payload
                    heard.controls.append(
                        (frame.opcode, payload if isinstance(payload, tuple) else bytes(payload))
                    )
                    if frame.opcode is Opcode.CLOSE:
                        heard.refused = 0
                        return
                else:
                    content: Any = frame.payload
                    part = content if isinstance(content, str) else bytes(content)
                    self._parts.append(part)
                    self._length += len(part.encode() if isinstance(part, str) else part)
                    if self._length > self._largest:
                        heard.refused = TOO_LARGE
                        return
                    if frame.message_finished:
                        empty = "" if isinstance(part, str) else b""
                        heard.messages.append(empty.join(self._parts))  # type: ignore[arg-type]
                        self._parts.clear()
                        self._length = 0
        except ParseFailed as failed:
            heard.refused = failed.code


def alone(data: bytes) -> Heard:
    heard = Heard()
    Library(heard, LARGEST).read(data)
    return heard


def sieved(pieces: Iterable[bytes], largest: int = LARGEST) -> tuple[Heard, list[bytes]]:
    """What is heard, and what the library got to read."""
    heard = Heard()
    library, read = Library(heard, 0), []
    sieve = Sieve(heard.messages.append, largest)
    for piece in pieces:
        sieve.pour(piece)
        while True:
            if rest := sieve.read():
                read.append(rest)
                library.read(rest)
            if not sieve.has_more:
                break
    return heard, read


def frame(
    payload: bytes,
    opcode: int = 1,
    *,
    final: bool = True,
    reserved: int = 0,
    mask: bytes | None = None,
    bytes_of_length: int | None = None,
) -> bytes:
    """A frame, right or wrong; by default a whole text message with its length written as short as can be."""
    size = len(payload)
    if bytes_of_length is None:
        bytes_of_length = 0 if size < 126 else 2 if size < 1 << 16 else 8
    length = size.to_bytes(bytes_of_length) if bytes_of_length else b""
    second = {0: size, 2: 126, 8: 127}[bytes_of_length]
    if mask is not None:
        second |= 0x80
        payload = mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes([final << 7 | reserved << 4 | opcode, second]) + length + payload


SHORT = st.text().map(str.encode) | st.sampled_from([b"x" * size for size in (0, 1, 125, 126, 127)])
LONG = st.sampled_from([b"x" * size for size in (65535, 65536, LARGEST, LARGEST + 1)])
CONTROLS = st.builds(frame, st.binary(max_size=125), st.sampled_from([9, 10]))
IN_PARTS = st.lists(st.text().map(str.encode), min_size=2, max_size=4).map(
    lambda parts: b"".join(
        frame(part, 0 if at else 1, final=at == len(parts) - 1) for at, part in enumerate(parts)
    )
)
NOT_PLAIN = [
    frame(b"binary", 2),
    frame(b"\x03\xe8bye", 8),
    frame(b"continues nothing", 0),
    frame(b"begins something", final=False),
    frame(b"unknown", 3),
    frame(b"unknown", 11),
    frame(b"extended", reserved=4),
    frame(b"masked", mask=b"mask"),
    frame(b"ping in parts", 9, final=False),
    frame(b"x" * 126, 9),
    frame(b"length longer than it need be", bytes_of_length=2),
    frame(b"length longer than it need be", bytes_of_length=8),
    frame(b"x" * 126, bytes_of_length=8),
    frame(b"length longer than it need be", 10, bytes_of_length=2),
    b"\x81\x7f" + b"\xff" * 8,
    frame("é".encode()[:1]),
    frame(b"begins with half a letter \xc3", final=False) + frame(b"\xa9", 0),
    frame(b"begins with half a letter \xc3", final=False) + frame(b"x", 0),
    frame(b"binary", 2, final=False) + frame(b"\xff", 0),
    frame(b"in ", final=False) + frame(b"a ping between", 9) + frame(b"parts", 0),
    frame(b"x" * LARGEST, final=False) + frame(b"x", 0),
    frame(b"", final=False) + frame(b"", 0, final=False) * 9 + frame(b"", 0),
]
CUTS = st.lists(st.integers(0, 2**20), max_size=20)


def streams(texts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    plain, odd = st.builds(frame, texts), st.sampled_from(NOT_PLAIN) | st.binary(max_size=20)
    return st.lists(st.one_of(plain, plain, CONTROLS, IN_PARTS, odd), max_size=8).map(b"".join)


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[start:end] for start, end in pairwise(places)]


def check(pieces: list[bytes]) -> None:
    """The same is heard; and refused, once all has come of what the sieve may be holding back."""
    rest = frame(bytes(LARGEST)) + frame(bytes(LARGEST), 0)
    data = b"".join(pieces)
    heard, _ = sieved([*pieces, rest])
    wanted = alone(data + rest)
    if (heard.refused, wanted.refused) == (TOO_LARGE, NOT_UTF8):
        wanted.refused = TOO_LARGE  # both are true; the sieve refuses at the header, before there is text to judge
    assert heard == wanted
    heard, _ = sieved(pieces)
    assert heard.messages == alone(data).messages
    assert heard.controls == alone(data).controls


@given(streams(SHORT | LONG), CUTS)
@example(frame(b"a") + frame(b"", 9) + frame(b"b", final=False) + frame(b"c"), [])
@example(frame("é".encode()[:1]) + frame(b"never heard"), [])
@example(frame(b"\x03\xe8", 8) + frame(b"after the end"), [])
@example(b"\x81\x04\xfe\xe0", [])
@example(b"\x89\x7e", [])
@example(b"\x82", [])
@example(frame(b"\xc3", final=False) + frame(b"x" * LARGEST, 0), [])
@example(frame(b"\xff" + b"x" * LARGEST), [])
def test_with_it_and_without_it_the_same_is_heard_however_the_bytes_are_cut(data: bytes, at: list[int]) -> None:
    check(cut(data, at))


@pytest.mark.parametrize("odd", NOT_PLAIN)
def test_what_is_not_plain_is_heard_as_the_library_would_hear_it_wherever_it_is_cut(odd: bytes) -> None:
    before, after = frame(b"before"), frame(b"ping", 9) + frame(b"after")
    places = [*range(300), *range(LARGEST, LARGEST + 50)]
    for at in places[: len(before + odd + after)]:
        check(cut(before + odd + after, [at]))


@given(streams(SHORT))
def test_the_same_is_heard_one_byte_at_a_time(data: bytes) -> None:
    check([data[at : at + 1] for at in range(len(data))])


@given(st.lists(st.one_of(st.builds(frame, SHORT), CONTROLS, IN_PARTS), max_size=8), CUTS)
def test_messages_never_get_to_the_library(frames: list[bytes], at: list[int]) -> None:
    _, read = sieved(cut(b"".join(frames), at))
    assert not alone(b"".join(read)).messages


@pytest.mark.parametrize("size", [LARGEST, LARGEST + 1])
@pytest.mark.parametrize("opcode", [1, 2])
def test_a_message_beyond_the_limit_is_refused_before_it_is_collected(size: int, opcode: int) -> None:
    sieve = Sieve(lambda _: None, LARGEST)
    sieve.pour(frame(b"x" * size, opcode)[:100])
    assert alone(sieve.read()).messages == ([b"x"] if size > LARGEST else [])
    assert sieve.is_over == (size > LARGEST)
    assert sieve.held == (0 if size > LARGEST else 100)


def test_what_comes_after_a_close_or_a_refusal_is_heard_no_more_and_not_kept() -> None:
    for last in (frame(b"\x03\xe8", 8), frame(b"", 3), frame(b"\xff")):
        heard, _ = sieved([frame(b"a") + last + frame(b"b"), frame(b"c") * 1000])
        assert heard.messages == ["a"]
        sieve = Sieve(lambda _: None, LARGEST)
        sieve.pour(last)
        sieve.read()
        sieve.pour(frame(b"x" * 1000)[:900])
        assert (sieve.read(), sieve.held, sieve.is_unfinished) == (b"", 0, False)


@pytest.mark.parametrize("tiny", [frame(b""), frame(b"", 9), frame(b"x", 10), frame(b"x", final=False)])
def test_of_a_flood_few_frames_are_taken_at_once_and_all_in_the_end(tiny: bytes) -> None:
    flood = tiny + (frame(b"x", 0, final=False) if tiny[0] == 1 else tiny) * 9_999
    taken: list[str | bytes] = []
    sieve = Sieve(taken.append, LARGEST)
    sieve.pour(flood)
    rounds, passed = 0, b""
    while True:
        rest = sieve.read()
        assert len(taken) <= MOST_AT_ONCE
        assert len(rest) <= MOST_AT_ONCE * len(tiny)
        taken.clear()
        passed += rest
        rounds += 1
        if not sieve.has_more:
            break
    assert rounds >= 10_000 // MOST_AT_ONCE
    assert passed == (flood if tiny[0] in (0x89, 0x8A) else b"")


def work_of(*frames: bytes) -> int:
    sieve = Sieve(lambda _: None, LARGEST)
    sieve.pour(b"".join(frames))
    sieve.read()
    while sieve.has_more:
        sieve.read()
    return sieve.work


def test_what_a_server_may_do_in_a_second_is_far_more_than_any_does() -> None:
    ordinary = [frame(b"x" * 20_000), frame(b"x" * 150)] * 50 + [frame(b"ping", 9), frame(b"pong", 10)]
    assert work_of(*ordinary) < WORK_PER_SECOND
    part = b"x" * 1000
    large = [frame(part, final=False), *[frame(part, 0, final=False)] * 68, frame(b"x", 0)]
    assert work_of(*large * 100) < WORK_PER_SECOND
    assert work_of(*[frame(b"", 9)] * 2000) > MOST_WORK
    assert work_of(*[frame(b"")] * 10_000) > MOST_WORK
    assert work_of(frame(b"", final=False), *[frame(b"", 0, final=False)] * 11_000) > MOST_WORK


def test_empty_fragments_take_no_memory() -> None:
    sieve = Sieve(lambda _: None, LARGEST)
    sieve.pour(frame(b"", final=False) + frame(b"", 0, final=False) * 100_000)
    sieve.read()
    while sieve.has_more:
        sieve.read()
    assert sieve.held < 100
    assert sieve.is_unfinished


def test_held_is_the_memory_of_what_is_not_complete() -> None:
    sieve = Sieve(lambda _: None, LARGEST)
    held = []
    for piece in (frame(b"x" * 900)[:500], frame(b"x" * 900)[500:], frame("é".encode() * 500, final=False)):
        sieve.pour(piece)
        sieve.read()
        held.append(sieve.held)
    assert held[:2] == [500, 0]
    assert 500 <= held[2] < 2000


@pytest.mark.parametrize(
    ("begun", "refused"),
    [
        (b"", False),
        (frame(b"x" * 900)[:500], False),
        (frame(b"x" + "é".encode())[:-1], False),
        (frame(b"x\xff" * 90)[:50], True),
        (frame(b"x\xff" * 90, 2)[:50], False),
        (frame(b"x" * 900)[:1], False),
    ],
)
def test_at_the_end_a_text_that_is_none_already_is_refused(begun: bytes, refused: bool) -> None:
    sieve = Sieve(lambda _: None, LARGEST)
    sieve.pour(begun)
    assert sieve.read() == b""
    assert alone(sieve.end()).refused == (NOT_UTF8 if refused else None)


def test_it_refuses_for_the_reason_it_is_told() -> None:
    for reason in (PROTOCOL, NOT_UTF8):
        assert alone(Sieve(lambda _: None, LARGEST).refuse(reason)).refused == reason
