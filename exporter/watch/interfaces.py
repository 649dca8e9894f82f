"""Pure: what watching needs of its surroundings, as Protocols: it knows neither metrics nor libraries."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol

from ..enums import DecodePath, Drift, FeedError, Invalid, Lost, MessageType, Reconciled, Started, Task
from ..phonic.schema import Snapshot


class Source(StrEnum):
    """Who asked for a conversation to be watched."""

    FLAG = "flag"
    FILE = "file"
    DISCOVERY = "discovery"
    PUSH = "push"
    CHECKPOINT = "checkpoint"


class Feed(Protocol):
    """An open live feed of one conversation. See `exporter.phonic.live.client`."""

    @property
    def superseded(self) -> int:
        """How many snapshots were dropped for a newer one so far."""
        ...

    @property
    def superseded_bytes(self) -> int: ...

    async def receive(self) -> str | bytes:
        """The newest frame worth looking at. Raises the errors of `exporter.phonic.live.errors`."""
        ...

    async def pause(self) -> None:
        """Let others run in the middle of a frame that takes long to read."""
        ...


class OpenFeed(Protocol):
    """Opens live feeds."""

    def __call__(self, conversation_id: str) -> AbstractAsyncContextManager[Feed]: ...


class Sink(Protocol):
    """Where watchers put what they see. Methods are synchronous: a call is atomic for scrape and checkpoint."""

    @property
    def first_start(self) -> float:
        """Unix time of the first start ever, by Phonic's clock, which the state file remembers."""
        ...

    def connected(self, conversation_id: str) -> None:
        """A feed was opened."""

    def message(self, kind: MessageType, size: int) -> None:
        """A message was received; ``size`` in characters or bytes as it came."""

    def decoded(self, path: DecodePath) -> None:
        """A snapshot was decoded, in full or incrementally."""

    def superseded(self, count: int, size: int) -> None:
        """Snapshots were dropped unread because a newer one was waiting."""

    def invalid(self, conversation_id: str, reason: Invalid) -> None:
        """A message could not be used."""

    def drift(self, fields: set[tuple[Drift, str]]) -> None:
        """Fields nobody documented were seen."""

    def feed_error(self, conversation_id: str, reason: FeedError) -> None:
        """A feed could not be opened, or was lost."""

    def crashed(self, conversation_id: str) -> None:
        """A watcher met a defect of ours."""

    def task_crashed(self, task: Task) -> None:
        """A task beside the watchers met a defect of ours and goes on."""

    def refused(self, conversation_id: str) -> None:
        """The watch limit kept a conversation from being watched."""

    def reconciled(self, result: Reconciled) -> None:
        """A REST read after an end went this way."""

    def update(self, conversation_id: str, snapshot: Snapshot) -> None:
        """Count what a snapshot adds."""

    def ended(self, conversation_id: str) -> None:
        """The conversation is over: its live series go now, its record is still to come (`finish`)."""

    def stopped(self, conversation_id: str) -> None:
        """Nobody watches the conversation any more, though it may go on."""

    def finish(self, conversation_id: str, record: Snapshot | None, lost: Lost | None = None) -> None:
        """Count the end, once, and remember only that it was counted."""

    def forget(self, conversation_id: str) -> None:
        """Nobody knows the conversation (any more): what was counted of it ends here, unknown how."""

    def is_finished(self, conversation_id: str) -> bool:
        """Whether `finish` was called for it within the last 24 h."""

    def has_seen(self, conversation_id: str) -> bool:
        """Whether a snapshot of it was ever counted."""


class Targets(Protocol):
    """Who starts watchers. See `exporter.watch.supervisor`."""

    def start(self, conversation_id: str, source: Source) -> Started:
        """Watch a conversation; idempotent."""
        ...

    def withdraw(self, conversation_id: str, source: Source) -> None:
        """This source no longer asks for it."""

    def over(self, conversation_id: str) -> None:
        """REST has its end: a watcher without a feed completes it now, one with a feed after a grace of 30 s."""

    def is_watched(self, conversation_id: str) -> bool:
        """Whether somebody follows it, be it only to complete its record."""
        ...

    def is_refused(self, conversation_id: str) -> bool:
        """Whether the watch limit has kept it from being watched so far."""
        ...


class Directory(Protocol):
    """Who wants to know the names that REST tells."""

    def learn_projects(self, names: Mapping[str, str]) -> None:
        """Names of all projects by id."""

    def learn_agents(self, project: str, agents: Iterable[tuple[str, str]]) -> None:
        """All agents (id, name) of a project."""

    def unknown_agents(self, project: str) -> bool:
        """Whether a conversation named an agent that `learn_agents` did not: it is worth asking again."""
        ...


class RecordState(StrEnum):
    """What REST says of a conversation."""

    LIVE = "live"
    ENDED = "ended"
    NOT_FOUND = "not_found"
    UNAVAILABLE = "unavailable"


class Records(Protocol):
    """The REST side as the watchers need it. See `exporter.watch.reconcile`."""

    async def state(self, conversation_id: str) -> RecordState:
        """Whether the conversation is still going on. Never raises for trouble with REST."""
        ...

    async def complete(self, conversation_id: str) -> Snapshot | None:
        """The record of an ended conversation once it is complete, waiting at most 30 s; None if there is none."""
        ...
