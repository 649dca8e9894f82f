"""Edge: how many files, and so live feeds, the operating system lets this process open."""

import resource
from contextlib import suppress

_FEWEST_OTHERS = 64  # one scrape at a time, REST, the state file, and feeds that are just being closed


def files_for_feeds(allowed: int, *, others: int) -> int:
    """How many of the ``allowed`` files feeds may take: ``others`` are kept back, or half where files are few.

    Without files in reserve feeds would take them all, and no page would say so until calls end.
    """
    return max(1, allowed - min(others, max(allowed // 2, _FEWEST_OTHERS)))


def allow_files(wanted: int) -> int:
    """Ask for ``wanted`` open files; returns how many are allowed now, which may be fewer or already more.

    Common systems start a program with 1,024 and let it have many more for the asking: that default protects
    programs that use ``select``, which trio does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # macOS calls the limit infinite and then refuses
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return most
    return wanted if soft == resource.RLIM_INFINITY else soft
