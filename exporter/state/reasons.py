"""Pure: which reasons of a failure that goes on were logged, so that each is an error in the log once."""

from typing import Final

MOST_REASONS: Final = 10
"""Logged as errors until the failure is over: a reason could have a number in it."""


class Reasons:
    """The reasons since something last succeeded; false while there is none."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._known)

    def add(self, reason: str) -> bool:
        """Note a reason. Returns whether it is to be logged as an error."""
        is_new = reason not in self._known and len(self._known) < MOST_REASONS
        if is_new:
            self._known.add(reason)
        return is_new

    def clear(self) -> None:
        """Note that it succeeds again."""
        self._known.clear()
