"""State: what was counted, and of which conversations.

The watchers report to `Conversations`, the live gauges read it, and the state file saves it. Every method is
synchronous, so progress and numbers always agree between two awaits, and no lock is needed.

What is counted for the process, and not for a conversation, is in `exporter.feed_counters`.

An entry lives from the first snapshot (or record) of a conversation to its end. After that only a hash of its id
is remembered (`exporter.state.ended`). Labels are decided once, when the entry is made.

`Conversations.changes` hands out what changed since the last write, as references to values that never change: it
costs as much as copying the series that changed, and the thread that writes the file does the encoding.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import structlog

from .counting import derive, retention
from .counting import finish as ending
from .counting.derive import Progress
from .counting.finish import End
from .counting.labels import WORKSPACE, label_value, labels_of
from .counting.turns import SeenCall
from .entry import Entry, Moment, decode, encode, new_entry, remembered, seen_call
from .enums import FeedError, IntelligenceLevel, Lost, Origin, Reset, UnknownWord
from .feed_counters import FeedCounters
from .metrics import catalog
from .metrics.agents import Agents
from .metrics.series import Sample, with_shard
from .metrics.store import Frozen, MetricStore, saved_families
from .phonic.schema import Conversation, Snapshot
from .shares import ONLY
from .state.blob import UnreadableBlob
from .state.ended import Ended, hash_of, packed
from .state.history import unpack
from .state.rows import Changes, Saved, SavedConversation, SavedEnds
from .state.unsaved import Unsaved

log = structlog.get_logger("exporter.conversations")


class Conversations(FeedCounters):
    """What was counted, and of which conversations.

    Implements `Sink` and `Directory` of `exporter.watch.interfaces`, which describe the methods without a
    docstring; `exporter.reports` does so for one workspace of several. An id is that of one conversation in all of
    Phonic. One that two workspaces report (two keys of one workspace) belongs to the first that did.
    """

    def __init__(
        self,
        store: MetricStore,
        *,
        live_limit: int,
        now: Callable[[], float],
        clock_offset: Callable[[], float | None] = lambda: None,
        objective: float = derive.OBJECTIVE,
    ) -> None:
        """``live_limit`` is ``--metrics.per-conversation-limit``; ``now`` gives Unix time by our own clock.

        ``clock_offset``: seconds by which our clock is ahead of Phonic's, None while that is unknown. The owner
        may set it later. ``objective`` is ``--metrics.slo-response``, in seconds.
        """
        super().__init__(store, now=now)
        self._began = now()
        self._first_start: float | None = None
        self.clock_offset = clock_offset
        self._live_limit = live_limit
        self._objective = objective
        self._entries: dict[str, Entry] = {}
        self._ended = Ended()
        self._not_found: dict[str, float] = {}  # ids that REST does not know, and until when to remember them
        self._project_names: dict[str, Mapping[str, str]] = {}  # by workspace
        self._agents = Agents(limit=store.limits.sets, shares=store.shares)
        self._unsaved: Unsaved[Moment] = Unsaved()
        self._in_flight: Unsaved[Moment] = Unsaved()  # taken for the latest write

    @property
    def first_start(self) -> float:
        """Unix time of the first start with this state file, by Phonic's clock once that is known."""
        if self._first_start is None:
            offset = self.clock_offset()
            if offset is None:
                return self._began
            self._first_start = self._began - offset
        return self._first_start

    # --- reports of the watchers

    def update(self, conversation_id: str, snapshot: Snapshot, workspace: str = ONLY) -> None:
        """Count what a snapshot adds. A snapshot of a finished conversation is ignored."""
        entry = self._entry_of(conversation_id, workspace)
        if entry is None:
            if self.is_finished(conversation_id):
                return
            entry = self._add_entry(conversation_id, snapshot.conversation, workspace)
            log.info("conversation seen", conversation=conversation_id, project=entry.project, agent=entry.agent)
        now = self._now()
        progress, increments = derive.derive(entry.progress, snapshot, objective=self._objective)
        self.store.apply(entry.label_set, increments, conversation_id=conversation_id, at=now)
        entry.progress = progress
        entry.updated_at = now
        entry.is_current = True
        entry.is_live = not entry.has_ended
        self._unsaved.conversations[conversation_id] = entry.moment()

    def feed_error(self, conversation_id: str, reason: FeedError) -> None:
        super().feed_error(conversation_id, reason)
        entry = self._entries.get(conversation_id)
        if entry is not None:
            entry.is_current = False

    def ended(self, conversation_id: str) -> None:
        entry = self._entries.get(conversation_id)
        if entry is not None and not entry.has_ended:
            entry.is_live = False
            entry.has_ended = True
            self._unsaved.conversations[conversation_id] = entry.moment()

    def stopped(self, conversation_id: str) -> None:
        entry = self._entries.get(conversation_id)
        if entry is not None:
            entry.is_live = entry.is_current = False

    def finish(
        self,
        conversation_id: str,
        record: Snapshot | None,
        lost: Lost | None = None,
        workspace: str = ONLY,
    ) -> None:
        """Count the end of a conversation, once.

        ``record``: its record from REST, None if there is none. ``lost``: why its turns were never counted, if
        they were not.
        """
        if self.is_finished(conversation_id):
            return
        entry = self._entry_of(conversation_id, workspace)
        if entry is None:
            entry = self._add_entry(
                conversation_id, record.conversation if record else Conversation(conversation_id), workspace
            )
            entry.is_current = False
        end = End(record=record, lost=lost, is_followed=entry.is_current)
        progress, increments = ending.finish(entry.progress, end, objective=self._objective)
        self.store.apply(entry.label_set, increments, conversation_id=conversation_id, at=self._now())
        self._remember_end(entry, progress, record, lost)
        log.info("conversation finished", conversation=conversation_id, lost=lost.value if lost else None)

    def forget(self, conversation_id: str, workspace: str = ONLY) -> None:
        if self.has_seen(conversation_id):
            self.finish(conversation_id, None, workspace=workspace)
        elif not self.is_finished(conversation_id):
            self.store.count(catalog.CONVERSATIONS_LOST, Lost.NOT_FOUND)
            self._not_found[conversation_id] = self._now() + retention.NOT_FOUND
            self._unsaved.forget(conversation_id)

    def dismiss(self, conversation_id: str) -> None:
        self._unsaved.forget(conversation_id)

    def is_finished(self, conversation_id: str) -> bool:
        return conversation_id in self._not_found or hash_of(conversation_id) in self._ended

    def has_seen(self, conversation_id: str) -> bool:
        entry = self._entries.get(conversation_id)
        return entry is not None and entry.progress.seen

    def seen(self, conversation_id: str) -> SeenCall | None:
        """A conversation turn by turn, until the state file has its end; None if it is not known here."""
        entry = self._entries.get(conversation_id)
        if entry is not None:
            return seen_call(entry)
        for unsaved in (self._unsaved, self._in_flight):
            if (remembers := unsaved.remembered.get(conversation_id)) is not None:
                return unpack(conversation_id, remembers().packed)
        return None

    def entry(self, conversation_id: str) -> Entry | None:
        """The entry of an unfinished conversation; None before its first snapshot and after its end."""
        return self._entries.get(conversation_id)

    @property
    def has_unfinished(self) -> bool:
        """Whether there is a conversation that is not finished."""
        return bool(self._entries)

    def unfinished(self, workspace: str = ONLY) -> Iterator[tuple[str, bool]]:
        """The conversations of a workspace to go on with after a restart, and whether each has ended already.

        A conversation without a message for 24 h counts as ended. One that is homeless is nobody's yet.
        """
        before = self._now() - retention.UNHEARD
        return (
            (each.conversation_id, each.has_ended or each.updated_at <= before)
            for each in list(self._entries.values())
            if each.workspace == workspace and not each.is_homeless
        )

    def _remember_end(self, entry: Entry, progress: Progress, record: Snapshot | None, lost: Lost | None) -> None:
        now = self._now()
        del self._entries[entry.conversation_id]
        self._ended.add(hash_of(entry.conversation_id), now)
        ended_by = ending.ended_by_of(progress, record.conversation if record else None)
        self._unsaved.finish(
            entry.conversation_id, now, partial(remembered, entry, progress, ended_by, lost, ended_at=now)
        )

    def expire(self, *, is_followed: Callable[[str], bool]) -> None:
        """Forget what is older than `exporter.counting.retention` allows. Called about once a minute.

        ``is_followed``: whether a task still follows a conversation. Those stay, even if they are refused for
        days or over, because they would be counted again.
        """
        now = self._now()
        self._ended.forget(now - retention.ENDED)
        self._not_found = {each: until for each, until in self._not_found.items() if until > now}
        for entry in list(self._entries.values()):
            if entry.updated_at <= now - retention.UNHEARD and not is_followed(entry.conversation_id):
                del self._entries[entry.conversation_id]
                self._unsaved.forget(entry.conversation_id)

    # --- labels

    def learn_projects(self, names: Mapping[str, str], workspace: str = ONLY) -> None:
        """Set the names of projects by id, from REST: snapshots have only the id."""
        self._project_names[workspace] = dict(names)

    def learn_agents(self, project: str, agents: Iterable[tuple[str, str]], workspace: str = ONLY) -> None:
        """Show the series of a project's agents (id, name) at 0 before their first conversation."""
        project = label_value(project)
        known = [(label_value(agent_id), label_value(name)) for agent_id, name in agents]
        self._agents.listed(project, known, workspace=workspace)
        if set(self.store.limits.names) <= {WORKSPACE, "project", "agent"}:
            for _, name in known:
                values = {WORKSPACE: workspace, "project": project, "agent": name}
                self.store.expect([values[label] for label in self.store.limits.names])

    def unknown_agents(self, project: str, workspace: str = ONLY) -> bool:
        """Whether a conversation named an agent that the latest list of the project's agents does not have."""
        return self._agents.has_unlisted(label_value(project), workspace=workspace)

    def _entry_of(self, conversation_id: str, workspace: str) -> Entry | None:
        """The entry of a conversation that a workspace reports on; one that is homeless becomes its own."""
        entry = self._entries.get(conversation_id)
        if entry is not None and entry.is_homeless:
            entry.adopt(workspace, self.store)
        return entry

    def _add_entry(self, conversation_id: str, conversation: Conversation, workspace: str) -> Entry:
        labels = labels_of(conversation, self._project_names.get(workspace, {}))
        if workspace:
            labels = {WORKSPACE: workspace, **labels}
        if labels["origin"] == Origin.OTHER:
            self.store.count(catalog.UNKNOWN_WORDS, UnknownWord.ORIGIN)
        if labels["intelligence_level"] == IntelligenceLevel.OTHER:
            self.store.count(catalog.UNKNOWN_WORDS, UnknownWord.INTELLIGENCE_LEVEL)
        entry = self._entries[conversation_id] = new_entry(conversation_id, labels, self.store)
        if conversation.agent and conversation.agent.id:
            self._agents.named((workspace, entry.project, entry.agent, label_value(conversation.agent.id)))
        return entry

    # --- gauges

    def live_entries(self) -> list[Entry]:
        """The live conversations that have series of their own: the oldest ones, up to the limit.

        Beyond it the oldest ones of each workspace come first, as many as its share of the limit.
        """
        live = [entry for entry in self._entries.values() if entry.is_live]
        limit = self._live_limit
        if len(live) <= limit or not self.store.limits.has_workspaces:
            return live[:limit]
        share, counts = self.store.shares.of(limit), Counter[str]()
        guaranteed: list[Entry] = []
        rest: list[Entry] = []
        for entry in live:
            counts[entry.workspace] += 1
            (guaranteed if counts[entry.workspace] <= share else rest).append(entry)
        return [*guaranteed, *rest][:limit]

    def live_counts(self) -> list[Sample]:
        """Samples of `phonic_conversations_live`, one for every label set."""
        names, shard = self.store.limits.names, self.store.limits.shard
        counts = dict.fromkeys((each.values for each in self.store.label_sets), 0)
        for entry in self._entries.values():
            if entry.is_live:
                counts[entry.label_set.values] += 1
        return [(with_shard(shard, names, values), count) for values, count in counts.items()]

    def agents(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """Rows of `phonic_agent_info`, within the limit on values of a label."""
        first = 0 if self.store.limits.has_workspaces else 1
        return ((agent[first:], one) for agent, one in self._agents.rows(most_values=self.store.limits.values))

    # --- state file

    def changes(self, *, everything: bool = False) -> Changes:
        """Numbers and progress as they are now: all of them, or what changed since the last call.

        The caller must report the outcome with `committed` or `put_back` before the next call.
        """
        unsaved, self._unsaved = self._unsaved, Unsaved()
        self._in_flight = unsaved
        frozen = self.store.freeze(everything=everything)
        conversations = unsaved.conversations
        ends: Callable[[], Iterable[SavedEnds]] = unsaved.ends
        if everything:
            conversations = {each.conversation_id: each.moment() for each in self._entries.values()}
            ends = partial(_ends, self._ended.dump())
        return Changes(
            series=frozen.rows,
            held=frozen.held,
            conversations=lambda: (SavedConversation(id_, encode(each)) for id_, each in conversations.items()),
            finished=[conversation_id for conversation_id, _ in unsaved.finished],
            forgotten=unsaved.forgotten,
            ends=ends,
            remembered=lambda: (each() for each in unsaved.remembered.values()),
            families=saved_families(),
            first_start=self.first_start,
            is_empty=not (frozen or unsaved or everything),
            token=(frozen, unsaved),
        )

    def committed(self, changes: Changes) -> None:
        """The state file holds these changes, so pages may show them."""
        frozen, _ = _token(changes)
        self._in_flight = Unsaved()
        self.store.publish(frozen)

    def put_back(self, changes: Changes) -> None:
        """The write of these changes failed or may have failed. The next changes hold them again."""
        frozen, unsaved = _token(changes)
        self.store.put_back(frozen)
        self._in_flight = Unsaved()
        self._unsaved.put_back(unsaved)

    def count_since(self, first_start: float) -> None:
        """Count what has ended after this Unix time, by Phonic's clock, although nothing was saved: others do."""
        self._first_start = first_start

    def restore(self, saved: Saved) -> bool:
        """Take over the contents of a state file, before anything else is done with this object.

        Unusable contents are logged, counted and left out. Returns whether the file must be written again as a
        whole because it does not hold exactly what was taken over. May be called in another thread.
        """
        self._first_start = saved.first_start
        for end in saved.ends:
            self._ended.load(end.hashes, end.at)
        series, held = saved.series, saved.held
        is_relabelled = saved.label_names != self.store.limits.names
        if is_relabelled:
            labelled = {family.name for family in catalog.CATALOG if family.scope is catalog.Scope.CONVERSATIONS}
            series = [row for row in series if row.family not in labelled]
            held = [row for row in held if row.family and row.family not in labelled]
            self._reset(Reset.LABELS, "labels")
        unusable, is_other = self.store.restore(series, families=saved.families, held=held)
        for family in sorted(unusable):
            self._reset(Reset.BUCKET_LAYOUT, family)
        for each in saved.conversations:
            try:
                entry = decode(each.id, each.blob, self.store, now=self._now(), is_relabelled=is_relabelled)
            except UnreadableBlob:
                self._reset(Reset.CORRUPT, each.id)
                is_other = True
                continue
            self._entries[each.id] = entry
        return is_relabelled or is_other

    def _reset(self, reason: Reset, what: str) -> None:
        self.store.count(catalog.CHECKPOINT_RESETS, reason)
        log.warning("not taken over from the checkpoint", reason=reason.value, what=what)


def _ends(tables: Iterable[tuple[float, Iterable[int]]]) -> Iterable[SavedEnds]:
    return (SavedEnds(at, packed(hashes)) for at, hashes in tables)


def _token(changes: Changes) -> tuple[Frozen, Unsaved[Moment]]:
    frozen, unsaved = changes.token
    return frozen, unsaved
