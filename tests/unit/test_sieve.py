"""With and without the sieve before the WebSocket library the same is heard, however the bytes are cut."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from exporter.phonic.sieve import Sieve

LARGEST = 70_000


@attrs.define
class Heard:
    """What came of some bytes. ``refused`` is the close code with which the library gives up."""

    messages: list[str | bytes] = attrs.field(factory=list)
    controls: list[tuple[Opcode, object]] = attrs.field(factory=list)
    refused: int | None = None


class Library:
    """Frames as the library behind trio-websocket reads them, put together to messages."""

    def __init__(self, heard: Heard) -> None:
        self._protocol = FrameProtocol(client=True, extensions=[])
        self._heard = heard
        self._parts: list[str | bytes] = []

    def read(self, data: bytes) -> None:
        if self._heard.refused is not None:
            return
        self._protocol.receive_bytes(data)
        try:
            for frame in self._protocol.received_frames():
                if frame.opcode.iscontrol():
                    payload = frame.payload
                    self._heard.controls.append(
                        (frame.opcode, payload if isinstance(payload, tuple) else bytes(payload))
                    )
                else:
                    self._parts.append(frame.payload if isinstance(frame.payload, str) else bytes(frame.payload))
                    if frame.message_finished:
                        empty = "" if isinstance(self._parts[0], str) else b""
                        self._heard.messages.append(empty.join(self._parts))  # type: ignore[arg-type]
                        self._parts.clear()
        except ParseFailed as failed:
            self._heard.refused = failed.code


def alone(data: bytes) -> Heard:
    heard = Heard()
    Library(heard).read(data)
    return heard


def sieved(pieces: Iterable[bytes], largest: int = LARGEST) -> tuple[Heard, list[bytes]]:
    """What is heard, and what the library got to read."""
    heard = Heard()
    library, read = Library(heard), []
    sieve = Sieve(heard.messages.append, largest)
    for piece in pieces:
        if rest := sieve.pour(piece):
            read.append(bytes(rest))
            library.read(rest)
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
]
CUTS = st.lists(st.integers(0, 2**20), max_size=20)


def streams(texts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    plain, odd = st.builds(frame, texts), st.sampled_from(NOT_PLAIN) | st.binary(max_size=20)
    return st.lists(st.one_of(plain, plain, CONTROLS, IN_PARTS, odd), max_size=8).map(b"".join)


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[start:end] for start, end in pairwise(places)]


def check(pieces: list[bytes]) -> None:
    """The same is heard; refused, too, once all has come of what the sieve may be holding back."""
    data = b"".join(pieces)
    heard, _ = sieved(pieces)
    assert (heard.messages, heard.controls) == (alone(data).messages, alone(data).controls)
    rest = bytes(LARGEST + 10)
    heard, _ = sieved([*pieces, rest])
    assert heard == alone(data + rest)


@given(streams(SHORT | LONG), CUTS)
@example(frame(b"a") + frame(b"", 9) + frame(b"b", final=False) + frame(b"c"), [])
@example(frame("é".encode()[:1]) + frame(b"never heard"), [])
@example(frame(b"\x03\xe8", 8) + frame(b"after the end"), [])
@example(b"\x81\x04\xfe\xe0", [])
@example(b"\x89\x7e", [])
def test_with_it_and_without_it_the_same_is_heard_however_the_bytes_are_cut(data: bytes, at: list[int]) -> None:
    check(cut(data, at))


@pytest.mark.parametrize("odd", NOT_PLAIN)
def test_what_is_not_plain_is_judged_by_the_library_and_what_follows_it_too(odd: bytes) -> None:
    before, after = frame(b"before"), frame(b"ping", 9) + frame(b"after")
    for at in range(len(before) + len(odd) + len(after)):
        heard, read = sieved(cut(before + odd + after, [at]))
        assert heard == alone(before + odd + after)
        assert b"".join(read) == odd + after


@given(streams(SHORT))
def test_the_same_is_heard_one_byte_at_a_time(data: bytes) -> None:
    check([data[at : at + 1] for at in range(len(data))])


@given(st.lists(st.builds(frame, SHORT) | CONTROLS, max_size=8), CUTS)
def test_whole_text_messages_never_get_to_the_library(frames: list[bytes], at: list[int]) -> None:
    _, read = sieved(cut(b"".join(frames), at))
    assert b"".join(read) == b"".join(each for each in frames if each[0] != 0x81)


@pytest.mark.parametrize("size", [LARGEST, LARGEST + 1])
def test_a_message_beyond_the_limit_is_the_librarys_to_refuse(size: int) -> None:
    beyond = frame(b"x" * size)
    _, read = sieved([beyond[:100], beyond[100:]])
    assert b"".join(read) == (beyond if size > LARGEST else b"")


def test_a_message_beyond_the_limit_is_not_collected_before_it_is_refused() -> None:
    _, read = sieved([frame(b"x" * (LARGEST + 1))[:100]])
    assert [len(each) for each in read] == [100]


def test_what_comes_after_it_stepped_aside_is_handed_on_as_it_is() -> None:
    later = frame(b"text"), frame(b"ping", 9)
    _, read = sieved([frame(b"binary", 2), *later])
    assert read == [frame(b"binary", 2), *later]


def test_of_a_flood_of_tiny_messages_few_are_taken_at_once_and_the_rest_is_the_librarys() -> None:
    flood = frame(b"") * 10_000
    taken: list[str] = []
    rest = Sieve(taken.append, LARGEST).pour(flood)
    assert len(taken) < 100
    assert rest == flood[2 * len(taken) :]
    heard, _ = sieved([flood])
    assert heard == alone(flood)


def test_it_wants_more_while_a_frame_is_incomplete_and_wherever_it_cannot_know() -> None:
    sieve = Sieve(lambda _: None, LARGEST)
    wanted = []
    for piece in (frame(b"text")[:3], frame(b"text")[3:], frame(b"binary", 2)):
        sieve.pour(piece)
        wanted.append(sieve.wants_more)
    assert wanted == [True, False, True]
