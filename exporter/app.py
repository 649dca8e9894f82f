"""Wiring: one exporter, from settings to a program that watches, serves, and stops in order.

The nurseries, from the outside in: signals; the web server, which outlives the watchers so that a last scrape
sees the final numbers; the state file; the watching. The first signal ends the watching, then the state file is
written, then the server finishes the answers under way. A second signal ends everything at once.
"""

import gc
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Final

import attrs
import structlog
import trio

from . import __version__
from .api import exported
from .conversations import Conversations
from .enums import Reset
from .filelimit import allow_files, files_for_feeds
from .gauges import gauges
from .metrics import catalog
from .metrics.loop_lag import LoopLag
from .metrics.page import Page
from .metrics.process import process_metrics
from .metrics.publisher import Publisher
from .metrics.store import LabelLimits, MetricStore
from .people import People
from .phonic.credentials import Credentials
from .phonic.keys import Keys
from .phonic.proxies import Proxies
from .settings import (
    HistorySettings,
    Settings,
    StateSettings,
    WebSettings,
    describe,
    route_prefix,
)
from .shutdown import stopping_on_signals
from .state.keeper import StateKeeper
from .state.rows import HistoryLimits
from .web import server as web_server
from .web.connections import MOST_CONNECTIONS
from .web.endpoints import Exported
from .web.reload import ReloadedConfig
from .web.running import announced
from .workspaces import Workspaces, open_workspaces

log = structlog.get_logger("exporter")

STOP_SECONDS: Final = 9.0
"""From the first signal to the end, whatever hangs; 10 are promised."""
OTHER_FILES: Final = 500
"""Files open at once beside the feeds: scrapes and idle clients, REST, the state file."""
TAKE_INTERVAL: Final = 60.0
"""Seconds."""


@attrs.frozen(kw_only=True)
class Running:
    """A started exporter: where it serves, and how to make it stop in order."""

    urls: list[str]
    stop: trio.Event


async def run(
    settings: Settings,
    credentials: Credentials | Keys,
    *,
    task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Watch and serve until SIGTERM, SIGINT or ``Running.stop``. ``credentials``: the only one, or several keys.

    ``started`` when the pages are served and watching has begun.
    Raises: ConfigError for what only shows at start (addresses, web config file, a state file in use).
    Cancellation: ends at once, without a last write of the state file.
    """
    proxies = Proxies.from_environment(os.environ)
    files = _Files.allowed_for(settings.watch.limit)
    web_config = ReloadedConfig(settings.web.config_file)
    conversations = _conversations(settings)
    stop = trio.Event()
    reloads: dict[str, Callable[[], Awaitable[object]]] = {"web_config": web_config.reread}
    async with (
        stopping_on_signals(stop, reloads),
        AsyncExitStack() as while_serving,
        _state(settings.state, settings.history, conversations) as state,
        open_workspaces(
            settings, credentials, conversations, proxies=proxies, watch_limit=files.feeds
        ) as workspaces,
    ):
        exporter = _Exporter(
            settings=settings,
            conversations=conversations,
            workspaces=workspaces,
            state=state,
            publisher=Publisher(conversations.store, conversations, state),
            web_config=web_config,
        )
        reloads["credential"] = workspaces.reread_keys
        if workspaces.watch_file is not None:
            reloads["watch_file"] = workspaces.watch_file.reread
        served = trio.Event()
        async with trio.open_nursery() as serving:
            urls = await serving.start(
                partial(_serve, exporter.offered(), settings.web, web_config, files, served)
            )
            while_serving.enter_context(announced(urls, os.environ))
            # Logged only now: a wrong setting has been reported by now, on a line of its own.
            _log_start(settings, urls, proxies, files)
            async with trio.open_nursery() as nursery:
                await exporter.start(nursery)
                task_status.started(Running(urls=urls, stop=stop))
                with _calm_collector():
                    await stop.wait()
                serving.cancel_scope.deadline = trio.current_time() + STOP_SECONDS
                nursery.cancel_scope.cancel()
            if state is not None:
                await state.write_now(
                    conversations, on_error=partial(_count_checkpoint_error, conversations.store)
                )
            served.set()
    log.info("stopped")


@attrs.frozen(kw_only=True)
class _Exporter:
    """The parts of one exporter. ``state`` is None without a state file."""

    settings: Settings
    conversations: Conversations
    workspaces: Workspaces
    state: StateKeeper | None
    publisher: Publisher
    web_config: ReloadedConfig
    loop_lag: LoopLag = attrs.field(factory=LoopLag)

    def offered(self) -> Exported:
        """What is served over HTTP: the page of all metrics, and what people see."""
        settings = self.settings
        sources = gauges(
            conversations=self.conversations,
            workspaces=self.workspaces,
            keeper=self.state,
            publisher=self.publisher,
            web_config=self.web_config if settings.web.config_file else None,
            slo_response=settings.metrics.slo_response,
            loop_lag=self.loop_lag,
        )
        people = People(
            conversations=self.conversations,
            workspaces=self.workspaces,
            publisher=self.publisher,
            state=self.state,
            objective=settings.metrics.slo_response,
            history=settings.history.conversations > 0,
        )
        return exported(
            settings,
            page=Page(self.conversations.store, sources, process_metrics()),
            publisher=self.publisher,
            conversations=self.conversations,
            workspaces=self.workspaces,
            people=people,
        )

    async def start(self, nursery: trio.Nursery) -> None:
        """Start all tasks but the web server and the writing of the state file."""
        nursery.start_soon(self.loop_lag.run)
        if self.state is None:
            nursery.start_soon(_take_regularly, self.publisher)
        await nursery.start(self.workspaces.run, self.settings.watch.conversation)


async def _serve(
    offered: Exported,
    settings: WebSettings,
    web_config: ReloadedConfig,
    files: "_Files",
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[list[str]],
) -> None:
    await web_server.serve(
        offered,
        listen_addresses=settings.listen_address,
        telemetry_path=settings.telemetry_path,
        max_requests=settings.max_requests,
        web_config=web_config,
        stop=stop,
        systemd_socket=settings.systemd_socket,
        route_prefix=route_prefix(settings),
        external_url=settings.external_url,
        max_connections=min(MOST_CONNECTIONS, files.others // 2),
        task_status=task_status,
    )


@attrs.frozen(kw_only=True)
class _Files:
    """Files that may be open at once: ``wanted``, ``allowed`` by the system, and of these for ``feeds``."""

    wanted: int
    allowed: int
    feeds: int

    @classmethod
    def allowed_for(cls, watch_limit: int) -> "_Files":
        wanted = watch_limit + OTHER_FILES
        allowed = allow_files(wanted)
        feeds = min(watch_limit, files_for_feeds(allowed, others=OTHER_FILES))
        return cls(wanted=wanted, allowed=allowed, feeds=feeds)

    @property
    def others(self) -> int:
        return self.allowed - self.feeds


def _conversations(given: Settings) -> Conversations:
    settings = given.metrics
    limits = LabelLimits(
        names=given.label_names,
        values=settings.label_limit,
        sets=settings.label_set_limit,
        tools=settings.tool_limit,
    )
    return Conversations(
        MetricStore(limits, hold=settings.hold_new_series),
        live_limit=settings.per_conversation_limit,
        now=time.time,
        objective=settings.slo_response,
    )


@asynccontextmanager
async def _state(
    settings: StateSettings, history: HistorySettings, conversations: Conversations
) -> AsyncIterator[StateKeeper | None]:
    """Take over what the state file holds, and keep the file written while the block runs."""
    if settings.file is None:
        yield None
        return
    opened = await StateKeeper.open(
        settings.file,
        label_names=conversations.store.limits.names,
        now=time.time,
        history=HistoryLimits(conversations=history.conversations, seconds=history.hours * 3600),
    )
    if opened.problem is not None:
        conversations.store.count(catalog.CHECKPOINT_RESETS, Reset.CORRUPT)
        conversations.store.count(catalog.CHECKPOINT_ERRORS)
    # In a thread, since a large file would hold up the loop. No other task uses the conversations yet.
    if opened.saved is not None and await trio.to_thread.run_sync(conversations.restore, opened.saved):
        opened.keeper.write_everything()
    on_error = partial(_count_checkpoint_error, conversations.store)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(opened.keeper.run, conversations, interval=settings.interval, on_error=on_error)
            )
            yield opened.keeper
            nursery.cancel_scope.cancel()
    finally:
        await opened.keeper.close()


def _count_checkpoint_error(store: MetricStore) -> None:
    store.count(catalog.CHECKPOINT_ERRORS)


async def _take_regularly(publisher: Publisher) -> None:
    """Without a state file: do what a write does, so that changes do not pile up while no scrape takes them."""
    while True:
        await trio.sleep(TAKE_INTERVAL)
        publisher.take_all()


def _log_start(settings: Settings, urls: list[str], proxies: Proxies, files: _Files) -> None:
    log.info("starting", version=__version__, **describe(settings))
    for variable, reason in proxies.warnings:
        log.warning("proxy variable", variable=variable, reason=reason)
    if files.feeds < settings.watch.limit:
        log.warning(
            "too few open files for the watch limit",
            allowed=files.allowed,
            wanted=files.wanted,
            watched=files.feeds,
        )
    for url in urls:
        page_url = url + route_prefix(settings.web)
        log.info("serving", metrics=page_url + settings.web.telemetry_path, landing_page=page_url)


@contextmanager
def _calm_collector() -> Iterator[None]:
    """Make garbage collections rarer and smaller: handling an update creates no reference cycles."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()  # objects of the start-up live as long as the process
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
