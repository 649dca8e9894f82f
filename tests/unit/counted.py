"""`Conversations` with the parts around them: totals, page, and a state file in memory."""

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import attrs

from exporter.conversations import Conversations
from exporter.gauges import gauges
from exporter.metrics import catalog
from exporter.metrics.catalog import CATALOG, Family, Kind, Scope
from exporter.metrics.loop_lag import LoopLag
from exporter.metrics.page import Page
from exporter.metrics.publisher import Publisher
from exporter.metrics.series import Series, saved_numbers
from exporter.metrics.store import LabelLimits, MetricStore, accumulated
from exporter.phonic.clock import PhonicClock
from exporter.phonic.decode import decode, decode_record
from exporter.phonic.schema import Snapshot
from exporter.state.rows import Changes, HeldBack, Saved, SavedConversation, SavedEnds, SavedSeries
from exporter.watch.feed_gate import FeedGate
from exporter.watch.interfaces import Feed
from exporter.watch.supervisor import Supervisor
from exporter.watching import Workspace
from exporter.workspaces import Workspaces
from tests.strategies import Json, frame

NOW = 1_753_920_000.0
BUCKETS = {family.name: family.buckets for family in CATALOG if family.kind is Kind.HISTOGRAM}
LIMITS = LabelLimits()


def new_conversations(
    limits: LabelLimits = LIMITS,
    *,
    live_limit: int = 1000,
    now: Callable[[], float] = lambda: NOW,
    hold: float = 0.0,
) -> Conversations:
    return Conversations(MetricStore(limits, hold=hold), live_limit=live_limit, now=now)


def live(snapshot: Json) -> Snapshot:
    """A conversation object from a live message, decoded by the real decoder."""
    message = decode(frame(snapshot))
    assert message.snapshot is not None
    return message.snapshot


def recorded(record: Json) -> Snapshot:
    """A conversation object from REST, decoded by the real decoder."""
    return decode_record(json.dumps({"conversation": record}).encode())


def series_of(store: MetricStore, family: Family) -> list[Series]:
    """All series of an accumulated family, oldest first."""
    return [series for series, _ in store.shown(family)]


def one_series(store: MetricStore, family: Family, *labels: str) -> Series:
    """The series with these labels. ValueError if there is none."""
    (found,) = (series for series in series_of(store, family) if series.labels == labels)
    return found


def numbers_of(series: Series) -> tuple[int, ...]:
    """The counted numbers of a series: a total, or the sum in billionths and the count of each bucket."""
    return saved_numbers(series.freeze())


def totals(conversations: Conversations) -> dict[tuple[str, tuple[str, ...]], tuple[int, ...]]:
    """All numbers of saved families that are not 0, by sample name and labels."""
    return {
        (family.sample_name, series.labels): numbers_of(series)
        for family in accumulated()
        if family.scope in (Scope.CONVERSATIONS, Scope.COUNTED)
        for series in series_of(conversations.store, family)
        if any(numbers_of(series))
    }


def page_of(conversations: Conversations) -> Page:
    """The page of an exporter without watchers, without metrics that depend on the build or the process."""

    def no_feed(conversation_id: str) -> AbstractAsyncContextManager[Feed]:
        raise AssertionError(conversation_id)

    supervisor = Supervisor(open_feed=no_feed, sink=conversations, records=None, limit=1)
    workspace = Workspace(
        conversations=conversations,
        clock=PhonicClock(),
        supervisor=supervisor,
        targets=supervisor,
        gate=FeedGate(no_feed, access=None, has_labels=lambda _: True),
    )
    sources = gauges(
        conversations=conversations,
        workspaces=Workspaces(conversations, [workspace]),
        keeper=None,
        publisher=Publisher(conversations.store, conversations, None),
        web_config=None,
        slo_response=1.5,
        loop_lag=LoopLag(),
    )
    conversations.store.show_counted()
    return Page(conversations.store, {**sources, catalog.BUILD_INFO: list}, lambda _form, _names: b"")


def shown(conversations: Conversations) -> dict[tuple[str, tuple[str, ...]], tuple[int, ...]]:
    """The shown numbers of saved families, zeros included, in the form of `totals`."""
    return {
        (family.sample_name, series.labels): saved_numbers(numbers)
        for family in accumulated()
        if family.scope in (Scope.CONVERSATIONS, Scope.COUNTED)
        for series, numbers in conversations.store.shown(family)
    }


@attrs.define
class Disk:
    """The contents of a state file in memory, by the rules in `exporter.state.rows`."""

    label_names: tuple[str, ...] = LIMITS.names
    families: tuple[str, ...] = ()
    first_start: float = NOW
    series: dict[tuple[str, tuple[str, ...]], SavedSeries] = attrs.Factory(dict)
    held: list[HeldBack] = attrs.Factory(list)
    conversations: dict[str, SavedConversation] = attrs.Factory(dict)
    ends: list[SavedEnds] = attrs.Factory(list)

    def write(self, changes: Changes) -> None:
        self.families = tuple(changes.families)
        self.first_start = changes.first_start
        self.series.update({(row.family, row.labels): row for row in changes.series()})
        if changes.held is not None:
            self.held = list(changes.held)
        for forgotten in changes.forgotten:
            self.conversations.pop(forgotten, None)
        self.conversations.update({row.id: row for row in changes.conversations()})
        for finished in changes.finished:
            self.conversations.pop(finished, None)
        self.ends += changes.ends()

    def save(self, conversations: Conversations) -> None:
        """Write what has changed, and report success."""
        changes = conversations.changes(everything=not self.families)
        self.write(changes)
        conversations.committed(changes)

    def restored(self, conversations: Conversations) -> Conversations:
        if self.families:
            conversations.restore(
                Saved(
                    label_names=self.label_names,
                    families=self.families,
                    first_start=self.first_start,
                    series=list(self.series.values()),
                    held=list(self.held),
                    conversations=list(self.conversations.values()),
                    ends=list(self.ends),
                )
            )
        return conversations
