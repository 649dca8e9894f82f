"""Pure: the body of a reply, unpacked as it comes and never beyond a bound."""

import zlib
from collections.abc import Iterator

STEP = 256 * 1024  # bytes unpacked at a time: about a millisecond
_GZIP = zlib.MAX_WBITS | 16
_PLAIN, _PACKED = frozenset({"", "identity"}), frozenset({"gzip", "x-gzip"})


class TooLarge(Exception):
    """The unpacked body is larger than allowed."""


class Unreadable(Exception):
    """The body is packed in a way that was not asked for, or damaged."""


class Body:
    """Collects a body of at most ``largest`` unpacked bytes."""

    def __init__(self, encoding: str, *, largest: int) -> None:
        """``encoding`` is the whole ``Content-Encoding``: one gzip or none. Raises `Unreadable` for others."""
        word = encoding.strip().lower()
        if word not in _PLAIN | _PACKED:
            raise Unreadable
        self._unpacker = zlib.decompressobj(_GZIP) if word in _PACKED else None
        self._largest = largest
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[None]:
        """Take what has come, in steps of about a millisecond. Raises `TooLarge` and `Unreadable`."""
        if not data:
            return
        if self._unpacker is None:
            self._keep(data)
            yield
            return
        while True:
            if self._unpacker.eof:  # one gzip member, and nothing after it
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
        """All of it, once everything has come. Raises `Unreadable` where it is cut off."""
        if self._unpacker is not None and not self._unpacker.eof:
            raise Unreadable
        return b"".join(self._parts)
