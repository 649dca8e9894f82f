"""Wiring: which part of the program feeds which gauge at the moment of a scrape."""

import platform
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from . import __version__
from .conversations import Tally, label_value
from .enums import ReloadedFile
from .metrics import catalog as catalogue
from .metrics.catalog import CATALOGUE, Family, Scope
from .metrics.loop_lag import LoopLag
from .metrics.page import Rows, Source, one, rows
from .metrics.publisher import Publisher
from .metrics.series import Column
from .metrics.store import OTHER
from .phonic.clock import PhonicClock
from .phonic.rest import RestApi
from .state.keeper import Checkpoint
from .watch.access import Access
from .watch.discovery import Discovery
from .watch.supervisor import Supervisor
from .watch.watch_file import WatchFile
from .web.reload import LiveConfig

Gauges = Mapping[Family, Source]


def gauges(
    *,
    tally: Tally,
    supervisor: Supervisor,
    rest: RestApi | None,
    discovery: Discovery | None,
    clock: PhonicClock,
    checkpoint: Checkpoint | None,
    publisher: Publisher,
    access: Access | None,
    watch_file: WatchFile | None,
    web_config: LiveConfig | None,
    slo_response: float,
    loop_lag: LoopLag,
) -> Gauges:
    """All gauges of the catalogue but the page's own. What a part that is off would feed is absent, not 0."""
    live = partial(_live, tally)
    return dict(
        (
            rows(catalogue.BUILD_INFO, lambda: [((__version__, platform.python_version()), 1.0)]),
            (catalogue.CONVERSATIONS_LIVE, tally.live_counts),
            rows(catalogue.AGENT_INFO, tally.agents),
            one(catalogue.SLO_RESPONSE, lambda: slo_response),
            one(catalogue.LABEL_SETS, lambda: float(len(tally.ledger.label_sets))),
            rows(catalogue.WATCHERS, supervisor.states),
            one(catalogue.EVENT_LOOP_LAG, loop_lag.largest),
            *((family, live) for family in CATALOGUE if family.scope is Scope.LIVE),
            *_upstream(rest, discovery, label_limit=tally.ledger.limits.values),
            *_requests(rest, clock),
            *_checkpoint(checkpoint),
            one(catalogue.PAGES_COMMITTED, lambda: _number(publisher.is_committed)),
            one(catalogue.COMMIT_WAIT, lambda: publisher.wait),
            one(catalogue.LABEL_SETS_HELD, lambda: float(tally.ledger.held_count)),
            one(catalogue.CREDENTIAL_REFUSED, lambda: float(access.refused_with is not None) if access else None),
            *_files(watch_file, web_config),
        )
    )


_Feeds = list[tuple[Family, Source]]


def _live(tally: Tally) -> Mapping[Family, Column]:
    """All families of the live conversations, from one walk: a walk for each would make a page 8 % slower."""
    entries = tally.live()
    texts = [entry.live_text for entry in entries]
    lives = [entry.progress.live for entry in entries]
    # round(…, 3) would make a page 5 % slower.
    updated = [round(entry.updated_at * 1000) / 1000 for entry in entries]
    # While a feed is lost an answer may have begun: nobody knows who waits.
    waiting = [entry.progress.live.waiting_since if entry.is_current else None for entry in entries]
    return {
        catalogue.LIVE_INFO: Column([entry.info_text for entry in entries], [1.0] * len(entries)),
        catalogue.LIVE_TURNS: Column(texts, [live.turns for live in lives]),
        catalogue.LIVE_DURATION: Column.present(texts, [live.duration for live in lives]),
        catalogue.LIVE_GENERATION: Column.present(texts, [live.model_generation for live in lives]),
        catalogue.LIVE_FIRST_AUDIO: Column.present(texts, [live.first_audio for live in lives]),
        catalogue.LIVE_LAST_UPDATE: Column(texts, updated),
        catalogue.LIVE_WAITING_SINCE: Column.present(texts, waiting),
    }


def by_project(numbers: Iterable[tuple[str, float | None]], limit: int) -> Rows:
    """Numbers by project name: those of one name added up, and what is beyond the label limit in ``__other__``."""
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


def _upstream(rest: RestApi | None, discovery: Discovery | None, *, label_limit: int) -> _Feeds:
    def projects(number: str) -> Callable[[], Rows]:
        return lambda: by_project(
            ((each.name, getattr(each, number)) for each in discovery.projects) if discovery else (), label_limit
        )

    def workspace(number: str) -> Callable[[], float | None]:
        return lambda: getattr(discovery.workspace, number) if discovery and discovery.workspace else None

    return [
        rows(catalogue.PROJECT_ACTIVE, projects("active")),
        rows(catalogue.PROJECT_LIMIT, projects("limit")),
        one(catalogue.WORKSPACE_ACTIVE, workspace("active")),
        one(catalogue.WORKSPACE_LIMIT, workspace("limit")),
        one(catalogue.UP, lambda: None if rest is None or rest.up is None else float(rest.up)),
        one(catalogue.DISCOVERY_LAST_SUCCESS, lambda: discovery.last_success if discovery else None),
        one(catalogue.DISCOVERY_DURATION, lambda: discovery.duration if discovery else None),
        rows(
            catalogue.DISCOVERED,
            lambda: by_project(discovery.found.items() if discovery else (), label_limit),
        ),
    ]


def _requests(rest: RestApi | None, clock: PhonicClock) -> _Feeds:
    return [
        one(catalogue.REQUESTS_WAITING, lambda: float(rest.waiting) if rest else None),
        one(catalogue.REQUESTS_WAITING_SINCE, lambda: rest.waiting_since if rest else None),
        one(catalogue.REQUESTS_ALLOWED, lambda: rest.allowed_per_second if rest else None),
        one(catalogue.CLOCK_OFFSET, lambda: clock.offset),
    ]


def _checkpoint(checkpoint: Checkpoint | None) -> _Feeds:
    return [
        one(catalogue.CHECKPOINT_LAST_SUCCESS, lambda: checkpoint.last_success if checkpoint else None),
        one(catalogue.CHECKPOINT_SIZE, lambda: float(checkpoint.size_bytes) if checkpoint else None),
    ]


def _number(value: bool | None) -> float | None:
    return None if value is None else float(value)


def _files(watch_file: WatchFile | None, web_config: LiveConfig | None) -> _Feeds:
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

    return [rows(catalogue.RELOAD_SUCCESSFUL, usable), rows(catalogue.RELOAD_TIMESTAMP, read_at)]
