"""Pure: for how long things are remembered (semantics 7 to 9).

All times are seconds. Ends are compared by Phonic's clock, because Phonic wrote their times.
"""

from typing import Final

# An ended conversation. A late frame or REST row within this time does not count it again.
ENDED: Final = 24 * 3600.0
# An end that lies further back is history and not counted: it may have been counted, and that forgotten. This is
# less than `ENDED` by as much as two clocks may differ.
HISTORY: Final = ENDED - 600.0
# A conversation that began longer ago and has no end is not live; Phonic never closed it.
OLDEST_LIVE: Final = 24 * 3600.0
# An unfinished conversation without a message, which is not watched.
UNHEARD: Final = 24 * 3600.0
# How long a refused feed is tried again while REST calls its conversation live. Longer would cost too many
# requests.
REFUSED: Final = 24 * 3600.0
# An id that REST does not know. Without this, a list that still has it would have it counted again every few
# seconds.
NOT_FOUND: Final = 600.0


def history_ends(first_start: float, now: float) -> float:
    """The Unix time before which an end is history: the exporter's first start, or `HISTORY` ago if that is later.

    ``first_start``, ``now``: Unix times by Phonic's clock.
    """
    return max(first_start, now - HISTORY)
