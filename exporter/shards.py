"""Wiring: one process of several that share the conversations: it holds a shard, or stands by.

A *tenure* is the time between taking a shard and losing or releasing it. All that counts and watches is made anew
for each; the web server, and the numbers of the process, go on. In a tenure the page has the families of the shard
only while no other process can have taken it (`exporter.state.postgres`).
"""

import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Final, TypeVar

import attrs
import structlog
import trio

from . import __version__
from .api import offered_by_standby
from .assembly import Exporter, history_limits, new_conversations, report_writes
from .conversations import Conversations
from .counting.turns import SeenCall
from .enums import LeaseLoss, ShardState, Started, Word
from .errors import ConfigError
from .gauges import of_a_standby
from .metrics import catalog
from .metrics.catalog import Family
from .metrics.page import Page
from .metrics.process import process_metrics
from .metrics.publisher import Publisher
from .metrics.store import LabelLimits, MetricStore
from .process import Process
from .standby import StandbyPeople, StandbyPush
from .state.keeper import StateKeeper
from .state.patience import answered
from .state.postgres import Newer, Registry, Server, Shard, Taken
from .state.registrar import Registrar
from .state.rows import Saved
from .state.storage import Assigned, Fenced, Outdated, Unusable
from .web.endpoints import Exported
from .web.pages import Latency, LiveRow, Part, PastRow
from .web.people import Shown
from .workspaces import LOOK_INTERVAL, Workspaces, look_again, open_workspaces

log = structlog.get_logger("exporter.shards")

T = TypeVar("T")

READ_SECONDS: Final = 60.0
"""Longest time in which a shard that was taken must be read."""
LAST_SCRAPES: Final = 2
"""Scrapes that still show a drained shard once pages show all that it has counted."""
_EXPIRED_LOOK: Final = 0.1  # seconds between two looks at a lease that has run out
_DRAINED_LOOK: Final = 0.5
_RELEASE_SECONDS: Final = 2.0


class Shards:
    """The shards as this process sees them. Implements `exporter.gauges.ShardView`."""

    def __init__(self, process: Process) -> None:
        settings = process.settings
        self._process = process
        self._store = MetricStore(LabelLimits())  # holds the numbers of the process from one tenure to the next
        self._server = Server(url=settings.state.url, password_file=settings.state.password_file)
        self._lease = settings.shard.lease
        self._registrar = Registrar(
            Registry(
                self._server,
                holder=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
                patience=self._lease,
            ),
            count=settings.shard.count,
            lease=self._lease,
            history=history_limits(settings.history),
            on_error=lambda: self._store.count(catalog.CHECKPOINT_ERRORS),
        )
        self._shard: Shard | None = None
        self._standby = self._offered_by_standby()
        self._current = self._standby

    @property
    def held(self) -> tuple[str, int] | None:
        """Number and epoch of the shard that this process holds."""
        shard = self._shard
        return None if shard is None or not shard.is_ours else (str(shard.number), shard.epoch)

    @property
    def counts(self) -> Mapping[ShardState, int]:
        """Shards by state, as of a second ago."""
        return self._registrar.counts

    def offered(self) -> Exported:
        """What is served over HTTP: whatever the tenure, or the standby, offers at that moment."""
        return Exported(
            prepare=lambda timeout: self._current.prepare(timeout),
            page=lambda form, names: self._current.page(form, names),
            whole_page=lambda by_prometheus: self._current.whole_page(by_prometheus),
            not_ready=lambda: self._current.not_ready(),
            remarks=lambda: self._current.remarks(),
            conversations=lambda: self._current.conversations(),
            push=_Push(lambda: self._current) if self._process.settings.web.enable_push_api else None,
            version=__version__,
            people=_People(lambda: self._current, objective=self._process.settings.metrics.slo_response),
            shards=self._listed,
        )

    async def run(self) -> None:
        """Take a shard, hold it until it is lost, and take the next one, until ``Process.stop``.

        Then the last numbers are written, and the shard is released. Cancellation: at any time, without that.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._process.loop_lag.run)
            nursery.start_soon(self._registrar.run)
            while not self._process.stop.is_set():
                taken = await self._unless_stopped(self._stand_by)
                if taken is not None:
                    await self._hold(taken)
            nursery.cancel_scope.cancel()
        await self._registrar.close()

    async def _stand_by(self) -> Taken:
        """Wait for a shard, and know the keys meanwhile: clients of the push API name workspaces."""
        taken: list[Taken] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_regularly)
            taken.append(await self._registrar.take())
            nursery.cancel_scope.cancel()
        return taken[0]

    async def _look_regularly(self) -> None:
        while True:
            await look_again(self._process.keys)
            await trio.sleep(LOOK_INTERVAL)

    async def _listed(self) -> Sequence[Mapping[str, object]] | None:
        try:
            return await self._registrar.listed()
        except (Unusable, Newer):
            return None

    async def _unless_stopped(self, wait: Callable[[], Awaitable[T]]) -> T | None:
        """The result of ``wait``; None if the process is to stop meanwhile."""
        found: list[T] = []
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                await self._process.stop.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            found.append(await wait())
            nursery.cancel_scope.cancel()
        return found[0] if found else None

    # --- a tenure

    async def _hold(self, taken: Taken) -> None:
        settings = self._process.settings
        shard = Shard(
            self._server,
            taken,
            lease=self._lease,
            label_names=settings.label_names,
            remembers=settings.history.conversations > 0,
        )
        log.info("shard taken", shard=taken.shard, epoch=taken.epoch)
        keeper = StateKeeper(shard, now=time.time)
        try:
            await self._read_and_count(shard, keeper)
        except* Outdated:
            pass  # the registrar says so, because standbys find it out too
        except* Fenced:
            self._store.count(catalog.LEASE_LOSSES, LeaseLoss.TAKEN)
            log.error("another process has taken the shard", shard=taken.shard, epoch=taken.epoch)
        except* (Unusable, ConfigError) as trouble:
            # The settings were right at the start: a file that they name may be there again in a moment.
            log.error("shard cannot be held", shard=taken.shard, reason=_reason(trouble))
            self._store.count(catalog.CHECKPOINT_ERRORS)
            await self._unless_stopped(partial(trio.sleep, self._lease))
        finally:
            shard.hide()
            self._shard = None
            self._current = self._standby
            self._process.reloads.pop("watch_file", None)
            self._process.reloads["credential"] = partial(look_again, self._process.keys)
            await keeper.close()

    async def _read_and_count(self, shard: Shard, keeper: StateKeeper) -> None:
        settings = self._process.settings
        conversations = new_conversations(settings, shard=str(shard.number), earlier=self._store)
        self._store = conversations.store
        on_error = report_writes(keeper, conversations.store)
        saved, assigned = await answered(
            shard.read, seconds=READ_SECONDS, abort=shard.abort, reason="takes too long"
        )
        if saved is not None and not await self._restored(shard, conversations, saved):
            keeper.holds_all()
        if saved is None and shard.first_start is not None:
            conversations.count_since(shard.first_start)
        async with open_workspaces(
            settings,
            self._process.keys,
            conversations,
            proxies=self._process.proxies,
            watch_limit=self._process.files.feeds,
            share=partial(_Shared, self._registrar, 2 * settings.watch.interval + self._lease),
        ) as workspaces:
            keeper.on_assigned = partial(_receive, workspaces)
            self._process.reloads["credential"] = workspaces.reread_keys
            if workspaces.watch_file is not None:
                self._process.reloads["watch_file"] = workspaces.watch_file.reread
            publisher = Publisher(conversations.store, conversations, keeper)
            tenure = Tenure(shard=shard, conversations=conversations, publisher=publisher)
            exporter = Exporter(
                settings=settings,
                conversations=conversations,
                workspaces=workspaces,
                state=keeper,
                publisher=publisher,
                web_config=self._process.web_config,
                loop_lag=self._process.loop_lag,
                shards=self,
                hides=tenure.hides,
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    partial(keeper.run, conversations, interval=settings.state.interval, on_error=on_error)
                )
                await exporter.start(nursery)
                _receive(workspaces, assigned)
                self._shard = shard
                self._current = attrs.evolve(exporter.offered(), whole_page=tenure.whole_page)
                nursery.start_soon(self._note_expiry, shard)
                is_over = await self._unless_stopped(tenure.wait_drained)
                nursery.cancel_scope.cancel()
            is_written = await keeper.write_now(conversations, on_error=on_error)
        shard.hide()
        self._current = self._standby
        if is_written:
            await _release(shard, is_over=is_over is not None)

    async def _restored(self, shard: Shard, conversations: Conversations, saved: Saved) -> bool:
        """Take over what was saved, and renew the lease meanwhile. Returns as `Conversations.restore`."""
        must_write: list[bool] = []
        async with trio.open_nursery() as nursery:

            async def renew() -> None:
                while True:
                    await answered(shard.renew, seconds=self._lease, abort=shard.abort)
                    await trio.sleep(self._lease / 3)

            nursery.start_soon(renew)
            must_write.append(await trio.to_thread.run_sync(conversations.restore, saved))
            nursery.cancel_scope.cancel()
        return must_write[0]

    async def _note_expiry(self, shard: Shard) -> None:
        """Count and log each time the lease runs out. Never returns."""
        while True:
            while (left := shard.valid_for) > 0:  # noqa: ASYNC110  # writes move the end
                await trio.sleep(left)
            self._store.count(catalog.LEASE_LOSSES, LeaseLoss.EXPIRED)
            log.error("lease has run out, the metrics of the shard are hidden", shard=shard.number)
            while shard.valid_for <= 0:  # noqa: ASYNC110  # a thread renews it
                await trio.sleep(_EXPIRED_LOOK)
            log.info("lease renewed, the metrics of the shard are shown again", shard=shard.number)

    def _offered_by_standby(self) -> Exported:
        page = Page(
            MetricStore(LabelLimits(), earlier=self._store),
            of_a_standby(
                self._process.settings.metrics.slo_response,
                self._process.loop_lag,
                self,
                self._process.keys,
                self._process.web_config,
            ),
            process_metrics(),
            hides=lambda family: family.is_of_shard,
        )
        return offered_by_standby(
            self._process.settings,
            page=page,
            push=StandbyPush(self._registrar, self._process.keys),
            people=StandbyPeople(objective=self._process.settings.metrics.slo_response),
            is_reached=lambda: self._registrar.is_reached,
            has_keys=lambda: bool(self._process.keys.current),
        )


@attrs.define(kw_only=True, eq=False)
class Tenure:
    """What pages of a tenure show, and how often they did."""

    shard: Shard
    conversations: Conversations
    publisher: Publisher
    scrapes: int = 0

    def hides(self, family: Family) -> bool:
        return family.is_of_shard and not self.shard.is_ours

    def whole_page(self, by_prometheus: bool) -> Callable[[], None]:
        if not self.shard.is_ours:
            return lambda: None
        note = self.publisher.whole_page(by_prometheus)

        def sent() -> None:
            self.scrapes += by_prometheus
            note()

        return sent

    async def wait_drained(self) -> bool:
        """Wait until the shard is drained and empty, and all that it has counted was scraped. Returns true."""
        empty_at: int | None = None
        while empty_at is None or self.scrapes < empty_at + LAST_SCRAPES:
            await trio.sleep(_DRAINED_LOOK)
            is_empty = self.shard.is_drained and self.shard.is_empty and not self.conversations.has_unfinished
            if not (is_empty and self.conversations.store.shows_all):
                empty_at = None
            elif empty_at is None:
                empty_at = self.scrapes
        log.info("shard drained", shard=self.shard.number)
        return True


def _reason(trouble: BaseExceptionGroup[Exception]) -> str:
    first = trouble.exceptions[0]
    return _reason(first) if isinstance(first, BaseExceptionGroup) else str(first)


async def _release(shard: Shard, *, is_over: bool) -> None:
    with trio.move_on_after(_RELEASE_SECONDS, shield=True):
        try:
            await trio.to_thread.run_sync(partial(shard.release, is_over=is_over), abandon_on_cancel=True)
        except Unusable as trouble:
            log.warning("shard not released", shard=shard.number, reason=str(trouble))
            return
        log.info("shard released", shard=shard.number)


def _receive(workspaces: Workspaces, assigned: Sequence[Assigned]) -> None:
    for each in assigned:
        workspaces.receive(each.workspace, each.id, each.word)
    workspaces.start_waiting()


@attrs.frozen
class _Shared:
    """Shares the conversations of one workspace. Implements `exporter.watch.interfaces.Sharing`."""

    _registrar: Registrar
    _seconds: float  # for which an election holds
    _workspace: str

    def offer(self, conversation_id: str, word: Word) -> None:
        self._registrar.offer(Assigned(conversation_id, self._workspace, word))

    async def elect(self, projects: Collection[str]) -> Collection[str]:
        # Hashed, because Phonic's names are of any length and may hold what PostgreSQL refuses in a text.
        names = {sha256(f"{self._workspace}/{project}".encode()).hexdigest(): project for project in projects}
        return [names[name] for name in await self._registrar.elect(names, self._seconds)]


# --- what is served: whatever the tenure, or the standby, offers


@attrs.frozen
class _Push:
    _current: Callable[[], Exported]

    def start(self, conversation_id: str, workspace: str | None) -> Started:
        push = self._current().push
        return Started.LIMIT_REACHED if push is None else push.start(conversation_id, workspace)

    def stop(self, conversation_id: str) -> bool:
        push = self._current().push
        return push is not None and push.stop(conversation_id)


@attrs.frozen
class _People:
    """Implements `exporter.web.people.Shown`."""

    _current: Callable[[], Exported]
    objective: float = attrs.field(kw_only=True)

    @property
    def _shown(self) -> Shown:
        shown = self._current().people
        assert shown is not None  # noqa: S101  # tenure and standby both offer it
        return shown

    @property
    def remembers(self) -> bool:
        return self._shown.remembers

    def parts(self) -> Sequence[Part]:
        return self._shown.parts()

    def uptime(self) -> float:
        return self._shown.uptime()

    def latencies(self) -> Sequence[Latency]:
        return self._shown.latencies()

    def live(self, query: str, most: int) -> tuple[Sequence[LiveRow], int]:
        return self._shown.live(query, most)

    async def past(self, query: str, most: int) -> tuple[Sequence[PastRow], int]:
        return await self._shown.past(query, most)

    async def call(self, conversation_id: str) -> SeenCall | None:
        return await self._shown.call(conversation_id)
