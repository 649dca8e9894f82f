"""Tasks: follow one conversation over its live feed until it ends or cannot be followed any further.

Strategy: an outer loop of connections and an inner loop of messages. Everything that goes wrong with one
connection arrives as a `FeedClosed`, and its type says what to do; everything that goes wrong with one message
costs that message only. Nothing is kept here between messages: what was counted is the sink's business.
"""

from collections.abc import Callable
from enum import Enum
from random import Random

import attrs
import structlog
import trio

from ..enums import FeedError, MessageType, WatcherState
from ..phonic.decode import InvalidMessage, Message, unknown_fields
from ..phonic.live.errors import FeedClosed, FeedEnded, FeedLost, FeedNotFound, FeedRefused
from ..phonic.live.incremental import IncrementalDecoder
from ..phonic.schema import Snapshot
from .backoff import backoff
from .interfaces import Feed, OpenFeed, Sink

log = structlog.get_logger("exporter.watch")


class Outcome(Enum):
    """Why a watcher stopped."""

    ENDED = "ended"  # the feed said that the conversation is over
    REFUSED = "refused"  # 401, 403, 1008, or an error message that speaks of authentication
    NOT_FOUND = "not_found"  # 404 several times in a row


@attrs.frozen(kw_only=True)
class Retry:
    """When a lost feed is opened again; seconds."""

    first: float = 0.5
    longest: float = 30.0
    stable_after: float = 30.0  # only a connection that lasted this long earns a fresh start of the delays
    first_snapshot: float = 30.0  # a feed sends the current state at once; one that does not is lost
    not_found_most: int = 3


async def watch(
    conversation_id: str,
    *,
    open_feed: OpenFeed,
    sink: Sink,
    retry: Retry,
    rng: Random,
    set_state: Callable[[WatcherState], None],
    heard: Callable[[bool], None],
) -> Outcome:
    """Follow one conversation; network trouble is retried, never raised.

    ``heard`` is called with each snapshot: whether it says that the conversation is over, which ends no feed.
    Cancellation: leaves at once; what was counted stays counted.
    """
    delays = backoff(rng, first=retry.first, longest=retry.longest)
    not_found = 0
    say = log.info
    while True:
        opened_at: float | None = None
        delay = 0.0
        set_state(WatcherState.CONNECTING)
        try:
            async with open_feed(conversation_id) as feed:
                opened_at = trio.current_time()
                sink.connected(conversation_id)
                set_state(WatcherState.LIVE)
                await _read(_Counting(conversation_id, feed, sink, heard), retry.first_snapshot)
                return Outcome.ENDED
        except FeedEnded:
            return Outcome.ENDED
        except FeedClosed as closed:
            if closed.reason is not None:
                sink.feed_error(conversation_id, closed.reason)
                # One line when trouble begins: thousands of feeds may fail twice a minute for hours.
                if opened_at is not None:
                    say = log.info
                say("feed lost", conversation=conversation_id, reason=closed.reason.value)
                say = log.debug
            not_found = not_found + 1 if isinstance(closed, FeedNotFound) else 0
            if isinstance(closed, FeedRefused):
                return Outcome.REFUSED
            if not_found >= retry.not_found_most:
                return Outcome.NOT_FOUND
            if isinstance(closed, FeedLost) and closed.at_once:
                delays = backoff(rng, first=retry.first, longest=retry.longest)
                continue
            delay = closed.retry_after or 0.0
        if opened_at is not None and trio.current_time() - opened_at >= retry.stable_after:
            delays = backoff(rng, first=retry.first, longest=retry.longest)
        set_state(WatcherState.WAITING)
        # A live call is tried again within `longest`, whatever the server wishes; jitter spreads those that wait
        # alike.
        wait = delay + next(delays)
        await trio.sleep(wait if wait <= retry.longest else rng.uniform(0.8, 1.0) * retry.longest)


async def _read(counting: "_Counting", first_snapshot: float) -> None:
    """Count messages until one says that the conversation is over. Raises a `FeedClosed`."""
    with trio.move_on_after(first_snapshot) as waiting:
        while not counting.has_snapshot:
            if await counting.next():
                return
    if waiting.cancelled_caught:
        raise FeedLost(FeedError.NO_SNAPSHOT)
    while not await counting.next():
        pass


class _Counting:
    """Counts the messages of one connection."""

    def __init__(self, conversation_id: str, feed: Feed, sink: Sink, heard: Callable[[bool], None]) -> None:
        self.has_snapshot = False
        self._heard = heard
        self._conversation_id = conversation_id
        self._feed = feed
        self._sink = sink
        self._decoder = IncrementalDecoder(conversation_id)
        self._superseded = self._superseded_size = 0

    async def next(self) -> bool:
        """Wait for a message and count it; see `count`."""
        # Never in a variable here, which would keep the last message for as long as the feed is silent.
        return await self.count(await self._feed.receive())

    async def count(self, frame: str | bytes) -> bool:
        """Count what a frame brings; True where the conversation is over with it.

        Raises a `FeedClosed` for an error message. A checkpoint only where reading takes long.
        """
        self._count_superseded()
        size = len(frame)
        is_over = False
        try:
            for found in self._decoder.read(frame):
                if found is None:
                    await self._feed.pause()
                elif isinstance(found, Snapshot):
                    self._sink.update(self._conversation_id, found)
                else:
                    is_over = self._count(found, size, frame) or is_over
                    size = 0
        except InvalidMessage as bad:
            self._sink.invalid(self._conversation_id, bad.reason)
        return is_over

    def _count(self, message: Message, size: int, frame: str | bytes) -> bool:
        self._sink.message(message.type, size)
        if message.snapshot is not None:
            self._sink.decoded(message.path)
            self._sink.update(self._conversation_id, message.snapshot)
            conversation = message.snapshot.conversation
            self._heard(conversation.ended_at is not None or conversation.is_live is False)
            if not self.has_snapshot:
                self.has_snapshot = True
                self._sink.drift(unknown_fields(frame))
        elif message.type is MessageType.ERROR:
            closed = FeedRefused if message.denied else FeedLost
            raise closed(FeedError.ERROR_MESSAGE)
        return message.type in (MessageType.CONVERSATION_ENDED, MessageType.CONVERSATION_SAVED)

    def _count_superseded(self) -> None:
        count, size = self._feed.superseded, self._feed.superseded_bytes
        if count != self._superseded:
            self._sink.superseded(count - self._superseded, size - self._superseded_size)
            self._superseded, self._superseded_size = count, size
