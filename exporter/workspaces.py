"""Wiring: the workspaces that are watched, and what belongs to all of them."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from .conversations import Conversations
from .enums import Task, Word
from .phonic.credentials import Credentials
from .phonic.proxies import Proxies
from .phonic.wire import is_conversation_id
from .settings import Settings
from .watch.crash_guard import keep_running
from .watch.interfaces import Sharing, Targets
from .watch.watch_file import WatchFile
from .watching import Workspace, open_workspace

EXPIRE_INTERVAL: Final = 60.0
"""Seconds."""


@attrs.frozen(kw_only=True, eq=False)
class Workspaces:
    """The workspaces that are watched; iterating gives them as they are now.

    ``watch_file`` is None without ``--watch.file``.
    """

    conversations: Conversations
    watch_file: WatchFile | None = None
    _open: list[Workspace] = attrs.field(factory=list)

    def __iter__(self) -> Iterator[Workspace]:
        return iter(self._open)

    def is_watched(self, conversation_id: str) -> bool:
        """Whether a watcher of any workspace has the conversation."""
        return any(each.supervisor.is_watched(conversation_id) for each in self._open)

    def receive(self, workspace: str, conversation_id: str, word: Word) -> None:
        """A conversation was assigned to the shard that this process holds."""
        del workspace
        for each in self._open:
            if each.assigned is not None:
                each.assigned.receive(conversation_id, word)

    def start_waiting(self) -> None:
        """Watch those that the watch limit has kept out, as far as there is room."""
        for each in self._open:
            if each.assigned is not None:
                each.assigned.start_waiting()

    def clock_offset(self) -> float | None:
        """Seconds by which our clock is ahead of Phonic's; None before the first reply."""
        return next((each.clock.offset for each in self._open if each.clock.offset is not None), None)

    async def run(
        self,
        conversation_ids: tuple[str, ...] = (),
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Watch all workspaces until cancelled, and ``conversation_ids`` in any case.

        ``started`` once the watching has begun. Cancellation: what was counted stays counted, and can be read.
        """
        async with trio.open_nursery() as nursery:
            for each in self._open:
                await nursery.start(each.run, conversation_ids)
            nursery.start_soon(self._expire)
            if self.watch_file is not None:
                nursery.start_soon(
                    keep_running, Task.WATCH_FILE, self.watch_file.run, self.conversations.task_crashed
                )
            task_status.started()

    async def _expire(self) -> None:
        while True:
            await trio.sleep(EXPIRE_INTERVAL)
            self.conversations.expire(is_followed=self.is_watched)


@asynccontextmanager
async def open_workspaces(
    settings: Settings,
    credentials: Credentials,
    conversations: Conversations,
    *,
    proxies: Proxies,
    watch_limit: int,
    share: Callable[[str], Sharing] | None = None,
) -> AsyncIterator[Workspaces]:
    """Open what the workspaces need while the block runs. `Workspaces.run` watches them, and must end before it.

    ``watch_limit``: most conversations watched at once. ``share``: how the workspace of a name shares its
    conversations with other processes; None without any. ``conversations`` learns Phonic's time from them. Raises:
    ConfigError for an unusable proxy or unusable certificate authorities.
    """
    proxy = proxies.for_url(settings.phonic.base_url)
    async with open_workspace(
        settings,
        credentials,
        conversations,
        proxy=proxy,
        watch_limit=watch_limit,
        sharing=share("") if share else None,
    ) as workspace:
        workspaces = Workspaces(
            conversations=conversations,
            watch_file=_watch_file(settings, workspace.targets),
            open=[workspace],
        )
        conversations.clock_offset = workspaces.clock_offset
        yield workspaces


def _watch_file(settings: Settings, targets: Targets) -> WatchFile | None:
    if settings.watch.file is None:
        return None
    return WatchFile(settings.watch.file, targets, is_conversation_id=is_conversation_id, now=time.time)
