"""Conversations shared with other processes, with a virtual clock: what is offered, and what becomes of what is
received.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from random import Random

import attrs
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from exporter.enums import Started, Word
from exporter.phonic.schema import Conversation, Snapshot
from exporter.watch import assigned as assigned_module
from exporter.watch.assigned import PASS_INTERVAL, AssignedTargets
from exporter.watch.backfill import Backfill
from exporter.watch.interfaces import RecordState, Requester
from exporter.watch.supervisor import GRACE, Supervisor
from tests.feeds import ENDED, RecordingSink, ScriptedFeeds, ScriptedRecords, snapshot

A, B, C = "conv_a", "conv_b", "conv_c"
NOW = 1_780_000_000.0  # 2026-05-28
RECENT, YESTERDAY = "2026-05-28T20:00:00Z", "2026-05-26T10:00:00Z"
DISCOVERY, FLAG, PUSH = Requester.DISCOVERY, Requester.FLAG, Requester.PUSH


@attrs.define
class Others:
    """The other processes. Implements `exporter.watch.interfaces.Sharing`."""

    offered: list[tuple[str, Word]] = attrs.field(factory=list)

    def offer(self, conversation_id: str, word: Word) -> None:
        self.offered.append((conversation_id, word))

    async def elect(self, projects: Collection[str]) -> Collection[str]:
        return projects


@attrs.define
class Scene:
    """Targets of one workspace, and what surrounds them. ``records``: what REST has by id."""

    targets: AssignedTargets
    supervisor: Supervisor
    feeds: ScriptedFeeds
    sink: RecordingSink
    others: Others
    records: dict[str, Snapshot]
    read: list[str]
    is_up: bool = True

    def watched(self) -> set[str]:
        return {each.conversation_id for each in self.supervisor.watches()}


def record(conversation_id: str, *, started_at: str = RECENT, ended_at: str | None = None) -> Snapshot:
    return Snapshot(conversation=Conversation(conversation_id, started_at=started_at, ended_at=ended_at))


@asynccontextmanager
async def scene(
    *, feeds: ScriptedFeeds | None = None, limit: int = 100, has_rest: bool = True
) -> AsyncIterator[Scene]:
    feeds = feeds or ScriptedFeeds([])
    sink, others = RecordingSink(), Others()
    records: dict[str, Snapshot] = {}
    read: list[str] = []

    async def read_record(conversation_id: str) -> Snapshot | None:
        read.append(conversation_id)
        await trio.lowlevel.checkpoint()
        return records.get(conversation_id)

    supervisor = Supervisor(
        open_feed=feeds.open,
        sink=sink,
        records=ScriptedRecords(RecordState.LIVE) if has_rest else None,
        limit=limit,
        rng=Random(3),
        now=lambda: NOW,
    )
    backfill = Backfill(read_record, targets=supervisor, sink=sink, rng=Random(3), now=lambda: NOW)
    targets = AssignedTargets(
        supervisor, others, sink=sink, backfill=backfill if has_rest else None, is_up=lambda: on.is_up
    )
    on = Scene(targets, supervisor, feeds, sink, others, records, read)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        nursery.start_soon(targets.run)
        yield on
        nursery.cancel_scope.cancel()


def in_virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test with a clock that jumps as soon as all tasks are blocked."""

    @functools.wraps(test)
    def run(**arguments: object) -> None:
        trio.run(functools.partial(test, **arguments), clock=MockClock(autojump_threshold=0))

    return run


# --- offers


@in_virtual_time
async def test_what_is_found_is_offered_and_not_watched_here_until_it_is_received() -> None:
    async with scene() as on:
        assert on.targets.start(A, DISCOVERY) is Started.STARTED
        await wait_all_tasks_blocked()
        assert on.others.offered == [(A, Word.LIVE)]
        assert on.watched() == set()
        assert on.targets.is_watched(A)  # by somebody, so that the lists do not look for it
        on.targets.receive(A, Word.LIVE)
        assert on.watched() == {A}


@in_virtual_time
async def test_each_word_is_offered_once_and_only_higher_ones_after_it() -> None:
    async with scene() as on:
        for _ in range(3):
            on.targets.start(A, DISCOVERY)
            on.targets.start(A, FLAG)
        on.targets.add(A)
        on.targets.start(A, DISCOVERY)
        assert on.targets.is_watched(A)
        on.targets.add(A, is_over=True)
        assert not on.targets.is_watched(A)
        on.targets.add(A)
        on.targets.add(A, is_over=True)
        on.targets.over(A)
        assert on.others.offered == [(A, Word.LIVE), (A, Word.CHECK), (A, Word.ENDED)]


@in_virtual_time
async def test_the_end_of_what_was_offered_is_offered_and_of_nothing_else() -> None:
    async with scene() as on:
        on.targets.over(B)
        on.targets.start(A, DISCOVERY)
        on.targets.over(A)
        on.targets.over(A)
        assert on.others.offered == [(A, Word.LIVE), (A, Word.ENDED)]


@in_virtual_time
async def test_what_is_watched_here_is_not_offered_and_its_end_closes_the_feed_after_the_grace() -> None:
    async with scene() as on:
        on.targets.receive(A, Word.LIVE)
        await wait_all_tasks_blocked()
        assert on.targets.start(A, PUSH) is Started.ALREADY_WATCHED
        on.targets.over(A)
        await trio.sleep(GRACE - 1)
        assert on.sink.of("finish", A) == []
        await trio.sleep(2)
        assert len(on.sink.of("finish", A)) == 1
        assert on.others.offered == []


@in_virtual_time
async def test_a_conversation_whose_end_was_counted_here_is_refused_and_not_offered() -> None:
    async with scene(feeds=ScriptedFeeds([snapshot(A), ENDED])) as on:
        on.targets.receive(A, Word.LIVE)
        await trio.sleep(60)
        assert len(on.sink.of("finish", A)) == 1
        assert on.targets.start(A, PUSH) is Started.FINISHED
        for word in Word:
            on.targets.receive(A, word)
        await trio.sleep(2 * PASS_INTERVAL)
        assert len(on.sink.of("finish", A)) == 1
        assert on.others.offered == []
        assert on.targets.left_over() == {}


@in_virtual_time
async def test_the_oldest_offers_are_forgotten_and_made_again() -> None:
    async with scene() as on:
        for number in range(assigned_module.MOST_OFFERED + 1):
            on.targets.start(f"conv_{number}", DISCOVERY)
        del on.others.offered[:]
        on.targets.start("conv_1", DISCOVERY)
        on.targets.start("conv_0", DISCOVERY)
        assert on.others.offered == [("conv_0", Word.LIVE)]


# --- what is received


@in_virtual_time
async def test_a_conversation_received_twice_is_watched_once() -> None:
    async with scene() as on:
        for _ in range(2):
            on.targets.receive(A, Word.LIVE)
            await wait_all_tasks_blocked()
        assert len(on.feeds.opened[A]) == 1
        on.targets.receive(A, Word.CHECK)  # its watcher knows better
        await trio.sleep(2 * PASS_INTERVAL)
        assert on.read == []
        assert on.watched() == {A}


@in_virtual_time
async def test_what_the_watch_limit_keeps_out_waits_in_order_and_begins_when_there_is_room() -> None:
    feeds = ScriptedFeeds([], conv_a=[[snapshot(A), 50.0, ENDED]])
    async with scene(feeds=feeds, limit=1) as on:
        for each in (A, B, C):
            on.targets.receive(each, Word.LIVE)
        assert on.watched() == {A}
        assert on.targets.left_over() == dict.fromkeys((A, B, C), Word.LIVE)
        assert len(on.sink.of("over_limit", B)) == 1
        await trio.sleep(60)
        assert on.watched() == set()
        on.targets.start_waiting()
        assert on.watched() == {B}
        assert on.targets.left_over() == dict.fromkeys((B, C), Word.LIVE)


@in_virtual_time
async def test_what_ends_while_the_limit_keeps_it_out_is_counted_from_its_record() -> None:
    async with scene(limit=1) as on:
        on.targets.receive(A, Word.LIVE)
        on.targets.receive(B, Word.LIVE)
        on.records[B] = record(B, ended_at="2026-05-28T20:01:00Z")
        on.targets.receive(B, Word.ENDED)
        await trio.sleep(10 * PASS_INTERVAL)
        assert len(on.sink.of("finish", B)) == 1
        assert on.targets.left_over() == {A: Word.LIVE}
        on.targets.start_waiting()
        assert on.watched() == {A}


@in_virtual_time
async def test_a_conversation_to_check_is_watched_if_its_record_has_no_end() -> None:
    async with scene() as on:
        on.records[A] = record(A)
        on.targets.receive(A, Word.CHECK)
        assert on.targets.left_over() == {A: Word.CHECK}
        await trio.sleep(2)
        assert on.read == [A]
        assert on.watched() == {A}
        assert on.targets.left_over() == {A: Word.LIVE}


@in_virtual_time
async def test_a_conversation_that_phonic_never_closed_is_dismissed() -> None:
    """Else it stays assigned for ever, and its shard can never be drained."""
    async with scene() as on:
        on.records[A] = record(A, started_at=YESTERDAY)
        on.targets.receive(A, Word.CHECK)
        await trio.sleep(2)
        assert on.sink.calls(A) == ["dismiss"]
        assert on.watched() == set()
        assert on.targets.left_over() == {}


@in_virtual_time
async def test_no_record_is_read_while_rest_does_not_answer() -> None:
    """Else its failures would count as the record's, and an end would be counted without it."""
    async with scene() as on:
        on.is_up = False
        on.targets.receive(A, Word.ENDED)
        await trio.sleep(20 * PASS_INTERVAL)
        assert on.read == []
        assert on.targets.left_over() == {A: Word.CHECK}
        on.is_up = True
        await trio.sleep(2 * PASS_INTERVAL)
        assert on.read != []


@in_virtual_time
async def test_a_record_that_is_not_complete_is_read_again_and_one_that_comes_meanwhile_at_once() -> None:
    async with scene() as on:
        on.targets.receive(A, Word.ENDED)
        await trio.sleep(PASS_INTERVAL / 2)
        assert on.read == [A]
        on.records[B] = record(B)
        on.targets.receive(B, Word.CHECK)
        await trio.sleep(2)
        assert on.read == [A, A, B]
        await trio.sleep(20 * PASS_INTERVAL)
        assert len(on.sink.of("finish", A)) + len(on.sink.of("dismiss", A)) == 1
        reads = len(on.read)
        await trio.sleep(10 * PASS_INTERVAL)
        assert len(on.read) == reads
        assert on.targets.left_over() == {B: Word.LIVE}


@in_virtual_time
async def test_an_end_is_taken_for_an_end_without_rest() -> None:
    async with scene(has_rest=False) as on:
        on.targets.receive(A, Word.CHECK)
        await trio.sleep(PASS_INTERVAL)
        assert on.sink.recorded == []
        on.targets.receive(A, Word.ENDED)
        await trio.sleep(PASS_INTERVAL)
        assert on.sink.calls(A)[0] == "ended"
        assert on.watched() == set()


@in_virtual_time
async def test_what_is_withdrawn_here_is_stopped_and_what_others_watch_is_left_to_them() -> None:
    async with scene() as on:
        on.targets.receive(A, Word.LIVE)
        on.targets.start(B, PUSH)
        on.targets.withdraw(B, PUSH)
        on.targets.withdraw(A, DISCOVERY)
        assert on.watched() == set()
        assert on.others.offered == [(B, Word.LIVE)]
        assert on.targets.is_watched(B)


# --- going on with what another process, or an earlier workspace, has left


@in_virtual_time
async def test_what_is_left_over_goes_on_in_the_next_targets_with_nothing_lost() -> None:
    """A taken assignment is read with the shard, and one not taken yet is told: both are received."""
    async with scene(limit=1) as first:
        first.targets.receive(A, Word.LIVE)
        first.targets.receive(B, Word.LIVE)
        first.targets.receive(C, Word.ENDED)
        left = first.targets.left_over()
    assert left == {A: Word.LIVE, B: Word.LIVE, C: Word.CHECK}
    async with scene() as next_one:
        next_one.records[C] = record(C, ended_at="2026-05-28T20:01:00Z")
        for conversation_id, word in left.items():
            next_one.targets.receive(conversation_id, word)
            next_one.targets.receive(conversation_id, word)
        await trio.sleep(10 * PASS_INTERVAL)
        assert next_one.watched() == {A, B}
        assert len(next_one.sink.of("finish", C)) == 1
        assert next_one.others.offered == []


@in_virtual_time
async def test_what_is_received_before_the_watchers_run_waits_for_them() -> None:
    sink, others = RecordingSink(), Others()
    supervisor = Supervisor(open_feed=ScriptedFeeds([]).open, sink=sink, records=None, limit=5, rng=Random(3))
    targets = AssignedTargets(supervisor, others, sink=sink, backfill=None)
    targets.receive(A, Word.LIVE)
    assert targets.left_over() == {A: Word.LIVE}
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        targets.start_waiting()
        assert supervisor.is_watched(A)
        nursery.cancel_scope.cancel()
