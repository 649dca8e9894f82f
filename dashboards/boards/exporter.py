"""Pure: the dashboard *Exporter*: whether the other dashboards can be trusted, and the cost of watching."""

from exporter.metrics import catalog as c
from exporter.metrics.catalog import Family

from .. import alerts
from ..frame import Row, board
from ..model import Board, Panel, Query
from ..panels import GREEN, RED, number, rising, trend
from ..promql import SELECTED, age, gauge, largest, occurring, quantile, rate, series
from ..slo import Slo
from .questions import in_progress_where_searched, lost_ratio, per_minute, share

COMMIT_WAIT = c.COMMIT_WAIT.name
LABEL_SETS_HELD = c.LABEL_SETS_HELD.name
REQUESTS_WAITING = c.REQUESTS_WAITING.name
REQUESTS_ALLOWED = c.REQUESTS_ALLOWED.name


def build(slo: Slo) -> Board:
    """Build the rows: state, completeness, losses, cost."""
    return board(
        uid="phonic-exporter",
        title="Phonic / Exporter",
        description="Whether the other dashboards can be trusted now, and what watching costs.",
        since="now-3h",
        rows=[
            Row("Now", _now(slo)),
            Row("Watching", _watching()),
            Row("Trust", _trust(slo)),
            Row("Phonic's REST API", _upstream(slo)),
            Row("Checkpoint and settings", _state(slo)),
            Row("Health", _health(slo)),
            Row("Cost", _cost()),
            Row("Shards (with --state.url)", _shards()),
        ],
    )


def _now(slo: Slo) -> list[Panel]:
    lost = slo.alerts.conversations_lost
    return [
        number(
            "Exporter",
            "Whether Prometheus can scrape every chosen exporter.",
            f"min(up{{{SELECTED}}})",
            "short",
            steps=((None, RED), (1, GREEN)),
            names={"0": ("down", RED), "1": ("up", GREEN)},
            empty="no target",
        ),
        number(
            "Phonic's REST API",
            "Whether the last request to Phonic's REST API was answered.",
            gauge(c.UP, operation="min"),
            "short",
            steps=((None, RED), (1, GREEN)),
            names={"0": ("down", RED), "1": ("up", GREEN)},
            empty="not used",
        ),
        number(
            "Watched of active",
            "Conversations being watched as a share of those in progress by Phonic's count, in the projects that "
            "discovery searches.",
            f"{gauge(c.CONVERSATIONS_LIVE)} / ({in_progress_where_searched()} > 0)",
            "percentunit",
            steps=((None, RED), (1 - slo.alerts.watching_falls_short.ratio, GREEN)),
            empty="no calls",
            decimals=0,
        ),
        number(
            "Discovery age",
            "Seconds since discovery last completed.",
            f"max({age(series(c.DISCOVERY_LAST_SUCCESS))})",
            "s",
            steps=rising(slo.alerts.discovery_stale.seconds / 4, slo.alerts.discovery_stale.seconds),
            empty="off",
            decimals=0,
        ),
        number(
            "Checkpoint age",
            "Seconds since the checkpoint was last written; it rests while nothing changes.",
            f"max({age(series(c.CHECKPOINT_LAST_SUCCESS))})",
            "s",
            empty="off",
            decimals=0,
        ),
        number(
            "Calls lost",
            f"Share of the conversations of the last {lost.window} whose timings were never seen; from "
            f"{share(lost.ratio)} there is an alert.",
            lost_ratio(slo),
            "percentunit",
            steps=rising(lost.ratio / 2, lost.ratio),
            empty="no calls",
            decimals=1,
        ),
        number(
            "Memory",
            "Resident memory of the largest exporter process.",
            f"max(process_resident_memory_bytes{{{SELECTED}}})",
            "bytes",
        ),
        number(
            "Running since",
            "How long the youngest exporter process has been running.",
            f"min({age(_own('process_start_time_seconds'))})",
            "s",
        ),
    ]


def _watching() -> list[Panel]:
    return [
        trend(
            "Watchers",
            "Watcher tasks of all processes by what they are doing. Healthy watchers are live; many connecting or "
            "waiting is a storm.",
            "short",
            Query(f"sum by (state) ({series(c.WATCHERS)})", "{{state}}"),
            width=8,
            stacked=True,
            decimals=0,
        ),
        trend(
            "Coverage",
            "In progress as Phonic counts, found by discovery, and watched: three lines that should lie together. "
            "Only projects that discovery searches.",
            "short",
            Query(in_progress_where_searched(), "in progress"),
            Query(f"sum({gauge(c.DISCOVERED, 'job', 'project', operation='max')})", "found"),
            Query(gauge(c.CONVERSATIONS_LIVE), "watched"),
            width=8,
            decimals=0,
        ),
        trend(
            "Feed errors",
            "Live feeds that could not be opened or were lost, each minute, by reason.",
            "cpm",
            *_reasons(c.FEED_ERRORS, "reason"),
            width=8,
        ),
        trend(
            "Feeds opened",
            "Live feeds opened, each minute. More than conversations start means reconnects.",
            "cpm",
            Query(per_minute(rate(c.FEED_CONNECTS)), "opened"),
            Query(per_minute(rate(c.CONVERSATIONS)), "conversations started"),
            width=8,
        ),
        trend(
            "Messages",
            "Messages received from live feeds, by type.",
            "cps",
            Query(occurring(rate(c.MESSAGES, "message"), c.MESSAGES, "message"), "{{message}}"),
            width=8,
        ),
        trend(
            "Refused and crashed",
            "Conversations not watched because of the watch limit, and watchers that met a defect, each minute.",
            "cpm",
            Query(per_minute(rate(c.CONVERSATIONS_REFUSED)), "refused"),
            Query(per_minute(rate(c.WATCHER_CRASHES)), "crashed"),
            width=8,
        ),
    ]


def _trust(slo: Slo) -> list[Panel]:
    lost = slo.alerts.conversations_lost
    return [
        trend(
            "Share of lost conversations",
            f"Share of the conversations of the {lost.window} before whose timings were never seen, as on the "
            f"tile above. Dashed: where the alert begins, {share(lost.ratio)}.",
            "percentunit",
            Query(lost_ratio(slo), "lost"),
            steps=((None, "transparent"), (lost.ratio, RED)),
        ),
        trend(
            "Lost conversations by reason",
            "Conversations whose timings were never seen and cannot be fetched later, each minute, by reason.",
            "cpm",
            *_reasons(c.CONVERSATIONS_LOST, "reason"),
        ),
        trend(
            "Unusable messages and values",
            "Messages that could not be used at all, and single values that were not, each minute.",
            "cpm",
            *_reasons(c.INVALID_MESSAGES, "reason", "all messages", "message: "),
            *_reasons(c.REJECTED_VALUES, "field", "all values"),
            width=8,
        ),
        trend(
            "Schema drift",
            "Fields and words that the exporter does not know, each minute, by where they are.",
            "cpm",
            *_reasons(c.UNKNOWN_FIELDS, "object", "all fields", "field in "),
            *_reasons(c.UNKNOWN_WORDS, "field", "all words", "word in "),
            width=8,
        ),
        trend(
            "Folded labels",
            "Conversations whose label became __other__ at a limit, each minute, by label.",
            "cpm",
            *_reasons(c.LABEL_VALUES_FOLDED, "label"),
            width=8,
        ),
        trend(
            "Revised and skipped turns",
            "Values of turns that changed after they were observed, and elements that were not "
            "counted, each minute.",
            "cpm",
            Query(per_minute(rate(c.TURNS_REVISED)), "revised"),
            *_reasons(c.TURNS_SKIPPED, "reason", "skipped", "skipped: "),
        ),
        trend(
            "Completed records",
            "REST reads after the end of conversations, each minute, by how they went.",
            "cpm",
            *_reasons(c.RECONCILIATIONS, "result"),
        ),
    ]


def _upstream(slo: Slo) -> list[Panel]:
    return [
        trend(
            "REST errors",
            "Requests to Phonic's REST API that failed, each minute, by reason.",
            "cpm",
            *_reasons(c.DISCOVERY_ERRORS, "reason"),
            width=8,
        ),
        trend(
            "Time since discovery",
            "Time since discovery last completed; a saw-tooth with the height of --watch.interval.",
            "s",
            Query(f"max by (instance) ({age(series(c.DISCOVERY_LAST_SUCCESS))})", "{{instance}}"),
            steps=((None, "transparent"), (slo.alerts.discovery_stale.seconds, RED)),
            width=8,
        ),
        trend(
            "Discovery duration",
            "How long the last round of discovery took.",
            "s",
            Query(gauge(c.DISCOVERY_DURATION, "instance", operation="max"), "{{instance}}"),
            width=8,
        ),
    ]


def _state(slo: Slo) -> list[Panel]:
    slow = slo.alerts.state_writes_slow.seconds
    return [
        trend(
            "Time since checkpoint",
            "Time since the checkpoint was last written: what a kill would have to be caught up from the feeds.",
            "s",
            Query(f"max by (instance) ({age(series(c.CHECKPOINT_LAST_SUCCESS))})", "{{instance}}"),
            width=8,
        ),
        trend(
            "Checkpoint errors",
            "Checkpoints that could not be written or read, and parts of one not taken over at "
            "start, each minute.",
            "cpm",
            Query(per_minute(rate(c.CHECKPOINT_ERRORS)), "errors"),
            *_reasons(c.CHECKPOINT_RESETS, "reason", "resets", "reset: "),
            width=8,
        ),
        trend(
            "Checkpoint size",
            "Size of the checkpoint file.",
            "bytes",
            Query(gauge(c.CHECKPOINT_SIZE, "instance", operation="max"), "{{instance}}"),
            width=8,
        ),
        trend(
            "State writes",
            "Duration of writes of the state, to the file or to PostgreSQL. Dashed: from here a write counts as "
            f"slow for the alert, {slow:g} s.",
            "s",
            *(Query(quantile(q, c.STATE_WRITE), f"p{100 * q:g}") for q in (0.5, 0.95, 0.99)),
            steps=((None, "transparent"), (slow, RED)),
            capped=c.STATE_WRITE.buckets[-1],
        ),
        trend(
            "State writes each minute",
            "Writes of the state by all processes, and those that failed.",
            "cpm",
            Query(per_minute(rate(c.STATE_WRITE, part="count")), "writes"),
            Query(per_minute(rate(c.CHECKPOINT_ERRORS)), "failed"),
        ),
        trend(
            "Files read again",
            "1 while a file that is read again when it changes could be used, 0 while the exporter "
            "keeps what it had.",
            "short",
            Query(gauge(c.RELOAD_SUCCESSFUL, "instance", "file", operation="min"), "{{instance}} {{file}}"),
            width=8,
            ceiling=1,
            decimals=0,
        ),
        trend(
            "Age of files in use",
            "Time since each file was last read successfully.",
            "s",
            Query(
                f"max by (instance, file) ({age(series(c.RELOAD_TIMESTAMP))})",
                "{{instance}} {{file}}",
            ),
            width=8,
        ),
        trend(
            "Agents and label sets",
            "Agents known to the workspace, and combinations of labels that have series of their own.",
            "short",
            Query(f"count({largest(series(c.AGENT_INFO))})", "agents"),
            Query(gauge(c.LABEL_SETS, operation="max"), "label sets"),
            width=8,
            decimals=0,
        ),
    ]


def _health(slo: Slo) -> list[Panel]:
    of = slo.alerts
    return [
        trend(
            "Pages committed, credential refused",
            "Pages show committed numbers (1) or, because the state file cannot be written, counted ones (0), "
            "which a restart may take back; and whether Phonic refuses the credential (1).",
            "short",
            Query(f"min({_own(alerts.PAGES_COMMITTED)})", "pages committed"),
            Query(f"max({_own(alerts.CREDENTIAL_REFUSED)})", "credential refused"),
            width=8,
            ceiling=1,
            decimals=0,
        ),
        trend(
            "Commit wait",
            "How long what was counted waited for the state file before pages could show it.",
            "s",
            Query(f"max by (instance) ({_own(COMMIT_WAIT)})", "{{instance}}"),
            width=8,
        ),
        trend(
            "Label sets held",
            "Label sets that are shown at 0 before their numbers, so that Prometheus sees them rise.",
            "short",
            Query(f"max by (instance) ({_own(LABEL_SETS_HELD)})", "{{instance}}"),
            width=8,
            decimals=0,
        ),
        trend(
            "REST requests waiting",
            "Requests to Phonic's REST API that wait for their turn.",
            "short",
            Query(f"max by (instance) ({_own(REQUESTS_WAITING)})", "{{instance}}"),
            width=8,
            decimals=0,
        ),
        trend(
            "Longest wait of a REST request",
            f"How long the oldest waiting request has waited, 0 while none waits. Dashed: where the alert begins, "
            f"{of.requests_waiting.seconds:g} s.",
            "s",
            Query(
                f"max by (instance) ({age(_own(alerts.REQUESTS_WAITING_SINCE))}) "
                f"or 0 * max by (instance) ({_own(REQUESTS_WAITING)})",
                "{{instance}}",
            ),
            width=8,
            steps=((None, "transparent"), (of.requests_waiting.seconds, RED)),
        ),
        trend(
            "REST requests allowed",
            "Requests a second that the exporter allows itself: halved by each 429, growing again afterwards.",
            "cps",
            Query(f"min by (instance) ({_own(REQUESTS_ALLOWED)})", "{{instance}}"),
            width=8,
        ),
        trend(
            "Clock offset",
            f"Between this machine's clock and Phonic's, either way. Dashed: where the alert begins, "
            f"{of.clock_off.seconds:g} s.",
            "s",
            Query(f"max by (instance) (abs({_own(alerts.CLOCK_OFFSET)}))", "{{instance}}"),
            steps=((None, "transparent"), (of.clock_off.seconds, RED)),
        ),
        trend(
            "Event loop lag",
            f"The largest lateness of the event loop within a minute. Dashed: where the alert begins, "
            f"{of.event_loop_lag.seconds:g} s.",
            "s",
            Query(f"max by (instance) ({_own(alerts.EVENT_LOOP_LAG)})", "{{instance}}"),
            steps=((None, "transparent"), (of.event_loop_lag.seconds, RED)),
        ),
    ]


def _shards() -> list[Panel]:
    def counted(state: str) -> str:
        of = f'state="{state}"'
        return f"max({series(c.SHARDS, of)})"

    each = largest(series(c.CONVERSATIONS_LIVE, 'shard!=""'))

    return [
        number(
            "Shards held",
            "Shards that a process holds, as PostgreSQL tells.",
            counted("held"),
            "short",
            width=6,
            empty="no shards",
        ),
        number(
            "Shards unheld",
            "Shards that no process holds: their conversations are not observed. More than 0 for longer than a "
            "take-over is an alert.",
            counted("unheld"),
            "short",
            steps=rising(1, 1),
            width=6,
            empty="no shards",
        ),
        number(
            "Shards draining",
            "Shards that take no new conversations and finish their own.",
            counted("draining"),
            "short",
            width=6,
            empty="no shards",
        ),
        number(
            "Standing by",
            "Processes that hold no shard and would take one.",
            f"sum({_own(c.SHARD_HELD.name)} == bool 0)",
            "short",
            width=6,
            empty="no shards",
        ),
        trend(
            "Shards by state",
            "What PostgreSQL tells of the shards. A gap: no process has an answer.",
            "short",
            Query(gauge(c.SHARDS, "state", operation="max"), "{{state}}"),
            width=8,
            decimals=0,
        ),
        trend(
            "Take-overs",
            "How often each shard has been taken, a restart in order included; each step is one.",
            "short",
            Query(gauge(c.SHARD_EPOCH, "shard", operation="max"), "shard {{shard}}"),
            width=8,
            decimals=0,
        ),
        trend(
            "Processes",
            "1 while a process holds a shard, 0 while it stands by. /api/v1/shards says which one it holds.",
            "short",
            Query(gauge(c.SHARD_HELD, "instance", operation="max"), "{{instance}}"),
            width=8,
            ceiling=1,
            decimals=0,
        ),
        trend(
            "Lease losses",
            "Leases that processes lost, each minute: not renewed in time, or taken by another process.",
            "cpm",
            *_reasons(c.LEASE_LOSSES, "reason"),
            width=8,
        ),
        trend(
            "Conversations by shard",
            "Live conversations of each shard; they should be about equally many.",
            "short",
            Query(f"sum by (shard) ({each})", "shard {{shard}}"),
            width=8,
            stacked=True,
            decimals=0,
        ),
        trend(
            "Timings lost in between",
            "Turns of ended conversations whose timings came while no process followed the conversation, each "
            "minute: around take-overs and restarts, and while a feed was lost.",
            "cpm",
            Query(per_minute(rate(c.HANDOVER_TIMINGS_LOST)), "turns"),
            width=8,
        ),
    ]


def _own(gauge: str) -> str:
    """Return a selector of a gauge without labels of its own."""
    return f"{gauge}{{{SELECTED}}}"


def _cost() -> list[Panel]:
    return [
        trend(
            "CPU",
            "Processor time, as a share of one core.",
            "percentunit",
            Query(
                f"sum by (instance) (rate(process_cpu_seconds_total{{{SELECTED}}}[$__rate_interval]))",
                "{{instance}}",
            ),
            width=8,
        ),
        trend(
            "Memory by instance",
            "Resident memory of each exporter process.",
            "bytes",
            Query(f"max by (instance) (process_resident_memory_bytes{{{SELECTED}}})", "{{instance}}"),
            width=8,
        ),
        trend(
            "Open files",
            "Open file descriptors, each feed is one, and the most the process may have.",
            "short",
            Query(f"max by (instance) (process_open_fds{{{SELECTED}}})", "{{instance}}"),
            Query(f"min(process_max_fds{{{SELECTED}}})", "limit"),
            width=8,
            decimals=0,
        ),
        trend(
            "Snapshots",
            "Snapshots received each second, and those not evaluated because a newer one was waiting.",
            "cps",
            Query(rate(c.UPDATES), "received"),
            Query(rate(c.UPDATES_SUPERSEDED), "superseded"),
            width=8,
        ),
        trend(
            "Traffic",
            "Size of the snapshots received each second.",
            "Bps",
            Query(rate(c.UPDATE_BYTES), "received"),
            width=8,
        ),
        trend(
            "Page",
            "How long rendering the previous metrics page took.",
            "s",
            Query(gauge(c.RENDER_DURATION, "instance", operation="max"), "{{instance}}"),
            width=8,
        ),
        trend(
            "Snapshots decoded",
            "Snapshots decoded each second: in full, or incrementally, without the turns that were decoded "
            "before. Long calls should be nearly all incremental.",
            "cps",
            Query(rate(c.DECODES, "path"), "{{path}}"),
            width=8,
            stacked=True,
        ),
        trend(
            "REST requests",
            "Requests sent to Phonic's REST API each minute, retries included, by kind.",
            "cpm",
            Query(per_minute(rate(c.REQUESTS, "request")), "{{request}}"),
            width=8,
            stacked=True,
        ),
        trend(
            "Duration of REST requests, p95",
            "Without the wait in the exporter's queue, by kind.",
            "s",
            Query(quantile(0.95, c.REQUEST_DURATION, "request"), "{{request}}"),
            width=8,
            capped=c.REQUEST_DURATION.buckets[-1],
        ),
    ]


def _reasons(family: Family, label: str, name: str = "all", prefix: str = "") -> tuple[Query, Query]:
    """Return two queries of a counter per minute: the sum (0 without events), and by the values that occurred."""
    return (
        Query(per_minute(rate(family)), name),
        Query(occurring(per_minute(rate(family, label)), family, label), f"{prefix}{{{{{label}}}}}"),
    )
