"""Edge: looks after all open feeds together, ten times a second, in place of after each one as it stirs.

Strategy: an idle process that is woken for a message runs with cold caches, and a thousand feeds with an update a
second each would wake it a thousand times. So sockets wait in a selector of their own, which is looked at in
rounds: first everybody who was promised the new round is woken, then whoever has something to read. What is read
in a round is evaluated in the next, so that of several snapshots only the newest is. With 1,000 updates a second
an update cost 230 µs of CPU when each was read and evaluated as it came, and costs 175 so.
"""

import selectors
from collections.abc import Iterable

import trio
from trio.lowlevel import ParkingLot

RECEIVE_BUFFER = 64 * 1024
"""Bytes of one read: 20 KB in reads of 4 KiB, each a pass of the scheduler, cost 2.8 times as much."""
# Tasks woken at once. What they do takes up to 0.1 ms each, and everybody else on the loop waits for it.
WOKEN_AT_ONCE = 10
# Tasks that do much at once in one pass of the scheduler: up to 1 ms each, as a rule. An answer to a scrape takes
# ten passes and more.
HEAVY_AT_ONCE = 4
# Bytes of a read below which the rest of a message is waited for in rounds, too: a peer may send it byte by byte.
_MUCH = 4096


class ReadBatches:
    """Wakes, every ``period`` seconds while `run` runs, those who have something to do.

    With a period of 0 there are no rounds: streams are read as data comes, and promises are kept at once.
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._selector: selectors.BaseSelector | None = None
        self._woken_next: list[ParkingLot] = []
        self._is_wanted = trio.Event()
        self._heavy = ParkingLot()
        self._is_heavy_waiting = trio.Event()
        # Large frames that are being read: the memory of the others is counted, and can be given up.
        self.large = trio.CapacityLimiter(1)

    async def run(self) -> None:
        """Go round until cancelled."""
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
            promised, self._woken_next = self._woken_next, []
            await _wake(promised)
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
        """Wait for a turn to do much at once; few have one in the same pass of the scheduler."""
        if not self._period:
            await trio.lowlevel.checkpoint()
            return
        self._is_heavy_waiting.set()
        await self._heavy.park()

    def wake_in_next(self, waiting: ParkingLot) -> None:
        """Wake who is parked there at the beginning of the next round."""
        if not self._period:
            waiting.unpark()
            return
        self._woken_next.append(waiting)
        self._is_wanted.set()

    def register(self, descriptor: int) -> ParkingLot | None:
        """Where to park until a round finds something to read; None where there are no rounds."""
        if not self._period:
            return None
        waiting = ParkingLot()
        if self._selector is None:
            self._selector = selectors.DefaultSelector()
        self._selector.register(descriptor, selectors.EVENT_READ, waiting)
        self._is_wanted.set()
        return waiting

    def unregister(self, descriptor: int) -> None:
        """Idempotent, and allowed after the end of `run`."""
        if self._selector is not None and descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)


async def _wake(lots: Iterable[ParkingLot]) -> None:
    for woken, lot in enumerate(lots, 1):
        lot.unpark()
        if woken % WOKEN_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()


class BatchedStream(trio.abc.Stream):
    """A TCP stream that is read as data comes, and in batches once it has joined them.

    While it ``expects_more`` and data comes quickly it is read at once: a message that has begun is read to
    its end.
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
        """From the next read but one on: a read that waits already is left alone."""
        self._descriptor = self._tcp.socket.fileno()
        self._readable = batches.register(self._descriptor)
        self._batches = batches

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Up to ``max_bytes``, by default `RECEIVE_BUFFER`."""
        size = max_bytes or RECEIVE_BUFFER
        if self._batches is not None:
            if not self._is_drained:
                await self._batches.heavy_checkpoint()
            elif self._readable is not None and not (self.expects_more and self._has_read_much):
                await self._readable.park()
        data = await self._tcp.receive_some(size)
        self._is_drained = len(data) < size  # else more is waiting
        self._has_read_much = len(data) >= _MUCH
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._tcp.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._tcp.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Leaves the rounds first: a descriptor is soon another connection's."""
        if self._batches is not None:
            self._batches.unregister(self._descriptor)
            self._batches = None
        if self._readable is not None:
            self._readable.unpark_all()  # to find the stream closed
        await self._tcp.aclose()
