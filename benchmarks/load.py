"""Pure: what is played to a client, as a value that harness and server process hand to each other."""

import attrs


@attrs.frozen(kw_only=True)
class Load:
    """Conversations 0 to ``conversations`` - 1, of which each gets ``updates`` snapshots of a call of ``turns``.

    ``first`` is the number of turns in the first snapshot. ``period`` is the time in seconds between two
    snapshots of a conversation, the conversations being spread evenly over it; 0 is as fast as the client reads.
    ``listed`` makes REST say that all of them are live; otherwise none is.
    """

    conversations: int
    turns: int = 40
    first: int = 1
    updates: int = 0
    period: float = 0.0
    non_ascii: bool = False
    tls: bool = False
    listed: bool = False

    @property
    def total(self) -> int:
        """Snapshots to all conversations together."""
        return self.conversations * self.updates


@attrs.frozen(kw_only=True)
class Played:
    """How far a server is: feeds ``open`` and for how many seconds they were being opened, snapshots ``sent``
    and how many seconds the latest of these was ``behind`` its time, at most.
    """

    open: int
    opening: float
    sent: int
    behind: float
