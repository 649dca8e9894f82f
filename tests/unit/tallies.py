"""A tally with what surrounds it in the exporter, for tests: its totals, its page, and a disk that survives it."""

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import attrs

from exporter.conversations import Tally
from exporter.gauges import gauges
from exporter.metrics import catalog as catalogue
from exporter.metrics.catalog import CATALOGUE, Kind, Scope
from exporter.metrics.loop_lag import LoopLag
from exporter.metrics.page import Page
from exporter.metrics.publisher import Publisher
from exporter.metrics.store import LabelLimits, Ledger, accumulated
from exporter.phonic.clock import PhonicClock
from exporter.phonic.decode import decode, decode_record
from exporter.phonic.schema import Snapshot
from exporter.state.rows import Changes, Held, Saved, SavedConversation, SavedEnds, SavedSeries
from exporter.watch.interfaces import Feed
from exporter.watch.supervisor import Supervisor
from tests.strategies import Json, frame

NOW = 1_753_920_000.0
BUCKETS = {family.name: family.buckets for family in CATALOGUE if family.kind is Kind.HISTOGRAM}
LIMITS = LabelLimits()


def new_tally(
    limits: LabelLimits = LIMITS,
    *,
    live_limit: int = 1000,
    now: Callable[[], float] = lambda: NOW,
    hold: float = 0.0,
) -> Tally:
    return Tally(Ledger(limits, hold=hold), live_limit=live_limit, now=now)


def live(snapshot: Json) -> Snapshot:
    """A conversation object through the real decoder, as a live message brings it."""
    message = decode(frame(snapshot))
    assert message.snapshot is not None
    return message.snapshot


def recorded(record: Json) -> Snapshot:
    """A conversation object through the real decoder, as REST brings it."""
    return decode_record(json.dumps({"conversation": record}).encode())


def totals(tally: Tally) -> dict[tuple[str, tuple[str, ...]], tuple[int, ...]]:
    """All numbers guarded by progress that are not 0, by sample name and labels."""
    return {
        (family.sample_name, series.labels): tuple(series.dump())
        for family in accumulated()
        if family.scope in (Scope.CONVERSATIONS, Scope.COUNTED)
        for series in tally.ledger.series(family)
        if any(series.dump())
    }


def page_of(tally: Tally) -> Page:
    """The page of an exporter that watches nothing itself; without what depends on the build and the process."""

    def no_feed(conversation_id: str) -> AbstractAsyncContextManager[Feed]:
        raise AssertionError(conversation_id)

    sources = gauges(
        tally=tally,
        supervisor=Supervisor(open_feed=no_feed, sink=tally, records=None, limit=1),
        rest=None,
        discovery=None,
        clock=PhonicClock(),
        checkpoint=None,
        publisher=Publisher(tally.ledger, tally, None),
        access=None,
        watch_file=None,
        web_config=None,
        slo_response=1.5,
        loop_lag=LoopLag(),
    )
    tally.ledger.show_counted()
    return Page(tally.ledger, {**sources, catalogue.BUILD_INFO: list}, lambda _form, _names: b"")


def shown(tally: Tally) -> dict[tuple[str, tuple[str, ...]], tuple[int, ...]]:
    """What a page tells of the numbers guarded by progress, zeros included, in the form of `totals`."""
    return {
        (family.sample_name, series.labels): (numbers,) if isinstance(numbers, int) else (numbers[0], *numbers[1])
        for family in accumulated()
        if family.scope in (Scope.CONVERSATIONS, Scope.COUNTED)
        for series, numbers in tally.ledger.shown(family)
    }


@attrs.define
class Disk:
    """What a state file holds, by the rules that `exporter.state.rows` states, without the file."""

    label_names: tuple[str, ...] = LIMITS.names
    families: tuple[str, ...] = ()
    first_start: float = NOW
    series: dict[tuple[str, tuple[str, ...]], SavedSeries] = attrs.Factory(dict)
    held: list[Held] = attrs.Factory(list)
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

    def save(self, tally: Tally) -> None:
        """Write what has changed, and have it acknowledged."""
        changes = tally.changes(everything=not self.families)
        self.write(changes)
        tally.committed(changes)

    def restored(self, tally: Tally) -> Tally:
        if self.families:
            tally.restore(
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
        return tally
