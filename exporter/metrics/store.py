"""State: all accumulated numbers, by family and labels; touched on the trio thread only.

Rules for this file:
- A label set is one combination of the labels chosen with ``--metrics.labels``. It is born with all its series
  at 0, because Prometheus cannot see the first increment of a new series. It never goes away, unless it was
  made ahead of its first conversation and the place is needed for one.
- Label values are bounded here and nowhere else: beyond a limit a value becomes ``__other__``, and is counted.
- Families that are guarded by progress (`Scope.CONVERSATIONS`, `Scope.COUNTED`) go into the state file
  together with it; what only this process did (`Scope.PROCESS`) starts at 0 with it.

Counted and shown. A page tells the *shown* numbers, so that Prometheus never sees a counter fall: a crash takes
the exporter back to its state file, hence a page may tell no more than the file holds. `MetricStore.freeze` copies
what has changed for one write; `MetricStore.publish` makes a frozen copy the shown numbers once the write is
acknowledged, all families at once; `MetricStore.put_back` returns a copy whose write failed.
`MetricStore.show_counted` is for an exporter without a state file, and for one that cannot write it.

Held. Prometheus' ``increase`` does not see the first sample of a series, so a new series is shown at 0 for a while
before its numbers: where it could not be known ahead for ``hold`` seconds after the first whole page with it, so
that each of several Prometheus servers sees the 0; where it was known ahead on two scrapes of Prometheus, of which
one may have failed on its way, or for `EXPECTED_HOLD` seconds after anybody got it. A `_HeldGroup` is a group of
series that are held together. That it is over is itself written to the file before a page tells the numbers, so a crash
cannot make them fall to 0 again.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, product

import attrs

from ..counting.increments import Increment, Key, Measure
from ..counting.labels import OTHER
from ..state.rows import HeldBack, SavedSeries
from . import catalog
from .catalog import CATALOG, FAMILY_OF, FIXED_LABEL_OF, Family, Kind, Scope
from .series import Counter, Histogram, Numbers, Series, exemplar_labels, rebucketed, saved_numbers

EXPECTED_SCRAPES, EXPECTED_HOLD = 2, 5.0


@attrs.frozen(kw_only=True)
class LabelLimits:
    """Which labels conversations carry, and how many values they may have."""

    names: tuple[str, ...] = ("project", "agent")
    values: int = 100
    sets: int = 200


@attrs.frozen(eq=False)
class LabelSet:
    """One combination of label values and the series that carry it, by what may be added to them."""

    values: tuple[str, ...]
    series: dict[Key, Series] = attrs.field(factory=dict, repr=False)


@attrs.define(eq=False)
class _HeldGroup:
    """Series that are shown at 0 so far.

    ``seen_at``: when a whole page first showed them; seconds, any clock. ``scrapes``: how often Prometheus got
    one.
    """

    held: HeldBack
    series: list[Series] = attrs.field(factory=list)
    seen_at: float | None = None
    scrapes: int = 0

    def is_due(self, now: float, hold: float) -> bool:
        if self.seen_at is None:
            return False
        if not self.held.is_expected:
            return now - self.seen_at >= hold
        return self.scrapes >= EXPECTED_SCRAPES or now - self.seen_at >= min(hold, EXPECTED_HOLD)


@attrs.frozen(kw_only=True, eq=False)
class Frozen:
    """The counted numbers of one moment, of the series that changed.

    ``shown``: of these, what pages show once the copy is written. ``held`` is None where that did not change.
    """

    ordinal: int
    numbers: list[tuple[Series, Numbers]]
    shown: list[tuple[Series, Numbers]]
    held: tuple[HeldBack, ...] | None

    def __bool__(self) -> bool:
        return bool(self.numbers) or self.held is not None

    def rows(self) -> Iterator[SavedSeries]:
        """As a state file keeps them. May be called in another thread."""
        for series, numbers in self.numbers:
            if not _is_saved(series.family):
                continue
            yield SavedSeries(series.family.name, series.labels, series.family.buckets, saved_numbers(numbers))


class MetricStore:
    """The numbers of all families that are accumulated."""

    def __init__(self, limits: LabelLimits, *, hold: float = 0.0) -> None:
        """``hold`` is ``--metrics.hold-new-series``, seconds; at 0 no series is held."""
        self.limits = limits
        self._hold = hold
        self._groups: dict[tuple[str, tuple[str, ...]], _HeldGroup] = {}
        self._groups_changed = False
        self._ordinal = 0  # of the latest frozen copy
        self._shown_ordinal = 0  # copies up to this one are shown, or older than what is
        self._in_flight: Frozen | None = None
        self._series: dict[str, dict[tuple[str, ...], Series]] = {
            family.name: {} for family in CATALOG if _is_accumulated(family)
        }
        self._label_sets: dict[tuple[str, ...], LabelSet] = {}
        self._expected: dict[tuple[str, ...], LabelSet] = {}  # of these, those that no conversation has asked for
        self._values: list[set[str]] = [set() for _ in limits.names]
        self._changed: set[Series] = set()
        for family in CATALOG:
            if _is_accumulated(family) and family.scope is not Scope.CONVERSATIONS:
                born = [self._new(family, own) for own in product(*family.values)]
                if family.scope is Scope.COUNTED:
                    self._hold_back(HeldBack(family.name, (), is_expected=True), born)

    # --- counting

    def counter(self, family: Family, *labels: str) -> Counter:
        """A counter of `Scope.PROCESS`, for those who count often."""
        series = self._series[family.name][labels]
        assert isinstance(series, Counter)  # noqa: S101  # a wrong family is our own bug, found by any test
        return series

    def count(self, family: Family, *labels: str, amount: int = 1) -> None:
        """Add to a counter that no conversation's labels are on."""
        series = self.counter(family, *labels)
        series.add(amount)
        if _is_saved(family):
            self._changed.add(series)

    def observe(self, family: Family, *labels: str, value: float) -> None:
        """Count a value in a histogram of `Scope.PROCESS`, in the base unit of the family."""
        series = self._series[family.name][labels]
        assert isinstance(series, Histogram)  # noqa: S101  # as in `counter`
        series.observe(value, "", 0.0)

    def apply(
        self, label_set: LabelSet, increments: Iterable[Increment], *, conversation_id: str, at: float
    ) -> None:
        """Add what a conversation added. ``at`` is Unix time, for exemplars."""
        exemplar = exemplar_labels(conversation_id)
        changed = self._changed
        for key, value in increments:
            series = label_set.series.get(key)
            if series is None:
                series = self._adopt(label_set, key)
            if isinstance(series, Histogram):
                series.observe(value, exemplar, at)
            else:
                series.add(int(value))
            changed.add(series)

    def label_set(self, wanted: Sequence[str]) -> LabelSet:
        """The label set of a conversation with these values (in the order of ``limits.names``), folded at the
        limits.
        """
        known = self._label_sets.get(tuple(wanted))
        if known is None:
            values = tuple(self._fold(at, value) for at, value in enumerate(wanted))
            known = self._label_sets.get(values)
            while known is None and len(self._label_sets) >= self.limits.sets and self._expected:
                self._drop(next(iter(self._expected)))
            if known is None and len(self._label_sets) >= self.limits.sets:
                self.count(catalog.LABEL_VALUES_FOLDED, "label_set")
                values = tuple(OTHER for _ in self.limits.names)
                known = self._label_sets.get(values)
            known = known or self._new_label_set(values, is_expected=False)
        self._expected.pop(known.values, None)
        return known

    def expect(self, wanted: Sequence[str]) -> None:
        """Make a label set ahead of its first conversation, where the limits leave room for it."""
        values = tuple(wanted)
        has_room = len(self._label_sets) < self.limits.sets and all(
            value in seen or len(seen) < self.limits.values
            for seen, value in zip(self._values, values, strict=True)
        )
        if has_room and values not in self._label_sets:
            self._expected[values] = made = self._new_label_set(values, is_expected=True)
            self._changed.add(next(iter(made.series.values())))  # one row is enough for the checkpoint to know it

    def _fold(self, at: int, value: str) -> str:
        seen = self._values[at]
        if value in seen or value == OTHER:
            return value
        if len(seen) >= self.limits.values:
            self._make_room(at)
        if len(seen) < self.limits.values:
            seen.add(value)
            return value
        self.count(catalog.LABEL_VALUES_FOLDED, self.limits.names[at])
        return OTHER

    def _make_room(self, at: int) -> None:
        """Give up values that only label sets made ahead have, if there are any, until there is room."""
        used = {values[at] for values in self._label_sets.keys() - self._expected.keys()}
        for spare in dict.fromkeys(values[at] for values in self._expected if values[at] not in used):
            for values in [values for values in self._expected if values[at] == spare]:
                self._drop(values)
            if len(self._values[at]) < self.limits.values:
                break

    def _drop(self, values: tuple[str, ...]) -> None:
        """Forget a label set made ahead, and its values where no other has them."""
        del self._expected[values]
        self._groups_changed |= self._groups.pop(("", values), None) is not None
        for series in self._label_sets.pop(values).series.values():
            del self._series[series.family.name][series.labels]
            self._changed.discard(series)
        for at, value in enumerate(values):
            if all(each[at] != value for each in self._label_sets):
                self._values[at].discard(value)

    def _new_label_set(self, values: tuple[str, ...], *, is_expected: bool) -> LabelSet:
        label_set = self._label_sets[values] = LabelSet(values)
        for seen, value in zip(self._values, values, strict=True):
            if value != OTHER:
                seen.add(value)
        for what, family in FAMILY_OF.items():
            if family.scope is Scope.CONVERSATIONS:
                for own in product(*family.values):
                    label_set.series[(what, *own)] = self._new(family, (*values, *own))
        self._hold_back(HeldBack("", values, is_expected=is_expected), label_set.series.values())
        return label_set

    def _adopt(self, label_set: LabelSet, key: Key) -> Series:
        """The series for a key that the label set was not born with: a shared one, or a rare label value."""
        what = Measure(key[0])
        if what in FIXED_LABEL_OF:
            family, label = FIXED_LABEL_OF[what]
            series = self._series[family.name][(label,)]
        else:
            family = FAMILY_OF[what]
            labels = key[1:] if family.scope is not Scope.CONVERSATIONS else (*label_set.values, *key[1:])
            known = self._series[family.name].get(labels)
            if known is None:
                series = self._new(family, labels)
                self._hold_back(HeldBack(family.name, labels, is_expected=False), [series])
            else:
                series = known
        label_set.series[key] = series
        return series

    def _new(self, family: Family, labels: tuple[str, ...]) -> Series:
        names = family.label_names(self.limits.names)
        kind = Histogram if family.kind is Kind.HISTOGRAM else Counter
        series = self._series[family.name][labels] = kind(family, names, labels)
        return series

    # --- new series

    def _hold_back(self, held: HeldBack, series: Iterable[Series]) -> None:
        """Hold new series, unless that is turned off."""
        if self._hold > 0:
            group = self._groups.setdefault((held.family, held.labels), _HeldGroup(held))
            for each in series:
                each.hold_back()
                group.series.append(each)
            self._groups_changed = True

    def held_back(self) -> list[_HeldGroup]:
        """The groups of held series: for a new whole page, which tells `seen` when it is sent."""
        return list(self._groups.values())

    def seen(self, groups: Iterable[_HeldGroup], at: float, *, by_prometheus: bool) -> None:
        """A whole page showed these series at 0. ``at``: seconds, of the clock that `release` gets."""
        for group in groups:
            if group.seen_at is None:
                group.seen_at = at
            group.scrapes += by_prometheus

    def release(self, now: float) -> None:
        """No longer hold series that were shown at 0 for long enough: their numbers go into the next copy."""
        for key in [key for key, group in self._groups.items() if group.is_due(now, self._hold)]:
            for series in self._groups.pop(key).series:
                series.is_held_back = False
                if self._exists(series):  # its label set may have made room for another meanwhile
                    self._changed.add(series)
            self._groups_changed = True

    @property
    def held_back_count(self) -> int:
        """Groups of new series that are shown at 0 so far."""
        return len(self._groups)

    # --- what a page shows

    def freeze(self, *, everything: bool = False) -> Frozen:
        """A copy of what has changed since the last one, for one write at a time: see `publish`, `put_back`."""
        changed, self._changed = self._changed, set()
        held = None
        if self._groups_changed or everything:
            held = tuple(group.held for group in self._groups.values())
            self._groups_changed = False
        self._ordinal += 1
        numbers: list[tuple[Series, Numbers]]
        wanted = self._all_saved() if everything else changed
        numbers = [(each, each.freeze()) for each in wanted]
        shown = [each for each in numbers if not each[0].is_held_back] if self._groups else numbers
        self._in_flight = Frozen(ordinal=self._ordinal, numbers=numbers, shown=shown, held=held)
        return self._in_flight

    def publish(self, frozen: Frozen) -> None:
        """The write of this copy is acknowledged: pages show it, unless they show newer numbers already."""
        self._in_flight = None
        if frozen.ordinal > self._shown_ordinal:
            for series, numbers in frozen.shown:
                series.shown = numbers
            self._shown_ordinal = frozen.ordinal

    def put_back(self, frozen: Frozen) -> None:
        """The write of this copy failed, or nobody knows: the next copy holds it again."""
        self._in_flight = None
        self._changed.update(series for series, _ in frozen.numbers if self._exists(series))
        self._groups_changed |= frozen.held is not None

    def show_counted(self) -> None:
        """Pages show the counted numbers as they are now."""
        waiting = () if self._in_flight is None else (series for series, _ in self._in_flight.numbers)
        for series in chain(self._changed, waiting):
            if not series.is_held_back:
                series.shown = series.freeze()
        self._shown_ordinal = self._ordinal

    def _exists(self, series: Series) -> bool:
        return self._series[series.family.name].get(series.labels) is series

    def _all_saved(self) -> Iterator[Series]:
        return (each for family in CATALOG if _is_saved(family) for each in self._series[family.name].values())

    # --- reading

    def shown(self, family: Family) -> list[tuple[Series, Numbers]]:
        """All series of an accumulated family with the numbers that a page shows now."""
        if _is_saved(family):
            return [(each, each.shown) for each in self._series[family.name].values()]
        return [(each, each.freeze()) for each in self._series[family.name].values()]

    @property
    def label_sets(self) -> Collection[LabelSet]:
        return self._label_sets.values()

    # --- state file

    def restore(
        self, saved: Iterable[SavedSeries], *, families: Collection[str], held: Iterable[HeldBack] = ()
    ) -> tuple[set[str], bool]:
        """Take over saved numbers, which pages show at once, and go on holding what was ``held``.

        ``families``: names of those that the file's writer had; what it had not is new. Returns the names of
        families of which a row could not be used, and whether the file must be written anew to hold just what was
        taken over.
        """
        ours = {family.name: family for family in CATALOG if _is_saved(family)}
        unusable: set[str] = set()
        is_outdated = set(families) != ours.keys()
        found: set[tuple[str, tuple[str, ...]]] = set()
        for row in saved:
            family = ours.get(row.family)
            if family is None:
                continue
            expected = 1 if family.kind is Kind.COUNTER else len(row.layout) + 2
            if len(row.numbers) != expected or len(row.labels) != len(family.label_names(self.limits.names)):
                unusable.add(row.family)
                continue
            numbers: Sequence[int] = row.numbers
            if row.layout != family.buckets:
                numbers = rebucketed(row.layout, row.numbers, family.buckets)
                is_outdated = True
            self._restore_row(family, row.labels, numbers)
            found.add((row.family, row.labels))
        while (
            len(self._label_sets) > self.limits.sets and self._expected
        ):  # of today's limits, or of some that made room
            self._drop(next(iter(self._expected)))
            is_outdated = True
        for name in ours.keys() & set(families):
            self._show_at_once((name, ()))
            if ours[name].scope is Scope.COUNTED:  # whose every series has a row; one without is a later release's
                for series in self._series[name].values():
                    if (name, series.labels) not in found:
                        self._hold_back(HeldBack(name, series.labels, is_expected=True), [series])
                        is_outdated = True
        for name in sorted(ours.keys() - set(families)):
            if ours[name].scope is Scope.CONVERSATIONS and self._series[name]:
                self._hold_back(HeldBack(name, (), is_expected=True), self._series[name].values())
        for each in held:
            self._hold_back_again(each)
        return unusable, is_outdated or bool(unusable)

    def _restore_row(self, family: Family, labels: tuple[str, ...], numbers: Sequence[int]) -> None:
        if family.scope is Scope.CONVERSATIONS:
            values = labels[: len(self.limits.names)]
            if values not in self._label_sets:
                self._expected[values] = self._new_label_set(values, is_expected=True)
                self._show_at_once(("", values))
            if any(numbers):
                self._expected.pop(values, None)
        (self._series[family.name].get(labels) or self._new(family, labels)).load(numbers)

    def _show_at_once(self, key: tuple[str, tuple[str, ...]]) -> None:
        """Not new after all: an earlier process has shown them."""
        group = self._groups.pop(key, None)
        for series in group.series if group else ():
            series.is_held_back = False

    def _hold_back_again(self, held: HeldBack) -> None:
        if held.family:
            series = self._series.get(held.family, {})
            wanted = (
                list(series.values())
                if not held.labels
                else [series[held.labels]]
                if held.labels in series
                else []
            )
        else:
            found = self._label_sets.get(held.labels)
            wanted = list(found.series.values()) if found else []
        if wanted:
            self._hold_back(held, wanted)


def _is_accumulated(family: Family) -> bool:
    return family.kind is not Kind.GAUGE


def _is_saved(family: Family) -> bool:
    return _is_accumulated(family) and family.scope in (Scope.CONVERSATIONS, Scope.COUNTED)


def accumulated() -> Iterator[Family]:
    """Families whose numbers the store holds."""
    return (family for family in CATALOG if _is_accumulated(family))


def saved_families() -> tuple[str, ...]:
    """Names of the families that a state file keeps."""
    return tuple(family.name for family in CATALOG if _is_saved(family))
