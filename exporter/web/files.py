"""Edge: reads the web configuration file and the files that it names, with its errors."""

from pathlib import Path
from typing import Final

from ..errors import ConfigError
from ..files import UnreadableFile, read_bounded
from .config_file import FLAG

MOST_BYTES: Final = 1024 * 1024


def read_config(path: Path, where: str = "") -> bytes:
    """Read a regular file of at most ``MOST_BYTES``. Blocks on the disk, never on a FIFO or a device.

    ``where`` names the key of the web configuration file that named the path; empty for the file itself.

    Raises: ConfigError.
    """
    try:
        return read_bounded(path, MOST_BYTES)
    except UnreadableFile as bad:
        reason = f"{where} cannot be read: {bad}".lstrip()
    raise ConfigError(FLAG, f"{reason}: {_printable(path)}")


def _printable(path: Path) -> str:
    """A path as one line that any log can take."""
    text = str(path)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
