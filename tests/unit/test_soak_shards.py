"""Parts of the soak of shards: what the comparison lets pass and what it finds, and the schedule."""

from collections import Counter

import attrs
import pytest

from exporter.simulator.plan import plan
from exporter.simulator.scenario import Conversation, Scenario
from tests.soak.oracle import TIMINGS, Totals, expected
from tests.soak.sums import LOST, compare_with_plan, turns_of, without
from tests.soak.troubles import FAULTS, RESHARDING, Kind, troubles

CALLS = list(plan(Scenario(seed=4, total=40, warm_up_s=0, calls_per_minute=60)))
TURNS = turns_of(CALLS)
WANTED = expected(CALLS, absences=())
REPORTED = (LOST, frozenset[tuple[str, str]]())


def untold(call: Conversation) -> Conversation:
    """The call as a record tells it: without timings and silence."""
    turns = tuple(attrs.evolve(turn, timings=None, silent=False) for turn in call.turns)
    return attrs.evolve(call, turns=turns)


def unfollowed(*lost: int) -> Totals:
    """Totals if the calls with these numbers ended before anyone followed them."""
    return without(expected([untold(call) if call.number in lost else call for call in CALLS], absences=()))


def wrong(got: Totals) -> list[str]:
    return compare_with_plan(got, WANTED, TURNS)


def timed(number: int) -> int:
    return turns_of([CALLS[number]]).timed


def test_the_sums_of_the_plan_agree_with_it() -> None:
    assert wrong(WANTED) == []
    assert wrong(unfollowed()) == []
    assert TURNS.timed > 100
    assert TURNS.untimed > 5


def test_lost_timings_pass_only_if_they_are_reported() -> None:
    number = max(range(len(CALLS)), key=timed)
    got = unfollowed(number)
    assert wrong(got | {REPORTED: timed(number)}) == []
    assert len(wrong(got | {REPORTED: timed(number) - 1})) == len(TIMINGS)
    assert len(wrong(got)) == len(TIMINGS)


def test_no_more_timings_are_reported_than_there_are_turns() -> None:
    assert wrong(WANTED | {REPORTED: TURNS.untimed}) == []
    assert len(wrong(WANTED | {REPORTED: TURNS.untimed + 1})) == len(TIMINGS)


@pytest.mark.parametrize("change", [-1, 1])
def test_every_other_sample_must_be_that_of_the_plan(change: int) -> None:
    loose = ("silent", "_seconds_bucket", "_seconds_count", "_seconds_sum", "slow_turns")
    exact = [key for key in WANTED if not any(each in key[0] for each in loose)]
    assert len({name for name, _ in exact}) > 8
    assert len(wrong(WANTED | {key: WANTED[key] + change for key in exact})) == len(exact)


def test_a_family_of_the_live_feed_never_has_more_than_the_plan() -> None:
    live = [key for key in WANTED if key[0] in [f"{family}_bucket" for family in TIMINGS.values()]]
    assert len(wrong(WANTED | {key: WANTED[key] + 1 for key in live})) == len(live)


@pytest.mark.parametrize("seed", range(20))
def test_each_kind_of_trouble_comes_about_equally_often(seed: int) -> None:
    drawn = troubles(seed, count=20, lease_s=2.0, kinds=(*FAULTS, *RESHARDING))
    count = Counter(each.kind for each in drawn)
    assert [count[kind] for kind in FAULTS] == [3] * len(FAULTS)
    assert [each.kind for each in drawn if each.kind in RESHARDING] == [Kind.ADD, Kind.DRAIN]
    assert all(3 <= each.after_s <= 6 for each in drawn)
    assert all(each.seconds > 2.0 for each in drawn if each.kind is Kind.STALL)
    assert drawn == troubles(seed, count=20, lease_s=2.0, kinds=(*FAULTS, *RESHARDING))
