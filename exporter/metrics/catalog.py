"""Pure: every metric family, once: name, kind, help, labels, buckets and how it is derived.

Rules for this file: it is data. docs/metrics.md, the dashboards' tests and the page are all read from it,
so a family that is not here does not exist. Counters are named without ``_total``, as OpenMetrics does.
Labels that are chosen with ``--metrics.labels`` come before a family's own labels.
"""

from collections.abc import Iterator
from enum import Enum, StrEnum
from math import prod

import attrs

from ..enums import (
    ERROR_ENDINGS,
    Drift,
    EndedBy,
    FeedError,
    Field,
    Invalid,
    Lost,
    MessageType,
    Reconciled,
    Rejection,
    ReloadedFile,
    Request,
    Reset,
    RestError,
    Role,
    Skipped,
    Task,
    ToolFailure,
    UnknownWord,
    WatcherState,
)

LABEL_CHOICES = ("project", "agent", "origin", "is_test", "call_provider", "language", "model")

# Dense where voice is felt: 0.2 to 0.5 s is a natural gap, above 1 s broken; published objectives sit at
# 0.8, 1.5, 3, 3.5, 5, 7, 8, 10 and 15 s, and an honest ratio needs a boundary exactly at the objective.
# 20, 30 and 60 s tell a slow answer from a caller who waits for nothing.
RESPONSE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1, 1.2, 1.5, 2, 2.5, 3, 3.5, 5, 7, 8, 10, 15, 20, 30, 60)
GENERATION_BUCKETS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 3, 5, 10)
# Dispatch and queueing inside the vendor: tens of milliseconds when healthy, seconds when it queues.
MODEL_INPUT_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5)
TURN_DURATION_BUCKETS = (0.25, 0.5, 1, 2, 3, 5, 8, 13, 20, 30, 60, 120)
CONVERSATION_DURATION_BUCKETS = (5, 10, 30, 60, 120, 180, 300, 600, 900, 1200, 1800, 2700, 3600, 7200)
# From a healthy answer to the time-outs.
REQUEST_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
TURNS_BUCKETS = (1, 2, 3, 5, 8, 13, 20, 30, 50, 80, 130, 200)


class Kind(StrEnum):
    """Metric type as the exposition formats spell it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Scope(Enum):
    """Whose numbers a family holds, and so how long they live."""

    CONVERSATIONS = "conversations"  # carries L; sums for ever; in the checkpoint
    COUNTED = "counted"  # no L, but guarded by progress like the above; in the checkpoint
    PROCESS = "process"  # what this process did; starts at 0 with it
    STATE = "state"  # read from its owner at each scrape
    LIVE = "live"  # one live conversation; gone when it ends


@attrs.frozen(kw_only=True)
class Family:
    """One metric family. ``values`` lists, label by label, the closed sets of its own ``labels``."""

    name: str
    kind: Kind
    scope: Scope
    help: str
    derived: str
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def sample_name(self) -> str:
        """The name people query: with ``_total`` for a counter."""
        return f"{self.name}_total" if self.kind is Kind.COUNTER else self.name

    def label_names(self, chosen: tuple[str, ...]) -> tuple[str, ...]:
        """All label names of the family's series, ``chosen`` being ``--metrics.labels``."""
        return (*chosen, *self.labels) if self.scope is Scope.CONVERSATIONS else self.labels


def _conversations(name: str, meaning: str, derived: str, **rest: object) -> Family:
    kind = Kind.HISTOGRAM if "buckets" in rest else Kind.COUNTER
    return Family(name=name, kind=kind, scope=Scope.CONVERSATIONS, help=meaning, derived=derived, **rest)  # type: ignore[arg-type]


def _counter(scope: Scope, name: str, meaning: str, derived: str, **labels: tuple[str, ...]) -> Family:
    return Family(
        name=f"phonic_exporter_{name}",
        kind=Kind.COUNTER,
        scope=scope,
        help=meaning,
        derived=derived,
        labels=tuple(labels),
        values=tuple(labels.values()),
    )


def _gauge(name: str, meaning: str, derived: str, *labels: str, scope: Scope = Scope.STATE) -> Family:
    return Family(name=name, kind=Kind.GAUGE, scope=scope, help=meaning, derived=derived, labels=labels)


def _words(words: type[StrEnum]) -> tuple[str, ...]:
    return tuple(word.value for word in words)


# The role "other" gets its series when it is first met: nobody has seen it, and it would cost every
# label set 16 series.
_ROLES = (Role.ASSISTANT.value, Role.USER.value)

CONVERSATIONS = _conversations(
    "phonic_conversations", "Conversations seen, once each.", "first snapshot, or REST record, of an id"
)
CONVERSATIONS_ENDED = _conversations(
    "phonic_conversations_ended",
    "Conversations that ended, by what ended them.",
    "`ended_by` of REST, else `end_reason` of the live feed, else `unknown`",
    labels=("ended_by",),
    values=(_words(EndedBy),),
)
CONVERSATION_ERRORS = _conversations(
    "phonic_conversation_errors",
    "Conversations that ended in an error.",
    "`ended_by` is `error` or one of `configuration_endpoint_*`",
    labels=("reason",),
    values=(tuple(word.value for word in ERROR_ENDINGS),),
)
CONVERSATION_DURATION = _conversations(
    "phonic_conversation_duration_seconds",
    "Length of ended conversations: duration_ms of the whole conversation, from its start to its end.",
    "final `duration_ms`, at the end",
    buckets=CONVERSATION_DURATION_BUCKETS,
)
CONVERSATION_TURNS = _conversations(
    "phonic_conversation_turns",
    "Number of turns of ended conversations.",
    "turns seen by the end",
    buckets=TURNS_BUCKETS,
)
TURNS = _conversations(
    "phonic_turns",
    "Turns, each counted when first seen.",
    "`items[]`, identity (`id`, `item_idx`)",
    labels=("role",),
    values=(_ROLES,),
)
TURN_DURATION = _conversations(
    "phonic_turn_duration_seconds",
    "Length of settled turns: items[].duration_ms, from the first to the last audio of the turn.",
    "`items[].duration_ms` once a later turn exists or the conversation has ended",
    labels=("role",),
    values=(_ROLES,),
    buckets=TURN_DURATION_BUCKETS,
)
MODEL_GENERATION = _conversations(
    "phonic_turn_model_generation_seconds",
    "Model generation of assistant turns as Phonic reports it: timings.model_generation_time, "
    "from the model's input to its first audio.",
    "`timings.model_generation_time`, first valid value",
    buckets=GENERATION_BUCKETS,
)
FIRST_AUDIO = _conversations(
    "phonic_turn_first_audio_seconds",
    "First audio of assistant turns as Phonic reports it: timings.phonic_api_output_to_first_audio_chunk, "
    "from API output to the first audio chunk inside Phonic; what the caller feels is "
    "phonic_turn_response_seconds.",
    "`timings.phonic_api_output_to_first_audio_chunk`, first valid value",
    buckets=GENERATION_BUCKETS,
)
MODEL_INPUT = _conversations(
    "phonic_turn_model_input_seconds",
    "Hand-over to the model as Phonic reports it: timings.phonic_api_output_to_modal_input, "
    "from API output to the model's input.",
    "`timings.phonic_api_output_to_modal_input`, first valid value",
    buckets=MODEL_INPUT_BUCKETS,
)
RESPONSE = _conversations(
    "phonic_turn_response_seconds",
    "Silence the caller hears: from the end of the user's turn (started_at + duration_ms) "
    "to started_at of the assistant's next turn.",
    "assistant `started_at` - (user `started_at` + `duration_ms`), neighbours by index; "
    "`analysis.latencies_ms` where the conversation was never watched",
    buckets=RESPONSE_BUCKETS,
)
OVERLAPS = _conversations(
    "phonic_turn_overlaps",
    "Assistant turns that started before the user's turn ended; they have no response time.",
    "response below 0",
)
SILENT_TURNS = _conversations(
    "phonic_silent_turns",
    "Turns in which the assistant chose not to respond.",
    "`items[].assistant_chose_not_to_respond`, when first true",
)
INTERRUPTIONS = _conversations(
    "phonic_interruptions",
    "Interruptions of ended conversations: analysis.interruptions_count.",
    "REST `analysis.interruptions_count`, after the end",
)
TOOL_CALLS = _conversations(
    "phonic_tool_calls",
    "Tool calls, each counted when its id is first seen.",
    "`items[].tool_call_ids` live, `items[].tool_calls[].id` in REST",
)
TOOL_CALL_FAILURES = _conversations(
    "phonic_tool_call_failures",
    "Tool calls of ended conversations that failed.",
    "REST `tool_calls[]`: `timed_out`, `response_status_code`, `error_message`, after the end",
    labels=("reason",),
    values=(_words(ToolFailure),),
)
CONVERSATIONS_LIVE = _gauge(
    "phonic_conversations_live",
    "Conversations being watched and live now.",
    "watched conversations that have sent a snapshot and not ended",
    scope=Scope.CONVERSATIONS,
)

AGENT_INFO = _gauge(
    "phonic_agent_info",
    "Agents known, to join names to ids; always 1.",
    "`agent` of snapshots, REST `/agents`",
    "project",
    "agent",
    "agent_id",
)
PROJECT_ACTIVE = _gauge(
    "phonic_project_conversations_active",
    "Conversations in progress in the project, as Phonic counts them.",
    "REST `/projects` `active_conversations`",
    "project",
)
PROJECT_LIMIT = _gauge(
    "phonic_project_conversations_limit",
    "Most conversations the project may have at once; absent where the workspace's limit applies.",
    "REST `/projects` `max_active_conversations`",
    "project",
)
WORKSPACE_ACTIVE = _gauge(
    "phonic_workspace_conversations_active",
    "Conversations in progress in the workspace, as Phonic counts them.",
    "REST `/workspace` `active_conversations`",
)
WORKSPACE_LIMIT = _gauge(
    "phonic_workspace_conversations_limit",
    "Most conversations the workspace may have at once.",
    "REST `/workspace` `max_active_conversations`",
)
UP = _gauge(
    "phonic_up",
    "1 if the last request to Phonic's REST API was answered, 0 if it failed; absent without REST.",
    "REST",
)

LIVE_INFO = _gauge(
    "phonic_conversation_live_info",
    "A live conversation and whose it is, to join with the other live metrics; always 1.",
    "latest snapshot",
    "conversation_id",
    "project",
    "agent",
    "origin",
    scope=Scope.LIVE,
)


def _live(name: str, meaning: str, derived: str) -> Family:
    return _gauge(f"phonic_conversation_live_{name}", meaning, derived, "conversation_id", scope=Scope.LIVE)


LIVE_TURNS = _live("turns", "Turns of the live conversation so far.", "turns seen")
LIVE_DURATION = _live(
    "duration_seconds", "Length of the live conversation at its latest snapshot.", "latest `duration_ms`"
)
LIVE_GENERATION = _live(
    "model_generation_seconds",
    "Model generation of the latest assistant turn that has one.",
    "latest valid `timings.model_generation_time`",
)
LIVE_FIRST_AUDIO = _live(
    "first_audio_seconds",
    "First audio of the latest assistant turn that has one.",
    "latest valid `timings.phonic_api_output_to_first_audio_chunk`",
)
LIVE_LAST_UPDATE = _live(
    "last_update_timestamp_seconds",
    "When the latest snapshot of the live conversation was received, Unix time.",
    "arrival of the latest snapshot",
)
LIVE_WAITING_SINCE = _live(
    "waiting_since_timestamp_seconds",
    "When the user's turn ended that no answer has followed yet, as far as the latest snapshot tells, Unix time "
    "by Phonic's clock; absent while nobody waits and while the feed is lost.",
    "last turn is a user turn: its `started_at` + `duration_ms`",
)

BUILD_INFO = _gauge(
    "phonic_exporter_build_info", "Version of the exporter; always 1.", "package", "version", "pythonversion"
)
WATCHERS = _gauge("phonic_exporter_watchers", "Watcher tasks by what they are doing.", "supervisor", "state")
UPDATES = _counter(Scope.PROCESS, "updates", "Snapshots received (conversation-updated messages).", "live feed")
UPDATE_BYTES = _counter(Scope.PROCESS, "update_bytes", "Size of the snapshots received.", "live feed")
UPDATES_SUPERSEDED = _counter(
    Scope.PROCESS,
    "updates_superseded",
    "Snapshots not evaluated because a newer one was already waiting.",
    "live feed",
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
    "Messages that could not be used at all.",
    "decoding",
    reason=_words(Invalid),
)
REJECTED_VALUES = _counter(
    Scope.COUNTED,
    "rejected_values",
    "Values inside messages that were not used, once for each turn and reason.",
    "validation of each value",
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
    "Watchers that met a defect of the exporter and were restarted.",
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
    reason=_words(Lost),
)
TURNS_REVISED = _counter(
    Scope.COUNTED,
    "turns_revised",
    "Values of turns that changed after they had been observed, once for each turn and field.",
    "comparison with what was observed",
)
TURNS_SKIPPED = _counter(
    Scope.COUNTED,
    "turns_skipped",
    "Elements of items that were not counted as a turn.",
    "not an object, or a second one with the same index",
    reason=_words(Skipped),
)
LABEL_VALUES_FOLDED = _counter(
    Scope.PROCESS,
    "label_values_folded",
    "Conversations whose label value became __other__ at a limit (label_set: the limit on combinations).",
    "`--metrics.label-limit`, `--metrics.label-set-limit`",
    label=(*LABEL_CHOICES, "label_set"),
)
UNKNOWN_FIELDS = _counter(
    Scope.PROCESS,
    "unknown_fields",
    "Fields in messages that the exporter does not know: Phonic's schema has changed.",
    "first snapshot of each connection; timings of each turn",
    object=_words(Drift),
)
UNKNOWN_WORDS = _counter(
    Scope.PROCESS,
    "unknown_words",
    "Enumerated values that the exporter does not know and shows as other.",
    "`role`, `ended_by`, `origin`",
    field=_words(UnknownWord),
)
DISCOVERY_LAST_SUCCESS = _gauge(
    "phonic_exporter_discovery_last_success_timestamp_seconds",
    "When discovery last completed, Unix time; absent before.",
    "discovery",
)
DISCOVERY_ERRORS = _counter(
    Scope.PROCESS,
    "discovery_errors",
    "REST requests that failed.",
    "status, time-out, body",
    reason=_words(RestError),
)
DISCOVERY_DURATION = _gauge(
    "phonic_exporter_discovery_duration_seconds", "How long the last round of discovery took.", "discovery"
)
DISCOVERED = _gauge(
    "phonic_exporter_discovery_found_conversations",
    "Live conversations that the last round of discovery found; compare phonic_project_conversations_active.",
    "list rows without `ended_at`",
    "project",
)
REQUESTS = _counter(
    Scope.PROCESS,
    "requests",
    "REST requests sent, repetitions included, by what is asked for.",
    "REST",
    request=_words(Request),
)
REQUEST_DURATION = Family(
    name="phonic_exporter_request_duration_seconds",
    kind=Kind.HISTOGRAM,
    scope=Scope.PROCESS,
    help="How long REST requests took, without their wait in the queue, by what is asked for.",
    derived="REST",
    labels=("request",),
    values=(_words(Request),),
    buckets=REQUEST_BUCKETS,
)
REQUESTS_WAITING = _gauge(
    "phonic_exporter_requests_waiting",
    "REST requests that wait for their turn; absent without REST.",
    "`--phonic.requests-per-second`, Phonic's 429 and `Retry-After`",
)
REQUESTS_WAITING_SINCE = _gauge(
    "phonic_exporter_requests_waiting_since_timestamp_seconds",
    "When the REST request that waits longest began to, Unix time; absent while none waits.",
    "the same",
)
REQUESTS_ALLOWED = _gauge(
    "phonic_exporter_requests_per_second_allowed",
    "REST requests that may be sent in a second: the setting, less for a while after a 429; absent without REST.",
    "halved by each 429, growing by 1 a second",
)
CLOCK_OFFSET = _gauge(
    "phonic_exporter_clock_offset_seconds",
    "How far this machine's clock is ahead of Phonic's; absent before the first reply.",
    "REST `Date` header",
)
TASK_CRASHES = _counter(
    Scope.PROCESS,
    "task_crashes",
    "Defects of the exporter that tasks beside the watchers met and went on after.",
    "tasks",
    task=_words(Task),
)
RECONCILIATIONS = _counter(
    Scope.PROCESS,
    "reconciliations",
    "REST reads that complete an ended conversation, by how they went.",
    "REST `/conversations/{id}`",
    result=_words(Reconciled),
)
CHECKPOINT_LAST_SUCCESS = _gauge(
    "phonic_exporter_checkpoint_last_success_timestamp_seconds",
    "When the checkpoint last held all there was to save, Unix time; absent before.",
    "checkpoint",
)
CHECKPOINT_ERRORS = _counter(
    Scope.PROCESS, "checkpoint_errors", "Checkpoints that could not be written or read.", "checkpoint"
)
CHECKPOINT_RESETS = _counter(
    Scope.PROCESS,
    "checkpoint_resets",
    "Families or files of a checkpoint that were not taken over at start.",
    "restore",
    reason=_words(Reset),
)
CHECKPOINT_SIZE = _gauge("phonic_exporter_checkpoint_size_bytes", "Size of the checkpoint file.", "checkpoint")
PAGES_COMMITTED = _gauge(
    "phonic_exporter_pages_committed",
    "1 while pages show what the state file holds; 0 while it has not been written for 30 s and pages show "
    "numbers "
    "that a crash would lose; absent without a state file.",
    "checkpoint",
)
COMMIT_WAIT = _gauge(
    "phonic_exporter_commit_wait_seconds",
    "How long the previous scrape waited for what was counted to be written.",
    "scrape",
)
LABEL_SETS_HELD = _gauge(
    "phonic_exporter_label_sets_held",
    "Groups of new series that are shown at 0 until Prometheus has seen them so.",
    "`--metrics.hold-new-series`",
)
CREDENTIAL_REFUSED = _gauge(
    "phonic_exporter_credential_refused",
    "1 while Phonic's REST API refuses the API key and no feed is opened, else 0; absent without REST.",
    "REST status 401 or 403",
)
RELOAD_SUCCESSFUL = _gauge(
    "phonic_exporter_config_last_reload_successful",
    "1 if the file could be used when it was last read, 0 if the exporter keeps what it had.",
    "files that are read again when they change",
    "file",
)
RELOAD_TIMESTAMP = _gauge(
    "phonic_exporter_config_last_reload_success_timestamp_seconds",
    "When the file was last read successfully, Unix time.",
    "files that are read again when they change",
    "file",
)
SLO_RESPONSE = _gauge(
    "phonic_exporter_slo_response_seconds",
    "Response time objective of this exporter; a bucket boundary of phonic_turn_response_seconds.",
    "`--metrics.slo-response`",
)
LABEL_SETS = _gauge(
    "phonic_exporter_label_sets", "Combinations of label values that have series of their own.", "store"
)
EVENT_LOOP_LAG = _gauge(
    "phonic_exporter_event_loop_lag_seconds",
    "Largest lateness of a timer in the last minute: how long everything on the event loop had to wait.",
    "time between two waits for I/O",
)
RENDER_DURATION = _gauge(
    "phonic_exporter_render_duration_seconds", "How long rendering the previous page took.", "scrape"
)

# Closed label values of gauges that their owners fill at each scrape.
STATE_VALUES: dict[str, tuple[str, ...]] = {
    WATCHERS.name: _words(WatcherState),
    RELOAD_SUCCESSFUL.name: _words(ReloadedFile),
    RELOAD_TIMESTAMP.name: _words(ReloadedFile),
}


def _families() -> Iterator[Family]:
    for value in list(globals().values()):
        if isinstance(value, Family):
            yield value


CATALOG: tuple[Family, ...] = tuple(_families())
"""All families, in the order of the page."""


def series_of(scope: Scope) -> int:
    """How many series a label set (`Scope.CONVERSATIONS`) or a live conversation (`Scope.LIVE`) has at most.

    A histogram has one for each bucket, infinity included, its sum and its count.
    """
    return sum(
        prod(map(len, family.values)) * (len(family.buckets) + 3 if family.kind is Kind.HISTOGRAM else 1)
        for family in CATALOG
        if family.scope is scope
    )
