"""Tasks: watching the conversations whose ids are in a file (``--watch.file``), as the file changes.

The file is polled. Ids that appear are started, ids that disappear are withdrawn. A file that cannot be read or
parsed changes nothing: the ids of its last good version stay watched.
"""

import codecs
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import msgspec
import structlog
import trio

from ..files import UnreadableFile, read_bounded, signature
from .interfaces import Requester, Targets

log = structlog.get_logger("exporter.watch")

POLL_SECONDS = 1.0
LARGEST_FILE = 16 * 1024 * 1024  # bytes, about 300,000 ids: more than any watch limit


@attrs.frozen
class WatchList:
    """What a watch file holds: its valid ids, and the number of entries that are no valid id."""

    ids: frozenset[str]
    unusable: int


class UnreadableList(Exception):
    """A watch file cannot be used at all. ``str()`` says why, without quoting the file."""


def parse(content: bytes, is_conversation_id: Callable[[str], bool]) -> WatchList:
    """Parse a JSON list of ids, or lines with one id each (blank lines and ``#`` comments are skipped).

    Entries that ``is_conversation_id`` rejects are counted, not returned. Raises: `UnreadableList`.
    """
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
    return WatchList(ids, sum(1 for each in entries if not isinstance(each, str) or each not in ids))


def read(path: Path, is_conversation_id: Callable[[str], bool]) -> WatchList:
    """Read and parse a watch file (blocking). Raises: `UnreadableList`."""
    try:
        content = read_bounded(path, LARGEST_FILE)
    except UnreadableFile as failed:
        raise UnreadableList(str(failed)) from None
    return parse(content, is_conversation_id)


class WatchFile:
    """Keeps the watched conversations in step with a file.

    ``is_usable``: whether the file could be read at the last change. ``last_success``: Unix time of the last
    successful read, None before the first.
    """

    def __init__(
        self, path: Path, targets: Targets, *, is_conversation_id: Callable[[str], bool], now: Callable[[], float]
    ) -> None:
        """``now`` gives Unix time."""
        self._path = path
        self._targets = targets
        self._is_conversation_id = is_conversation_id
        self._now = now
        self._ids: frozenset[str] = frozenset()
        self._version: tuple[int, ...] | None = ()  # not None, so that a file that is missing at first is logged
        self.is_usable = False
        self.last_success: float | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Poll the file each second until cancelled. ``task_status`` is started after the first time.

        Cancellation: between two polls, or after a thread has read the file.
        """
        await self.look()
        task_status.started()
        while True:
            await trio.sleep(POLL_SECONDS)
            await self.look()

    async def reread(self) -> None:
        """Make the next `look` read the file even if it has not changed."""
        self._version = ()

    async def look(self) -> None:
        """Read the file if it has changed, and start and withdraw what differs.

        An id that stays in the file is not started again after its watcher has finished or given up, unless the
        watch limit kept it out.
        """
        version = await trio.to_thread.run_sync(signature, self._path)
        if version == self._version:
            self._start(each for each in self._ids if self._targets.is_over_limit(each))  # there may be room now
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
            self._targets.withdraw(gone, Requester.FILE)
        self._start(each for each in listed.ids if each not in self._ids or self._targets.is_over_limit(each))
        self._ids = listed.ids
        log.info("watch file read", conversations=len(listed.ids), unusable=listed.unusable)

    def _start(self, ids: Iterable[str]) -> None:
        for each in sorted(ids):
            self._targets.start(each, Requester.FILE)
