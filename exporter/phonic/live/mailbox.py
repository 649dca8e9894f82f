"""State: the frames of one feed that wait for the watcher; of several snapshots only the newest.

A snapshot is the whole conversation, so it stands for all snapshots before it. It waits for the next batch
(`batching`), and a newer one replaces it meanwhile (it is superseded). Any other frame is handed out at once, and
the order of frames is kept: a snapshot never passes another frame. Of large frames only one in all feeds is handed
out at a time; the others wait where their memory is counted and can be given up (`limits`).
"""

from collections import deque
from sys import getsizeof

import trio
from trio.lowlevel import ParkingLot

from .batching import ReadBatches
from .errors import FeedClosed
from .layout import is_snapshot

# Frames that wait: a snapshot and an end, as a rule. While there are more, nothing is read from the connection.
MOST_WAITING = 8
MOST_BYTES_WAITING = 1024 * 1024
LARGE = 1024 * 1024  # bytes of a frame


class Mailbox:
    """The frames that have arrived and were not handed out.

    ``held`` is their memory in bytes. ``superseded`` counts the snapshots that were dropped for a newer one, and
    ``superseded_bytes`` their characters.
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
        """Wait for the next frame.

        Raises: the `FeedClosed` with which the feed ended, when no frame is left.

        Cancellation: loses no frame.
        """
        self._release_large()
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
        """Wait until no other large frame is being read; False if the first frame is no large one any more."""
        await self._batches.large.acquire_on_behalf_of(self)
        self._has_large = True
        if self._frames and getsizeof(self._frames[0]) >= LARGE:
            return True
        self._release_large()
        return False

    def _release_large(self) -> None:
        """Let the next large frame be handed out: the reader of the last one asks for another, so it is done."""
        if self._has_large:
            self._has_large = False
            self._batches.large.release_on_behalf_of(self)

    @property
    def has_room(self) -> bool:
        """Whether another frame may be read from the connection."""
        return not self._is_open or (len(self._frames) < MOST_WAITING and self.held < MOST_BYTES_WAITING)

    async def wait_room(self) -> None:
        """Wait until there is room for another frame; no checkpoint when there is."""
        while not self.has_room:
            await self._room.park()

    def put(self, frame: str | bytes) -> None:
        """Add a frame that has arrived; dropped after `end` and `close`."""
        if not self._is_open or self._end is not None:
            return
        replaces = is_snapshot(frame, self._conversation_id)  # before `getsizeof`: it may add UTF-8 to the string
        self.held += getsizeof(frame)
        if not replaces:
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
        """Raise ``closed`` once the waiting frames are handed out. The first call decides."""
        if self._end is None:
            self._end = closed
        self._arrival.unpark()

    def drop(self, closed: FeedClosed) -> None:
        """Drop the waiting frames and raise ``closed`` at once."""
        self._end = None
        self._clear()
        self.end(closed)

    def close(self) -> None:
        """Drop all frames from now on: the watcher has left. `wait_room` returns at once."""
        self._is_open = False
        self._release_large()
        self._clear()

    def _clear(self) -> None:
        self._frames.clear()
        self.held = 0
        self._room.unpark_all()
