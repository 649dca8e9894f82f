"""State: ids of conversations that have ended, remembered for a day at 8 to 20 bytes each.

A day can bring millions. An id is kept as a 64-bit hash in open-addressing tables of machine integers: of 2.4
million remembered ids, a new one is mistaken for one of them with a probability of 10⁻¹³. No operation touches
more than one table, so none holds the loop for longer than a table takes to allocate.
"""

from array import array
from collections.abc import Iterable
from hashlib import blake2b

_SMALLEST, _LARGEST = 1 << 10, 1 << 18  # slots of a table; 2 MiB at most
_FULL = 0.625  # share of slots in use at which the next table is begun: a miss looks at 4 slots on average
_SPAN = 3600.0  # seconds of ends in one table, which are forgotten together


def hash_of(conversation_id: str) -> int:
    """64 bits of an id, never 0, the same in every process."""
    return (
        int.from_bytes(blake2b(conversation_id.encode("utf-8", "replace"), digest_size=8).digest(), "little") or 1
    )


class _Table:
    """A set of hashes; 0 marks a free slot."""

    __slots__ = ("begun_at", "count", "mask", "newest_at", "slots")

    def __init__(self, size: int, at: float) -> None:
        self.slots = array("Q", bytes(8 * size))
        self.mask = size - 1
        self.count = 0
        self.begun_at = self.newest_at = at

    @property
    def is_full(self) -> bool:
        return self.count >= _FULL * len(self.slots)

    def add(self, hashed: int) -> None:
        slots, mask = self.slots, self.mask
        slot = hashed & mask
        while slots[slot]:
            if slots[slot] == hashed:
                return
            slot = slot + 1 & mask
        slots[slot] = hashed
        self.count += 1

    def __contains__(self, hashed: int) -> bool:
        slots, mask = self.slots, self.mask
        slot = hashed & mask
        while found := slots[slot]:
            if found == hashed:
                return True
            slot = slot + 1 & mask
        return False


class Ended:
    """The hashes of ids that ended, forgotten by the hour."""

    def __init__(self) -> None:
        self._tables: list[_Table] = []

    def __contains__(self, hashed: int) -> bool:
        """Whether this hash was added and not forgotten. The newest tables are asked first."""
        return any(hashed in table for table in reversed(self._tables))

    def add(self, hashed: int, at: float) -> None:
        """Remember a hash (`hash_of`) since ``at``, Unix time."""
        table = self._tables[-1] if self._tables else None
        if table is None or table.is_full or not 0 <= at - table.begun_at < _SPAN:
            table = self._new_table(at)
        table.add(hashed)
        table.newest_at = max(table.newest_at, at)

    def load(self, hashes: bytes, at: float) -> None:
        """Remember `packed` hashes, all since ``at``."""
        for hashed in _unpacked(hashes):
            self.add(hashed, at)

    def dump(self) -> list[tuple[float, "array[int]"]]:
        """A copy of all tables, zeros included, each with the Unix time of its newest end."""
        return [(table.newest_at, table.slots[:]) for table in self._tables]

    def forget(self, before: float) -> None:
        """Forget the tables whose newest end came before this Unix time."""
        self._tables = [table for table in self._tables if table.newest_at >= before]

    def _new_table(self, at: float) -> _Table:
        """As large as the last one, twice that if it filled up within its time: small when few calls end."""
        size = _SMALLEST
        if self._tables:
            last = self._tables[-1]
            wanted = 2 * len(last.slots) if last.is_full else int(last.count / _FULL)
            while size < min(wanted, _LARGEST):
                size *= 2
        table = _Table(size, at)
        self._tables.append(table)
        return table


def packed(hashes: Iterable[int]) -> bytes:
    """Hashes as a state file keeps them: 8 bytes each, little-endian, without the zeros of free slots."""
    numbers = array("Q", filter(None, hashes))
    if _IS_BIG_ENDIAN:
        numbers.byteswap()
    return numbers.tobytes()


def _unpacked(hashes: bytes) -> "array[int]":
    numbers = array("Q", hashes)
    if _IS_BIG_ENDIAN:
        numbers.byteswap()
    return numbers


_IS_BIG_ENDIAN = array("H", b"\x00\x01")[0] == 1
