"""Tasks: following one conversation over its live feed, until it ends or the feed is refused (API 1).

An outer loop opens connections, an inner loop reads messages:

- Whatever is wrong with a connection arrives as a `FeedClosed`. Its type says whether the conversation is over,
  the feed is refused, or the connection is to be opened again (semantics 10).
- Whatever is wrong with a message costs that message only.
- Each connection begins with the whole conversation again, so nothing is kept between connections. The sink knows
  what has been counted.
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
    NOT_FOUND = "not_found"  # 404 `Retry.max_not_found` times in a row


@attrs.frozen(kw_only=True)
class Retry:
    """When a lost feed is opened again. All but the last in seconds.

    Delays grow from ``first`` to ``longest``, and begin anew after a connection that lasted ``stable_after``. A
    feed sends the current state at once; one without a snapshot after ``first_snapshot`` is lost.
    ``max_not_found``: responses 404 in a row after which the watcher stops.
    """

    first: float = 0.5
    longest: float = 30.0
    stable_after: float = 30.0
    first_snapshot: float = 30.0
    max_not_found: int = 3


async def watch(
    conversation_id: str,
    *,
    open_feed: OpenFeed,
    sink: Sink,
    retry: Retry,
    rng: Random,
    set_state: Callable[[WatcherState], None],
    on_snapshot: Callable[[bool], None],
) -> Outcome:
    """Follow one conversation. Lost connections are opened again, not raised.

    ``set_state`` is called with each new state. ``on_snapshot`` is called after each snapshot, with whether the
    snapshot says that the conversation is over; that alone does not end the feed.

    Returns why following stopped. Cancellation: closes the connection; what was counted stays counted.
    """
    delays = backoff(rng, first=retry.first, longest=retry.longest)
    not_found = 0
    write = log.info
    while True:
        opened_at: float | None = None
        delay = 0.0
        set_state(WatcherState.CONNECTING)
        try:
            async with open_feed(conversation_id) as feed:
                opened_at = trio.current_time()
                sink.connected(conversation_id)
                set_state(WatcherState.LIVE)
                await _read(_Messages(conversation_id, feed, sink, on_snapshot), retry.first_snapshot)
                return Outcome.ENDED
        except FeedEnded:
            return Outcome.ENDED
        except FeedClosed as closed:
            if closed.reason is not None:
                sink.feed_error(conversation_id, closed.reason)
                # Info when a failure begins only: thousands of feeds may fail twice a minute for hours.
                if opened_at is not None:
                    write = log.info
                write("feed lost", conversation=conversation_id, reason=closed.reason.value)
                write = log.debug
            not_found = not_found + 1 if isinstance(closed, FeedNotFound) else 0
            if isinstance(closed, FeedRefused):
                return Outcome.REFUSED
            if not_found >= retry.max_not_found:
                return Outcome.NOT_FOUND
            if isinstance(closed, FeedLost) and closed.at_once:
                delays = backoff(rng, first=retry.first, longest=retry.longest)
                continue
            delay = closed.retry_after or 0.0
        if opened_at is not None and trio.current_time() - opened_at >= retry.stable_after:
            delays = backoff(rng, first=retry.first, longest=retry.longest)
        set_state(WatcherState.WAITING)
        # At most `longest`, even if the server asks for more, since the call may be live. Jitter spreads the feeds
        # that wait equally long.
        wait = delay + next(delays)
        await trio.sleep(wait if wait <= retry.longest else rng.uniform(0.8, 1.0) * retry.longest)


async def _read(messages: "_Messages", first_snapshot: float) -> None:
    """Count messages until one says that the conversation is over. Raises: `FeedClosed`."""
    with trio.move_on_after(first_snapshot) as waiting:
        while not messages.has_snapshot:
            if await messages.next():
                return
    if waiting.cancelled_caught:
        raise FeedLost(FeedError.NO_SNAPSHOT)
    while not await messages.next():
        pass


class _Messages:
    """Reads the messages of one connection, and counts them in the sink."""

    def __init__(self, conversation_id: str, feed: Feed, sink: Sink, on_snapshot: Callable[[bool], None]) -> None:
        self.has_snapshot = False
        self._on_snapshot = on_snapshot
        self._conversation_id = conversation_id
        self._feed = feed
        self._sink = sink
        self._decoder = IncrementalDecoder(conversation_id)
        self._superseded = self._superseded_size = 0

    async def next(self) -> bool:
        """Wait for a frame and count it; see `count`."""
        # Not held in a variable here, which would keep the last frame in memory while the feed is idle.
        return await self.count(await self._feed.receive())

    async def count(self, frame: str | bytes) -> bool:
        """Count what a frame holds. Returns whether it says that the conversation is over.

        Raises: `FeedClosed` for an error message. Is a checkpoint only if the frame takes long to decode.
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
            self._on_snapshot(conversation.ended_at is not None or conversation.is_live is False)
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
