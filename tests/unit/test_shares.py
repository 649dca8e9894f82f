"""Limits of a process divided among workspaces: every one always gets its share, and no limit is exceeded."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from exporter.shares import Divided, Shares

NAMES = "abcd"
LIMITS = st.integers(0, 12)
STEPS = st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()))


def filled(shares: Shares, limit: int, steps: list[tuple[str, bool]]) -> Counter[str]:
    """What each workspace holds after they took and gave back in this order, within what `has_room` allows."""
    held: Counter[str] = Counter()
    for name, takes in steps:
        if not takes:
            held[name] = max(0, held[name] - 1)
        elif shares.has_room(held, name, limit):
            held[name] += 1
    return held


@given(LIMITS, STEPS)
def test_no_limit_is_exceeded_and_each_workspace_can_take_its_whole_share(
    limit: int, steps: list[tuple[str, bool]]
) -> None:
    shares = Shares(NAMES)
    held = filled(shares, limit, steps)
    assert held.total() <= limit
    for name in NAMES:
        mine = held.copy()
        while mine[name] < shares.of(limit):
            assert shares.has_room(mine, name, limit)
            mine[name] += 1
        assert mine.total() <= limit


@given(LIMITS, STEPS)
def test_nothing_of_a_limit_is_wasted_on_those_who_have_their_share(
    limit: int, steps: list[tuple[str, bool]]
) -> None:
    shares = Shares(NAMES)
    held = filled(shares, limit, steps)
    while takers := [name for name in NAMES if shares.has_room(held, name, limit)]:
        held[takers[0]] += 1
    assert held.total() == limit


@given(LIMITS, STEPS, st.sets(st.sampled_from(NAMES)))
def test_workspaces_that_come_and_go_never_exceed_a_limit(
    limit: int, steps: list[tuple[str, bool]], later: set[str]
) -> None:
    shares = Shares(NAMES[:2])
    held = filled(shares, limit, steps)
    shares.set(later)
    while takers := [name for name in NAMES if shares.has_room(held, name, limit)]:
        held[takers[-1]] += 1
        assert held.total() <= limit


@given(LIMITS)
def test_one_workspace_has_the_whole_limit(limit: int) -> None:
    for shares in (Shares(), Shares(["acme"])):
        (name,) = shares._owners
        held: Counter[str] = Counter()
        while shares.has_room(held, name, limit):
            held[name] += 1
        assert held[name] == limit == shares.of(limit)


def test_a_value_counts_in_each_workspace_that_holds_it() -> None:
    values: Divided[str] = Divided(Shares(["acme", "globex"]))
    for name in ("acme", "globex"):
        values.add(name, "main")
        values.add(name, "main")
    assert len(values) == 2
    assert values.has_room("acme", 3)
    assert not values.has_room("acme", 2)
    assert not values.is_beyond_share("acme", 2)
    assert values.is_beyond_share("acme", 1)
    values.discard("acme", "main")
    assert not values.holds("acme", "main")
    assert values.holds("globex", "main")
    assert len(values) == 1
