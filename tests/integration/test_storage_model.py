"""Both places that hold the state, a file and a shard in a real PostgreSQL, against one simple model.

``python -m pytest --hypothesis-profile=thorough`` searches for longer, as ``make soak`` does.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from exporter.enums import Word
from exporter.state.ended import packed
from exporter.state.history import Remembered
from exporter.state.rows import Changes, HeldBack, HistoryLimits, Saved, SavedConversation, SavedEnds, SavedSeries
from exporter.state.storage import Assigned, Fenced, Lost, Storage
from tests.postgres import Database
from tests.storages import NAMES, NEIGHBOUR, NOW, FilePlace, Place, ShardPlace

FAMILIES = ("phonic_conversations_total", "phonic_turns_total")
LAYOUTS = {FAMILIES[0]: (), FAMILIES[1]: (0.5, 2.0)}
HISTORY = HistoryLimits(conversations=1000, seconds=86_400.0)

texts = st.text(max_size=6) | st.sampled_from(
    ("a", "A", "%", "_", "\\", "a%b", "\0", "x" * 128, "\U0001f600" * 128)
)
ids = st.integers(1, 6).map("conv_{}".format)
keys = st.tuples(st.sampled_from(FAMILIES), st.lists(texts, min_size=1, max_size=3).map(tuple))

Key = tuple[str, tuple[str, ...]]


@st.composite
def remembered(draw: st.DrawFn) -> Remembered:
    number = st.floats(0, 1e6) | st.none()
    return Remembered(
        conversation_id=draw(st.uuids(version=4).map("conv_{}".format)),
        ended_at=NOW - draw(st.integers(0, 1000)),
        project=draw(texts),
        agent=draw(texts),
        ended_by=draw(st.sampled_from(("user", "assistant", "unknown"))),
        is_failed=draw(st.booleans()),
        duration=draw(number),
        turns=draw(st.integers(0, 1000)),
        slowest=draw(number),
        packed=draw(st.binary(max_size=50)),
    )


@attrs.frozen(kw_only=True)
class Batch:
    """What one write changes."""

    series: dict[Key, tuple[int, ...]]
    held: list[HeldBack] | None
    conversations: dict[str, bytes]
    finished: list[str]
    forgotten: list[str]
    ends: list[SavedEnds]
    remembered: list[Remembered]

    def changes(self, *, conversations: Callable[[], Iterable[SavedConversation]] | None = None) -> Changes:
        return Changes(
            series=lambda: [
                SavedSeries(family, labels, LAYOUTS[family], numbers)
                for (family, labels), numbers in self.series.items()
            ],
            held=self.held,
            conversations=conversations
            or (lambda: [SavedConversation(id_, blob) for id_, blob in self.conversations.items()]),
            finished=self.finished,
            forgotten=self.forgotten,
            ends=lambda: self.ends,
            families=FAMILIES,
            first_start=NOW,
            is_empty=False,
            remembered=lambda: self.remembered,
        )


NOTHING = Batch(series={}, held=None, conversations={}, finished=[], forgotten=[], ends=[], remembered=[])

batches = st.builds(
    Batch,
    series=st.dictionaries(keys, st.lists(st.integers(0, 10**30), min_size=1, max_size=4).map(tuple), max_size=4),
    held=st.none()
    | st.lists(
        st.builds(HeldBack, st.sampled_from(("", *FAMILIES)), st.tuples(texts), st.booleans()),
        max_size=2,
        unique_by=lambda each: (each.family, each.labels),
    ),
    conversations=st.dictionaries(ids, st.binary(max_size=30), max_size=4),
    finished=st.lists(ids, max_size=2, unique=True),
    forgotten=st.lists(ids, max_size=2, unique=True),
    ends=st.lists(
        st.builds(SavedEnds, st.just(NOW), st.lists(st.integers(1, 2**64 - 1), min_size=1).map(packed)), max_size=2
    ),
    remembered=st.lists(remembered(), max_size=2),
)


@attrs.define
class Model:
    """What a place must hold."""

    series: dict[Key, tuple[int, ...]] = attrs.field(factory=dict)
    held: list[HeldBack] = attrs.field(factory=list)
    conversations: dict[str, bytes] = attrs.field(factory=dict)
    ends: list[SavedEnds] = attrs.field(factory=list)
    history: dict[str, Remembered] = attrs.field(factory=dict)
    is_written: bool = False

    def write(self, batch: Batch, *, everything: bool, nul: str) -> None:
        if everything:
            self.series, self.held, self.conversations, self.ends = {}, [], {}, []
        self.series |= batch.series
        if batch.held is not None:
            self.held = batch.held
        for each in batch.forgotten:
            self.conversations.pop(each, None)
        self.conversations |= batch.conversations
        for each in batch.finished:
            self.conversations.pop(each, None)
        self.ends = [*self.ends, *batch.ends]
        for row in batch.remembered:
            project, agent = row.project.replace("\0", nul), row.agent.replace("\0", nul)
            self.history[row.conversation_id] = attrs.evolve(row, project=project, agent=agent)
        self.is_written = True

    def check(self, saved: Saved | None, *, has_ends: bool) -> None:
        if not self.is_written:
            assert saved is None
            return
        assert saved is not None
        assert (saved.label_names, saved.families, saved.first_start) == (NAMES, FAMILIES, NOW)
        assert len(saved.series) == len(self.series)
        assert {(each.family, each.labels): each.numbers for each in saved.series} == self.series
        assert all(each.layout == LAYOUTS[each.family] for each in saved.series)
        assert sorted(saved.held, key=repr) == sorted(self.held, key=repr)
        assert len(saved.conversations) == len(self.conversations)
        assert {each.id: each.blob for each in saved.conversations} == self.conversations
        assert saved.ends == (self.ends if has_ends else [])

    def check_history(self, storage: Storage) -> None:
        rows, count = storage.list_history("", 500)
        assert count == len(rows) == len(self.history)
        known = [attrs.evolve(self.history[each.conversation_id], packed=b"") for each in rows]
        assert rows == known
        assert [_rank(each) for each in rows] == sorted(map(_rank, rows))
        for each in self.history.values():
            assert storage.recall(each.conversation_id) == each.packed
        assert storage.recall("conv_unknown") is None

    def matches(self, query: str) -> set[str]:
        return {
            each.conversation_id
            for each in self.history.values()
            if any(
                query.lower() in text.lower()
                for text in (each.conversation_id, each.project, each.agent, each.ended_by)
            )
        }


def _rank(each: Remembered) -> tuple[bool, bool, float, float]:
    return (not each.is_failed, each.slowest is None, -(each.slowest or 0.0), -each.ended_at)


class Broken(Exception):
    """What a source of rows raises."""


class Writes(RuleBasedStateMachine):
    """Writes, reads and ends, which every place must survive."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.model = Model()
        self.received: Sequence[Assigned] = ()
        self.reopen()

    def reopen(self) -> None:
        self.received = ()
        self.has_history = True
        saved = self.place.open(history=HISTORY)
        self.model.check(saved, has_ends=self.place.has_ends)
        self.model.check_history(self.place.storage)

    @rule(batch=batches, everything=st.booleans())
    def write(self, batch: Batch, everything: bool) -> None:
        everything = everything or not self.model.is_written
        self.put(batch, everything=everything)
        self.model.write(batch, everything=everything, nul=self.place.nul)
        self.has_history = True

    def put(self, batch: Batch, *, everything: bool) -> None:
        self.place.storage.put(batch.changes(), everything=everything, at=NOW, received=self.received)

    @rule(batch=batches, everything=st.booleans())
    def write_that_breaks_off(self, batch: Batch, everything: bool) -> None:
        def broken() -> NoReturn:
            raise Broken

        with pytest.raises((Broken, Lost)):
            self.place.storage.put(
                batch.changes(conversations=broken), everything=everything, at=NOW, received=self.received
            )
        self.has_history = False  # a file is opened again by the next write

    @rule()
    def is_restarted(self) -> None:
        self.place.leave()
        self.reopen()

    @rule()
    def is_killed(self) -> None:
        self.place.kill()
        self.reopen()

    @precondition(lambda self: self.has_history)
    @rule()
    def history_is_listed(self) -> None:
        self.model.check_history(self.place.storage)

    @precondition(lambda self: self.has_history)
    @rule(query=st.sampled_from(("a", "A", "%", "_", "\\", "a%", "conv_", "USER", "nothing")))
    def history_is_searched(self, query: str) -> None:
        rows, count = self.place.storage.list_history(query, 500)
        assert {each.conversation_id for each in rows} == self.model.matches(query)
        assert count == len(rows)
        assert self.place.storage.list_history(query, 1) == (rows[:1], count)

    def teardown(self) -> None:
        try:
            with suppress(Exception):
                self.place.leave()
        finally:
            self.place.end()


@attrs.define
class Assignment:
    """What is known of a conversation that was offered."""

    word: Word
    is_taken: bool = False
    is_over: bool = False


class Shared(Writes):
    """As `Writes`, with others that offer conversations and take the shard."""

    def __init__(self, place: ShardPlace) -> None:
        self.shard = place
        self.assignments: dict[str, Assignment] = {}
        super().__init__(place)

    def reopen(self) -> None:
        super().reopen()
        assert {each.id: each.word for each in self.shard.assigned} == {
            id_: each.word for id_, each in self.assignments.items() if not each.is_over
        }
        assert self.shard.neighbour() == NEIGHBOUR

    @rule(offered=st.lists(st.tuples(ids, st.sampled_from(Word)), min_size=1, max_size=4))
    def offer(self, offered: list[tuple[str, Word]]) -> None:
        self.shard.registry.offer([Assigned(id_, "a workspace", word) for id_, word in offered])
        for id_, word in sorted(offered, key=lambda each: each[1]):
            known = self.assignments.setdefault(id_, Assignment(word))
            if not known.is_over and known.word < word:
                known.word, known.is_taken = word, False

    def put(self, batch: Batch, *, everything: bool) -> None:
        def untaken() -> dict[str, Word]:
            return {
                id_: each.word for id_, each in self.assignments.items() if not (each.is_taken or each.is_over)
            }

        before = untaken()
        told = self.shard.storage.put(batch.changes(), everything=everything, at=NOW, received=self.received)
        for each in self.received:
            known = self.assignments[each.id]
            known.is_taken |= known.word is each.word
        for id_ in {*batch.finished, *(set(batch.forgotten) - batch.conversations.keys())}:
            if id_ in self.assignments:
                self.assignments[id_].is_over = self.assignments[id_].is_taken = True
        named = {each.id: each.word for each in told}
        assert untaken().items() <= named.items() <= before.items()
        assert all(each.workspace == "a workspace" for each in told)
        self.received = told

    @rule(batch=batches, everything=st.booleans())
    @precondition(lambda self: self.model.is_written)
    def write_that_arrives_late(self, batch: Batch, everything: bool) -> None:
        self.write(NOTHING, everything=False)
        with pytest.raises(Fenced):
            self.shard.late().put(batch.changes(), everything=everything, at=NOW, received=())
        self.unchanged()

    @rule()
    def is_taken_over(self) -> None:
        self.shard.end_lease()
        self.reopen()

    @rule(batch=batches, everything=st.booleans(), which=st.integers(0, 100))
    @precondition(lambda self: self.shard.earlier)
    def earlier_holder_writes(self, batch: Batch, everything: bool, which: int) -> None:
        earlier = self.shard.earlier[which % len(self.shard.earlier)]
        with pytest.raises(Fenced):
            earlier.put(batch.changes(), everything=everything, at=NOW, received=())
        with pytest.raises(Fenced):
            earlier.renew()
        earlier.release()
        self.unchanged()

    def unchanged(self) -> None:
        saved, _ = self.shard.storage.read()
        self.model.check(saved, has_ends=False)
        self.shard.storage.renew()


def bounded() -> settings:
    """An eighth of the examples that the profile says: each has a storage of its own, and twenty steps."""
    return settings(max_examples=settings().max_examples // 8, stateful_step_count=20)


def test_a_file_holds_what_was_written_to_it_last(tmp_path: Path) -> None:
    numbers = itertools.count()

    class OfFile(Writes):
        def __init__(self) -> None:
            super().__init__(FilePlace(tmp_path / str(next(numbers))))

    run_state_machine_as_test(OfFile, settings=bounded())


def test_a_shard_holds_what_its_holders_wrote_last(database: Database) -> None:
    class OfShard(Shared):
        def __init__(self) -> None:
            super().__init__(ShardPlace(database))

    run_state_machine_as_test(OfShard, settings=bounded())
