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
from .watch.access import Access
from .watch.discovery import Discovery
from .watch.interfaces import Requester
from .watch.supervisor import Supervisor
from .web.endpoints import Exported
from .web.people import Shown
from .web.push import BudgetedTargets, budget

# Shown even with --web.disable-exporter-metrics: rules and dashboards use them.
KEPT_OWN: Final = ("phonic_exporter_build_info", "phonic_exporter_slo_response_seconds")


def exported(
    settings: Settings,
    *,
    page: Page,
    publisher: Publisher,
    conversations: Conversations,
    supervisor: Supervisor,
    discovery: Discovery | None,
    access: Access | None,
    people: Shown,
) -> Exported:
    """What `exporter.web` serves under ``settings``. ``discovery`` and ``access`` are None without REST."""

    def not_ready() -> list[str]:
        reasons = []
        if access is not None and access.refused_with is not None:
            reasons.append(f"API key refused ({access.refused_with})")
        if settings.watch.discover and discovery and not discovery.first_round_done:
            reasons.append("first discovery not done")
        return reasons

    return Exported(
        prepare=publisher.prepare,
        page=_without_own(page.parts) if settings.web.disable_exporter_metrics else page.parts,
        whole_page=publisher.whole_page,
        not_ready=not_ready,
        conversations=lambda: _listed(supervisor, conversations),
        push=_push(settings, supervisor, conversations) if settings.web.enable_push_api else None,
        version=__version__,
        people=people,
    )


def _listed(supervisor: Supervisor, conversations: Conversations) -> list[dict[str, object]]:
    """What ``GET /api/v1/conversations`` shows: identity, state and counts; nothing that a caller said."""
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

    _supervisor: Supervisor

    def start(self, conversation_id: str) -> Started:
        return self._supervisor.start(conversation_id, Requester.PUSH)

    def stop(self, conversation_id: str) -> bool:
        return self._supervisor.stop(conversation_id)


def _push(settings: Settings, supervisor: Supervisor, conversations: Conversations) -> BudgetedTargets:
    return BudgetedTargets(
        _SupervisedTargets(supervisor),
        budget(requests_per_second=settings.phonic.requests_per_second, watch_limit=settings.watch.limit),
        is_watched=supervisor.is_watched,
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
