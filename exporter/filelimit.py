"""Edge: raises the limit of open files, and divides them between live feeds and everything else."""

import resource
from contextlib import suppress

_FEWEST_OTHERS = 64  # one scrape, REST, the state file, and feeds that are closing


def files_for_feeds(allowed: int, *, others: int) -> int:
    """Return how many of the ``allowed`` files live feeds may use.

    ``others`` files are reserved for other uses, but no more than the larger of 64 and half of
    ``allowed``. Without a reserve the feeds would use all files, and Prometheus could not scrape until calls end.
    """
    return max(1, allowed - min(others, max(allowed // 2, _FEWEST_OTHERS)))


def allow_files(wanted: int) -> int:
    """Raise the limit of open files to ``wanted`` if possible; return the limit in force, maybe lower or higher.

    Most systems start a program with a soft limit of 1,024, to protect programs that use ``select``, and allow it
    to raise the limit. Trio does not use ``select``.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # macOS calls the limit infinite and then refuses
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return most
    return wanted if soft == resource.RLIM_INFINITY else soft
