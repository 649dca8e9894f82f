"""State: the progress of every conversation and the ledger, always changed together.

This is the sink of the watchers, the source of the live gauges, and what the checkpoint saves. Every method is
synchronous, so between two awaits numbers and progress agree; that is all the locking there is.

Rules for this file: an entry lives from the first snapshot (or record) of a conversation to its end, a
tombstone for 24 h after it. Labels are decided once, when an entry is made.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import attrs
import msgspec
import structlog

from . import derive, ending
from .derive import Progress
from .ending import End
from .metrics import catalogue
from .metrics.ledger import LabelSet, Ledger
from .metrics.series import Sample, labels_text
from .phonic.model import Conversation, Snapshot
from .saved import TOMBSTONE_LIFE, Changes, Saved, SavedConversation, Tombstone
from .vocabulary import Drift, FeedError, Invalid, Lost, MessageType, Origin, Reconciled, Reset, UnknownWord

log = structlog.get_logger("exporter.tally")

NOT_FOUND_LIFE = 600.0  # seconds for which a conversation that nobody knows is not asked for again
LABEL_LENGTH = 200  # characters of a label value; Prometheus has no limit by default, dashboards have
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
            catalogue.LIVE_INFO.labels, (self.conversation_id, self.project, self.agent, self.origin)
        )


@attrs.frozen(kw_only=True)
class _SavedEntry:
    """An entry as the checkpoint keeps it: no word of a caller, no number of a phone.

    ``label_values`` are those of its label set, folded or not when it was made, and frozen.
    """

    project: str
    agent: str
    origin: str
    labels: dict[str, str]
    label_values: tuple[str, ...]
    progress: Progress
    has_ended: bool
    updated_at: float | None = None  # which older checkpoints lack


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_SavedEntry).decode


class Tally:
    """What was counted, and of which conversations. Implements `exporter.watch.ports.Sink`."""

    def __init__(self, ledger: Ledger, *, live_limit: int, now: Callable[[], float]) -> None:
        """``live_limit`` is ``--metrics.per-conversation-limit``; ``now`` gives Unix time."""
        self.ledger = ledger
        self.first_start = now()
        # Counted with every message: found once.
        self._messages = {kind: ledger.counter(catalogue.MESSAGES, kind) for kind in MessageType}
        self._updates = ledger.counter(catalogue.UPDATES)
        self._update_bytes = ledger.counter(catalogue.UPDATE_BYTES)
        self._updates_superseded = ledger.counter(catalogue.UPDATES_SUPERSEDED)
        self._live_limit = live_limit
        self._now = now
        self._entries: dict[str, Entry] = {}
        self._tombstones: dict[str, float] = {}
        self._project_names: dict[str, str] = {}
        self._agents: dict[tuple[str, str, str], bool] = {}  # whether one of its conversations was seen
        self._logged_fields: set[tuple[Drift, str]] = set()
        self._changed: set[str] = set()
        self._new_tombstones: list[Tombstone] = []
        self._forgotten: list[str] = []

    # --- what watchers say

    def connected(self, conversation_id: str) -> None:
        self.ledger.count(catalogue.FEED_CONNECTS)
        log.debug("feed opened", conversation=conversation_id)

    def message(self, kind: MessageType, size: int) -> None:
        self._messages[kind].add(1)
        if kind is MessageType.CONVERSATION_UPDATED:
            self._updates.add(1)
            self._update_bytes.add(size)

    def superseded(self, count: int, size: int) -> None:
        self._messages[MessageType.CONVERSATION_UPDATED].add(count)
        self._updates.add(count)
        self._update_bytes.add(size)
        self._updates_superseded.add(count)

    def invalid(self, conversation_id: str, reason: Invalid) -> None:
        self.ledger.count(catalogue.INVALID_MESSAGES, reason)
        log.debug("invalid message", conversation=conversation_id, reason=reason.value)

    def drift(self, fields: set[tuple[Drift, str]]) -> None:
        for kind, name in sorted(fields):
            self.ledger.count(catalogue.UNKNOWN_FIELDS, kind)
            if (kind, name) not in self._logged_fields and len(self._logged_fields) < MOST_LOGGED_FIELDS:
                self._logged_fields.add((kind, name))
                log.warning("unknown field", object=kind.value, field=name[:64])

    def feed_error(self, conversation_id: str, reason: FeedError) -> None:
        self.ledger.count(catalogue.FEED_ERRORS, reason)
        entry = self._entries.get(conversation_id)
        if entry is not None:
            entry.is_current = False

    def crashed(self, conversation_id: str) -> None:  # noqa: ARG002  # logged where it was contained
        self.ledger.count(catalogue.WATCHER_CRASHES)

    def refused(self, conversation_id: str) -> None:
        self.ledger.count(catalogue.CONVERSATIONS_REFUSED)
        log.warning("watch limit reached", conversation=conversation_id)

    def reconciled(self, result: Reconciled) -> None:
        self.ledger.count(catalogue.RECONCILIATIONS, result)

    # --- conversations

    def update(self, conversation_id: str, snapshot: Snapshot) -> None:
        """Count what a snapshot adds. A snapshot of a finished conversation adds nothing."""
        entry = self._entries.get(conversation_id)
        if entry is None:
            if conversation_id in self._tombstones:
                return
            entry = self._enter(conversation_id, snapshot.conversation)
            log.info("conversation seen", conversation=conversation_id, project=entry.project, agent=entry.agent)
        now = self._now()
        progress, additions = derive.derive(entry.progress, snapshot)
        self.ledger.apply(entry.label_set, additions, conversation_id=conversation_id, at=now)
        entry.progress = progress
        entry.updated_at = now
        entry.is_current = True
        entry.is_live = not entry.has_ended
        self._changed.add(conversation_id)

    def ended(self, conversation_id: str) -> None:
        entry = self._entries.get(conversation_id)
        if entry is not None and not entry.has_ended:
            entry.is_live = False
            entry.has_ended = True
            self._changed.add(conversation_id)

    def stopped(self, conversation_id: str) -> None:
        entry = self._entries.get(conversation_id)
        if entry is not None:
            entry.is_live = False

    def finish(self, conversation_id: str, record: Snapshot | None, lost: Lost | None = None) -> None:
        """Count the end, once. ``lost`` for a conversation of which no snapshot was ever counted."""
        if conversation_id in self._tombstones:
            return
        entry = self._entries.get(conversation_id)
        if entry is None:
            entry = self._enter(conversation_id, record.conversation if record else Conversation(conversation_id))
        additions = ending.finish(entry.progress, End(record=record, lost=lost))
        self.ledger.apply(entry.label_set, additions, conversation_id=conversation_id, at=self._now())
        self._bury(conversation_id)
        log.info("conversation finished", conversation=conversation_id, lost=lost.value if lost else None)

    def forget(self, conversation_id: str) -> None:
        if self.has_seen(conversation_id):
            self.finish(conversation_id, None)
        elif conversation_id not in self._tombstones:
            self.ledger.count(catalogue.CONVERSATIONS_LOST, Lost.NOT_FOUND)
            # A stone for a while only: a list that still shows it must not have it counted every few seconds.
            self._tombstones[conversation_id] = self._now() - TOMBSTONE_LIFE + NOT_FOUND_LIFE

    def is_finished(self, conversation_id: str) -> bool:
        return conversation_id in self._tombstones

    def has_seen(self, conversation_id: str) -> bool:
        entry = self._entries.get(conversation_id)
        return entry is not None and entry.progress.seen

    def entry(self, conversation_id: str) -> Entry | None:
        """How a conversation stands; None before its first snapshot and after its end."""
        return self._entries.get(conversation_id)

    def unfinished(self) -> Iterator[tuple[str, bool]]:
        """Conversations to go on with after a restart, and whether they had ended already.

        One of which nobody has heard for 24 h is over, whether or not anybody said so.
        """
        before = self._now() - TOMBSTONE_LIFE
        return (
            (each.conversation_id, each.has_ended or each.updated_at <= before)
            for each in list(self._entries.values())
        )

    def _bury(self, conversation_id: str) -> None:
        now = self._now()
        del self._entries[conversation_id]
        self._changed.discard(conversation_id)
        self._tombstones[conversation_id] = now
        self._new_tombstones.append(Tombstone(conversation_id, now))

    def expire(self, *, is_followed: Callable[[str], bool]) -> None:
        """Drop tombstones of 24 h, and conversations of which nobody has heard for as long.

        What somebody follows stays, be it refused for days or over: it would be counted again otherwise.
        """
        before = self._now() - TOMBSTONE_LIFE
        self._tombstones = {each: at for each, at in self._tombstones.items() if at > before}
        # Without a checkpoint nobody takes these.
        self._new_tombstones = [each for each in self._new_tombstones if each.finished_at > before]
        for entry in list(self._entries.values()):
            if entry.updated_at <= before and not is_followed(entry.conversation_id):
                del self._entries[entry.conversation_id]
                self._changed.discard(entry.conversation_id)
                self._forgotten.append(entry.conversation_id)

    # --- labels

    def learn_projects(self, names: Mapping[str, str]) -> None:
        """Names of projects by id, from REST: the live object has only the id."""
        self._project_names = dict(names)

    def learn_agents(self, project: str, agents: Iterable[tuple[str, str]]) -> None:
        """Agents (id, name) of a project: their series exist at 0 before their first conversation."""
        for agent_id, name in agents:
            self._learn_agent((_clean(project), _clean(name), _clean(agent_id)))
            if set(self.ledger.limits.names) <= {"project", "agent"}:
                known = {"project": _clean(project), "agent": _clean(name)}
                self.ledger.expect([known[label] for label in self.ledger.limits.names])

    def _learn_agent(self, agent: tuple[str, str, str], *, was_seen: bool = False) -> None:
        """Of more agents than the limits allow, those that have conversations matter."""
        if was_seen and agent not in self._agents and len(self._agents) >= self.ledger.limits.sets:
            idle = next((each for each, seen in self._agents.items() if not seen), None)
            if idle is not None:
                del self._agents[idle]
        if agent in self._agents or len(self._agents) < self.ledger.limits.sets:
            self._agents[agent] = was_seen or self._agents.get(agent, False)

    def _enter(self, conversation_id: str, conversation: Conversation) -> Entry:
        labels = self._labels(conversation)
        entry = Entry(
            conversation_id,
            self.ledger.label_set([labels[name] for name in self.ledger.limits.names]),
            labels["project"],
            labels["agent"],
            labels["origin"],
            labels,
        )
        self._entries[conversation_id] = entry
        if conversation.agent and conversation.agent.id:
            self._learn_agent((labels["project"], labels["agent"], _clean(conversation.agent.id)), was_seen=True)
        return entry

    def _labels(self, conversation: Conversation) -> dict[str, str]:
        agent, project = conversation.agent, conversation.project
        project_id = conversation.project_id or (project.id if project else None) or ""
        name = (project.name if project else None) or self._project_names.get(project_id) or project_id
        origin = Origin(conversation.origin) if conversation.origin else None
        if origin is Origin.OTHER:
            self.ledger.count(catalogue.UNKNOWN_WORDS, UnknownWord.ORIGIN)
        return {
            "project": _clean(name) or NONE,
            "agent": _clean((agent.name or agent.id or "") if agent else "") or NONE,
            "origin": origin.value if origin else UNKNOWN,
            "is_test": UNKNOWN if conversation.is_test is None else str(conversation.is_test).lower(),
            "call_provider": _clean(conversation.call_provider or "") or UNKNOWN,
            "language": _clean(conversation.default_language or "") or UNKNOWN,
            "model": _clean(conversation.model or "") or UNKNOWN,
        }

    # --- gauges

    def live(self) -> list[Entry]:
        """Live conversations with series of their own: the first ones up to the limit."""
        return [entry for entry in self._entries.values() if entry.is_live][: self._live_limit]

    def live_counts(self) -> list[Sample]:
        """Samples of `phonic_conversations_live`, every known label set included."""
        names = self.ledger.limits.names
        counts = dict.fromkeys((each.values for each in self.ledger.label_sets), 0)
        for entry in self._entries.values():
            if entry.is_live:
                counts[entry.label_set.values] += 1
        return [(labels_text(names, values), count) for values, count in counts.items()]

    def agents(self) -> Iterable[tuple[tuple[str, str, str], float]]:
        """Rows of `phonic_agent_info`."""
        return [(each, 1.0) for each in self._agents]

    # --- checkpoint

    def changes(self, *, everything: bool = False) -> Changes:
        """Numbers and progress as they stand now, of one moment: all, or what changed since the last call."""
        changed, self._changed = self._changed, set()
        finished, self._new_tombstones = self._new_tombstones, []
        forgotten, self._forgotten = self._forgotten, []
        if everything:
            finished = [Tombstone(each, at) for each, at in self._tombstones.items()]
        return Changes(
            series=self.ledger.changes(everything=everything),
            conversations=[
                self._saved(each) for key, each in self._entries.items() if everything or key in changed
            ],
            finished=finished,
            forgotten=forgotten,
        )

    def _saved(self, entry: Entry) -> SavedConversation:
        saved = _SavedEntry(
            project=entry.project,
            agent=entry.agent,
            origin=entry.origin,
            labels=entry.labels,
            label_values=entry.label_set.values,
            progress=entry.progress,
            has_ended=entry.has_ended,
            updated_at=entry.updated_at,
        )
        return SavedConversation(id=entry.conversation_id, blob=_encode(saved))

    def restore(self, saved: Saved) -> None:
        """Go on where a checkpoint stopped. What it holds that cannot be used is logged, counted and left out."""
        self.first_start = saved.first_start
        self._tombstones = {each.id: each.finished_at for each in saved.tombstones}
        series, names = saved.series, self.ledger.limits.names
        if saved.label_names != names:
            labelled = {each.name for each in catalogue.CATALOGUE if each.scope is catalogue.Scope.CONVERSATIONS}
            series = [each for each in series if each.family not in labelled]
            self._reset(Reset.LABELS, "labels")
        for family in sorted(self.ledger.restore(series)):
            self._reset(Reset.BUCKET_LAYOUT, family)
        for each in saved.conversations:
            try:
                entry = _decode(each.blob)
            except msgspec.MsgspecError:
                self._reset(Reset.CORRUPT, each.id)
                continue
            values = entry.label_values
            if saved.label_names != names:
                values = tuple(entry.labels.get(name, UNKNOWN) for name in names)
            self._entries[each.id] = Entry(
                each.id,
                self.ledger.label_set(values),
                entry.project,
                entry.agent,
                entry.origin,
                entry.labels,
                progress=entry.progress,
                has_ended=entry.has_ended,
                updated_at=self._now() if entry.updated_at is None else entry.updated_at,
            )

    def _reset(self, reason: Reset, what: str) -> None:
        self.ledger.count(catalogue.CHECKPOINT_RESETS, reason)
        log.warning("not taken over from the checkpoint", reason=reason.value, what=what)


def _clean(text: str) -> str:
    """A label value that can be written as UTF-8, of bounded length."""
    return text[:LABEL_LENGTH].encode("utf-8", "replace").decode()
