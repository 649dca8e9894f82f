"""Pure: whole text messages taken out of what a server sends; all else is left to the WebSocket library as it is.

Strategy: almost all that ever comes is text messages of one frame, and a library that can read any frame pays for
that with each of them: 57 µs of CPU for 18 KB in a flood, of which 20 are left. So messages, pings and pongs are
told by their first bytes; messages are handed out, pings and pongs passed on. At the first frame that is anything
else (a close, a part of a message, binary, too large, not UTF-8, against RFC 6455), and in a flood of tiny ones,
the sieve steps aside for good: from there on the library reads everything. So what is allowed and how it is
refused is decided in one place, by the library. A test holds both ways to be equal, except that the library would
refuse some text frames before all of them has come.
"""

from collections.abc import Callable

# First bytes of a frame that is a whole message (RFC 6455, 5.2): final bit, no extension, opcode.
_TEXT, _PING, _PONG = 0x81, 0x89, 0x8A
_LONGEST_CONTROL = 125
# Messages of one read, of 64 KiB as a rule. More are a flood of tiny ones, for the library to read: it lets others
# have their turn after each.
_MOST_AT_ONCE = 64
# Values of the second byte: the length itself, or of how many bytes it is. The highest bit would be a mask's.
_TWO_BYTES, _EIGHT_BYTES = 126, 127


class Sieve:
    """Sees all that a server sends after the handshake, cut anywhere."""

    def __init__(self, put: Callable[[str], object], largest: int) -> None:
        """``put`` gets each text message of at most ``largest`` bytes."""
        self._put = put
        self._largest = largest
        self._held = bytearray()  # of a frame that is not complete
        self._missing = 0  # bytes without which it stays so
        self._is_aside = False

    @property
    def wants_more(self) -> bool:
        """Whether a frame is incomplete, or might be: once it stepped aside nobody here knows."""
        return self._is_aside or bool(self._held)

    def pour(self, data: bytes | bytearray) -> bytes | bytearray:
        """What of ``data``, and of what was held back before, is the library's to read."""
        if self._is_aside:
            return data
        if self._held:
            self._held += data
            self._missing -= len(data)
            if self._missing > 0:
                return b""
            data, self._held = self._held, bytearray()
        passed: list[bytes | bytearray] = []
        start = found = 0
        while start < len(data) and not self._is_aside:
            begin, end = _payload(data, start)
            if found == _MOST_AT_ONCE or not self._is_known(data[start], end - begin):
                self._is_aside = True
            elif end > len(data):
                break
            elif data[start] != _TEXT:
                passed.append(data[start:end])
                start = end
            elif (text := _decoded(data, begin, end)) is None:
                self._is_aside = True
            else:
                self._put(text)
                start = end
                found += 1
        if self._is_aside:
            passed.append(data[start:])
        elif start < len(data):
            self._held += data[start:]
            self._missing = end - len(data)
        return b"".join(passed)

    def _is_known(self, first: int, length: int) -> bool:
        if first == _TEXT:
            return 0 <= length <= self._largest
        return first in (_PING, _PONG) and 0 <= length <= _LONGEST_CONTROL


def _payload(data: bytes | bytearray, start: int) -> tuple[int, int]:
    """Where the payload of a frame begins and ends; it ends before it begins where no server should write so.

    While the header is incomplete, an empty payload that begins behind it.
    """
    begin = start + 2
    if len(data) < begin:
        return begin, begin
    length = data[start + 1]
    if length < _TWO_BYTES:
        return begin, begin + length
    if length > _EIGHT_BYTES or data[start] != _TEXT:  # a control frame is short
        return begin, start
    at, begin = begin, begin + (2 if length == _TWO_BYTES else 8)
    if len(data) < begin:
        return begin, begin
    size = int.from_bytes(data[at:begin])
    is_shortest = size >= _TWO_BYTES if length == _TWO_BYTES else size >> 16
    return (begin, begin + size) if is_shortest else (begin, start)


def _decoded(data: bytes | bytearray, begin: int, end: int) -> str | None:
    try:
        return str(memoryview(data)[begin:end], "utf-8")
    except UnicodeDecodeError:
        return None
