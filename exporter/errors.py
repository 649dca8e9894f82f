"""Pure: errors that a user can fix, each shown as one line without a traceback, and one that passes by itself."""

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar


class ConfigError(Exception):
    """A setting that cannot be used.

    ``str()`` is the line shown to the user: neither ``flag`` nor ``reason`` may quote a secret. ``exit_code`` is
    the exit code of the program.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, flag: str, reason: str) -> None:
        super().__init__(f"{flag}: {reason}")
        self.flag = flag
        self.reason = reason


class StateUnavailable(ConfigError):
    """A state file that exists but cannot be read now; a later start may succeed."""

    exit_code: ClassVar[int] = 1


class HistoryUnavailable(Exception):
    """What is remembered of ended conversations cannot be read now; a later try may succeed."""


def out_of_bounds(
    values: Mapping[str, float], bounds: Mapping[str, tuple[float, float]], *, prefix: str = ""
) -> Iterator[ConfigError]:
    """Yield an error for each value outside its bounds, which are inclusive.

    Args:
        values: the values by name; those without bounds are not checked.
        bounds: the smallest and the largest value by name.
        prefix: the part of the flag between ``--`` and the name.
    """
    for name, (low, high) in bounds.items():
        if not low <= values[name] <= high:  # also refuses NaN
            yield ConfigError(f"--{prefix}{name}", f"must be from {low:g} to {high:.12g}")


def raise_all(problems: Iterable[Exception]) -> None:
    """Raise the only problem as it is, several as one ExceptionGroup; return if there are none."""
    found = list(problems)
    if len(found) == 1:
        raise found[0]
    if found:
        raise ExceptionGroup("settings", found)
