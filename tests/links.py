"""Edge: a TCP proxy between two programs, which a test can cut, stop and heal.

What a stopped link holds back is delivered when it is healed, as TCP does after a partition, even if the sender
has gone meanwhile. So a statement of a dead client may arrive late.
"""

import contextlib
from collections.abc import AsyncIterator
from enum import Enum

import attrs
import trio

from tests.servers import reset

_PIECE = 65_536


class State(Enum):
    """What happens to connections."""

    PASSES = "passes"
    CUT = "cut"
    """All connections are reset, new ones as soon as they are accepted."""
    HOLDS = "holds"
    """Connections stay open, new ones are accepted, but nothing arrives in either direction."""
    HOLDS_REPLIES = "holds replies"
    """What clients send arrives, but nothing comes back."""
    HOLDS_OPEN = "holds open ones"
    """As `HOLDS` for connections that are open now; new ones pass."""


_HOLDING_REQUESTS = (State.HOLDS, State.HOLDS_OPEN)
_HOLDING_REPLIES = (*_HOLDING_REQUESTS, State.HOLDS_REPLIES)


@attrs.define(eq=False)
class Link:
    """A link from its own ``port`` to a port of 127.0.0.1. Used on the trio thread only."""

    port: int
    _to: int
    _state: State = State.PASSES
    _changed: trio.Event = attrs.field(factory=trio.Event)
    _changes: int = 0
    _served: int = 0
    _open: set[trio.SocketStream] = attrs.field(factory=set)

    @property
    def state(self) -> State:
        return self._state

    @property
    def connections(self) -> int:
        """How many connections one side or both have not closed yet."""
        return self._served

    def lead(self, to: int) -> None:
        """Connect new connections with another port."""
        self._to = to

    async def become(self, state: State) -> None:
        """Change what happens to connections from now on, those that are open included."""
        self._state = state
        self._changes += 1
        self._changed.set()
        self._changed = trio.Event()
        if state is State.CUT:
            for stream in tuple(self._open):
                await _abort(stream)

    async def handle(self, client: trio.SocketStream) -> None:
        """Serve one connection until both sides have closed it, or the link is cut."""
        born = self._changes
        self._served += 1
        try:
            await self._serve(client, born)
        finally:
            self._served -= 1

    async def _serve(self, client: trio.SocketStream, born: int) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            async with self._kept(client):
                await self._passable(born, _HOLDING_REQUESTS)
                async with self._kept(await trio.open_tcp_stream("127.0.0.1", self._to)) as server:
                    await self._both(client, server, born)

    async def _both(self, client: trio.SocketStream, server: trio.SocketStream, born: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, client, server, born, _HOLDING_REQUESTS)
            nursery.start_soon(self._pump, server, client, born, _HOLDING_REPLIES)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, born: int, holding: tuple[State, ...]
    ) -> None:
        """Pass on what arrives, and its end. An error of one direction closes both."""
        try:
            while data := await source.receive_some(_PIECE):
                await self._passable(born, holding)
                await sink.send_all(data)
            await self._passable(born, holding)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            for stream in (source, sink):
                await _abort(stream)

    async def _passable(self, born: int, holding: tuple[State, ...]) -> None:
        """Wait while the link holds back connections of this age. Raises: trio.ClosedResourceError if it is cut.

        ``born``: the number of changes before the connection was opened.
        """
        while self._state in holding and not (self._state is State.HOLDS_OPEN and born == self._changes):
            await self._changed.wait()
        if self._state is State.CUT:
            raise trio.ClosedResourceError

    @contextlib.asynccontextmanager
    async def _kept(self, stream: trio.SocketStream) -> AsyncIterator[trio.SocketStream]:
        """Have `become` reset the stream until the block ends; then close it."""
        self._open.add(stream)
        try:
            yield stream
        finally:
            self._open.discard(stream)
            if self._state is State.CUT:
                await _abort(stream)
            await trio.aclose_forcefully(stream)


@contextlib.asynccontextmanager
async def link(to: int) -> AsyncIterator[Link]:
    """Pass connections on to a port of 127.0.0.1 until the block ends."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        made = Link(listeners[0].socket.getsockname()[1], to)
        nursery.start_soon(trio.serve_listeners, made.handle, listeners)
        yield made
        nursery.cancel_scope.cancel()


async def _abort(stream: trio.SocketStream) -> None:
    """Reset a connection, which may be closed already."""
    with contextlib.suppress(OSError):
        await reset(stream)
