"""Wiring: one workspace: the parts that find and follow its conversations, and the tasks that they run as."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from random import Random
from typing import Final

import attrs
import trio

from .conversations import Conversations
from .enums import Request, RestError, Task
from .metrics import catalog
from .phonic.clock import PhonicClock
from .phonic.credentials import ApiKey, Credentials
from .phonic.live.client import LiveSocket, Timeouts, open_live
from .phonic.proxies import Proxy
from .phonic.rest import RestApi, open_rest
from .phonic.trust import trusting
from .settings import Settings
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

    Without REST (a session token) ``rest``, ``discovery`` and ``access`` are None. ``targets``: whom to ask to
    have a conversation watched: the supervisor, or ``assigned``, which shares conversations with other processes.
    """

    conversations: Conversations
    clock: PhonicClock
    supervisor: Supervisor
    gate: FeedGate
    targets: Targets
    rest: RestApi | None = None
    discovery: Discovery | None = None
    access: Access | None = None
    assigned: AssignedTargets | None = None

    async def run(
        self, conversation_ids: Iterable[str], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Watch until cancelled: first what the state file left unfinished, then ``conversation_ids``.

        A task that meets a defect of ours is counted and started again. ``started`` once these are watched.
        Cancellation: stops every watcher; what was counted stays counted.
        """
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
        for conversation_id, has_ended in self.conversations.unfinished():
            if has_ended:
                self.supervisor.complete(conversation_id)
            else:
                self.supervisor.start(conversation_id, Requester.CHECKPOINT)


@asynccontextmanager
async def open_workspace(
    settings: Settings,
    credentials: Credentials,
    conversations: Conversations,
    *,
    proxy: Proxy | None,
    watch_limit: int,
    sharing: Sharing | None = None,
) -> AsyncIterator[Workspace]:
    """Open what one workspace needs while the block runs: its REST client, its live client, its clock.

    ``watch_limit``: most conversations watched at once. ``sharing``: with which other processes; None for none.
    `Workspace.run` must have ended before the block does. Raises: ConfigError for unusable certificate
    authorities.
    """
    clock = PhonicClock()
    async with (
        _rest_api(settings, credentials, conversations, proxy=proxy, clock=clock) as rest,
        open_live(
            settings.phonic.base_url,
            credentials,
            Timeouts(idle=settings.watch.idle_timeout),
            tls=trusting(settings.phonic.ca_file),
            proxy=proxy,
        ) as live,
    ):
        yield _connected(
            settings,
            credentials,
            conversations,
            live=live,
            rest=rest,
            clock=clock,
            watch_limit=watch_limit,
            sharing=sharing,
        )


@asynccontextmanager
async def _rest_api(
    settings: Settings,
    credentials: Credentials,
    conversations: Conversations,
    *,
    proxy: Proxy | None,
    clock: PhonicClock,
) -> AsyncIterator[RestApi | None]:
    """Open the REST API while the block runs, and count its requests; None with a session token."""
    if not isinstance(credentials.current(), ApiKey):
        yield None
        return
    store = conversations.store

    def on_error(reason: RestError) -> None:
        store.count(catalog.DISCOVERY_ERRORS, reason)

    def on_request(request: Request, seconds: float) -> None:
        store.count(catalog.REQUESTS, request)
        store.observe(catalog.REQUEST_DURATION, request, value=seconds)

    async with open_rest(
        settings.phonic.base_url,
        credentials,
        on_error=on_error,
        on_request=on_request,
        clock=clock,
        requests_per_second=settings.phonic.requests_per_second,
        proxy=proxy,
        ca_file=settings.phonic.ca_file,
    ) as rest:
        yield rest


def _connected(
    settings: Settings,
    credentials: Credentials,
    conversations: Conversations,
    *,
    live: LiveSocket,
    rest: RestApi | None,
    clock: PhonicClock,
    watch_limit: int,
    sharing: Sharing | None,
) -> Workspace:
    access = _access(credentials, rest)
    gate = FeedGate(
        live.open,
        access=access,
        has_labels=lambda conversation_id: conversations.entry(conversation_id) is not None,
    )
    supervisor = Supervisor(
        open_feed=gate.open,
        sink=conversations,
        records=Reconciler(rest.record, sink=conversations, rng=_jitter()) if rest else None,
        limit=watch_limit,
        now=clock.now,
    )
    assigned = None
    if sharing is not None:
        backfill = _backfill(rest, supervisor, conversations, clock) if rest else None
        assigned = AssignedTargets(supervisor, sharing, sink=conversations, backfill=backfill)
    return Workspace(
        conversations=conversations,
        clock=clock,
        supervisor=supervisor,
        gate=gate,
        targets=assigned or supervisor,
        rest=rest,
        discovery=_discovery(settings, rest, assigned or supervisor, conversations, clock, sharing),
        access=access,
        assigned=assigned,
    )


def _backfill(rest: RestApi, supervisor: Supervisor, conversations: Conversations, clock: PhonicClock) -> Backfill:
    return Backfill(rest.record, targets=supervisor, sink=conversations, rng=_jitter(), now=clock.now)


def _access(credentials: Credentials, rest: RestApi | None) -> Access | None:
    if rest is None:
        return None
    access = Access(credentials, rest.probe)
    rest.wait_accepted = access.wait_accepted
    rest.on_refused = access.report_refusal
    return access


def _discovery(
    settings: Settings,
    rest: RestApi | None,
    targets: Supervisor | AssignedTargets,
    conversations: Conversations,
    clock: PhonicClock,
    sharing: Sharing | None,
) -> Discovery | None:
    if rest is None:
        return None
    return Discovery(
        rest,
        targets=targets,
        sink=conversations,
        directory=conversations,
        rng=_jitter(),
        interval=settings.watch.interval if settings.watch.discover else NAMES_ONLY_INTERVAL,
        finds=bool(settings.watch.discover),
        only=settings.watch.project,
        now=clock.now,
        elect=sharing.elect if sharing else None,
        ended=targets if isinstance(targets, AssignedTargets) else None,
    )


def _jitter() -> Random:
    return Random()  # noqa: S311  # not for cryptography
