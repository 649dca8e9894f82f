"""Pure: whether the end of a conversation is counted, and what it adds (semantics 7).

The live feed says only that a conversation is over. Who ended it, interruptions and failures of tools are in its
REST record (API 2.2, 2.3), which is read once after the end. A conversation that was never watched is counted from
its record alone.
"""

from typing import Protocol

import attrs

from ..enums import ERROR_ENDINGS, EndedBy, Field, Lost, Role, Stage, ToolFailure
from ..phonic.schema import Conversation, Snapshot
from .derive import (
    LONGEST_TIMING_MS,
    OBJECTIVE,
    SILENT_FLAG,
    Progress,
    derive_record,
    ended_by,
    failure_of,
    parse_time,
    reason_of,
    role_of,
    settle,
)
from .increments import CONVERSATION, SLOW_TURN, UNKNOWN_ENDED_BY, Increment, Measure, rejected
from .labels import UNKNOWN, label_value

MAX_INTERRUPTIONS = 100_000  # of one conversation; more are rejected


@attrs.frozen(kw_only=True)
class End:
    """What is known of an ended conversation.

    ``record``: its REST record, None if there is none. ``lost``: why its timings were never seen; None if it was
    watched. ``is_followed``: whether its feed was followed to the end, so that no timings were missed.
    """

    record: Snapshot | None
    lost: Lost | None = None
    is_followed: bool = True


@attrs.frozen
class EndDecision:
    """What is to be done about an end.

    ``counts``: whether it is counted. ``lost``: why its timings were never seen; None if they were.
    """

    counts: bool
    lost: Lost | None = None


class Ended(Protocol):
    """A record or list row: when the conversation began and ended, as REST writes it."""

    @property
    def started_at(self) -> str | None: ...

    @property
    def ended_at(self) -> str | None: ...


def decide_end(
    found: Ended | None,
    *,
    seen: bool,
    history_ends: float,
    was_found: bool = True,
    over_limit: bool = False,
) -> EndDecision:
    """Decide whether the end of a conversation is counted. Called for every end before it is.

    The end of a conversation of which a snapshot was counted always is. Any other is not counted if it is history:
    it lies before ``history_ends``, so it was counted earlier or is older than the exporter. Where the time of an
    end cannot be read, the start decides; without that, the end is taken for history.

    ``found``: the record or row that REST has, None if none. ``seen``: whether a snapshot was counted.
    ``history_ends``: Unix time by Phonic's clock, from `retention.history_ends`. ``was_found``: whether REST knows
    the conversation. ``over_limit``: whether the watch limit kept it from being watched.
    """
    if seen:
        return EndDecision(counts=True)
    if found is not None and found.ended_at is not None:
        moment = parse_time(found.ended_at) or parse_time(found.started_at)
        if moment is None or moment < history_ends * 1_000_000:
            return EndDecision(counts=False)
    if not was_found:
        return EndDecision(counts=True, lost=Lost.NOT_FOUND)
    return EndDecision(counts=True, lost=Lost.WATCH_LIMIT if over_limit else Lost.NEVER_LIVE)


def finish(progress: Progress, end: End, *, objective: float = OBJECTIVE) -> tuple[Progress, list[Increment]]:
    """Count the end of a conversation. The caller does this once, and remembers that it did (semantics 9).

    That is: what the record has of its turns (`derive_record`), what was left to the end (`settle`), the end
    itself, and what only the record has. ``objective`` as for `derive.derive`.

    Returns the last progress, which tells of the turns (`seen.seen_turns`), and what the end adds.
    """
    increments: list[Increment] = []
    record = end.record.conversation if end.record else None
    if end.record is not None:
        progress, increments = derive_record(
            progress, end.record, was_watched=end.lost is None, objective=objective
        )
    elif not progress.seen:
        increments.append(CONVERSATION)
    increments += settle(progress)
    word = ended_by_of(progress, record)
    increments += _the_end(progress, word)
    if word in (EndedBy.USER, EndedBy.USER_CANCELED):
        increments += _hangup_wait(progress)
    if record is not None:
        increments += _interruptions(record)
        increments += _tool_calls(record)
        if end.lost is not None:
            increments += _reported_latencies(record, objective)
    if end.lost is not None:
        increments.append(((Measure.LOST, end.lost), 1))
    if not end.is_followed:
        increments += _timings_lost(progress)
    return progress, increments


def ended_by_of(progress: Progress, record: Conversation | None) -> EndedBy:
    """Who ended a conversation: what its record says, else its live feed (semantics 7)."""
    return (record and ended_by(record)) or progress.end_reason or EndedBy.UNKNOWN


def _the_end(progress: Progress, word: EndedBy) -> list[Increment]:
    increments: list[Increment] = [((Measure.ENDED, word), 1)]
    if word is EndedBy.OTHER:
        increments.append(UNKNOWN_ENDED_BY)
    if word in ERROR_ENDINGS:
        increments.append(((Measure.ERROR, word), 1))
    if progress.duration_ms is not None:
        increments.append(((Measure.CONVERSATION_DURATION,), progress.duration_ms / 1000))
    increments.append(((Measure.CONVERSATION_TURNS,), len(progress.turns)))
    return increments


def _timings_lost(progress: Progress) -> list[Increment]:
    """The answers whose timings nobody saw; a record has none."""
    count = sum(
        role_of(turn) is Role.ASSISTANT and not turn[0] & SILENT_FLAG and turn[1] is None
        for turn in progress.turns.values()
    )
    return [((Measure.TIMINGS_LOST,), count)] if count else []


def _hangup_wait(progress: Progress) -> list[Increment]:
    """How long a caller who ended the conversation had waited for an answer (semantics 19)."""
    last = progress.turns[max(progress.turns)] if progress.turns else None
    if last is None or role_of(last) is not Role.USER or last[0] & SILENT_FLAG:
        return []
    duration, start = last[4], last[5]
    if duration is None or start is None or progress.ended is None:
        return []
    wait = progress.ended - start - round(duration * 1000)
    if not 0 <= wait <= LONGEST_TIMING_MS * 1000:
        return [rejected(Field.HANGUP_WAIT, reason_of(wait))]
    return [((Measure.HANGUP_WAIT,), wait / 1_000_000)]


def _interruptions(record: Conversation) -> list[Increment]:
    count = (record.analysis and record.analysis.interruptions_count) or 0
    if not 0 <= count <= MAX_INTERRUPTIONS:
        return [rejected(Field.INTERRUPTIONS, reason_of(count))]
    return [((Measure.INTERRUPTIONS,), count)] if count else []


def _tool_calls(record: Conversation) -> list[Increment]:
    """Tool calls by tool, and those that failed, each once.

    A record may have a call in two turns, the one that made it and the one that used it.
    """
    tools: dict[str | int, str] = {}
    failures: dict[str | int, ToolFailure] = {}
    calls = (call for item in record.items or () for call in item.tool_calls or ())
    for number, call in enumerate(calls):
        identity = call.id or number
        name = label_value((call.tool and call.tool.name) or "")
        tools[identity] = tools.get(identity) or name
        failure = failure_of(call)
        if failure is not None:
            failures.setdefault(identity, failure)
    increments: list[Increment] = []
    for identity, name in tools.items():
        tool = name or UNKNOWN
        increments.append(((Measure.TOOL_COMPLETED, tool), 1))
        failed = failures.get(identity)
        if failed is not None:
            increments.append(((Measure.TOOL_FAILURE, failed), 1))
            increments.append(((Measure.TOOL_FAILED, tool, failed), 1))
    return increments


def _reported_latencies(record: Conversation, objective: float) -> list[Increment]:
    increments: list[Increment] = []
    for latency in (record.analysis and record.analysis.latencies_ms) or ():
        if 0 <= latency <= LONGEST_TIMING_MS:
            increments.append(((Measure.RESPONSE,), latency / 1000))
            if latency / 1000 > objective:
                increments.append(SLOW_TURN[Stage.UNKNOWN])
        else:
            increments.append(rejected(Field.RESPONSE, reason_of(latency)))
    return increments
