"""State: the frames of one feed that wait for their watcher; of snapshots only the newest.

Strategy: a snapshot is the whole conversation, so it stands for all before it. It waits for the next round
(`batching`), and a newer one takes its place meanwhile. Anything else is handed out at once, and
in order. Of large frames only one is handed out at a time in all feeds: the others wait where they are counted and
can be dropped (`limits`).
"""

from collections import deque
from sys import getsizeof

import trio
from trio.lowlevel import ParkingLot

from .batching import ReadBatches
from .errors import FeedClosed
from .layout import is_snapshot

# What waits: a snapshot and an end, as a rule. Beyond it nothing is read from the connection.
MOST_WAITING = 8
MOST_BYTES_WAITING = 1024 * 1024
LARGE = 1024 * 1024  # bytes of a frame


class Mailbox:
    """What has come and was not handed out.

    ``held`` is its memory. ``superseded`` and ``superseded_bytes`` grow by the snapshots that were dropped for a
    newer one.
    """

    def __init__(self, conversation_id: str, batches: ReadBatches) -> None:
        self._conversation_id = conversation_id
        self._batches = batches
        self._frames: deque[str | bytes] = deque()
        self._ends_with_snapshot = False
        self._end: FeedClosed | None = None
        self._arrival, self._room = ParkingLot(), ParkingLot()
        self._is_open = True
        self.held = 0
        self._has_large = False
        self.superseded = 0
        self.superseded_bytes = 0

    async def receive(self) -> str | bytes:
        """The next frame; raises the `FeedClosed` that ended it when none is left. Cancellation loses none."""
        self._has_read()
        if self._frames or self._end is not None:
            await trio.lowlevel.checkpoint()
        while True:
            if self._frames:
                if getsizeof(self._frames[0]) < LARGE or await self._may_hand_out():
                    break
            elif self._end is not None:
                raise self._end
            else:
                await self._arrival.park()
        frame = self._frames.popleft()
        self.held -= getsizeof(frame)
        self._room.unpark_all()
        return frame

    async def _may_hand_out(self) -> bool:
        """Wait until it is the turn of a large frame; False if that is not the first one any more."""
        await self._batches.large.acquire_on_behalf_of(self)
        self._has_large = True
        if self._frames and getsizeof(self._frames[0]) >= LARGE:
            return True
        self._has_read()
        return False

    def _has_read(self) -> None:
        """The large frame that was handed out last has been read, for the reader is back."""
        if self._has_large:
            self._has_large = False
            self._batches.large.release_on_behalf_of(self)

    @property
    def has_room(self) -> bool:
        """Whether another frame may be read from the connection."""
        return not self._is_open or (len(self._frames) < MOST_WAITING and self.held < MOST_BYTES_WAITING)

    async def wait_room(self) -> None:
        """Wait until there is room for another frame; no checkpoint where there is."""
        while not self.has_room:
            await self._room.park()

    def put(self, frame: str | bytes) -> None:
        if not self._is_open or self._end is not None:
            return
        is_whole = is_snapshot(frame, self._conversation_id)  # may make Python keep its UTF-8: before `getsizeof`
        self.held += getsizeof(frame)
        if not is_whole:
            self._ends_with_snapshot = False
            self._frames.append(frame)
            self._arrival.unpark()
        elif self._frames and self._ends_with_snapshot:
            self.superseded += 1
            self.superseded_bytes += len(self._frames[-1])
            self.held -= getsizeof(self._frames[-1])
            self._frames[-1] = frame
        else:
            self._ends_with_snapshot = True
            self._frames.append(frame)
            self._batches.wake_in_next(self._arrival)

    def end(self, closed: FeedClosed) -> None:
        """No more frames will come, and why; what was told first holds."""
        if self._end is None:
            self._end = closed
        self._arrival.unpark()

    def drop(self, closed: FeedClosed) -> None:
        """No frames will come, not even those that wait, and why."""
        self._end = None
        self._clear()
        self.end(closed)

    def close(self) -> None:
        """Nobody will take any more: what comes is dropped, and nobody waits for room."""
        self._is_open = False
        self._has_read()
        self._clear()

    def _clear(self) -> None:
        self._frames.clear()
        self.held = 0
        self._room.unpark_all()
