"""Pure: the load that a server plays to a client, as a value that the harness passes to the server process."""

import attrs


@attrs.frozen(kw_only=True)
class Load:
    """Conversations 0 to ``conversations`` - 1, each with ``updates`` snapshots of a call of ``turns`` turns.

    ``first`` is the number of turns in the first snapshot. ``period`` is the time in seconds between two snapshots
    of a conversation; the conversations are spread evenly over it. 0 means as fast as the client reads.
    ``listed``: whether REST lists all conversations as live; otherwise it lists none.
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
        """The number of snapshots of all conversations."""
        return self.conversations * self.updates


@attrs.frozen(kw_only=True)
class Played:
    """Progress of a server: number of ``open`` feeds, seconds it took to open them, number of snapshots ``sent``,
    and by how many seconds the most delayed snapshot was ``behind`` its time.
    """

    open: int
    opening: float
    sent: int
    behind: float
