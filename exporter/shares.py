"""State: what workspaces hold of a limit of the process, and whether one may take more.

Each workspace is guaranteed an equal share of a limit, ``limit // workspaces``, and the rest goes to whoever comes
first. So a place is given only if, after it, every other workspace could still take the rest of its own share. A
workspace that is added later finds its share as others give places up, and nothing is taken back from anyone.

With one workspace, and where workspaces have no names, the share is the whole limit.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, TypeVar

ONLY = ""
"""The name of the one workspace where workspaces have no names."""

_T = TypeVar("_T", bound=Hashable)


class Shares:
    """The workspaces that there are now, each with a share of every limit."""

    def __init__(self, owners: Iterable[str] = (ONLY,)) -> None:
        self._owners = set(owners)

    def set(self, owners: Iterable[str]) -> None:
        """Set the names of the workspaces."""
        self._owners = set(owners)

    def of(self, limit: int) -> int:
        """What each workspace is guaranteed of a limit."""
        return limit // max(1, len(self._owners))

    def has_room(self, held: Mapping[str, int], owner: str, limit: int) -> bool:
        """Whether ``owner`` may take one more of ``limit``; ``held``: what each workspace has, gone ones too."""
        share = self.of(limit)
        reserved = sum(max(0, share - held.get(each, 0)) for each in self._owners if each != owner)
        return sum(held.values()) + reserved < limit


class Divided(Generic[_T]):
    """Different values by the workspace that holds them, within a limit that is divided by `Shares`."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._values: dict[str, set[_T]] = {}
        self._counts: dict[str, int] = {}

    def holds(self, owner: str, value: _T) -> bool:
        return value in self._values.get(owner, ())

    def add(self, owner: str, value: _T) -> None:
        values = self._values.setdefault(owner, set())
        values.add(value)
        self._counts[owner] = len(values)

    def discard(self, owner: str, value: _T) -> None:
        values = self._values.get(owner, set())
        values.discard(value)
        self._counts[owner] = len(values)

    def has_room(self, owner: str, limit: int) -> bool:
        """Whether ``owner`` may add a value."""
        return self._shares.has_room(self._counts, owner, limit)

    def is_beyond_share(self, owner: str, limit: int) -> bool:
        """Whether ``owner`` holds more than it is guaranteed."""
        return self._counts.get(owner, 0) > self._shares.of(limit)

    def __len__(self) -> int:
        return sum(self._counts.values())
