"""Wiring: one workspace: the parts that find and follow its conversations, and the tasks that they run as."""

import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from random import Random
from typing import Final

import attrs
import structlog
import trio

from .conversations import Conversations
from .enums import Request, RestError, Task
from .metrics import catalog
from .phonic.address import normalised
from .phonic.clock import PhonicClock
from .phonic.credentials import ApiKey, Credentials
from .phonic.keys import WorkspaceKey
from .phonic.live.client import LiveSocket, Timeouts, open_live
from .phonic.live.limits import Memory
from .phonic.proxies import Proxies, Proxy
from .phonic.rest import RestApi, open_rest
from .phonic.trust import trusting
from .reports import Reports
from .settings import Settings, WatchSettings
from .shares import ONLY
from .watch.access import Access
from .watch.assigned import AssignedTargets
from .watch.backfill import Backfill
from .watch.crash_guard import keep_running
from .watch.discovery import Discovery
from .watch.feed_gate import FeedGate
from .watch.interfaces import Requester, Sharing, Targets
from .watch.reconcile import Reconciler
from .watch.supervisor import Supervisor

NAMES_ONLY_INTERVAL: Final = 60.0
"""Seconds between two reads of names and limits when discovery is off."""


@attrs.frozen(kw_only=True, eq=False)
class Workspace:
    """One workspace of Phonic as one key sees it, and all that watches it.

    ``name`` is empty where workspaces have no names. Without REST (a session token) ``rest``, ``discovery`` and
    ``access`` are None. ``targets``: whom to ask to have a conversation watched: the supervisor, or ``assigned``,
    which shares conversations with other processes.
    """

    name: str = ONLY
    conversations: Conversations
    clock: PhonicClock
    supervisor: Supervisor
    gate: FeedGate
    targets: Targets
    rest: RestApi | None = None
    discovery: Discovery | None = None
    access: Access | None = None
    assigned: AssignedTargets | None = None
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _has_ended: trio.Event = attrs.field(factory=trio.Event)

    @property
    def is_refused(self) -> bool:
        """Whether Phonic refuses the key."""
        return self.access is not None and self.access.refused_with is not None

    async def run(
        self, conversation_ids: Iterable[str], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Watch until cancelled: first what the state file left unfinished, then ``conversation_ids``.

        A task that meets a defect of ours is counted and started again. ``started`` once these are watched.
        Cancellation: stops every watcher; what was counted stays counted.
        """
        if self.name:
            structlog.contextvars.bind_contextvars(workspace=self.name)  # for all lines that its tasks log
        try:
            with self._scope:
                await self._run(conversation_ids, task_status)
        finally:
            self._has_ended.set()

    async def stop(self) -> None:
        """End `run`, and wait until no task of this workspace is left."""
        self._scope.cancel()
        await self._has_ended.wait()

    async def _run(self, conversation_ids: Iterable[str], task_status: trio.TaskStatus[None]) -> None:
        crashed = self.conversations.task_crashed
        async with trio.open_nursery() as nursery:
            await nursery.start(self.supervisor.run)
            if self.access is not None:
                nursery.start_soon(keep_running, Task.CREDENTIAL, self.access.run, crashed)
            names = (self.discovery.projects_known, self.discovery.agents_known) if self.discovery else ()
            nursery.start_soon(self.gate.wait_for_names, *names)
            self._resume()
            for conversation_id in conversation_ids:
                self.targets.start(conversation_id, Requester.FLAG)
            if self.assigned is not None:
                nursery.start_soon(keep_running, Task.RECORDS, self.assigned.run, crashed)
            if self.discovery is not None:
                nursery.start_soon(self.discovery.run)
            task_status.started()

    def _resume(self) -> None:
        """Go on with the conversations that the state file says are not finished."""
        for conversation_id, has_ended in self.conversations.unfinished(self.name):
            if has_ended:
                self.supervisor.complete(conversation_id)
            else:
                self.supervisor.start(conversation_id, Requester.CHECKPOINT)


@attrs.frozen(kw_only=True)
class Shared:
    """What all workspaces share. ``tls``: trust for REST and for live feeds. ``memory`` bounds all live feeds."""

    settings: Settings
    conversations: Conversations
    proxies: Proxies
    rest_tls: ssl.SSLContext
    live_tls: ssl.SSLContext
    watch_limit: int
    memory: Memory = attrs.field(factory=Memory)

    @classmethod
    def of(
        cls, settings: Settings, conversations: Conversations, *, proxies: Proxies, watch_limit: int
    ) -> "Shared":
        """Raises: ConfigError for unusable certificate authorities. Blocks on reading them."""
        return cls(
            settings=settings,
            conversations=conversations,
            proxies=proxies,
            # Two, because httpx sets ALPN on the one that it gets.
            rest_tls=trusting(settings.phonic.ca_file),
            live_tls=trusting(settings.phonic.ca_file),
            watch_limit=watch_limit,
        )


@asynccontextmanager
async def open_workspace(
    key: WorkspaceKey, shared: Shared, *, has_room: Callable[[], bool], sharing: Sharing | None = None
) -> AsyncIterator[Workspace]:
    """Open what one workspace needs while the block runs: its REST client, its live client, its clock.

    `Workspace.run` must have ended before the block does. ``has_room``: whether the other workspaces leave room
    for another watched conversation. ``sharing``: with which other processes it shares its conversations; None for
    none. Raises: ConfigError for an unusable proxy.
    """
    settings, clock = shared.settings, PhonicClock()
    base_url = normalised(key.base_url or settings.phonic.base_url)
    proxy = shared.proxies.for_url(base_url)
    async with (
        _rest_api(key.credentials, shared, base_url=base_url, proxy=proxy, clock=clock) as rest,
        open_live(
            base_url,
            key.credentials,
            Timeouts(idle=settings.watch.idle_timeout),
            tls=shared.live_tls,
            proxy=proxy,
            memory=shared.memory,
        ) as live,
    ):
        yield _connected(key, shared, live=live, rest=rest, clock=clock, has_room=has_room, sharing=sharing)


@asynccontextmanager
async def _rest_api(
    credentials: Credentials, shared: Shared, *, base_url: str, proxy: Proxy | None, clock: PhonicClock
) -> AsyncIterator[RestApi | None]:
    """Open the REST API while the block runs, and count its requests; None with a session token."""
    if not isinstance(credentials.current(), ApiKey):
        yield None
        return
    store, settings = shared.conversations.store, shared.settings.phonic

    def on_error(reason: RestError) -> None:
        store.count(catalog.DISCOVERY_ERRORS, reason)

    def on_request(request: Request, seconds: float) -> None:
        store.count(catalog.REQUESTS, request)
        store.observe(catalog.REQUEST_DURATION, request, value=seconds)

    async with open_rest(
        base_url,
        credentials,
        on_error=on_error,
        on_request=on_request,
        clock=clock,
        requests_per_second=settings.requests_per_second,
        proxy=proxy,
        ca_file=settings.ca_file,
        trust=shared.rest_tls,
    ) as rest:
        yield rest


def _connected(
    key: WorkspaceKey,
    shared: Shared,
    *,
    live: LiveSocket,
    rest: RestApi | None,
    clock: PhonicClock,
    has_room: Callable[[], bool],
    sharing: Sharing | None,
) -> Workspace:
    conversations = shared.conversations
    reports = Reports(conversations, key.name)
    access = _access(key.credentials, rest)
    gate = FeedGate(
        live.open,
        access=access,
        has_labels=lambda conversation_id: conversations.entry(conversation_id) is not None,
    )
    supervisor = Supervisor(
        open_feed=gate.open,
        sink=reports,
        records=Reconciler(rest.record, sink=reports, rng=_jitter()) if rest else None,
        limit=shared.watch_limit,
        now=clock.now,
        has_room=has_room,
    )
    assigned = None
    if sharing is not None:
        backfill = _backfill(rest, supervisor, reports, clock) if rest else None
        assigned = AssignedTargets(
            supervisor,
            sharing,
            sink=reports,
            backfill=backfill,
            is_up=lambda: rest is not None and rest.up is not False,
        )
    return Workspace(
        name=key.name,
        conversations=conversations,
        clock=clock,
        supervisor=supervisor,
        gate=gate,
        targets=assigned or supervisor,
        rest=rest,
        discovery=_discovery(key, shared.settings.watch, rest, assigned or supervisor, reports, clock, sharing),
        access=access,
        assigned=assigned,
    )


def _backfill(rest: RestApi, supervisor: Supervisor, reports: Reports, clock: PhonicClock) -> Backfill:
    return Backfill(rest.record, targets=supervisor, sink=reports, rng=_jitter(), now=clock.now)


def _access(credentials: Credentials, rest: RestApi | None) -> Access | None:
    if rest is None:
        return None
    access = Access(credentials, rest.probe)
    rest.wait_accepted = access.wait_accepted
    rest.on_refused = access.report_refusal
    return access


def _discovery(
    key: WorkspaceKey,
    settings: WatchSettings,
    rest: RestApi | None,
    targets: Supervisor | AssignedTargets,
    reports: Reports,
    clock: PhonicClock,
    sharing: Sharing | None,
) -> Discovery | None:
    if rest is None:
        return None
    return Discovery(
        rest,
        targets=targets,
        sink=reports,
        directory=reports,
        rng=_jitter(),
        interval=settings.interval if settings.discover else NAMES_ONLY_INTERVAL,
        finds=bool(settings.discover),
        only=key.projects or settings.project,
        now=clock.now,
        elect=sharing.elect if sharing else None,
        ended=targets if isinstance(targets, AssignedTargets) else None,
    )


def _jitter() -> Random:
    return Random()  # noqa: S311  # not for cryptography
