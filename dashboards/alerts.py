"""Pure: the alerts: a few, on what callers or operators notice, each with a runbook entry and a dashboard.

Rules for this file:

- A summary is one sentence that names who is affected. A description states the measured value, in one unit.
- The expression of a ratio includes the minimum number of events for the ratio to be meaningful.
- Absent series never fire an alert, unless absence is what the alert is about.
- If several exporters watch the same conversations, the largest of their values counts.
- Expressions work on Prometheus 2.42, Prometheus 3 and VictoriaMetrics.
"""

from typing import Any

import attrs

from exporter.metrics import catalog as c

from . import promql
from .rules import Indicator, indicators
from .slo import Burn, Delay, Lasting, Occurrence, Saturation, Share, Slo

AGENT = ("project", "agent")

PAGES_COMMITTED = c.PAGES_COMMITTED.name
CREDENTIAL_REFUSED = c.CREDENTIAL_REFUSED.name
REQUESTS_WAITING_SINCE = c.REQUESTS_WAITING_SINCE.name
EVENT_LOOP_LAG = c.EVENT_LOOP_LAG.name
CLOCK_OFFSET = c.CLOCK_OFFSET.name

# Evaluation intervals. The usual default of one minute would delay alerts about seconds of waiting.
GROUPS = {"phonic-waiting": "5s", "phonic-callers": "15s", "phonic-budgets": "15s", "phonic-exporter": "15s"}

# Who is affected. --metrics.labels may omit either label.
_OF_AGENT = (
    "{{ if $labels.agent }} of agent {{ $labels.agent }}{{ end }}"
    "{{ if $labels.project }} in project {{ $labels.project }}{{ end }}"
)
_OF_PROJECT = "{{ if $labels.project }}project {{ $labels.project }}{{ else }}the workspace{{ end }}"


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
    of = slo.alerts.callers_waiting
    # Join before taking the largest value: two exporters may name the agent of a call differently.
    waits = promql.largest(
        f"\n      {promql.age(c.LIVE_WAITING_SINCE.name)}\n"
        f"    * on (job, instance, conversation_id) group_left (project, agent)\n"
        f"      {c.LIVE_INFO.name}\n  "
    )
    return (
        Alert(
            name="PhonicCallersWaiting",
            group="phonic-waiting",
            expr=f"count by (job, project, agent) (\n  {waits} > {of.seconds:g}\n) >= {of.callers}",
            severity=of.severity,
            lasting=of.lasting,
            keep_firing=of.keep_firing,
            summary=f"Callers{_OF_AGENT} are on the line and hear no answer.",
            description=(
                f"Callers{_OF_AGENT} who have waited more than {of.seconds:g} s for an answer: {{{{ $value }}}}."
            ),
            board="phonic-live",
            labels=AGENT,
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
            bad=promql.largest(
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
        labels=("project",),
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
        labels=AGENT,
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
            labels=AGENT,
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
    return (*_reaching(slo), *_seeing(slo), *_keeping(slo), _watchdog())


def _reaching(slo: Slo) -> tuple[Alert, ...]:
    """Alerts: Prometheus cannot reach the exporter, or the exporter cannot reach Phonic."""
    of = slo.alerts
    return (
        _state(
            "PhonicExporterDown",
            f'up{{job="{slo.job}"}} == 0 or absent(up{{job="{slo.job}"}})',
            of.exporter_down,
            "The exporter of job {{ $labels.job }} cannot be scraped: live conversations are not observed.",
            "Prometheus cannot scrape job {{ $labels.job }}"
            "{{ if $labels.instance }}, instance {{ $labels.instance }}{{ else }}: it has no target{{ end }}.",
        ),
        _state(
            "PhonicCredentialRefused",
            f"{promql.largest(CREDENTIAL_REFUSED)} == 1",
            of.credential_refused,
            "Phonic refuses the credential of job {{ $labels.job }}: conversations are not observed.",
            "Phonic's REST API refuses the credential of job {{ $labels.job }}, and all live feeds are held back.",
        ),
        _state(
            "PhonicUpstreamUnreachable",
            f"{promql.largest(c.UP.name)} == 0",
            of.upstream_unreachable,
            "Phonic's REST API does not answer job {{ $labels.job }}: new conversations are not found.",
            "No exporter of job {{ $labels.job }} gets an answer from Phonic's REST API.",
        ),
        _delay(
            "PhonicDiscoveryStale",
            promql.smallest(promql.age(c.DISCOVERY_LAST_SUCCESS.name)),
            of.discovery_stale,
            "Discovery of job {{ $labels.job }} does not complete: new conversations are not found.",
            "No exporter of job {{ $labels.job }} has looked through all live conversations for "
            "{{ $value | humanizeDuration }}.",
        ),
        _delay(
            "PhonicRequestsWaiting",
            promql.largest(promql.age(REQUESTS_WAITING_SINCE)),
            of.requests_waiting,
            "REST requests of job {{ $labels.job }} wait too long for their turn.",
            "The REST request of job {{ $labels.job }} that has waited longest has waited "
            "{{ $value | humanizeDuration }}.",
        ),
    )


def _seeing(slo: Slo) -> tuple[Alert, ...]:
    """Alerts: the exporter misses conversations or is too slow."""
    of = slo.alerts
    feed, lost, short = of.feed_errors, of.conversations_lost, of.watching_falls_short
    active = f"max by (job, project) ({c.PROJECT_ACTIVE.name})"
    live = f"max by (job, project) (sum by (job, project, instance, pod) ({c.CONVERSATIONS_LIVE.name}))"
    seen = f"max by (job) (sum by (job, instance, pod) (increase({c.CONVERSATIONS.sample_name}[{lost.window}])))"
    return (
        Alert(
            name="PhonicFeedErrors",
            group="phonic-exporter",
            expr=(
                f"  {promql.counted(f'increase({c.FEED_ERRORS.sample_name}[{feed.window}])', 'reason')}\n"
                f">=\n"
                f"  clamp_min({feed.ratio:g} * {promql.counted(c.WATCHERS.name, 'state')}, {feed.minimum})"
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
        # Aggregates by (job, project), not without labels, because the two families have different labels. Covers
        # only the projects that discovery searches (--watch.project). Without the label project (--metrics.labels)
        # nothing can be compared, so the alert cannot fire.
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
                f"and on (job, project)\n"
                f"  {c.DISCOVERED.name}\n"
                f"unless on (job)\n"
                f'  {c.CONVERSATIONS_LIVE.name}{{project=""}}'
            ),
            severity=short.severity,
            lasting=short.lasting,
            keep_firing=short.keep_firing,
            summary=(
                "Conversations of project {{ $labels.project }} are in progress that the exporter does not watch."
            ),
            description=(
                "Active conversations of project {{ $labels.project }} that are not watched, and whose timings "
                "cannot be fetched later: {{ $value }}."
            ),
            board="phonic-exporter",
            labels=("project",),
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
            promql.largest(f"abs({CLOCK_OFFSET})"),
            of.clock_off,
            "The clocks of job {{ $labels.job }} and of Phonic differ: waits of live callers are wrong.",
            "The clock of the exporter of job {{ $labels.job }} is {{ $value | humanizeDuration }} from Phonic's.",
        ),
    )


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
            "The exporter of job {{ $labels.job }} cannot write its state file: a restart would lose counts.",
            "The pages of job {{ $labels.job }} show numbers that are not in its state file.",
        ),
        _occurred(
            "PhonicCheckpointFailing",
            f"{promql.counted(f'increase({c.CHECKPOINT_ERRORS.sample_name}[$window])')} > 0",
            of.checkpoint_failing,
            "The exporter of job {{ $labels.job }} cannot write its checkpoint: a restart would lose counts.",
            "{{ $value | humanize }} checkpoints of job {{ $labels.job }} failed within $window.",
        ),
        _occurred(
            "PhonicSchemaDrift",
            f"  {promql.counted(f'increase({c.UNKNOWN_FIELDS.sample_name}[$window])', 'object')}\n"
            f"+\n"
            f"  {promql.counted(f'increase({c.UNKNOWN_WORDS.sample_name}[$window])', 'field')}\n"
            f"  > 0",
            of.schema_drift,
            "Phonic sends fields or words that the exporter of job {{ $labels.job }} does not know.",
            "{{ $value | humanize }} unknown fields or words were met by job {{ $labels.job }} within $window.",
        ),
        _occurred(
            "PhonicLabelsFolded",
            f"{promql.counted(f'increase({c.LABEL_VALUES_FOLDED.sample_name}[$window])')} > 0",
            of.labels_folded,
            "Label values of job {{ $labels.job }} are folded: metrics no longer tell agents apart.",
            "{{ $value | humanize }} conversations lost their {{ $labels.label }} to a limit within $window.",
        ),
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
