"""Pure: draws from a seed what happens to several processes and their PostgreSQL, and when."""

import random
from collections.abc import Sequence
from enum import Enum
from typing import Final

import attrs

from tests.links import State

_GAP_S: Final = (3.0, 6.0)
_HOLDERS: Final = 0.75  # share of faults that strike a process that holds a shard, not a standby


class Kind(Enum):
    """A fault, or a change of the number of shards."""

    KILL = "kill"
    KILL_CUT_OFF = "kill while the API is down"
    """No process reaches the API until the shard has its next holder, which can show only what was written."""
    STALL = "stall"
    """The process is stopped for longer than its lease, and goes on."""
    PARTITION_ENGINE = "partition from the engine"
    PARTITION_API = "partition from the API"
    CRASH_ENGINE = "engine crash"
    ADD = "shard added"
    DRAIN = "shard drained"


FAULTS: Final = (
    Kind.KILL,
    Kind.KILL_CUT_OFF,
    Kind.STALL,
    Kind.PARTITION_ENGINE,
    Kind.PARTITION_API,
    Kind.CRASH_ENGINE,
)
RESHARDING: Final = (Kind.ADD, Kind.DRAIN)
# How long a fault lasts, in leases. A partition may be shorter than a lease: then nothing is taken over. A holder
# that does not reach the API in its first 5 s goes on without the names of projects (`FeedGate`), so faults of the
# API are shorter.
_LASTS: Final = {
    Kind.KILL: (0.1, 1.5),
    Kind.KILL_CUT_OFF: (1.2, 1.5),
    Kind.STALL: (1.3, 2.2),
    Kind.PARTITION_ENGINE: (0.4, 2.2),
    Kind.PARTITION_API: (0.5, 1.6),
    Kind.CRASH_ENGINE: (0.1, 1.4),
}
_WAYS: Final = (State.CUT, State.HOLDS, State.HOLDS_REPLIES, State.HOLDS_OPEN)


@attrs.frozen(kw_only=True)
class Trouble:
    """What happens ``after_s`` seconds after the one before, and lasts for ``seconds``.

    ``strikes_holder`` and ``draw`` (0 to 1) choose the process. ``way``: what a partition does to connections.
    """

    after_s: float
    kind: Kind
    strikes_holder: bool
    draw: float
    seconds: float
    way: State


def troubles(seed: int, *, count: int, lease_s: float, kinds: Sequence[Kind]) -> list[Trouble]:
    """Return ``count`` troubles: each kind of fault about equally often, resharding once each.

    The shard is added after a third, and drained after two thirds.
    """
    rng = random.Random(f"troubles/{seed}")
    faults = [kind for kind in kinds if kind in FAULTS]
    changes = [kind for kind in RESHARDING if kind in kinds]
    drawn: list[Kind] = []
    while len(drawn) < count - len(changes):
        drawn += rng.sample(faults, k=len(faults))
    del drawn[count - len(changes) :]
    for number, kind in enumerate(changes, 1):
        drawn.insert(count * number // (len(changes) + 1), kind)
    return [
        Trouble(
            after_s=rng.uniform(*_GAP_S),
            kind=kind,
            strikes_holder=rng.random() < _HOLDERS,
            draw=rng.random(),
            seconds=lease_s * rng.uniform(*_LASTS.get(kind, (0, 0))),
            way=rng.choice(_WAYS),
        )
        for kind in drawn
    ]
