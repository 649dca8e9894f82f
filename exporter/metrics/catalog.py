"""Pure: every metric family, once: name, kind, help, labels, buckets, what it measures and how it is derived.

This file is data. The page, the store, the documentation and the dashboards' tests read it; a family that is not
here does not exist. A new metric of conversations is an entry here and the code in `exporter.counting.derive`
(or ``finish``) that yields increments of its `Measure`.

Counters are named without ``_total``, as OpenMetrics does. The labels chosen with ``--metrics.labels`` come
before a family's own labels.
"""

from collections.abc import Iterator, Mapping
from enum import Enum, StrEnum
from math import prod

import attrs

from ..counting.increments import Measure
from ..counting.labels import LABEL_CHOICES, WORKSPACE
from ..enums import (
    ERROR_ENDINGS,
    DecodePath,
    Drift,
    EndedBy,
    FeedError,
    Field,
    Invalid,
    LeaseLoss,
    Lost,
    MessageType,
    Reconciled,
    Rejection,
    ReloadedFile,
    Request,
    Reset,
    RestError,
    Role,
    ShardState,
    Skipped,
    Stage,
    Task,
    ToolFailure,
    UnknownWord,
    WatcherState,
)

# Dense where callers notice a difference: 0.2 to 0.5 s is a natural pause, more than 1 s feels broken. Published
# objectives are 0.8, 1.5, 3, 3.5, 5, 7, 8, 10 and 15 s, and an exact ratio needs a boundary at the objective.
# 20, 30 and 60 s separate slow answers from calls in which no answer came.
RESPONSE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1, 1.2, 1.5, 2, 2.5, 3, 3.5, 5, 7, 8, 10, 15, 20, 30, 60)
GENERATION_BUCKETS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 3, 5, 10)
# Dispatch and queueing inside Phonic: tens of milliseconds normally, seconds when requests queue up.
MODEL_INPUT_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5)
TURN_DURATION_BUCKETS = (0.25, 0.5, 1, 2, 3, 5, 8, 13, 20, 30, 60, 120)
CONVERSATION_DURATION_BUCKETS = (5, 10, 30, 60, 120, 180, 300, 600, 900, 1200, 1800, 2700, 3600, 7200)
# From a normal reply to the timeouts.
REQUEST_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
# A write to a local disk takes milliseconds; the lease of a shard is a few seconds.
WRITE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
TURNS_BUCKETS = (1, 2, 3, 5, 8, 13, 20, 30, 50, 80, 130, 200)


TOOL = "tool"
"""The one own label of a family that is an open set: the names of tools. It is the first of the own labels."""


class Kind(StrEnum):
    """Metric type as the exposition formats spell it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Scope(Enum):
    """What the numbers of a family belong to, and so how long they are kept."""

    CONVERSATIONS = "conversations"  # has the chosen labels; kept in the state file
    COUNTED = "counted"  # has no chosen labels, but is added up from conversations, too; kept in the state file
    PROCESS = "process"  # belongs to this process; starts at 0 with it
    STATE = "state"  # read from the part of the program that it describes, at each scrape
    LIVE = "live"  # belongs to one live conversation; disappears when that ends


@attrs.frozen(kw_only=True)
class Family:
    """One metric family.

    ``values`` lists, label by label, all values of its own ``labels``; none for `TOOL`, an open set that
    ``--metrics.tool-limit`` bounds. ``measure``: the kind of increment that the family adds up; the rest of the
    increment's key are its label values. ``by_workspace``: a gauge that each workspace has, with the label
    `WORKSPACE` before its own where workspaces have names. ``fixed``: kinds of increment whose key has no label
    value, each with the value that it is counted under. ``derived`` says briefly where the numbers come from.
    """

    name: str
    kind: Kind
    scope: Scope
    help: str
    derived: str
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()
    buckets: tuple[float, ...] = ()
    measure: Measure | None = None
    fixed: tuple[tuple[Measure, str], ...] = ()
    by_workspace: bool = False

    @property
    def is_by_tool(self) -> bool:
        """Whether its series appear with the first call of a tool."""
        return TOOL in self.labels

    @property
    def is_of_shard(self) -> bool:
        """Whether it belongs to a shard, and moves with it to another process."""
        return self.scope in (Scope.CONVERSATIONS, Scope.COUNTED, Scope.LIVE)

    @property
    def sample_name(self) -> str:
        """The name in queries: with ``_total`` for a counter."""
        return f"{self.name}_total" if self.kind is Kind.COUNTER else self.name

    def label_names(self, chosen: tuple[str, ...]) -> tuple[str, ...]:
        """All label names of the family's series, ``chosen`` being the labels of conversations."""
        if self.by_workspace and chosen[:1] == (WORKSPACE,):
            return (WORKSPACE, *self.labels)
        return (*chosen, *self.labels) if self.scope is Scope.CONVERSATIONS else self.labels


def _conversations(
    measure: Measure,
    name: str,
    meaning: str,
    derived: str,
    *,
    labels: tuple[str, ...] = (),
    values: tuple[tuple[str, ...], ...] = (),
    buckets: tuple[float, ...] = (),
) -> Family:
    return Family(
        name=name,
        kind=Kind.HISTOGRAM if buckets else Kind.COUNTER,
        scope=Scope.CONVERSATIONS,
        help=meaning,
        derived=derived,
        labels=labels,
        values=values,
        buckets=buckets,
        measure=measure,
    )


def _counter(
    scope: Scope,
    name: str,
    meaning: str,
    derived: str,
    *,
    measure: Measure | None = None,
    fixed: tuple[tuple[Measure, str], ...] = (),
    **labels: tuple[str, ...],
) -> Family:
    return Family(
        name=f"phonic_exporter_{name}",
        kind=Kind.COUNTER,
        scope=scope,
        help=meaning,
        derived=derived,
        labels=tuple(labels),
        values=tuple(labels.values()),
        measure=measure,
        fixed=fixed,
    )


def _gauge(
    name: str,
    meaning: str,
    derived: str,
    *labels: str,
    scope: Scope = Scope.STATE,
    by_workspace: bool = False,
) -> Family:
    return Family(
        name=name,
        kind=Kind.GAUGE,
        scope=scope,
        help=meaning,
        derived=derived,
        labels=labels,
        by_workspace=by_workspace,
    )


def _words(words: type[StrEnum]) -> tuple[str, ...]:
    return tuple(word.value for word in words)


# The series of the role "other" are created when it first occurs: Phonic does not document such a role, and every
# label set would have its series.
_ROLES = (Role.ASSISTANT.value, Role.USER.value)

CONVERSATIONS = _conversations(
    Measure.CONVERSATION,
    "phonic_conversations",
    "Conversations seen, each counted once.",
    "first snapshot, or REST record, of an id",
)
CONVERSATIONS_ENDED = _conversations(
    Measure.ENDED,
    "phonic_conversations_ended",
    "Conversations that ended, by what ended them.",
    "`ended_by` of REST, else `end_reason` of the live feed, else `unknown`",
    labels=("ended_by",),
    values=(_words(EndedBy),),
)
CONVERSATION_ERRORS = _conversations(
    Measure.ERROR,
    "phonic_conversation_errors",
    "Conversations that ended in an error.",
    "`ended_by` is `error` or one of `configuration_endpoint_*`",
    labels=("reason",),
    values=(tuple(word.value for word in ERROR_ENDINGS),),
)
CONVERSATION_DURATION = _conversations(
    Measure.CONVERSATION_DURATION,
    "phonic_conversation_duration_seconds",
    "Length of ended conversations in seconds, from start to end: duration_ms of the conversation.",
    "final `duration_ms`, at the end",
    buckets=CONVERSATION_DURATION_BUCKETS,
)
CONVERSATION_TURNS = _conversations(
    Measure.CONVERSATION_TURNS,
    "phonic_conversation_turns",
    "Number of turns of ended conversations.",
    "turns seen by the end",
    buckets=TURNS_BUCKETS,
)
GREETING = _conversations(
    Measure.GREETING,
    "phonic_conversation_greeting_seconds",
    "Time in seconds from the start of a conversation to its first turn, where that is the assistant's. Phonic "
    "does not say whether the start includes ringing.",
    "`started_at` of turn 0 - `started_at` of the conversation",
    buckets=RESPONSE_BUCKETS,
)
HANGUP_WAIT = _conversations(
    Measure.HANGUP_WAIT,
    "phonic_conversation_hangup_wait_seconds",
    "Time in seconds that callers who hung up after their own turn had waited for an answer; a goodbye is a short "
    "wait.",
    "`ended_at` - end of the last turn, if that is a user turn and `ended_by` is `user` or `user_canceled`",
    buckets=RESPONSE_BUCKETS,
)
TURNS = _conversations(
    Measure.TURN,
    "phonic_turns",
    "Turns, each counted when first seen.",
    "`items[]`, identity (`id`, `item_idx`)",
    labels=("role",),
    values=(_ROLES,),
)
TURN_DURATION = _conversations(
    Measure.TURN_DURATION,
    "phonic_turn_duration_seconds",
    "Length of turns that can no longer grow, in seconds, from the first to the last audio of the turn: "
    "items[].duration_ms.",
    "`items[].duration_ms` once a later turn exists or the conversation has ended",
    labels=("role",),
    values=(_ROLES,),
    buckets=TURN_DURATION_BUCKETS,
)
MODEL_GENERATION = _conversations(
    Measure.MODEL_GENERATION,
    "phonic_turn_model_generation_seconds",
    "Time in seconds from the model's input to its first audio, for assistant turns: "
    "timings.model_generation_time as reported by Phonic.",
    "`timings.model_generation_time`, first valid value",
    buckets=GENERATION_BUCKETS,
)
FIRST_AUDIO = _conversations(
    Measure.FIRST_AUDIO,
    "phonic_turn_first_audio_seconds",
    "Time in seconds from API output to the first audio chunk inside Phonic, for assistant turns: "
    "timings.phonic_api_output_to_first_audio_chunk as reported by Phonic; what the caller waits for is "
    "phonic_turn_response_seconds.",
    "`timings.phonic_api_output_to_first_audio_chunk`, first valid value",
    buckets=GENERATION_BUCKETS,
)
MODEL_INPUT = _conversations(
    Measure.MODEL_INPUT,
    "phonic_turn_model_input_seconds",
    "Time in seconds from API output to the model's input, for assistant turns: "
    "timings.phonic_api_output_to_modal_input as reported by Phonic.",
    "`timings.phonic_api_output_to_modal_input`, first valid value",
    buckets=MODEL_INPUT_BUCKETS,
)
RESPONSE = _conversations(
    Measure.RESPONSE,
    "phonic_turn_response_seconds",
    "Silence that the caller hears before an answer, in seconds: from the end of the user's turn "
    "(started_at + duration_ms) to started_at of the assistant's next turn.",
    "assistant `started_at` - (user `started_at` + `duration_ms`), neighbours by index; "
    "`analysis.latencies_ms` where the conversation was never watched",
    buckets=RESPONSE_BUCKETS,
)
OVERLAPS = _conversations(
    Measure.OVERLAP,
    "phonic_turn_overlaps",
    "Assistant turns that started before the user's turn ended; they have no response time.",
    "response below 0",
)
SILENT_TURNS = _conversations(
    Measure.SILENT_TURN,
    "phonic_silent_turns",
    "Turns in which the assistant chose not to respond.",
    "`items[].assistant_chose_not_to_respond`, when first true",
)
END_OF_TURN = _conversations(
    Measure.END_OF_TURN,
    "phonic_turn_end_of_turn_seconds",
    "The part of a response before Phonic begins to answer, in seconds (detecting that the user has finished, "
    "network): phonic_turn_response_seconds - phonic_turn_first_audio_seconds of the same turn. That the two are "
    "parts of one wait is inferred, not documented.",
    "response - first audio of the same turn, once both are valid",
    buckets=GENERATION_BUCKETS,
)
SLOW_TURNS = _conversations(
    Measure.SLOW_TURN,
    "phonic_slow_turns",
    "Responses longer than --metrics.slo-response, by their largest part; unknown if none of the parts is known.",
    "response above `--metrics.slo-response`; once all timings are there, else at the end",
    labels=("stage",),
    values=(_words(Stage),),
)
TOOL_RESPONSE = _conversations(
    Measure.TOOL_RESPONSE,
    "phonic_turn_tool_response_seconds",
    "Response times, in seconds, of turns that made tool calls or answer a user turn with tool calls; a part of "
    "phonic_turn_response_seconds.",
    "response of a turn, as soon as it or the user turn before it has `tool_call_ids` (REST: `tool_calls`)",
    buckets=RESPONSE_BUCKETS,
)
USER_RESPONSE = _conversations(
    Measure.USER_RESPONSE,
    "phonic_turn_user_response_seconds",
    "Time in seconds from the end of an assistant turn to the start of the user's next turn.",
    "user `started_at` - (assistant `started_at` + `duration_ms`), neighbours by index",
    buckets=RESPONSE_BUCKETS,
)
BARGE_INS = _conversations(
    Measure.BARGE_IN,
    "phonic_turn_barge_ins",
    "User turns that started before the assistant's turn ended. Phonic does not say whether it shortens "
    "duration_ms of a turn that is interrupted; if it does, most are missing here.",
    "user response below 0",
)
INTERRUPTIONS = _conversations(
    Measure.INTERRUPTIONS,
    "phonic_interruptions",
    "Interruptions of ended conversations: analysis.interruptions_count.",
    "REST `analysis.interruptions_count`, after the end",
)
TOOL_CALLS = _conversations(
    Measure.TOOL_CALL,
    "phonic_tool_calls",
    "Tool calls, each counted when its id is first seen.",
    "`items[].tool_call_ids` live, `items[].tool_calls[].id` in REST",
)
TOOL_CALL_FAILURES = _conversations(
    Measure.TOOL_FAILURE,
    "phonic_tool_call_failures",
    "Tool calls of ended conversations that failed.",
    "REST `tool_calls[]`: `timed_out`, `response_status_code`, `error_message`, after the end",
    labels=("reason",),
    values=(_words(ToolFailure),),
)
TOOL_CALLS_COMPLETED = _conversations(
    Measure.TOOL_COMPLETED,
    "phonic_tool_calls_completed",
    "Tool calls in the records of ended conversations, by tool, failed ones included.",
    "REST `tool_calls[]`, by id: `tool.name`, after the end",
    labels=(TOOL,),
    values=((),),
)
TOOL_CALLS_FAILED = _conversations(
    Measure.TOOL_FAILED,
    "phonic_tool_calls_failed",
    "Tool calls of ended conversations that failed, by tool; their sum over tools is "
    "phonic_tool_call_failures_total.",
    "REST `tool_calls[]`: `tool.name`, and the reason as for `phonic_tool_call_failures_total`, after the end",
    labels=(TOOL, "reason"),
    values=((), _words(ToolFailure)),
)
CONVERSATIONS_LIVE = _gauge(
    "phonic_conversations_live",
    "Watched conversations that are live now.",
    "watched conversations that have sent a snapshot and not ended",
    scope=Scope.CONVERSATIONS,
)

AGENT_INFO = _gauge(
    "phonic_agent_info",
    "Known agents, to join agent names with ids; always 1.",
    "`agent` of snapshots, REST `/agents`",
    "project",
    "agent",
    "agent_id",
    by_workspace=True,
)
PROJECT_ACTIVE = _gauge(
    "phonic_project_conversations_active",
    "Conversations in progress in the project, as counted by Phonic.",
    "REST `/projects` `active_conversations`",
    "project",
    by_workspace=True,
)
PROJECT_LIMIT = _gauge(
    "phonic_project_conversations_limit",
    "Largest number of simultaneous conversations in the project; absent where the limit of the workspace"
    " applies.",
    "REST `/projects` `max_active_conversations`",
    "project",
    by_workspace=True,
)
WORKSPACE_ACTIVE = _gauge(
    "phonic_workspace_conversations_active",
    "Conversations in progress in the workspace, as counted by Phonic.",
    "REST `/workspace` `active_conversations`",
    by_workspace=True,
)
WORKSPACE_LIMIT = _gauge(
    "phonic_workspace_conversations_limit",
    "Largest number of simultaneous conversations in the workspace.",
    "REST `/workspace` `max_active_conversations`",
    by_workspace=True,
)
UP = _gauge(
    "phonic_up",
    "1 if the last request to Phonic's REST API was answered, 0 if it failed; absent without REST.",
    "REST",
    by_workspace=True,
)

LIVE_INFO = _gauge(
    "phonic_conversation_live_info",
    "Project, agent and origin of a live conversation, to join with its other metrics; always 1.",
    "latest snapshot",
    "conversation_id",
    "project",
    "agent",
    "origin",
    scope=Scope.LIVE,
    by_workspace=True,
)


def _live(name: str, meaning: str, derived: str) -> Family:
    return _gauge(f"phonic_conversation_live_{name}", meaning, derived, "conversation_id", scope=Scope.LIVE)


LIVE_TURNS = _live("turns", "Turns of the live conversation so far.", "turns seen")
LIVE_DURATION = _live(
    "duration_seconds",
    "Length of the live conversation in seconds, at its latest snapshot.",
    "latest `duration_ms`",
)
LIVE_GENERATION = _live(
    "model_generation_seconds",
    "Model generation time, in seconds, of the latest assistant turn that has one.",
    "latest valid `timings.model_generation_time`",
)
LIVE_FIRST_AUDIO = _live(
    "first_audio_seconds",
    "First audio time, in seconds, of the latest assistant turn that has one.",
    "latest valid `timings.phonic_api_output_to_first_audio_chunk`",
)
LIVE_LAST_UPDATE = _live(
    "last_update_timestamp_seconds",
    "Unix time at which the latest snapshot of the live conversation was received.",
    "arrival of the latest snapshot",
)
LIVE_WAITING_SINCE = _live(
    "waiting_since_timestamp_seconds",
    "End of the latest user turn if no answer has followed it, in Unix time by Phonic's clock; absent "
    "while no caller waits for an answer, and while the feed is lost.",
    "end of the last turn (`started_at` + `duration_ms`) if it is a user turn",
)

BUILD_INFO = _gauge(
    "phonic_exporter_build_info", "Version of the exporter; always 1.", "package", "version", "pythonversion"
)
WATCHERS = _gauge(
    "phonic_exporter_watchers",
    "Watchers by state.",
    "supervisor",
    "state",
    by_workspace=True,
)
UPDATES = _counter(Scope.PROCESS, "updates", "Snapshots received (conversation-updated messages).", "live feed")
UPDATE_BYTES = _counter(Scope.PROCESS, "update_bytes", "Size in bytes of the snapshots received.", "live feed")
UPDATES_SUPERSEDED = _counter(
    Scope.PROCESS,
    "updates_superseded",
    "Snapshots dropped because a newer one of the same conversation was already waiting.",
    "live feed",
)
DECODES = _counter(
    Scope.PROCESS,
    "decodes",
    "Snapshots decoded: in full, or incrementally, without the turns decoded before; nearly all of a long call "
    "should be incremental.",
    "decoding",
    path=_words(DecodePath),
)
MESSAGES = _counter(
    Scope.PROCESS,
    "messages",
    "Messages received from live feeds, by type.",
    "live feed `type`",
    message=_words(MessageType),
)
INVALID_MESSAGES = _counter(
    Scope.PROCESS,
    "invalid_messages",
    "Messages from live feeds that could not be used.",
    "decoding",
    reason=_words(Invalid),
)
REJECTED_VALUES = _counter(
    Scope.COUNTED,
    "rejected_values",
    "Values in messages that were invalid and ignored, counted once per turn, field and reason.",
    "validation of each value",
    measure=Measure.REJECTED,
    field=_words(Field),
    reason=_words(Rejection),
)
FEED_CONNECTS = _counter(Scope.PROCESS, "feed_connects", "Live feeds opened successfully.", "live feed")
FEED_ERRORS = _counter(
    Scope.PROCESS,
    "feed_errors",
    "Live feeds that could not be opened or were lost.",
    "handshake status, close code, silence, error messages",
    reason=_words(FeedError),
)
WATCHER_CRASHES = _counter(
    Scope.PROCESS,
    "watcher_crashes",
    "Watchers that failed because of a bug in the exporter and were restarted.",
    "tasks",
)
CONVERSATIONS_REFUSED = _counter(
    Scope.PROCESS,
    "conversations_refused",
    "Conversations found but not watched because the watch limit was reached.",
    "`--watch.limit`",
)
CONVERSATIONS_LOST = _counter(
    Scope.COUNTED,
    "conversations_lost",
    "Conversations whose per-turn timings were never seen and cannot be fetched later.",
    "ended before a first snapshot arrived",
    measure=Measure.LOST,
    reason=_words(Lost),
)
TURNS_REVISED = _counter(
    Scope.COUNTED,
    "turns_revised",
    "Values of turns that changed after they had been counted, each counted once per turn and field.",
    "comparison with what was observed",
    measure=Measure.REVISED,
)
TURNS_SKIPPED = _counter(
    Scope.COUNTED,
    "turns_skipped",
    "Elements of items that were not counted as a turn.",
    "not an object, or a second one with the same index",
    measure=Measure.SKIPPED,
    reason=_words(Skipped),
)
LABEL_VALUES_FOLDED = _counter(
    Scope.PROCESS,
    "label_values_folded",
    "Conversations (for the label tool: tool calls) whose label value became __other__ at a limit (label_set: the "
    "limit on combinations).",
    "`--metrics.label-limit`, `--metrics.label-set-limit`, `--metrics.tool-limit`",
    label=(*LABEL_CHOICES, TOOL, "label_set"),
)
UNKNOWN_FIELDS = _counter(
    Scope.PROCESS,
    "unknown_fields",
    "Fields in messages that the exporter does not know, a sign that Phonic's schema has changed.",
    "first snapshot of each connection; timings of each turn",
    fixed=((Measure.UNKNOWN_TIMING, Drift.TIMINGS),),
    object=_words(Drift),
)
UNKNOWN_WORDS = _counter(
    Scope.PROCESS,
    "unknown_words",
    "Enumerated values that the exporter does not know and shows as other.",
    "`role`, `ended_by`, `origin`, `intelligence_level`",
    fixed=((Measure.UNKNOWN_ROLE, UnknownWord.ROLE), (Measure.UNKNOWN_ENDED_BY, UnknownWord.ENDED_BY)),
    field=_words(UnknownWord),
)
DISCOVERY_LAST_SUCCESS = _gauge(
    "phonic_exporter_discovery_last_success_timestamp_seconds",
    "Unix time at which discovery last completed; absent before the first time.",
    "discovery",
    by_workspace=True,
)
DISCOVERY_ERRORS = _counter(
    Scope.PROCESS,
    "discovery_errors",
    "REST requests that failed.",
    "status, timeout, body",
    reason=_words(RestError),
)
DISCOVERY_DURATION = _gauge(
    "phonic_exporter_discovery_duration_seconds",
    "Duration of the last discovery pass in seconds.",
    "discovery",
    by_workspace=True,
)
DISCOVERED = _gauge(
    "phonic_exporter_discovery_found_conversations",
    "Live conversations found by the last discovery pass; compare phonic_project_conversations_active.",
    "list rows without `ended_at`",
    "project",
    by_workspace=True,
)
REQUESTS = _counter(
    Scope.PROCESS,
    "requests",
    "REST requests sent, retries included, by kind.",
    "REST",
    request=_words(Request),
)
REQUEST_DURATION = Family(
    name="phonic_exporter_request_duration_seconds",
    kind=Kind.HISTOGRAM,
    scope=Scope.PROCESS,
    help="Duration of REST requests in seconds, without their wait in the queue, by kind.",
    derived="REST",
    labels=("request",),
    values=(_words(Request),),
    buckets=REQUEST_BUCKETS,
)
REQUESTS_WAITING = _gauge(
    "phonic_exporter_requests_waiting",
    "REST requests waiting in the queue; absent without REST.",
    "`--phonic.requests-per-second`, Phonic's 429 and `Retry-After`",
    by_workspace=True,
)
REQUESTS_WAITING_SINCE = _gauge(
    "phonic_exporter_requests_waiting_since_timestamp_seconds",
    "Unix time since which the oldest REST request in the queue has been waiting; absent while the queue "
    "is empty.",
    "`--phonic.requests-per-second`, Phonic's 429 and `Retry-After`",
    by_workspace=True,
)
REQUESTS_ALLOWED = _gauge(
    "phonic_exporter_requests_per_second_allowed",
    "REST requests that may be sent per second: the setting, or less for a while after a 429; absent "
    "without REST.",
    "halved by each 429, growing by 1 a second",
    by_workspace=True,
)
CLOCK_OFFSET = _gauge(
    "phonic_exporter_clock_offset_seconds",
    "How far this machine's clock is ahead of Phonic's, in seconds; absent before the first reply.",
    "REST `Date` header",
    by_workspace=True,
)
TASK_CRASHES = _counter(
    Scope.PROCESS,
    "task_crashes",
    "Failures of tasks other than watchers because of a bug in the exporter; the tasks go on.",
    "tasks",
    task=_words(Task),
)
RECONCILIATIONS = _counter(
    Scope.PROCESS,
    "reconciliations",
    "REST reads that complete an ended conversation, by result.",
    "REST `/conversations/{id}`",
    result=_words(Reconciled),
)
CHECKPOINT_LAST_SUCCESS = _gauge(
    "phonic_exporter_checkpoint_last_success_timestamp_seconds",
    "Unix time at which the state file, or PostgreSQL, last held everything that was to be saved; absent before "
    "the first write.",
    "state file",
)
CHECKPOINT_ERRORS = _counter(
    Scope.PROCESS,
    "checkpoint_errors",
    "Failed reads and writes of the state file, or of the state in PostgreSQL.",
    "state file",
)
CHECKPOINT_RESETS = _counter(
    Scope.PROCESS,
    "checkpoint_resets",
    "Parts of the saved state that were not taken over at start, by reason.",
    "state file, at start",
    reason=_words(Reset),
)
STATE_WRITE = Family(
    name="phonic_exporter_state_write_seconds",
    kind=Kind.HISTOGRAM,
    scope=Scope.PROCESS,
    help="Duration of writes of the state file, or of the state in PostgreSQL, in seconds; failed ones too.",
    derived="state",
    buckets=WRITE_BUCKETS,
)
HANDOVER_TIMINGS_LOST = _counter(
    Scope.COUNTED,
    "handover_timings_lost",
    "Assistant turns of ended conversations whose timings were never seen, because no process followed the "
    "conversation when they were sent: around a restart or a take-over, or while the connection was lost.",
    "assistant turns without timings at the end of a conversation whose feed was not followed to its end",
    measure=Measure.TIMINGS_LOST,
)
SHARD_HELD = _gauge(
    "phonic_exporter_shard_held",
    "1 if this process holds a shard, 0 if it stands by; absent without --state.url.",
    "lease of the shard",
)
SHARD_EPOCH = _gauge(
    "phonic_exporter_shard_lease_epoch",
    "How often the shard that this process holds has been taken; absent while it holds none.",
    "lease of the shard",
    "shard",
)
SHARDS = _gauge(
    "phonic_exporter_shards",
    "Shards by state, as PostgreSQL tells every process; absent without --state.url.",
    "leases of all shards",
    "state",
)
LEASE_LOSSES = _counter(
    Scope.PROCESS,
    "shard_lease_losses",
    "Leases lost: expired because no write succeeded in time (the shard's metrics are hidden until one does), or "
    "taken by another process.",
    "writes of the state in PostgreSQL",
    reason=_words(LeaseLoss),
)
CHECKPOINT_SIZE = _gauge("phonic_exporter_checkpoint_size_bytes", "Size of the state file in bytes.", "state file")
PAGES_COMMITTED = _gauge(
    "phonic_exporter_pages_committed",
    "1 while pages show what the state file, or PostgreSQL, holds; 0 after 30 s without a successful write of the "
    "file, when pages show numbers that a crash would lose; absent without saved state.",
    "state file",
)
COMMIT_WAIT = _gauge(
    "phonic_exporter_commit_wait_seconds",
    "How long the previous scrape waited for a write of the state, in seconds.",
    "scrape",
)
LABEL_SETS_HELD = _gauge(
    "phonic_exporter_label_sets_held",
    "Groups of new series that are held back at 0 until Prometheus has seen them.",
    "`--metrics.hold-new-series`",
)
CREDENTIAL_REFUSED = _gauge(
    "phonic_exporter_credential_refused",
    "1 while Phonic's REST API refuses the API key, so that no feed is opened, else 0; absent without REST.",
    "REST status 401 or 403",
    by_workspace=True,
)
RELOAD_SUCCESSFUL = _gauge(
    "phonic_exporter_config_last_reload_successful",
    "1 if the last read of the file succeeded, 0 if the exporter keeps the previous contents.",
    "files that are read again when they change",
    "file",
)
RELOAD_TIMESTAMP = _gauge(
    "phonic_exporter_config_last_reload_success_timestamp_seconds",
    "Unix time of the last successful read of the file.",
    "files that are read again when they change",
    "file",
)
SLO_RESPONSE = _gauge(
    "phonic_exporter_slo_response_seconds",
    "Objective for the response time in seconds; a bucket boundary of phonic_turn_response_seconds.",
    "`--metrics.slo-response`",
)
LABEL_SETS = _gauge(
    "phonic_exporter_label_sets", "Combinations of label values that have series of their own.", "store"
)
EVENT_LOOP_LAG = _gauge(
    "phonic_exporter_event_loop_lag_seconds",
    "Longest delay of a timer in the last minute, in seconds: how long every task on the event loop had to wait.",
    "time between two waits for I/O",
)
RENDER_DURATION = _gauge(
    "phonic_exporter_render_duration_seconds", "Duration of rendering the previous page, in seconds.", "scrape"
)

# All label values of gauges that are read at each scrape.
STATE_VALUES: dict[str, tuple[str, ...]] = {
    WATCHERS.name: _words(WatcherState),
    RELOAD_SUCCESSFUL.name: _words(ReloadedFile),
    RELOAD_TIMESTAMP.name: _words(ReloadedFile),
    SHARDS.name: (ShardState.HELD.value, ShardState.UNHELD.value, ShardState.DRAINING.value),
}


def _families() -> Iterator[Family]:
    for value in list(globals().values()):
        if isinstance(value, Family):
            yield value


CATALOG: tuple[Family, ...] = tuple(_families())
"""All families, in the order of the page."""

FAMILY_OF: Mapping[Measure, Family] = {family.measure: family for family in CATALOG if family.measure is not None}
"""The family that adds up a kind of increment. The rest of the increment's key are its label values."""

BY_TOOL: tuple[Family, ...] = tuple(family for family in CATALOG if family.is_by_tool)
"""The families with the label `TOOL`."""

FIXED_LABEL_OF: Mapping[Measure, tuple[Family, str]] = {
    measure: (family, value) for family in CATALOG for measure, value in family.fixed
}
"""The family and its label value for each kind of increment whose key has no label value."""


def series_of(scope: Scope) -> int:
    """The most series of a label set (`Scope.CONVERSATIONS`) or of a live conversation (`Scope.LIVE`).

    A histogram has one for each bucket, ``+Inf`` included, one for its sum and one for its count. Those of tools
    (`SERIES_OF_A_TOOL`) come in addition.
    """
    return sum(
        prod(map(len, family.values)) * (len(family.buckets) + 3 if family.kind is Kind.HISTOGRAM else 1)
        for family in CATALOG
        if family.scope is scope
    )


SERIES_OF_A_TOOL = sum(prod(map(len, family.values[1:])) for family in BY_TOOL)
"""The series of each tool in a label set."""
