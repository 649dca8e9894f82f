"""State: which connections there are, and which of them gives way when there are too many.

A client that is slow, silent or idle must not keep others out, and connections must not eat the descriptors of
feeds and of the state file. So a new connection is always let in while any other one is only waiting, and the
one that has waited longest is cut for it.
"""

from enum import Enum, auto
from typing import Final

import attrs
import trio

MOST_CONNECTIONS: Final = 250
_SHARE_WITHOUT_REQUEST: Final = 0.4
_LEAST_WITHOUT_REQUEST: Final = 32  # where there may be so many: scrapers that connect at once have yet to ask


class Phase(Enum):
    """What a connection is doing."""

    NEW = auto()  # it has not sent a whole request yet, be it in its TLS handshake or silent
    IDLE = auto()  # it has been answered and may ask again
    SENDING = auto()  # it is given its answer and has to take it
    ANSWERING = auto()  # its answer is being made


# Who gives way first.
_PATIENT: Final = (Phase.IDLE, Phase.NEW, Phase.SENDING)


@attrs.define(eq=False)
class Connection:
    """One connection; ``scope`` ends it."""

    scope: trio.CancelScope
    phase: Phase = Phase.NEW


class Connections:
    """All connections of a server. The oldest of a phase is the one that entered it first."""

    def __init__(self, *, most: int = MOST_CONNECTIONS, most_without_request: int | None = None) -> None:
        """Of ``most`` connections two in five, and 32 at least, may be without a request, unless it is said.

        ``most_without_request`` says how many instead.
        """
        self._most = most
        share = max(int(most * _SHARE_WITHOUT_REQUEST), min(most, _LEAST_WITHOUT_REQUEST))
        self._most_new = most_without_request or max(1, share)
        self._by_phase: dict[Phase, dict[Connection, None]] = {phase: {} for phase in Phase}
        self._is_closing = False

    @property
    def is_closing(self) -> bool:
        """Whether answers are the last ones of their connections."""
        return self._is_closing

    def enter(self, scope: trio.CancelScope) -> Connection | None:
        """Let a connection in; None where it is the one that gives way, since all others are being answered."""
        if len(self._by_phase[Phase.NEW]) >= self._most_new:
            self._cut_oldest(Phase.NEW)
        elif sum(map(len, self._by_phase.values())) >= self._most:
            waiting = next((phase for phase in _PATIENT if self._by_phase[phase]), None)
            if waiting is None:
                return None
            self._cut_oldest(waiting)
        connection = Connection(scope)
        self._by_phase[connection.phase][connection] = None
        return connection

    def move(self, connection: Connection, phase: Phase) -> None:
        """``connection`` begins a phase, or begins it again. An idle one is cut while the server closes."""
        self.leave(connection)
        if connection.scope.cancel_called:  # it has given way and is on its way out
            return
        connection.phase = phase
        self._by_phase[phase][connection] = None
        if self._is_closing and phase is Phase.IDLE:
            connection.scope.cancel()

    def leave(self, connection: Connection) -> None:
        self._by_phase[connection.phase].pop(connection, None)

    def close(self) -> None:
        """End every connection that waits for its client to ask; the others end after their answer."""
        self._is_closing = True
        for phase in (Phase.NEW, Phase.IDLE):
            for connection in self._by_phase[phase]:
                connection.scope.cancel()

    def _cut_oldest(self, phase: Phase) -> None:
        connection = next(iter(self._by_phase[phase]))
        self.leave(connection)
        connection.scope.cancel()
