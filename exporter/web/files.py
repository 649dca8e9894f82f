"""Edge: reads small files that somebody names, whatever they turn out to be."""

import os
import stat
from pathlib import Path
from typing import Final

from ..errors import ConfigError
from .config_file import FLAG

MOST_BYTES: Final = 1024 * 1024

# Times of modification and of change, inode and size; None for what cannot be looked at.
Signature = tuple[int, int, int, int] | None


def read_bounded(path: Path, where: str = "") -> bytes:
    """The content of a regular file of at most ``MOST_BYTES``. Blocks on the disk, never on a FIFO or a device.

    Errors: ConfigError that says ``where`` the path was named.
    """
    said = f"{where} cannot be read" if where else "cannot be read"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            kind = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(kind):
                raise ConfigError(FLAG, f"{said}: Is a directory: {shown(path)}")
            if not stat.S_ISREG(kind):
                raise ConfigError(FLAG, f"{said}: not a regular file: {shown(path)}")
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(MOST_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as bad:
        raise ConfigError(FLAG, f"{said}: {bad.strerror}: {shown(path)}") from None
    except ValueError:  # NUL or a lone surrogate
        raise ConfigError(FLAG, f"{said}: not a path") from None
    if len(content) > MOST_BYTES:
        raise ConfigError(FLAG, f"{said}: larger than {MOST_BYTES} bytes: {shown(path)}")
    return content


def signature(path: Path) -> Signature:
    """How a file looks from outside: it changes when the content does. Blocks on the disk."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


def shown(path: Path) -> str:
    """A path as one line that any log can take."""
    text = str(path)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
