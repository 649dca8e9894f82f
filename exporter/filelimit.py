"""Edge: how many files, and so live feeds, the operating system lets this process open."""

import resource
from contextlib import suppress


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
