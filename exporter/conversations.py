"""State: the progress of every conversation and the store, always changed together.

This is the sink of the watchers, the source of the live gauges, and what the checkpoint saves. Every method is
synchronous, so between two awaits numbers and progress agree; that is all the locking there is.

Rules for this file: an entry lives from the first snapshot (or record) of a conversation to its end, after which
only the hash of its id is remembered (`ended.py`). Labels are decided once, when an entry is made.

What changed since the last write waits in ``_unsaved``, as references to values that nobody changes: to hand it
out (`Conversations.changes`) costs no more than the series that changed, and the writer's thread encodes it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import attrs
import structlog

from .counting import derive, retention
from .counting import finish as ending
from .counting.derive import Progress
from .counting.finish import End
from .enums import (
    DecodePath,
    Drift,
    FeedError,
    Invalid,
    Lost,
    MessageType,
    Origin,
    Reconciled,
    Reset,
    Task,
    UnknownWord,
)
from .metrics import catalog
from .metrics.series import Sample, labels_text
from .metrics.store import OTHER, Frozen, LabelSet, MetricStore, saved_families
from .phonic.schema import Conversation, Snapshot
from .state import blob
from .state.blob import SavedEntry, UnreadableBlob
from .state.ended import Ended, hash_of, packed
from .state.rows import Changes, Saved, SavedConversation, SavedEnds

log = structlog.get_logger("exporter.conversations")

LABEL_LENGTH = 200  # characters of a label value; Prometheus has no limit by default, dashboards have
REFUSED_SAID_EVERY = 60.0  # seconds between two lines about the watch limit: a list may hold thousands
MOST_LOGGED_FIELDS = 100  # names of unknown fields logged in the life of the process
NONE, UNKNOWN = "none", "unknown"


@attrs.define(eq=False)
class Entry:
    """One conversation that is not finished. ``is_current``: its feed was not lost since the latest snapshot."""

    conversation_id: str
    label_set: LabelSet
    project: str
    agent: str
    origin: str
    labels: dict[str, str]
    progress: Progress = derive.NOTHING
    is_live: bool = False
    has_ended: bool = False
    is_current: bool = True
    updated_at: float = 0.0
    live_text: str = ""
    info_text: str = ""

    def __attrs_post_init__(self) -> None:
        self.live_text = labels_text(("conversation_id",), (self.conversation_id,))
        self.info_text = labels_text(
            catalog.LIVE_INFO.labels, (self.conversation_id, self.project, self.agent, self.origin)
        )


_Unsaved = tuple[Entry, Progress, bool, float]
"""An entry, and its progress, whether it has ended and when it was updated, as they were at its last change."""


@attrs.frozen(eq=False)
class _Collected:
    """What a write holds, to give it back if it fails."""

    frozen: Frozen
    conversations: dict[str, _Unsaved]
    ended: list[tuple[str, float]]
    forgotten: list[str]


class Conversations:
    """What was counted, and of which conversations. Implements `exporter.watch.interfaces.Sink`."""

    def __init__(
        self,
        store: MetricStore,
        *,
        live_limit: int,
        now: Callable[[], float],
        clock_offset: Callable[[], float | None] = lambda: None,
    ) -> None:
        """``live_limit`` is ``--metrics.per-conversation-limit``; ``now`` gives Unix time by our own clock.

        ``clock_offset``: seconds by which our clock is ahead of Phonic's, None while that is unknown.
        """
        self.store = store
        self._began = now()
        self._first_start: float | None = None
        self._clock_offset = clock_offset
        # Counted with every message: found once.
        self._messages = {kind: store.counter(catalog.MESSAGES, kind) for kind in MessageType}
        self._decodes = {path: store.counter(catalog.DECODES, path) for path in DecodePath}
        self._updates = store.counter(catalog.UPDATES)
        self._update_bytes = store.counter(catalog.UPDATE_BYTES)
        self._updates_superseded = store.counter(catalog.UPDATES_SUPERSEDED)
        self._live_limit = live_limit
        self._now = now
        self._entries: dict[str, Entry] = {}
        self._ended = Ended()
        self._not_found: dict[str, float] = {}  # until when, of ids that REST does not know
        self._project_names: dict[str, str] = {}
        self._listed_agents: dict[str, set[str]] = {}  # ids by project, as REST listed them
        self._unlisted: set[str] = set()  # projects with a conversation of an agent that is none of these
        self._agents: dict[tuple[str, str, str], bool] = {}  # whether one of its conversations was seen
        self._refused_said_at, self._refused_unsaid = -math.inf, 0
        self._logged_fields: set[tuple[Drift, str]] = set()
        self._unsaved: dict[str, _Unsaved] = {}
        self._newly_ended: list[tuple[str, float]] = []
        self._forgotten: list[str] = []

    @property
    def first_start(self) -> float:
        """Unix time of the first start with this state file, by Phonic's clock as soon as that is known."""
        if self._first_start is None:
            offset = self._clock_offset()
            if offset is None:
                return self._began
            self._first_start = self._began - offset
        return self._first_start

    # --- what watchers say

    def connected(self, conversation_id: str) -> None:
        self.store.count(catalog.FEED_CONNECTS)
        log.debug("feed opened", conversation=conversation_id)

    def message(self, kind: MessageType, size: int) -> None:
        self._messages[kind].add(1)
        if kind is MessageType.CONVERSATION_UPDATED:
            self._updates.add(1)
            self._update_bytes.add(size)

    def decoded(self, path: DecodePath) -> None:
        self._decodes[path].add(1)

    def superseded(self, count: int, size: int) -> None:
        self._messages[MessageType.CONVERSATION_UPDATED].add(count)
        self._updates.add(count)
        self._update_bytes.add(size)
        self._updates_superseded.add(count)

    def invalid(self, conversation_id: str, reason: Invalid) -> None:
        self.store.count(catalog.INVALID_MESSAGES, reason)
        log.debug("invalid message", conversation=conversation_id, reason=reason.value)

    def drift(self, fields: set[tuple[Drift, str]]) -> None:
        for kind, name in sorted(fields):
            self.store.count(catalog.UNKNOWN_FIELDS, kind)
            if (kind, name) not in self._logged_fields and len(self._logged_fields) < MOST_LOGGED_FIELDS:
                self._logged_fields.add((kind, name))
                log.warning("unknown field", object=kind.value, field=name[:64])

    def feed_error(self, conversation_id: str, reason: FeedError) -> None:
        self.store.count(catalog.FEED_ERRORS, reason)
        entry = self._entries.get(conversation_id)
        if entry is not None:
            entry.is_current = False

    def crashed(self, conversation_id: str) -> None:  # noqa: ARG002  # logged where it was contained
        self.store.count(catalog.WATCHER_CRASHES)

    def task_crashed(self, task: Task) -> None:
        self.store.count(catalog.TASK_CRASHES, task)

    def refused(self, conversation_id: str) -> None:
        self.store.count(catalog.CONVERSATIONS_REFUSED)
        self._refused_unsaid += 1
        if (now := self._now()) >= self._refused_said_at + REFUSED_SAID_EVERY or now < self._refused_said_at:
            log.warning("watch limit reached", conversation=conversation_id, refused=self._refused_unsaid)
            self._refused_said_at, self._refused_unsaid = now, 0

    def reconciled(self, result: Reconciled) -> None:
        self.store.count(catalog.RECONCILIATIONS, result)

    # --- conversations

    def update(self, conversation_id: str, snapshot: Snapshot) -> None:
        """Count what a snapshot adds. A snapshot of a finished conversation adds nothing."""
        entry = self._entries.get(conversation_id)
        if entry is None:
            if self.is_finished(conversation_id):
                return
            entry = self._enter(conversation_id, snapshot.conversation)
            log.info("conversation seen", conversation=conversation_id, project=entry.project, agent=entry.agent)
        now = self._now()
        progress, increments = derive.derive(entry.progress, snapshot)
        self.store.apply(entry.label_set, increments, conversation_id=conversation_id, at=now)
        entry.progress = progress
        entry.updated_at = now
        entry.is_current = True
        entry.is_live = not entry.has_ended
        self._unsaved[conversation_id] = (entry, progress, entry.has_ended, now)

    def ended(self, conversation_id: str) -> None:
        entry = self._entries.get(conversation_id)
        if entry is not None and not entry.has_ended:
            entry.is_live = False
            entry.has_ended = True
            self._unsaved[conversation_id] = _unsaved(entry)

    def stopped(self, conversation_id: str) -> None:
        entry = self._entries.get(conversation_id)
        if entry is not None:
            entry.is_live = False

    def finish(self, conversation_id: str, record: Snapshot | None, lost: Lost | None = None) -> None:
        """Count the end, once. ``lost`` for a conversation of which no snapshot was ever counted."""
        if self.is_finished(conversation_id):
            return
        entry = self._entries.get(conversation_id)
        if entry is None:
            entry = self._enter(conversation_id, record.conversation if record else Conversation(conversation_id))
        increments = ending.finish(entry.progress, End(record=record, lost=lost))
        self.store.apply(entry.label_set, increments, conversation_id=conversation_id, at=self._now())
        self._bury(conversation_id)
        log.info("conversation finished", conversation=conversation_id, lost=lost.value if lost else None)

    def forget(self, conversation_id: str) -> None:
        if self.has_seen(conversation_id):
            self.finish(conversation_id, None)
        elif not self.is_finished(conversation_id):
            self.store.count(catalog.CONVERSATIONS_LOST, Lost.NOT_FOUND)
            self._not_found[conversation_id] = self._now() + retention.NOT_FOUND

    def is_finished(self, conversation_id: str) -> bool:
        return conversation_id in self._not_found or hash_of(conversation_id) in self._ended

    def has_seen(self, conversation_id: str) -> bool:
        entry = self._entries.get(conversation_id)
        return entry is not None and entry.progress.seen

    def entry(self, conversation_id: str) -> Entry | None:
        """How a conversation stands; None before its first snapshot and after its end."""
        return self._entries.get(conversation_id)

    def unfinished(self) -> Iterator[tuple[str, bool]]:
        """Conversations to go on with after a restart, and whether they had ended already.

        One of which no message told for 24 h is over, whether or not one said so.
        """
        before = self._now() - retention.UNHEARD
        return (
            (each.conversation_id, each.has_ended or each.updated_at <= before)
            for each in list(self._entries.values())
        )

    def _bury(self, conversation_id: str) -> None:
        now = self._now()
        del self._entries[conversation_id]
        self._unsaved.pop(conversation_id, None)
        self._ended.add(hash_of(conversation_id), now)
        self._newly_ended.append((conversation_id, now))

    def expire(self, *, is_followed: Callable[[str], bool]) -> None:
        """Forget what `retention` says, once a minute or so.

        What a task follows stays, be it refused for days or over: it would be counted again otherwise.
        """
        now = self._now()
        self._ended.forget(now - retention.ENDED)
        self._not_found = {each: until for each, until in self._not_found.items() if until > now}
        for entry in list(self._entries.values()):
            if entry.updated_at <= now - retention.UNHEARD and not is_followed(entry.conversation_id):
                del self._entries[entry.conversation_id]
                self._unsaved.pop(entry.conversation_id, None)
                self._forgotten.append(entry.conversation_id)

    # --- labels

    def learn_projects(self, names: Mapping[str, str]) -> None:
        """Names of projects by id, from REST: the live object has only the id."""
        self._project_names = dict(names)

    def learn_agents(self, project: str, agents: Iterable[tuple[str, str]]) -> None:
        """Agents (id, name) of a project: their series exist at 0 before their first conversation."""
        agents = list(agents)
        self._listed_agents[label_value(project)] = {label_value(agent_id) for agent_id, _ in agents}
        self._unlisted.discard(label_value(project))
        for agent_id, name in agents:
            self._learn_agent((label_value(project), label_value(name), label_value(agent_id)))
            if set(self.store.limits.names) <= {"project", "agent"}:
                known = {"project": label_value(project), "agent": label_value(name)}
                self.store.expect([known[label] for label in self.store.limits.names])

    def unknown_agents(self, project: str) -> bool:
        """Whether a conversation of the project named an agent that was not listed then."""
        return label_value(project) in self._unlisted

    def _learn_agent(self, agent: tuple[str, str, str], *, was_seen: bool = False) -> None:
        """Of more agents than the limits allow, those that have conversations matter."""
        if was_seen and agent not in self._agents and len(self._agents) >= self.store.limits.sets:
            idle = next((each for each, seen in self._agents.items() if not seen), None)
            if idle is not None:
                del self._agents[idle]
        if agent in self._agents or len(self._agents) < self.store.limits.sets:
            self._agents[agent] = was_seen or self._agents.get(agent, False)

    def _enter(self, conversation_id: str, conversation: Conversation) -> Entry:
        labels = self._labels(conversation)
        entry = Entry(
            conversation_id,
            self.store.label_set([labels[name] for name in self.store.limits.names]),
            labels["project"],
            labels["agent"],
            labels["origin"],
            labels,
        )
        self._entries[conversation_id] = entry
        if conversation.agent and conversation.agent.id:
            if label_value(conversation.agent.id) not in self._listed_agents.get(labels["project"], ()):
                self._unlisted.add(labels["project"])
            self._learn_agent(
                (labels["project"], labels["agent"], label_value(conversation.agent.id)), was_seen=True
            )
        return entry

    def _labels(self, conversation: Conversation) -> dict[str, str]:
        agent, project = conversation.agent, conversation.project
        project_id = conversation.project_id or (project.id if project else None) or ""
        name = (project.name if project else None) or self._project_names.get(project_id) or project_id
        origin = Origin(conversation.origin) if conversation.origin else None
        if origin is Origin.OTHER:
            self.store.count(catalog.UNKNOWN_WORDS, UnknownWord.ORIGIN)
        return {
            "project": label_value(name) or NONE,
            "agent": label_value((agent.name or agent.id or "") if agent else "") or NONE,
            "origin": origin.value if origin else UNKNOWN,
            "is_test": UNKNOWN if conversation.is_test is None else str(conversation.is_test).lower(),
            "call_provider": label_value(conversation.call_provider or "") or UNKNOWN,
            "language": label_value(conversation.default_language or "") or UNKNOWN,
            "model": label_value(conversation.model or "") or UNKNOWN,
        }

    # --- gauges

    def live(self) -> list[Entry]:
        """Live conversations with series of their own: the first ones up to the limit."""
        return [entry for entry in self._entries.values() if entry.is_live][: self._live_limit]

    def live_counts(self) -> list[Sample]:
        """Samples of `phonic_conversations_live`, every known label set included."""
        names = self.store.limits.names
        counts = dict.fromkeys((each.values for each in self.store.label_sets), 0)
        for entry in self._entries.values():
            if entry.is_live:
                counts[entry.label_set.values] += 1
        return [(labels_text(names, values), count) for values, count in counts.items()]

    def agents(self) -> Iterable[tuple[tuple[str, str, str], float]]:
        """Rows of `phonic_agent_info`; no label has more values than the limit, the rest is one row."""
        values: tuple[set[str], ...] = (set(), set(), set())
        shown: dict[tuple[str, str, str], float] = {}
        for each in sorted(self._agents, key=lambda agent: not self._agents[agent]):  # those seen come first
            fits = all(
                value in seen or len(seen) < self.store.limits.values
                for seen, value in zip(values, each, strict=True)
            )
            if fits:
                for seen, value in zip(values, each, strict=True):
                    seen.add(value)
            shown[each if fits else (OTHER, OTHER, OTHER)] = 1.0
        return shown.items()

    # --- state file

    def changes(self, *, everything: bool = False) -> Changes:
        """Numbers and progress as they stand now, of one moment: all, or what changed since the last call.

        Whoever takes them says afterwards what became of them, before the next call: `committed` or `put_back`.
        """
        collected = _Collected(
            self.store.freeze(everything=everything), self._unsaved, self._newly_ended, self._forgotten
        )
        self._unsaved, self._newly_ended, self._forgotten = {}, [], []
        conversations: Iterable[tuple[str, _Unsaved]] = collected.conversations.items()
        if everything:
            conversations = [(key, _unsaved(each)) for key, each in self._entries.items()]
        tables = self._ended.dump() if everything else None

        def ends() -> Iterable[SavedEnds]:
            if tables is not None:
                return (SavedEnds(at, packed(hashes)) for at, hashes in tables)
            if not collected.ended:
                return ()
            return (SavedEnds(collected.ended[-1][1], packed(hash_of(each) for each, _ in collected.ended)),)

        return Changes(
            series=collected.frozen.rows,
            held=collected.frozen.held,
            conversations=lambda: (SavedConversation(key, _blob(each)) for key, each in conversations),
            finished=[each for each, _ in collected.ended],
            forgotten=collected.forgotten,
            ends=ends,
            families=saved_families(),
            first_start=self.first_start,
            is_empty=not (
                collected.frozen or collected.conversations or collected.ended or collected.forgotten or everything
            ),
            token=collected,
        )

    def committed(self, changes: Changes) -> None:
        """A file holds these changes: pages may tell them."""
        self.store.publish(changes.token.frozen)

    def put_back(self, changes: Changes) -> None:
        """The write of these changes failed, or it is not known whether it did: the next ones hold them again."""
        collected: _Collected = changes.token
        self.store.put_back(collected.frozen)
        gone = {each for each, _ in self._newly_ended} | set(self._forgotten)
        for key, each in collected.conversations.items():
            if key not in gone:
                self._unsaved.setdefault(key, each)
        self._newly_ended[:0] = collected.ended
        self._forgotten[:0] = collected.forgotten

    def restore(self, saved: Saved) -> bool:
        """Go on where a file stopped; returns whether the file must be written anew to hold just what was taken.

        What the file holds that cannot be used is logged, counted and left out. May be called in another thread,
        before anything else is done with this object.
        """
        self._first_start = saved.first_start
        for each in saved.ends:
            self._ended.load(each.hashes, each.at)
        series, held, names = saved.series, saved.held, self.store.limits.names
        is_outdated = saved.label_names != names
        if is_outdated:
            labelled = {each.name for each in catalog.CATALOG if each.scope is catalog.Scope.CONVERSATIONS}
            series = [each for each in series if each.family not in labelled]
            held = [each for each in held if each.family and each.family not in labelled]
            self._reset(Reset.LABELS, "labels")
        unusable, is_other = self.store.restore(series, families=saved.families, held=held)
        for family in sorted(unusable):
            self._reset(Reset.BUCKET_LAYOUT, family)
        for conversation in saved.conversations:
            try:
                entry = blob.decode(conversation.blob)
            except UnreadableBlob:
                self._reset(Reset.CORRUPT, conversation.id)
                is_other = True
                continue
            self._restore_entry(conversation.id, entry, is_labelled_anew=saved.label_names != names)
        return is_outdated or is_other

    def _restore_entry(self, conversation_id: str, saved: SavedEntry, *, is_labelled_anew: bool) -> None:
        values = saved.label_values
        if is_labelled_anew:
            values = tuple(saved.labels.get(name, UNKNOWN) for name in self.store.limits.names)
        self._entries[conversation_id] = Entry(
            conversation_id,
            self.store.label_set(values),
            saved.project,
            saved.agent,
            saved.origin,
            saved.labels,
            progress=saved.progress,
            has_ended=saved.has_ended,
            updated_at=self._now() if saved.updated_at is None else saved.updated_at,
        )

    def _reset(self, reason: Reset, what: str) -> None:
        self.store.count(catalog.CHECKPOINT_RESETS, reason)
        log.warning("not taken over from the checkpoint", reason=reason.value, what=what)


def _unsaved(entry: Entry) -> _Unsaved:
    return entry, entry.progress, entry.has_ended, entry.updated_at


def _blob(unsaved: _Unsaved) -> bytes:
    entry, progress, has_ended, updated_at = unsaved
    return blob.encode(
        SavedEntry(
            project=entry.project,
            agent=entry.agent,
            origin=entry.origin,
            labels=entry.labels,
            label_values=entry.label_set.values,
            progress=progress,
            has_ended=has_ended,
            updated_at=updated_at,
        )
    )


def label_value(text: str) -> str:
    """``text`` as a label value that can be written as UTF-8, of bounded length."""
    return text[:LABEL_LENGTH].encode("utf-8", "replace").decode()
