"""Edge: exclusive use of a file, by a lock that the operating system releases however its owner ends.

The lock is on ``<file>.lock``, a file that holds the owner's process id. It is never removed: otherwise two
processes could each lock a different file of that name.
"""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_MOST_DIGITS: Final = 20


class InUse(Exception):
    """Another process holds the lock. ``str()`` names its process id if that is known."""

    def __init__(self, owner: int | None) -> None:
        super().__init__("in use by another exporter" + (f" (pid {owner})" if owner else ""))


def acquire(path: Path) -> int:
    """Lock ``path`` without waiting. Returns a file descriptor; closing it releases the lock.

    Creates the folder (mode 0700) and the lock file (mode 0600) if they are missing. Does not follow a symbolic
    link in place of the lock file, and writes nothing but the process id to it.

    Raises: InUse; OSError if the folder or the lock file cannot be created or locked.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as bad:
        if bad.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "the lock file beside it is a symbolic link") from None
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, _MOST_DIGITS, 0).split(b"\n")[0]
        os.close(descriptor)
        raise InUse(int(owner) if owner.isdigit() else None) from None
    except OSError:
        os.close(descriptor)
        raise
    with suppress(OSError):  # on a full disk, the lock works without the process id
        # The newline separates the id from the rest of an earlier, longer one.
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def is_held(descriptor: int, path: Path) -> bool:
    """Whether the descriptor from `acquire` still locks the lock file of ``path``, which may have been removed."""
    try:
        found = Path(f"{path}.lock").stat()
    except OSError:
        return False
    held = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)
