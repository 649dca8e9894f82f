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
from .phonic.keys import Keys
from .phonic.listing import Workspace as WorkspaceNumbers
from .shares import Divided, Shares
from .state.keeper import StateKeeper
from .watch.discovery import Discovery
from .watch.watch_file import WatchFile
from .watching import Workspace
from .web.reload import ReloadedConfig
from .workspaces import Workspaces

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
    workspaces: Workspaces,
    keeper: StateKeeper | None,
    publisher: Publisher,
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
            rows(catalog.AGENT_INFO, conversations.agents, names=_names(workspaces, catalog.AGENT_INFO)),
            one(catalog.LABEL_SETS, lambda: float(len(conversations.store.label_sets))),
            rows(catalog.WATCHERS, partial(_watchers, workspaces), names=_names(workspaces, catalog.WATCHERS)),
            *((family, live) for family in CATALOG if family.scope is Scope.LIVE),
            *_upstream(workspaces),
            *_requests(workspaces),
            *_state_file(keeper),
            one(catalog.PAGES_COMMITTED, lambda: _float(publisher.is_committed)),
            one(catalog.COMMIT_WAIT, lambda: publisher.wait),
            one(catalog.LABEL_SETS_HELD, lambda: float(conversations.store.held_back_count)),
            *_files(workspaces.keys, workspaces.watch_file, web_config),
        )
    )


_Readers = list[tuple[Family, GaugeReader]]


def of_a_standby(
    slo_response: float, loop_lag: LoopLag, shards: ShardView, keys: Keys, web_config: ReloadedConfig
) -> Gauges:
    """The readers of all gauges in a process that holds no shard: those of shards and conversations are absent."""
    absent: Gauges = {family: tuple for family in CATALOG if family.kind is Kind.GAUGE}
    own = _process(slo_response, loop_lag, shards)
    return {**absent, **dict((*own, *_files(keys, None, web_config)))}


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
    return {
        catalog.LIVE_INFO: Column([entry.info_text for entry in entries], [1.0] * len(entries)),
        catalog.LIVE_TURNS: Column(texts, [live.turns for live in lives]),
        catalog.LIVE_DURATION: Column.present(texts, [live.duration for live in lives]),
        catalog.LIVE_GENERATION: Column.present(texts, [live.model_generation for live in lives]),
        catalog.LIVE_FIRST_AUDIO: Column.present(texts, [live.first_audio for live in lives]),
        catalog.LIVE_LAST_UPDATE: Column(texts, updated),
        catalog.LIVE_WAITING_SINCE: Column.present(texts, [entry.waiting_since for entry in entries]),
    }


def by_project(
    numbers: Iterable[tuple[str, str, float | None]], limit: int, shares: Shares | None = None
) -> list[tuple[str, str, float]]:
    """Workspace, project and number: numbers of the same names added up.

    Names beyond ``limit``, which ``shares`` divides among the workspaces, are added up as `OTHER` in each.
    """
    sums: dict[tuple[str, str], float] = {}
    names: Divided[str] = Divided(shares or Shares())
    for workspace, name, number in numbers:
        label = label_value(name)
        if names.holds(workspace, label) or names.has_room(workspace, limit):
            names.add(workspace, label)
        else:
            label = OTHER
        if number is not None:
            sums[workspace, label] = sums.get((workspace, label), 0.0) + number
    return [(workspace, label, number) for (workspace, label), number in sums.items()]


def _names(workspaces: Workspaces, family: Family) -> tuple[str, ...]:
    """The labels of a gauge that each workspace has."""
    return family.label_names(workspaces.conversations.store.limits.names)


def _of(workspaces: Workspaces, name: str) -> tuple[str, ...]:
    """The label value of a workspace; none where workspaces have no names."""
    return (name,) if workspaces.are_named else ()


def _watchers(workspaces: Workspaces) -> Rows:
    for each in workspaces:
        for labels, count in each.supervisor.states():
            yield (*_of(workspaces, each.name), *labels), count


def _of_each(
    workspaces: Workspaces, family: Family, read: Callable[[Workspace], float | None]
) -> tuple[Family, GaugeReader]:
    """A gauge that each workspace has once, absent where ``read`` returns None."""

    def numbers() -> Rows:
        for each in workspaces:
            if (number := read(each)) is not None:
                yield _of(workspaces, each.name), number

    return rows(family, numbers, names=_names(workspaces, family))


def _of_projects(
    workspaces: Workspaces, family: Family, read: Callable[[Discovery], Iterable[tuple[str, float | None]]]
) -> tuple[Family, GaugeReader]:
    """A gauge of each project that REST lists."""
    store = workspaces.conversations.store

    def numbers() -> Rows:
        found = (
            (each.name, project, number)
            for each in workspaces
            if each.discovery is not None
            for project, number in read(each.discovery)
        )
        for workspace, project, number in by_project(found, store.limits.values, store.shares):
            yield (*_of(workspaces, workspace), project), number

    return rows(family, numbers, names=_names(workspaces, family))


def _upstream(workspaces: Workspaces) -> _Readers:
    of_each, of_projects = partial(_of_each, workspaces), partial(_of_projects, workspaces)
    return [
        of_projects(catalog.PROJECT_ACTIVE, lambda found: ((each.name, each.active) for each in found.projects)),
        of_projects(catalog.PROJECT_LIMIT, lambda found: ((each.name, each.limit) for each in found.projects)),
        of_projects(catalog.DISCOVERED, lambda found: found.found.items()),
        of_each(catalog.WORKSPACE_ACTIVE, lambda each: _of_workspace(each).active),
        of_each(catalog.WORKSPACE_LIMIT, lambda each: _of_workspace(each).limit),
        of_each(
            catalog.UP, lambda each: None if each.rest is None or each.rest.up is None else float(each.rest.up)
        ),
        of_each(
            catalog.DISCOVERY_LAST_SUCCESS, lambda each: each.discovery.last_success if each.discovery else None
        ),
        of_each(catalog.DISCOVERY_DURATION, lambda each: each.discovery.duration if each.discovery else None),
        of_each(catalog.CREDENTIAL_REFUSED, lambda each: float(each.is_refused) if each.access else None),
    ]


def _of_workspace(workspace: Workspace) -> WorkspaceNumbers:
    found = workspace.discovery.workspace if workspace.discovery else None
    return found or WorkspaceNumbers(active=None, limit=None)


def _requests(workspaces: Workspaces) -> _Readers:
    of_each = partial(_of_each, workspaces)
    return [
        of_each(catalog.REQUESTS_WAITING, lambda each: float(each.rest.waiting) if each.rest else None),
        of_each(catalog.REQUESTS_WAITING_SINCE, lambda each: each.rest.waiting_since if each.rest else None),
        of_each(catalog.REQUESTS_ALLOWED, lambda each: each.rest.allowed_per_second if each.rest else None),
        of_each(catalog.CLOCK_OFFSET, lambda each: each.clock.offset),
    ]


def _state_file(keeper: StateKeeper | None) -> _Readers:
    return [
        one(catalog.CHECKPOINT_LAST_SUCCESS, lambda: keeper.last_success if keeper else None),
        one(catalog.CHECKPOINT_SIZE, lambda: _float(keeper.size_bytes) if keeper else None),
    ]


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)


def _files(keys: Keys, watch_file: WatchFile | None, web_config: ReloadedConfig | None) -> _Readers:
    def usable() -> Rows:
        if keys.is_usable is not None:
            yield (ReloadedFile.API_KEY_DIR.value,), float(keys.is_usable)
        if watch_file is not None:
            yield (ReloadedFile.WATCH_FILE.value,), float(watch_file.is_usable)
        if web_config is not None:
            yield (ReloadedFile.WEB_CONFIG.value,), float(web_config.last_success)

    def read_at() -> Rows:
        if keys.is_usable is not None and keys.read_at is not None:
            yield (ReloadedFile.API_KEY_DIR.value,), keys.read_at
        if watch_file is not None and watch_file.last_success is not None:
            yield (ReloadedFile.WATCH_FILE.value,), watch_file.last_success
        if web_config is not None:
            yield (ReloadedFile.WEB_CONFIG.value,), web_config.last_success_timestamp

    return [rows(catalog.RELOAD_SUCCESSFUL, usable), rows(catalog.RELOAD_TIMESTAMP, read_at)]
