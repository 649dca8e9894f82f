"""Pure: whether the end of a conversation is counted, and what it adds (semantics 7).

The live feed says only that a conversation is over. Who ended it, interruptions and failures of tools are in its
REST record (API 2.2, 2.3), which is read once after the end. A conversation that was never watched is counted from
its record alone.
"""

from typing import Protocol

import attrs

from ..enums import ERROR_ENDINGS, EndedBy, Field, Lost, ToolFailure
from ..phonic.schema import Conversation, Snapshot, ToolCall
from .derive import LONGEST_TIMING_MS, Progress, derive_record, ended_by, parse_time, reason_of, settle
from .increments import CONVERSATION, UNKNOWN_ENDED_BY, Increment, Measure, rejected

MAX_INTERRUPTIONS = 100_000  # of one conversation; more are rejected


@attrs.frozen(kw_only=True)
class End:
    """What is known of an ended conversation.

    ``record``: its REST record, None if there is none. ``lost``: why its timings were never seen; None if it was
    watched.
    """

    record: Snapshot | None
    lost: Lost | None = None


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


def finish(progress: Progress, end: End) -> list[Increment]:
    """What the end of a conversation adds to ``progress``.

    That is: what the record has of its turns (`derive_record`), remembered durations (`settle`), the end itself,
    and what only the record has. The caller calls this once for each conversation, remembers that it did
    (semantics 9), and may forget the progress.
    """
    increments: list[Increment] = []
    record = end.record.conversation if end.record else None
    if end.record is not None:
        progress, increments = derive_record(progress, end.record, was_watched=end.lost is None)
    elif not progress.seen:
        increments.append(CONVERSATION)
    increments += settle(progress)
    increments += _the_end(progress, record)
    if record is not None:
        increments += _interruptions(record)
        increments += _tool_failures(record)
        if end.lost is not None:
            increments += _reported_latencies(record)
    if end.lost is not None:
        increments.append(((Measure.LOST, end.lost), 1))
    return increments


def _the_end(progress: Progress, record: Conversation | None) -> list[Increment]:
    word = (record and ended_by(record)) or progress.end_reason or EndedBy.UNKNOWN
    increments: list[Increment] = [((Measure.ENDED, word), 1)]
    if word is EndedBy.OTHER:
        increments.append(UNKNOWN_ENDED_BY)
    if word in ERROR_ENDINGS:
        increments.append(((Measure.ERROR, word), 1))
    if progress.duration_ms is not None:
        increments.append(((Measure.CONVERSATION_DURATION,), progress.duration_ms / 1000))
    increments.append(((Measure.CONVERSATION_TURNS,), len(progress.turns)))
    return increments


def _interruptions(record: Conversation) -> list[Increment]:
    count = (record.analysis and record.analysis.interruptions_count) or 0
    if not 0 <= count <= MAX_INTERRUPTIONS:
        return [rejected(Field.INTERRUPTIONS, reason_of(count))]
    return [((Measure.INTERRUPTIONS,), count)] if count else []


def _tool_failures(record: Conversation) -> list[Increment]:
    increments: list[Increment] = []
    failed: set[str] = (
        set()
    )  # ids: a record may have a call in two turns, the one that made it and the one that used it
    for call in (call for item in record.items or () for call in item.tool_calls or ()):
        failure = _failure(call)
        if failure is not None and call.id not in failed:
            increments.append(((Measure.TOOL_FAILURE, failure), 1))
            if call.id:
                failed.add(call.id)
    return increments


def _failure(call: ToolCall) -> ToolFailure | None:
    if call.timed_out:
        return ToolFailure.TIMEOUT
    status = call.response_status_code or 0
    if 400 <= status < 500:
        return ToolFailure.HTTP_4XX
    if 500 <= status < 600:
        return ToolFailure.HTTP_5XX
    return ToolFailure.ERROR if call.error_message else None


def _reported_latencies(record: Conversation) -> list[Increment]:
    increments: list[Increment] = []
    for latency in (record.analysis and record.analysis.latencies_ms) or ():
        if 0 <= latency <= LONGEST_TIMING_MS:
            increments.append(((Measure.RESPONSE,), latency / 1000))
        else:
            increments.append(rejected(Field.RESPONSE, reason_of(latency)))
    return increments
