"""Edge: the live conversation WebSocket (API 1), carried by trio-websocket; its errors end here.

Strategy:
- A snapshot is the whole conversation, so when several wait only the newest matters (`mailbox`).
- A silent feed is a suspect feed: one task for all feeds pings those that were silent for too long and ends
  those whose pong does not come (`LiveSocket.run`).
- The library's errors become those of `errors`, by status or close code only. Their texts hold
  response headers and bodies and are never looked at.
- However Phonic refuses (a status, a close code, an error message), the credential is read again: a feed that was
  refused with one that has been replaced is a lost feed, which is tried again.
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
from .limits import Memory, Share
from .mailbox import Mailbox

# 1 MiB would be reached at about 1,350 turns, and a reconnect would bring the same message again. A single emoji
# makes Python keep 4 bytes for each character: at worst 128 MiB for one message.
MAX_MESSAGE = 32 * 1024 * 1024
# Each opening TLS handshake costs over a millisecond of CPU; more at once than this gains nothing.
OPENING_AT_ONCE = 50
LONGEST_RETRY_AFTER = 30.0  # seconds; a call is short, and what is said meanwhile is lost


@attrs.frozen(kw_only=True)
class Timeouts:
    """Times of a feed, in seconds.

    ``message``: the longest pause in the middle of a message. ``round``: how often feeds are looked at
    (`batching`). A snapshot is handed out at most two rounds after it has come, and of several that
    come within one the newest stands for all. With 0 there are no rounds: each snapshot is handed out as it comes,
    which costs more and is simpler to debug.
    """

    connect: float = 15.0
    idle: float = 30.0
    pong: float = 10.0
    disconnect: float = 2.0
    message: float = 30.0
    round: float = 0.1


class LiveFeed:
    """One open feed. Receives only: nothing is ever sent after the handshake but pings."""

    def __init__(
        self,
        mailbox: Mailbox,
        websocket: WebSocketConnection,
        connection: Connection,
        batches: ReadBatches,
        scope: trio.CancelScope,
    ) -> None:
        self._mailbox = mailbox
        self._batches = batches
        self._websocket = websocket
        self._connection = connection
        self._scope = scope
        self.is_being_pinged = False

    async def receive(self) -> str | bytes:
        """The next frame, or the newest of several waiting snapshots.

        Raises a `FeedClosed`; frames that arrived before the close are handed out first. Cancellation loses none.
        """
        frame = await self._mailbox.receive()
        self._connection.count_memory()
        return frame

    async def pause(self) -> None:
        """Let others run in the middle of a frame that takes long to read."""
        await self._batches.heavy_checkpoint()

    @property
    def superseded(self) -> int:
        """Snapshots that were dropped for a newer one."""
        return self._mailbox.superseded

    @property
    def superseded_bytes(self) -> int:
        return self._mailbox.superseded_bytes

    async def read_to_end(self) -> None:
        """Wait for the end of the connection: the connection takes all messages."""
        try:
            await self._websocket.get_message()
        except ConnectionClosed as closed:
            self._mailbox.end(_closed(closed))

    @property
    def last_heard(self) -> float:
        """When anything was last received, a pong or a part of a long message included; in trio's time."""
        return self._connection.last_heard

    def give_up_if_stuck(self, patience: float) -> None:
        """Lose the feed if nothing came for so long of a message that has begun."""
        if self._connection.is_stuck(patience):
            self._connection.give_up(FeedError.PROTOCOL)

    async def check(self, pong_timeout: float) -> None:
        """Ping; without a pong in time the feed is lost: its scope is cancelled."""
        with trio.move_on_after(pong_timeout) as deadline:
            try:
                await self._websocket.ping()
            except ConnectionClosed:
                return
        self.is_being_pinged = False
        if deadline.cancelled_caught:
            self._scope.cancel()


class LiveSocket:
    """Opens feeds at one base URL and keeps an eye on their silence."""

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        timeouts: Timeouts | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        proxy: Proxy | None = None,
        max_message: int = MAX_MESSAGE,
        memory: Memory | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """``base_url`` as in ``--phonic.base-url``; ``tls`` replaces the system's trust, also in a ``proxy``;
        ``max_message`` in bytes; ``memory`` bounds what all feeds hold together; ``now`` is the Unix time, with
        which dates are compared.
        """
        parts = urlsplit(base_url)
        secure = parts.scheme == "https"
        proxy_secure = proxy is not None and proxy.is_secure
        # One context for all feeds: a context each costs 840 KB and 25 ms of CPU a connection.
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
        self._timeouts = timeouts or Timeouts()
        self._max_message = max_message
        self._memory = memory or Memory()
        self._now = now
        self._opening = trio.CapacityLimiter(OPENING_AT_ONCE)
        self._feeds: set[LiveFeed] = set()
        self._batches = ReadBatches(self._timeouts.round)

    @asynccontextmanager
    async def open(self, conversation_id: str) -> AsyncGenerator[LiveFeed, None]:
        """Open the feed of one conversation.

        Raises a `FeedClosed` when it cannot be opened or is lost. What leaves the block is passed on as it is,
        after the socket is closed, which takes at most ``disconnect`` seconds. Cancellation closes it at once.
        """
        credential = self._credentials.current()
        scope = trio.CancelScope()  # cancelled when no pong comes
        left: Exception | None = None
        is_done = False
        failed: BaseExceptionGroup[Exception] | None = None
        try:
            async with AsyncExitStack() as closing, trio.open_nursery() as reader:
                share = self._memory.share(lambda: connection.give_up(FeedError.TOO_LARGE))
                closing.callback(share.close)
                mailbox = Mailbox(conversation_id, self._batches)
                websocket, connection = await self._connect(
                    conversation_id, mailbox, share, credential, reader, closing
                )
                connection.join()
                feed = LiveFeed(mailbox, websocket, connection, self._batches, scope)
                reader.start_soon(feed.read_to_end)
                self._feeds.add(feed)
                try:
                    with scope:
                        yield feed
                        is_done = True
                except Exception as error:  # leaves further below, where it does not become part of a group
                    left = error
                finally:
                    self._feeds.discard(feed)
                    mailbox.close()
                if not scope.cancelled_caught:
                    with trio.move_on_after(self._timeouts.disconnect):
                        await websocket.aclose()
                reader.cancel_scope.cancel()
        except* Exception as group:
            failed = group
        if left is not None:
            raise await self._judged(left, credential)
        if scope.cancelled_caught:
            raise FeedLost(FeedError.NO_PONG)
        if failed is not None and not is_done:  # what goes wrong while we hang up is nobody's concern
            raise await self._judged(self._failure(failed), credential)

    async def _connect(
        self,
        conversation_id: str,
        mailbox: Mailbox,
        share: Share,
        credential: Credential,
        reader: trio.Nursery,
        closing: AsyncExitStack,
    ) -> tuple[WebSocketConnection, Connection]:
        resource = f"{self._root}{segment(conversation_id)}/live/ws"
        if credential.query:
            resource = f"{resource}?{urlencode(credential.query)}"
        connection: Connection | None = None
        async with self._opening:
            with trio.move_on_after(self._timeouts.connect):
                connection = await connect(
                    self._address, closing, mailbox, share, self._batches, self._max_message
                )
                websocket = await wrap_client_stream(
                    reader,
                    connection,  # type: ignore[arg-type]  # annotated too narrowly: any stream, says its documentation
                    self._host_header,
                    resource,
                    extra_headers=[(name.encode(), value.encode()) for name, value in credential.headers.items()],
                    max_message_size=0,  # it is given none but those it is to refuse
                    receive_buffer_size=RECEIVE_BUFFER,
                )
                return websocket, connection
        raise connection.cut_off(FeedError.TIMEOUT) if connection else FeedLost(FeedError.TIMEOUT)

    def _failure(self, failed: BaseExceptionGroup[Exception]) -> FeedClosed:
        """What became of a feed whose opening or whose reader failed; `FeedLost` when the peer talks nonsense."""
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
        """What to raise for ``left``: a refusal of a credential that has been replaced is worth another try."""
        if not isinstance(left, FeedClosed):
            return left
        if not isinstance(left, FeedRefused) and left.reason is not FeedError.ERROR_MESSAGE:
            return left
        await trio.to_thread.run_sync(self._credentials.reload)
        # Not what `reload` says: of many feeds refused with the old key, only the first one reads the new one.
        is_replaced = self._credentials.current() != credential
        return FeedLost(left.reason, at_once=True) if is_replaced else left

    async def run(self) -> None:
        """Look after the feeds until cancelled: without it none hands anything out.

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
    1002: FeedError.PROTOCOL,  # 1002, 1007 and 1009 are also the verdict of this side on what the peer sent
    1006: FeedError.CLOSED_ABNORMALLY,
    1007: FeedError.PROTOCOL,
    1009: FeedError.CLOSED_TOO_LARGE,
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
    return FeedLost(_CLOSE_CODE.get(code, FeedError.CLOSED_OTHER))
