"""State: one unfinished conversation, and how it goes into the state file and comes back."""

import attrs

from .counting import derive
from .counting.derive import Progress
from .counting.labels import UNKNOWN, WORKSPACE
from .counting.seen import seen_turns
from .counting.turns import CallState, SeenCall
from .enums import ERROR_ENDINGS, EndedBy, Lost
from .metrics import catalog
from .metrics.series import with_shard
from .metrics.store import LabelSet, MetricStore
from .shares import ONLY
from .state import blob
from .state.blob import SavedEntry
from .state.history import Remembered


@attrs.define(eq=False)
class Entry:
    """A conversation between its first snapshot (or record) and its end. Its labels never change.

    ``workspace``: whose key found it; empty where workspaces have no names. ``is_homeless``: the state was written
    where workspaces had names and now they have none, or the other way round, so it is nobody's before a workspace
    reports on it. ``is_live``: it counts as live now. ``is_current``: this process had its latest snapshot, and
    followed it since without a loss. ``updated_at``: Unix time of the latest snapshot.
    """

    conversation_id: str
    label_set: LabelSet
    project: str
    agent: str
    origin: str
    labels: dict[str, str]
    workspace: str = ONLY
    is_homeless: bool = False
    progress: Progress = derive.NOTHING
    is_live: bool = False
    has_ended: bool = False
    is_current: bool = True
    updated_at: float = 0.0
    shard: str = ""
    live_text: str = ""
    info_text: str = ""

    def __attrs_post_init__(self) -> None:
        self.live_text = with_shard(self.shard, ("conversation_id",), (self.conversation_id,))
        self.set_info()

    def set_info(self) -> None:
        """Write the labels of `catalog.LIVE_INFO` anew."""
        of = ((WORKSPACE, self.workspace),) if self.workspace else ()
        values = (self.conversation_id, self.project, self.agent, self.origin)
        labels = (*of, *zip(catalog.LIVE_INFO.labels, values, strict=True))
        self.info_text = with_shard(self.shard, [name for name, _ in labels], [value for _, value in labels])

    def adopt(self, workspace: str, store: MetricStore) -> None:
        """Belong to this workspace from now on."""
        self.workspace, self.is_homeless = workspace, False
        labels = {name: value for name, value in self.labels.items() if name != WORKSPACE}
        self.labels = {WORKSPACE: workspace, **labels} if workspace else labels
        self.label_set = store.label_set([self.labels.get(name, UNKNOWN) for name in store.limits.names])
        self.set_info()

    @property
    def waiting_since(self) -> float | None:
        """Unix time since which the caller waits; None if not, or if that is unknown.

        An answer may have begun while the connection is lost, and nobody waits once the call is over.
        """
        return self.progress.live.waiting_since if self.is_current and not self.has_ended else None

    def moment(self) -> "Moment":
        """The entry as it is now."""
        return self, self.progress, self.has_ended, self.updated_at


Moment = tuple[Entry, Progress, bool, float]
"""An entry at one moment: its progress, whether it has ended and when it was updated. Never changes."""


def new_entry(conversation_id: str, labels: dict[str, str], store: MetricStore) -> Entry:
    """Return an entry without progress. ``labels`` are all its labels (`exporter.counting.labels.labels_of`)."""
    return Entry(
        conversation_id,
        store.label_set([labels[name] for name in store.limits.names]),
        labels["project"],
        labels["agent"],
        labels["origin"],
        labels,
        labels.get(WORKSPACE, ONLY),
        shard=store.limits.shard,
    )


def seen_call(entry: Entry) -> SeenCall:
    """The conversation turn by turn, as it is now."""
    progress, live = entry.progress, entry.progress.live
    return SeenCall(
        conversation_id=entry.conversation_id,
        state=CallState.ENDED if entry.has_ended else CallState.LIVE,
        workspace=entry.workspace or None,
        project=entry.project,
        agent=entry.agent,
        origin=entry.origin,
        started_at=_seconds(progress.started),
        duration=live.duration if progress.duration_ms is None else progress.duration_ms / 1000,
        waiting_since=entry.waiting_since,
        turns=seen_turns(progress),
    )


def remembered(
    entry: Entry, progress: Progress, ended_by: EndedBy, lost: Lost | None, *, ended_at: float
) -> Remembered:
    """What to remember of a conversation that is over. ``progress`` is the last; ``ended_at``: Unix time.

    May be called in any thread.
    """
    call = attrs.evolve(
        seen_call(attrs.evolve(entry, progress=progress)),
        state=CallState.ENDED,
        ended_by=ended_by.value,
        lost=None if lost is None else lost.value,
        waiting_since=None,
    )
    return Remembered.of(call, ended_at=ended_at, is_failed=ended_by in ERROR_ENDINGS)


def _seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / 1_000_000


def encode(moment: Moment) -> bytes:
    """Return the blob that a state file keeps of the entry. May be called in any thread."""
    entry, progress, has_ended, updated_at = moment
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


def decode(conversation_id: str, encoded: bytes, store: MetricStore, *, now: float, is_relabelled: bool) -> Entry:
    """Return the entry that `encode` of this or an earlier release wrote.

    ``is_relabelled``: the file was written with other ``--metrics.labels``, so choose the label set again.
    ``now``: Unix time to use as that of the latest snapshot if the blob has none. Raises: UnreadableBlob.
    """
    saved = blob.decode(encoded)
    values = saved.label_values
    if is_relabelled:
        values = tuple(saved.labels.get(name, UNKNOWN) for name in store.limits.names)
    named = saved.labels.get(WORKSPACE, ONLY)
    is_homeless = store.limits.has_workspaces != bool(named)
    return Entry(
        conversation_id,
        # That of the store comes with `Entry.adopt`.
        LabelSet(values) if is_homeless else store.label_set(values),
        saved.project,
        saved.agent,
        saved.origin,
        saved.labels,
        ONLY if is_homeless else named,
        is_homeless,
        progress=saved.progress,
        has_ended=saved.has_ended,
        is_current=False,
        updated_at=now if saved.updated_at is None else saved.updated_at,
        shard=store.limits.shard,
    )
