"""Wiring: the parts that find and follow conversations, and the tasks that they run as."""

import time
from collections.abc import AsyncIterator
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
from .phonic.live.client import LiveSocket
from .phonic.proxies import Proxy
from .phonic.rest import RestApi, open_rest
from .phonic.wire import is_conversation_id
from .settings import Settings
from .watch.access import Access
from .watch.crash_guard import keep_running
from .watch.discovery import Discovery
from .watch.feed_gate import FeedGate
from .watch.interfaces import Requester
from .watch.reconcile import Reconciler
from .watch.supervisor import Supervisor
from .watch.watch_file import WatchFile

NAMES_ONLY_INTERVAL: Final = 60.0
"""Seconds between two reads of names and limits when discovery is off."""
EXPIRE_INTERVAL: Final = 60.0
"""Seconds."""


@asynccontextmanager
async def rest_api(
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


@attrs.frozen(kw_only=True)
class Watching:
    """The watching side of one exporter. Without REST (a session token) ``discovery`` and ``access`` are None."""

    conversations: Conversations
    supervisor: Supervisor
    gate: FeedGate
    discovery: Discovery | None
    access: Access | None
    watch_file: WatchFile | None

    @classmethod
    def of(
        cls,
        settings: Settings,
        credentials: Credentials,
        conversations: Conversations,
        *,
        live: LiveSocket,
        rest: RestApi | None,
        clock: PhonicClock,
        watch_limit: int,
    ) -> "Watching":
        """Connect the parts. ``watch_limit``: most conversations watched at once."""
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
        return cls(
            conversations=conversations,
            supervisor=supervisor,
            gate=gate,
            discovery=_discovery(settings, rest, supervisor, conversations, clock),
            access=access,
            watch_file=_watch_file(settings, supervisor),
        )

    async def start(self, nursery: trio.Nursery, *, conversation_ids: tuple[str, ...]) -> None:
        """Start all tasks in ``nursery``, then watch what the state file left unfinished and ``conversation_ids``.

        A task that meets a defect of ours is counted and started again.
        """
        crashed = self.conversations.task_crashed
        await nursery.start(self.supervisor.run)
        nursery.start_soon(self._expire)
        if self.access is not None:
            nursery.start_soon(keep_running, Task.CREDENTIAL, self.access.run, crashed)
        names = (self.discovery.projects_known, self.discovery.agents_known) if self.discovery else ()
        nursery.start_soon(self.gate.wait_for_names, *names)
        self._resume()
        for conversation_id in conversation_ids:
            self.supervisor.start(conversation_id, Requester.FLAG)
        if self.watch_file is not None:
            nursery.start_soon(keep_running, Task.WATCH_FILE, self.watch_file.run, crashed)
        if self.discovery is not None:
            nursery.start_soon(self.discovery.run)

    def _resume(self) -> None:
        """Go on with the conversations that the state file says are not finished."""
        for conversation_id, has_ended in self.conversations.unfinished():
            if has_ended:
                self.supervisor.complete(conversation_id)
            else:
                self.supervisor.start(conversation_id, Requester.CHECKPOINT)

    async def _expire(self) -> None:
        while True:
            await trio.sleep(EXPIRE_INTERVAL)
            self.conversations.expire(is_followed=self.supervisor.is_watched)


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
    supervisor: Supervisor,
    conversations: Conversations,
    clock: PhonicClock,
) -> Discovery | None:
    if rest is None:
        return None
    return Discovery(
        rest,
        targets=supervisor,
        sink=conversations,
        directory=conversations,
        rng=_jitter(),
        interval=settings.watch.interval if settings.watch.discover else NAMES_ONLY_INTERVAL,
        finds=bool(settings.watch.discover),
        only=settings.watch.project,
        now=clock.now,
    )


def _watch_file(settings: Settings, supervisor: Supervisor) -> WatchFile | None:
    if settings.watch.file is None:
        return None
    return WatchFile(settings.watch.file, supervisor, is_conversation_id=is_conversation_id, now=time.time)


def _jitter() -> Random:
    return Random()  # noqa: S311  # not for cryptography
