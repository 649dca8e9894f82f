"""State: the numbers of all counters and histograms, by family and labels; used on the trio thread only.

Theory of operation
-------------------
Prometheus takes a counter that falls for a restart and adds its whole value again, and its ``increase()`` never
counts the first sample of a series. The store is built so that neither can happen, not even by a crash.

*Counted and shown numbers.* A series has two sets of numbers. `MetricStore.apply` and `MetricStore.count` add to
the *counted* ones. A page has the *shown* ones. A crash takes the exporter back to its state file, so what is
shown must never be more than what the file holds. Shown numbers therefore change only through a write::

    freeze() ----> the copy is written ----> publish(copy)    the copy's numbers are shown, of all families at once
                          |
                          `-- it failed ----> put_back(copy)  the next copy includes these series again

There is one write at a time. `freeze` copies only the series that changed since the previous copy. Copies are
numbered: `MetricStore.publish` ignores one that is older than what is shown. An exporter without a state file
publishes each copy at once. `MetricStore.show_counted` is for an exporter whose file could not be written for
long: it shows the counted numbers without a write, so a crash would then make counters fall.

*New series.* A series is created at 0, and held back: whatever is counted in it, pages show 0 until Prometheus has
had a chance to see that 0. Series that appear together are one `_HeldGroup`. How long a group is held back depends
on whether it was *expected*, that is, known before anything was counted in it:

- unexpected: ``hold`` seconds after the first whole page that showed it was sent, so that each of several
  Prometheus servers scrapes the 0;
- expected: until Prometheus has been sent `EXPECTED_SCRAPES` whole pages (one may be lost on the way), or
  `EXPECTED_HOLD` seconds after any client was sent one.

`MetricStore.release` ends that. The counted numbers then go into the next copy, together with the list of groups
that are still held back: a crash before that write is acknowledged returns to 0 and holds the group back again,
a crash after it returns to the numbers.

*Label sets.* A label set is one combination of the labels chosen with ``--metrics.labels``. All its series are
created with it, but for those of tools: they appear with the first call of a tool, and are held back on their own.
It stays for the life of the process, except that an expected one without a conversation gives way when a limit is
reached. This module alone limits label values: beyond a limit a value becomes ``__other__``, and
`phonic_exporter_label_values_folded` counts it. Where workspaces have names, the first label is that of the
workspace: it is never folded, so each workspace has a label set of ``__other__`` of its own beyond the limit, and
the limits are divided among the workspaces (`exporter.shares`).

Invariants
----------
- For every series of a saved family: shown <= what the state file holds, or 0 while held back (unless
  `MetricStore.show_counted` was called).
- For every series: shown never decreases while the process runs.
- Families in `Scope.CONVERSATIONS` and `Scope.COUNTED` are in the state file, written in one transaction with the
  progress of conversations. Families in `Scope.PROCESS` are not, start at 0 with the process, and are shown as
  counted.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, islice, product

import attrs

from ..counting.increments import Increment, Key, Measure
from ..counting.labels import OTHER, WORKSPACE
from ..shares import ONLY, Divided, Shares
from ..state.rows import HeldBack, SavedSeries
from . import catalog
from .catalog import CATALOG, FAMILY_OF, FIXED_LABEL_OF, Family, Kind, Scope
from .series import Counter, Histogram, Numbers, Series, exemplar_labels, rebucketed, saved_numbers

EXPECTED_SCRAPES = 2
EXPECTED_HOLD = 5.0  # seconds


@attrs.frozen(kw_only=True)
class LabelLimits:
    """The labels of conversations, and the most values of each label, the most label sets and the most tools.

    ``names`` begins with `WORKSPACE` where workspaces have names. ``shard``: value of the label ``shard`` of all
    series but those of the process; empty for no such label.
    """

    names: tuple[str, ...] = ("project", "agent")
    values: int = 100
    sets: int = 200
    tools: int = 50
    shard: str = ""

    @property
    def has_workspaces(self) -> bool:
        """Whether the first label is the name of a workspace."""
        return self.names[:1] == (WORKSPACE,)


@attrs.frozen(eq=False)
class LabelSet:
    """One combination of label values, and its series by the key of the increments that they add up."""

    values: tuple[str, ...]
    series: dict[Key, Series] = attrs.field(factory=dict, repr=False)


@attrs.define(eq=False)
class _HeldGroup:
    """New series that pages show at 0 for now.

    ``seen_at``: when a whole page with them was first sent, in seconds of the clock that `MetricStore.release`
    gets. ``scrapes``: how many whole pages with them were sent to Prometheus.
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
    """A copy of the counted numbers of the series that changed.

    ``ordinal``: number of the copy, rising. ``shown``: those of the numbers that pages show once the copy is
    written. ``held``: all groups that are held back, or None if that has not changed since the previous copy.
    """

    ordinal: int
    numbers: list[tuple[Series, Numbers]]
    shown: list[tuple[Series, Numbers]]
    held: tuple[HeldBack, ...] | None

    def __bool__(self) -> bool:
        return bool(self.numbers) or self.held is not None

    def rows(self) -> Iterator[SavedSeries]:
        """The numbers as a state file keeps them. May be called in any thread."""
        for series, numbers in self.numbers:
            if not _is_saved(series.family):
                continue
            yield SavedSeries(series.family.name, series.labels, series.family.buckets, saved_numbers(numbers))


class MetricStore:
    """The series of all counters and histograms of the catalog."""

    def __init__(self, limits: LabelLimits, *, hold: float = 0.0, earlier: "MetricStore | None" = None) -> None:
        """``hold`` is ``--metrics.hold-new-series`` in seconds; with 0 no series is held back.

        ``earlier``: the previous store of this process; families of `Scope.PROCESS` go on in the new one.
        """
        self.limits = limits
        self.shares = Shares(() if limits.has_workspaces else (ONLY,))
        self._hold = hold
        self._groups: dict[tuple[str, tuple[str, ...]], _HeldGroup] = {}
        self._groups_changed = False
        self._ordinal = 0  # of the latest copy
        self._shown_ordinal = 0  # copies up to this one must not be shown (again)
        self._in_flight: Frozen | None = None
        self._series: dict[str, dict[tuple[str, ...], Series]] = {
            family.name: {} for family in CATALOG if _is_accumulated(family)
        }
        self._label_sets: dict[tuple[str, ...], LabelSet] = {}
        self._expected: dict[tuple[str, ...], LabelSet] = {}  # label sets without a conversation
        self._counted_sets: Divided[tuple[str, ...]] = Divided(self.shares)  # those that count against the limit
        self._values: list[Divided[str]] = [Divided(self.shares) for _ in limits.names]
        self._tools: Divided[str] = Divided(self.shares)
        self._changed: set[Series] = set()
        for family in CATALOG:
            if earlier is not None and _is_accumulated(family) and family.scope is Scope.PROCESS:
                self._series[family.name] = earlier._series[family.name]
            elif _is_accumulated(family) and family.scope is not Scope.CONVERSATIONS:
                created = [self._new(family, own) for own in product(*family.values)]
                if family.scope is Scope.COUNTED:
                    self._hold_back(HeldBack(family.name, (), is_expected=True), created)

    # --- counting

    def counter(self, family: Family, *labels: str) -> Counter:
        """A counter of `Scope.PROCESS`, for a caller that adds to it often. ``labels`` are its label values."""
        series = self._series[family.name][labels]
        assert isinstance(series, Counter)  # noqa: S101  # a wrong family is our own bug, found by any test
        return series

    def count(self, family: Family, *labels: str, amount: int = 1) -> None:
        """Add to a counter of `Scope.PROCESS` or `Scope.COUNTED`. ``labels`` are its label values."""
        series = self.counter(family, *labels)
        series.add(amount)
        if _is_saved(family):
            self._changed.add(series)

    def observe(self, family: Family, *labels: str, value: float) -> None:
        """Add a value, in the base unit of the family, to a histogram of `Scope.PROCESS`."""
        series = self._series[family.name][labels]
        assert isinstance(series, Histogram)  # noqa: S101  # as in `counter`
        series.observe(value, "", 0.0)

    def apply(
        self, label_set: LabelSet, increments: Iterable[Increment], *, conversation_id: str, at: float
    ) -> None:
        """Add the increments of a conversation. Exemplars name it, with ``at`` as their Unix time."""
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
        """The label set for a conversation with these label values, in the order of ``limits.names``.

        Values beyond a limit become `OTHER`; expected label sets without a conversation give way first.
        """
        known = self._label_sets.get(tuple(wanted))
        if known is None:
            owner = self._owner(wanted)
            values = tuple(self._fold(at, value, owner) for at, value in enumerate(wanted))
            known = self._label_sets.get(values)
            while known is None and not self._has_room(owner) and (spare := self._spare_set(owner)) is not None:
                self._drop(spare)
            if known is None and not self._has_room(owner):
                self.count(catalog.LABEL_VALUES_FOLDED, "label_set")
                values = self._overflow(owner)
                known = self._label_sets.get(values)
            known = known or self._new_label_set(values, is_expected=False)
        self._expected.pop(known.values, None)
        return known

    def _owner(self, values: Sequence[str]) -> str:
        """The workspace of a label set with these values."""
        return values[0] if self.limits.has_workspaces else ONLY

    def _overflow(self, owner: str) -> tuple[str, ...]:
        """Label values of what is beyond a limit."""
        names = self.limits.names
        return (owner, *(OTHER for _ in names[1:])) if self.limits.has_workspaces else tuple(OTHER for _ in names)

    def _has_room(self, owner: str) -> bool:
        """Whether the workspace may have another label set."""
        return self._counted_sets.has_room(owner, self.limits.sets)

    def _spare_set(self, owner: str) -> tuple[str, ...] | None:
        """An expected label set that may give way to one of the workspace: its own, else one beyond a share."""
        others = None
        for values in self._expected:
            of = self._owner(values)
            if of == owner:
                return values
            if others is None and self._counted_sets.is_beyond_share(of, self.limits.sets):
                others = values
        return others

    def expect(self, wanted: Sequence[str]) -> None:
        """Create the label set of a known agent before its first conversation, if the limits leave room for it."""
        values = tuple(wanted)
        owner = self._owner(values)
        has_room = self._has_room(owner) and all(
            seen.holds(owner, value) or seen.has_room(owner, self.limits.values)
            for seen, value in self._limited(values)
        )
        if has_room and values not in self._label_sets:
            self._expected[values] = made = self._new_label_set(values, is_expected=True)
            self._changed.add(next(iter(made.series.values())))  # one row in the state file restores the label set

    def _limited(self, values: Sequence[str]) -> Iterator[tuple[Divided[str], str]]:
        """The values whose number is limited, each with those seen so far: all but the workspace."""
        pairs = zip(self._values, values, strict=True)
        return islice(pairs, 1, None) if self.limits.has_workspaces else pairs

    def _fold(self, at: int, value: str, owner: str) -> str:
        seen, limit = self._values[at], self.limits.values
        if value == OTHER or seen.holds(owner, value) or self.limits.names[at] == WORKSPACE:
            return value
        if not seen.has_room(owner, limit):
            self._make_room(at, owner)
        if seen.has_room(owner, limit):
            seen.add(owner, value)
            return value
        self.count(catalog.LABEL_VALUES_FOLDED, self.limits.names[at])
        return OTHER

    def _make_room(self, at: int, owner: str) -> None:
        """Drop expected label sets, until the workspace may have another value of the label or none is left.

        Those of another workspace go only while it has more values than it is guaranteed.
        """
        seen, limit = self._values[at], self.limits.values
        used = {(self._owner(each), each[at]) for each in self._label_sets.keys() - self._expected.keys()}
        held = dict.fromkeys((self._owner(each), each[at]) for each in self._expected)
        spares = [each for each in held if each not in used]
        for of, spare in sorted(spares, key=lambda each: each[0] != owner):
            if of != owner and not seen.is_beyond_share(of, limit):
                continue
            for values in [each for each in self._expected if (self._owner(each), each[at]) == (of, spare)]:
                self._drop(values)
            if seen.has_room(owner, limit):
                break

    def _drop(self, values: tuple[str, ...]) -> None:
        """Remove an expected label set, and those of its label values that no other one of the workspace has."""
        owner = self._owner(values)
        del self._expected[values]
        self._counted_sets.discard(owner, values)
        self._groups_changed |= self._groups.pop(("", values), None) is not None
        for series in self._label_sets.pop(values).series.values():
            del self._series[series.family.name][series.labels]
            self._changed.discard(series)
        for at, value in enumerate(values):
            if all((self._owner(each), each[at]) != (owner, value) for each in self._label_sets):
                self._values[at].discard(owner, value)

    def _new_label_set(self, values: tuple[str, ...], *, is_expected: bool) -> LabelSet:
        label_set = self._label_sets[values] = LabelSet(values)
        owner = self._owner(values)
        if values != self._overflow(owner):
            self._counted_sets.add(owner, values)
        for seen, value in self._limited(values):
            if value != OTHER:
                seen.add(owner, value)
        for what, family in FAMILY_OF.items():
            if family.scope is Scope.CONVERSATIONS:
                for own in product(*family.values):
                    label_set.series[(what, *own)] = self._new(family, (*values, *own))
        self._hold_back(HeldBack("", values, is_expected=is_expected), label_set.series.values())
        return label_set

    def _adopt(self, label_set: LabelSet, key: Key) -> Series:
        """Find or create the series for a key that a new label set does not have.

        It belongs to a family without conversation labels, or has a label value that is not among the family's
        (``role="other"``).
        """
        what = Measure(key[0])
        if what in FIXED_LABEL_OF:
            family, label = FIXED_LABEL_OF[what]
            series = self._series[family.name][(label,)]
        else:
            family = FAMILY_OF[what]
            if family.is_by_tool:
                return self._adopt_tool(label_set, key)
            labels = key[1:] if family.scope is not Scope.CONVERSATIONS else (*label_set.values, *key[1:])
            known = self._series[family.name].get(labels)
            if known is None:
                series = self._new(family, labels)
                self._hold_back(HeldBack(family.name, labels, is_expected=False), [series])
            else:
                series = known
        label_set.series[key] = series
        return series

    def _adopt_tool(self, label_set: LabelSet, key: Key) -> Series:
        """Find or create the series for a key whose first label value is the name of a tool.

        The key itself is not kept if its tool is folded, since there is no bound on such keys.
        """
        what, tool, *others = key
        owner = self._owner(label_set.values)
        if not self._tools.holds(owner, tool):
            if self._tools.has_room(owner, self.limits.tools):
                self._tools.add(owner, tool)
            elif tool != OTHER:
                if what == catalog.TOOL_CALLS_COMPLETED.measure:  # once for each call
                    self.count(catalog.LABEL_VALUES_FOLDED, catalog.TOOL)
                tool = OTHER
        key = (what, tool, *others)
        if key not in label_set.series:
            for series in self._new_tool(label_set, tool):
                self._hold_back(HeldBack(series.family.name, series.labels, is_expected=False), [series])
        return label_set.series[key]

    def _new_tool(self, label_set: LabelSet, tool: str) -> list[Series]:
        """Create all series of a tool in a label set, so that failures are shown at 0 before the first one."""
        created = []
        for family in catalog.BY_TOOL:
            for own in product((tool,), *family.values[1:]):
                series = self._new(family, (*label_set.values, *own))
                label_set.series[Measure(str(family.measure)), *own] = series
                created.append(series)
        return created

    def _new(self, family: Family, labels: tuple[str, ...]) -> Series:
        names = family.label_names(self.limits.names)
        kind = Histogram if family.kind is Kind.HISTOGRAM else Counter
        shard = "" if family.scope is Scope.PROCESS else self.limits.shard
        series = self._series[family.name][labels] = kind(family, names, labels, shard=shard)
        return series

    # --- new series

    def _hold_back(self, held: HeldBack, series: Iterable[Series]) -> None:
        """Show new series at 0, unless ``hold`` is 0."""
        if self._hold > 0:
            group = self._groups.setdefault((held.family, held.labels), _HeldGroup(held))
            for each in series:
                each.hold_back()
                group.series.append(each)
            self._groups_changed = True

    def held_back(self) -> list[_HeldGroup]:
        """The groups that a whole page of this moment shows at 0. Call `seen` with them when the page was sent."""
        return list(self._groups.values())

    def seen(self, groups: Iterable[_HeldGroup], at: float, *, by_prometheus: bool) -> None:
        """A whole page with these groups at 0 was sent at ``at``, in seconds of the clock that `release` gets."""
        for group in groups:
            if group.seen_at is None:
                group.seen_at = at
            group.scrapes += by_prometheus

    def release(self, now: float) -> None:
        """Stop holding back groups that were shown at 0 for long enough. Their numbers go into the next copy."""
        for key in [key for key, group in self._groups.items() if group.is_due(now, self._hold)]:
            for series in self._groups.pop(key).series:
                series.is_held_back = False
                if self._exists(series):  # its label set may have been dropped
                    self._changed.add(series)
            self._groups_changed = True

    @property
    def held_back_count(self) -> int:
        """How many groups of new series are held back."""
        return len(self._groups)

    # --- what a page shows

    @property
    def shows_all(self) -> bool:
        """Whether pages show all that was counted: nothing is held back, and nothing is still to be written."""
        return not (self._groups or self._changed or self._in_flight)

    def freeze(self, *, everything: bool = False) -> Frozen:
        """Copy the counted numbers that changed since the previous copy, or all that a state file keeps.

        The caller must pass the copy to `publish` or `put_back` before the next call.
        """
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
        """The copy was written: show its numbers, unless newer ones are shown already."""
        self._in_flight = None
        if frozen.ordinal > self._shown_ordinal:
            for series, numbers in frozen.shown:
                series.shown = numbers
            self._shown_ordinal = frozen.ordinal

    def put_back(self, frozen: Frozen) -> None:
        """The write of the copy failed or may have failed: the next copy includes these series again."""
        self._in_flight = None
        self._changed.update(series for series, _ in frozen.numbers if self._exists(series))
        self._groups_changed |= frozen.held is not None

    def show_counted(self) -> None:
        """Show the counted numbers as they are now, except of series that are held back."""
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
        """All series of a counter or histogram family, oldest first, with the numbers that a page shows now."""
        if _is_saved(family):
            return [(each, each.shown) for each in self._series[family.name].values()]
        return self.counted(family)

    def counted(self, family: Family) -> list[tuple[Series, Numbers]]:
        """As `shown`, but with the counted numbers."""
        return [(each, each.freeze()) for each in self._series[family.name].values()]

    @property
    def label_sets(self) -> Collection[LabelSet]:
        return self._label_sets.values()

    # --- state file

    def restore(
        self, saved: Iterable[SavedSeries], *, families: Collection[str], held: Iterable[HeldBack] = ()
    ) -> tuple[set[str], bool]:
        """Take over the numbers of a state file, which are shown at once, and hold back again what was ``held``.

        ``families`` are the names of all families that the release which wrote the file had; series of other
        families are new. Returns the names of families with an unusable row, and whether the whole file must be
        written again because it does not hold exactly what was taken over.
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
        # The limits may be lower than when the file was written, and the file keeps label sets that were dropped.
        while len(self._counted_sets) > self.limits.sets and self._expected:
            self._drop(next(iter(self._expected)))
            is_outdated = True
        for name in ours.keys() & set(families):
            self._show_at_once((name, ()))
            # The file has a row for every series of these families, so a series without one is new in this
            # release.
            if ours[name].scope is Scope.COUNTED:
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
            if family.is_by_tool and labels not in self._series[family.name]:
                tool = labels[len(values)]
                if tool != OTHER:
                    self._tools.add(self._owner(values), tool)
                self._new_tool(self._label_sets[values], tool)
        (self._series[family.name].get(labels) or self._new(family, labels)).load(numbers)

    def _show_at_once(self, key: tuple[str, tuple[str, ...]]) -> None:
        """Do not hold back this group: an earlier process has shown its numbers."""
        group = self._groups.pop(key, None)
        for series in group.series if group else ():
            series.is_held_back = False

    def _hold_back_again(self, held: HeldBack) -> None:
        if held.family:
            series = self._series.get(held.family, {})
            wanted = [series[held.labels]] if held.labels in series else []
            if not held.labels:
                wanted = list(series.values())
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
    """The counters and histograms of the catalog, whose numbers the store holds."""
    return (family for family in CATALOG if _is_accumulated(family))


def saved_families() -> tuple[str, ...]:
    """Names of the families that a state file keeps."""
    return tuple(family.name for family in CATALOG if _is_saved(family))
