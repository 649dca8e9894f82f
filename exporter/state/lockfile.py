"""Edge: exclusive use of a file, by a lock that the operating system takes back however its holder ends.

The lock is on a file beside, ``<file>.lock``, which holds its owner's process id and is never removed: removing
it would let two processes lock two files of that name.
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
    """Lock ``path``; returns a descriptor, and closing it is all it takes to give the lock back. Never waits.

    Makes the folder (mode 0700) and the lock file (0600) where they are missing. A symbolic link in place of the
    lock file is not followed, and no byte but the process id is written.
    Errors: InUse; OSError where the folder or the lock file cannot be made or locked.
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
    with suppress(OSError):  # on a full disk the lock is as good without a name on it
        # The line end makes what an earlier, longer id left behind of no account.
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def is_held(descriptor: int, path: Path) -> bool:
    """Whether the lock that `acquire` gave is still on the lock file of ``path``, not on one that was removed."""
    try:
        found = Path(f"{path}.lock").stat()
    except OSError:
        return False
    held = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)
