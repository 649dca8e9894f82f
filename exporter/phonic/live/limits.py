"""Pure: how much a peer may have its feed do, and all feeds together hold."""

from collections.abc import Callable

import attrs

MOST_HELD = 256 * 1024 * 1024
"""Bytes of messages that are not complete, or not read yet, in all feeds together."""


class Allowance:
    """Work that a peer may cause: ``most`` at once, and ``per_second`` in the long run."""

    def __init__(self, most: float, per_second: float) -> None:
        self._most = most
        self._per_second = per_second
        self._left = most
        self._at: float | None = None

    def spend(self, work: float, now: float) -> bool:
        """Whether so much was left; ``now`` in seconds from any beginning."""
        if self._at is not None:
            self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        self._left -= work
        return self._left >= 0


class Memory:
    """One bound on what all feeds hold. Beyond it the feed that holds most is told to give up."""

    def __init__(self, most: int = MOST_HELD) -> None:
        self.most = most
        self.total = 0
        self._shares: set[Share] = set()

    def share(self, give_up: Callable[[], object]) -> "Share":
        """For one feed. ``give_up`` is called once at most, and what was held is not counted from then on."""
        return Share(self, give_up)


@attrs.define(eq=False)
class Share:
    """What one feed holds."""

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
        """Nothing is held any more, nor counted. Idempotent."""
        self._is_over = True
        self._memory.total -= self.size
        self.size = 0
        self._memory._shares.discard(self)
