"""Wiring: what the program offers over HTTP: the page, readiness, the list of conversations, and the push API."""

from collections.abc import Callable, Iterable
from typing import Final

import attrs
import trio

from . import __version__
from .conversations import Conversations
from .enums import Started
from .metrics.catalog import CATALOG
from .metrics.formats import Format
from .metrics.page import Page
from .metrics.publisher import Publisher
from .settings import Settings
from .watching import Workspace
from .web.endpoints import Exported, PushTargets
from .web.people import Shown
from .web.push import BudgetedTargets, budget
from .workspaces import Workspaces

_NO_KEY: Final = "no workspace: the folder of API keys holds none"
# Shown even with --web.disable-exporter-metrics: rules and dashboards use them.
KEPT_OWN: Final = ("phonic_exporter_build_info", "phonic_exporter_slo_response_seconds")


def exported(
    settings: Settings,
    *,
    page: Page,
    publisher: Publisher,
    conversations: Conversations,
    workspaces: Workspaces,
    people: Shown,
) -> Exported:
    """What `exporter.web` serves under ``settings``."""

    def not_ready() -> list[str]:
        return _not_ready(workspaces, discovers=bool(settings.watch.discover))

    return Exported(
        prepare=publisher.prepare,
        page=_without_own(page.parts) if settings.web.disable_exporter_metrics else page.parts,
        whole_page=publisher.whole_page,
        not_ready=not_ready,
        remarks=lambda: _refusals(workspaces),
        conversations=lambda: _listed(workspaces, conversations),
        push=_push(
            settings,
            _SupervisedTargets(workspaces),
            is_watched=workspaces.is_watched,
            is_real=lambda conversation_id: conversations.entry(conversation_id) is not None,
        ),
        version=__version__,
        people=people,
    )


def offered_by_standby(
    settings: Settings,
    *,
    page: Page,
    push: PushTargets,
    people: Shown,
    is_reached: Callable[[], bool],
    has_keys: Callable[[], bool],
) -> Exported:
    """What a process serves that holds no shard.

    ``is_reached``: whether it knows the shards. ``has_keys``: whether it could watch anything.
    """

    def not_ready() -> list[str]:
        return [
            *([] if is_reached() else ["PostgreSQL not reached"]),
            *([] if has_keys() else [_NO_KEY]),
        ]

    return Exported(
        page=_without_own(page.parts) if settings.web.disable_exporter_metrics else page.parts,
        not_ready=not_ready,
        conversations=list,
        # It does not learn what becomes of an id, so the rate alone limits them.
        push=_push(settings, push, is_watched=lambda _: False, is_real=lambda _: False),
        version=__version__,
        people=people,
    )


def _not_ready(workspaces: Workspaces, *, discovers: bool) -> list[str]:
    """Why the metrics are not complete yet. A refused key matters only if no workspace works."""
    opened = list(workspaces)
    if not opened:
        return [_NO_KEY]
    reasons = []
    if all(each.is_refused for each in opened):
        reasons += _refusals(workspaces)
    for each in opened:
        waits = discovers and each.discovery and not each.discovery.first_round_done
        if waits and workspaces.is_first(each) and not (each.is_refused and workspaces.are_named):
            reasons.append(_named(each, "first discovery not done"))
    return reasons


def _refusals(workspaces: Workspaces) -> list[str]:
    return [
        _named(each, f"API key refused ({each.access.refused_with})")
        for each in workspaces
        if each.access is not None and each.is_refused
    ]


def _named(workspace: Workspace, text: str) -> str:
    return f"{workspace.name}: {text}" if workspace.name else text


def _listed(workspaces: Workspaces, conversations: Conversations) -> list[dict[str, object]]:
    """What ``GET /api/v1/conversations`` shows: identity, state and counts; nothing that a caller said."""
    shown: list[dict[str, object]] = []
    now = trio.current_time()
    watched = ((workspace, watch) for workspace in workspaces for watch in workspace.supervisor.watches())
    for workspace, each in watched:
        entry = conversations.entry(each.conversation_id)
        live = entry.progress.live if entry else None
        shown.append(
            {
                "conversation_id": each.conversation_id,
                **({"workspace": workspace.name} if workspace.name else {}),
                "state": each.state.value,
                "state_seconds": round(now - each.since, 3),
                "sources": sorted(each.requesters),
                "project": entry.project if entry else None,
                "agent": entry.agent if entry else None,
                "turns": live.turns if live else 0,
                "duration_seconds": live.duration if live else None,
                "last_update": round(entry.updated_at, 3) if entry else None,
            }
        )
    return shown


@attrs.frozen
class _SupervisedTargets:
    """Conversation ids pushed over HTTP. Implements `exporter.web.endpoints.PushTargets`."""

    _workspaces: Workspaces

    def start(self, conversation_id: str, workspace: str | None) -> Started:
        return self._workspaces.push(conversation_id, workspace)

    def stop(self, conversation_id: str) -> bool:
        return self._workspaces.stop(conversation_id)


def _push(
    settings: Settings,
    targets: PushTargets,
    *,
    is_watched: Callable[[str], bool],
    is_real: Callable[[str], bool],
) -> BudgetedTargets | None:
    """``targets`` with a budget; None unless the push API is on."""
    if not settings.web.enable_push_api:
        return None
    return BudgetedTargets(
        targets,
        budget(requests_per_second=settings.phonic.requests_per_second, watch_limit=settings.watch.limit),
        is_watched=is_watched,
        is_real=is_real,
        now=trio.current_time,
    )


_Parts = Callable[[Format, frozenset[str] | None], Iterable[bytes]]


def _without_own(page: _Parts) -> _Parts:
    """The page without metrics about the exporter itself, except `KEPT_OWN`."""
    shown = frozenset(family.name for family in CATALOG if not _is_own(family.name))

    def restricted(form: Format, names: frozenset[str] | None) -> Iterable[bytes]:
        return page(form, shown if names is None else frozenset(name for name in names if not _is_own(name)))

    return restricted


def _is_own(name: str) -> bool:
    return name.startswith(("process_", "phonic_exporter_")) and name not in KEPT_OWN
