"""Pure: an example query and a stability word for each metric family, by the section of ``metrics.md``.

This file is data. A family without an entry here has no place in the documentation, and a test fails; so does one
whose query does not parse or names a metric or label that does not exist.
"""

from enum import StrEnum
from typing import Final

import attrs


class Stability(StrEnum):
    """How far a metric's name, type, labels and meaning can be relied on."""

    STABLE = "stable"
    EXPERIMENTAL = "experimental"


@attrs.frozen
class Example:
    """What a query answers, and the query."""

    answers: str
    query: str
    stability: Stability = Stability.STABLE


def _experimental(answers: str, query: str) -> Example:
    return Example(answers, query, Stability.EXPERIMENTAL)


CONVERSATIONS: Final = {
    "phonic_conversations": Example(
        "Conversations that began in the last hour, by agent.",
        "sum by (project, agent) (increase(phonic_conversations_total[1h]))",
    ),
    "phonic_conversations_ended": Example(
        "What ended conversations in the last hour.",
        "sum by (ended_by) (increase(phonic_conversations_ended_total[1h])) > 0",
    ),
    "phonic_conversation_errors": Example(
        "Share of conversations that end in an error, by agent.",
        "sum by (project, agent) (rate(phonic_conversation_errors_total[15m]))\n"
        "/ sum by (project, agent) (rate(phonic_conversations_ended_total[15m]))",
    ),
    "phonic_conversation_duration_seconds": Example(
        "Length below which 9 of 10 conversations stay.",
        "histogram_quantile(0.9, sum by (le) (rate(phonic_conversation_duration_seconds_bucket[1h])))",
    ),
    "phonic_conversation_turns": Example(
        "Mean number of turns of a conversation, by agent.",
        "sum by (agent) (rate(phonic_conversation_turns_sum[1h]))\n"
        "/ sum by (agent) (rate(phonic_conversation_turns_count[1h]))",
    ),
    "phonic_conversation_greeting_seconds": _experimental(
        "95th percentile of the time until the first word, by agent.",
        "histogram_quantile(0.95, sum by (agent, le) (rate(phonic_conversation_greeting_seconds_bucket[1h])))",
    ),
    "phonic_conversation_hangup_wait_seconds": _experimental(
        "Callers in the last hour who hung up after more than 5 s without an answer, by agent.",
        "sum by (project, agent) (increase(phonic_conversation_hangup_wait_seconds_count[1h])\n"
        '- ignoring (le) increase(phonic_conversation_hangup_wait_seconds_bucket{le="5.0"}[1h]))',
    ),
    "phonic_interruptions": Example(
        "Interruptions for each conversation that ended, by agent.",
        "sum by (agent) (rate(phonic_interruptions_total[1h]))\n"
        "/ sum by (agent) (rate(phonic_conversations_ended_total[1h]))",
    ),
    "phonic_conversations_live": Example(
        "Conversations going on now, by agent.", "sum by (project, agent) (phonic_conversations_live)"
    ),
}

TURNS: Final = {
    "phonic_turns": Example("Turns a second, by who speaks.", "sum by (role) (rate(phonic_turns_total[5m]))"),
    "phonic_turn_duration_seconds": Example(
        "Median length of what the assistant says.",
        'histogram_quantile(0.5, sum by (le) (rate(phonic_turn_duration_seconds_bucket{role="assistant"}[15m])))',
    ),
    "phonic_turn_model_generation_seconds": Example(
        "95th percentile of model generation, by agent.",
        "histogram_quantile(0.95, sum by (agent, le) (rate(phonic_turn_model_generation_seconds_bucket[15m])))",
    ),
    "phonic_turn_first_audio_seconds": Example(
        "95th percentile of first audio inside Phonic, by agent.",
        "histogram_quantile(0.95, sum by (agent, le) (rate(phonic_turn_first_audio_seconds_bucket[15m])))",
    ),
    "phonic_turn_model_input_seconds": Example(
        "Mean time of the hand-over to the model.",
        "sum(rate(phonic_turn_model_input_seconds_sum[15m]))\n"
        "/ sum(rate(phonic_turn_model_input_seconds_count[15m]))",
    ),
    "phonic_turn_response_seconds": Example(
        "Share of turns answered later than 1.5 s, by agent.",
        "sum by (project, agent) (rate(phonic_turn_response_seconds_count[15m])\n"
        '- ignoring (le) rate(phonic_turn_response_seconds_bucket{le="1.5"}[15m]))\n'
        "/ sum by (project, agent) (rate(phonic_turn_response_seconds_count[15m]))",
    ),
    "phonic_turn_overlaps": Example(
        "Share of assistant turns that begin before the user has finished.",
        'sum(rate(phonic_turn_overlaps_total[1h])) / sum(rate(phonic_turns_total{role="assistant"}[1h]))',
    ),
    "phonic_silent_turns": Example(
        "Turns an hour in which the assistant chose not to respond, by agent.",
        "sum by (agent) (increase(phonic_silent_turns_total[1h]))",
    ),
    "phonic_turn_end_of_turn_seconds": _experimental(
        "95th percentile of the part of a response before Phonic begins to answer, by agent.",
        "histogram_quantile(0.95, sum by (agent, le) (rate(phonic_turn_end_of_turn_seconds_bucket[15m])))",
    ),
    "phonic_slow_turns": _experimental(
        "Slow turns of the last hour by their largest part.",
        "sum by (stage) (increase(phonic_slow_turns_total[1h]))",
    ),
    "phonic_turn_tool_response_seconds": _experimental(
        "Share of the responses longer than 1.5 s that have to do with tools.",
        "sum(rate(phonic_turn_tool_response_seconds_count[1h])\n"
        '- ignoring (le) rate(phonic_turn_tool_response_seconds_bucket{le="1.5"}[1h]))\n'
        "/ sum(rate(phonic_turn_response_seconds_count[1h])\n"
        '- ignoring (le) rate(phonic_turn_response_seconds_bucket{le="1.5"}[1h]))',
    ),
    "phonic_turn_user_response_seconds": _experimental(
        "Share of assistant turns after which callers say nothing for more than 3 s, by agent.",
        "sum by (agent) (rate(phonic_turn_user_response_seconds_count[1h])\n"
        '- ignoring (le) rate(phonic_turn_user_response_seconds_bucket{le="3.0"}[1h]))\n'
        "/ sum by (agent) (rate(phonic_turn_user_response_seconds_count[1h]))",
    ),
    "phonic_turn_barge_ins": _experimental(
        "Share of user turns that begin while the assistant still speaks, by agent.",
        "sum by (agent) (rate(phonic_turn_barge_ins_total[1h]))\n"
        '/ sum by (agent) (rate(phonic_turns_total{role="user"}[1h]))',
    ),
}

TOOLS: Final = {
    "phonic_tool_calls": Example(
        "Tool calls for each conversation, by agent.",
        "sum by (agent) (rate(phonic_tool_calls_total[1h]))\n"
        "/ sum by (agent) (rate(phonic_conversations_total[1h]))",
    ),
    "phonic_tool_call_failures": Example(
        "Share of tool calls that fail, by agent and reason.",
        "sum by (agent, reason) (rate(phonic_tool_call_failures_total[1h]))\n"
        "/ on (agent) group_left () sum by (agent) (rate(phonic_tool_calls_total[1h]))",
    ),
    "phonic_tool_calls_completed": _experimental(
        "Calls of each tool in the last hour.", "sum by (tool) (increase(phonic_tool_calls_completed_total[1h]))"
    ),
    "phonic_tool_calls_failed": _experimental(
        "Share of the calls of each tool that fail.",
        "sum by (tool) (rate(phonic_tool_calls_failed_total[1h]))\n"
        "/ sum by (tool) (rate(phonic_tool_calls_completed_total[1h]))",
    ),
}

LIVE: Final = {
    "phonic_conversation_live_info": Example(
        "Live conversations by where they come from.", "count by (origin) (phonic_conversation_live_info)"
    ),
    "phonic_conversation_live_turns": Example(
        "The ten live conversations with the most turns.", "topk(10, phonic_conversation_live_turns)"
    ),
    "phonic_conversation_live_duration_seconds": Example(
        "Live conversations of more than half an hour.", "phonic_conversation_live_duration_seconds > 1800"
    ),
    "phonic_conversation_live_model_generation_seconds": Example(
        "Live conversations whose latest model generation took more than 2 s.",
        "phonic_conversation_live_model_generation_seconds > 2",
    ),
    "phonic_conversation_live_first_audio_seconds": Example(
        "Live conversations whose latest first audio took more than 1 s, with their agents.",
        "(phonic_conversation_live_first_audio_seconds > 1)\n"
        "* on (conversation_id) group_left (project, agent) phonic_conversation_live_info",
    ),
    "phonic_conversation_live_last_update_timestamp_seconds": Example(
        "Seconds since the latest snapshot of each live conversation, at the time of the scrape.",
        "timestamp(phonic_conversation_live_last_update_timestamp_seconds)\n"
        "- phonic_conversation_live_last_update_timestamp_seconds",
    ),
    "phonic_conversation_live_waiting_since_timestamp_seconds": Example(
        "Callers who have been waiting for more than 5 s, by agent.",
        "count by (project, agent) (\n"
        "  (timestamp(phonic_conversation_live_waiting_since_timestamp_seconds)\n"
        "    - phonic_conversation_live_waiting_since_timestamp_seconds > 5)\n"
        "  * on (conversation_id) group_left (project, agent) phonic_conversation_live_info\n)",
    ),
}

REST: Final = {
    "phonic_up": Example("Exporters that cannot reach Phonic's REST API.", "phonic_up == 0"),
    "phonic_agent_info": Example(
        "The ids of agents beside their live conversations.",
        "phonic_conversations_live * on (job, instance, project, agent) group_left (agent_id) phonic_agent_info",
    ),
    "phonic_project_conversations_active": Example(
        "Share of a project's limit that is in use.",
        "phonic_project_conversations_active / phonic_project_conversations_limit",
    ),
    "phonic_project_conversations_limit": Example(
        "Conversations that a project may still begin.",
        "phonic_project_conversations_limit - phonic_project_conversations_active",
    ),
    "phonic_workspace_conversations_active": Example(
        "Most conversations at once in the last day.",
        "max_over_time(phonic_workspace_conversations_active[1d])",
    ),
    "phonic_workspace_conversations_limit": Example(
        "Share of the workspace's limit that is in use.",
        "phonic_workspace_conversations_active / phonic_workspace_conversations_limit",
    ),
    "phonic_exporter_credential_refused": Example(
        "Exporters whose API key Phonic refuses.", "phonic_exporter_credential_refused == 1"
    ),
    "phonic_exporter_discovery_last_success_timestamp_seconds": Example(
        "Seconds since discovery last completed.",
        "time() - phonic_exporter_discovery_last_success_timestamp_seconds",
    ),
    "phonic_exporter_discovery_errors": Example(
        "Failed REST requests in the last 15 minutes, by reason.",
        "sum by (reason) (increase(phonic_exporter_discovery_errors_total[15m])) > 0",
    ),
    "phonic_exporter_discovery_duration_seconds": Example(
        "Longest round of discovery in the last hour.",
        "max_over_time(phonic_exporter_discovery_duration_seconds[1h])",
    ),
    "phonic_exporter_discovery_found_conversations": Example(
        "Conversations in progress that discovery does not see, by project.",
        "phonic_project_conversations_active\n- on (job, instance, project) "
        "phonic_exporter_discovery_found_conversations > 0",
    ),
    "phonic_exporter_requests": Example(
        "REST requests a second, by what is asked for.",
        "sum by (request) (rate(phonic_exporter_requests_total[5m]))",
    ),
    "phonic_exporter_request_duration_seconds": Example(
        "95th percentile of REST requests, by what is asked for.",
        "histogram_quantile(0.95, "
        "sum by (request, le) (rate(phonic_exporter_request_duration_seconds_bucket[15m])))",
    ),
    "phonic_exporter_requests_waiting": _experimental(
        "Most REST requests in the queue in the last hour.",
        "max_over_time(phonic_exporter_requests_waiting[1h])",
    ),
    "phonic_exporter_requests_waiting_since_timestamp_seconds": _experimental(
        "Seconds for which the oldest REST request has been waiting.",
        "time() - phonic_exporter_requests_waiting_since_timestamp_seconds",
    ),
    "phonic_exporter_requests_per_second_allowed": _experimental(
        "Lowest pace in the last hour; below `--phonic.requests-per-second` after a 429.",
        "min_over_time(phonic_exporter_requests_per_second_allowed[1h])",
    ),
    "phonic_exporter_reconciliations": Example(
        "Ended conversations that REST could not complete in the last hour, by result.",
        'sum by (result) (increase(phonic_exporter_reconciliations_total{result!="complete"}[1h]))',
    ),
    "phonic_exporter_clock_offset_seconds": Example(
        "Exporters whose clock differs from Phonic's by more than 2 s.",
        "abs(phonic_exporter_clock_offset_seconds) > 2",
    ),
}

EXPORTER: Final = {
    "phonic_exporter_build_info": Example(
        "Versions that run.", "count by (version, pythonversion) (phonic_exporter_build_info)"
    ),
    "phonic_exporter_slo_response_seconds": Example(
        "The response time objective that an exporter runs with.", "phonic_exporter_slo_response_seconds"
    ),
    "phonic_exporter_watchers": Example("Watchers by state.", "sum by (state) (phonic_exporter_watchers)"),
    "phonic_exporter_watcher_crashes": Example(
        "Defects met by watchers in the last day; report any.",
        "increase(phonic_exporter_watcher_crashes_total[1d]) > 0",
    ),
    "phonic_exporter_task_crashes": Example(
        "Defects met by other tasks in the last day; report any.",
        "sum by (task) (increase(phonic_exporter_task_crashes_total[1d])) > 0",
    ),
    "phonic_exporter_updates": Example("Snapshots a second.", "sum(rate(phonic_exporter_updates_total[5m]))"),
    "phonic_exporter_update_bytes": Example(
        "Mean size of a snapshot, in bytes.",
        "sum(rate(phonic_exporter_update_bytes_total[5m])) / sum(rate(phonic_exporter_updates_total[5m]))",
    ),
    "phonic_exporter_updates_superseded": _experimental(
        "Share of snapshots that a newer one replaced before they were evaluated.",
        "sum(rate(phonic_exporter_updates_superseded_total[5m])) / sum(rate(phonic_exporter_updates_total[5m]))",
    ),
    "phonic_exporter_decodes": _experimental(
        "Share of snapshots that were decoded in full.",
        'sum(rate(phonic_exporter_decodes_total{path="full"}[5m]))\n'
        "/ sum(rate(phonic_exporter_decodes_total[5m]))",
    ),
    "phonic_exporter_messages": Example(
        "Messages a second from live feeds, by type.",
        "sum by (message) (rate(phonic_exporter_messages_total[5m]))",
    ),
    "phonic_exporter_invalid_messages": Example(
        "Messages that could not be used in the last hour, by reason.",
        "sum by (reason) (increase(phonic_exporter_invalid_messages_total[1h])) > 0",
    ),
    "phonic_exporter_rejected_values": Example(
        "Values that were not used in the last hour.",
        "sum by (field, reason) (increase(phonic_exporter_rejected_values_total[1h])) > 0",
    ),
    "phonic_exporter_feed_connects": Example(
        "Live feeds opened a second.", "sum(rate(phonic_exporter_feed_connects_total[5m]))"
    ),
    "phonic_exporter_feed_errors": Example(
        "Feed errors in the last 15 minutes, by reason.",
        "sum by (reason) (increase(phonic_exporter_feed_errors_total[15m])) > 0",
    ),
    "phonic_exporter_conversations_refused": Example(
        "Conversations beyond the watch limit in the last hour.",
        "increase(phonic_exporter_conversations_refused_total[1h])",
    ),
    "phonic_exporter_conversations_lost": Example(
        "Share of conversations whose timings were never seen.",
        "sum(increase(phonic_exporter_conversations_lost_total[1h]))\n"
        "/ sum(increase(phonic_conversations_total[1h]))",
    ),
    "phonic_exporter_turns_revised": Example(
        "Values that Phonic changed after they were observed, in the last hour.",
        "increase(phonic_exporter_turns_revised_total[1h])",
    ),
    "phonic_exporter_turns_skipped": Example(
        "Elements that were not counted as a turn, in the last hour.",
        "sum by (reason) (increase(phonic_exporter_turns_skipped_total[1h])) > 0",
    ),
    "phonic_exporter_unknown_fields": Example(
        "Objects in which Phonic sent unknown fields in the last day.",
        "sum by (object) (increase(phonic_exporter_unknown_fields_total[1d])) > 0",
    ),
    "phonic_exporter_unknown_words": Example(
        "Fields in which Phonic sent unknown words in the last day.",
        "sum by (field) (increase(phonic_exporter_unknown_words_total[1d])) > 0",
    ),
    "phonic_exporter_label_values_folded": Example(
        "Labels that reached their limit in the last day.",
        "sum by (label) (increase(phonic_exporter_label_values_folded_total[1d])) > 0",
    ),
    "phonic_exporter_label_sets": Example(
        "Label sets in use; compare `--metrics.label-set-limit`.", "phonic_exporter_label_sets"
    ),
    "phonic_exporter_label_sets_held": _experimental(
        "Label sets whose series still show 0.", "phonic_exporter_label_sets_held"
    ),
    "phonic_exporter_checkpoint_last_success_timestamp_seconds": Example(
        "Seconds since the state file, or PostgreSQL, last held everything.",
        "time() - phonic_exporter_checkpoint_last_success_timestamp_seconds",
    ),
    "phonic_exporter_checkpoint_errors": Example(
        "Writes of the state file that failed in the last hour.",
        "increase(phonic_exporter_checkpoint_errors_total[1h])",
    ),
    "phonic_exporter_checkpoint_resets": Example(
        "Numbers that a start in the last day did not take over.",
        "sum by (reason) (phonic_exporter_checkpoint_resets_total) > 0",
    ),
    "phonic_exporter_checkpoint_size_bytes": Example(
        "Growth of the state file in a day, in bytes.", "delta(phonic_exporter_checkpoint_size_bytes[1d])"
    ),
    "phonic_exporter_state_write_seconds": _experimental(
        "Share of the writes of the last hour that took longer than 0.1 s.",
        '1 - sum(rate(phonic_exporter_state_write_seconds_bucket{le="0.1"}[1h]))'
        " / sum(rate(phonic_exporter_state_write_seconds_count[1h]))",
    ),
    "phonic_exporter_handover_timings_lost": _experimental(
        "Answers of the last day whose latency nobody knows.",
        "increase(phonic_exporter_handover_timings_lost_total[1d])",
    ),
    "phonic_exporter_shard_held": _experimental(
        "Processes that stand by.", "count(phonic_exporter_shard_held == 0)"
    ),
    "phonic_exporter_shard_lease_epoch": _experimental(
        "How often each shard was taken in the last day.", "changes(phonic_exporter_shard_lease_epoch[1d])"
    ),
    "phonic_exporter_shards": _experimental(
        "Shards that nobody holds.", 'max(phonic_exporter_shards{state="unheld"})'
    ),
    "phonic_exporter_shard_lease_losses": _experimental(
        "Leases lost in the last hour.", "sum by (reason) (increase(phonic_exporter_shard_lease_losses_total[1h]))"
    ),
    "phonic_exporter_pages_committed": Example(
        "Exporters whose pages show more than the state file holds.", "phonic_exporter_pages_committed == 0"
    ),
    "phonic_exporter_commit_wait_seconds": _experimental(
        "Longest wait of a scrape for its write in the last hour.",
        "max_over_time(phonic_exporter_commit_wait_seconds[1h])",
    ),
    "phonic_exporter_config_last_reload_successful": Example(
        "Files that the exporter could not read again.", "phonic_exporter_config_last_reload_successful == 0"
    ),
    "phonic_exporter_config_last_reload_success_timestamp_seconds": Example(
        "Seconds since each file was last read.",
        "time() - phonic_exporter_config_last_reload_success_timestamp_seconds",
    ),
    "phonic_exporter_event_loop_lag_seconds": Example(
        "Longest wait of everything on the event loop in the last hour.",
        "max_over_time(phonic_exporter_event_loop_lag_seconds[1h])",
    ),
    "phonic_exporter_render_duration_seconds": Example(
        "Longest time to render a page in the last hour.",
        "max_over_time(phonic_exporter_render_duration_seconds[1h])",
    ),
}


@attrs.frozen
class Section:
    """A section of ``metrics.md``: its title, what it says first, and its families by name."""

    title: str
    about: str
    examples: dict[str, Example]


SECTIONS: Final = (
    Section(
        "Conversations",
        "Sums over all conversations ever seen. They are kept in the state file and go on after a restart.",
        CONVERSATIONS,
    ),
    Section(
        "Turns",
        "Each turn counts once. The three timings that Phonic reports are exported as received: Phonic's "
        "documentation does not explain them, and their parts need not add up. "
        "`phonic_turn_response_seconds` is measured from the times of the turns and is what the caller hears.",
        TURNS,
    ),
    Section(
        "Tools",
        "Calls of tools are counted while the conversation goes on. Names of tools and failures are known to REST "
        "only, after the end. At most `--metrics.tool-limit` names have series; the others are `__other__`.",
        TOOLS,
    ),
    Section(
        "Live conversations",
        "Gauges for each conversation that is going on, gone from the first page after its end. At most "
        "`--metrics.per-conversation-limit` conversations have them. They show the present, not what the state "
        "file holds.",
        LIVE,
    ),
    Section(
        "Discovery and REST",
        "What Phonic's REST API says about the workspace, and how the requests went. With a session token there "
        "is no REST, and most of these families have no series.",
        REST,
    ),
    Section(
        "The exporter itself",
        "The state of this process, of its feeds and of its state file. `--web.disable-exporter-metrics` leaves "
        "out all `phonic_exporter_*` families but `phonic_exporter_build_info` and "
        "`phonic_exporter_slo_response_seconds`.",
        EXPORTER,
    ),
)
