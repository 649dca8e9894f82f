"""State: the progress of a plan: which conversations have begun, which are observed, which are over.

Conversations end with their planned values, but observers may see the end later than planned: while ends are held,
and while an observer that is connected, or that a fault has disconnected, has not been sent the last snapshot. So
no transport fault changes what an observer that reads to the end learns.

The exception is an absence: a time in which all observers are known to be away. A conversation that begins and
ends within it ends as planned; one that began before it does not end until the observers return.
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

# How long an end waits for an observer that a fault has disconnected: more than twice a usual longest backoff.
_GRACE_MS: Final = 120_000
# An endless plan forgets conversations this long after their end; a finite one keeps all for the test's oracle.
_RETENTION_MS: Final = 3_600_000
_NEVER: Final = float("inf")


@attrs.frozen(kw_only=True, eq=False)
class Socket:
    """One attempt to observe a conversation, from its handshake on.

    ``rng`` depends only on the seed, the conversation and the number of the connection. ``draw`` is its first
    number: a fault that affects a share of sockets affects those whose ``draw`` is below the share, for all their
    life.
    """

    conversation: Conversation
    rng: random.Random
    draw: float
    opened_ms: int
    drops: int


class Playback:
    """Plays one scenario. Used on the trio thread only.

    ``patient``: end no conversation before an observer has been sent its last snapshot.
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
        self._deferred: dict[str, int] = {}
        self._attached: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()
        self._drops = 0
        self._absences: list[tuple[int, float]] = []
        self._held = False
        self._released_ms = math.floor(now_ms)
        self._changed = trio.Event()

    def now_ms(self) -> int:
        """Return the plan time, which is monotonic."""
        return math.floor((trio.current_time() - self._origin) * 1000)

    def conversation(self, identity: str) -> Conversation | None:
        """Return the conversation with this id, or None if it has not begun."""
        self._advance()
        return self._begun.get(identity)

    def newest_first(self, project: Project) -> Iterator[Conversation]:
        """Yield the conversations of a project that have begun, live or over, newest first."""
        self._advance()
        return (each for each in reversed(self._begun.values()) if each.project.id == project.id)

    def active(self, project: Project | None = None) -> int:
        """Return the number of live conversations, of one project or of all."""
        self._advance()
        return sum(project is None or each.project.id == project.id for each in self._live.values())

    def over_ms(self, conversation: Conversation) -> int | None:
        """Return the plan time at which the conversation ended for observers, or None while it is live."""
        identity, now_ms = conversation.id, self.now_ms()
        if identity in self._over:
            return self._over[identity]
        if now_ms < conversation.ended_ms:
            return None
        over_ms = max(
            conversation.ended_ms, self._released_ms, self._delivered.get(identity, conversation.ended_ms)
        )
        if conversation.ended_ms <= self._opened_ms or self._was_missed(conversation):
            over_ms = conversation.ended_ms  # it ended before anyone could observe it
        elif self._held or self._awaited(identity, now_ms):
            return None
        self._over[identity] = over_ms
        self._live.pop(identity, None)
        return over_ms

    def connect(self, conversation: Conversation) -> Socket:
        """Register an attempt to observe this conversation."""
        self._connections[conversation.id] += 1
        rng = random.Random(f"{self.scenario.seed}/{conversation.id}/{self._connections[conversation.id]}")
        return Socket(
            conversation=conversation,
            rng=rng,
            draw=rng.random(),
            opened_ms=self.now_ms(),
            drops=self._drops,
        )

    @contextmanager
    def attached(self, socket: Socket) -> Iterator[None]:
        """Count an observer, for whom the end of the conversation waits, while the block runs."""
        identity = socket.conversation.id
        self._attached[identity] += 1
        try:
            yield
        finally:
            self._attached[identity] -= 1
            self._attached += Counter()  # keeps positive counts only
            if not self._attached[identity] and identity not in self._over:
                self._delivered.pop(identity, None)  # the observer may have left before it read the snapshot
            self._notify()

    def request_rng(self, path: str) -> random.Random:
        """Return the random generator for the next request of this path."""
        self._requests[path] += 1
        return random.Random(f"{self.scenario.seed}/{path}/{self._requests[path]}")

    def cut(self, socket: Socket) -> bool:
        """Whether a storm, an outage or `drop_all` drops this socket."""
        now_ms = self.now_ms()
        return (
            socket.drops < self._drops
            or socket.draw < strength(self.faults, "outage", now_ms)
            or any(
                fault.kind == "storm" and socket.opened_ms < fault.since_ms <= now_ms and socket.draw < fault.value
                for fault in self.faults
            )
        )

    def defer_end(self, conversation: Conversation) -> None:
        """Let the end wait for a while for an observer that a fault has disconnected."""
        self._deferred[conversation.id] = self.now_ms() + _GRACE_MS

    def mark_delivered(self, conversation: Conversation) -> None:
        """Record that an observer was sent the last snapshot. Forgotten if all observers leave before the end."""
        self._delivered.setdefault(conversation.id, self.now_ms())
        self._notify()

    def hold(self) -> None:
        """Let no conversation end until `release`."""
        self._advance()
        self._return()
        self._held = True

    def leave(self) -> None:
        """Begin an absence, which lasts until `hold` or `release`. Drops open sockets."""
        self._advance()
        self.drop_all()
        self._return()
        self._held = True
        self._absences.append((self.now_ms(), _NEVER))

    def release(self) -> None:
        """Let conversations end again, at once if their planned end has passed."""
        self._return()
        if self._held:
            self._held = False
            self._released_ms = self.now_ms()
        self._notify()

    def drop_all(self) -> int:
        """Drop every open socket; return how many."""
        self._drops += 1
        self._notify()
        return self._attached.total()

    def switch(self, faults: tuple[Fault, ...]) -> None:
        """Replace the transport faults."""
        self.faults = faults
        self._notify()

    async def wait(self, until_ms: float) -> None:
        """Wait until plan time ``until_ms``, the edge of a fault's window or any change, whichever is first."""
        edge_ms = min(until_ms, next_edge_ms(self.faults, self.now_ms()))
        with trio.move_on_at(self._origin + (edge_ms + 0.5) / 1000):
            await self._changed.wait()

    def report(self) -> dict[str, object]:
        """Return the state for tests; see `exporter.simulator.control`."""
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
        """Whether a conversation whose planned end has passed began and ended within an absence."""
        return any(
            since < conversation.created_ms and conversation.ended_ms <= until for since, until in self._absences
        )

    def _return(self) -> None:
        """End the present absence, if there is one."""
        if self._absences and self._absences[-1][1] == _NEVER:
            self._absences[-1] = (self._absences[-1][0], self.now_ms())

    def _awaited(self, identity: str, now_ms: int) -> bool:
        """Whether the end waits for an observer to be sent the last snapshot."""
        if identity in self._delivered:
            return False
        return self._patient or identity in self._attached or self._deferred.get(identity, now_ms) > now_ms

    def _advance(self) -> None:
        """Begin and end the conversations whose time has come."""
        now_ms = self.now_ms()
        while self._next is not None and self._next.created_ms <= now_ms:
            self._begun[self._next.id] = self._live[self._next.id] = self._next
            self._next = next(self._plan, None)
        for conversation in list(self._live.values()):
            self.over_ms(conversation)
        if self.scenario.total is None:
            self._forget(now_ms - _RETENTION_MS)

    def _forget(self, before_ms: int) -> None:
        # ``_over`` is roughly in order of the ends, so stop at the first recent one.
        for identity, _ in list(itertools.takewhile(lambda each: each[1] < before_ms, self._over.items())):
            for memory in (self._begun, self._over, self._delivered, self._deferred, self._connections):
                memory.pop(identity, None)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
