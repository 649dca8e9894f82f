"""Wiring: the workspaces that are watched: how they come and go, and what belongs to all of them.

The life of a workspace: its key is found; it is *opened* (clients, clock); it is *watched*, which is what counts;
its key is gone, so the watching ends, then the clients are closed. Opening and watching are tasks in two
nurseries, so that a stop of the exporter first ends all watching, and the last pages can still read from what was
opened.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import attrs
import structlog
import trio

from .conversations import Conversations
from .counting import retention
from .enums import Started, Task, Word
from .phonic.credentials import Credentials
from .phonic.keys import Keys, WorkspaceKey, is_reference, split_reference
from .phonic.proxies import Proxies
from .phonic.wire import is_conversation_id
from .settings import Settings
from .watch.crash_guard import keep_running
from .watch.interfaces import Requester, Sharing, Targets
from .watch.watch_file import WatchFile
from .watching import Shared, Workspace, open_workspace

log = structlog.get_logger("exporter")

EXPIRE_INTERVAL: Final = 60.0
"""Seconds."""
LOOK_INTERVAL: Final = 2.0
"""Seconds between two looks at the folder of keys."""


@attrs.frozen(kw_only=True, eq=False)
class _Opening:
    """What opens workspaces, and where they stay open."""

    shared: Shared
    share: Callable[[str], Sharing] | None
    nursery: trio.Nursery
    closing: dict[str, trio.Event] = attrs.field(factory=dict)


class Workspaces:
    """The workspaces that are watched; iterating gives those of the moment.

    ``watch_file`` is None without ``--watch.file``.
    """

    def __init__(
        self, conversations: Conversations, opened: Iterable[Workspace] = (), *, keys: Keys | None = None
    ) -> None:
        """``opened``: workspaces that the caller keeps open. ``keys``: of those that `open_workspaces` opens."""
        self.conversations = conversations
        self.keys = keys or Keys()
        self.watch_file: WatchFile | None = None
        self._opened = {each.name: each for each in opened}
        self._first = frozenset[str]()  # those that there were at the start
        self._opening: _Opening | None = None
        self._watching: trio.Nursery | None = None
        self._watched: set[str] = set()
        self._conversation_ids: tuple[str, ...] = ()
        self._looking = trio.Lock()
        self._unopened: dict[str, dict[str, Word]] = {}  # received for workspaces that are not open
        self._unopened_since: dict[str, float] = {}
        self._heirs: dict[str, tuple[str, Word]] = {}  # received for a workspace while another one watches it

    def __iter__(self) -> Iterator[Workspace]:
        return iter(list(self._opened.values()))

    def get(self, name: str) -> Workspace | None:
        """The workspace of this name."""
        return self._opened.get(name)

    @property
    def are_named(self) -> bool:
        """Whether the settings name workspaces, so that there may be several."""
        return self.conversations.store.limits.has_workspaces

    def is_first(self, workspace: Workspace) -> bool:
        """Whether the workspace was there at the start, and not added later."""
        return workspace.name in self._first

    def is_watched(self, conversation_id: str) -> bool:
        """Whether a watcher of any workspace has the conversation."""
        return any(each.supervisor.is_watched(conversation_id) for each in self._opened.values())

    def receive(self, workspace: str, conversation_id: str, word: Word) -> None:
        """A conversation was assigned to the shard that this process holds.

        Where another workspace watches it already, that one goes on until it is closed: the key of one may be in a
        file of another name for a moment.
        """
        found = self._opened.get(workspace)
        if found is not None and not found.supervisor.is_watched(conversation_id):
            watching = (each for each in self if each.supervisor.is_watched(conversation_id))
            if (other := next(watching, None)) is not None:
                self._heirs[conversation_id] = workspace, word
                found = other
        if found is not None and found.assigned is not None:
            for words in self._unopened.values():
                words.pop(conversation_id, None)
            found.assigned.receive(conversation_id, word)
        else:
            self._unopened_since.setdefault(workspace, trio.current_time())
            words = self._unopened.setdefault(workspace, {})
            words[conversation_id] = max(word, words.get(conversation_id, word))

    def start_waiting(self) -> None:
        """Watch those that the watch limit has kept out, as far as there is room."""
        for each in self:
            if each.assigned is not None:
                each.assigned.start_waiting()

    def clock_offset(self) -> float | None:
        """Seconds by which our clock is ahead of Phonic's; None before the first reply."""
        offsets = (each.clock.offset for each in self._opened.values())
        return next((offset for offset in offsets if offset is not None), None)

    # --- push

    def push(self, conversation_id: str, name: str | None) -> Started:
        """Watch a conversation that a client of the push API names, with the workspace if there are several."""
        for each in self._opened.values():
            if each.supervisor.is_watched(conversation_id):
                return each.supervisor.start(conversation_id, Requester.PUSH)
        if name is None:
            if len(self._opened) > 1:
                return Started.NOT_NAMED
            found = next(iter(self._opened.values()), None)
        else:
            found = self._opened.get(name)
        return Started.NO_WORKSPACE if found is None else found.targets.start(conversation_id, Requester.PUSH)

    def stop(self, conversation_id: str) -> bool:
        """Stop watching a conversation, in whichever workspace; False if none watches it."""
        stopped = [each.supervisor.stop(conversation_id) for each in self]
        return any(stopped)

    # --- tasks

    async def run(
        self,
        conversation_ids: tuple[str, ...] = (),
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Watch all workspaces until cancelled, and ``conversation_ids`` in any case.

        Where workspaces have names, each id has one: ``NAME/conv_…``. ``started`` once the watching has begun.
        Cancellation: what was counted stays counted, and can be read.
        """
        crashed = self.conversations.task_crashed
        self._conversation_ids = conversation_ids
        async with trio.open_nursery() as nursery:
            self._watching = nursery
            try:
                async with self._looking:  # SIGHUP may have the keys read now
                    for each in self:
                        await self._watch(each)
                nursery.start_soon(self._expire)
                if self.watch_file is not None:
                    nursery.start_soon(keep_running, Task.WATCH_FILE, self.watch_file.run, crashed)
                if self.keys.folder is not None:
                    nursery.start_soon(keep_running, Task.CREDENTIAL, self._look_regularly, crashed)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._watching = None

    async def reread_keys(self) -> None:
        """Look at the keys now: use those that have changed, open and close workspaces of a folder.

        Cancellation: at any time; what is left to do is done by the next look.
        """
        async with self._looking:
            await look_again(self.keys)
            for gone in [each for each in self if each.name not in self.keys.current]:
                await self._close(gone)
            for key in [key for name, key in self.keys.current.items() if name not in self._opened]:
                workspace = await self._open(key)
                if self._watching is not None:
                    log.info("workspace added", workspace=key.name)
                    await self._watch(workspace)

    async def _look_regularly(self) -> None:
        while True:
            await trio.sleep(LOOK_INTERVAL)
            await self.reread_keys()

    async def _expire(self) -> None:
        while True:
            await trio.sleep(EXPIRE_INTERVAL)
            self.conversations.expire(is_followed=self.is_watched)
            self._heirs = {id_: heir for id_, heir in self._heirs.items() if self.is_watched(id_)}
            self._dismiss_unopened()

    def _dismiss_unopened(self) -> None:
        """Give up what was received for a workspace that has not been open for so long: else it stays assigned."""
        before = trio.current_time() - retention.UNHEARD
        for name in [name for name, since in self._unopened_since.items() if since <= before]:
            del self._unopened_since[name]
            for conversation_id in self._unopened.pop(name, {}):
                if not self.conversations.has_seen(conversation_id):
                    self.conversations.dismiss(conversation_id)

    # --- the life of a workspace

    async def _open(self, key: WorkspaceKey) -> Workspace:
        opening = self._opening
        assert opening is not None  # noqa: S101  # set by `open_workspaces`
        workspace: Workspace = await opening.nursery.start(self._keep_open, key, opening)
        self._opened[key.name] = workspace
        self._share()
        return workspace

    async def _keep_open(
        self, key: WorkspaceKey, opening: _Opening, *, task_status: trio.TaskStatus[Workspace]
    ) -> None:
        has_room = partial(self._has_room, key.name, opening.shared.watch_limit)
        sharing = opening.share(key.name) if opening.share else None
        async with open_workspace(key, opening.shared, has_room=has_room, sharing=sharing) as workspace:
            closing = opening.closing[key.name] = trio.Event()
            task_status.started(workspace)
            await closing.wait()

    async def _watch(self, workspace: Workspace) -> None:
        assert self._watching is not None  # noqa: S101  # `run` runs
        references = map(split_reference, self._conversation_ids)
        ids = [conversation_id for name, conversation_id in references if name == workspace.name]
        await self._watching.start(workspace.run, ids)
        self._watched.add(workspace.name)
        self._unopened_since.pop(workspace.name, None)
        for conversation_id, word in self._unopened.pop(workspace.name, {}).items():
            self.receive(workspace.name, conversation_id, word)

    async def _close(self, workspace: Workspace) -> None:
        assert self._opening is not None  # noqa: S101  # as in `_open`
        del self._opened[workspace.name]
        self._share()
        log.info("workspace removed", workspace=workspace.name)
        left_over = workspace.assigned.left_over() if workspace.assigned is not None else {}
        if workspace.name in self._watched:
            self._watched.discard(workspace.name)
            await workspace.stop()
        for conversation_id, word in left_over.items():
            heir, told = self._heirs.pop(conversation_id, (workspace.name, word))
            self.receive(heir, conversation_id, max(word, told))
        self._opening.closing.pop(workspace.name).set()

    def _share(self) -> None:
        """Divide the limits among the workspaces of the moment."""
        self.conversations.store.shares.set(self._opened)

    def _has_room(self, name: str, limit: int) -> bool:
        """Whether the workspace may watch another conversation."""
        watched = {each.name: each.supervisor.watched_count for each in self._opened.values()}
        return self.conversations.store.shares.has_room(watched, name, limit)


async def look_again(keys: Keys) -> None:
    """Look at the API keys now, and log what is wrong with them once. Cancellation: at any time."""
    keys.take(await trio.to_thread.run_sync(keys.look, abandon_on_cancel=True))
    for name, reason in keys.news().items():
        log.error("API key unusable", file=name, reason=reason)


@asynccontextmanager
async def open_workspaces(
    settings: Settings,
    keys: Credentials | Keys,
    conversations: Conversations,
    *,
    proxies: Proxies,
    watch_limit: int,
    share: Callable[[str], Sharing] | None = None,
) -> AsyncIterator[Workspaces]:
    """Open what the workspaces need while the block runs. `Workspaces.run` watches them, and must end before it.

    ``keys``: those of several workspaces, or the one credential of the only one. ``watch_limit``: most
    conversations watched at once. ``share``: how the workspace of a name shares its conversations with other
    processes; None without any. ``conversations`` learns Phonic's time from the workspaces. Raises: ConfigError
    for an unusable proxy or unusable certificate authorities.
    """
    if isinstance(keys, Credentials):
        keys = Keys([WorkspaceKey(credentials=keys)])
    workspaces = Workspaces(conversations, keys=keys)
    workspaces.watch_file = _watch_file(settings, workspaces)
    conversations.clock_offset = workspaces.clock_offset
    shared = Shared.of(settings, conversations, proxies=proxies, watch_limit=watch_limit)
    async with trio.open_nursery() as nursery:
        workspaces._opening = _Opening(shared=shared, share=share, nursery=nursery)
        await workspaces.reread_keys()
        workspaces._first = frozenset(keys.current)
        if not keys.current:
            log.warning("no workspace: the folder holds no API key", folder=str(keys.folder))
        yield workspaces
        nursery.cancel_scope.cancel()


# --- conversations that a user names


class _References:
    """The conversations of a watch file, each in its workspace. Implements `exporter.watch.interfaces.Targets`.

    A workspace may come later, or go and come back: its conversations then count as kept out by a limit, so that
    the file tries again.
    """

    def __init__(self, workspaces: Workspaces) -> None:
        self._workspaces = workspaces
        self._started_by: dict[str, Targets] = {}

    def start(self, conversation_id: str, requester: Requester) -> Started:
        targets, own_id = self._of(conversation_id)
        if targets is None:
            return Started.NO_WORKSPACE
        self._started_by[conversation_id] = targets
        return targets.start(own_id, requester)

    def withdraw(self, conversation_id: str, requester: Requester) -> None:
        targets, own_id = self._of(conversation_id)
        self._started_by.pop(conversation_id, None)
        if targets is not None:
            targets.withdraw(own_id, requester)

    def over(self, conversation_id: str) -> None:
        targets, own_id = self._of(conversation_id)
        if targets is not None:
            targets.over(own_id)

    def is_watched(self, conversation_id: str) -> bool:
        targets, own_id = self._of(conversation_id)
        return targets is not None and targets.is_watched(own_id)

    def is_over_limit(self, conversation_id: str) -> bool:
        targets, own_id = self._of(conversation_id)
        if targets is None or self._started_by.get(conversation_id) is not targets:
            return True
        return targets.is_over_limit(own_id)

    def _of(self, reference: str) -> tuple[Targets | None, str]:
        name, conversation_id = split_reference(reference)
        workspace = self._workspaces.get(name)
        return (None if workspace is None else workspace.targets), conversation_id


def _watch_file(settings: Settings, workspaces: Workspaces) -> WatchFile | None:
    if settings.watch.file is None:
        return None
    is_valid = is_reference if workspaces.are_named else is_conversation_id
    return WatchFile(settings.watch.file, _References(workspaces), is_conversation_id=is_valid, now=time.time)
