"""Wiring: what the pages show of the parts of a running exporter and of its conversations."""

import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import inf
from typing import Final

import attrs
import trio

from .conversations import Conversations
from .counting.seen import last_response
from .counting.turns import CallState, SeenCall, for_people
from .entry import Entry
from .metrics import catalog
from .metrics.catalog import Family
from .metrics.publisher import Publisher
from .metrics.series import Histogram
from .state.history import Remembered
from .state.keeper import StateKeeper
from .watch.supervisor import Watch
from .watching import Workspace
from .web.pages import Bar, Latency, LiveRow, Part, PastRow
from .workspaces import Workspaces

MOST_TROUBLES: Final = 20
"""Lines about workspaces in trouble on the landing page."""
WRONG_CLOCK: Final = 2.0
"""Seconds between the clocks from which the time that callers have waited is wrong."""
_LATENCIES: Final = (
    ("Response", catalog.RESPONSE),
    ("Model generation", catalog.MODEL_GENERATION),
    ("First audio", catalog.FIRST_AUDIO),
)
_STATES: Final = {"live": True, "connecting": True, "finishing": True, "waiting": False, "refused": False}


@attrs.frozen(kw_only=True)
class People:
    """Implements `exporter.web.people.Shown`."""

    conversations: Conversations
    workspaces: Workspaces
    publisher: Publisher
    state: StateKeeper | None
    objective: float
    history: bool
    began: float = attrs.field(factory=trio.current_time)
    now: Callable[[], float] = time.time

    @property
    def remembers(self) -> bool:
        return self.history and self.state is not None

    def uptime(self) -> float:
        return trio.current_time() - self.began

    def parts(self) -> list[Part]:
        opened = list(self.workspaces)
        if len(opened) == 1:
            (alone,) = opened
            return [_credential(alone), _discovery(alone, self.now()), self._feeds(), self._state(), _clock(alone)]
        return [*_together(opened, self.now()), self._feeds(), self._state()]

    def _feeds(self) -> Part:
        states: dict[str, int] = {}
        for each in self.workspaces:
            for (state,), count in each.supervisor.states():
                states[state] = states.get(state, 0) + int(count)
        bad = sum(count for state, count in states.items() if not _STATES.get(state, True))
        total = sum(states.values())
        if not total:
            return Part(name="Live feeds", is_well=True, text="none is needed: no conversation is watched")
        text = ", ".join(f"{count} {state}" for state, count in states.items() if count)
        return Part(name="Live feeds", is_well=bad * 2 <= total, text=text)

    def _state(self) -> Part:
        if self.state is None:
            return Part(name="State file", is_well=None, text="off: counters start at 0 with each process")
        name = "State file" if self.state.shard is None else f"Shard {self.state.shard}"
        if not self.state.is_ours:
            return Part(name=name, is_well=False, text="not written in time: /metrics hides it until it is")
        if self.publisher.is_committed is False:
            return Part(
                name=name, is_well=False, text="cannot be written: pages show numbers that a crash would lose"
            )
        if self.state.last_success is None:
            return Part(name=name, is_well=False, text="not written yet")
        ago = max(0.0, self.now() - self.state.last_success)
        size = self.state.size_bytes
        text = f"written {ago:.0f} s ago" + ("" if size is None else f", {size / 1e6:.1f} MB")
        return Part(name=name, is_well=ago < 60, text=text)

    def latencies(self) -> list[Latency]:
        # Only a scrape releases new series otherwise, so after a single one they would be at 0 here for ever.
        self.conversations.store.release(trio.current_time())
        return [self._latency(name, family) for name, family in _LATENCIES]

    def _latency(self, name: str, family: Family) -> Latency:
        """Over all label sets: the numbers that ``/metrics`` shows; before its first scrape, the counted ones."""
        store = self.conversations.store
        counts = [0] * (len(family.buckets) + 1)
        for series, numbers in store.counted(family) if self.publisher.wait is None else store.shown(family):
            if isinstance(series, Histogram) and not isinstance(numbers, int):
                counts = [total + each for total, each in zip(counts, numbers[1], strict=True)]
        fullest = max(counts) or 1
        labels = [*(f"{bound:g}" for bound in family.buckets), "+Inf"]
        return Latency(
            name=name,
            count=sum(counts),
            p50=quantile(0.5, family.buckets, counts),
            p95=quantile(0.95, family.buckets, counts),
            p99=quantile(0.99, family.buckets, counts),
            bars=tuple(
                Bar(label=label, count=count, share=100 * count / fullest)
                for label, count in zip(labels, counts, strict=True)
            ),
        )

    def live(self, query: str, most: int) -> tuple[list[LiveRow], int]:
        found = []
        for workspace in self.workspaces:
            for watch in workspace.supervisor.watches():
                entry = self.conversations.entry(watch.conversation_id)
                if watch.has_ended or (entry is not None and entry.has_ended):
                    continue  # only its record is still to be read
                words = (
                    watch.conversation_id,
                    watch.state.value,
                    workspace.name,
                    *((entry.project, entry.agent) if entry else ()),
                )
                if any(query.lower() in each.lower() for each in words):
                    found.append((workspace, watch, entry))
        found.sort(key=lambda each: _waiting_since(each[2]))
        return [_live_row(*each) for each in found[:most]], len(found)

    async def past(self, query: str, most: int) -> tuple[Sequence[PastRow], int]:
        if self.state is None:
            return [], 0
        found, count = await self.state.list_history(query, limit=most)
        return [_past(each) for each in found], count

    async def call(self, conversation_id: str) -> SeenCall | None:
        """Of one that ended a moment ago, from memory: the state file may not have it yet."""
        found = self.conversations.seen(conversation_id) or self._unheard(conversation_id)
        if found is not None or self.state is None:
            return found
        return await self.state.recall(conversation_id)

    def _unheard(self, conversation_id: str) -> SeenCall | None:
        """One that is watched, of which nothing was received yet."""
        for workspace in self.workspaces:
            if (watch := workspace.supervisor.watch_of(conversation_id)) is not None:
                state = CallState.ENDED if watch.has_ended else CallState.LIVE
                return SeenCall(conversation_id=conversation_id, state=state, workspace=workspace.name or None)
        return None


def _together(workspaces: Sequence[Workspace], now: float) -> list[Part]:
    """What is wrong with any of several workspaces, which may be hundreds."""
    of_each = [(_credential(each), _discovery(each, now), _clock(each)) for each in workspaces]
    bad = [part for parts in of_each for part in parts if part.is_well is False]
    well = sum(all(part.is_well is not False for part in parts) for parts in of_each)
    text = f"{well} of {len(workspaces)} are well" if workspaces else "the folder of API keys holds none"
    return [Part(name="Workspaces", is_well=bool(workspaces) and not bad, text=text), *bad[:MOST_TROUBLES]]


def _part(name: str, workspace: Workspace) -> str:
    return f"{name} of {workspace.name}" if workspace.name else name


def _credential(workspace: Workspace) -> Part:
    name = _part("API key", workspace)
    if workspace.access is None:
        return Part(name=name, is_well=None, text="a session token is used: no REST, no names, no discovery")
    if workspace.access.refused_with is not None:
        text = f"refused by Phonic ({workspace.access.refused_with}): everything waits for another one"
        return Part(name=name, is_well=False, text=text)
    if workspace.rest is not None and workspace.rest.up is False:
        return Part(name=name, is_well=False, text="Phonic's REST API does not answer")
    return Part(name=name, is_well=True, text="accepted")


def _discovery(workspace: Workspace, now: float) -> Part:
    name, discovery = _part("Discovery", workspace), workspace.discovery
    if discovery is None:
        return Part(name=name, is_well=None, text="off")
    if discovery.last_success is None:
        return Part(name=name, is_well=False, text="has not succeeded yet")
    ago = max(0.0, now - discovery.last_success)
    found = sum(discovery.found.values())
    text = f"last succeeded {ago:.0f} s ago, {found} live conversations known"
    return Part(name=name, is_well=ago < 60, text=text)


def _clock(workspace: Workspace) -> Part:
    name, offset = _part("Clock", workspace), workspace.clock.offset
    if offset is None:
        return Part(name=name, is_well=None, text="Phonic has told no time yet")
    if abs(offset) > WRONG_CLOCK:
        way = "ahead of" if offset > 0 else "behind"
        text = f"{abs(offset):.1f} s {way} Phonic's: synchronise it"
        return Part(name=name, is_well=False, text=text)
    return Part(name=name, is_well=True, text=f"within {WRONG_CLOCK:g} s of Phonic's")


def _live_row(workspace: Workspace, watch: Watch, entry: Entry | None) -> LiveRow:
    live = entry.progress.live if entry else None
    waiting = _waiting_since(entry)
    return LiveRow(
        conversation_id=watch.conversation_id,
        workspace=workspace.name or None,
        project=entry.project if entry else None,
        agent=entry.agent if entry else None,
        state=watch.state.value,
        duration=live.duration if live else None,
        turns=live.turns if live else 0,
        last_response=last_response(entry.progress) if entry else None,
        waiting=None if waiting == inf else max(0.0, workspace.clock.now() - waiting),
    )


def _waiting_since(entry: Entry | None) -> float:
    """Unix time; infinity if the caller is not waiting, or if that is unknown."""
    since = None if entry is None else entry.waiting_since
    return inf if since is None else since


def quantile(share: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """What PromQL's ``histogram_quantile`` says of these buckets, ``counts`` not cumulative; None without any."""
    total = sum(counts)
    if not total:
        return None
    rank = share * total
    for number, cumulative in enumerate(accumulate(counts)):
        if cumulative >= rank:
            if number == len(bounds):
                return bounds[-1]
            low = bounds[number - 1] if number else 0.0
            return low + (bounds[number] - low) * (rank - (cumulative - counts[number])) / counts[number]
    return bounds[-1]


def _past(row: Remembered) -> PastRow:
    return PastRow(
        conversation_id=row.conversation_id,
        project=row.project,
        agent=row.agent,
        ended_at=for_people(row.ended_at),
        ended_by=row.ended_by,
        duration=row.duration,
        turns=row.turns,
        slowest=row.slowest,
        is_failed=row.is_failed,
    )
