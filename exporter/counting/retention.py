"""Pure: for how long anything is remembered, in one place.

All times are seconds. What ended is judged by Phonic's clock, because its times are Phonic's.
"""

from typing import Final

# An ended conversation: a late frame or REST row within this time must not count it again.
ENDED: Final = 24 * 3600.0
# An end that lies further back than this is history: the memory of it may be gone, so it could have been counted
# before. Less than `ENDED` by what two clocks may differ.
HISTORY: Final = ENDED - 600.0
# A conversation that began longer ago and has no end was never closed: it is not live.
OLDEST_LIVE: Final = 24 * 3600.0
# An unfinished conversation that no message tells of and no task follows.
UNHEARD: Final = 24 * 3600.0
# A conversation that is refused although REST calls it live: trying for longer would use up the rate limit.
REFUSED: Final = 24 * 3600.0
# An id that REST does not know: a list that still shows it must not have it counted every few seconds.
NOT_FOUND: Final = 600.0


def history_ends(first_start: float, now: float) -> float:
    """The Unix time before which an end is history: the exporter's first start, or `HISTORY` ago."""
    return max(first_start, now - HISTORY)
