"""State: what the watchers received, and what went wrong, counted for the process and not for a conversation."""

import math
from collections.abc import Callable

import structlog

from .enums import DecodePath, Drift, FeedError, Invalid, MessageType, Reconciled, Task
from .metrics import catalog
from .metrics.store import MetricStore

log = structlog.get_logger("exporter.feed_counters")

REFUSED_LOGGED_EVERY = 60.0  # seconds between two log lines about the watch limit: a list may hold thousands
MOST_LOGGED_FIELDS = 100  # names of unknown fields that are logged while the process runs


class FeedCounters:
    """The reports of watchers that change nothing about a conversation.

    This is a part of `exporter.watch.interfaces.Sink`, which describes the methods.
    """

    def __init__(self, store: MetricStore, *, now: Callable[[], float]) -> None:
        """``now`` returns Unix time."""
        self.store = store
        self._now = now
        # Looked up once, because they are counted with every message.
        self._messages = {kind: store.counter(catalog.MESSAGES, kind) for kind in MessageType}
        self._decodes = {path: store.counter(catalog.DECODES, path) for path in DecodePath}
        self._updates = store.counter(catalog.UPDATES)
        self._update_bytes = store.counter(catalog.UPDATE_BYTES)
        self._updates_superseded = store.counter(catalog.UPDATES_SUPERSEDED)
        self._refused_logged_at, self._refused_unlogged = -math.inf, 0
        self._logged_fields: set[tuple[Drift, str]] = set()

    def connected(self, conversation_id: str) -> None:
        self.store.count(catalog.FEED_CONNECTS)
        log.debug("feed opened", conversation=conversation_id)

    def message(self, kind: MessageType, size: int) -> None:
        self._messages[kind].add(1)
        if kind is MessageType.CONVERSATION_UPDATED:
            self._updates.add(1)
            self._update_bytes.add(size)

    def decoded(self, path: DecodePath) -> None:
        self._decodes[path].add(1)

    def superseded(self, count: int, size: int) -> None:
        self._messages[MessageType.CONVERSATION_UPDATED].add(count)
        self._updates.add(count)
        self._update_bytes.add(size)
        self._updates_superseded.add(count)

    def invalid(self, conversation_id: str, reason: Invalid) -> None:
        self.store.count(catalog.INVALID_MESSAGES, reason)
        log.debug("invalid message", conversation=conversation_id, reason=reason.value)

    def drift(self, fields: set[tuple[Drift, str]]) -> None:
        for kind, name in sorted(fields):
            self.store.count(catalog.UNKNOWN_FIELDS, kind)
            if (kind, name) not in self._logged_fields and len(self._logged_fields) < MOST_LOGGED_FIELDS:
                self._logged_fields.add((kind, name))
                log.warning("unknown field", object=kind.value, field=name[:64])

    def feed_error(self, conversation_id: str, reason: FeedError) -> None:  # noqa: ARG002  # a label would be open
        self.store.count(catalog.FEED_ERRORS, reason)

    def crashed(self, conversation_id: str) -> None:  # noqa: ARG002  # the crash guard has logged it
        self.store.count(catalog.WATCHER_CRASHES)

    def task_crashed(self, task: Task) -> None:
        self.store.count(catalog.TASK_CRASHES, task)

    def over_limit(self, conversation_id: str) -> None:
        self.store.count(catalog.CONVERSATIONS_REFUSED)
        self._refused_unlogged += 1
        if (now := self._now()) >= self._refused_logged_at + REFUSED_LOGGED_EVERY or now < self._refused_logged_at:
            log.warning("watch limit reached", conversation=conversation_id, refused=self._refused_unlogged)
            self._refused_logged_at, self._refused_unlogged = now, 0

    def reconciled(self, result: Reconciled) -> None:
        self.store.count(catalog.RECONCILIATIONS, result)
