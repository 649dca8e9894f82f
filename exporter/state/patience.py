"""Tasks: one call of PostgreSQL in a thread, given up when it takes too long: the server may never answer."""

from collections.abc import Callable
from typing import TypeVar

import trio

from .storage import Unusable

T = TypeVar("T")


async def answered(
    call: Callable[[], T],
    *,
    seconds: float,
    abort: Callable[[], None],
    reason: str = "no answer",
    limiter: trio.CapacityLimiter | None = None,
) -> T:
    """Return what ``call`` returns. After ``seconds``, ``abort`` makes it fail soon, and nobody waits for it.

    Raises: Unusable with ``reason`` after that time; what ``call`` raises. Cancellation: stops waiting at once.
    """
    with trio.move_on_after(seconds):
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=limiter)
    abort()
    raise Unusable(reason)
