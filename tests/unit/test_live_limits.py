"""Bounds on the work that a peer causes, and on the memory of all feeds."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from exporter.phonic.live.limits import Allowance, Memory, Share


def test_an_allowance_is_spent_and_grows_again_up_to_its_maximum() -> None:
    allowance = Allowance(100, 10)
    assert allowance.spend(60, 5.0)
    assert allowance.spend(40, 5.0)
    assert not allowance.spend(1, 5.0)
    assert allowance.spend(19, 7.0)  # 20 more, 1 of them owed
    assert not allowance.spend(101, 1000.0)
    assert allowance.spend(100, 2000.0)


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 3)), max_size=30))
def test_an_allowance_never_exceeds_its_maximum_plus_its_rate(steps: list[tuple[int, float]]) -> None:
    allowance, now, spent = Allowance(100, 10), 0.0, 0
    for work, pause in steps:
        now += pause
        if allowance.spend(work, now):
            spent += work
    assert spent <= 100 + 10 * now + 1e-6


def shares(memory: Memory, count: int) -> tuple[list[Share], list[int]]:
    """Shares, and the numbers of those that gave up."""
    gave_up: list[int] = []

    def giving_up(number: int) -> Callable[[], None]:
        return lambda: gave_up.append(number)

    return [memory.share(giving_up(number)) for number in range(count)], gave_up


def test_beyond_the_bound_the_feed_that_holds_most_gives_up() -> None:
    memory = Memory(100)
    (a, b, c), gave_up = shares(memory, 3)
    a.resize(40)
    b.resize(50)
    c.resize(10)
    assert gave_up == []
    c.resize(11)
    assert (gave_up, memory.total) == ([1], 51)
    b.resize(100)  # closed, so not counted
    assert (gave_up, memory.total) == ([1], 51)


def test_a_feed_that_exceeds_the_bound_alone_gives_up() -> None:
    memory = Memory(100)
    (a, b), gave_up = shares(memory, 2)
    a.resize(30)
    b.resize(101)
    assert (gave_up, memory.total) == ([1], 30)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 60)), max_size=60))
def test_the_total_is_the_sum_of_the_shares_and_never_beyond_the_bound(steps: list[tuple[int, int]]) -> None:
    memory = Memory(100)
    all_of_them, gave_up = shares(memory, 5)
    for number, size in steps:
        if size < 0:
            all_of_them[number].close()
        else:
            all_of_them[number].resize(size)
        assert memory.total == sum(each.size for each in all_of_them) <= memory.most
    assert len(gave_up) == len(set(gave_up))
