"""Wiring: how the parts become a program that watches, serves, and stops in order.

The nurseries, from the outside in: signals; the web server, which outlives the watchers so that a last scrape
sees the final numbers; the checkpoint; the watching. The first signal ends the watching, then the checkpoint is
written, then the server finishes what it is answering. A second signal ends everything at once.
"""

import gc
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from random import Random

import attrs
import structlog
import trio

from . import __version__, signals
from .conversations import Conversations
from .enums import Request, Reset, RestError, Started, Task
from .filelimit import allow_files, files_for_feeds
from .gauges import gauges
from .metrics import catalog
from .metrics.catalog import CATALOG
from .metrics.formats import Format
from .metrics.loop_lag import LoopLag
from .metrics.page import Page
from .metrics.process import process_metrics
from .metrics.publisher import Publisher
from .metrics.store import LabelLimits, MetricStore
from .phonic.clock import PhonicClock
from .phonic.credentials import ApiKey, Credentials
from .phonic.live.client import LiveFeed, LiveSocket, Timeouts
from .phonic.proxies import Proxies, Proxy
from .phonic.rest import RestApi, open_rest
from .phonic.trust import trusting
from .phonic.wire import is_conversation_id
from .settings import Settings, StateSettings, describe, route_prefix
from .simulator import server as simulator_server
from .simulator.settings import LISTEN_ADDRESS, SimulatorSettings, scenario_of
from .state.keeper import Checkpoint
from .watch.access import Access
from .watch.crash_guard import keep_running
from .watch.discovery import Discovery
from .watch.interfaces import Source
from .watch.reconcile import Reconciler
from .watch.supervisor import Supervisor
from .watch.watch_file import WatchFile
from .web import server as web_server
from .web.connections import MOST_CONNECTIONS
from .web.endpoints import Exported
from .web.push import BudgetedTargets, budget
from .web.reload import ReloadedConfig
from .web.running import announced

log = structlog.get_logger("exporter")

STOP_SECONDS = 9.0  # from the first signal to the end, whatever hangs; the promise is 10
EXPIRE_SECONDS = 60.0
OTHER_FILES = 500  # open at once beside the feeds: scrapes and idle clients, REST, checkpoint
KEPT_OWN = ("phonic_exporter_build_info", "phonic_exporter_slo_response_seconds")
NAMES_ONLY_SECONDS = 60.0  # how often names and limits are read when discovery is off
# For the names of projects and agents, before conversations are counted under ids and in series not seen at 0.
NAMES_PATIENCE_SECONDS = 5.0


@attrs.frozen(kw_only=True)
class Running:
    """A started exporter: where it serves, and how to make it stop in order."""

    urls: list[str]
    stop: trio.Event


async def run(
    settings: Settings,
    credentials: Credentials,
    *,
    task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Watch and serve until SIGTERM, SIGINT or ``Running.stop``.

    ``started`` when the pages are served and watching has begun. Errors: ConfigError for what only shows at
    start (addresses, web config file, a checkpoint in use). Cancellation: ends at once, without a checkpoint.
    """
    proxies = Proxies.from_environment(os.environ)
    proxy = proxies.for_url(settings.phonic.base_url)
    wanted = settings.watch.limit + OTHER_FILES
    allowed = allow_files(wanted)
    watch_limit = min(settings.watch.limit, files_for_feeds(allowed, others=OTHER_FILES))
    web_config = ReloadedConfig(settings.web.config_file)
    store = MetricStore(
        LabelLimits(
            names=settings.metrics.labels,
            values=settings.metrics.label_limit,
            sets=settings.metrics.label_set_limit,
        ),
        hold=settings.metrics.hold_new_series,
    )
    clock = PhonicClock()
    conversations = Conversations(
        store,
        live_limit=settings.metrics.per_conversation_limit,
        now=time.time,
        clock_offset=lambda: clock.offset,
    )
    stop, served, names_known = trio.Event(), trio.Event(), trio.Event()
    read_again: dict[str, Callable[[], Awaitable[object]]] = {
        "credential": partial(trio.to_thread.run_sync, credentials.reload, abandon_on_cancel=True),
        "web_config": web_config.reread,
    }
    async with (
        _signals(stop, read_again),
        AsyncExitStack() as at_work,
        _checkpoint(settings.state, conversations) as checkpoint,
        _rest(settings, credentials, conversations, proxy, clock) as rest,
    ):
        access = _access(credentials, rest)
        publisher = Publisher(store, conversations, checkpoint)
        live = LiveSocket(
            settings.phonic.base_url,
            credentials,
            Timeouts(idle=settings.watch.idle_timeout),
            tls=trusting(settings.phonic.ca_file),
            proxy=proxy,
        )
        records = Reconciler(rest.record, sink=conversations, rng=Random()) if rest else None  # noqa: S311  # jitter
        supervisor = Supervisor(
            open_feed=partial(_open_feed, live, conversations, names_known, access),
            sink=conversations,
            records=records,
            limit=watch_limit,
            now=clock.now,
        )
        discovery = _discovery(settings, rest, supervisor, conversations, clock)
        loop_lag = LoopLag()
        watch_file = _watch_file(settings, supervisor)
        if watch_file is not None:
            read_again["watch_file"] = watch_file.reread
        page = Page(
            store,
            gauges(
                conversations=conversations,
                supervisor=supervisor,
                rest=rest,
                discovery=discovery,
                clock=clock,
                checkpoint=checkpoint,
                watch_file=watch_file,
                publisher=publisher,
                access=access,
                web_config=web_config if settings.web.config_file else None,
                slo_response=settings.metrics.slo_response,
                loop_lag=loop_lag,
            ),
            process_metrics(),
        )
        exported = Exported(
            prepare=publisher.prepare,
            page=_without_own(page.parts) if settings.web.disable_exporter_metrics else page.parts,
            whole_page=publisher.whole_page,
            not_ready=partial(_not_ready, settings, discovery, access),
            conversations=lambda: _conversations(supervisor, conversations),
            push=_push(settings, supervisor, conversations) if settings.web.enable_push_api else None,
            version=__version__,
        )
        async with trio.open_nursery() as serving:
            urls = await serving.start(
                partial(
                    web_server.serve,
                    exported,
                    listen_addresses=settings.web.listen_address,
                    telemetry_path=settings.web.telemetry_path,
                    max_requests=settings.web.max_requests,
                    web_config=web_config,
                    stop=served,
                    systemd_socket=settings.web.systemd_socket,
                    route_prefix=route_prefix(settings.web),
                    external_url=settings.web.external_url,
                    max_connections=min(MOST_CONNECTIONS, (allowed - watch_limit) // 2),
                )
            )
            at_work.enter_context(announced(urls, os.environ))
            # Said now, for what is wrong with the settings has shown by now, and is one line of its own.
            log.info("starting", version=__version__, **describe(settings))
            for variable, reason in proxies.warnings:
                log.warning("proxy variable", variable=variable, reason=reason)
            if watch_limit < settings.watch.limit:
                log.warning(
                    "too few open files for the watch limit", allowed=allowed, wanted=wanted, watched=watch_limit
                )
            for url in urls:
                page_url = url + route_prefix(settings.web)
                log.info("serving", metrics=page_url + settings.web.telemetry_path, landing_page=page_url)
            async with trio.open_nursery() as watching:
                await watching.start(supervisor.run)
                watching.start_soon(loop_lag.run)
                watching.start_soon(live.run)
                watching.start_soon(_expire, conversations, supervisor, publisher if checkpoint is None else None)
                if access is not None:
                    watching.start_soon(keep_running, Task.CREDENTIAL, access.run, conversations.task_crashed)
                watching.start_soon(_wait_for_names, discovery, names_known)
                _resume(supervisor, conversations)
                for conversation_id in settings.watch.conversation:
                    supervisor.start(conversation_id, Source.FLAG)
                if watch_file is not None:
                    watching.start_soon(keep_running, Task.WATCH_FILE, watch_file.run, conversations.task_crashed)
                if discovery is not None:
                    watching.start_soon(discovery.run)
                task_status.started(Running(urls=urls, stop=stop))
                with _calm_collector():
                    await stop.wait()
                serving.cancel_scope.deadline = trio.current_time() + STOP_SECONDS
                watching.cancel_scope.cancel()
            if checkpoint is not None:
                await checkpoint.write_now(conversations, on_error=partial(_count_checkpoint_error, store))
            served.set()
    log.info("stopped")


async def demo(
    settings: Settings,
    simulator: SimulatorSettings,
    *,
    task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The exporter against a simulated Phonic in this process, until a signal."""
    async with trio.open_nursery() as playing:
        listen = simulator.listen_address or "127.0.0.1:0"
        base_url = await playing.start(partial(_simulate, attrs.evolve(simulator, listen_address=listen)))
        settings = attrs.evolve(settings, phonic=attrs.evolve(settings.phonic, base_url=base_url))
        async with trio.open_nursery() as exporting:
            running = await exporting.start(run, settings, Credentials(ApiKey(simulator.api_key)))
            page = running.urls[0]
            log.info("demo is running", open=page, metrics=page + settings.web.telemetry_path)
            sys.stdout.write(f"The demo is running: open {page} in a browser; Ctrl-C ends it.\n")
            sys.stdout.flush()
            task_status.started(running)
        playing.cancel_scope.cancel()


async def simulate(
    simulator: SimulatorSettings, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Only the simulated Phonic, until a signal."""
    stop = trio.Event()
    async with _signals(stop), trio.open_nursery() as nursery:
        base_url = await nursery.start(_simulate, simulator)
        log.info("simulating", base_url=base_url, seed=simulator.seed)
        task_status.started(base_url)
        await stop.wait()
        nursery.cancel_scope.cancel()


async def _simulate(
    simulator: SimulatorSettings, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    scenario, faults = scenario_of(simulator)
    await simulator_server.serve(
        scenario,
        listen=simulator.listen_address or LISTEN_ADDRESS,
        api_key=simulator.api_key,
        faults=faults,
        patient=simulator.patient,
        refuse_ended=simulator.refuse_ended,
        task_status=task_status,
    )


@asynccontextmanager
async def _signals(
    stop: trio.Event, read_again: Mapping[str, Callable[[], Awaitable[object]]] | None = None
) -> AsyncIterator[None]:
    """Set ``stop`` at the first SIGTERM or SIGINT, cancel the block at the second; SIGHUP reads files again."""
    async with trio.open_nursery() as nursery:

        async def hang_up() -> None:
            files = read_again or {}
            log.info("signal received, reading files again", signal="SIGHUP", files=list(files))
            for name, read in list(files.items()):
                try:
                    await read()
                except Exception:  # whatever is wrong with a file is no reason to end
                    log.exception("file not read again", file=name)

        async def listen(*, task_status: trio.TaskStatus[None]) -> None:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
                task_status.started()
                if signals.missed_hangup():
                    nursery.start_soon(hang_up)
                async for number in received:
                    if number == signal.SIGHUP:
                        nursery.start_soon(hang_up)  # a file may hang, and the next signal must be heard
                        continue
                    log.info("signal received", signal=signal.Signals(number).name)
                    if stop.is_set():
                        nursery.cancel_scope.cancel()
                    stop.set()

        await nursery.start(listen)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _checkpoint(settings: StateSettings, conversations: Conversations) -> AsyncIterator[Checkpoint | None]:
    """Take over the checkpoint and keep it written while the block runs."""
    if settings.file is None:
        yield None
        return
    opened = await Checkpoint.open(settings.file, label_names=conversations.store.limits.names, now=time.time)
    if opened.problem is not None:
        conversations.store.count(catalog.CHECKPOINT_RESETS, Reset.CORRUPT)
        conversations.store.count(catalog.CHECKPOINT_ERRORS)
    # Nothing else uses the conversations yet, so the reading of a large file does not hold up the loop.
    if opened.saved is not None and await trio.to_thread.run_sync(conversations.restore, opened.saved):
        opened.checkpoint.write_everything()
    on_error = partial(_count_checkpoint_error, conversations.store)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(opened.checkpoint.run, conversations, interval=settings.interval, on_error=on_error)
            )
            yield opened.checkpoint
            nursery.cancel_scope.cancel()
    finally:
        await opened.checkpoint.close()


def _count_checkpoint_error(store: MetricStore) -> None:
    store.count(catalog.CHECKPOINT_ERRORS)


@asynccontextmanager
async def _rest(
    settings: Settings,
    credentials: Credentials,
    conversations: Conversations,
    proxy: Proxy | None,
    clock: PhonicClock,
) -> AsyncIterator[RestApi | None]:
    """The REST API while the block runs; None with a session token, which cannot read it."""
    if not isinstance(credentials.current(), ApiKey):
        yield None
        return

    def on_error(reason: RestError) -> None:
        conversations.store.count(catalog.DISCOVERY_ERRORS, reason)

    def on_request(what: Request, seconds: float) -> None:
        conversations.store.count(catalog.REQUESTS, what)
        conversations.store.observe(catalog.REQUEST_DURATION, what, value=seconds)

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
        rng=Random(),  # noqa: S311  # jitter
        interval=settings.watch.interval if settings.watch.discover else NAMES_ONLY_SECONDS,
        finds=bool(settings.watch.discover),
        only=settings.watch.project,
        now=clock.now,
    )


def _watch_file(settings: Settings, supervisor: Supervisor) -> WatchFile | None:
    if settings.watch.file is None:
        return None
    return WatchFile(settings.watch.file, supervisor, is_conversation_id=is_conversation_id, now=time.time)


def _resume(supervisor: Supervisor, conversations: Conversations) -> None:
    """Go on with what the checkpoint says was not finished."""
    for conversation_id, has_ended in conversations.unfinished():
        if has_ended:
            supervisor.complete(conversation_id)
        else:
            supervisor.start(conversation_id, Source.CHECKPOINT)


def _access(credentials: Credentials, rest: RestApi | None) -> Access | None:
    """What holds requests and feeds back while the credential is refused; None where REST cannot be asked."""
    if rest is None:
        return None
    access = Access(credentials, rest.probe)
    rest.wait_accepted = access.accepted
    rest.on_refused = access.doubt
    return access


async def _wait_for_names(discovery: Discovery | None, names_known: trio.Event) -> None:
    if discovery is not None:
        with trio.move_on_after(NAMES_PATIENCE_SECONDS):
            await discovery.projects_known.wait()
            await discovery.agents_known.wait()
    names_known.set()


@asynccontextmanager
async def _open_feed(
    live: LiveSocket,
    conversations: Conversations,
    names_known: trio.Event,
    access: Access | None,
    conversation_id: str,
) -> AsyncGenerator[LiveFeed, None]:
    """Open a feed while Phonic accepts the credential, and once labels can be decided: snapshots have only the id
    of their project, and the first one freezes them."""
    if access is not None:
        await access.accepted()
    if conversations.entry(conversation_id) is None:
        await names_known.wait()
    async with live.open(conversation_id) as feed:
        yield feed


@contextmanager
def _calm_collector() -> Iterator[None]:
    """Have the garbage collector look at less, less often: nothing on the way of an update makes cycles.

    Measured with 1,000 conversations updated once a second: 5 to 10 % of the CPU time, for a few MB.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()  # what was made for the start stays for good
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def _expire(conversations: Conversations, supervisor: Supervisor, publisher: Publisher | None) -> None:
    """``publisher``: without a state file, so that what a write would take does not pile up between scrapes."""
    while True:
        await trio.sleep(EXPIRE_SECONDS)
        conversations.expire(is_followed=supervisor.is_watched)
        if publisher is not None:
            publisher.take_all()


def _not_ready(settings: Settings, discovery: Discovery | None, access: Access | None) -> list[str]:
    reasons = []
    if access is not None and access.refused_with is not None:
        reasons.append(f"API key refused ({access.refused_with})")
    if settings.watch.discover and discovery and not discovery.first_round_done:
        reasons.append("first discovery not done")
    return reasons


class _Push:
    """Targets named over HTTP. Implements `exporter.web.endpoints.PushTargets`."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def start(self, conversation_id: str) -> Started:
        return self._supervisor.start(conversation_id, Source.PUSH)

    def stop(self, conversation_id: str) -> bool:
        return self._supervisor.stop(conversation_id)


def _push(settings: Settings, supervisor: Supervisor, conversations: Conversations) -> BudgetedTargets:
    return BudgetedTargets(
        _Push(supervisor),
        budget(requests_per_second=settings.phonic.requests_per_second, watch_limit=settings.watch.limit),
        is_watched=supervisor.is_watched,
        is_real=lambda conversation_id: conversations.entry(conversation_id) is not None,
        now=trio.current_time,
    )


def _without_own(
    page: Callable[[Format, frozenset[str] | None], Iterable[bytes]],
) -> Callable[[Format, frozenset[str] | None], Iterable[bytes]]:
    """The page without metrics about the exporter itself, but its version and the objective that others use."""
    shown = frozenset(family.name for family in CATALOG if not _is_own(family.name))

    def restricted(form: Format, names: frozenset[str] | None) -> Iterable[bytes]:
        return page(form, shown if names is None else frozenset(name for name in names if not _is_own(name)))

    return restricted


def _is_own(name: str) -> bool:
    return name.startswith(("process_", "phonic_exporter_")) and name not in KEPT_OWN


def _conversations(supervisor: Supervisor, conversations: Conversations) -> list[dict[str, object]]:
    """What ``GET /api/v1/conversations`` shows: identity, state and counts, nothing that anyone said."""
    shown: list[dict[str, object]] = []
    now = trio.current_time()
    for each in supervisor.watches():
        entry = conversations.entry(each.conversation_id)
        live = entry.progress.live if entry else None
        shown.append(
            {
                "conversation_id": each.conversation_id,
                "state": each.state.value,
                "state_seconds": round(now - each.since, 3),
                "sources": sorted(each.sources),
                "project": entry.project if entry else None,
                "agent": entry.agent if entry else None,
                "turns": live.turns if live else 0,
                "duration_seconds": live.duration if live else None,
                "last_update": round(entry.updated_at, 3) if entry else None,
            }
        )
    return shown
