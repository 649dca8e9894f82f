"""Edge: signals before the program can hear them: its imports take half a second, and process 1 has no defaults.

Rules for this file: it imports nothing that takes time, and is the first of ours to be imported.
"""

import os
import signal
from types import FrameType

# Commands that end by themselves: for them a signal means what it always means.
_SHORT = ("check-config", "dashboards", "doctor", "healthcheck", "record")

_hangups: list[int] = []


def heed(argv: list[str]) -> None:
    """Until the program listens itself: SIGTERM and SIGINT end the process with 0, SIGHUP is kept for later."""
    if argv[1:2] and argv[1] in _SHORT:
        return
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGHUP, _remember)


def missed_hangup() -> bool:
    """Whether a SIGHUP has come in since `heed`; asked once, the answer is no."""
    missed = bool(_hangups)
    _hangups.clear()
    return missed


def _leave(_: int, __: FrameType | None) -> None:
    """Nothing has begun that would have to be ended in order, and an exception could be lost in an import."""
    os._exit(0)


def _remember(number: int, _: FrameType | None) -> None:
    _hangups.append(number)
