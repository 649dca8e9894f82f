"""Edge: the TCP or TLS connection under a live feed: always closed, and clear about its end.

It is ours because trio-websocket (0.12), given its own, waits for ever on a handshake that was timed out or cut
off, reads the body of a refusal without a limit, hides what is wrong with TLS, waits without a deadline for a
peer that said Close to hang up, and leaves the socket open after it.
"""

import re
import ssl
from contextlib import AsyncExitStack

import attrs
import trio

from ..vocabulary import FeedError
from .feed import FeedLost
from .rounds import Rounds, RoundStream

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})")
_STATUS_LINE_LENGTH = 12
_ACCEPTED = 101
LARGEST_REFUSAL = 256 * 1024  # bytes of headers and body that nobody reads


class Refusal(Exception):
    """An HTTP answer that is no upgrade, and that was cut off before it was complete."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@attrs.frozen(kw_only=True)
class Address:
    """Where lines lead to. ``tls`` is None for a line in clear."""

    host: str
    port: int
    tls: ssl.SSLContext | None


async def dial(address: Address, closing: AsyncExitStack) -> "Line":
    """Connect, TLS handshake included; ``closing`` gets the means to close it, whatever comes of it.

    Raises `FeedLost`. The deadline is the caller's.
    """
    try:
        tcp = RoundStream(await trio.open_tcp_stream(address.host, address.port))
        closing.push_async_callback(trio.aclose_forcefully, tcp)
        if address.tls is None:
            return Line(tcp, tcp)
        secure = trio.SSLStream(tcp, address.tls, server_hostname=address.host, https_compatible=True)
        await secure.do_handshake()
    except OSError:
        raise FeedLost(FeedError.CONNECT) from None
    except trio.BrokenResourceError as broken:
        is_tls = isinstance(broken.__cause__, ssl.SSLError)
        raise FeedLost(FeedError.TLS if is_tls else FeedError.CONNECT) from None
    return Line(secure, tcp)


class Line(trio.abc.Stream):
    """A connection that knows when it last brought anything, and whose end before the upgrade is an error."""

    def __init__(self, stream: trio.abc.Stream, tcp: RoundStream) -> None:
        self._stream = stream
        self._tcp = tcp
        self._head = b""
        self._status = 0
        self._refusal_size = 0
        self.last_heard = trio.current_time()

    def join(self, rounds: Rounds) -> None:
        """Be read in rounds from now on."""
        self._tcp.join(rounds)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Raises a `FeedLost` or `Refusal` when the connection ends before the upgrade."""
        try:
            data = await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError:
            if self._status == _ACCEPTED:
                raise
            raise self.cut_off(FeedError.CONNECT) from None
        self.last_heard = trio.current_time()
        if self._status != _ACCEPTED:
            self._read_answer(data)
        return data

    def _read_answer(self, data: bytes | bytearray) -> None:
        if not data:
            raise self.cut_off(FeedError.CONNECT)
        if not self._status:
            self._head += data[:_STATUS_LINE_LENGTH]
            found = _STATUS_LINE.match(self._head)
            if found:
                self._status = int(found[1])
            elif len(self._head) >= _STATUS_LINE_LENGTH:
                raise FeedLost(FeedError.PROTOCOL)
        self._refusal_size += len(data)
        if self._refusal_size > LARGEST_REFUSAL and self._status != _ACCEPTED:
            raise self.cut_off(FeedError.PROTOCOL)

    def cut_off(self, reason: FeedError) -> FeedLost | Refusal:
        """What an end now means: ``reason``, or the refusal of which at least the status was heard."""
        return Refusal(self._status) if self._status not in (0, _ACCEPTED) else FeedLost(reason)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            # A server may refuse and hang up before it read the request: its answer says more than this error.
            if self._status == _ACCEPTED:
                raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
