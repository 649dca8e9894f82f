"""Pure: bounds on the work that one peer can cause and on the memory that all feeds together hold."""

from collections.abc import Callable

import attrs

MOST_HELD = 256 * 1024 * 1024
"""Bytes of incomplete and of waiting messages in all feeds together."""


class Allowance:
    """A token bucket for the work that a peer causes: ``most`` units at once, ``per_second`` in the long run."""

    def __init__(self, most: float, per_second: float) -> None:
        self._most = most
        self._per_second = per_second
        self._left = most
        self._at: float | None = None

    def spend(self, work: float, now: float) -> bool:
        """Take ``work`` units; False if there were not that many. ``now`` in seconds of any clock."""
        if self._at is not None:
            self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        self._left -= work
        return self._left >= 0


class Memory:
    """One bound in bytes for all feeds. When it is exceeded, the feed that holds most gives up."""

    def __init__(self, most: int = MOST_HELD) -> None:
        self.most = most
        self.total = 0
        self._shares: set[Share] = set()

    def share(self, give_up: Callable[[], object]) -> "Share":
        """The share of one feed. ``give_up`` is called at most once; from then on the share counts nothing."""
        return Share(self, give_up)


@attrs.define(eq=False)
class Share:
    """The bytes that one feed holds; made by `Memory.share`."""

    _memory: Memory
    _give_up: Callable[[], object]
    size: int = 0
    _is_over: bool = False

    def resize(self, size: int) -> None:
        """Count ``size`` bytes from now on."""
        if self._is_over or size == self.size:
            return
        memory = self._memory
        memory.total += size - self.size
        self.size = size
        if size:
            memory._shares.add(self)
        else:
            memory._shares.discard(self)
        while memory.total > memory.most:
            largest = max(memory._shares, key=lambda share: share.size)
            largest.close()
            largest._give_up()

    def close(self) -> None:
        """Count nothing from now on. Idempotent."""
        self._is_over = True
        self._memory.total -= self.size
        self.size = 0
        self._memory._shares.discard(self)
