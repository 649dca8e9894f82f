"""State: all accumulated numbers, by family and labels; touched on the trio thread only.

Rules for this file:
- A label set is one combination of the labels chosen with ``--metrics.labels``. It is born with all its series
  at 0, because Prometheus cannot see the first increment of a new series. It never goes away, unless it was
  made ahead of its first conversation and the place is needed for one.
- Label values are bounded here and nowhere else: beyond a limit a value becomes ``__other__``, and is counted.
- Families that are guarded by progress (`Scope.CONVERSATIONS`, `Scope.COUNTED`) go into the checkpoint
  together with it; what only this process did (`Scope.PROCESS`) starts at 0 with it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product

import attrs

from ..additions import Addition, Key, What
from ..saved import SavedSeries
from ..vocabulary import Drift, UnknownWord
from . import catalogue
from .catalogue import CATALOGUE, Family, Kind, Scope
from .series import Counter, Histogram, Series, exemplar_labels

OTHER = "__other__"

_FAMILY_OF: Mapping[What, Family] = {
    What.CONVERSATION: catalogue.CONVERSATIONS,
    What.ENDED: catalogue.CONVERSATIONS_ENDED,
    What.ERROR: catalogue.CONVERSATION_ERRORS,
    What.CONVERSATION_DURATION: catalogue.CONVERSATION_DURATION,
    What.CONVERSATION_TURNS: catalogue.CONVERSATION_TURNS,
    What.TURN: catalogue.TURNS,
    What.TURN_DURATION: catalogue.TURN_DURATION,
    What.MODEL_GENERATION: catalogue.MODEL_GENERATION,
    What.FIRST_AUDIO: catalogue.FIRST_AUDIO,
    What.MODEL_INPUT: catalogue.MODEL_INPUT,
    What.RESPONSE: catalogue.RESPONSE,
    What.OVERLAP: catalogue.OVERLAPS,
    What.SILENT_TURN: catalogue.SILENT_TURNS,
    What.INTERRUPTIONS: catalogue.INTERRUPTIONS,
    What.TOOL_CALL: catalogue.TOOL_CALLS,
    What.TOOL_FAILURE: catalogue.TOOL_CALL_FAILURES,
    What.REVISED: catalogue.TURNS_REVISED,
    What.REJECTED: catalogue.REJECTED_VALUES,
    What.SKIPPED: catalogue.TURNS_SKIPPED,
    What.LOST: catalogue.CONVERSATIONS_LOST,
}
# Drift is counted in families whose labels are not the addition's own words.
_FIXED: Mapping[What, tuple[Family, str]] = {
    What.UNKNOWN_TIMING: (catalogue.UNKNOWN_FIELDS, Drift.TIMINGS),
    What.UNKNOWN_ROLE: (catalogue.UNKNOWN_WORDS, UnknownWord.ROLE),
    What.UNKNOWN_ENDED_BY: (catalogue.UNKNOWN_WORDS, UnknownWord.ENDED_BY),
}


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


class Ledger:
    """The numbers of all families that are accumulated."""

    def __init__(self, limits: LabelLimits) -> None:
        self.limits = limits
        self._series: dict[str, dict[tuple[str, ...], Series]] = {
            family.name: {} for family in CATALOGUE if _is_accumulated(family)
        }
        self._label_sets: dict[tuple[str, ...], LabelSet] = {}
        self._ahead: dict[tuple[str, ...], LabelSet] = {}  # of these, those that no conversation has asked for
        self._values: list[set[str]] = [set() for _ in limits.names]
        self._changed: set[Series] = set()
        for family in CATALOGUE:
            if _is_accumulated(family) and family.scope is not Scope.CONVERSATIONS:
                for own in product(*family.values):
                    self._new(family, own)

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
        self._changed.add(series)

    def apply(
        self, label_set: LabelSet, additions: Iterable[Addition], *, conversation_id: str, at: float
    ) -> None:
        """Add what a conversation added. ``at`` is Unix time, for exemplars."""
        exemplar = exemplar_labels(conversation_id)
        changed = self._changed
        for key, value in additions:
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
            if known is None and len(self._label_sets) >= self.limits.sets and self._ahead:
                self._drop(next(iter(self._ahead)))
            if known is None and len(self._label_sets) >= self.limits.sets:
                self.count(catalogue.LABEL_VALUES_FOLDED, "label_set")
                values = tuple(OTHER for _ in self.limits.names)
                known = self._label_sets.get(values)
            known = known or self._new_label_set(values)
        self._ahead.pop(known.values, None)
        return known

    def expect(self, wanted: Sequence[str]) -> None:
        """Make a label set ahead of its first conversation, where the limits leave room for it."""
        values = tuple(wanted)
        has_room = len(self._label_sets) < self.limits.sets and all(
            value in seen or len(seen) < self.limits.values
            for seen, value in zip(self._values, values, strict=True)
        )
        if has_room and values not in self._label_sets:
            self._ahead[values] = made = self._new_label_set(values)
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
        self.count(catalogue.LABEL_VALUES_FOLDED, self.limits.names[at])
        return OTHER

    def _make_room(self, at: int) -> None:
        """Give up a value that only label sets made ahead have, if there is one."""
        used = {values[at] for values in self._label_sets.keys() - self._ahead.keys()}
        spare = next((values[at] for values in self._ahead if values[at] not in used), None)
        for values in [values for values in self._ahead if values[at] == spare]:
            self._drop(values)

    def _drop(self, values: tuple[str, ...]) -> None:
        """Forget a label set made ahead, and its values where no other has them."""
        del self._ahead[values]
        for series in self._label_sets.pop(values).series.values():
            del self._series[series.family.name][series.labels]
            self._changed.discard(series)
        for at, value in enumerate(values):
            if all(each[at] != value for each in self._label_sets):
                self._values[at].discard(value)

    def _new_label_set(self, values: tuple[str, ...]) -> LabelSet:
        label_set = self._label_sets[values] = LabelSet(values)
        for seen, value in zip(self._values, values, strict=True):
            if value != OTHER:
                seen.add(value)
        for what, family in _FAMILY_OF.items():
            if family.scope is Scope.CONVERSATIONS:
                for own in product(*family.values):
                    label_set.series[(what, *own)] = self._new(family, (*values, *own))
        return label_set

    def _adopt(self, label_set: LabelSet, key: Key) -> Series:
        """The series for a key that the label set was not born with: a shared one, or a rare label value."""
        what = What(key[0])
        if what in _FIXED:
            family, label = _FIXED[what]
            series = self._series[family.name][(label,)]
        else:
            family = _FAMILY_OF[what]
            labels = key[1:] if family.scope is not Scope.CONVERSATIONS else (*label_set.values, *key[1:])
            series = self._series[family.name].get(labels) or self._new(family, labels)
        label_set.series[key] = series
        return series

    def _new(self, family: Family, labels: tuple[str, ...]) -> Series:
        names = family.label_names(self.limits.names)
        kind = Histogram if family.kind is Kind.HISTOGRAM else Counter
        series = self._series[family.name][labels] = kind(family, names, labels)
        return series

    # --- reading

    def series(self, family: Family) -> Iterable[Series]:
        """All series of an accumulated family, oldest first."""
        return self._series[family.name].values()

    def value(self, family: Family, *labels: str) -> Series:
        """One series; KeyError if there is none."""
        return self._series[family.name][labels]

    @property
    def label_sets(self) -> Collection[LabelSet]:
        return self._label_sets.values()

    # --- checkpoint

    def changes(self, *, everything: bool = False) -> list[SavedSeries]:
        """The saved families' series as they stand: all, or those that changed since the last call."""
        changed, self._changed = self._changed, set()
        wanted = (each for family in self._series.values() for each in family.values()) if everything else changed
        return [_saved(series) for series in wanted if _is_saved(series.family)]

    def restore(self, saved: Iterable[SavedSeries]) -> set[str]:
        """Take over saved numbers. Returns the names of families left at 0 because their layout has changed."""
        families = {family.name: family for family in CATALOGUE if _is_saved(family)}
        reset: set[str] = set()
        for row in saved:
            family = families.get(row.family)
            if family is None:
                continue
            if row.layout != family.buckets:
                reset.add(row.family)
                continue
            if family.scope is Scope.CONVERSATIONS:
                values = row.labels[: len(self.limits.names)]
                if values not in self._label_sets:
                    self._ahead[values] = self._new_label_set(values)
                if any(row.numbers):
                    self._ahead.pop(values, None)
            (self._series[family.name].get(row.labels) or self._new(family, row.labels)).load(row.numbers)
        return reset


def _is_accumulated(family: Family) -> bool:
    return family.kind is not Kind.GAUGE


def _is_saved(family: Family) -> bool:
    return _is_accumulated(family) and family.scope in (Scope.CONVERSATIONS, Scope.COUNTED)


def _saved(series: Series) -> SavedSeries:
    return SavedSeries(series.family.name, series.labels, series.family.buckets, tuple(series.dump()))


def accumulated() -> Iterator[Family]:
    """Families whose numbers the ledger holds."""
    return (family for family in CATALOGUE if _is_accumulated(family))
