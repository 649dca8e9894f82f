"""Edge: announces where this exporter serves, so that the command `healthcheck` finds it without an address.

Each exporter writes a file into every folder of this user that a health check may look into: those that systemd or
the image provides, and one under /tmp. The file names the process and its start time, so that the file of a killed
exporter is recognised: its process has gone, or its id belongs to a process that started at another time.
"""

import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

_PATTERN: Final = "phonic-exporter-*.json"
_LARGEST: Final = 64 * 1024  # bytes


@attrs.frozen(kw_only=True)
class Running:
    """A running exporter: the URLs at which it serves, and the file that announces them."""

    file: Path
    urls: tuple[str, ...]


@contextmanager
def announced(urls: Sequence[str], environ: Mapping[str, str]) -> Iterator[None]:
    """Announce ``urls`` while the block runs. Skips folders that cannot be written."""
    content = json.dumps({"pid": os.getpid(), "began": _began(os.getpid()), "urls": list(urls)})
    written: list[Path] = []
    for folder in _folders(environ):
        with suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            if _is_ours(folder):
                _remove_stale(folder)
                written.append(_write(folder / _PATTERN.replace("*", str(os.getpid())), content))
    try:
        yield
    finally:
        for file in written:
            with suppress(OSError):
                file.unlink()


def find(environ: Mapping[str, str]) -> list[Running]:
    """Return the running exporters of this user, each once."""
    found: dict[tuple[str, ...], Running] = {}
    for folder in _folders(environ):
        if _is_ours(folder):
            for file in sorted(folder.glob(_PATTERN)):
                urls = _read(file)
                if urls:
                    found.setdefault(urls, Running(file=file, urls=urls))
    return list(found.values())


def _folders(environ: Mapping[str, str]) -> list[Path]:
    """Return systemd's folders of the service, the session's folder, and one under /tmp."""
    of_service = (environ.get(name, "").split(":")[0] for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY"))
    session = environ.get("XDG_RUNTIME_DIR", "")
    folders = [Path(folder) for folder in of_service if folder]
    if session:
        folders.append(Path(session, "phonic-exporter"))
    with suppress(FileNotFoundError):  # a read-only root without a /tmp of its own
        folders.append(Path(tempfile.gettempdir(), f"phonic-exporter-{os.getuid()}"))
    return folders


def _is_ours(folder: Path) -> bool:
    """Whether only this user can write to the folder, since any user can make folders in /tmp."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def _write(file: Path, content: str) -> Path:
    """Write atomically."""
    beside = file.with_suffix(".new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(content)
    beside.replace(file)
    return file


def _remove_stale(folder: Path) -> None:
    for file in folder.glob(_PATTERN):
        if _read(file) is None:
            file.unlink()


def _read(file: Path) -> tuple[str, ...] | None:
    """Return the URLs that the file announces, or None if its exporter has gone or the file is malformed."""
    try:
        if not file.is_file() or file.stat().st_size > _LARGEST:
            return None
        said = json.loads(file.read_bytes())
        pid, began, urls = said["pid"], said["began"], said["urls"]
        if not isinstance(pid, int) or pid <= 0 or not all(isinstance(url, str) for url in urls):
            return None
        with suppress(PermissionError):  # the process exists and belongs to another user
            os.kill(pid, 0)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return tuple(urls) if _began(pid) == began else None


def _began(pid: int) -> str | None:
    """Return the start time of a process as /proc gives it, or None on systems without /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
