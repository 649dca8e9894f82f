"""Tasks: conversations named in a file (``--watch.file``), followed as the file changes."""

import codecs
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import msgspec
import structlog
import trio

from ..files import UnreadableFile, read_bounded, signature
from .interfaces import Source, Targets

log = structlog.get_logger("exporter.watch")

POLL_SECONDS = 1.0
LARGEST_FILE = 16 * 1024 * 1024  # bytes; 300,000 ids: far beyond any watch limit


@attrs.frozen
class Listed:
    """What a watch file says: usable ids, and how many entries were none."""

    ids: frozenset[str]
    unusable: int


class UnreadableList(Exception):
    """A watch file that cannot be used at all; ``str()`` says why, without its content."""


def parse(content: bytes, is_conversation_id: Callable[[str], bool]) -> Listed:
    """Ids from a JSON list, or one a line (blank lines and ``#`` comments left out). Raises `UnreadableList`."""
    content = content.removeprefix(codecs.BOM_UTF8)
    if content.lstrip()[:1] == b"[":
        try:
            entries: list[Any] = msgspec.json.decode(content, type=list[Any])
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise UnreadableList("is not a JSON list") from None
    else:
        try:
            lines = content.decode().splitlines()
        except UnicodeError:
            raise UnreadableList("is not UTF-8 text") from None
        entries = [text for line in lines if (text := line.partition("#")[0].strip())]
    ids = frozenset(each for each in entries if isinstance(each, str) and is_conversation_id(each))
    return Listed(ids, sum(1 for each in entries if not isinstance(each, str) or each not in ids))


def read(path: Path, is_conversation_id: Callable[[str], bool]) -> Listed:
    """Read a watch file (blocking). Raises `UnreadableList`."""
    try:
        content = read_bounded(path, LARGEST_FILE)
    except UnreadableFile as failed:
        raise UnreadableList(str(failed)) from None
    return parse(content, is_conversation_id)


class WatchFile:
    """Keeps the targets in step with a file."""

    def __init__(
        self, path: Path, targets: Targets, *, is_conversation_id: Callable[[str], bool], now: Callable[[], float]
    ) -> None:
        self._path = path
        self._targets = targets
        self._is_conversation_id = is_conversation_id
        self._now = now
        self._ids: frozenset[str] = frozenset()
        self._version: tuple[int, ...] | None = ()  # not None: a file that is missing at first is worth a word
        self.is_usable = False
        self.last_success: float | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look at the file every second until cancelled; a file that cannot be used changes nothing."""
        await self.look()
        task_status.started()
        while True:
            await trio.sleep(POLL_SECONDS)
            await self.look()

    async def reread(self) -> None:
        """Have the next look read the file, changed or not."""
        self._version = ()

    async def look(self) -> None:
        """Read the file if it is another one than before, and start and withdraw what differs.

        What stays in the file is not started again when its watcher has finished or given up.
        """
        version = await trio.to_thread.run_sync(signature, self._path)
        if version == self._version:
            self._start(each for each in self._ids if self._targets.is_refused(each))  # they may fit now
            return
        self._version = version
        try:
            listed = await trio.to_thread.run_sync(read, self._path, self._is_conversation_id)
        except UnreadableList as bad:
            self.is_usable = False
            log.error("watch file unusable", file=str(self._path), reason=str(bad))
            return
        self.is_usable = True
        self.last_success = self._now()
        for gone in self._ids - listed.ids:
            self._targets.withdraw(gone, Source.FILE)
        self._start(each for each in listed.ids if each not in self._ids or self._targets.is_refused(each))
        self._ids = listed.ids
        log.info("watch file read", conversations=len(listed.ids), unusable=listed.unusable)

    def _start(self, ids: Iterable[str]) -> None:
        for each in sorted(ids):
            self._targets.start(each, Source.FILE)
