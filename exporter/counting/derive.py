"""Pure: what a snapshot adds to what was counted of its conversation (semantics 1 to 6).

Theory of operation
===================

Every message repeats the whole conversation, every new connection repeats the newest message, and after a restart
all of it comes once more. So `derive` does not compare a snapshot with the previous one. It compares it with a
memory of what was counted, `Progress`, and returns the memory after it and the increments:

    derive(progress, snapshot) -> (progress, increments)

The memory. `Progress` is a value: a step makes a new one. Of a turn it has a `Turn`, five numbers: flags, and the
values of the four measurements a turn may have. The flags say what has happened to the turn, each once:

    bits 0-1    role when first seen: 0 assistant, 1 user, 2 other. The turn was counted with it.
    bits 2-5    observed: model generation, first audio, model input, duration
    bits 6-9    counted as revised: the same four
    bit  10     response decided: observed, or counted as an overlap
    bit  11     counted as silent
    bit  12     counted as having an unknown timing

State files hold these numbers (`state/blob.py`), so the meaning of a bit never changes. What happens rarely is in
sets of `Progress` and not in flags: tool calls by id, rejected values by turn, field and reason.

Two kinds of value. A *timing* is final as soon as it is valid: it is observed in the first snapshot that has it. A
*duration* rises while the turn goes on: it is observed once the turn is *settled*, which means that a later turn
exists or the conversation has ended. Until then the newest duration is remembered without its observed bit, for
`settle` to observe at the end. A *response* is computed from the start of an assistant's turn and the end of the
user's turn before it, which is settled by then.

Which snapshot is newer. Snapshots have no number. `Progress.position` orders them by the highest index, the
duration of the conversation and that of the newest turn. A snapshot with a lower position than before is *stale*.
It may add what was missed, but replaces no remembered duration and not the live state.

Invariants:

- Idempotent. A step emits an increment only together with the bit, set element or maximum that forbids it from
  then on, and no step clears one. So a snapshot that comes again adds nothing.
- Independent of order. A turn is its index, in whatever order turns and snapshots come. What is observed is final,
  so every snapshot that has it has the same value; a count of bad elements is a maximum. So any order gives the
  same total, and so does any loss of snapshots, as long as the last one arrives and no value is revised on the
  way.
- Nothing is taken back. Counters and histograms cannot fall, and Prometheus may have the number already. A turn
  that vanishes stays counted, a role that changes stays as it was, and a value that changes after it was observed
  is counted as revised, once for each turn and field. A value that cannot be used is counted as rejected, once for
  each turn, field and reason; a valid one may follow.

A REST record goes through the same steps (`derive_record`), with three differences: every turn is settled, nothing
counts as revised, and if the conversation was never watched its response times come from a list that REST has of
them (`finish.py`) instead of the turns.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from math import inf

import attrs

from ..enums import EndedBy, Field, Rejection, Role
from ..phonic.schema import Conversation, Item, Snapshot, ToolCall
from .increments import (
    CONVERSATION,
    DUPLICATE_INDEX,
    MALFORMED,
    OVERLAP,
    REVISED,
    SILENT_TURN,
    TOOL_CALL,
    TURN,
    TURN_DURATION,
    UNKNOWN_ROLE,
    UNKNOWN_TIMING,
    Increment,
    Key,
    Measure,
    rejected,
)

LONGEST_TIMING_MS = 600_000.0  # longer timings and responses are rejected (semantics 3, 5)
LONGEST_TURN_MS = 24 * 3_600_000.0
LONGEST_CONVERSATION_MS = 7 * 24 * 3_600_000.0
MAX_TOOL_CALLS = 20_000  # of one conversation, whose ids are remembered; further calls are rejected
LARGEST_INDEX = 100_000  # a turn every second for a day; a higher index is rejected

Turn = tuple[int, float | None, float | None, float | None, float | None]
"""What is remembered of a turn: its flags, and in ms its model generation, first audio, model input and duration.

The first three are the observed values. The duration is remembered before it is observed as well. This is a plain
tuple of numbers because the garbage collector does not track those.
"""

# Flags of a turn: see the theory of operation. The bits of observed and revised are in the order of the values.
_ROLES = (Role.ASSISTANT, Role.USER, Role.OTHER)
_ROLE_MASK = 0b11
_ROLE_OF: Mapping[str | None, Role] = {role.value: role for role in Role}
_OBSERVED = 1 << 2
_REVISED = 1 << 6
_TIMINGS_OBSERVED = _OBSERVED * 0b111
_RESPONSE_DECIDED = 1 << 10
_SILENT_COUNTED = 1 << 11
_UNKNOWN_TIMING_COUNTED = 1 << 12
_DURATION_OBSERVED = _OBSERVED << 3
_DURATION_REVISED = _REVISED << 3
_ROLE_BITS = {role: bits for bits, role in enumerate(_ROLES)}

Rejected = tuple[int, str, str]
"""A rejected value: the index of its turn (`CONVERSATION_INDEX` for the conversation itself), field, reason."""
CONVERSATION_INDEX = -1
_Rejections = tuple[tuple[Field, Rejection], ...]

_TIMINGS: tuple[tuple[str, Field, Key], ...] = (
    (Field.MODEL_GENERATION.value, Field.MODEL_GENERATION, (Measure.MODEL_GENERATION,)),
    (Field.FIRST_AUDIO.value, Field.FIRST_AUDIO, (Measure.FIRST_AUDIO,)),
    (Field.MODEL_INPUT.value, Field.MODEL_INPUT, (Measure.MODEL_INPUT,)),
)
_TIMING_NAMES = frozenset(name for name, _, _ in _TIMINGS)
_GENERATION_NAME, _FIRST_AUDIO_NAME, _MODEL_INPUT_NAME = (name for name, _, _ in _TIMINGS)
_RESPONSE: Key = (Measure.RESPONSE,)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


# `LiveState` and `Progress` are values: no code changes one once it is made. attrs does not freeze them because
# setting a field of a frozen class is slow, and one of each is made for every snapshot.


@attrs.define(kw_only=True)
class LiveState:
    """What the live gauges show of a conversation, at its newest snapshot (semantics 17).

    ``duration``, ``model_generation``, ``first_audio``: seconds, the last two of the newest turn that has them.
    ``waiting_since``: Unix time at which the user's turn ended, while the newest turn is the user's.
    """

    turns: int = 0
    duration: float | None = None
    model_generation: float | None = None
    first_audio: float | None = None
    waiting_since: float | None = None


@attrs.define(kw_only=True)
class Progress:
    """All that is remembered of one conversation, so that nothing is counted twice. See the theory of operation.

    ``seen``: whether the conversation was counted. ``turns``: by index. ``tools``: ids of the tool calls counted.
    ``malformed``, ``duplicates``: the most elements of one snapshot that were no turn, or had the index of
    another. ``position``: of the newest snapshot: (highest index, duration in ms of the conversation, of the turn
    with that index). ``duration_ms``, ``end_reason``: the newest known, for the end. ``live``: the field's name is
    part of the format of state files.
    """

    seen: bool = False
    turns: Mapping[int, Turn] = attrs.field(factory=dict)
    tools: frozenset[str] = frozenset()
    rejected: frozenset[Rejected] = frozenset()
    malformed: int = 0
    duplicates: int = 0
    position: tuple[int, float, float] = (-1, -1.0, -1.0)
    duration_ms: float | None = None
    end_reason: EndedBy | None = None  # an enum, so that a state file holds no text from a message
    live: LiveState = attrs.field(factory=LiveState)


NOTHING = Progress()


def derive(progress: Progress, snapshot: Snapshot) -> tuple[Progress, list[Increment]]:
    """Compare a snapshot with what was counted of its conversation.

    Returns the progress after it, and what it adds, in the order of the turns. Never raises for any values.
    """
    return _Step(progress, snapshot).run()


def derive_record(progress: Progress, record: Snapshot, *, was_watched: bool) -> tuple[Progress, list[Increment]]:
    """Compare the REST record of an ended conversation with what was counted of it (semantics 7).

    ``was_watched``: compute response times from the turns; if not, `finish` takes the list that REST has of them.

    Returns the progress after it, and what it adds.
    """
    return _Step(progress, record, is_record=True, was_watched=was_watched).run()


def settle(progress: Progress) -> list[Increment]:
    """Observe, at the end of a conversation, the durations that were remembered but not observed (semantics 4)."""
    return [
        (TURN_DURATION[_ROLES[flags & _ROLE_MASK]], duration / 1000)
        for flags, *_, duration in progress.turns.values()
        if not flags & _DURATION_OBSERVED and duration is not None
    ]


def parse_time(text: str | None) -> int | None:
    """Parse an ISO 8601 time, in UTC if it has no zone. Returns Unix microseconds, None if it is no time.

    Microseconds are whole numbers, so that differences are exact.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        return None


class _Step:
    """One call of `derive` or `derive_record`: compares one item after the other, and collects what it adds.

    ``before``: the progress to compare with. ``turns``: the memory of turns as it becomes; the mapping of
    ``before`` until the first change. ``new_tools``, ``new_rejected``: what this step adds to the sets of
    ``before``. ``indexes``: of the items, in the order of the list. ``last_index``: the highest. ``is_fresh``: not
    stale. ``is_record`` and ``was_watched`` as in `derive_record`.
    """

    __slots__ = (
        "before",
        "increments",
        "indexes",
        "is_fresh",
        "is_record",
        "items",
        "last_index",
        "new_rejected",
        "new_tools",
        "place_of",
        "snapshot",
        "turns",
        "was_watched",
    )  # fmt: skip

    def __init__(
        self, before: Progress, snapshot: Snapshot, *, is_record: bool = False, was_watched: bool = True
    ) -> None:
        self.before = before
        self.snapshot = snapshot
        self.is_record = is_record
        self.was_watched = was_watched
        self.increments: list[Increment] = []
        self.turns: dict[int, Turn] = before.turns  # type: ignore[assignment]  # copied at the first change
        # Sets of their own, because a new element in a frozen set copies it.
        self.new_tools: set[str] = set()
        self.new_rejected: set[Rejected] = set()
        self.items = snapshot.conversation.items or []
        self.indexes = [index_of(item, at) for at, item in enumerate(self.items)]
        self.place_of: dict[int, int] | None = None  # position in the list by index; made when first needed
        self.last_index = max(self.indexes, default=-1)

    def run(self) -> tuple[Progress, list[Increment]]:
        before, conversation = self.before, self.snapshot.conversation
        increments = self.increments
        if not before.seen:
            increments.append(CONVERSATION)
        duration = conversation.duration_ms
        bad = self._bad_values() if self.snapshot.bad else {}
        if duration is not None and not 0 <= duration <= LONGEST_CONVERSATION_MS:
            self._reject(CONVERSATION_INDEX, ((Field.CONVERSATION_DURATION, reason_of(duration)),))
            duration = None
        position = (self.last_index, before.position[1] if duration is None else duration, self._newest_duration())
        self.is_fresh = position >= before.position
        is_newest = self.is_fresh or self.is_record  # a record is final even if it lists fewer turns
        for at, item in enumerate(self.items):
            self._turn(at, self.indexes[at], item, bad.get(at, ()))
        malformed = max(self.snapshot.malformed, before.malformed)
        if malformed > before.malformed:
            increments.append((MALFORMED, malformed - before.malformed))
        duplicates = max(len(self.indexes) - len(set(self.indexes)), before.duplicates)
        if duplicates > before.duplicates:
            increments.append((DUPLICATE_INDEX, duplicates - before.duplicates))
        return (
            Progress(
                seen=True,
                turns=self.turns,
                tools=before.tools | self.new_tools if self.new_tools else before.tools,
                rejected=before.rejected | self.new_rejected if self.new_rejected else before.rejected,
                malformed=malformed,
                duplicates=duplicates,
                position=position if self.is_fresh else before.position,
                duration_ms=duration if is_newest and duration is not None else before.duration_ms,
                end_reason=ended_by(conversation) or before.end_reason,
                live=self._live_state(duration) if self.is_fresh and not self.is_record else before.live,
            ),
            increments,
        )

    def _newest_duration(self) -> float:
        length = self.items[self.indexes.index(self.last_index)].duration_ms if self.items else None
        return length if length is not None and 0 <= length <= LONGEST_TURN_MS else -1.0

    def _turn(self, at: int, index: int, item: Item, rejections: _Rejections) -> None:
        """Compare one item: ``at`` is its position in the list; ``rejections`` come from the decoder."""
        known = self.turns.get(index)
        is_new = known is None
        if known is None:
            role = _ROLE_OF.get(item.role, Role.OTHER)
            known = (_ROLE_BITS[role], None, None, None, None)
            self.increments.append(TURN[role])
            if role is Role.OTHER:
                self.increments.append(UNKNOWN_ROLE)
        if index != item.item_idx and item.item_idx is not None:
            rejections += ((Field.ITEM_IDX, reason_of(item.item_idx)),)
        flags, *timed, duration = known
        if item.timings and not _has_only_observed(item.timings, known):
            flags, rejections = self._timings(item.timings, flags, timed, rejections)
        if item.duration_ms is not None:
            settled = index < self.last_index or self.is_record
            flags, duration, rejections = self._duration(item.duration_ms, flags, duration, rejections, settled)
        if item.assistant_chose_not_to_respond and not flags & _SILENT_COUNTED:
            flags |= _SILENT_COUNTED
            self.increments.append(SILENT_TURN)
        if not flags & (_RESPONSE_DECIDED | _SILENT_COUNTED | _ROLE_MASK):  # role bits 0: an assistant's turn
            flags, rejections = self._response(at, index, item, flags, rejections)
        if item.tool_call_ids or item.tool_calls:
            self._tool_calls(item.tool_call_ids, item.tool_calls)
        if rejections:
            self._reject(index, rejections)
        if is_new or flags != known[0] or duration != known[4]:
            if self.turns is self.before.turns:
                self.turns = dict(self.turns)
            self.turns[index] = (flags, timed[0], timed[1], timed[2], duration)

    def _timings(
        self,
        timings: Mapping[str, float | None],
        flags: int,
        observed: list[float | None],
        rejections: _Rejections,
    ) -> tuple[int, _Rejections]:
        """Observe the timings that were not (semantics 3). Returns the flags and rejections after it."""
        for at, (name, field, key) in enumerate(_TIMINGS):
            value = timings.get(name)
            if value is None:
                continue
            if not 0 <= value <= LONGEST_TIMING_MS:
                rejections += ((field, reason_of(value)),)
            elif not flags & _OBSERVED << at:
                flags |= _OBSERVED << at
                observed[at] = value
                self.increments.append((key, value / 1000))
            elif value != observed[at] and not flags & _REVISED << at:
                flags |= _REVISED << at
                self.increments.append(REVISED)
        if not flags & _UNKNOWN_TIMING_COUNTED and not timings.keys() <= _TIMING_NAMES:
            flags |= _UNKNOWN_TIMING_COUNTED
            self.increments.append(UNKNOWN_TIMING)
        return flags, rejections

    def _duration(
        self, value: float, flags: int, known: float | None, rejections: _Rejections, settled: bool
    ) -> tuple[int, float | None, _Rejections]:
        """Observe the duration if ``settled``, else remember it (semantics 4). ``known``: what is remembered."""
        if not 0 <= value <= LONGEST_TURN_MS:
            return flags, known, (*rejections, (Field.DURATION, reason_of(value)))
        if flags & _DURATION_OBSERVED:
            if value != known and settled and not self.is_record and not flags & _DURATION_REVISED:
                flags |= _DURATION_REVISED
                self.increments.append(REVISED)
        elif settled:
            self.increments.append((TURN_DURATION[_ROLES[flags & _ROLE_MASK]], value / 1000))
            return flags | _DURATION_OBSERVED, value, rejections
        elif self.is_fresh:
            return flags, value, rejections
        return flags, known, rejections

    def _response(
        self, at: int, index: int, item: Item, flags: int, rejections: _Rejections
    ) -> tuple[int, _Rejections]:
        """Observe the response of an assistant's turn to the user's turn before it (semantics 5)."""
        user = self._item(at - 1, index - 1)
        if user is None or self._role(index - 1, user) is not Role.USER:
            return flags, rejections
        start, user_start = parse_time(item.started_at), parse_time(user.started_at)
        if (start is None and item.started_at is not None) or (user_start is None and user.started_at is not None):
            rejections += ((Field.STARTED_AT, Rejection.WRONG_TYPE),)
        length = user.duration_ms
        if start is None or user_start is None or length is None or not 0 <= length <= LONGEST_TURN_MS:
            return flags, rejections
        gap = start - user_start - round(length * 1000)
        if gap < 0:
            self.increments.append(OVERLAP)
        elif gap > LONGEST_TIMING_MS * 1000:
            return flags, (*rejections, (Field.RESPONSE, Rejection.TOO_LARGE))
        elif self.was_watched:
            self.increments.append((_RESPONSE, gap / 1_000_000))
        return flags | _RESPONSE_DECIDED, rejections

    def _item(self, at: int, index: int) -> Item | None:
        """Find the item with ``index``, which is most likely at position ``at`` of the list.

        The decoder may have left out items whose bytes it knows; the one before the first is then in the snapshot.
        """
        if at >= 0 and self.indexes[at] == index:
            return self.items[at]
        if self.place_of is None:
            self.place_of = {each: place for place, each in reversed(list(enumerate(self.indexes)))}
        place = self.place_of.get(index)
        if place is not None:
            return self.items[place]
        return self.snapshot.before if self.snapshot.before_index == index else None

    def _role(self, index: int, item: Item) -> Role:
        known = self.turns.get(index)
        return _ROLE_OF.get(item.role, Role.OTHER) if known is None else _ROLES[known[0] & _ROLE_MASK]

    def _tool_calls(self, ids: list[str] | None, calls: list[ToolCall] | None) -> None:
        for call in (*(ids or ()), *(call.id for call in calls or () if call.id)):
            if call not in self.before.tools and call not in self.new_tools:
                if len(self.before.tools) + len(self.new_tools) >= MAX_TOOL_CALLS:
                    self._reject(CONVERSATION_INDEX, ((Field.TOOL_CALLS, Rejection.TOO_LARGE),))
                    return
                self.new_tools.add(call)
                self.increments.append(TOOL_CALL)

    def _bad_values(self) -> dict[int, _Rejections]:
        """Values that the decoder rejected, by position of their item in the list.

        Those of the conversation itself are counted here.
        """
        found: dict[int, _Rejections] = {}
        for bad in self.snapshot.bad:
            if bad.position < 0:
                self._reject(CONVERSATION_INDEX, ((bad.field, bad.reason),))
            else:
                found[bad.position] = (*found.get(bad.position, ()), (bad.field, bad.reason))
        return found

    def _reject(self, index: int, rejections: _Rejections) -> None:
        for field, reason in rejections:
            value = (index, field.value, reason.value)
            if value not in self.before.rejected and value not in self.new_rejected:
                self.new_rejected.add(value)
                self.increments.append(rejected(field, reason))

    def _live_state(self, duration_ms: float | None) -> LiveState:
        """The live state after this snapshot; a value that it lacks stays as it was before."""
        before = self.before.live
        generation = first_audio = None
        for index in reversed(self.indexes):
            _, its_generation, its_first_audio, *_ = self.turns[index]
            generation = its_generation if generation is None else generation
            first_audio = its_first_audio if first_audio is None else first_audio
            if generation is not None and first_audio is not None:
                break
        return LiveState(
            turns=len(self.turns),
            duration=before.duration if duration_ms is None else duration_ms / 1000,
            model_generation=before.model_generation if generation is None else generation / 1000,
            first_audio=before.first_audio if first_audio is None else first_audio / 1000,
            waiting_since=self._waiting_since(),
        )

    def _waiting_since(self) -> float | None:
        if not self.items:
            return None
        at = self.indexes.index(self.last_index)
        newest = self.items[at]
        if newest.role != Role.USER or newest.duration_ms is None:
            return None
        if newest.assistant_chose_not_to_respond or not 0 <= newest.duration_ms <= LONGEST_TURN_MS:
            return None
        start = parse_time(newest.started_at)
        return None if start is None else (start + round(newest.duration_ms * 1000)) / 1_000_000


def index_of(item: Item, position: int) -> int:
    """The index of a turn: ``item_idx``, else the number at the end of ``id``, else its position (semantics 1)."""
    if item.item_idx is not None and 0 <= item.item_idx <= LARGEST_INDEX:
        return item.item_idx
    tail = (item.id or "").rpartition("-")[2]
    if tail.isascii() and tail.isdigit() and len(tail) <= 6:
        return int(tail)
    return position


def ended_by(conversation: Conversation) -> EndedBy | None:
    """What ended a conversation, as its record (``ended_by``) or live object (``end_reason``) says (API 2.4)."""
    word = conversation.ended_by or conversation.end_reason
    return EndedBy(word) if word else None


def _has_only_observed(timings: Mapping[str, float | None], turn: Turn) -> bool:
    """Whether these are just the three timings that were observed, as for most turns of most snapshots."""
    flags, generation, first_audio, model_input, _ = turn
    return (
        flags & _TIMINGS_OBSERVED == _TIMINGS_OBSERVED
        and len(timings) == len(_TIMINGS)
        and timings.get(_GENERATION_NAME) == generation
        and timings.get(_FIRST_AUDIO_NAME) == first_audio
        and timings.get(_MODEL_INPUT_NAME) == model_input
    )


def reason_of(value: float) -> Rejection:
    """Why a number that is out of its range is rejected."""
    if value != value or value in (inf, -inf):
        return Rejection.NOT_FINITE
    return Rejection.NEGATIVE if value < 0 else Rejection.TOO_LARGE
