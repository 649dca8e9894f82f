"""Edge: where an exporter serves, written down for as long as it does, for `healthcheck` to find.

Strategy: a file for each process in every folder of this user that a health check may look into: what systemd or
the image provides, and one under /tmp. What a killed exporter left behind is told by its process, which is gone
or began at another time.
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
    """An exporter that runs: where it serves, and the file that says so."""

    file: Path
    urls: tuple[str, ...]


@contextmanager
def announced(urls: Sequence[str], environ: Mapping[str, str]) -> Iterator[None]:
    """Say where this process serves while the block runs. A folder that cannot be written is left out."""
    content = json.dumps({"pid": os.getpid(), "began": _began(os.getpid()), "urls": list(urls)})
    written: list[Path] = []
    for folder in _folders(environ):
        with suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            if _is_ours(folder):
                _forget_the_gone(folder)
                written.append(_write(folder / _PATTERN.replace("*", str(os.getpid())), content))
    try:
        yield
    finally:
        for file in written:
            with suppress(OSError):
                file.unlink()


def find(environ: Mapping[str, str]) -> list[Running]:
    """The exporters of this user that run now, each once."""
    found: dict[tuple[str, ...], Running] = {}
    for folder in _folders(environ):
        if _is_ours(folder):
            for file in sorted(folder.glob(_PATTERN)):
                urls = _read(file)
                if urls:
                    found.setdefault(urls, Running(file=file, urls=urls))
    return list(found.values())


def _folders(environ: Mapping[str, str]) -> list[Path]:
    """systemd's folders of a service, the session's, and one of the user's own that needs nobody's help."""
    of_service = (environ.get(name, "").split(":")[0] for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY"))
    session = environ.get("XDG_RUNTIME_DIR", "")
    folders = [Path(folder) for folder in of_service if folder]
    if session:
        folders.append(Path(session, "phonic-exporter"))
    with suppress(FileNotFoundError):  # a read-only root without a /tmp of its own
        folders.append(Path(tempfile.gettempdir(), f"phonic-exporter-{os.getuid()}"))
    return folders


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can have put a file there: /tmp is everybody's."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def _write(file: Path, content: str) -> Path:
    """Whole or not at all."""
    beside = file.with_suffix(".new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(content)
    beside.replace(file)
    return file


def _forget_the_gone(folder: Path) -> None:
    for file in folder.glob(_PATTERN):
        if _read(file) is None:
            file.unlink()


def _read(file: Path) -> tuple[str, ...] | None:
    """Where the exporter serves that wrote the file; None if it has gone, or the file makes no sense."""
    try:
        if not file.is_file() or file.stat().st_size > _LARGEST:
            return None
        said = json.loads(file.read_bytes())
        pid, began, urls = said["pid"], said["began"], said["urls"]
        if not isinstance(pid, int) or pid <= 0 or not all(isinstance(url, str) for url in urls):
            return None
        with suppress(PermissionError):  # there, and another's
            os.kill(pid, 0)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return tuple(urls) if _began(pid) == began else None


def _began(pid: int) -> str | None:
    """When a process began, in the system's own terms; None where it has none to tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
