"""State: the plan against the clock: which conversations have begun, who watches them, which are over.

Conversations end as planned, with the planned values, but for observers an end may come later than planned:
while ends are held, and while an observer that is attached, or that a fault has cut off, has not yet been sent the
last snapshot. So no transport fault can change what a patient observer learns.

The exception is an absence: a window in which all observers are known to be away. What begins and ends within it
ends as planned, unseen; what began before it waits for their return.
"""

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs
import trio

from .faults import Fault, next_edge_ms, strength
from .plan import plan, workspace
from .scenario import Conversation, Project, Scenario

# How long an end waits for an observer that a fault has cut off: twice the longest customary backoff and more.
_GRACE_MS: Final = 120_000
# An endless plan forgets what ended this long ago; a finite one keeps everything for its oracle.
_RETENTION_MS: Final = 3_600_000
_NEVER: Final = float("inf")


@attrs.frozen(kw_only=True, eq=False)
class Socket:
    """One attempt to observe a conversation, from its handshake on.

    ``rng`` depends on seed, conversation and connection number alone; ``luck`` is its first number, against which
    the faults that strike a share of all sockets are held: who is lucky stays so for the life of the socket.
    """

    conversation: Conversation
    rng: random.Random
    luck: float
    opened_ms: int
    drops: int


class Stage:
    """Plays one scenario. Lives on the trio thread; everything but ``wait`` is synchronous.

    ``patient``: no conversation ends before an observer has been sent its last snapshot.
    """

    def __init__(
        self, scenario: Scenario, *, faults: tuple[Fault, ...], epoch_ms: int, now_ms: float, patient: bool
    ) -> None:
        self.scenario = scenario
        self.workspace = workspace(scenario)
        self.epoch_ms = epoch_ms
        self.faults = faults
        self.sent: Counter[str] = Counter()
        self._origin = trio.current_time() - now_ms / 1000
        self._opened_ms = now_ms
        self._patient = patient
        self._plan = plan(scenario)
        self._next = next(self._plan, None)
        self._begun: dict[str, Conversation] = {}
        self._live: dict[str, Conversation] = {}
        self._over: dict[str, int] = {}
        self._delivered: dict[str, int] = {}
        self._owed: dict[str, int] = {}
        self._attached: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()
        self._drops = 0
        self._absences: list[tuple[int, float]] = []
        self._held = False
        self._released_ms = math.floor(now_ms)
        self._changed = trio.Event()

    def now_ms(self) -> int:
        """Plan time. Monotonic, whatever the wall clock does."""
        return math.floor((trio.current_time() - self._origin) * 1000)

    def conversation(self, identity: str) -> Conversation | None:
        """The conversation with this id, if it has begun."""
        self._advance()
        return self._begun.get(identity)

    def newest_first(self, project: Project) -> Iterator[Conversation]:
        """What a list shows: everything begun in a project, live or over."""
        self._advance()
        return (each for each in reversed(self._begun.values()) if each.project.id == project.id)

    def active(self, project: Project | None = None) -> int:
        """Live conversations, of one project or of all."""
        self._advance()
        return sum(project is None or each.project.id == project.id for each in self._live.values())

    def over_ms(self, conversation: Conversation) -> int | None:
        """When it was over for observers; None while it is live. Once over, over for good."""
        identity, now_ms = conversation.id, self.now_ms()
        if identity in self._over:
            return self._over[identity]
        if now_ms < conversation.ended_ms:
            return None
        over_ms = max(
            conversation.ended_ms, self._released_ms, self._delivered.get(identity, conversation.ended_ms)
        )
        if conversation.ended_ms <= self._opened_ms or self._was_missed(conversation):
            over_ms = conversation.ended_ms  # it was over before anyone could watch
        elif self._held or self._awaited(identity, now_ms):
            return None
        self._over[identity] = over_ms
        self._live.pop(identity, None)
        return over_ms

    def knock(self, conversation: Conversation) -> Socket:
        """Somebody wants to observe this conversation."""
        self._connections[conversation.id] += 1
        rng = random.Random(f"{self.scenario.seed}/{conversation.id}/{self._connections[conversation.id]}")
        return Socket(
            conversation=conversation,
            rng=rng,
            luck=rng.random(),
            opened_ms=self.now_ms(),
            drops=self._drops,
        )

    @contextmanager
    def attached(self, socket: Socket) -> Iterator[None]:
        """While inside, the conversation has an observer for whom its end waits."""
        identity = socket.conversation.id
        self._attached[identity] += 1
        try:
            yield
        finally:
            self._attached[identity] -= 1
            self._attached += Counter()  # keeps positive counts only
            if not self._attached[identity] and identity not in self._over:
                self._delivered.pop(identity, None)  # whether it was read before it left, nobody knows
            self._notify()

    def request_rng(self, path: str) -> random.Random:
        """A generator for the next request of this path."""
        self._requests[path] += 1
        return random.Random(f"{self.scenario.seed}/{path}/{self._requests[path]}")

    def cut(self, socket: Socket) -> bool:
        """Whether a storm, an outage or a call for it has ended this socket."""
        now_ms = self.now_ms()
        return (
            socket.drops < self._drops
            or socket.luck < strength(self.faults, "outage", now_ms)
            or any(
                fault.kind == "storm" and socket.opened_ms < fault.since_ms <= now_ms and socket.luck < fault.value
                for fault in self.faults
            )
        )

    def owe(self, conversation: Conversation) -> None:
        """A fault keeps an observer from this conversation: its end waits, for a while, until one is back."""
        self._owed[conversation.id] = self.now_ms() + _GRACE_MS

    def deliver(self, conversation: Conversation) -> None:
        """An attached observer has been sent the last snapshot. Forgotten if all leave before the end."""
        self._delivered.setdefault(conversation.id, self.now_ms())
        self._notify()

    def hold(self) -> None:
        """From now on no conversation ends."""
        self._advance()
        self._return()
        self._held = True

    def leave(self) -> None:
        """All observers are away until ``hold`` or ``release``; sockets still open are dropped."""
        self._advance()
        self.drop_all()
        self._return()
        self._held = True
        self._absences.append((self.now_ms(), _NEVER))

    def release(self) -> None:
        """Conversations end again, those whose time has passed at once."""
        self._return()
        if self._held:
            self._held = False
            self._released_ms = self.now_ms()
        self._notify()

    def drop_all(self) -> int:
        """End every open socket; returns how many."""
        self._drops += 1
        self._notify()
        return self._attached.total()

    def switch(self, faults: tuple[Fault, ...]) -> None:
        """Replace the transport faults."""
        self.faults = faults
        self._notify()

    async def wait(self, until_ms: float) -> None:
        """Until plan time ``until_ms``, the edge of a fault's window, or any change, whichever is first."""
        edge_ms = min(until_ms, next_edge_ms(self.faults, self.now_ms()))
        with trio.move_on_at(self._origin + (edge_ms + 0.5) / 1000):
            await self._changed.wait()

    def report(self) -> dict[str, object]:
        """What a test harness wants to know; see `exporter.simulator.control`."""
        self._advance()
        return {
            "now_ms": self.now_ms(),
            "epoch_ms": self.epoch_ms,
            "held": self._held,
            "absences": [(since, None if until == _NEVER else until) for since, until in self._absences],
            "complete": self._next is None and not self._live,
            "open_sockets": self._attached.total(),
            "sent": dict(self.sent),
            "faults": self.faults,
            "conversations": {
                identity: {
                    "live": identity in self._live,
                    "connections": self._connections[identity],
                    "last_snapshot_sent": identity in self._delivered,
                }
                for identity in self._begun
            },
        }

    def _was_missed(self, conversation: Conversation) -> bool:
        """Whether it began and ended within an absence; asked when its planned end has passed."""
        return any(
            since < conversation.created_ms and conversation.ended_ms <= until for since, until in self._absences
        )

    def _return(self) -> None:
        """The present absence, if there is one, ends now."""
        if self._absences and self._absences[-1][1] == _NEVER:
            self._absences[-1] = (self._absences[-1][0], self.now_ms())

    def _awaited(self, identity: str, now_ms: int) -> bool:
        if identity in self._delivered:
            return False
        return self._patient or identity in self._attached or self._owed.get(identity, now_ms) > now_ms

    def _advance(self) -> None:
        """Let begin what has begun and end what is over."""
        now_ms = self.now_ms()
        while self._next is not None and self._next.created_ms <= now_ms:
            self._begun[self._next.id] = self._live[self._next.id] = self._next
            self._next = next(self._plan, None)
        for conversation in list(self._live.values()):
            self.over_ms(conversation)
        if self.scenario.total is None:
            self._forget(now_ms - _RETENTION_MS)

    def _forget(self, before_ms: int) -> None:
        # In the order in which they ended, near enough: the first young one ends the search.
        for identity, _ in list(itertools.takewhile(lambda each: each[1] < before_ms, self._over.items())):
            for memory in (self._begun, self._over, self._delivered, self._owed, self._connections):
                memory.pop(identity, None)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
