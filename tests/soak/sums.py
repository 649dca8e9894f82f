"""Pure: compares three sums of several shards: the engine's, Prometheus', and what the plan says.

The engine must agree with Prometheus in every sample. Both must agree with the plan in all that a record of REST
tells. What only the live feed tells is lost when a conversation ends before another process follows it; so much
may be missing, and no more:

- A turn whose timings were never seen must be among those that ``phonic_exporter_handover_timings_lost_total``
  reports. It reports turns: some of them would have had no timings, which nobody can know.
- A turn that is not known to be silent may be taken for an answer, and for a turn that the caller answered.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import attrs

from exporter.simulator.scenario import FIRST_AUDIO, Conversation

from .oracle import TIMINGS, SampleKey, Totals, differences, is_history

LOST: Final = "phonic_exporter_handover_timings_lost_total"
# Samples that depend on when a process followed a conversation, or that the plan does not tell.
_UNPLANNED: Final = frozenset(
    {LOST, "phonic_exporter_conversations_lost_total", "phonic_exporter_rejected_values_total"}
)
_SILENT: Final = "phonic_silent_turns_total"
_SLOW: Final = "phonic_slow_turns_total"
# Families to which each turn adds at most once, only if the feed told it.
_ONLY_LIVE: Final = (*TIMINGS.values(), "phonic_turn_end_of_turn_seconds", "phonic_turn_tool_response_seconds")
# Families in which a silent turn counts that is not known to be silent.
_MORE_WITH_SILENT: Final = ("phonic_turn_response_seconds", "phonic_turn_user_response_seconds", _SLOW)
_COUNTS_WITH_SILENT: Final = (*(f"{family}_count" for family in _MORE_WITH_SILENT), _SLOW)
_SUFFIXES: Final = ("_bucket", "_count", "_sum")


@attrs.frozen
class TurnsOfThePlan:
    """Assistant turns of a plan: ``timed`` have all timings, ``untimed`` have none."""

    timed: int
    untimed: int


def turns_of(conversations: Iterable[Conversation]) -> TurnsOfThePlan:
    turns = [
        turn
        for conversation in conversations
        if not is_history(conversation)
        for turn in conversation.turns
        if turn.role == "assistant"
    ]
    timed = sum(FIRST_AUDIO in (turn.timings or {}) for turn in turns)
    return TurnsOfThePlan(timed, len(turns) - timed)


def without(totals: Totals, *names: str, only: str | None = None) -> Totals:
    """Return the sums over all values of these labels, without zeros; of one sample name, or of all."""
    sums: Totals = defaultdict(float)
    for (name, labels), value in totals.items():
        dropped = names if only in (None, name) else ()
        sums[name, frozenset(pair for pair in labels if pair[0] not in dropped)] += value
    return {key: round(value, 6) for key, value in sums.items() if value}


def compare_with_plan(got: Totals, wanted: Totals, turns: TurnsOfThePlan) -> list[str]:
    """Return what in the engine's sums contradicts the plan."""
    got, wanted = (without(totals, "stage", only=_SLOW) for totals in (got, wanted))
    unknown = {
        labels: value - got.get((_SILENT, labels), 0)
        for (name, labels), value in wanted.items()
        if name == _SILENT
    }

    def is_exact(key: SampleKey) -> bool:
        name, labels = key
        place = frozenset(pair for pair in labels if pair[0] != "le")
        return (
            name not in (_SILENT, *_UNPLANNED)
            and _family(name) not in _ONLY_LIVE
            and (_family(name) not in _MORE_WITH_SILENT or not unknown.get(place))
        )

    wrong = differences(*({key: totals[key] for key in totals if is_exact(key)} for totals in (wanted, got)))
    for key in sorted(got.keys() | wanted.keys(), key=str):
        name, labels = key
        value, seen = wanted.get(key, 0), got.get(key, 0)
        if (name == _SILENT or _family(name) in _ONLY_LIVE) and seen > value:
            wrong.append(f"{name}{dict(labels)}: {seen!r} is more than the plan's {value!r}")
        if name in _COUNTS_WITH_SILENT and not 0 <= seen - value <= unknown.get(labels, 0):
            more = f"at most {unknown.get(labels, 0):.0f} more"
            wrong.append(f"{name}{dict(labels)}: expected {value!r} and {more}, got {seen!r}")
    return wrong + _timings(got, wanted, turns)


def _timings(got: Totals, wanted: Totals, turns: TurnsOfThePlan) -> list[str]:
    """What contradicts: timings counted + reported lost = timings of the plan."""
    lost = sum(value for (name, _), value in got.items() if name == LOST)
    wrong = []
    for family in TIMINGS.values():
        counted = _count(got, family)
        if _count(wanted, family) != turns.timed:
            wrong.append(f"the plan has {_count(wanted, family):.0f} {family}, not {turns.timed}")
        if not turns.timed <= counted + lost <= turns.timed + turns.untimed:
            wrong.append(
                f"{family}: {counted:.0f} counted and {lost:.0f} reported lost are not {turns.timed} of the plan "
                f"(and at most {turns.untimed} without timings)"
            )
    return wrong


def _count(totals: Totals, family: str) -> float:
    return sum(value for (name, _), value in totals.items() if name == f"{family}_count")


def _family(name: str) -> str:
    return next((name.removesuffix(each) for each in _SUFFIXES if name.endswith(each)), name)
