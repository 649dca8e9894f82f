"""Successive pages: no number falls, each series begins at 0, and Prometheus adds up to what happened.

Uses the real `Conversations` and store with held series, and a disk in memory from which a crash restarts them.
What is expected is counted by `tests.strategies.Expected` from the plans of the conversations.
"""

from collections.abc import Callable

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from exporter.conversations import Conversations
from exporter.metrics.store import LabelLimits
from exporter.state.rows import Changes
from tests.strategies import Expected, History, Turn, histories
from tests.unit.counted import BUCKETS, NOW, Disk, live, new_conversations, recorded, shown

pytestmark = pytest.mark.usefixtures("quiet_logs")

HOLD = 30.0

Key = tuple[str, tuple[str, ...]]
Numbers = dict[Key, tuple[int, ...]]


class Fall(AssertionError):
    """A number was lower than on the page before, although all pages showed committed numbers."""


class BornLate(AssertionError):
    """The first page with a series did not show it at 0."""


@attrs.define
class Prometheus:
    """Adds up scraped samples by the rules of Prometheus. ``is_lenient``: whether a number may fall."""

    last: Numbers = attrs.field(factory=dict)
    raised: Numbers = attrs.field(factory=dict)
    is_lenient: bool = False

    def scrape(self, page: Numbers) -> None:
        for key, numbers in page.items():
            before = self.last.get(key)
            if before is None:
                if any(numbers):
                    raise BornLate(key)
                before = numbers
            falls = [after < last for last, after in zip(before, numbers, strict=True)]
            if any(falls) and not self.is_lenient:
                raise Fall(key)
            rises = [
                after if fell else after - last for last, after, fell in zip(before, numbers, falls, strict=True)
            ]
            known = self.raised.get(key, (0,) * len(numbers))
            self.raised[key] = tuple(map(sum, zip(known, rises, strict=True)))
        self.last.update(page)  # a missing series continues from its last sample

    @property
    def increase(self) -> Numbers:
        return {key: numbers for key, numbers in self.raised.items() if any(numbers)}


@attrs.define
class Exporter:
    """A process, its state file, and the Prometheus that scrapes it. A crash leaves only the file."""

    hold: float = HOLD
    limits: LabelLimits = attrs.field(factory=LabelLimits)
    shows_counted: bool = False
    now: float = 0.0
    disk: Disk = attrs.field(factory=Disk)
    prometheus: Prometheus = attrs.field(factory=Prometheus)
    writing: Changes | None = None
    conversations: Conversations = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.conversations = self._started()

    def _started(self) -> Conversations:
        return self.disk.restored(new_conversations(self.limits, hold=self.hold, now=lambda: NOW + self.now))

    def begin_write(self) -> None:
        self.writing = self.conversations.changes(everything=not self.disk.families)

    def acknowledge(self) -> None:
        assert self.writing is not None
        self.disk.write(self.writing)
        self.conversations.committed(self.writing)
        self.writing = None

    def fail(self, *, after_all: bool) -> None:
        """A write fails; the file has it all the same if ``after_all``."""
        assert self.writing is not None
        if after_all:
            self.disk.write(self.writing)
        self.conversations.put_back(self.writing)
        self.writing = None

    def crash(self, *, after_all: bool) -> None:
        if self.writing is not None and after_all:
            self.disk.write(self.writing)
        self.writing = None
        self.conversations = self._started()

    def scrape(self, *, with_write: bool = True, arrives: bool = True) -> None:
        """Release, write and show as `metrics.publisher` does. ``arrives``: whether Prometheus gets the page."""
        store = self.conversations.store
        store.release(self.now)
        if with_write:
            if self.writing is None:
                self.begin_write()
            self.acknowledge()
        if self.shows_counted:
            store.show_counted()
        groups, page = store.held_back(), shown(self.conversations)
        if arrives:
            self.prometheus.scrape(page)
            store.seen(groups, self.now, by_prometheus=True)

    def settle(self) -> None:
        """Scrape until no series is held."""
        for _ in range(6):
            self.scrape()
            self.now += max(self.hold, 1.0)
        self.scrape()
        assert not self.conversations.store.held_back_count


class Scraped(RuleBasedStateMachine):
    """Any interleaving of counting, writing, failing, crashing and scraping."""

    def __init__(self) -> None:
        super().__init__()
        self.exporter = Exporter()
        self.plans: dict[str, History] = {}
        self.finished: dict[str, bool] = {}

    @initialize(sets=st.sampled_from((1, 2, 200)))
    def starts(self, sets: int) -> None:
        self.exporter = Exporter(limits=LabelLimits(sets=sets))
        self.folds = sets < 200

    @precondition(lambda self: len(self.plans) < 3)
    @rule(data=st.data())
    def conversation_begins(self, data: st.DataObject) -> None:
        conversation_id = f"conv_{len(self.plans)}"
        self.plans[conversation_id] = data.draw(histories(conversation_id))

    @precondition(lambda self: self.plans)
    @rule(data=st.data())
    def message_arrives(self, data: st.DataObject) -> None:
        history = self.plans[data.draw(st.sampled_from(sorted(self.plans)))]
        at = data.draw(st.integers(0, len(history.stages()) - 1))
        self.exporter.conversations.update(history.id, live(history.snapshots()[at]))

    @precondition(lambda self: self.plans)
    @rule(data=st.data(), with_record=st.booleans())
    def conversation_ends(self, data: st.DataObject, with_record: bool) -> None:
        history = self.plans[data.draw(st.sampled_from(sorted(self.plans)))]
        self.finished.setdefault(history.id, with_record)
        self._end(history)

    def _end(self, history: History) -> None:
        conversations = self.exporter.conversations
        conversations.update(history.id, live(history.snapshots()[-1]))
        conversations.ended(history.id)
        conversations.finish(history.id, recorded(history.record()) if self.finished[history.id] else None)

    @rule(agent=st.sampled_from(("support", "sales", "idle")))
    def agents_are_listed(self, agent: str) -> None:
        self.exporter.conversations.learn_agents("proj_1", [(f"id of {agent}", agent)])

    @precondition(lambda self: self.exporter.writing is None)
    @rule()
    def write_begins(self) -> None:
        self.exporter.begin_write()

    @precondition(lambda self: self.exporter.writing is not None)
    @rule()
    def write_is_acknowledged(self) -> None:
        self.exporter.acknowledge()

    @precondition(lambda self: self.exporter.writing is not None)
    @rule(after_all=st.booleans())
    def write_fails(self, after_all: bool) -> None:
        self.exporter.fail(after_all=after_all)

    @rule(after_all=st.booleans())
    def crashes(self, after_all: bool) -> None:
        self.exporter.crash(after_all=after_all)

    @rule(with_write=st.booleans(), arrives=st.booleans())
    def is_scraped(self, with_write: bool, arrives: bool) -> None:
        self.exporter.scrape(with_write=with_write, arrives=arrives)

    @rule(seconds=st.sampled_from((1.0, 5.0, 31.0)))
    def time_passes(self, seconds: float) -> None:
        self.exporter.now += seconds

    @precondition(lambda self: not self.exporter.prometheus.is_lenient)
    @rule(is_so=st.sampled_from((True, False, False, False)))
    def disk_is_broken_for_long(self, is_so: bool) -> None:
        """From now on a crash may make numbers fall; the pages at the end are exact all the same."""
        if is_so:
            self.exporter.conversations.store.show_counted()
            self.exporter.prometheus.is_lenient = True

    def teardown(self) -> None:
        """Each conversation gets its last message, as after any restart, and ends if it had ended."""
        exporter, expected = self.exporter, Expected()
        if exporter.writing is not None:
            exporter.acknowledge()
        for history in self.plans.values():
            is_over = history.id in self.finished
            if is_over:
                self._end(history)
            else:
                exporter.conversations.update(history.id, live(history.snapshots()[-1]))
            expected.conversation(
                history,
                history.stages()[-1],
                finished=is_over,
                record=self.finished.get(history.id, False),
            )
        exporter.settle()
        totals = expected.totals(BUCKETS)
        if self.folds:
            totals = without_agents(totals)
        page = {key: numbers for key, numbers in shown(exporter.conversations).items() if any(numbers)}
        assert (without_agents(page) if self.folds else page) == totals
        if not exporter.prometheus.is_lenient:
            increase = exporter.prometheus.increase
            assert (without_agents(increase) if self.folds else increase) == totals


def without_agents(totals: Numbers) -> Numbers:
    """Sum over the label sets, some of which the limit folds. Leaves out the counts of folded values."""
    sums: Numbers = {}
    for (name, labels), numbers in totals.items():
        if name == "phonic_exporter_label_values_folded_total":
            continue
        key = (name, labels if name.startswith("phonic_exporter_") else labels[2:])
        known = sums.get(key, (0,) * len(numbers))
        sums[key] = tuple(map(sum, zip(known, numbers, strict=True)))
    return sums


TestScraped = Scraped.TestCase
TestScraped.settings = settings(stateful_step_count=30)


# --- faults that the test above finds


def call(*, turns: int) -> History:
    return History(
        id="conv_1",
        agent="support",
        turns=tuple(Turn(role="user", start_ms=1000 * each, lengths_ms=(500,)) for each in range(turns)),
        ended_by="user",
        interruptions=0,
    )


def kill_between_a_page_and_its_write(exporter: Exporter) -> None:
    """A call is known and shown; it goes on, is scraped while no write succeeds, and the exporter is killed."""
    snapshots = call(turns=4).snapshots()
    exporter.conversations.update("conv_1", live(snapshots[1]))
    exporter.settle()
    exporter.conversations.update("conv_1", live(snapshots[-1]))
    exporter.scrape(with_write=False)
    exporter.crash(after_all=False)
    exporter.scrape(with_write=False)


def call_of_a_new_agent(exporter: Exporter) -> None:
    exporter.scrape()
    exporter.conversations.update("conv_1", live(call(turns=4).snapshots()[-1]))
    exporter.settle()


@pytest.mark.parametrize("scenario", [kill_between_a_page_and_its_write, call_of_a_new_agent])
def test_pages_of_committed_numbers_and_held_series_have_neither_fault(
    scenario: Callable[[Exporter], None],
) -> None:
    scenario(Exporter())


def test_pages_of_counted_numbers_fall_after_a_kill() -> None:
    with pytest.raises(Fall):
        kill_between_a_page_and_its_write(Exporter(shows_counted=True))


def test_series_that_are_not_held_are_born_with_their_numbers() -> None:
    with pytest.raises(BornLate):
        call_of_a_new_agent(Exporter(hold=0.0))


def test_series_of_other_labels_than_before_begin_at_zero_and_the_rest_goes_on() -> None:
    snapshots = call(turns=4).snapshots()
    exporter = Exporter()
    exporter.conversations.update("conv_1", live(snapshots[1]))
    exporter.conversations.forget("conv_2")
    exporter.settle()
    exporter.limits = LabelLimits(names=("origin",))
    exporter.crash(after_all=False)
    exporter.conversations.update("conv_1", live(snapshots[-1]))
    exporter.settle()
    increase = exporter.prometheus.increase
    assert increase["phonic_turns_total", ("proj_1", "support", "user")] == (1,)
    assert increase["phonic_turns_total", ("inbound", "user")] == (3,)
