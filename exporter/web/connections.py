"""State: the open HTTP connections, and which one is closed when there are too many.

Connections are limited, because each uses a file descriptor that feeds and the state file need too. A slow, silent
or idle client must not keep others out. So a new connection is accepted as long as any other one is waiting for
its client, and the connection that has waited longest is closed to make room. A connection whose client has sent
something that was not read yet waits for this process, not for its client: it is closed only if there is no other.

When the server closes, a client may be sending a request: it has just connected, or its bytes wait to be read. It
gets a moment to finish that, and its answer. Closing at once would reset the connection, and a scrape would fail.
"""

from collections.abc import Callable
from enum import Enum, auto
from math import inf
from typing import Final

import attrs
import trio

MOST_CONNECTIONS: Final = 250
LAST_REQUEST_SECONDS: Final = 1
"""For a request that is on its way when the server closes; a new connection has it from its beginning."""
_SHARE_WITHOUT_REQUEST: Final = 0.4
_LEAST_WITHOUT_REQUEST: Final = 32  # if the limit allows: several scrapers may connect at the same moment


class Phase(Enum):
    """What a connection is doing."""

    NEW = auto()  # no complete request yet: in the TLS handshake, or silent
    IDLE = auto()  # answered; the client may send another request
    SENDING = auto()  # the response is being sent; the client has to read it
    ANSWERING = auto()  # the response is being computed


# Phases in which a connection may be closed to make room, in this order.
_PATIENT: Final = (Phase.IDLE, Phase.NEW, Phase.SENDING)
_BEFORE_REQUEST: Final = (Phase.NEW, Phase.IDLE)


@attrs.define(eq=False)
class Connection:
    """One connection. Cancelling ``scope`` closes it.

    ``has_unread``: whether its client has sent something; ``hang_up``: tells the client at once that it is over;
    ``has_begun``: whether a part of its next request was read.
    """

    scope: trio.CancelScope
    has_unread: Callable[[], bool]
    hang_up: Callable[[], None]
    phase: Phase = Phase.NEW
    has_begun: bool = False
    entered: float = attrs.field(factory=trio.current_time)

    def cut(self) -> None:
        """Close it. Its task may run later, and a client that did not know would send to it in the meantime."""
        self.hang_up()
        self.scope.cancel()


class Connections:
    """All connections of a server, by phase, in the order in which they entered it. Not thread-safe."""

    def __init__(self, *, most: int = MOST_CONNECTIONS, most_without_request: int | None = None) -> None:
        """Limit the connections.

        Args:
            most: how many connections may be open.
            most_without_request: how many of them may not have sent a request yet; by default two in five,
                but at least 32.
        """
        self._most = most
        share = max(int(most * _SHARE_WITHOUT_REQUEST), min(most, _LEAST_WITHOUT_REQUEST))
        self._most_new = most_without_request or max(1, share)
        self._by_phase: dict[Phase, dict[Connection, None]] = {phase: {} for phase in Phase}
        self._is_closing = False

    @property
    def is_closing(self) -> bool:
        """Whether the server is closing, so that every response is the last one of its connection."""
        return self._is_closing

    def enter(
        self,
        scope: trio.CancelScope,
        has_unread: Callable[[], bool] = lambda: False,
        hang_up: Callable[[], None] = lambda: None,
    ) -> Connection | None:
        """Register a connection; return None if it must be closed because all others are being answered."""
        if len(self._by_phase[Phase.NEW]) >= self._most_new:
            self._cut_oldest(Phase.NEW)
        elif sum(map(len, self._by_phase.values())) >= self._most:
            waiting = next((phase for phase in _PATIENT if self._by_phase[phase]), None)
            if waiting is None:
                return None
            self._cut_oldest(waiting)
        connection = Connection(scope, has_unread, hang_up)
        self._by_phase[connection.phase][connection] = None
        if self._is_closing:
            self._end(connection)
        return connection

    def move(self, connection: Connection, phase: Phase, *, has_begun: bool = False) -> None:
        """Record that ``connection`` enters a phase, maybe again.

        While closing, it is closed if it becomes idle and its client has sent no further request.
        """
        self.leave(connection)
        if connection.scope.cancel_called:  # it was closed to make room and is about to leave
            return
        connection.phase, connection.has_begun = phase, has_begun
        self._by_phase[phase][connection] = None
        if self._is_closing:
            self._end(connection)

    def leave(self, connection: Connection) -> None:
        """Forget a connection; does nothing if it has left already."""
        self._by_phase[connection.phase].pop(connection, None)

    def close(self) -> None:
        """Close the connections that wait for a request, unless one is on its way. The others close once answered.

        A request on its way has ``LAST_REQUEST_SECONDS`` to arrive.
        """
        self._is_closing = True
        for phase in _BEFORE_REQUEST:
            for connection in self._by_phase[phase]:
                self._end(connection)

    def _end(self, connection: Connection) -> None:
        if connection.phase not in _BEFORE_REQUEST:
            connection.scope.deadline = inf
        elif connection.has_begun or connection.has_unread():
            connection.scope.deadline = trio.current_time() + LAST_REQUEST_SECONDS
        elif connection.phase is Phase.NEW:
            connection.scope.deadline = connection.entered + LAST_REQUEST_SECONDS
        else:
            connection.cut()

    def _cut_oldest(self, phase: Phase) -> None:
        waiting = self._by_phase[phase]
        connection = next((each for each in waiting if not each.has_unread()), None) or next(iter(waiting))
        self.leave(connection)
        connection.cut()
