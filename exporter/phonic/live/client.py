"""Edge: the live conversation WebSocket (API 1), carried by trio-websocket, whose errors end here.

How it works:

- `open_live` runs one task for all feeds. An idle connection may be dead, so the task pings each feed that was
  silent for too long, and loses it when no pong comes.
- A snapshot is the whole conversation, so of several that wait only the newest is handed out (`mailbox`).
- Errors of the library become those of `errors`, decided by status or close code only. Their texts hold response
  headers and bodies, and are never read.
- After any refusal (a status, a close code, an error message) the credential is read again. A feed that was
  refused with a credential that has been replaced since is lost, not refused: the watcher tries again at once.

Two fast paths can be switched off here to compare or debug: ``batch_seconds=0`` reads with plain trio, and
``own_frame_reader=False`` has trio-websocket read the frames.
"""

import ssl
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlencode, urlsplit

import attrs
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from ...enums import FeedError
from ..credentials import Credential, Credentials
from ..failures import status_reason
from ..proxies import Proxy
from ..wire import retry_after, segment
from .batching import RECEIVE_BUFFER, ReadBatches
from .connection import Address, Connection, Refusal, connect
from .errors import FeedClosed, FeedEnded, FeedLost, FeedNotFound, FeedRefused
from .fast_path import FrameReader, PassThrough
from .limits import Memory
from .mailbox import Mailbox

# 1 MiB would be reached at about 1,350 turns, and a reconnect would bring the same message again. A single emoji
# makes Python keep 4 bytes for each character: at worst 128 MiB for one message.
MAX_MESSAGE = 32 * 1024 * 1024
BATCH_SECONDS = 0.1
# A TLS handshake is CPU work, so more at once than this gains nothing.
OPENING_AT_ONCE = 50
LONGEST_RETRY_AFTER = 30.0  # seconds; a call is short, and its turns during the wait are lost


@attrs.frozen(kw_only=True)
class Timeouts:
    """Timeouts of a feed, in seconds.

    ``connect``: from the first packet to the end of the WebSocket handshake. ``idle``: silence after which the
    feed is pinged. ``pong``: the wait for the pong. ``disconnect``: the wait for the peer's close. ``message``:
    the longest pause within a message.
    """

    connect: float = 15.0
    idle: float = 30.0
    pong: float = 10.0
    disconnect: float = 2.0
    message: float = 30.0


@asynccontextmanager
async def open_live(
    base_url: str,
    credentials: Credentials,
    timeouts: Timeouts | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    proxy: Proxy | None = None,
    max_message: int = MAX_MESSAGE,
    memory: Memory | None = None,
    now: Callable[[], float] = time.time,
    batch_seconds: float = BATCH_SECONDS,
    own_frame_reader: bool = True,
) -> AsyncGenerator["LiveSocket", None]:
    """A client of the live feeds at one base URL, which works until the block ends.

    ``base_url`` is as in ``--phonic.base-url``. ``tls`` replaces the system's trust, also towards a ``proxy``.
    ``max_message`` is the size in bytes beyond which a message loses its feed. ``memory`` bounds what all feeds
    hold together. ``now`` gives the Unix time, with which dates of the server are compared.

    ``batch_seconds``: how often all feeds are read (`batching`). A snapshot is handed out at most two such periods
    after it has arrived, and of several that arrive within one only the newest. With 0 each feed is read with
    plain trio, and each snapshot is handed out when it arrives.

    ``own_frame_reader``: False has trio-websocket read the WebSocket frames instead of `fast_path`. Then only
    ``max_message`` bounds what a peer can cost: ``memory`` counts no incomplete messages, and ``message`` of the
    timeouts has no effect.

    Leave all feeds before the block ends. What the block raises is passed on unchanged.

    Cancellation: ends at once.
    """
    live = LiveSocket(
        base_url,
        credentials,
        timeouts or Timeouts(),
        tls=tls,
        proxy=proxy,
        max_message=max_message,
        memory=memory or Memory(),
        now=now,
        batches=ReadBatches(batch_seconds),
        own_frame_reader=own_frame_reader,
    )
    raised: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live._run)
        try:
            yield live
        except Exception as error:  # raised below, where the nursery does not make it part of a group
            raised = error
        finally:
            live._is_open = False
        nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised


class LiveFeed:
    """One open feed. It only receives: after the handshake nothing but pings and a close is sent."""

    def __init__(
        self,
        mailbox: Mailbox,
        websocket: WebSocketConnection,
        connection: Connection,
        batches: ReadBatches,
        scope: trio.CancelScope,
    ) -> None:
        """``scope`` is cancelled when no pong comes."""
        self._mailbox = mailbox
        self._batches = batches
        self._websocket = websocket
        self._connection = connection
        self._scope = scope
        self.is_being_pinged = False

    async def receive(self) -> str | bytes:
        """The next frame, or the newest of several waiting snapshots.

        Raises: a `FeedClosed` at the end; frames that arrived before it are handed out first.

        Cancellation: loses no frame.
        """
        frame = await self._mailbox.receive()
        self._connection.count_memory()
        return frame

    async def pause(self) -> None:
        """Let other tasks run in the middle of a frame that takes long to decode."""
        await self._batches.heavy_checkpoint()

    @property
    def superseded(self) -> int:
        """Snapshots that were dropped for a newer one."""
        return self._mailbox.superseded

    @property
    def superseded_bytes(self) -> int:
        """The size of these, in characters."""
        return self._mailbox.superseded_bytes

    async def read_to_end(self) -> None:
        """Keep the library reading until the connection ends.

        Messages reach the mailbox here only when the library reads the frames; else `FrameReader` has put them.
        """
        try:
            while True:
                message = await self._websocket.get_message()
                await self._mailbox.wait_room()
                self._mailbox.put(message)
                self._connection.count_memory()
                del message  # else it would be kept for as long as the feed is silent
        except ConnectionClosed as closed:
            self._mailbox.end(_closed(closed))

    @property
    def last_heard(self) -> float:
        """When any bytes were last received, a pong or a part of a long message included; in trio's time."""
        return self._connection.last_heard

    def give_up_if_stuck(self, patience: float) -> None:
        """Lose the feed if a message has begun and nothing of it came for ``patience`` seconds."""
        if self._connection.is_stuck(patience):
            self._connection.give_up(FeedError.PROTOCOL)

    async def check(self, pong_timeout: float) -> None:
        """Ping, and lose the feed when no pong comes within ``pong_timeout`` seconds."""
        with trio.move_on_after(pong_timeout) as deadline:
            try:
                await self._websocket.ping()
            except ConnectionClosed:
                return
        self.is_being_pinged = False
        if deadline.cancelled_caught:
            self._scope.cancel()


class LiveSocket:
    """Opens live feeds; made by `open_live`."""

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        timeouts: Timeouts,
        *,
        tls: ssl.SSLContext | None,
        proxy: Proxy | None,
        max_message: int,
        memory: Memory,
        now: Callable[[], float],
        batches: ReadBatches,
        own_frame_reader: bool,
    ) -> None:
        parts = urlsplit(base_url)
        secure = parts.scheme == "https"
        proxy_secure = proxy is not None and proxy.is_secure
        # One context for all feeds: each context holds the system's authorities in memory.
        context = (tls or ssl.create_default_context()) if secure or proxy_secure else None
        self._address = Address(
            host=parts.hostname or "",
            port=parts.port or (443 if secure else 80),
            tls=context if secure else None,
            proxy=proxy,
            proxy_tls=context if proxy_secure else None,
        )
        self._host_header = parts.netloc.rpartition("@")[2]
        self._root = f"{parts.path.rstrip('/')}/v1/conversations/"
        self._credentials = credentials
        self._timeouts = timeouts
        self._max_message = max_message
        self._memory = memory
        self._now = now
        self._opening = trio.CapacityLimiter(OPENING_AT_ONCE)
        self._feeds: set[LiveFeed] = set()
        self._batches = batches
        self._own_frame_reader = own_frame_reader
        self._is_open = True

    @asynccontextmanager
    async def open(self, conversation_id: str) -> AsyncGenerator[LiveFeed, None]:
        """Open the feed of one conversation.

        What the block raises is passed on unchanged, after the socket is closed, which takes at most
        ``disconnect`` seconds.

        Raises: a `FeedClosed` when the feed cannot be opened or is lost; RuntimeError after the end of
        `open_live`.

        Cancellation: closes the socket at once.
        """
        if not self._is_open:
            raise RuntimeError("open_live has ended")
        credential = self._credentials.current()
        scope = trio.CancelScope()  # cancelled when no pong comes
        left: Exception | None = None
        is_done = False
        failed: BaseExceptionGroup[Exception] | None = None
        try:
            async with AsyncExitStack() as closing, trio.open_nursery() as reading:
                mailbox = Mailbox(conversation_id, self._batches)
                websocket, connection = await self._connect(conversation_id, mailbox, credential, reading, closing)
                connection.join()
                feed = LiveFeed(mailbox, websocket, connection, self._batches, scope)
                reading.start_soon(feed.read_to_end)
                self._feeds.add(feed)
                try:
                    with scope:
                        yield feed
                        is_done = True
                except Exception as error:  # raised below, where the nursery does not make it part of a group
                    left = error
                finally:
                    self._feeds.discard(feed)
                    mailbox.close()
                if not scope.cancelled_caught:
                    with trio.move_on_after(self._timeouts.disconnect):
                        await websocket.aclose()
                reading.cancel_scope.cancel()
        except* Exception as group:
            failed = group
        if left is not None:
            raise await self._judged(left, credential)
        if scope.cancelled_caught:
            raise FeedLost(FeedError.NO_PONG)
        if failed is not None and not is_done:  # errors while closing are ignored
            raise await self._judged(self._failure(failed), credential)

    async def _connect(
        self,
        conversation_id: str,
        mailbox: Mailbox,
        credential: Credential,
        reading: trio.Nursery,
        closing: AsyncExitStack,
    ) -> tuple[WebSocketConnection, Connection]:
        resource = f"{self._root}{segment(conversation_id)}/live/ws"
        if credential.query:
            resource = f"{resource}?{urlencode(credential.query)}"
        connection: Connection | None = None
        async with self._opening:
            with trio.move_on_after(self._timeouts.connect):
                reader = FrameReader(mailbox.put, self._max_message) if self._own_frame_reader else PassThrough()
                connection = await connect(self._address, closing, mailbox, self._memory, self._batches, reader)
                websocket = await wrap_client_stream(
                    reading,
                    connection,  # type: ignore[arg-type]  # annotated too narrowly: any stream, says its documentation
                    self._host_header,
                    resource,
                    extra_headers=[(name.encode(), value.encode()) for name, value in credential.headers.items()],
                    # Of the own frame reader it gets only those messages that it has to refuse.
                    max_message_size=0 if self._own_frame_reader else self._max_message,
                    receive_buffer_size=RECEIVE_BUFFER,
                )
                return websocket, connection
        raise connection.cut_off(FeedError.TIMEOUT) if connection else FeedLost(FeedError.TIMEOUT)

    def _failure(self, failed: BaseExceptionGroup[Exception]) -> FeedClosed:
        """The end of a feed whose opening or reading failed; `FeedLost` when the peer broke the protocol."""
        for error in failed.exceptions:
            if isinstance(error, FeedClosed):
                return error
            if isinstance(error, Refusal):
                return self._rejection(error.status, ())
            if isinstance(error, ConnectionRejected):
                return self._rejection(error.status_code, error.headers)
        return FeedLost(FeedError.PROTOCOL)

    def _rejection(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> FeedClosed:
        reason = status_reason(FeedError, status)
        if status in (401, 403):
            return FeedRefused(reason)
        if status // 100 == 4 and status != 429:
            return FeedNotFound(reason)
        named = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
        return FeedLost(reason, retry_after(named, self._now(), LONGEST_RETRY_AFTER))

    async def _judged(self, left: Exception, credential: Credential) -> Exception:
        """What to raise for ``left``: `FeedLost` for a refusal of a credential that has been replaced."""
        if not isinstance(left, FeedClosed):
            return left
        if not isinstance(left, FeedRefused) and left.reason is not FeedError.ERROR_MESSAGE:
            return left
        await trio.to_thread.run_sync(self._credentials.reload)
        # Not the result of `reload`: of many feeds refused with the old key, only the first one reads the new one.
        is_replaced = self._credentials.current() != credential
        return FeedLost(left.reason, at_once=True) if is_replaced else left

    async def _run(self) -> None:
        """Read the feeds in batches, and ping those that are silent, until cancelled.

        Errors of a feed end that feed only.
        """
        idle, pong, message = self._timeouts.idle, self._timeouts.pong, self._timeouts.message
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._batches.run)
            while True:
                await trio.sleep(min(1.0, idle / 4, message / 4))
                before = trio.current_time() - idle
                for feed in self._feeds:
                    feed.give_up_if_stuck(message)
                    if feed.last_heard <= before and not feed.is_being_pinged:
                        feed.is_being_pinged = True
                        nursery.start_soon(feed.check, pong)


_CLOSE_CODE = {
    1001: FeedError.CLOSED_GOING_AWAY,
    1002: FeedError.PROTOCOL,  # 1002, 1007 and 1009: also where this side refused what the peer sent
    1006: FeedError.CLOSED_ABNORMALLY,
    1007: FeedError.PROTOCOL,
    1009: FeedError.CLOSED_TOO_LARGE,
    1011: FeedError.CLOSED_INTERNAL_ERROR,
    1012: FeedError.CLOSED_RESTART,
}


def _closed(closed: ConnectionClosed) -> FeedClosed:
    """The end that a close code means (API 1.4): 1000 is the end of the conversation, 1008 a refusal."""
    code = closed.reason.code if closed.reason else 1006
    if code == 1000:
        return FeedEnded()
    if code == 1008:
        return FeedRefused(FeedError.CLOSED_POLICY)
    return FeedLost(_CLOSE_CODE.get(code, FeedError.CLOSED_OTHER))
