"""Pure: what a snapshot adds to what was counted of its conversation (semantics 1 to 6).

Theory of operation
===================

Every message repeats the whole conversation, every new connection repeats the newest message, and after a restart
all of it comes once more. So `derive` does not compare a snapshot with the previous one. It compares it with a
memory of what was counted, `Progress`, and returns the memory after it and the increments:

    derive(progress, snapshot) -> (progress, increments)

The memory. `Progress` is a value: a step makes a new one. Of a turn it has a `Turn`: flags, the values of the
measurements that a turn may have, its start, and its tool calls. The flags say what has happened to the turn, each
once:

    bits 0-1    role when first seen: 0 assistant, 1 user, 2 other. The turn was counted with it.
    bits 2-5    observed: model generation, first audio, model input, duration
    bits 6-9    counted as revised: the same four
    bit  10     response decided: observed, or counted as an overlap
    bit  11     counted as silent
    bit  12     counted as having an unknown timing
    bit  13     began before the user's turn had ended (an assistant's turn): an overlap
    bit  14     compared with the assistant's turn before it (a user's turn)
    bit  15     began before the assistant's turn had ended (a user's turn): a barge-in
    bit  16     end of turn decided
    bit  17     response is not slow, or counted as slow
    bit  18     observed as a response with tools
    bit  19     greeting decided (turn 0)

State files hold these numbers (`state/blob.py`), so the meaning of a bit never changes. What happens rarely is in
sets of `Progress` and not in flags: tool calls by id, rejected values by turn, field and reason.

Two kinds of value. A *timing* is final as soon as it is valid: it is observed in the first snapshot that has it. A
*duration* rises while the turn goes on: it is observed once the turn is *settled*, which means that a later turn
exists or the conversation has ended. Until then the newest duration is remembered without its observed bit, for
`settle` to observe at the end.

Two turns. A *response* lies between the end of a user's turn and the start of the assistant's turn after it. It is
computed from the memory of both turns, after all items of the snapshot went into it. So neither the order of the
list matters, nor which of the two turns the decoder left out because it knows their bytes. The start of a turn is
remembered from the first snapshot that has it; the earlier of the two turns is settled by then. A user's turn is
compared with the assistant's turn before it in the same way. Two turns are compared when the memory of one of them
has changed in more than a duration that is not observed yet.

What follows from a response. Its *end of turn* is the response less the first audio, both of which are final. It
is one *with tools* as soon as one of the two turns has a tool call. Whether it was *slow* is known at once, but by
which part only with all three timings; without them it is decided at the end of the conversation. So a timing that
comes late gives the same total as one that comes early.

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

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from math import inf

import attrs

from ..enums import EndedBy, Field, Rejection, Role, Stage, ToolFailure
from ..phonic.schema import Conversation, Item, Snapshot, ToolCall
from .increments import (
    BARGE_IN,
    CONVERSATION,
    DUPLICATE_INDEX,
    MALFORMED,
    OVERLAP,
    REVISED,
    SILENT_TURN,
    SLOW_TURN,
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

OBJECTIVE = 1.5  # seconds, the default of --metrics.slo-response
LONGEST_TIMING_MS = 600_000.0  # longer timings, responses and waits are rejected (semantics 3, 5, 18, 19)
LONGEST_TURN_MS = 24 * 3_600_000.0
LONGEST_CONVERSATION_MS = 7 * 24 * 3_600_000.0
MAX_TOOL_CALLS = 20_000  # of one conversation, whose ids are remembered; further calls are rejected
LARGEST_INDEX = 100_000  # a turn every second for a day; a higher index is rejected

Turn = tuple[
    int, float | None, float | None, float | None, float | None, int | None, float | None, int, int
]  # fmt: skip
"""What is remembered of a turn:

- its flags;
- in ms its model generation, first audio, model input and duration. The first three are the observed values; the
  duration is remembered before it is observed as well;
- its start, in Unix microseconds;
- its response in ms;
- how many tool calls it has, each id once, and how many of them failed, which only a record tells.

This is a plain tuple of numbers because the garbage collector does not track those.
"""

# Flags of a turn: see the theory of operation. The bits of observed and revised are in the order of the values.
_ROLES = (Role.ASSISTANT, Role.USER, Role.OTHER)
_ROLE_MASK = 0b11
_ROLE_OF: Mapping[str | None, Role] = {role.value: role for role in Role}
_OBSERVED = 1 << 2
_REVISED = 1 << 6
_TIMINGS_OBSERVED = _OBSERVED * 0b111
_RESPONSE_DECIDED = 1 << 10
SILENT_FLAG = 1 << 11
_UNKNOWN_TIMING_COUNTED = 1 << 12
OVERLAP_FLAG = 1 << 13
_ASSISTANT_COMPARED = 1 << 14
BARGE_IN_FLAG = 1 << 15
_END_OF_TURN_DECIDED = 1 << 16
_SLOW_DECIDED = 1 << 17
_TOOL_RESPONSE_OBSERVED = 1 << 18
_GREETING_DECIDED = 1 << 19
_NOT_FROM_TURNS = _END_OF_TURN_DECIDED | _SLOW_DECIDED | _TOOL_RESPONSE_OBSERVED
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
_END_OF_TURN: Key = (Measure.END_OF_TURN,)
_TOOL_RESPONSE: Key = (Measure.TOOL_RESPONSE,)
_USER_RESPONSE: Key = (Measure.USER_RESPONSE,)
_GREETING: Key = (Measure.GREETING,)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EARLIEST = (datetime(2, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LATEST = (datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND


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
    with that index). ``duration_ms``, ``end_reason``: the newest known, for the end. ``started``, ``ended``: Unix
    microseconds, the first known. The names of the fields are part of the format of state files.
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
    started: int | None = None
    ended: int | None = None


NOTHING = Progress()


def derive(
    progress: Progress, snapshot: Snapshot, *, objective: float = OBJECTIVE
) -> tuple[Progress, list[Increment]]:
    """Compare a snapshot with what was counted of its conversation.

    ``objective``: seconds; a longer response is slow.

    Returns the progress after it, and what it adds. Never raises for any values.
    """
    return _Step(progress, snapshot, objective).run()


def derive_record(
    progress: Progress, record: Snapshot, *, was_watched: bool, objective: float = OBJECTIVE
) -> tuple[Progress, list[Increment]]:
    """Compare the REST record of an ended conversation with what was counted of it (semantics 7).

    ``was_watched``: count response times from the turns; if not, `finish` takes the list that REST has of them.
    ``objective`` as for `derive`.

    Returns the progress after it, and what it adds.
    """
    return _Step(progress, record, objective, is_record=True, was_watched=was_watched).run()


def settle(progress: Progress) -> list[Increment]:
    """What was left to the end: durations (semantics 4), and slow turns without all timings (semantics 18)."""
    increments: list[Increment] = []
    for turn in progress.turns.values():
        flags, duration = turn[0], turn[4]
        if not flags & _DURATION_OBSERVED and duration is not None:
            increments.append((TURN_DURATION[_ROLES[flags & _ROLE_MASK]], duration / 1000))
        if _is_slow(turn):
            increments.append(SLOW_TURN[_largest_part(turn)])
    return increments


def parse_time(text: str | None) -> int | None:
    """Parse an ISO 8601 time, in UTC if it has no zone. Returns Unix microseconds, None if it is no usable time.

    Microseconds are whole numbers, so that differences are exact. A time is usable in the years 2 to 9998, so that
    it can be told in UTC, with any duration added.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        time = (moment - _EPOCH) // _MICROSECOND
        return time if _EARLIEST <= time < _LATEST else None
    except (ValueError, OverflowError):
        return None


class _Step:
    """One call of `derive` or `derive_record`: compares one item after the other, and collects what it adds.

    ``before``: the progress to compare with. ``turns``: the memory of turns as it becomes; the mapping of
    ``before`` until the first change. ``new_tools``, ``new_rejected``: what this step adds to the sets of
    ``before``. ``indexes``: of the items, in the order of the list. ``last_index``: the highest. ``is_fresh``: not
    stale. ``to_compare``: indexes of turns to be compared with the turn before them. ``started``: when the
    conversation began, in Unix microseconds. ``objective``, ``is_record`` and ``was_watched`` as in
    `derive_record`.
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
        "objective",
        "snapshot",
        "started",
        "to_compare",
        "turns",
        "was_watched",
    )  # fmt: skip

    def __init__(
        self,
        before: Progress,
        snapshot: Snapshot,
        objective: float,
        *,
        is_record: bool = False,
        was_watched: bool = True,
    ) -> None:
        self.before = before
        self.snapshot = snapshot
        self.objective = objective
        self.is_record = is_record
        self.was_watched = was_watched
        self.increments: list[Increment] = []
        self.turns: dict[int, Turn] = before.turns  # type: ignore[assignment]  # copied at the first change
        # Sets of their own, because a new element in a frozen set copies it.
        self.new_tools: set[str] = set()
        self.new_rejected: set[Rejected] = set()
        self.items = snapshot.conversation.items or []
        self.indexes = [index_of(item, at) for at, item in enumerate(self.items)]
        self.to_compare: set[int] = set()
        self.started = before.started
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
        if self.started is None and conversation.started_at is not None:
            self.started = self._time(Field.STARTED_AT, conversation.started_at)
        ended = before.ended
        if ended is None and conversation.ended_at is not None:
            ended = self._time(Field.ENDED_AT, conversation.ended_at)
        position = (self.last_index, before.position[1] if duration is None else duration, self._newest_duration())
        self.is_fresh = position >= before.position
        is_newest = self.is_fresh or self.is_record  # a record is final even if it lists fewer turns
        for at, item in enumerate(self.items):
            self._turn(self.indexes[at], item, bad.get(at, ()))
        for index in sorted(self.to_compare):
            self._compare(index)
        self._greeting()
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
                started=self.started,
                ended=ended,
            ),
            increments,
        )

    def _time(self, field: Field, text: str) -> int | None:
        """A time of the conversation itself; None and rejected if it is no time."""
        time = parse_time(text)
        if time is None:
            self._reject(CONVERSATION_INDEX, ((field, Rejection.WRONG_TYPE),))
        return time

    def _newest_duration(self) -> float:
        length = self.items[self.indexes.index(self.last_index)].duration_ms if self.items else None
        return length if length is not None and 0 <= length <= LONGEST_TURN_MS else -1.0

    def _turn(self, index: int, item: Item, rejections: _Rejections) -> None:
        """Compare one item with the memory of its turn. ``rejections`` come from the decoder."""
        known = self.turns.get(index)
        is_new = known is None
        if known is None:
            role = _ROLE_OF.get(item.role, Role.OTHER)
            known = (_ROLE_BITS[role], None, None, None, None, None, None, 0, 0)
            self.increments.append(TURN[role])
            if role is Role.OTHER:
                self.increments.append(UNKNOWN_ROLE)
        if index != item.item_idx and item.item_idx is not None:
            rejections += ((Field.ITEM_IDX, reason_of(item.item_idx)),)
        flags, generation, first_audio, model_input, duration, start, response, calls, failures = known
        if item.timings and not _has_only_observed(item.timings, known):
            observed = [generation, first_audio, model_input]
            flags, rejections = self._timings(item.timings, flags, observed, rejections)
            generation, first_audio, model_input = observed
        if item.duration_ms is not None:
            settled = index < self.last_index or self.is_record
            flags, duration, rejections = self._duration(item.duration_ms, flags, duration, rejections, settled)
        if start is None and item.started_at is not None:
            start = parse_time(item.started_at)
            if start is None:
                rejections += ((Field.STARTED_AT, Rejection.WRONG_TYPE),)
        if item.assistant_chose_not_to_respond and not flags & SILENT_FLAG:
            flags |= SILENT_FLAG
            self.increments.append(SILENT_TURN)
        if item.tool_call_ids or item.tool_calls:
            self._tool_calls(item.tool_call_ids, item.tool_calls)
            called = item.tool_call_ids or item.tool_calls or ()
            if len(called) > calls:  # as in few snapshots; and a list may have a call twice
                calls = max(calls, len(set(item.tool_call_ids or _identities(item.tool_calls or ()))))
            if item.tool_calls and self.is_record:
                failed = [call for call in item.tool_calls if failure_of(call) is not None]
                failures = len(set(_identities(failed)))
        if rejections:
            self._reject(index, rejections)
        # A timing or duration that is observed changes the flags.
        if is_new or flags != known[0] or start != known[5] or calls != known[7]:
            self.to_compare.update((index, index + 1))
        elif duration == known[4] and failures == known[8]:
            return
        self._remember(
            index, (flags, generation, first_audio, model_input, duration, start, response, calls, failures)
        )

    def _remember(self, index: int, turn: Turn) -> None:
        if self.turns is self.before.turns:
            self.turns = dict(self.turns)
        self.turns[index] = turn

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

    def _compare(self, index: int) -> None:
        """Compare a turn with the turn before it, both as they are remembered now."""
        turn, before = self.turns.get(index), self.turns.get(index - 1)
        if turn is None or before is None:
            return
        role = turn[0] & _ROLE_MASK
        compared = turn
        if role == _ROLE_BITS[Role.ASSISTANT]:
            compared = self._assistant_turn(index, turn, before)
        elif role == _ROLE_BITS[Role.USER] and not turn[0] & _ASSISTANT_COMPARED:
            compared = self._user_turn(index, turn, before)
        if compared != turn:
            self._remember(index, compared)

    def _assistant_turn(self, index: int, turn: Turn, user: Turn) -> Turn:
        """Observe the response of an assistant's turn to the user's turn before it (semantics 5, 18)."""
        flags, generation, first_audio, model_input, duration, start, response, calls, failures = turn
        if response is None and not flags & (SILENT_FLAG | OVERLAP_FLAG):
            gap = _gap(user, Role.USER, start)
            if gap is None:
                return turn
            if gap > LONGEST_TIMING_MS * 1000:
                self._reject(index, ((Field.RESPONSE, Rejection.TOO_LARGE),))
                return turn
            # A state file of an earlier release says that a response was counted, and not which.
            is_counted = flags & _RESPONSE_DECIDED
            flags |= _RESPONSE_DECIDED
            if gap < 0:
                flags |= OVERLAP_FLAG
                if not is_counted:
                    self.increments.append(OVERLAP)
            else:
                response = gap / 1000
                if not self.was_watched:
                    flags |= _NOT_FROM_TURNS
                elif not is_counted:
                    self.increments.append((_RESPONSE, gap / 1_000_000))
        if response is not None:
            if first_audio is not None and not flags & _END_OF_TURN_DECIDED:
                flags |= _END_OF_TURN_DECIDED
                if first_audio > response:
                    self._reject(index, ((Field.END_OF_TURN, Rejection.NEGATIVE),))
                else:
                    self.increments.append((_END_OF_TURN, (response - first_audio) / 1000))
            if (calls or user[7]) and not flags & _TOOL_RESPONSE_OBSERVED:
                flags |= _TOOL_RESPONSE_OBSERVED
                self.increments.append((_TOOL_RESPONSE, response / 1000))
            if response / 1000 <= self.objective:
                flags |= _SLOW_DECIDED
        turn = (flags, generation, first_audio, model_input, duration, start, response, calls, failures)
        if flags & _TIMINGS_OBSERVED == _TIMINGS_OBSERVED and _is_slow(turn):
            self.increments.append(SLOW_TURN[_largest_part(turn)])
            turn = (flags | _SLOW_DECIDED, *turn[1:])
        return turn

    def _user_turn(self, index: int, turn: Turn, assistant: Turn) -> Turn:
        """Compare the start of a user's turn with the end of the assistant's turn before it (semantics 18)."""
        gap = _gap(assistant, Role.ASSISTANT, turn[5])
        if gap is None or assistant[0] & SILENT_FLAG:
            return turn
        flags = turn[0] | _ASSISTANT_COMPARED
        if gap < 0:
            flags |= BARGE_IN_FLAG
            self.increments.append(BARGE_IN)
        elif gap > LONGEST_TIMING_MS * 1000:
            self._reject(index, ((Field.USER_RESPONSE, Rejection.TOO_LARGE),))
        else:
            self.increments.append((_USER_RESPONSE, gap / 1_000_000))
        return (flags, *turn[1:])

    def _greeting(self) -> None:
        """Observe how long after its start the assistant opens a conversation (semantics 19)."""
        first = self.turns.get(0)
        if first is None or first[0] & (_GREETING_DECIDED | _ROLE_MASK):  # role bits 0: an assistant's turn
            return
        start = first[5]
        if start is None or self.started is None:
            return
        wait = start - self.started
        if 0 <= wait <= LONGEST_TIMING_MS * 1000:
            self.increments.append((_GREETING, wait / 1_000_000))
        else:
            self._reject(0, ((Field.GREETING, reason_of(wait)),))
        self._remember(0, (first[0] | _GREETING_DECIDED, *first[1:]))

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
            turn = self.turns[index]
            its_generation, its_first_audio = turn[1], turn[2]
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
    if tail.isascii() and tail.isdigit() and len(tail) <= 6 and int(tail) <= LARGEST_INDEX:
        return int(tail)
    return position


def ended_by(conversation: Conversation) -> EndedBy | None:
    """What ended a conversation, as its record (``ended_by``) or live object (``end_reason``) says (API 2.4)."""
    word = conversation.ended_by or conversation.end_reason
    return EndedBy(word) if word else None


def _identities(calls: Iterable[ToolCall]) -> list[str | int]:
    """What tells calls apart: the id of each; one without an id is like no other."""
    return [call.id or at for at, call in enumerate(calls)]


def _has_only_observed(timings: Mapping[str, float | None], turn: Turn) -> bool:
    """Whether these are just the three timings that were observed, as for most turns of most snapshots."""
    return (
        turn[0] & _TIMINGS_OBSERVED == _TIMINGS_OBSERVED
        and len(timings) == len(_TIMINGS)
        and timings.get(_GENERATION_NAME) == turn[1]
        and timings.get(_FIRST_AUDIO_NAME) == turn[2]
        and timings.get(_MODEL_INPUT_NAME) == turn[3]
    )


def _gap(before: Turn | None, role: Role, start: int | None) -> int | None:
    """Microseconds from the end of a settled turn of ``role`` to ``start``; negative if that is earlier.

    None if a time is not known, and if ``before`` is the turn of another role.
    """
    if before is None or start is None or before[0] & _ROLE_MASK != _ROLE_BITS[role]:
        return None
    its_start, duration = before[5], before[4]
    if its_start is None or duration is None or not before[0] & _DURATION_OBSERVED:
        return None
    return start - its_start - round(duration * 1000)


def _is_slow(turn: Turn) -> bool:
    """Whether a response is slow, and not counted as that yet."""
    return turn[6] is not None and not turn[0] & _SLOW_DECIDED


def _largest_part(turn: Turn) -> Stage:
    """The largest of the parts of a response that are known."""
    parts = (
        (turn[3], Stage.MODEL_INPUT),
        (turn[1], Stage.MODEL_GENERATION),
        (end_of_turn(turn), Stage.END_OF_TURN),
    )
    known = [(length, stage) for length, stage in parts if length is not None]
    return max(known, key=lambda part: part[0])[1] if known else Stage.UNKNOWN


def end_of_turn(turn: Turn) -> float | None:
    """The part of a response before Phonic began to answer, in ms; None if it is not known, or negative."""
    first_audio, response = turn[2], turn[6]
    if response is None or first_audio is None or first_audio > response:
        return None
    return response - first_audio


def role_of(turn: Turn) -> Role:
    """The role that a turn had when it was first seen."""
    return _ROLES[turn[0] & _ROLE_MASK]


def failure_of(call: ToolCall) -> ToolFailure | None:
    """Why a tool call of a record failed (API 2.3); None if it did not."""
    if call.timed_out:
        return ToolFailure.TIMEOUT
    status = call.response_status_code or 0
    if 400 <= status < 500:
        return ToolFailure.HTTP_4XX
    if 500 <= status < 600:
        return ToolFailure.HTTP_5XX
    return ToolFailure.ERROR if call.error_message else None


def reason_of(value: float) -> Rejection:
    """Why a number that is out of its range is rejected."""
    if value != value or value in (inf, -inf):
        return Rejection.NOT_FINITE
    return Rejection.NEGATIVE if value < 0 else Rejection.TOO_LARGE
