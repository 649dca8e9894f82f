"""Rounds under a virtual clock: when frames are handed out, and who is woken when."""

import socket
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.lowlevel import ParkingLot
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked
from trio_websocket import WebSocketConnection, wrap_client_stream, wrap_server_stream

from exporter.phonic.live.batching import TOGETHER, TURNS, Rounds, RoundStream
from exporter.phonic.live.client import MAX_MESSAGE, LiveFeed
from exporter.phonic.live.connection import Line
from exporter.phonic.live.errors import FeedClosed, FeedEnded
from exporter.phonic.live.limits import Memory
from exporter.phonic.live.mailbox import Inbox
from tests.feeds import AUDIO, ENDED, snapshot

ID = "conv_1"
PERIOD = 10.0
Streams = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]


@attrs.frozen
class Fed:
    """A feed, the far end of its connection, and what was handed out: frames and when, from the beginning on."""

    feed: LiveFeed
    peer: WebSocketConnection
    handed: list[tuple[str | bytes, float]] = attrs.field(factory=list)
    ends: list[FeedClosed] = attrs.field(factory=list)

    async def read(self) -> None:
        start = trio.current_time()
        try:
            while True:
                self.handed.append((await self.feed.receive(), trio.current_time() - start))
        except FeedClosed as closed:
            self.ends.append(closed)

    async def send(self, *frames: str) -> None:
        """Send frames, and wait until all that follows from it at once has happened."""
        for frame in frames:
            await self.peer.send_message(frame)
        await wait_all_tasks_blocked()


Story = Callable[[Fed], Awaitable[None]]


def with_a_feed(story: Story, *, streams: Streams = memory_stream_pair, is_read: bool = True) -> None:
    """Play a story on a feed over streams in memory, with virtual time and the first round at `PERIOD`."""

    async def play() -> None:
        ours: Any
        ours, theirs = streams()
        rounds = Rounds(PERIOD)
        accepted: list[WebSocketConnection] = []

        async def accept(nursery: trio.Nursery) -> None:
            accepted.append(await (await wrap_server_stream(nursery, theirs)).accept())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept, nursery)
            inbox = Inbox(ID, rounds)
            line: Any = Line(ours, RoundStream(ours), inbox, Memory().share(lambda: None), rounds, MAX_MESSAGE)
            client = await wrap_client_stream(nursery, line, "host", "/", max_message_size=0)
            feed = LiveFeed(inbox, client, line, rounds, trio.CancelScope())
            await wait_all_tasks_blocked()
            fed = Fed(feed, accepted[0])
            nursery.start_soon(feed.fill)
            nursery.start_soon(rounds.run)
            if is_read:
                nursery.start_soon(fed.read)
            await wait_all_tasks_blocked()
            await story(fed)
            nursery.cancel_scope.cancel()

    trio.run(play, clock=MockClock(autojump_threshold=0))


def test_snapshot_waits_for_the_next_round() -> None:
    async def story(fed: Fed) -> None:
        await fed.send(snapshot(ID, 1))
        assert fed.handed == []
        await trio.sleep(2 * PERIOD)
        assert fed.handed == [(snapshot(ID, 1), PERIOD)]

    with_a_feed(story)


def test_of_the_snapshots_of_one_round_only_the_newest_is_handed_out() -> None:
    async def story(fed: Fed) -> None:
        await fed.send(*(snapshot(ID, turns) for turns in range(5)))
        await trio.sleep(2 * PERIOD)
        assert fed.handed == [(snapshot(ID, 4), PERIOD)]
        assert fed.feed.superseded == 4
        assert fed.feed.superseded_bytes == sum(len(snapshot(ID, turns)) for turns in range(4))

    with_a_feed(story)


def test_snapshots_of_different_rounds_are_all_handed_out() -> None:
    async def story(fed: Fed) -> None:
        for turns in range(5):
            await fed.send(snapshot(ID, turns))
            await trio.sleep(2 * PERIOD)
        assert [frame for frame, _ in fed.handed] == [snapshot(ID, turns) for turns in range(5)]
        assert fed.feed.superseded == 0

    with_a_feed(story)


@pytest.mark.parametrize("other", [AUDIO, ENDED, "no json", '{"type": "conversation-updated"}'])
def test_what_is_no_snapshot_waits_for_nothing(other: str) -> None:
    async def story(fed: Fed) -> None:
        await fed.send(other)
        assert fed.handed == [(other, 0.0)]

    with_a_feed(story)


def test_a_snapshot_before_something_else_is_handed_out_before_it_and_at_once() -> None:
    async def story(fed: Fed) -> None:
        await fed.send(snapshot(ID, 1), snapshot(ID, 2), ENDED)
        assert fed.handed == [(snapshot(ID, 2), 0.0), (ENDED, 0.0)]

    with_a_feed(story)


def test_no_snapshot_stands_for_one_before_something_else() -> None:
    async def story(fed: Fed) -> None:
        for frame in (snapshot(ID, 1), AUDIO, snapshot(ID, 2), snapshot(ID, 3)):
            await fed.peer.send_message(frame)
        await trio.sleep(2 * PERIOD)
        assert [frame for frame, _ in fed.handed] == [snapshot(ID, 1), AUDIO, snapshot(ID, 3)]
        assert fed.feed.superseded == 1

    with_a_feed(story)


def test_a_snapshot_before_the_close_is_handed_out_at_once() -> None:
    async def story(fed: Fed) -> None:
        await fed.send(snapshot(ID, 1))
        await fed.peer.aclose(1000)
        await wait_all_tasks_blocked()
        assert fed.handed == [(snapshot(ID, 1), 0.0)]
        assert [type(end) for end in fed.ends] == [FeedEnded]

    with_a_feed(story)


def test_a_flood_of_other_messages_that_nobody_takes_waits_at_the_sender() -> None:
    sent = 0

    async def story(fed: Fed) -> None:
        async def flood() -> None:
            nonlocal sent
            for sent in range(1000):
                await fed.peer.send_message(f"{sent}")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            await wait_all_tasks_blocked()
            assert sent < 20
            assert [await fed.feed.receive() for _ in range(1000)] == [str(number) for number in range(1000)]

    with_a_feed(story, streams=lockstep_stream_pair, is_read=False)


async def test_rounds_for_nobody_sleep_for_good(autojump_clock: MockClock) -> None:  # noqa: ARG001
    rounds = Rounds(PERIOD)
    waiting = ParkingLot()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rounds.run)
        for _ in range(2):  # also after somebody was
            await wait_all_tasks_blocked()
            assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
            rounds.promise(waiting)
            await waiting.park()
        nursery.cancel_scope.cancel()


async def test_with_a_period_of_0_promises_are_kept_at_once_and_nothing_joins(
    autojump_clock: MockClock,  # noqa: ARG001
) -> None:
    rounds = Rounds(0)
    waiting = ParkingLot()
    assert rounds.join(0) is None
    rounds.leave(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rounds.run)
        nursery.start_soon(waiting.park)
        await wait_all_tasks_blocked()
        rounds.promise(waiting)
        await wait_all_tasks_blocked()
        assert not waiting
        assert trio.current_time() == 0
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
        nursery.cancel_scope.cancel()


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def test_the_selector_is_closed_at_the_end_and_leaving_is_allowed_then() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = descriptors()
        rounds = Rounds(PERIOD)
        for _ in range(2):  # it can be run again
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rounds.run)
                assert rounds.join(ours.fileno()) is not None
                await wait_all_tasks_blocked()
                assert descriptors() == before + 1
                nursery.cancel_scope.cancel()
            assert descriptors() == before
            rounds.leave(ours.fileno())


async def test_of_those_that_do_much_few_have_a_turn_in_one_pass(autojump_clock: MockClock) -> None:  # noqa: ARG001
    rounds = Rounds(PERIOD)
    had = 0
    seen: list[int] = []

    async def do_much() -> None:
        nonlocal had
        await rounds.turn()
        had += 1

    async with trio.open_nursery() as nursery:
        for _ in range(5 * TURNS):
            nursery.start_soon(do_much)
        nursery.start_soon(rounds.run)
        while had < 5 * TURNS:
            seen.append(had)
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    steps = [after - before for before, after in pairwise([*seen, had])]
    assert max(steps) <= 2 * TURNS  # this task looks at any point of a pass


async def test_many_are_woken_a_few_at_a_time(autojump_clock: MockClock) -> None:  # noqa: ARG001
    rounds = Rounds(PERIOD)
    awake = 0
    seen: list[int] = []

    async def wait() -> None:
        nonlocal awake
        waiting = ParkingLot()
        rounds.promise(waiting)
        await waiting.park()
        awake += 1

    async with trio.open_nursery() as nursery:
        for _ in range(4 * TOGETHER + 1):
            nursery.start_soon(wait)
        nursery.start_soon(rounds.run)
        await trio.sleep(PERIOD)
        while awake <= 4 * TOGETHER:
            seen.append(awake)
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    steps = [after - before for before, after in zip(seen, [*seen[1:], awake], strict=True)]
    assert max(steps) <= 2 * TOGETHER  # this task looks at any point of a pass
