"""Pure: the alerts: a few, on what callers or operators notice, each with a runbook entry and a dashboard.

Rules for this file:

- A summary is one sentence that names who is affected. A description states the measured value, in one unit.
- The expression of a ratio includes the minimum number of events for the ratio to be meaningful.
- Absent series never fire an alert, unless absence is what the alert is about.
- If several exporters watch the same conversations, the largest of their values counts. Shards are added.
- A standby fires nothing: it has no series of conversations, and what it says of itself is never read alone.
- A take-over fires nothing: for a scrape or two the series of a shard may be missing, and then they go on.
- Expressions work on Prometheus 2.42, Prometheus 3 and VictoriaMetrics.
"""

from typing import Any

import attrs

from exporter.metrics import catalog as c

from . import promql
from .rules import Indicator, indicators
from .slo import Burn, Delay, Lasting, Occurrence, Saturation, Share, Slo

PAGES_COMMITTED = c.PAGES_COMMITTED.name
CREDENTIAL_REFUSED = c.CREDENTIAL_REFUSED.name
REQUESTS_WAITING_SINCE = c.REQUESTS_WAITING_SINCE.name
EVENT_LOOP_LAG = c.EVENT_LOOP_LAG.name
CLOCK_OFFSET = c.CLOCK_OFFSET.name

# Evaluation intervals. The usual default of one minute would delay alerts about seconds of waiting.
GROUPS = {"phonic-waiting": "5s", "phonic-callers": "15s", "phonic-budgets": "15s", "phonic-exporter": "15s"}

# Who is affected. --metrics.labels may omit project and agent, and one workspace has no name.
_OF_AGENT = (
    "{{ if $labels.agent }} of agent {{ $labels.agent }}{{ end }}"
    "{{ if $labels.project }} in project {{ $labels.project }}{{ end }}"
    "{{ if $labels.workspace }} of workspace {{ $labels.workspace }}{{ end }}"
)
_OF_PROJECT = (
    "{{ if $labels.project }}project {{ $labels.project }}{{ else }}the workspace{{ end }}"
    "{{ if $labels.workspace }} ({{ $labels.workspace }}){{ end }}"
)
_OF_JOB = "job {{ $labels.job }}{{ if $labels.workspace }}, workspace {{ $labels.workspace }}{{ end }}"


@attrs.frozen(kw_only=True)
class Alert:
    """One alert. ``board`` is the uid of its dashboard; ``labels`` are passed on in the link to it.

    ``about_calls``: whether the exporter's list of conversations helps with it.
    """

    name: str
    group: str
    expr: str
    severity: str
    lasting: str
    summary: str
    description: str
    board: str
    labels: tuple[str, ...] = ()
    keep_firing: str = ""
    about_calls: bool = False

    def annotations(self, slo: Slo) -> dict[str, str]:
        """Return summary, description and links, with Prometheus' templates."""
        query = "&".join(f"var-{label}={{{{ $labels.{label} | urlquery }}}}" for label in self.labels)
        calls = f"{slo.links.exporter}/conversations?q={{{{ $labels.agent | urlquery }}}}"
        return {
            "summary": self.summary,
            "description": self.description,
            "dashboard_url": f"{slo.links.grafana}/d/{self.board}" + (f"?{query}" if query else ""),
            **({"conversations_url": calls} if self.about_calls else {}),
            "runbook_url": f"{slo.links.runbook}#{self.name.lower()}",
        }

    def rule(self, slo: Slo) -> dict[str, Any]:
        """Return the alert as in a rule file."""
        keep = {"keep_firing_for": self.keep_firing} if self.keep_firing else {}
        return {
            "alert": self.name,
            "expr": self.expr,
            **({"for": self.lasting} if self.lasting else {}),
            **keep,
            "labels": {"severity": self.severity},
            "annotations": self.annotations(slo),
        }


def alerts(slo: Slo) -> tuple[Alert, ...]:
    """Return all alerts, in each group the most urgent first."""
    return (*_waiting(slo), *_callers(slo), *_budgets(slo), *_exporter(slo))


def alerting(slo: Slo) -> dict[str, Any]:
    """Return the rule file."""
    everything = alerts(slo)
    return {
        "groups": [
            {"name": group, "interval": interval, "rules": [a.rule(slo) for a in everything if a.group == group]}
            for group, interval in GROUPS.items()
        ]
    }


def _waiting(slo: Slo) -> tuple[Alert, ...]:
    of, agent = slo.alerts.callers_waiting, ", ".join(promql.AGENT)
    # Select before taking the largest value: two exporters may name the agent of a call differently. `and` instead
    # of a join: around a take-over a call may have two series of information for a moment, which a join refuses.
    calls = (
        f"max by (job, {agent}, conversation_id) (\n"
        f"      {c.LIVE_INFO.name}\n"
        f"    and on (job, instance, conversation_id)\n"
        f"      {promql.age(c.LIVE_WAITING_SINCE.name)} > {of.seconds:g}\n"
        f"  )"
    )
    return (
        Alert(
            name="PhonicCallersWaiting",
            group="phonic-waiting",
            expr=f"count by (job, {agent}) (\n  {calls}\n) >= {of.callers}",
            severity=of.severity,
            lasting=of.lasting,
            keep_firing=of.keep_firing,
            summary=f"Callers{_OF_AGENT} are on the line and hear no answer.",
            description=(
                f"Callers{_OF_AGENT} who have waited more than {of.seconds:g} s for an answer: {{{{ $value }}}}."
            ),
            board="phonic-live",
            labels=promql.AGENT,
            about_calls=True,
        ),
    )


def _callers(slo: Slo) -> tuple[Alert, ...]:
    errors, tools = slo.alerts.error_endings, slo.alerts.tool_failures
    near, full = slo.alerts.concurrency_near_limit, slo.alerts.concurrency_at_limit
    leaving, limit = slo.alerts.callers_giving_up, slo.response.threshold_seconds
    wait = c.HANGUP_WAIT.name
    return (
        _share(
            name="PhonicCallersGivingUp",
            bad=promql.added(
                f"increase({wait}_count[{leaving.window}])"
                f' - ignoring (le) increase({wait}_bucket{{le="{promql.bound(limit)}"}}[{leaving.window}])'
            ),
            every=promql.counted(f"increase({c.CONVERSATIONS_ENDED.sample_name}[{leaving.window}])", "ended_by"),
            of=leaving,
            summary=f"Callers{_OF_AGENT} hang up instead of getting an answer.",
            what="conversations",
            did=f"ended with a caller who had waited more than {limit:g} s for an answer,",
        ),
        _share(
            name="PhonicErrorEndings",
            bad=promql.counted(f"increase({c.CONVERSATION_ERRORS.sample_name}[{errors.window}])", "reason"),
            every=promql.counted(f"increase({c.CONVERSATIONS_ENDED.sample_name}[{errors.window}])", "ended_by"),
            of=errors,
            summary=f"Conversations{_OF_AGENT} end in errors.",
            what="conversations",
            did="ended in an error",
        ),
        _share(
            name="PhonicToolFailures",
            bad=promql.counted(f"increase({c.TOOL_CALL_FAILURES.sample_name}[{tools.window}])", "reason"),
            every=promql.counted(f"increase({c.TOOL_CALLS.sample_name}[{tools.window}])"),
            of=tools,
            summary=f"Tool calls{_OF_AGENT} fail.",
            what="tool calls",
            did="failed",
            board="phonic-tools",
        ),
        _concurrency(
            name="PhonicConcurrencyAtLimit",
            of=full,
            compared=">=",
            summary=f"Concurrent conversations of {_OF_PROJECT} have reached the limit: Phonic refuses calls.",
        ),
        _concurrency(
            name="PhonicConcurrencyNearLimit",
            of=near,
            compared=">",
            summary=(
                f"Concurrent conversations of {_OF_PROJECT} are close to the limit, "
                "beyond which Phonic refuses calls."
            ),
        ),
    )


def _concurrency(*, name: str, of: Saturation, compared: str, summary: str) -> Alert:
    return Alert(
        name=name,
        group="phonic-callers",
        expr=(
            f"  {promql.largest(c.PROJECT_ACTIVE.name)} / {promql.largest(c.PROJECT_LIMIT.name)}\n"
            f"    {compared} {of.ratio:g}\n"
            f"or\n"
            f"  {promql.largest(c.WORKSPACE_ACTIVE.name)} / {promql.largest(c.WORKSPACE_LIMIT.name)}\n"
            f"    {compared} {of.ratio:g}"
        ),
        severity=of.severity,
        lasting=of.lasting,
        keep_firing=of.keep_firing,
        summary=summary,
        description=(
            f"{{{{ $value | humanizePercentage }}}} of the concurrent conversations that {_OF_PROJECT} may have "
            "are in progress."
        ),
        board="phonic-overview",
        labels=(promql.WORKSPACE, "project"),
    )


def _share(
    *,
    name: str,
    bad: str,
    every: str,
    of: Share,
    summary: str,
    what: str,
    did: str,
    board: str = "phonic-overview",
) -> Alert:
    """Alert on a share of one agent's events. ``bad`` is on the left, so that its labels reach the description."""
    return Alert(
        name=name,
        group="phonic-callers",
        expr=f"  {bad}\n/\n  {every}\n  > {of.ratio:g}\nand\n  {bad}\n  >= {of.minimum}",
        severity=of.severity,
        lasting=of.lasting,
        keep_firing=of.keep_firing,
        summary=summary,
        description=f"{{{{ $value | humanizePercentage }}}} of the {what}{_OF_AGENT} {did} within {of.window}.",
        board=board,
        labels=promql.AGENT,
        about_calls=True,
    )


def _budgets(slo: Slo) -> tuple[Alert, ...]:
    response, conversations = indicators(slo)
    limit = f"{slo.response.threshold_seconds:g}"
    texts: tuple[tuple[Indicator, str, str, str, str], ...] = (
        (response, "PhonicResponseBudgetBurn", "Responses", "are slow", "latency"),
        (conversations, "PhonicErrorBudgetBurn", "Conversations", "fail", "overview"),
    )
    return tuple(
        Alert(
            name=name + speed.capitalize(),
            group="phonic-budgets",
            expr="\nor\n".join(_burning(slo, indicator, burn)),
            severity=burn.severity,
            lasting=burn.lasting,
            keep_firing=burn.keep_firing,
            summary=f"{events}{_OF_AGENT} {trouble}: the error budget is {state}.",
            description=(
                "{{ $value | humanizePercentage }} of the "
                + (
                    f"turns{_OF_AGENT} were answered later than {limit} s, or never"
                    if indicator is response
                    else f"conversations{_OF_AGENT} ended in an error"
                )
                + f"; the objective allows {100 * (1 - indicator.objective):.6g}%."
            ),
            board=f"phonic-{board}",
            labels=promql.AGENT,
            about_calls=True,
        )
        for indicator, name, events, trouble, board in texts
        for speed, burn, state in (
            ("fast", slo.burn.fast, "burning fast"),
            ("slow", slo.burn.slow, "wearing away"),
        )
    )


def _burning(slo: Slo, indicator: Indicator, burn: Burn) -> list[str]:
    budget = 1 - indicator.objective
    return [
        f"(\n"
        f"    {indicator.ratio(w.long)} > ({slo.factor(w):g} * {budget:.6g})\n"
        f"  and\n"
        f"    {indicator.ratio(w.short)} > ({slo.factor(w):g} * {budget:.6g})\n"
        f"  and\n"
        f"    {indicator.enough(w.long)}\n"
        f")"
        for w in burn.windows
    ]


def _exporter(slo: Slo) -> tuple[Alert, ...]:
    return (*_reaching(slo), *_seeing(slo), *_keeping(slo), *_sharing(slo), _watchdog())


def _reaching(slo: Slo) -> tuple[Alert, ...]:
    """Alerts: Prometheus cannot reach the exporter, or the exporter cannot reach Phonic."""
    of = slo.alerts
    looked = promql.age(c.DISCOVERY_LAST_SUCCESS.name)
    searched = f"{looked} + ignoring (project) group_right () 0 * {c.DISCOVERED.name}"
    up = f'up{{job="{slo.job}"}}'
    down = f"{up} == 0"
    return (
        # Where another process knows the shards, `PhonicShardUnheld` is about those that nobody has taken over.
        _state(
            "PhonicExporterDown",
            f"{down} unless on (job) {c.SHARDS.name}\nor\nabsent({up})",
            of.exporter_down,
            "The exporter of job {{ $labels.job }} cannot be scraped: live conversations are not observed.",
            "Prometheus cannot scrape job {{ $labels.job }}"
            "{{ if $labels.instance }}, instance {{ $labels.instance }}{{ else }}: it has no target{{ end }}.",
        ),
        _state(
            "PhonicCredentialRefused",
            f"{promql.largest(CREDENTIAL_REFUSED)} == 1",
            of.credential_refused,
            f"Phonic refuses the credential of {_OF_JOB}: conversations are not observed.",
            f"Phonic's REST API refuses the credential of {_OF_JOB}, and all its live feeds are held back.",
        ),
        _state(
            "PhonicUpstreamUnreachable",
            f"{promql.largest(c.UP.name)} == 0",
            of.upstream_unreachable,
            f"Phonic's REST API does not answer {_OF_JOB}: new conversations are not found.",
            f"No exporter of {_OF_JOB} gets an answer from Phonic's REST API.",
        ),
        _delay(
            "PhonicDiscoveryStale",
            # Of each project the freshest of the processes that search it; of the projects the stalest.
            f"(\n  max without (project) ({promql.smallest(searched)})\nor\n  {promql.smallest(looked)}\n)",
            of.discovery_stale,
            f"Discovery of {_OF_JOB} does not complete: new conversations are not found.",
            f"No exporter of {_OF_JOB} has looked through all live conversations for "
            "{{ $value | humanizeDuration }}.",
        ),
        _delay(
            "PhonicRequestsWaiting",
            promql.largest(promql.age(REQUESTS_WAITING_SINCE)),
            of.requests_waiting,
            f"REST requests of {_OF_JOB} wait too long for their turn.",
            f"The REST request of {_OF_JOB} that has waited longest has waited "
            "{{ $value | humanizeDuration }}.",
        ),
    )


def _seeing(slo: Slo) -> tuple[Alert, ...]:
    """Alerts: the exporter misses conversations or is too slow."""
    of = slo.alerts
    feed, lost, short = of.feed_errors, of.conversations_lost, of.watching_falls_short
    active = f"max by (job, workspace, project) ({c.PROJECT_ACTIVE.name})"
    live = _added_by(c.CONVERSATIONS_LIVE.name, "job", promql.WORKSPACE, "project")
    watchers = f"sum without (state, workspace) ({c.WATCHERS.name})"
    seen = _added_by(f"increase({c.CONVERSATIONS.sample_name}[{lost.window}])", "job")
    return (
        Alert(
            name="PhonicFeedErrors",
            group="phonic-exporter",
            # Each process by itself: feeds that break at one process are no fewer because others have none.
            expr=promql.largest(
                f"\n    sum without (reason) (increase({c.FEED_ERRORS.sample_name}[{feed.window}]))\n"
                f"  >=\n"
                f"    clamp_min({feed.ratio:g} * {watchers}, {feed.minimum})\n"
            ),
            severity=feed.severity,
            lasting=feed.lasting,
            keep_firing=feed.keep_firing,
            summary="Live feeds of job {{ $labels.job }} break or cannot be opened.",
            description=(
                f"{{{{ $value | humanize }}}} live feeds of job {{{{ $labels.job }}}} failed within {feed.window}."
            ),
            board="phonic-exporter",
        ),
        # Aggregates by (job, workspace, project), not without labels, because the two families have different
        # labels. Covers only the projects that discovery searches (--watch.project). Without the label project
        # (--metrics.labels) nothing can be compared, so the alert cannot fire.
        Alert(
            name="PhonicWatchingFallsShort",
            group="phonic-exporter",
            expr=(
                f"  {active}\n"
                f"- (\n"
                f"    {live}\n"
                f"  or\n"
                f"    0 * {active}\n"
                f")\n"
                f">=\n"
                f"  clamp_min({short.ratio:g} * {active}, {short.minimum})\n"
                f"and on (job, workspace, project)\n"
                f"  {c.DISCOVERED.name}\n"
                f"unless on (job)\n"
                f'  {c.CONVERSATIONS_LIVE.name}{{project=""}}'
            ),
            severity=short.severity,
            lasting=short.lasting,
            keep_firing=short.keep_firing,
            summary=f"Conversations of {_OF_PROJECT} are in progress that the exporter does not watch.",
            description=(
                f"Active conversations of {_OF_PROJECT} that are not watched, and whose timings "
                "cannot be fetched later: {{ $value }}."
            ),
            board="phonic-exporter",
            labels=(promql.WORKSPACE, "project"),
        ),
        Alert(
            name="PhonicConversationsLost",
            group="phonic-exporter",
            expr=(
                f"  {promql.counted(f'increase({c.CONVERSATIONS_LOST.sample_name}[{lost.window}])')}\n"
                f">= on (job) group_left ()\n"
                f"  clamp_min({lost.ratio:g} * {seen}, {lost.minimum})"
            ),
            severity=lost.severity,
            lasting=lost.lasting,
            keep_firing=lost.keep_firing,
            summary="Conversations of job {{ $labels.job }} ended before the exporter saw their timings.",
            description=(
                f"The timings of {{{{ $value | humanize }}}} conversations were lost within {lost.window} "
                f"(reason: {{{{ $labels.reason }}}}) and cannot be fetched later."
            ),
            board="phonic-exporter",
        ),
        _delay(
            "PhonicEventLoopLag",
            promql.largest(EVENT_LOOP_LAG),
            of.event_loop_lag,
            "The exporter of job {{ $labels.job }} has too much to do, or too little CPU.",
            "The event loop of job {{ $labels.job }} was {{ $value | humanizeDuration }} late within a minute.",
        ),
        _delay(
            "PhonicClockOff",
            promql.largest(f"abs({CLOCK_OFFSET})", promql.WORKSPACE),
            of.clock_off,
            "The clocks of job {{ $labels.job }} and of Phonic differ: waits of live callers are wrong.",
            "The clock of the exporter of job {{ $labels.job }} is {{ $value | humanizeDuration }} from Phonic's.",
        ),
    )


def _added_by(expr: str, *labels: str) -> str:
    """Sum each instance by labels, take the largest value of each shard, then add the shards."""
    shard, target = ", ".join((*labels, promql.SHARD)), ", ".join(promql.TARGET_LABELS)
    return f"sum by ({', '.join(labels)}) (max by ({shard}) (sum by ({shard}, {target}) ({expr})))"


def _keeping(slo: Slo) -> tuple[Alert, ...]:
    """Alerts: the exporter has problems with its files, unknown input or label limits."""
    of = slo.alerts
    return (
        _state(
            "PhonicFileNotReadAgain",
            f"{promql.smallest(c.RELOAD_SUCCESSFUL.name)} == 0",
            of.file_not_read_again,
            "The exporter of job {{ $labels.job }} cannot use a file that has changed.",
            "The {{ $labels.file }} file of job {{ $labels.job }} could not be used when it was last read; "
            "what it said before is still in force.",
        ),
        _state(
            "PhonicPagesNotCommitted",
            f"{promql.smallest(PAGES_COMMITTED)} == 0",
            of.pages_not_committed,
            "The exporter of job {{ $labels.job }} cannot write its state: a restart would lose counts.",
            "The pages of job {{ $labels.job }} show numbers that are not in its state.",
        ),
        _occurred(
            "PhonicCheckpointFailing",
            f"{promql.worst(f'increase({c.CHECKPOINT_ERRORS.sample_name}[$window])')} > 0",
            of.checkpoint_failing,
            "The exporter of job {{ $labels.job }} cannot write its state: a restart would lose counts.",
            "{{ $value | humanize }} writes of the state of job {{ $labels.job }} failed within $window.",
        ),
        _occurred(
            "PhonicSchemaDrift",
            f"  {promql.worst(f'increase({c.UNKNOWN_FIELDS.sample_name}[$window])', 'object')}\n"
            f"+\n"
            f"  {promql.worst(f'increase({c.UNKNOWN_WORDS.sample_name}[$window])', 'field')}\n"
            f"  > 0",
            of.schema_drift,
            "Phonic sends fields or words that the exporter of job {{ $labels.job }} does not know.",
            "{{ $value | humanize }} unknown fields or words were met by job {{ $labels.job }} within $window.",
        ),
        _occurred(
            "PhonicLabelsFolded",
            f"{promql.worst(f'increase({c.LABEL_VALUES_FOLDED.sample_name}[$window])')} > 0",
            of.labels_folded,
            "Label values of job {{ $labels.job }} are folded: metrics no longer tell agents apart.",
            "{{ $value | humanize }} conversations lost their {{ $labels.label }} to a limit within $window.",
        ),
    )


def _sharing(slo: Slo) -> tuple[Alert, ...]:
    """Alerts: shards in PostgreSQL, silent without ``--state.url``, and slow writes of any state."""
    of = slo.alerts
    held, epoch, losses, rule = c.SHARD_HELD.name, c.SHARD_EPOCH.name, of.leases_lost, of.scrape_rule_missing
    standbys = f"sum by (job) ({held} == bool 0)"
    return (
        # A process shows no shards while PostgreSQL does not answer.
        _state(
            "PhonicStateUnreachable",
            f"max by (job) ({held}) unless on (job) {c.SHARDS.name}",
            of.state_unreachable,
            "No process of job {{ $labels.job }} reaches PostgreSQL: metrics of conversations are missing.",
            "No process of job {{ $labels.job }} has an answer from the PostgreSQL of its state.",
        ),
        _state(
            "PhonicShardUnheld",
            f'{promql.smallest(f"""{c.SHARDS.name}{{state="unheld"}}""")} > 0',
            of.shard_unheld,
            "No process of job {{ $labels.job }} holds a shard: its conversations are not observed.",
            "Shards of job {{ $labels.job }} that no process holds: {{ $value }}.",
        ),
        _state(
            "PhonicProcessDown",
            f'up{{job="{slo.job}"}} == 0 and on (job) {c.SHARDS.name}',
            of.process_down,
            "A process of job {{ $labels.job }} cannot be scraped; others hold the shards.",
            "Prometheus cannot scrape job {{ $labels.job }}, instance {{ $labels.instance }}.",
        ),
        # Before a take-over the series of a shard have the target labels of its process; after one they also have
        # those of the next. The epoch stands for all series with the label.
        _state(
            "PhonicScrapeRuleMissing",
            f"count by (job, shard) ({epoch} and on (job, instance) {held})\n"
            f"or\n"
            f'count by (job, shard) ({epoch}{{pod!=""}} and on (job, pod) {held})\n'
            f"or\n"
            f"count by (job, shard) (\n"
            f"  count by (job, shard, instance, pod) (present_over_time({epoch}[{rule.window}]))\n"
            f") > 1",
            Lasting(rule.severity, rule.lasting),
            "Series of shard {{ $labels.shard }} of job {{ $labels.job }} carry the name of a process: each "
            "take-over begins new ones, and increases are counted twice or not at all.",
            "Names of processes or pods that series of shard {{ $labels.shard }} of job {{ $labels.job }} carry: "
            "{{ $value }}.",
        ),
        Alert(
            name="PhonicLeasesLost",
            group="phonic-exporter",
            expr=(f"sum by (job) (increase({c.LEASE_LOSSES.sample_name}[{losses.window}])) >= {losses.minimum}"),
            severity=losses.severity,
            lasting=losses.lasting,
            keep_firing=losses.keep_firing,
            summary="Processes of job {{ $labels.job }} lose their leases on shards.",
            description=(
                f"{{{{ $value | humanize }}}} leases of job {{{{ $labels.job }}}} were lost within "
                f"{losses.window}."
            ),
            board="phonic-exporter",
        ),
        _state(
            "PhonicStandbyMissing",
            f"{standbys} == 0\nand\nmax_over_time({standbys}[{of.standby_missing.window}:1m]) > 0",
            Lasting(of.standby_missing.severity, of.standby_missing.lasting),
            "Job {{ $labels.job }} has no standby left: the next process that stops leaves a shard unheld.",
            "Processes of job {{ $labels.job }} that stand by: {{ $value }}; within "
            f"{of.standby_missing.window} there were some.",
        ),
        _slow_writes(slo),
    )


def _slow_writes(slo: Slo) -> Alert:
    of = slo.alerts.state_writes_slow
    name, le = c.STATE_WRITE.name, promql.bound(of.seconds)
    every = f"increase({name}_count[{of.window}])"
    slow = f'({every} - ignoring (le) increase({name}_bucket{{le="{le}"}}[{of.window}]))'
    return Alert(
        name="PhonicStateWritesSlow",
        group="phonic-exporter",
        expr=promql.largest(f"\n    {slow} / ({every} > 0) > {of.ratio:g}\n  and\n    {slow} >= {of.minimum}\n"),
        severity=of.severity,
        lasting=of.lasting,
        keep_firing=of.keep_firing,
        summary="The exporter of job {{ $labels.job }} waits for its state file, or for PostgreSQL.",
        description=(
            f"{{{{ $value | humanizePercentage }}}} of the writes of the state of job {{{{ $labels.job }}}} took "
            f"longer than {of.seconds:g} s within {of.window}."
        ),
        board="phonic-exporter",
    )


def _watchdog() -> Alert:
    return Alert(
        name="PhonicWatchdog",
        group="phonic-exporter",
        expr="vector(1)",
        severity="none",
        lasting="",
        summary="Alerts are evaluated and delivered.",
        description="This alert always fires. Its receiver should raise an alarm when it stops arriving.",
        board="phonic-exporter",
    )


def _state(name: str, expr: str, of: Lasting, summary: str, description: str) -> Alert:
    """Alert on a state."""
    return Alert(
        name=name,
        group="phonic-exporter",
        expr=expr,
        severity=of.severity,
        lasting=of.lasting,
        summary=summary,
        description=description,
        board="phonic-exporter",
    )


def _delay(name: str, expr: str, of: Delay, summary: str, description: str) -> Alert:
    """Alert on a number of seconds above a limit."""
    return _state(name, f"{expr} > {of.seconds:g}", Lasting(of.severity, of.lasting), summary, description)


def _occurred(name: str, expr: str, of: Occurrence, summary: str, description: str) -> Alert:
    """Alert on an event within a window."""
    return _state(
        name,
        expr.replace("$window", of.window),
        Lasting(of.severity, of.lasting),
        summary,
        description.replace("$window", of.window),
    )
