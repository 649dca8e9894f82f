"""Read batches under a virtual clock: when frames are handed out and tasks are woken."""

import json
import socket
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from sys import getsizeof
from typing import Any

import attrs
import pytest
import trio
from trio.lowlevel import ParkingLot
from trio.testing import (
    MockClock,
    assert_checkpoints,
    lockstep_stream_pair,
    memory_stream_pair,
    wait_all_tasks_blocked,
)
from trio_websocket import WebSocketConnection, wrap_client_stream, wrap_server_stream

from exporter.phonic.live.batching import HEAVY_AT_ONCE, WOKEN_AT_ONCE, BatchedStream, ReadBatches
from exporter.phonic.live.client import MAX_MESSAGE, LiveFeed
from exporter.phonic.live.connection import Connection
from exporter.phonic.live.errors import FeedClosed, FeedEnded
from exporter.phonic.live.fast_path import FrameReader
from exporter.phonic.live.limits import Memory
from exporter.phonic.live.mailbox import Mailbox
from tests.feeds import AUDIO, ENDED, snapshot

ID = "conv_1"
PERIOD = 10.0
Streams = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]


@attrs.frozen
class Fed:
    """A feed, the other end of its connection, and the frames that it handed out, each with the seconds."""

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
        """Send frames, and wait until all tasks are blocked."""
        for frame in frames:
            await self.peer.send_message(frame)
        await wait_all_tasks_blocked()


Story = Callable[[Fed], Awaitable[None]]


def with_a_feed(story: Story, *, streams: Streams = memory_stream_pair, is_read: bool = True) -> None:
    """Run a story with a feed over streams in memory, in virtual time, with the first batch at `PERIOD`."""

    async def play() -> None:
        ours: Any
        ours, theirs = streams()
        batches = ReadBatches(PERIOD)
        accepted: list[WebSocketConnection] = []

        async def accept(nursery: trio.Nursery) -> None:
            accepted.append(await (await wrap_server_stream(nursery, theirs)).accept())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept, nursery)
            mailbox = Mailbox(ID, batches)
            connection: Any = Connection(
                ours, BatchedStream(ours), mailbox, Memory(), batches, FrameReader(mailbox.put, MAX_MESSAGE)
            )
            client = await wrap_client_stream(nursery, connection, "host", "/", max_message_size=0)
            feed = LiveFeed(mailbox, client, connection, batches, trio.CancelScope())
            await wait_all_tasks_blocked()
            fed = Fed(feed, accepted[0])
            nursery.start_soon(feed.read_to_end)
            nursery.start_soon(batches.run)
            if is_read:
                nursery.start_soon(fed.read)
            await wait_all_tasks_blocked()
            await story(fed)
            nursery.cancel_scope.cancel()

    trio.run(play, clock=MockClock(autojump_threshold=0))


def test_a_snapshot_waits_for_the_next_batch() -> None:
    async def story(fed: Fed) -> None:
        await fed.send(snapshot(ID, 1))
        assert fed.handed == []
        await trio.sleep(2 * PERIOD)
        assert fed.handed == [(snapshot(ID, 1), PERIOD)]

    with_a_feed(story)


def test_only_the_newest_snapshot_of_a_batch_is_handed_out() -> None:
    async def story(fed: Fed) -> None:
        await fed.send(*(snapshot(ID, turns) for turns in range(5)))
        await trio.sleep(2 * PERIOD)
        assert fed.handed == [(snapshot(ID, 4), PERIOD)]
        assert fed.feed.superseded == 4
        assert fed.feed.superseded_bytes == sum(len(snapshot(ID, turns)) for turns in range(4))

    with_a_feed(story)


@pytest.mark.parametrize("style", [{}, {"indent": 1}, {"sort_keys": True}], ids=str)
def test_snapshots_in_another_layout_are_superseded_as_well(style: dict[str, Any]) -> None:
    frames = [json.dumps(json.loads(snapshot(ID, turns)), **style) for turns in range(5)]
    other = json.dumps(json.loads(snapshot("conv_2", 7)), **style)

    async def story(fed: Fed) -> None:
        await fed.send(*frames[:3])
        await trio.sleep(2 * PERIOD)
        assert fed.handed == [(frames[2], PERIOD)]
        await fed.send(frames[3], other, frames[4])
        await trio.sleep(2 * PERIOD)
        assert [frame for frame, _ in fed.handed] == [frames[2], frames[3], other, frames[4]]
        assert fed.feed.superseded == 2
        assert fed.feed.superseded_bytes == len(frames[0]) + len(frames[1])

    with_a_feed(story)


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_memory_of_frames_in_another_layout_is_counted_exactly(ensure_ascii: bool) -> None:
    frames = [
        json.dumps(json.loads(snapshot(ID, 1, text="ü" * size)), sort_keys=True, ensure_ascii=ensure_ascii)
        for size in (1000, 2000, 3000)
    ]
    mailbox = Mailbox(ID, ReadBatches(PERIOD))
    for frame in frames:
        mailbox.put(frame)
        assert mailbox.held == getsizeof(frame)
    mailbox.put(AUDIO)
    trio.run(mailbox.receive)
    assert mailbox.held == getsizeof(AUDIO)


def test_snapshots_of_different_batches_are_all_handed_out() -> None:
    async def story(fed: Fed) -> None:
        for turns in range(5):
            await fed.send(snapshot(ID, turns))
            await trio.sleep(2 * PERIOD)
        assert [frame for frame, _ in fed.handed] == [snapshot(ID, turns) for turns in range(5)]
        assert fed.feed.superseded == 0

    with_a_feed(story)


@pytest.mark.parametrize("other", [AUDIO, ENDED, "no json", '{"type": "conversation-updated"}'])
def test_other_frames_are_handed_out_at_once(other: str) -> None:
    async def story(fed: Fed) -> None:
        await fed.send(other)
        assert fed.handed == [(other, 0.0)]

    with_a_feed(story)


def test_a_snapshot_before_another_frame_is_handed_out_before_it_and_at_once() -> None:
    async def story(fed: Fed) -> None:
        await fed.send(snapshot(ID, 1), snapshot(ID, 2), ENDED)
        assert fed.handed == [(snapshot(ID, 2), 0.0), (ENDED, 0.0)]

    with_a_feed(story)


def test_a_snapshot_does_not_supersede_one_before_another_frame() -> None:
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


def test_unread_messages_make_the_sender_wait() -> None:
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


async def test_without_work_no_batch_is_made(autojump_clock: MockClock) -> None:  # noqa: ARG001
    batches = ReadBatches(PERIOD)
    waiting = ParkingLot()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batches.run)
        for _ in range(2):  # also after there was work
            await wait_all_tasks_blocked()
            assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
            batches.wake_in_next(waiting)
            await waiting.park()
        nursery.cancel_scope.cancel()


async def test_with_a_period_of_0_tasks_wake_at_once_and_nothing_is_registered(
    autojump_clock: MockClock,  # noqa: ARG001
) -> None:
    batches = ReadBatches(0)
    waiting = ParkingLot()
    assert batches.register(0) is None
    batches.unregister(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batches.run)
        nursery.start_soon(waiting.park)
        await wait_all_tasks_blocked()
        batches.wake_in_next(waiting)
        await wait_all_tasks_blocked()
        assert not waiting
        assert trio.current_time() == 0
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
        nursery.cancel_scope.cancel()


async def test_with_a_period_of_0_a_heavy_task_only_lets_others_run_once() -> None:
    batches = ReadBatches(0)
    with assert_checkpoints():
        await batches.heavy_checkpoint()  # without `run`


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def test_the_selector_is_closed_at_the_end_and_unregistering_is_still_allowed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = descriptors()
        batches = ReadBatches(PERIOD)
        for _ in range(2):  # it can be run again
            async with trio.open_nursery() as nursery:
                nursery.start_soon(batches.run)
                assert batches.register(ours.fileno()) is not None
                await wait_all_tasks_blocked()
                assert descriptors() == before + 1
                nursery.cancel_scope.cancel()
            assert descriptors() == before
            batches.unregister(ours.fileno())


async def test_few_heavy_tasks_run_in_one_pass_of_the_scheduler(autojump_clock: MockClock) -> None:  # noqa: ARG001
    batches = ReadBatches(PERIOD)
    had = 0
    seen: list[int] = []

    async def do_much() -> None:
        nonlocal had
        await batches.heavy_checkpoint()
        had += 1

    async with trio.open_nursery() as nursery:
        for _ in range(5 * HEAVY_AT_ONCE):
            nursery.start_soon(do_much)
        nursery.start_soon(batches.run)
        while had < 5 * HEAVY_AT_ONCE:
            seen.append(had)
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    steps = [after - before for before, after in pairwise([*seen, had])]
    assert max(steps) <= 2 * HEAVY_AT_ONCE  # this task may run at any point of a pass


async def test_few_tasks_are_woken_in_one_pass_of_the_scheduler(autojump_clock: MockClock) -> None:  # noqa: ARG001
    batches = ReadBatches(PERIOD)
    awake = 0
    seen: list[int] = []

    async def wait() -> None:
        nonlocal awake
        waiting = ParkingLot()
        batches.wake_in_next(waiting)
        await waiting.park()
        awake += 1

    async with trio.open_nursery() as nursery:
        for _ in range(4 * WOKEN_AT_ONCE + 1):
            nursery.start_soon(wait)
        nursery.start_soon(batches.run)
        await trio.sleep(PERIOD)
        while awake <= 4 * WOKEN_AT_ONCE:
            seen.append(awake)
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    steps = [after - before for before, after in zip(seen, [*seen[1:], awake], strict=True)]
    assert max(steps) <= 2 * WOKEN_AT_ONCE  # this task may run at any point of a pass
