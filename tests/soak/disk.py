"""Edge: a small disk that tests can fill: a tmpfs, which only root can mount."""

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs


@attrs.frozen
class SmallDisk:
    """A mounted tmpfs."""

    folder: Path

    def fill(self) -> None:
        """Leave no byte free."""
        with (self.folder / "filler").open("ab", buffering=0) as filler:
            for size in (65536, 4096, 1):
                with contextlib.suppress(_Full):
                    while True:
                        _write(filler.fileno(), b"x" * size)

    def free(self) -> None:
        (self.folder / "filler").unlink(missing_ok=True)


class _Full(Exception):
    pass


def _write(descriptor: int, content: bytes) -> None:
    try:
        os.write(descriptor, content)
    except OSError as bad:
        if bad.errno != errno.ENOSPC:
            raise
        raise _Full from None


@contextlib.contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[SmallDisk]:
    """Mount a small disk on ``folder`` until the block ends. Raises: PermissionError if that is not allowed."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        raise PermissionError(mounted.stderr.decode().strip())
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
