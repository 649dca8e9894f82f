"""Edge: the TCP or TLS connection under a live feed, which is always closed and reports clearly how it ended.

It replaces the connection that trio-websocket (0.12) would make, which waits for ever on a handshake that timed
out or was cut off, reads the body of a refusal without a limit, hides TLS errors, waits without a deadline for a
peer that sent a close frame to hang up, and leaves the socket open after it.
"""

import re
import ssl
from contextlib import AsyncExitStack

import attrs
import trio

from ...enums import FeedError
from ..failures import connect_reason
from ..proxies import Proxy
from .batching import BatchedStream, ReadBatches
from .errors import FeedLost
from .fast_path import MOST_WORK, PROTOCOL, WORK_PER_SECOND, FrameReader, PassThrough
from .limits import Allowance, Memory
from .mailbox import Mailbox
from .tunnel import open_tunnel

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})")
_STATUS_LINE_LENGTH = 12
_HEAD_END = re.compile(rb"\n\r?\n")  # as h11 reads it, which the library uses
_HEAD_END_LENGTH = 3
_ACCEPTED = 101
LARGEST_REFUSAL = 256 * 1024  # bytes of headers and body


class Refusal(Exception):
    """An HTTP answer that is no upgrade and was cut off before its end."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@attrs.frozen(kw_only=True)
class Address:
    """Where connections lead to, and through which proxy. ``tls`` and ``proxy_tls`` are None for plaintext."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    proxy: Proxy | None = None
    proxy_tls: ssl.SSLContext | None = None


async def connect(
    address: Address,
    closing: AsyncExitStack,
    mailbox: Mailbox,
    memory: Memory,
    batches: ReadBatches,
    reader: FrameReader | PassThrough,
) -> "Connection":
    """Connect, through the proxy and with the TLS handshake. The caller sets a deadline and leaves ``closing``.

    Raises: `FeedLost`; what was opened until then is closed by ``closing``, too.
    """
    tcp = BatchedStream(await _connected(address))
    closing.push_async_callback(trio.aclose_forcefully, tcp)
    stream: trio.abc.Stream = tcp
    if address.proxy is not None:
        stream = await open_tunnel(address.proxy, tcp, address.host, address.port, tls=address.proxy_tls)
    if address.tls is not None:
        stream = await _secured(stream, address.tls, address.host)
    connection = Connection(stream, tcp, mailbox, memory, batches, reader)
    closing.callback(connection.stop_counting)
    return connection


async def _connected(address: Address) -> trio.SocketStream:
    """Connect to the proxy, or to the address without one."""
    to = address.proxy or address
    try:
        return await trio.open_tcp_stream(to.host, to.port)
    except (OSError, UnicodeError) as failed:  # UnicodeError: no valid domain name
        raise FeedLost(FeedError.PROXY if address.proxy else connect_reason(FeedError, failed)) from None


async def _secured(stream: trio.abc.Stream, tls: ssl.SSLContext, host: str) -> trio.abc.Stream:
    secure = trio.SSLStream(stream, tls, server_hostname=host, https_compatible=True)
    try:
        await secure.do_handshake()
    except trio.BrokenResourceError as broken:
        is_tls = isinstance(broken.__cause__, ssl.SSLError)
        raise FeedLost(FeedError.TLS if is_tls else FeedError.CONNECT) from None
    return secure


class Connection(trio.abc.Stream):
    """The stream that the WebSocket library reads. Its end before the upgrade to WebSocket is an error.

    Whole messages go into ``mailbox`` as far as ``reader`` reads frames; the library gets all other bytes.
    ``memory`` counts incomplete messages and those that wait in the mailbox. ``last_heard`` is when bytes were
    last received, in trio's time.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        tcp: BatchedStream,
        mailbox: Mailbox,
        memory: Memory,
        batches: ReadBatches,
        reader: FrameReader | PassThrough,
    ) -> None:
        self._stream = stream
        self._tcp = tcp
        self._mailbox = mailbox
        self._share = memory.share(lambda: self.give_up(FeedError.TOO_LARGE))
        self._batches = batches
        self._reader = reader
        self._allowance = Allowance(MOST_WORK, WORK_PER_SECOND)
        self._answer = b""  # to the handshake, as far as it was received
        self._status = 0
        self._is_open = False
        self._unfinished = 0
        self.last_heard = trio.current_time()
        self._last_progress = self.last_heard

    def join(self) -> None:
        """Be read in batches from now on."""
        self._tcp.join(self._batches)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive bytes for the library; b"" at the end.

        Raises: `FeedLost` or `Refusal` when the connection ends before the upgrade.

        Cancellation: loses nothing.
        """
        rest: bytes | bytearray | None = None
        while rest is None:
            if not self._mailbox.has_room:
                await self._mailbox.wait_room()
                self._last_progress = trio.current_time()
            if self._reader.is_over:
                await trio.sleep_forever()  # until the feed is closed: nothing more will be read
            if self._reader.has_more:
                await self._batches.heavy_checkpoint()
                rest = self._read_frames() or None
                continue
            try:
                # Not in a variable, which would keep the last message for as long as the feed is silent.
                rest = self._take(await self._stream.receive_some(max_bytes))
            except trio.BrokenResourceError:
                if self._is_open:
                    raise
                raise self.cut_off(FeedError.CONNECT) from None
        return rest

    def _take(self, data: bytes | bytearray) -> bytes | bytearray | None:
        """What of ``data`` the library has to read; None for nothing, since b"" is the end."""
        self.last_heard = trio.current_time()
        if not self._is_open:
            return self._read_answer(data)
        if not data:
            return self._reader.end()
        self._reader.feed(data)
        return self._read_frames() or None

    def _read_frames(self) -> bytes | bytearray:
        """Read frames, and return what the library has to read."""
        reader = self._reader
        rest = reader.read()
        work, reader.work = reader.work, 0
        if work and not self._allowance.spend(work, self.last_heard):
            rest = reader.refuse(PROTOCOL)
        if reader.held != self._unfinished:
            self._unfinished = reader.held
            self._last_progress = self.last_heard
        self._tcp.expects_more = reader.is_unfinished
        self.count_memory()
        return rest

    def count_memory(self) -> None:
        """Update the counted memory. To be called whenever a frame was taken out of the mailbox."""
        self._share.resize(self._unfinished + self._mailbox.held)

    def stop_counting(self) -> None:
        """Count no memory of this connection any more."""
        self._share.close()

    def is_stuck(self, patience: float) -> bool:
        """Whether a message has begun and nothing of it came for ``patience`` seconds."""
        return self._reader.is_unfinished and trio.current_time() - self._last_progress >= patience

    def give_up(self, reason: FeedError) -> None:
        """Lose the feed now, and drop all waiting frames."""
        self._reader.refuse(PROTOCOL)
        self._mailbox.drop(FeedLost(reason))

    def _read_answer(self, data: bytes | bytearray) -> bytes | bytearray:
        """What of ``data`` the library reads: the answer, and what the frame reader leaves of the rest."""
        if not data:
            raise self.cut_off(FeedError.CONNECT)
        seen = max(0, len(self._answer) - _HEAD_END_LENGTH)
        self._answer += data
        if not self._status:
            found = _STATUS_LINE.match(self._answer)
            if found:
                self._status = int(found[1])
            elif len(self._answer) >= _STATUS_LINE_LENGTH:
                raise FeedLost(FeedError.PROTOCOL)
        if self._status == _ACCEPTED and (found := _HEAD_END.search(self._answer, seen)):
            behind = len(data) - (len(self._answer) - found.end())
            self._is_open = True
            self._answer = b""
            self._reader.feed(data[behind:])
            return data[:behind] + self._read_frames()
        if len(self._answer) > LARGEST_REFUSAL:
            raise self.cut_off(FeedError.PROTOCOL)
        return data

    def cut_off(self, reason: FeedError) -> FeedLost | Refusal:
        """The error that an end now means: the refusal if its status was received, else ``reason``."""
        return Refusal(self._status) if self._status not in (0, _ACCEPTED) else FeedLost(reason)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            # A server may refuse and close before it has read the request. Its answer says more than this error.
            if self._is_open:
                raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
