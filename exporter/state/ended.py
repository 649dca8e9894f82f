"""State: ids of ended conversations, remembered for a day at 8 to 20 bytes each.

Theory of operation
-------------------
There can be millions of ends a day. An id is kept as a 64-bit hash in hash tables with open addressing, which are
arrays of machine integers. With n remembered ids, a new id is mistaken for one of them with a probability of
n / 2⁶⁴: about 10⁻¹³ for two million.

Ids are added to the newest table only. When it is full, or an hour old, the next one is begun. So a table never
grows or is copied, adding an id never takes longer than allocating one table, and an id is forgotten by dropping
the table that it is in.
"""

from array import array
from collections.abc import Iterable
from hashlib import blake2b

_SMALLEST, _LARGEST = 1 << 10, 1 << 18  # slots of a table; 2 MiB at most
_FULL = 0.625  # load factor at which the next table is begun: a look-up without a match probes 4 slots on average
_SPAN = 3600.0  # seconds of ends in one table; they are forgotten together


def hash_of(conversation_id: str) -> int:
    """The 64-bit hash of an id: never 0, and the same in every process."""
    return (
        int.from_bytes(blake2b(conversation_id.encode("utf-8", "replace"), digest_size=8).digest(), "little") or 1
    )


class _Table:
    """A set of hashes. 0 marks a free slot."""

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
    """The hashes of ids of ended conversations, forgotten an hour at a time."""

    def __init__(self) -> None:
        self._tables: list[_Table] = []

    def __contains__(self, hashed: int) -> bool:
        """Whether this hash was added and not forgotten. Looks into the newest table first."""
        return any(hashed in table for table in reversed(self._tables))

    def add(self, hashed: int, at: float) -> None:
        """Remember a hash (`hash_of`) of a conversation that ended at Unix time ``at``."""
        table = self._tables[-1] if self._tables else None
        if table is None or table.is_full or not 0 <= at - table.begun_at < _SPAN:
            table = self._new_table(at)
        table.add(hashed)
        table.newest_at = max(table.newest_at, at)

    def load(self, hashes: bytes, at: float) -> None:
        """Remember `packed` hashes of conversations that ended until Unix time ``at``."""
        for hashed in _unpacked(hashes):
            self.add(hashed, at)

    def dump(self) -> list[tuple[float, "array[int]"]]:
        """A copy of all tables, free slots included, each with the Unix time of its newest end."""
        return [(table.newest_at, table.slots[:]) for table in self._tables]

    def forget(self, before: float) -> None:
        """Drop the tables whose newest end is before this Unix time."""
        self._tables = [table for table in self._tables if table.newest_at >= before]

    def _new_table(self, at: float) -> _Table:
        """Begin a table with room for as many ends as the last one had, or twice as many if that one was full."""
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
    """Hashes as a state file keeps them: 8 bytes each, little-endian, without free slots."""
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
