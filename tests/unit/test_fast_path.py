"""The frame reader and the WebSocket library read the same messages, however the bytes are cut."""

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
    FrameReader,
)

LARGEST = 70_000


@attrs.define
class Heard:
    """The result of reading some bytes. ``refused`` is the close code of a violation."""

    messages: list[str | bytes] = attrs.field(factory=list)
    controls: list[tuple[Opcode, object]] = attrs.field(factory=list)
    refused: int | None = None


class Library:
    """Reads frames with wsproto, and joins them to messages of at most ``largest`` bytes."""

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


def framed(pieces: Iterable[bytes], largest: int = LARGEST) -> tuple[Heard, list[bytes]]:
    """The result, and the bytes that the library got to read."""
    heard = Heard()
    library, read = Library(heard, 0), []
    reader = FrameReader(heard.messages.append, largest)
    for piece in pieces:
        reader.feed(piece)
        while True:
            if rest := reader.read():
                read.append(rest)
                library.read(rest)
            if not reader.has_more:
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
    """A frame, valid or not; by default a whole text message with the shortest form of its length."""
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
    """Compare messages, and the refusal after enough bytes to complete any incomplete frame."""
    rest = frame(bytes(LARGEST)) + frame(bytes(LARGEST), 0)
    data = b"".join(pieces)
    heard, _ = framed([*pieces, rest])
    wanted = alone(data + rest)
    if (heard.refused, wanted.refused) == (TOO_LARGE, NOT_UTF8):
        wanted.refused = TOO_LARGE  # both are true; the reader refuses at the header, before any text has arrived
    assert heard == wanted
    heard, _ = framed(pieces)
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
def test_the_frame_reader_reads_what_the_library_reads_however_the_bytes_are_cut(
    data: bytes, at: list[int]
) -> None:
    check(cut(data, at))


@pytest.mark.parametrize("odd", NOT_PLAIN)
def test_unusual_frames_are_read_as_by_the_library_wherever_they_are_cut(odd: bytes) -> None:
    before, after = frame(b"before"), frame(b"ping", 9) + frame(b"after")
    places = [*range(300), *range(LARGEST, LARGEST + 50)]
    for at in places[: len(before + odd + after)]:
        check(cut(before + odd + after, [at]))


@given(streams(SHORT))
def test_the_same_is_read_one_byte_at_a_time(data: bytes) -> None:
    check([data[at : at + 1] for at in range(len(data))])


@given(st.lists(st.one_of(st.builds(frame, SHORT), CONTROLS, IN_PARTS), max_size=8), CUTS)
def test_no_message_reaches_the_library(frames: list[bytes], at: list[int]) -> None:
    _, read = framed(cut(b"".join(frames), at))
    assert not alone(b"".join(read)).messages


@pytest.mark.parametrize("size", [LARGEST, LARGEST + 1])
@pytest.mark.parametrize("opcode", [1, 2])
def test_a_message_beyond_the_limit_is_refused_at_its_header(size: int, opcode: int) -> None:
    reader = FrameReader(lambda _: None, LARGEST)
    reader.feed(frame(b"x" * size, opcode)[:100])
    assert alone(reader.read()).messages == ([b"x"] if size > LARGEST else [])
    assert reader.is_over == (size > LARGEST)
    assert reader.held == (0 if size > LARGEST else 100)


def test_bytes_after_a_close_or_a_refusal_are_neither_read_nor_kept() -> None:
    for last in (frame(b"\x03\xe8", 8), frame(b"", 3), frame(b"\xff")):
        heard, _ = framed([frame(b"a") + last + frame(b"b"), frame(b"c") * 1000])
        assert heard.messages == ["a"]
        reader = FrameReader(lambda _: None, LARGEST)
        reader.feed(last)
        reader.read()
        reader.feed(frame(b"x" * 1000)[:900])
        assert (reader.read(), reader.held, reader.is_unfinished) == (b"", 0, False)


@pytest.mark.parametrize("tiny", [frame(b""), frame(b"", 9), frame(b"x", 10), frame(b"x", final=False)])
def test_a_flood_of_frames_is_read_a_few_at_a_time_and_completely(tiny: bytes) -> None:
    flood = tiny + (frame(b"x", 0, final=False) if tiny[0] == 1 else tiny) * 9_999
    taken: list[str | bytes] = []
    reader = FrameReader(taken.append, LARGEST)
    reader.feed(flood)
    reads, passed = 0, b""
    while True:
        rest = reader.read()
        assert len(taken) <= MOST_AT_ONCE
        assert len(rest) <= MOST_AT_ONCE * len(tiny)
        taken.clear()
        passed += rest
        reads += 1
        if not reader.has_more:
            break
    assert reads >= 10_000 // MOST_AT_ONCE
    assert passed == (flood if tiny[0] in (0x89, 0x8A) else b"")


def work_of(*frames: bytes) -> int:
    reader = FrameReader(lambda _: None, LARGEST)
    reader.feed(b"".join(frames))
    reader.read()
    while reader.has_more:
        reader.read()
    return reader.work


def test_the_allowance_is_far_more_than_an_ordinary_server_needs() -> None:
    ordinary = [frame(b"x" * 20_000), frame(b"x" * 150)] * 50 + [frame(b"ping", 9), frame(b"pong", 10)]
    assert work_of(*ordinary) < WORK_PER_SECOND
    part = b"x" * 1000
    large = [frame(part, final=False), *[frame(part, 0, final=False)] * 68, frame(b"x", 0)]
    assert work_of(*large * 100) < WORK_PER_SECOND
    assert work_of(*[frame(b"", 9)] * 2000) > MOST_WORK
    assert work_of(*[frame(b"")] * 10_000) > MOST_WORK
    assert work_of(frame(b"", final=False), *[frame(b"", 0, final=False)] * 11_000) > MOST_WORK


def test_empty_fragments_take_no_memory() -> None:
    reader = FrameReader(lambda _: None, LARGEST)
    reader.feed(frame(b"", final=False) + frame(b"", 0, final=False) * 100_000)
    reader.read()
    while reader.has_more:
        reader.read()
    assert reader.held < 100
    assert reader.is_unfinished


def test_held_is_the_memory_of_incomplete_messages() -> None:
    reader = FrameReader(lambda _: None, LARGEST)
    held = []
    for piece in (frame(b"x" * 900)[:500], frame(b"x" * 900)[500:], frame("é".encode() * 500, final=False)):
        reader.feed(piece)
        reader.read()
        held.append(reader.held)
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
def test_at_the_end_an_incomplete_text_that_is_no_utf8_is_refused(begun: bytes, refused: bool) -> None:
    reader = FrameReader(lambda _: None, LARGEST)
    reader.feed(begun)
    assert reader.read() == b""
    assert alone(reader.end()).refused == (NOT_UTF8 if refused else None)


def test_the_library_refuses_for_the_given_reason() -> None:
    for reason in (PROTOCOL, NOT_UTF8):
        assert alone(FrameReader(lambda _: None, LARGEST).refuse(reason)).refused == reason
