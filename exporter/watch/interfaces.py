"""Pure: what the watching tasks need of the rest of the program, as Protocols.

These keep `exporter.watch` apart from metrics, state files and the libraries for WebSocket and HTTP.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol

from ..enums import DecodePath, Drift, FeedError, Invalid, Lost, MessageType, Reconciled, Started, Task, Word
from ..phonic.listing import AgentRow, ListPage, ProjectRow, Workspace
from ..phonic.schema import Snapshot


class Requester(StrEnum):
    """Which part of the program, or of its settings, asked for a conversation to be watched."""

    FLAG = "flag"
    FILE = "file"
    DISCOVERY = "discovery"
    PUSH = "push"
    CHECKPOINT = "checkpoint"


class Feed(Protocol):
    """An open live feed of one conversation. See `exporter.phonic.live.client`."""

    @property
    def superseded(self) -> int:
        """Snapshots of this feed dropped so far because a newer one had arrived (semantics 11)."""
        ...

    @property
    def superseded_bytes(self) -> int:
        """The size of these snapshots together."""
        ...

    async def receive(self) -> str | bytes:
        """Wait for the next frame; of several snapshots that wait, the newest.

        Raises: the subclasses of `exporter.phonic.live.errors.FeedClosed`. Cancellation: loses no frame.
        """
        ...

    async def pause(self) -> None:
        """Let other tasks run in the middle of a frame that takes long to decode."""
        ...


class OpenFeed(Protocol):
    """Opens live feeds."""

    def __call__(self, conversation_id: str) -> AbstractAsyncContextManager[Feed]:
        """Open the feed of a conversation. Entering raises subclasses of `FeedClosed`."""
        ...


class Sink(Protocol):
    """Receives what the watching tasks see.

    All methods are synchronous, so no scrape or checkpoint sees half of a call.
    """

    @property
    def first_start(self) -> float:
        """Unix time, by Phonic's clock, of the first start with this state file."""
        ...

    def connected(self, conversation_id: str) -> None:
        """A feed was opened."""

    def message(self, kind: MessageType, size: int) -> None:
        """A message was received; ``size`` is its length in characters (text) or bytes (binary)."""

    def decoded(self, path: DecodePath) -> None:
        """A snapshot was decoded, in full or incrementally."""

    def superseded(self, count: int, size: int) -> None:
        """``count`` snapshots of ``size`` together were dropped unread because a newer one had arrived."""

    def invalid(self, conversation_id: str, reason: Invalid) -> None:
        """A message could not be used."""

    def drift(self, fields: set[tuple[Drift, str]]) -> None:
        """Fields were seen that are not in Phonic's documentation."""

    def feed_error(self, conversation_id: str, reason: FeedError) -> None:
        """A feed could not be opened, or was lost."""

    def crashed(self, conversation_id: str) -> None:
        """A watcher crashed."""

    def task_crashed(self, task: Task) -> None:
        """Another task crashed, and goes on."""

    def over_limit(self, conversation_id: str) -> None:
        """The watch limit keeps a conversation from being watched. Called once for each."""

    def reconciled(self, result: Reconciled) -> None:
        """Reading the record after an end had this result."""

    def update(self, conversation_id: str, snapshot: Snapshot) -> None:
        """A snapshot arrived: count what it adds."""

    def ended(self, conversation_id: str) -> None:
        """The conversation is over: drop its live series. `finish` follows once its record has been read."""

    def stopped(self, conversation_id: str) -> None:
        """The conversation is not watched any more, although it may go on: drop its live series."""

    def finish(self, conversation_id: str, record: Snapshot | None, lost: Lost | None = None) -> None:
        """Count the end of a conversation, once, and forget all but that it was counted.

        ``record``: what REST has, None if nothing. ``lost``: why its timings were never seen, if so.
        """

    def forget(self, conversation_id: str) -> None:
        """Neither the live feed nor REST knows the conversation: count its end as unknown if it was ever seen."""

    def dismiss(self, conversation_id: str) -> None:
        """The end of the conversation is history and is not counted."""

    def is_finished(self, conversation_id: str) -> bool:
        """Whether `finish` was called for the conversation within the last 24 h (semantics 9)."""

    def has_seen(self, conversation_id: str) -> bool:
        """Whether a snapshot of the conversation was ever counted."""


class Targets(Protocol):
    """Starts and stops watchers. See `exporter.watch.supervisor`."""

    def start(self, conversation_id: str, requester: Requester) -> Started:
        """Watch a conversation. Idempotent."""
        ...

    def withdraw(self, conversation_id: str, requester: Requester) -> None:
        """This requester no longer asks for the conversation; without any requester it is stopped."""

    def over(self, conversation_id: str) -> None:
        """REST has the end of the conversation: finish it, 30 s from now if its feed is open. Idempotent."""

    def is_watched(self, conversation_id: str) -> bool:
        """Whether a watcher has the conversation, if only to read its record."""
        ...

    def is_over_limit(self, conversation_id: str) -> bool:
        """Whether the watch limit has kept it from being watched so far."""
        ...


class EndedUnwatched(Protocol):
    """Counts the ends of conversations that nothing watched. See `exporter.watch.backfill`."""

    def add(self, conversation_id: str, *, is_over: bool = False) -> None:
        """Have the end counted. ``is_over``: REST has it; else its record tells. Idempotent."""

    async def run_pass(self) -> None:
        """Count those that can be counted now."""


class Sharing(Protocol):
    """Shares the conversations of a workspace with other processes. See `exporter.shards`."""

    def offer(self, conversation_id: str, word: Word) -> None:
        """Have the conversation assigned to a shard, if it is not, and tell its holder the word."""

    async def elect(self, projects: Collection[str]) -> Collection[str]:
        """Those of the projects that this process searches now; none while that cannot be agreed."""
        ...


class Rest(Protocol):
    """The REST requests that discovery makes. See `exporter.phonic.rest`.

    All raise `exporter.phonic.rest.RestFailed`, and may be cancelled at any time.
    """

    async def projects(self) -> list[ProjectRow]:
        """All projects, with their numbers of active conversations (API 3.2)."""
        ...

    async def workspace(self) -> Workspace:
        """The workspace's number of active conversations and its limit (API 3.2)."""
        ...

    async def agents(self, project_name: str) -> list[AgentRow]:
        """The agents of a project (API 3.2)."""
        ...

    async def conversations(self, project_name: str, *, after: str | None = None, limit: int = 100) -> ListPage:
        """A page of a project's conversations, newest first, from behind the cursor ``after`` (API 3.1)."""
        ...

    async def record(self, conversation_id: str) -> Snapshot | None:
        """The record of a conversation (API 3.2); None if REST does not know it."""
        ...

    def paged_without_end(self) -> None:
        """Count a list that was left before its end, because it repeated itself or was too long."""


class Directory(Protocol):
    """Receives the names of projects and agents that REST lists."""

    def learn_projects(self, names: Mapping[str, str]) -> None:
        """Names of all projects by id."""

    def learn_agents(self, project: str, agents: Iterable[tuple[str, str]]) -> None:
        """All agents (id, name) of a project."""

    def unknown_agents(self, project: str) -> bool:
        """Whether a conversation of the project has an agent that `learn_agents` did not list."""
        ...


class RecordState(StrEnum):
    """What REST says about a conversation."""

    LIVE = "live"
    ENDED = "ended"
    NOT_FOUND = "not_found"
    UNAVAILABLE = "unavailable"


class Records(Protocol):
    """Reads records of single conversations. See `exporter.watch.reconcile`."""

    async def state(self, conversation_id: str) -> RecordState:
        """Whether the conversation is still going on; `RecordState.UNAVAILABLE` if REST does not answer."""
        ...

    async def complete(self, conversation_id: str) -> Snapshot | None:
        """Read the record of an ended conversation until it is complete; see `Reconciler.complete`.

        Returns None if there is none.
        """
        ...
