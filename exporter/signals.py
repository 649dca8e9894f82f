"""Edge: handles signals until the program installs its own handlers.

Imports take long enough for a signal to arrive, and as process 1 of a container the program has no default
handlers. So `exporter.__main__` imports this module first, and it imports nothing slow.
"""

import os
import signal
from types import FrameType

# Commands that end by themselves keep the default handlers.
_SHORT = ("check-config", "dashboards", "doctor", "healthcheck", "record")

_hangups: list[int] = []


def install(argv: list[str]) -> None:
    """Install handlers: SIGTERM and SIGINT exit with code 0, SIGHUP is remembered. ``argv`` tells the command."""
    if argv[1:2] and argv[1] in _SHORT:
        return
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGHUP, _remember)


def missed_hangup() -> bool:
    """Whether a SIGHUP has arrived since `install` or the last call of this function."""
    missed = bool(_hangups)
    _hangups.clear()
    return missed


def _leave(_: int, __: FrameType | None) -> None:
    """Exit at once: nothing needs cleanup yet, and an import could swallow an exception."""
    os._exit(0)


def _remember(number: int, _: FrameType | None) -> None:
    _hangups.append(number)
