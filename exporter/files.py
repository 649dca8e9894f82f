"""Edge: reads small files that a user names, and tells whether they have changed.

A setting can name any path: a FIFO, a device, a folder, a file on a disk that hangs. Every function here may block
on the disk, so asynchronous callers run it in a thread. None waits for the writer of a FIFO or reads without end.
"""

import os
import stat
from pathlib import Path

# Times of modification and of change (ns), inode and size (bytes); None where the file cannot be examined.
Signature = tuple[int, int, int, int] | None


class UnreadableFile(Exception):
    """A path that cannot be read as a small regular file; ``str()`` is the reason, without path or content."""


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Read a regular file of at most ``most_bytes`` bytes. Blocks on the disk.

    Raises: UnreadableFile.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            kind = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(kind):
                raise UnreadableFile("Is a directory")
            if not stat.S_ISREG(kind):
                raise UnreadableFile("not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(most_bytes + 1)
        finally:
            os.close(descriptor)
    except OSError as bad:
        raise UnreadableFile(bad.strerror or "cannot be read") from None
    except ValueError:  # NUL or a lone surrogate
        raise UnreadableFile("not a path") from None
    if len(content) > most_bytes:
        raise UnreadableFile(f"larger than {most_bytes} bytes")
    return content


def signature(path: Path) -> Signature:
    """Return metadata that changes when the content does. Blocks on the disk."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
