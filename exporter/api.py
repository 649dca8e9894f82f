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
from .watch.interfaces import Requester
from .web.endpoints import Exported, PushTargets
from .web.people import Shown
from .web.push import BudgetedTargets, budget
from .workspaces import Workspaces

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
        reasons = []
        for each in workspaces:
            if each.access is not None and each.access.refused_with is not None:
                reasons.append(f"API key refused ({each.access.refused_with})")
            if settings.watch.discover and each.discovery and not each.discovery.first_round_done:
                reasons.append("first discovery not done")
        return reasons

    return Exported(
        prepare=publisher.prepare,
        page=_without_own(page.parts) if settings.web.disable_exporter_metrics else page.parts,
        whole_page=publisher.whole_page,
        not_ready=not_ready,
        conversations=lambda: _listed(workspaces, conversations),
        push=_push(settings, workspaces, conversations) if settings.web.enable_push_api else None,
        version=__version__,
        people=people,
    )


def offered_by_standby(
    settings: Settings, *, page: Page, push: PushTargets, people: Shown, is_reached: Callable[[], bool]
) -> Exported:
    """What a process serves that holds no shard. ``is_reached``: whether it knows the shards."""
    return Exported(
        page=_without_own(page.parts) if settings.web.disable_exporter_metrics else page.parts,
        not_ready=lambda: [] if is_reached() else ["PostgreSQL not reached"],
        conversations=list,
        push=push if settings.web.enable_push_api else None,
        version=__version__,
        people=people,
    )


def _listed(workspaces: Workspaces, conversations: Conversations) -> list[dict[str, object]]:
    """What ``GET /api/v1/conversations`` shows: identity, state and counts; nothing that a caller said."""
    shown: list[dict[str, object]] = []
    now = trio.current_time()
    for each in (watch for workspace in workspaces for watch in workspace.supervisor.watches()):
        entry = conversations.entry(each.conversation_id)
        live = entry.progress.live if entry else None
        shown.append(
            {
                "conversation_id": each.conversation_id,
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

    def start(self, conversation_id: str) -> Started:
        return next(iter(self._workspaces)).targets.start(conversation_id, Requester.PUSH)

    def stop(self, conversation_id: str) -> bool:
        return any(each.supervisor.stop(conversation_id) for each in self._workspaces)


def _push(settings: Settings, workspaces: Workspaces, conversations: Conversations) -> BudgetedTargets:
    return BudgetedTargets(
        _SupervisedTargets(workspaces),
        budget(requests_per_second=settings.phonic.requests_per_second, watch_limit=settings.watch.limit),
        is_watched=workspaces.is_watched,
        is_real=lambda conversation_id: conversations.entry(conversation_id) is not None,
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
