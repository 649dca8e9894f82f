"""Pure: reads WebSocket data frames before the library does; control frames are passed to it as they are.

Why: almost all that ever comes is text messages of one frame, for which the library's general way costs more than
decoding them. It also reads all frames of one receive without a pause, which a peer can use to hold the event
loop. See docs/decisions/0003-own-frame-reader.md.

Theory of operation. `FrameReader` gets all bytes that follow the handshake, cut anywhere (`feed`), and processes a
bounded number of frames at a time (`read`). It is between frames, within a frame (``_missing`` bytes are still to
come), or within a fragmented message (``_opcode`` is the one of its first frame), or both of the latter; at the
end it is over (``is_over``), after a close frame or a violation.

- A text message of one frame is decoded straight out of the buffer and put.
- A fragment is kept, text decoded incrementally, until the last one completes the message.
- A control frame is returned, for the library to answer.
- A violation of RFC 6455, invalid UTF-8 or a message that is too large ends the reading for good. The library is
  given a short frame that it refuses for the same reason. So one place, the library, closes the connection and
  reports why.

Invariants: each byte of a payload is decoded once, whatever the cuts; a frame that is not complete is bounded by
``largest`` from its header on; messages and control frames keep their order among themselves, and after `is_over`
neither comes. A test compares it with the library's own parser for arbitrary bytes and cuts.

`PassThrough` stands in for it to have the library read all frames.
"""

import codecs
from collections.abc import Callable
from sys import getsizeof

_FINAL, _RESERVED, _OPCODE = 0x80, 0x70, 0x0F
_CONTINUED, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_WHOLE_TEXT = _FINAL | _TEXT
_LONGEST_CONTROL = 125
# The second byte is the length, or one of these: then 2 or 8 bytes of length follow. The highest bit is the
# mask's.
_TWO_BYTES, _EIGHT_BYTES = 126, 127

MOST_AT_ONCE = 32
"""Frames of one `FrameReader.read`: they may all be pings, which the library has to answer."""
# Work, in units of about 2 µs: what a frame costs apart from its bytes. The network bounds the number of long
# ones.
_SHORT = 256  # bytes
_OF_CONTROL, _OF_MESSAGE, _OF_FRAGMENT = 10, 2, 1
MOST_WORK = 10_000
"""Units of work that a peer may cause at once: 1,000 pings, or a message in 10,000 fragments of one byte."""
WORK_PER_SECOND = 500

PROTOCOL, NOT_UTF8, TOO_LARGE = 1002, 1007, 1009  # as close codes
# Frames that the library refuses with each code: an unknown opcode; text that is no UTF-8; a message of one byte,
# since its limit is 0.
_REFUSED_FOR = {PROTOCOL: b"\x83\x00", NOT_UTF8: b"\x81\x01\xff", TOO_LARGE: b"\x82\x01x"}


class FrameReader:
    """Reads all that a server sends after the handshake."""

    def __init__(self, put: Callable[[str | bytes], object], largest: int) -> None:
        """``put`` gets each message of at most ``largest`` bytes."""
        self._put = put
        self._largest = largest
        self._data: bytes | bytearray = b""  # from `_at` on: frames not read yet, or an incomplete one
        self._at = 0
        self._missing = 0  # bytes that complete it; 0 or less where that is unknown
        self._parts: list[str | bytes] = []
        self._opcode = _CONTINUED  # of the fragmented message in `_parts`; `_CONTINUED` outside of one
        self._length = 0
        self._parts_held = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.has_more = False
        self.is_over = False
        self.work = 0

    @property
    def held(self) -> int:
        """Memory of an incomplete message, in bytes."""
        return self._parts_held + len(self._data) - self._at

    @property
    def is_unfinished(self) -> bool:
        """Whether a message has begun."""
        return self._at < len(self._data) or self._opcode != _CONTINUED

    def feed(self, data: bytes | bytearray) -> None:
        """Take bytes that arrived. Not allowed while it `has_more`."""
        if self.is_over:
            return
        if self._at < len(self._data):
            if not isinstance(self._data, bytearray):
                self._data = bytearray(memoryview(self._data)[self._at :])
                self._at = 0
            self._data += data
        else:
            self._data, self._at = data, 0
        self._missing -= len(data)

    def read(self) -> bytes:
        """Put complete messages, and return what the library has to read.

        Stops after `MOST_AT_ONCE` frames; then it `has_more`. ``work`` grows by the cost of the frames. Once it
        `is_over` it returns nothing more.
        """
        self.has_more = False
        if self._missing > 0 or self.is_over:
            return b""
        passed: list[bytes | bytearray] = []
        data, at, size = self._data, self._at, len(self._data)
        for _ in range(MOST_AT_ONCE):
            if at >= size:
                break
            begin, end = _payload(data, at)
            if end < begin or not self._is_allowed(data[at], end - begin):
                return self._stop(passed, PROTOCOL)
            if data[at] & _OPCODE < _CLOSE and end - begin + self._length > self._largest:
                return self._stop(passed, TOO_LARGE)
            if end > size:
                self._missing = end - size
                break
            if data[at] == _WHOLE_TEXT:
                try:
                    self._put(str(memoryview(data)[begin:end], "utf-8"))
                except UnicodeDecodeError:
                    return self._stop(passed, NOT_UTF8)
                self.work += _OF_MESSAGE if end - begin < _SHORT else 0
            elif data[at] & _OPCODE >= _CLOSE:
                passed.append(data[at:end])
                self.work += _OF_CONTROL
                if data[at] & _OPCODE == _CLOSE:
                    return self._stop(passed, None)
            elif not self._take_part(data[at], bytes(memoryview(data)[begin:end])):
                return self._stop(passed, NOT_UTF8)
            at = end
        else:
            self.has_more = at < size
        self._keep(data, at)
        return b"".join(passed)

    def _keep(self, data: bytes | bytearray, at: int) -> None:
        if at >= len(data):
            self._data, self._at = b"", 0
        elif self.has_more or at == 0:
            self._data, self._at = data, at
        else:
            self._data, self._at = bytearray(memoryview(data)[at:]), 0

    def _is_allowed(self, first: int, length: int) -> bool:
        opcode = first & _OPCODE
        if first & _RESERVED:
            return False
        if opcode in (_CLOSE, _PING, _PONG):
            return bool(first & _FINAL) and length <= _LONGEST_CONTROL
        if self._opcode == _CONTINUED:
            return opcode in (_TEXT, _BINARY)
        return opcode == _CONTINUED

    def _take_part(self, first: int, payload: bytes) -> bool:
        """Take a fragment or a binary message; False if it should be text and is no UTF-8."""
        is_last = bool(first & _FINAL)
        opcode = self._opcode or first & _OPCODE
        part: str | bytes = payload
        if opcode == _TEXT:
            try:
                part = self._decoder.decode(payload, is_last)
            except UnicodeDecodeError:
                return False
        self.work += _OF_FRAGMENT if len(payload) < _SHORT else 0
        if is_last and not self._parts:
            self._put(part)
        elif is_last:
            self._parts.append(part)
            empty = "" if opcode == _TEXT else b""
            self._put(empty.join(self._parts))  # type: ignore[arg-type]
        if is_last:
            self._parts, self._parts_held, self._length, self._opcode = [], 0, 0, _CONTINUED
            self._decoder.reset()
        else:
            if part or not self._parts:
                self._parts.append(part)
                self._parts_held += getsizeof(part)
            self._length += len(payload)
            self._opcode = opcode
        return True

    def end(self) -> bytes:
        """The connection ended: what the library has to read, if an incomplete text is no UTF-8 already."""
        begin, _ = _payload(self._data, self._at) if self.is_unfinished and not self.is_over else (0, 0)
        if self._at < len(self._data) and self._data[self._at] == _WHOLE_TEXT:
            try:
                codecs.utf_8_decode(memoryview(self._data)[begin:], "strict", False)
            except UnicodeDecodeError:
                return self._stop([], NOT_UTF8)
        return b""

    def refuse(self, reason: int) -> bytes:
        """Read nothing from now on. Returns what makes the library close the connection with this code."""
        return self._stop([], reason)

    def _stop(self, passed: list[bytes | bytearray], reason: int | None) -> bytes:
        self.is_over = True
        self.has_more = False
        self._data, self._at, self._missing = b"", 0, 0
        self._parts, self._parts_held, self._length, self._opcode = [], 0, 0, _CONTINUED
        return b"".join((*passed, _REFUSED_FOR[reason] if reason else b""))


class PassThrough:
    """Stands in for `FrameReader` and leaves all frames to the library: returns what it is fed."""

    has_more = False
    is_unfinished = False
    held = 0

    def __init__(self) -> None:
        self._data: bytes | bytearray = b""
        self.is_over = False
        self.work = 0

    def feed(self, data: bytes | bytearray) -> None:
        """Take bytes that arrived."""
        self._data = data

    def read(self) -> bytes | bytearray:
        """Return them."""
        data, self._data = self._data, b""
        return b"" if self.is_over else data

    def end(self) -> bytes:
        """The connection ended."""
        return b""

    def refuse(self, reason: int) -> bytes:
        """Read nothing from now on. Returns what makes the library close the connection with this code."""
        self.is_over = True
        return _REFUSED_FOR[reason]


def _payload(data: bytes | bytearray, start: int) -> tuple[int, int]:
    """Where the payload of a frame begins and ends.

    The end is before the beginning for a length that RFC 6455 forbids. While the header is incomplete, the payload
    is empty and begins behind it.
    """
    begin = start + 2
    if len(data) < begin:
        return begin, begin
    length = data[start + 1]
    if length < _TWO_BYTES:
        return begin, begin + length
    if length > _EIGHT_BYTES or data[start] & _OPCODE >= _CLOSE:  # a control frame is short
        return begin, start
    at, begin = begin, begin + (2 if length == _TWO_BYTES else 8)
    if len(data) < begin:
        return begin, begin
    size = int.from_bytes(data[at:begin])
    is_shortest = size >= _TWO_BYTES if length == _TWO_BYTES else 1 << 16 <= size < 1 << 63
    return (begin, begin + size) if is_shortest else (begin, start)
