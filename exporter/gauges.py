"""Wiring: which part of the program each gauge is read from at a scrape."""

import platform
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

from . import __version__
from .conversations import Conversations
from .counting.labels import OTHER, label_value
from .enums import ReloadedFile, ShardState
from .metrics import catalog
from .metrics.catalog import CATALOG, Family, Kind, Scope
from .metrics.loop_lag import LoopLag
from .metrics.page import GaugeReader, Rows, one, rows
from .metrics.publisher import Publisher
from .metrics.series import Column
from .phonic.clock import PhonicClock
from .phonic.rest import RestApi
from .state.keeper import StateKeeper
from .watch.access import Access
from .watch.discovery import Discovery
from .watch.supervisor import Supervisor
from .watch.watch_file import WatchFile
from .web.reload import ReloadedConfig

Gauges = Mapping[Family, GaugeReader]


class ShardView(Protocol):
    """What the gauges show of the shards. ``held``: name and epoch of the one that this process holds."""

    @property
    def held(self) -> tuple[str, int] | None: ...

    @property
    def counts(self) -> Mapping[ShardState, int]:
        """Shards by state; empty until PostgreSQL has told them."""
        ...


def gauges(
    *,
    conversations: Conversations,
    supervisor: Supervisor,
    rest: RestApi | None,
    discovery: Discovery | None,
    clock: PhonicClock,
    keeper: StateKeeper | None,
    publisher: Publisher,
    access: Access | None,
    watch_file: WatchFile | None,
    web_config: ReloadedConfig | None,
    slo_response: float,
    loop_lag: LoopLag,
    shards: ShardView | None = None,
) -> Gauges:
    """The readers of all gauges of the catalog, except the one of the page itself.

    Gauges of a part that is turned off (None) are absent, not 0.
    """
    live = partial(_live, conversations)
    return dict(
        (
            *_process(slo_response, loop_lag, shards),
            (catalog.CONVERSATIONS_LIVE, conversations.live_counts),
            rows(catalog.AGENT_INFO, conversations.agents),
            one(catalog.LABEL_SETS, lambda: float(len(conversations.store.label_sets))),
            rows(catalog.WATCHERS, supervisor.states),
            *((family, live) for family in CATALOG if family.scope is Scope.LIVE),
            *_upstream(rest, discovery, label_limit=conversations.store.limits.values),
            *_requests(rest, clock),
            *_state_file(keeper),
            one(catalog.PAGES_COMMITTED, lambda: _float(publisher.is_committed)),
            one(catalog.COMMIT_WAIT, lambda: publisher.wait),
            one(catalog.LABEL_SETS_HELD, lambda: float(conversations.store.held_back_count)),
            one(catalog.CREDENTIAL_REFUSED, lambda: float(access.refused_with is not None) if access else None),
            *_files(watch_file, web_config),
        )
    )


_Readers = list[tuple[Family, GaugeReader]]


def of_a_standby(slo_response: float, loop_lag: LoopLag, shards: ShardView) -> Gauges:
    """The readers of all gauges in a process that holds no shard: those of shards and conversations are absent."""
    absent: Gauges = {family: tuple for family in CATALOG if family.kind is Kind.GAUGE}
    return {**absent, **dict(_process(slo_response, loop_lag, shards))}


def _process(slo_response: float, loop_lag: LoopLag, shards: ShardView | None) -> _Readers:
    def held() -> Rows:
        return [] if shards is None or shards.held is None else [((shards.held[0],), float(shards.held[1]))]

    def states() -> Rows:
        counts = shards.counts if shards else {}
        listed = (ShardState.HELD, ShardState.UNHELD, ShardState.DRAINING) if counts else ()
        return [((state.value,), float(counts.get(state, 0))) for state in listed]

    return [
        rows(catalog.BUILD_INFO, lambda: [((__version__, platform.python_version()), 1.0)]),
        one(catalog.SLO_RESPONSE, lambda: slo_response),
        one(catalog.EVENT_LOOP_LAG, loop_lag.largest),
        one(catalog.SHARD_HELD, lambda: None if shards is None else float(shards.held is not None)),
        rows(catalog.SHARD_EPOCH, held),
        rows(catalog.SHARDS, states),
    ]


def _live(conversations: Conversations) -> Mapping[Family, Column]:
    """All families of the live conversations, in one pass over them: a pass for each family takes longer."""
    entries = conversations.live_entries()
    texts = [entry.live_text for entry in entries]
    lives = [entry.progress.live for entry in entries]
    # Much faster than round(…, 3), and this is done for every live conversation.
    updated = [round(entry.updated_at * 1000) / 1000 for entry in entries]
    # An answer may have begun while the connection is lost, so do not claim that the caller is waiting.
    waiting = [entry.progress.live.waiting_since if entry.is_current else None for entry in entries]
    return {
        catalog.LIVE_INFO: Column([entry.info_text for entry in entries], [1.0] * len(entries)),
        catalog.LIVE_TURNS: Column(texts, [live.turns for live in lives]),
        catalog.LIVE_DURATION: Column.present(texts, [live.duration for live in lives]),
        catalog.LIVE_GENERATION: Column.present(texts, [live.model_generation for live in lives]),
        catalog.LIVE_FIRST_AUDIO: Column.present(texts, [live.first_audio for live in lives]),
        catalog.LIVE_LAST_UPDATE: Column(texts, updated),
        catalog.LIVE_WAITING_SINCE: Column.present(texts, waiting),
    }


def by_project(numbers: Iterable[tuple[str, float | None]], limit: int) -> Rows:
    """Rows by project name: numbers of the same name added up, names beyond ``limit`` added up as `OTHER`."""
    sums: dict[str, float] = {}
    names: set[str] = set()
    for name, number in numbers:
        label = label_value(name)
        if label in names or len(names) < limit:
            names.add(label)
        else:
            label = OTHER
        if number is not None:
            sums[label] = sums.get(label, 0.0) + number
    return [((label,), number) for label, number in sums.items()]


def _upstream(rest: RestApi | None, discovery: Discovery | None, *, label_limit: int) -> _Readers:
    def projects(number: str) -> Callable[[], Rows]:
        return lambda: by_project(
            ((each.name, getattr(each, number)) for each in discovery.projects) if discovery else (), label_limit
        )

    def workspace(number: str) -> Callable[[], float | None]:
        return lambda: getattr(discovery.workspace, number) if discovery and discovery.workspace else None

    return [
        rows(catalog.PROJECT_ACTIVE, projects("active")),
        rows(catalog.PROJECT_LIMIT, projects("limit")),
        one(catalog.WORKSPACE_ACTIVE, workspace("active")),
        one(catalog.WORKSPACE_LIMIT, workspace("limit")),
        one(catalog.UP, lambda: None if rest is None or rest.up is None else float(rest.up)),
        one(catalog.DISCOVERY_LAST_SUCCESS, lambda: discovery.last_success if discovery else None),
        one(catalog.DISCOVERY_DURATION, lambda: discovery.duration if discovery else None),
        rows(
            catalog.DISCOVERED,
            lambda: by_project(discovery.found.items() if discovery else (), label_limit),
        ),
    ]


def _requests(rest: RestApi | None, clock: PhonicClock) -> _Readers:
    return [
        one(catalog.REQUESTS_WAITING, lambda: float(rest.waiting) if rest else None),
        one(catalog.REQUESTS_WAITING_SINCE, lambda: rest.waiting_since if rest else None),
        one(catalog.REQUESTS_ALLOWED, lambda: rest.allowed_per_second if rest else None),
        one(catalog.CLOCK_OFFSET, lambda: clock.offset),
    ]


def _state_file(keeper: StateKeeper | None) -> _Readers:
    return [
        one(catalog.CHECKPOINT_LAST_SUCCESS, lambda: keeper.last_success if keeper else None),
        one(catalog.CHECKPOINT_SIZE, lambda: _float(keeper.size_bytes) if keeper else None),
    ]


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)


def _files(watch_file: WatchFile | None, web_config: ReloadedConfig | None) -> _Readers:
    def usable() -> Rows:
        if watch_file is not None:
            yield (ReloadedFile.WATCH_FILE.value,), float(watch_file.is_usable)
        if web_config is not None:
            yield (ReloadedFile.WEB_CONFIG.value,), float(web_config.last_success)

    def read_at() -> Rows:
        if watch_file is not None and watch_file.last_success is not None:
            yield (ReloadedFile.WATCH_FILE.value,), watch_file.last_success
        if web_config is not None:
            yield (ReloadedFile.WEB_CONFIG.value,), web_config.last_success_timestamp

    return [rows(catalog.RELOAD_SUCCESSFUL, usable), rows(catalog.RELOAD_TIMESTAMP, read_at)]
