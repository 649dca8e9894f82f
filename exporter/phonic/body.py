"""Pure: collects the body of a reply and decompresses it as it arrives, up to a bound."""

import zlib
from collections.abc import Iterator

STEP = 256 * 1024  # bytes decompressed in one step: about a millisecond
_GZIP = zlib.MAX_WBITS | 16
_PLAIN, _PACKED = frozenset({"", "identity"}), frozenset({"gzip", "x-gzip"})


class TooLarge(Exception):
    """The decompressed body is larger than allowed."""


class Unreadable(Exception):
    """The body has an encoding that was not asked for, or is damaged."""


class Body:
    """Collects a body of at most ``largest`` decompressed bytes."""

    def __init__(self, encoding: str, *, largest: int) -> None:
        """``encoding`` is the whole ``Content-Encoding``: gzip once, or none. Raises: `Unreadable` for others."""
        word = encoding.strip().lower()
        if word not in _PLAIN | _PACKED:
            raise Unreadable
        self._unpacker = zlib.decompressobj(_GZIP) if word in _PACKED else None
        self._largest = largest
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[None]:
        """Add bytes that arrived, yielding after each millisecond of work. Raises: `TooLarge`, `Unreadable`."""
        if not data:
            return
        if self._unpacker is None:
            self._keep(data)
            yield
            return
        while True:
            if self._unpacker.eof:  # only one gzip member, and nothing after it
                raise Unreadable
            try:
                part = self._unpacker.decompress(data, STEP)
            except zlib.error:
                raise Unreadable from None
            self._keep(part)
            yield
            data = self._unpacker.unconsumed_tail or self._unpacker.unused_data
            if not data and (len(part) < STEP or self._unpacker.eof):
                return

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._largest:
            raise TooLarge
        self._parts.append(part)

    def whole(self) -> bytes:
        """The whole body, after the last byte. Raises: `Unreadable` when it was cut off."""
        if self._unpacker is not None and not self._unpacker.eof:
            raise Unreadable
        return b"".join(self._parts)
