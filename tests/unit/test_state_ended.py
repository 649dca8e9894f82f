"""Ids of ended conversations: a set that takes a few bytes for each and forgets an hour at a time."""

from random import Random

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from exporter.counting.retention import ENDED
from exporter.state.ended import Ended, hash_of, packed

HOUR = 3600.0
# A few small ones, and many that fall on the same slot of a small table.
some_hash = st.one_of(
    st.integers(1, 5), st.integers(0, 20).map(lambda each: (each << 40) + 1023), st.integers(1, 2**64 - 1)
)


def test_hashes_are_the_same_in_every_process_and_release() -> None:
    assert [hash_of(each) for each in ("", "conv_1", "\ud800")] == [
        13020603013274838756,
        17282780531970678674,
        16840983125765003981,
    ]
    assert packed([1, 0, 2**64 - 1]) == b"\1" + bytes(7) + b"\xff" * 8


class Remembered(RuleBasedStateMachine):
    """Compares with a dictionary of when each hash was last added, while time advances and is set back."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = Ended()
        self.model: dict[int, float] = {}
        self.forgotten_before = float("-inf")
        self.now = 1_800_000_000.0

    @rule(hashed=some_hash)
    def add(self, hashed: int) -> None:
        self.ended.add(hashed, self.now)
        self.model[hashed] = max(self.now, self.model.get(hashed, 0.0))

    @rule(seed=st.integers(0, 3), count=st.integers(1, 700))
    def add_many(self, seed: int, count: int) -> None:
        rng = Random(seed)
        for _ in range(count):
            self.add(rng.getrandbits(64) or 1)

    @rule(seconds=st.sampled_from((1.0, 1800.0, HOUR, 20 * HOUR, -60.0, -2 * HOUR)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def forget(self) -> None:
        self.forgotten_before = self.now - ENDED
        self.ended.forget(self.forgotten_before)
        # A table of an hour is forgotten together: hashes older than that are gone, ones after the bound are not.
        self.model = {
            each: at for each, at in self.model.items() if at >= self.forgotten_before or each in self.ended
        }
        assert all(at > self.forgotten_before - HOUR for at in self.model.values())

    @rule()
    def is_saved_and_restored(self) -> None:
        again = Ended()
        for at, slots in self.ended.dump():
            again.load(packed(slots), at)
        self.ended = again
        # A restored hash has the time of the newest end in its table.
        self.model = {each: max((at, *self._newest(each))) for each, at in self.model.items()}

    def _newest(self, hashed: int) -> list[float]:
        return [at for at, slots in self.ended.dump() if hashed in slots]

    @invariant()
    def all_are_known(self) -> None:
        assert all(each in self.ended for each in self.model)
        kept = {each for _, slots in self.ended.dump() for each in slots if each}
        assert kept == set(self.model)
        assert 12345678901234567 not in self.ended


TestRemembered = Remembered.TestCase
TestRemembered.settings = settings(stateful_step_count=15)


def test_a_day_of_28_ends_a_second_takes_less_than_64_mb_in_few_tables() -> None:
    """Three hours of it: tables grow during the first one and stay the same size after it."""
    ended = Ended()
    for each in range(3 * 3600 * 28):
        ended.add((each + 1) * 0x9E37_79B9_7F4A_7C15 & 0xFFFF_FFFF_FFFF_FFFF, each / 28)
    sizes = [len(slots) * slots.itemsize for _, slots in ended.dump()]
    first_hour, later = sizes[:-2], sizes[-2:]
    assert sum(first_hour) + 24 * max(later) < 64e6
    assert len(first_hour) + 24 <= 34
    assert max(sizes) <= 2 << 20  # the most that one operation allocates
    ended.forget(2 * 3600)
    assert len(ended.dump()) <= 2


def test_few_ends_take_little_memory() -> None:
    ended = Ended()
    for each in range(48):
        ended.add(each + 1, each * HOUR / 2)
    assert sum(len(slots) * 8 for _, slots in ended.dump()) <= 24 * 8192
