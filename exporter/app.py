"""Wiring: one exporter, from settings to a program that watches, serves, and stops in order.

The nurseries, from the outside in: signals; the web server, which outlives the watchers so that a last scrape
sees the final numbers; the state file; the watching. The first signal ends the watching, then the state file is
written, then the server finishes the answers under way. A second signal ends everything at once.
"""

import gc
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Final

import attrs
import structlog
import trio

from . import __version__
from .assembly import Exporter, history_limits, new_conversations, report_writes
from .conversations import Conversations
from .enums import Reset
from .metrics import catalog
from .metrics.publisher import Publisher
from .phonic.credentials import Credentials
from .phonic.keys import Keys, WorkspaceKey
from .phonic.proxies import Proxies
from .process import Files, Process
from .settings import (
    HistorySettings,
    Settings,
    StateSettings,
    WebSettings,
    describe,
    route_prefix,
)
from .shutdown import stopping_on_signals
from .state.installed import check_postgres
from .state.keeper import StateKeeper
from .web import server as web_server
from .web.connections import MOST_CONNECTIONS
from .web.endpoints import Exported
from .web.reload import ReloadedConfig
from .web.running import announced
from .workspaces import look_again, open_workspaces

log = structlog.get_logger("exporter")

STOP_SECONDS: Final = 9.0
"""From the first signal to the end, whatever hangs; 10 are promised."""


@attrs.frozen(kw_only=True)
class Running:
    """A started exporter: where it serves, and how to make it stop in order."""

    urls: list[str]
    stop: trio.Event


async def run(
    settings: Settings,
    keys: Credentials | Keys,
    *,
    task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Watch and serve until SIGTERM, SIGINT or ``Running.stop``.

    ``keys``: of several workspaces, or the only credential.

    ``started`` when the pages are served and watching has begun.
    Raises: ConfigError for what only shows at start (addresses, web config file, a state file in use).
    Cancellation: ends at once, without a last write of the state.
    """
    proxies = Proxies.from_environment(os.environ)
    web_config = ReloadedConfig(settings.web.config_file)
    process = Process(
        settings=settings,
        keys=Keys([WorkspaceKey(credentials=keys)]) if isinstance(keys, Credentials) else keys,
        proxies=proxies,
        files=Files.allowed_for(settings.watch.limit),
        web_config=web_config,
        reloads={},
    )
    process.reloads.update(credential=partial(look_again, process.keys), web_config=web_config.reread)
    async with stopping_on_signals(process.stop, process.reloads):
        if settings.state.url:
            await _run_with_others(process, task_status)
        else:
            await _run_alone(process, task_status)
    log.info("stopped")


async def _run_alone(process: Process, task_status: trio.TaskStatus[Running]) -> None:
    settings = process.settings
    conversations = new_conversations(settings)
    async with (
        AsyncExitStack() as while_serving,
        _state(settings.state, settings.history, conversations) as state,
        open_workspaces(
            settings,
            process.keys,
            conversations,
            proxies=process.proxies,
            watch_limit=process.files.feeds,
        ) as workspaces,
    ):
        exporter = Exporter(
            settings=settings,
            conversations=conversations,
            workspaces=workspaces,
            state=state,
            publisher=Publisher(conversations.store, conversations, state),
            web_config=process.web_config,
            loop_lag=process.loop_lag,
        )
        process.reloads["credential"] = workspaces.reread_keys
        if workspaces.watch_file is not None:
            process.reloads["watch_file"] = workspaces.watch_file.reread
        served = trio.Event()
        async with trio.open_nursery() as serving:
            urls = await _start_serving(process, exporter.offered(), serving, while_serving, served)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(process.loop_lag.run)
                await exporter.start(nursery)
                task_status.started(Running(urls=urls, stop=process.stop))
                with _calm_collector():
                    await process.stop.wait()
                nursery.cancel_scope.cancel()
            if state is not None:
                on_error = report_writes(state, conversations.store)
                await state.write_now(conversations, on_error=on_error)
            served.set()


async def _run_with_others(process: Process, task_status: trio.TaskStatus[Running]) -> None:
    check_postgres(process.settings.state.url, process.settings.state.password_file)
    from .shards import Shards

    async with AsyncExitStack() as while_serving:
        shards = Shards(process)
        served = trio.Event()
        async with trio.open_nursery() as serving:
            urls = await _start_serving(process, shards.offered(), serving, while_serving, served)
            task_status.started(Running(urls=urls, stop=process.stop))
            with _calm_collector():
                await shards.run()
            served.set()


async def _start_serving(
    process: Process,
    offered: Exported,
    serving: trio.Nursery,
    while_serving: AsyncExitStack,
    served: trio.Event,
) -> list[str]:
    """Serve until ``served``, and for `STOP_SECONDS` after the first signal at most. Returns the URLs."""
    settings = process.settings.web
    urls: list[str] = await serving.start(
        partial(_serve, offered, settings, process.web_config, process.files, served)
    )
    serving.start_soon(_limit_stopping, process.stop, serving.cancel_scope)
    while_serving.enter_context(announced(urls, os.environ))
    # Logged only now: a wrong setting has been reported by now, on a line of its own.
    _log_start(process.settings, urls, process.proxies, process.files)
    return urls


async def _limit_stopping(stop: trio.Event, serving: trio.CancelScope) -> None:
    await stop.wait()
    serving.deadline = trio.current_time() + STOP_SECONDS


async def _serve(
    offered: Exported,
    settings: WebSettings,
    web_config: ReloadedConfig,
    files: Files,
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
        history=history_limits(history),
    )
    if opened.problem is not None:
        conversations.store.count(catalog.CHECKPOINT_RESETS, Reset.CORRUPT)
        conversations.store.count(catalog.CHECKPOINT_ERRORS)
    # In a thread, since a large file would hold up the loop. No other task uses the conversations yet.
    if opened.saved is not None and await trio.to_thread.run_sync(conversations.restore, opened.saved):
        opened.keeper.write_everything()
    on_error = report_writes(opened.keeper, conversations.store)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(opened.keeper.run, conversations, interval=settings.interval, on_error=on_error)
            )
            yield opened.keeper
            nursery.cancel_scope.cancel()
    finally:
        await opened.keeper.close()


def _log_start(settings: Settings, urls: list[str], proxies: Proxies, files: Files) -> None:
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
