"""State: the frames of one feed that wait for their watcher; of snapshots only the newest.

Strategy: a snapshot is the whole conversation, so it stands for all before it. It waits for the next round
(`exporter.phonic.rounds`), and a newer one takes its place meanwhile. Anything else is handed out at once, and
in order.
"""

from collections import deque

import trio
from trio.lowlevel import ParkingLot

from .feed import FeedClosed
from .rounds import Rounds

# Frames that wait: a snapshot and an end, as a rule. Beyond it nothing is read from the connection.
MOST_WAITING = 8


class Inbox:
    """What has come and was not handed out.

    ``superseded`` and ``superseded_bytes`` grow by the snapshots that were dropped for a newer one.
    """

    def __init__(self, conversation_id: str, rounds: Rounds) -> None:
        self._beginning = f'{{"type":"conversation-updated","conversation":{{"id":"{conversation_id}",'
        self._rounds = rounds
        self._frames: deque[str | bytes] = deque()
        self._ends_with_snapshot = False
        self._end: FeedClosed | None = None
        self._arrival, self._room = ParkingLot(), ParkingLot()
        self._is_open = True
        self.superseded = 0
        self.superseded_bytes = 0

    async def receive(self) -> str | bytes:
        """The next frame; raises the `FeedClosed` that ended it when none is left. Cancellation loses none."""
        if self._frames or self._end is not None:
            await trio.lowlevel.checkpoint()
        while not self._frames:
            if self._end is not None:
                raise self._end
            await self._arrival.park()
        self._room.unpark_all()
        return self._frames.popleft()

    async def wait_room(self) -> None:
        """Wait until there is room for another frame; no checkpoint where there is."""
        while self._is_open and len(self._frames) >= MOST_WAITING:
            await self._room.park()

    def put(self, frame: str | bytes) -> None:
        if not self._is_open:
            return
        if not self._is_snapshot(frame):
            self._ends_with_snapshot = False
            self._frames.append(frame)
            self._arrival.unpark()
        elif self._frames and self._ends_with_snapshot:
            self.superseded += 1
            self.superseded_bytes += len(self._frames[-1])
            self._frames[-1] = frame
        else:
            self._ends_with_snapshot = True
            self._frames.append(frame)
            self._rounds.promise(self._arrival)

    def _is_snapshot(self, frame: str | bytes) -> bool:
        """Whether a frame is surely a whole snapshot of this conversation, so that it may stand for earlier ones.

        Told from its ends alone; one that is written in another order is looked at by itself.
        """
        return isinstance(frame, str) and frame.startswith(self._beginning) and frame.endswith("}}")

    def end(self, closed: FeedClosed) -> None:
        """No more frames will come, and why."""
        self._end = closed
        self._arrival.unpark()

    def shut(self) -> None:
        """Nobody will take any more: what comes is dropped, and nobody waits for room."""
        self._is_open = False
        self._frames.clear()
        self._room.unpark_all()
