"""Wiring: what a process serves that holds no shard: it offers what is pushed to the shards, and shows no call."""

from collections.abc import Sequence

import attrs
import trio

from .counting.turns import SeenCall
from .enums import Started, Word
from .phonic.keys import Keys
from .state.registrar import Registrar
from .state.storage import Assigned
from .web.pages import Latency, LiveRow, Part, PastRow


@attrs.frozen
class StandbyPush:
    """Offers what is pushed to the shards. Implements `exporter.web.endpoints.PushTargets`."""

    _registrar: Registrar
    _keys: Keys

    def start(self, conversation_id: str, workspace: str | None) -> Started:
        names = list(self._keys.current)
        if workspace is None and len(names) > 1:
            return Started.NOT_NAMED
        name = workspace if workspace is not None else next(iter(names), None)
        if name is None or name not in names:
            return Started.NO_WORKSPACE
        self._registrar.offer(Assigned(conversation_id, name, Word.LIVE))
        return Started.STARTED

    def stop(self, conversation_id: str) -> bool:
        del conversation_id
        return False


@attrs.frozen(kw_only=True)
class StandbyPeople:
    """What people see of a process that holds no shard. Implements `exporter.web.people.Shown`."""

    objective: float
    remembers: bool = False
    _began: float = attrs.field(factory=trio.current_time)

    def parts(self) -> list[Part]:
        return [Part(name="Shard", is_well=None, text="none: this process stands by")]

    def uptime(self) -> float:
        return trio.current_time() - self._began

    def latencies(self) -> list[Latency]:
        return []

    def live(self, query: str, most: int) -> tuple[list[LiveRow], int]:
        del query, most
        return [], 0

    async def past(self, query: str, most: int) -> tuple[Sequence[PastRow], int]:
        del query, most
        return [], 0

    async def call(self, conversation_id: str) -> SeenCall | None:
        del conversation_id
        return None
