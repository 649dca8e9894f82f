"""Edge: the live conversation WebSocket (API 1), carried by trio-websocket; its errors end here.

Strategy:
- A snapshot is the whole conversation, so when several wait only the newest matters (`LiveFeed.receive`).
- A silent feed is a suspect feed: one task for all feeds pings those that were silent for too long and ends
  those whose pong does not come (`LiveSocket.keep_alive`).
- The library's errors become those of `exporter.phonic.feed`, by status or close code only. Their texts hold
  response headers and bodies and are never looked at.
"""

import ssl
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import quote, urlencode, urlsplit

import attrs
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    ConnectionTimeout,
    DisconnectionTimeout,
    HandshakeError,
    WebSocketConnection,
    open_websocket_url,
)

from ..vocabulary import FeedError
from .credentials import Credentials
from .feed import FeedClosed, FeedEnded, FeedLost, FeedNotFound, FeedRefused, FeedUnreadable

# One 20 KB message is five reads of the library's default 4 KiB, each a scheduler pass: 64 KiB makes receiving
# 2.8 times cheaper at 20 KB and 4.7 times at 150 KB.
RECEIVE_BUFFER = 64 * 1024
# The default of 1 MiB is reached at about 1,350 turns, and a reconnect would bring the same message again. The
# limit counts characters, of which a single emoji makes Python keep 4 bytes each: at worst 128 MiB for one call.
MAX_MESSAGE = 32 * 1024 * 1024
# Each opening TLS handshake costs over a millisecond of CPU; more at once than this gains nothing.
OPENING_AT_ONCE = 50
# A feed that may be behind looks for newer snapshots on every 16th message, and on each one once it found any:
# at most `DRAIN_MOST` and for `DRAIN_SECONDS`. A feed that keeps up pays for one such look in 16.
PROBE_EVERY = 16
DRAIN_MOST = 64
DRAIN_SECONDS = 0.02
SNAPSHOT_PREFIXES = ('{"type":"conversation-updated"', '{"type": "conversation-updated"')


@attrs.frozen(kw_only=True)
class Timeouts:
    """Deadlines of a feed, in seconds."""

    connect: float = 15.0
    idle: float = 30.0
    pong: float = 10.0
    disconnect: float = 2.0


class LiveFeed:
    """One open feed. Receives only: nothing is ever sent after the handshake but pings."""

    def __init__(self, connection: WebSocketConnection, scope: trio.CancelScope) -> None:
        self._connection = connection
        self._stash: str | bytes | None = None
        self._closed: ConnectionClosed | None = None
        self._until_probe = PROBE_EVERY
        self._scope = scope
        self.last_heard = trio.current_time()
        self.is_being_pinged = False
        self.superseded = 0
        self.superseded_bytes = 0

    async def receive(self) -> str | bytes:
        """The next frame, or the newest of several waiting snapshots.

        ``superseded`` and ``superseded_bytes`` grow by what was dropped. Raises a `FeedClosed`; frames that
        arrived before the close are handed out first. Cancellation loses no frame that was not handed out,
        except when a drain is cancelled with its connection.
        """
        if self._stash is not None:
            frame, self._stash = self._stash, None
            return frame
        if self._closed is not None:
            raise _closed(self._closed) from None
        try:
            frame = await self._connection.get_message()
        except ConnectionClosed as closed:
            raise _closed(closed) from None
        self.last_heard = trio.current_time()
        self._until_probe -= 1
        if self._until_probe <= 0 and is_snapshot(frame):
            frame = await self._drain(frame)
        return frame

    async def _drain(self, frame: str | bytes) -> str | bytes:
        drained = 0
        with trio.move_on_after(DRAIN_SECONDS):
            try:
                while drained < DRAIN_MOST:
                    newer = await self._connection.get_message()
                    if not is_snapshot(newer):  # an end or an error is delivered in order, after the snapshot
                        self._stash = newer
                        break
                    drained += 1
                    self.superseded += 1
                    self.superseded_bytes += len(frame)
                    frame = newer
            except ConnectionClosed as closed:
                self._closed = closed
        self._until_probe = 1 if drained else PROBE_EVERY
        return frame

    async def check(self, pong_timeout: float) -> None:
        """Ping; without a pong in time the feed is lost: its scope is cancelled."""
        with trio.move_on_after(pong_timeout) as deadline:
            try:
                await self._connection.ping()
            except ConnectionClosed:
                return
            self.last_heard = trio.current_time()
        self.is_being_pinged = False
        if deadline.cancelled_caught:
            self._scope.cancel()


def is_snapshot(frame: str | bytes) -> bool:
    """Whether a frame is a snapshot, told from its first bytes; in another order it is taken for a barrier."""
    return isinstance(frame, str) and frame.startswith(SNAPSHOT_PREFIXES)


class LiveSocket:
    """Opens feeds at one base URL and keeps an eye on their silence."""

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        timeouts: Timeouts | None = None,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``base_url`` as in ``--phonic.base-url``; ``tls`` overrides the system's trust, for tests."""
        parts = urlsplit(base_url)
        secure = parts.scheme == "https"
        self._root = f"{'wss' if secure else 'ws'}://{parts.netloc}{parts.path.rstrip('/')}/v1/conversations/"
        # One context for all feeds: a context each costs 840 KB and 25 ms of CPU a connection.
        self._tls = (tls or ssl.create_default_context()) if secure else None
        self._credentials = credentials
        self._timeouts = timeouts or Timeouts()
        self._opening = trio.CapacityLimiter(OPENING_AT_ONCE)
        self._feeds: set[LiveFeed] = set()

    @asynccontextmanager
    async def open(self, conversation_id: str) -> AsyncGenerator[LiveFeed, None]:
        """Open the feed of one conversation.

        Raises a `FeedClosed` when it cannot be opened or is lost; one that leaves the block is passed on after
        the socket is closed, which takes at most ``disconnect`` seconds. Cancellation closes it at once.
        """
        closed: FeedClosed | None = None
        with trio.CancelScope() as scope:  # outside the library's block, so that giving up never waits for a peer
            try:
                async with AsyncExitStack() as stack:
                    feed = await self._connect(stack, conversation_id, scope)
                    self._feeds.add(feed)
                    try:
                        yield feed
                    except FeedClosed as end:
                        closed = end
                    finally:
                        self._feeds.discard(feed)
            except DisconnectionTimeout:
                pass  # the peer does not answer our close: it is closed all the same
        if closed is not None:
            raise closed
        if scope.cancelled_caught:
            raise FeedLost(FeedError.NO_PONG)

    async def _connect(self, stack: AsyncExitStack, conversation_id: str, scope: trio.CancelScope) -> LiveFeed:
        credential = self._credentials.current()
        url = f"{self._root}{quote(conversation_id, safe='')}/live/ws"
        if credential.query:
            url = f"{url}?{urlencode(credential.query)}"
        opening = open_websocket_url(
            url,
            ssl_context=self._tls,
            extra_headers=[(name.encode(), value.encode()) for name, value in credential.headers.items()],
            message_queue_size=4,
            max_message_size=MAX_MESSAGE,
            receive_buffer_size=RECEIVE_BUFFER,
            connect_timeout=self._timeouts.connect,
            disconnect_timeout=self._timeouts.disconnect,
        )
        try:
            async with self._opening:
                return LiveFeed(await stack.enter_async_context(opening), scope)
        except ConnectionRejected as rejected:
            raise await self._rejection(rejected) from None
        except ConnectionTimeout:
            raise FeedLost(FeedError.TIMEOUT) from None
        except (HandshakeError, ConnectionClosed, OSError, trio.BrokenResourceError) as failed:
            raise FeedLost(_failure(failed)) from None

    async def _rejection(self, rejected: ConnectionRejected) -> FeedClosed:
        status = rejected.status_code
        reason = _STATUS.get(status) or _STATUS_CLASS.get(status // 100, FeedError.HTTP_OTHER)
        if status == 401 and await trio.to_thread.run_sync(self._credentials.reload):
            return FeedLost(reason)  # a rotated key: worth another try at once
        if status in (401, 403):
            return FeedRefused(reason)
        if status // 100 == 4 and status != 429:
            return FeedNotFound(reason)
        return FeedLost(reason, _retry_after(rejected.headers))

    async def keep_alive(self) -> None:
        """Ping silent feeds until cancelled. Errors of a feed end that feed only."""
        idle, pong = self._timeouts.idle, self._timeouts.pong
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(min(1.0, idle / 4))
                before = trio.current_time() - idle
                for feed in self._feeds:
                    if feed.last_heard <= before and not feed.is_being_pinged:
                        feed.is_being_pinged = True
                        nursery.start_soon(feed.check, pong)


_STATUS = {
    401: FeedError.HTTP_401,
    403: FeedError.HTTP_403,
    404: FeedError.HTTP_404,
    429: FeedError.HTTP_429,
}
_STATUS_CLASS = {4: FeedError.HTTP_4XX, 5: FeedError.HTTP_5XX}
_CLOSE_CODE = {
    1001: FeedError.CLOSED_GOING_AWAY,
    1006: FeedError.CLOSED_ABNORMALLY,
    1011: FeedError.CLOSED_INTERNAL_ERROR,
    1012: FeedError.CLOSED_RESTART,
}


def _closed(closed: ConnectionClosed) -> FeedClosed:
    """Close codes (API 1.4): 1000 is the end, 1008 is ours to ask about, any other is worth another try."""
    code = closed.reason.code if closed.reason else 1006
    if code == 1000:
        return FeedEnded()
    if code == 1008:
        return FeedRefused(FeedError.CLOSED_POLICY)
    if code == 1009:  # sent by this side, for a message beyond `MAX_MESSAGE`
        return FeedUnreadable(FeedError.CLOSED_TOO_LARGE)
    return FeedLost(_CLOSE_CODE.get(code, FeedError.CLOSED_OTHER))


def _failure(failed: BaseException) -> FeedError:
    """Why no connection came about, from the errors behind the library's own."""
    cause: BaseException | None = failed
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return FeedError.TLS
        if isinstance(cause, OSError):
            return FeedError.CONNECT
        cause = cause.__cause__ or cause.__context__
    return FeedError.PROTOCOL


def _retry_after(headers: Iterable[tuple[bytes, bytes]] | None) -> float | None:
    for name, value in headers or ():
        if name.lower() == b"retry-after" and value.isdigit() and len(value) < 6:
            return float(value)
    return None
