"""Two conversations over real sockets: one meets every kind of bad server behaviour, the totals stay exact."""

from random import Random

import trio

from exporter.conversations import Conversations
from exporter.enums import FeedError, Invalid, Lost, Started
from exporter.metrics import catalog
from exporter.metrics.store import LabelLimits, MetricStore
from exporter.phonic.credentials import ApiKey, Credentials
from exporter.phonic.decode import MOST_DOCUMENTS, decode
from exporter.phonic.live.client import Timeouts, open_live
from exporter.phonic.schema import Snapshot
from exporter.watch.interfaces import Requester
from exporter.watch.supervisor import Supervisor
from exporter.watch.watcher import Retry
from tests.feeds import AUDIO, ENDED, OTHER_ERROR, snapshot
from tests.servers import close_frame, frame, request, reset, rude_server, upgrade
from tests.unit.counted import NOW, new_conversations, numbers_of, series_of, totals

STEADY, BROKEN = "conv_steady", "conv_broken"

# The connections of the broken conversation: bytes sent instead of an upgrade (BEFORE) or after one (AFTER),
# whether a reset follows, and the error that is counted.
BEFORE: list[tuple[bytes, bool, FeedError]] = [
    (b"", False, FeedError.CONNECT),
    (b"", True, FeedError.CONNECT),
    (b"220 mail.example.com ESMTP\r\n", False, FeedError.PROTOCOL),
    (b"HTTP/1.1 101 X\r\n\r\n", False, FeedError.PROTOCOL),
    (b"HTTP/1.0 500 Oh\r\n\r\nno", False, FeedError.HTTP_5XX),
    (b"HTTP/1.1 404 Not yet\r\nContent-Length: 0\r\n\r\n", False, FeedError.HTTP_404),
    (b"HTTP/1.1 429 Slow\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n", False, FeedError.HTTP_429),
    (b"HTTP/1.1 302 There\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", False, FeedError.HTTP_OTHER),
]
AFTER: list[tuple[bytes, bool, FeedError]] = [
    (b"", False, FeedError.CLOSED_ABNORMALLY),
    (frame(b"x" * 200)[:100], False, FeedError.CLOSED_ABNORMALLY),
    (b"\x83\x00", False, FeedError.PROTOCOL),
    (frame(b"\xff\xfe"), False, FeedError.PROTOCOL),
    (frame(b"not json") + close_frame(1011), False, FeedError.CLOSED_INTERNAL_ERROR),
    (frame(b"[]") + close_frame(1001), False, FeedError.CLOSED_GOING_AWAY),
    (frame(snapshot(STEADY, 99).encode()) + close_frame(1012), False, FeedError.CLOSED_RESTART),
    (frame(AUDIO.encode()) + close_frame(4010), False, FeedError.CLOSED_OTHER),
    (frame((AUDIO * (MOST_DOCUMENTS + 1)).encode()) + close_frame(4011), False, FeedError.CLOSED_OTHER),
    (frame(OTHER_ERROR.encode()), False, FeedError.ERROR_MESSAGE),
]


class SignallingConversations(Conversations):
    """`Conversations` that set ``all_finished`` when both conversations are finished."""

    all_finished: trio.Event

    def finish(
        self, conversation_id: str, record: Snapshot | None, lost: Lost | None = None, workspace: str = ""
    ) -> None:
        super().finish(conversation_id, record, lost, workspace)
        if self.is_finished(STEADY) and self.is_finished(BROKEN):
            self.all_finished.set()


def counted(conversations: Conversations, family: catalog.Family) -> dict[str, int]:
    """The counts of a process family that are not 0, by its only label."""
    found = {each.labels[0]: numbers_of(each)[0] for each in series_of(conversations.store, family)}
    return {label: count for label, count in found.items() if count}


async def test_bad_server_behaviour_changes_no_total() -> None:
    turn, next_turn = trio.open_memory_channel[int](0)
    behaviours = [*((None, *each) for each in BEFORE), *((turns, *each) for turns, each in enumerate(AFTER, 1))]
    last = len(AFTER) + 1

    async def broken(stream: trio.SocketStream, handshake: bytes) -> None:
        number = len(met)
        if number == len(behaviours):
            await upgrade(stream, handshake)
            await stream.send_all(frame(snapshot(BROKEN, last).encode()) + frame(ENDED.encode()))
            await turn.send(number + 1)
            await turn.aclose()
            return
        turns, sent, is_reset, reason = behaviours[number]
        met.append(reason)
        await turn.send(number + 1)
        if turns is not None:
            await upgrade(stream, handshake)
            await stream.send_all(frame(snapshot(BROKEN, turns).encode()))
        await stream.send_all(sent)
        if is_reset:
            await reset(stream)

    async def steady(stream: trio.SocketStream, handshake: bytes) -> None:
        await upgrade(stream, handshake)
        async for turns in next_turn:
            await stream.send_all(frame(snapshot(STEADY, turns).encode()))
        await stream.send_all(frame(ENDED.encode()) + close_frame(1000))

    async def talk(stream: trio.SocketStream) -> None:
        handshake = await request(stream)
        await (steady if STEADY.encode() in handshake else broken)(stream, handshake)

    met: list[FeedError] = []
    conversations = SignallingConversations(MetricStore(LabelLimits()), live_limit=10, now=lambda: NOW)
    conversations.all_finished = trio.Event()
    with trio.fail_after(10):
        key, timeouts = Credentials(ApiKey("ph_test")), Timeouts(connect=2, disconnect=0.2)
        async with (
            rude_server(talk) as url,
            open_live(url, key, timeouts, batch_seconds=0.01) as live,
            trio.open_nursery() as nursery,
        ):
            supervisor = Supervisor(
                open_feed=live.open,
                sink=conversations,
                records=None,
                limit=10,
                retry=Retry(first=0.001, longest=0.002),
                rng=Random(1),
            )
            await nursery.start(supervisor.run)
            for each in (STEADY, BROKEN):
                assert supervisor.start(each, Requester.FLAG) is Started.STARTED
            await conversations.all_finished.wait()
            nursery.cancel_scope.cancel()

    expected = new_conversations()
    for conversation_id, turns in ((STEADY, len(behaviours) + 1), (BROKEN, last)):
        message = decode(snapshot(conversation_id, turns))
        assert message.snapshot is not None
        expected.update(conversation_id, message.snapshot)
        expected.ended(conversation_id)
        expected.finish(conversation_id, None)
    assert totals(conversations) == totals(expected)
    reasons = {reason.value: met.count(reason) for reason in met}
    assert counted(conversations, catalog.FEED_ERRORS) == reasons
    assert counted(conversations, catalog.INVALID_MESSAGES) == dict.fromkeys(Invalid, 1)
    assert [numbers_of(each)[0] for each in series_of(conversations.store, catalog.WATCHER_CRASHES)] == [0]
    assert conversations.live_entries() == []
    assert list(conversations.unfinished()) == []
