"""Doubles for the watchers: scripted feeds and records, and a sink that records its calls."""

import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import trio

from exporter.enums import DecodePath, Drift, FeedError, Invalid, Lost, MessageType, Reconciled, Task
from exporter.phonic.live.errors import FeedClosed
from exporter.phonic.schema import Conversation, Snapshot
from exporter.watch.interfaces import RecordState

ENDED = '{"type": "conversation-ended"}'
SAVED = '{"type": "conversation-saved"}'
AUDIO = '{"type": "conversation-audio", "url": "https://example.com/live.m3u8"}'
NESTED_ERROR = '{"type": "error", "error": {"message": "Invalid token"}}'
TOP_LEVEL_ERROR = '{"type": "error", "message": "Unauthorized access to conversation"}'
OTHER_ERROR = '{"type": "error", "message": "we broke"}'

# What a scripted feed does next: hand out a frame, sleep so many seconds, wait, or raise.
Step = str | bytes | float | trio.Event | Exception
Script = Sequence[Step] | FeedClosed  # a `FeedClosed`: the feed cannot be opened


def snapshot(conversation_id: str, turns: int = 1, **more: Any) -> str:
    """A ``conversation-updated`` message of user turns, each a second long."""
    items = [
        {"item_idx": at, "role": "user", "started_at": f"2026-04-13T10:00:{at % 60:02}Z", "duration_ms": 1000}
        for at in range(turns)
    ]
    conversation = {"id": conversation_id, "agent": {"id": "agent_1", "name": "clerk"}, "items": items, **more}
    return json.dumps({"type": "conversation-updated", "conversation": conversation}, separators=(",", ":"))


class ScriptedFeed:
    """Plays a script, then stays idle. An exception of the script is raised again by each further call."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = list(steps)
        self.superseded = 0
        self.superseded_bytes = 0

    async def receive(self) -> str | bytes:
        while self._steps:
            step = self._steps[0]
            if isinstance(step, float):
                await trio.sleep(step)
            elif isinstance(step, trio.Event):
                await step.wait()
            else:
                await trio.lowlevel.checkpoint()
            if isinstance(step, Exception):
                raise step
            del self._steps[0]  # not before: a cancelled receive loses nothing
            if isinstance(step, str | bytes):
                return step
        await trio.sleep_forever()
        raise AssertionError

    async def pause(self) -> None:
        await trio.lowlevel.checkpoint()


class ScriptedFeeds:
    """Opens scripted feeds: the n-th connection of a conversation plays its n-th script, later ones the last."""

    def __init__(self, *scripts: Script, **by_id: Sequence[Script]) -> None:
        self._scripts = list(scripts)
        self._by_id = {key: list(script) for key, script in by_id.items()}
        self.opened: defaultdict[str, list[float]] = defaultdict(list)
        self.open_now: Counter[str] = Counter()

    def open(self, conversation_id: str) -> AbstractAsyncContextManager[ScriptedFeed]:
        return self._open(conversation_id)

    @asynccontextmanager
    async def _open(self, conversation_id: str) -> AsyncIterator[ScriptedFeed]:
        self.opened[conversation_id].append(trio.current_time())
        scripts = self._by_id.get(conversation_id, self._scripts)
        script = scripts.pop(0) if len(scripts) > 1 else scripts[0]
        await trio.lowlevel.checkpoint()
        if isinstance(script, FeedClosed):
            raise script
        self.open_now[conversation_id] += 1
        try:
            yield ScriptedFeed(script)
        finally:
            self.open_now[conversation_id] -= 1


@attrs.frozen
class SinkCall:
    """One call of the sink: its method, conversation and other arguments."""

    what: str
    conversation_id: str = ""
    more: Any = None


class RecordingSink:
    """Records its calls, and remembers like `Conversations` what was seen and finished.

    A snapshot with ``crash_on`` turns raises, as a bug would.
    """

    def __init__(self, *, crash_on: int | None = None) -> None:
        self.recorded: list[SinkCall] = []
        self.live: set[str] = set()
        self._seen: set[str] = set()
        self._finished: set[str] = set()
        self._crash_on = crash_on
        self.first_start = 0.0

    def of(self, what: str, conversation_id: str | None = None) -> list[Any]:
        """The other arguments of each call of ``what``, in order."""
        return [
            each.more
            for each in self.recorded
            if each.what == what and conversation_id in (None, each.conversation_id)
        ]

    def calls(self, conversation_id: str) -> list[str]:
        return [each.what for each in self.recorded if each.conversation_id == conversation_id]

    def connected(self, conversation_id: str) -> None:
        self.recorded.append(SinkCall("connected", conversation_id))

    def message(self, kind: MessageType, size: int) -> None:
        self.recorded.append(SinkCall("message", more=(kind, size)))

    def decoded(self, path: DecodePath) -> None:
        self.recorded.append(SinkCall("decoded", more=path))

    def superseded(self, count: int, size: int) -> None:
        self.recorded.append(SinkCall("superseded", more=(count, size)))

    def invalid(self, conversation_id: str, reason: Invalid) -> None:
        self.recorded.append(SinkCall("invalid", conversation_id, reason))

    def drift(self, fields: set[tuple[Drift, str]]) -> None:
        self.recorded.append(SinkCall("drift", more=fields))

    def feed_error(self, conversation_id: str, reason: FeedError) -> None:
        self.recorded.append(SinkCall("feed_error", conversation_id, reason))

    def crashed(self, conversation_id: str) -> None:
        self.recorded.append(SinkCall("crashed", conversation_id))

    def task_crashed(self, task: Task) -> None:
        self.recorded.append(SinkCall("task_crashed", more=task))

    def over_limit(self, conversation_id: str) -> None:
        self.recorded.append(SinkCall("over_limit", conversation_id))

    def reconciled(self, result: Reconciled) -> None:
        self.recorded.append(SinkCall("reconciled", more=result))

    def update(self, conversation_id: str, snapshot: Snapshot) -> None:
        turns = len(snapshot.conversation.items or ())
        if turns == self._crash_on:
            raise KeyError("+49 171 5550101")
        self._seen.add(conversation_id)
        self.live.add(conversation_id)
        self.recorded.append(SinkCall("update", conversation_id, turns))

    def ended(self, conversation_id: str) -> None:
        self.live.discard(conversation_id)
        self.recorded.append(SinkCall("ended", conversation_id))

    def stopped(self, conversation_id: str) -> None:
        self.live.discard(conversation_id)
        self.recorded.append(SinkCall("stopped", conversation_id))

    def finish(self, conversation_id: str, record: Snapshot | None, lost: Lost | None = None) -> None:
        self._finished.add(conversation_id)
        self.recorded.append(SinkCall("finish", conversation_id, (record, lost)))

    def forget(self, conversation_id: str) -> None:
        self.recorded.append(SinkCall("forget", conversation_id))

    def dismiss(self, conversation_id: str) -> None:
        self.recorded.append(SinkCall("dismiss", conversation_id))

    def is_finished(self, conversation_id: str) -> bool:
        return conversation_id in self._finished

    def has_seen(self, conversation_id: str) -> bool:
        return conversation_id in self._seen


class ScriptedRecords:
    """Records over REST: gives ``states`` in order, then the last one again; a record after ``takes`` seconds."""

    def __init__(self, *states: RecordState, takes: float = 0.0, has_record: bool = True) -> None:
        self._states = list(states)
        self._takes = takes
        self._has_record = has_record
        self.asked: list[float] = []

    async def state(self, conversation_id: str) -> RecordState:  # noqa: ARG002
        self.asked.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        return self._states.pop(0) if len(self._states) > 1 else self._states[0]

    async def complete(self, conversation_id: str) -> Snapshot | None:
        await trio.sleep(self._takes)
        return Snapshot(conversation=Conversation(conversation_id)) if self._has_record else None
