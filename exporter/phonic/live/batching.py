"""Edge: reads the sockets of all open feeds together, in batches, instead of each one when it becomes readable.

Why: an idle process that is woken for one message runs with cold caches, and many feeds with an update a second
each would wake it for every one. See docs/decisions/0004-batched-reads.md.

How it works. A batch is one pass over the readable sockets. `ReadBatches.run` makes one every ``period`` seconds:

1. It wakes the tasks that were queued with `ReadBatches.wake_in_next`: watchers whose mailbox got a snapshot in an
   earlier batch. Several snapshots may have arrived meanwhile; the watcher gets the newest.
2. It asks its own selector which sockets are readable, without waiting, and wakes their readers.

With nothing queued and no socket registered it sleeps until there is something to do.

Invariants:

- A socket is registered from `BatchedStream.join` to `BatchedStream.aclose`. It is unregistered before it is
  closed, because the system may give its descriptor to another connection at once.
- A task that was woken reads with trio, so it never blocks: a batch decides only when to try.
- Few tasks are woken in one pass of the scheduler (`WOKEN_AT_ONCE`), and tasks that do much at once wait for one
  of a few places (`HEAVY_AT_ONCE`), so that other tasks (scrapes) run in between.

With a period of 0 all of this is off: streams are read with plain trio and mailboxes wake their watchers at once.
"""

import selectors
from collections.abc import Iterable

import trio
from trio.lowlevel import ParkingLot

RECEIVE_BUFFER = 64 * 1024
"""Bytes of one read: small reads cost a pass of the scheduler each."""
# Tasks woken in one pass of the scheduler. Each may take up to 0.1 ms, and every other task waits for all of them.
WOKEN_AT_ONCE = 10
# Tasks in one pass that do much at once, each for up to 1 ms. An answer to a scrape needs ten passes and more.
HEAVY_AT_ONCE = 4
# Bytes of a read below which even the rest of a message is read in batches: a peer may send it byte by byte.
_MUCH = 4096


class ReadBatches:
    """Wakes tasks in batches while `run` runs."""

    def __init__(self, period: float) -> None:
        """``period``: seconds between two batches; 0 reads with plain trio, the way to compare and debug."""
        self._period = period
        self._selector: selectors.BaseSelector | None = None
        self._woken_next: list[ParkingLot] = []
        self._is_wanted = trio.Event()
        self._heavy = ParkingLot()
        self._is_heavy_waiting = trio.Event()
        # One large frame is decoded at a time: the memory of the others is counted and can be given up.
        self.large = trio.CapacityLimiter(1)

    async def run(self) -> None:
        """Make batches until cancelled, then close the selector."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wake_heavy)
                await self._read_in_batches()
        finally:
            if self._selector is not None:
                self._selector.close()
                self._selector = None

    async def _read_in_batches(self) -> None:
        while True:
            await self._is_wanted.wait()
            await trio.sleep(self._period)
            queued, self._woken_next = self._woken_next, []
            await _wake(queued)
            if self._selector is not None:
                await _wake([key.data for key, _ in self._selector.select(0)])
            if not self._woken_next and not (self._selector and self._selector.get_map()):
                self._is_wanted = trio.Event()

    async def _wake_heavy(self) -> None:
        while True:
            await self._is_heavy_waiting.wait()
            while self._heavy:
                self._heavy.unpark(count=HEAVY_AT_ONCE)
                await trio.lowlevel.checkpoint()
            self._is_heavy_waiting = trio.Event()

    async def heavy_checkpoint(self) -> None:
        """A checkpoint before up to 1 ms of work, which few tasks pass in one pass of the scheduler."""
        if not self._period:
            await trio.lowlevel.checkpoint()
            return
        self._is_heavy_waiting.set()
        await self._heavy.park()

    def wake_in_next(self, waiting: ParkingLot) -> None:
        """Wake the task parked there at the beginning of the next batch; at once with a period of 0."""
        if not self._period:
            waiting.unpark()
            return
        self._woken_next.append(waiting)
        self._is_wanted.set()

    def register(self, descriptor: int) -> ParkingLot | None:
        """Where to park until a batch finds the descriptor readable; None with a period of 0."""
        if not self._period:
            return None
        waiting = ParkingLot()
        if self._selector is None:
            self._selector = selectors.DefaultSelector()
        self._selector.register(descriptor, selectors.EVENT_READ, waiting)
        self._is_wanted.set()
        return waiting

    def unregister(self, descriptor: int) -> None:
        """Forget the descriptor. Idempotent, and allowed after the end of `run`."""
        if self._selector is not None and descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)


async def _wake(lots: Iterable[ParkingLot]) -> None:
    for woken, lot in enumerate(lots, 1):
        lot.unpark()
        if woken % WOKEN_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()


class BatchedStream(trio.abc.Stream):
    """A TCP stream that is read as data comes, and in batches once it has joined them.

    While it ``expects_more`` and data comes quickly it is read at once: a message that has begun is read to its
    end without waiting for a batch.
    """

    def __init__(self, tcp: trio.SocketStream) -> None:
        self._tcp = tcp
        self._batches: ReadBatches | None = None
        self._descriptor = -1
        self._readable: ParkingLot | None = None
        self._is_drained = True
        self._has_read_much = False
        self.expects_more = False

    def join(self, batches: ReadBatches) -> None:
        """Read in batches from now on; a read that waits already is left alone."""
        self._descriptor = self._tcp.socket.fileno()
        self._readable = batches.register(self._descriptor)
        self._batches = batches

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive up to ``max_bytes``, by default `RECEIVE_BUFFER`. Raises and is cancelled as trio's own."""
        size = max_bytes or RECEIVE_BUFFER
        if self._batches is not None:
            if not self._is_drained:
                await self._batches.heavy_checkpoint()
            elif self._readable is not None and not (self.expects_more and self._has_read_much):
                await self._readable.park()
        data = await self._tcp.receive_some(size)
        self._is_drained = len(data) < size  # else the system has more
        self._has_read_much = len(data) >= _MUCH
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._tcp.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._tcp.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close, after leaving the batches."""
        if self._batches is not None:
            self._batches.unregister(self._descriptor)
            self._batches = None
        if self._readable is not None:
            self._readable.unpark_all()  # its reader then finds the stream closed
        await self._tcp.aclose()
