"""Pure: the alerts: few, on what callers or operators feel, each with a runbook entry and a dashboard.

Rules for this file: a summary is a fixed sentence, a description is templated and says what was measured; what a
ratio needs at least to mean something is part of the expression; a series that is absent never fires an alert,
except where absence is the point. Expressions work on Prometheus 2.42 and 3.
"""

from typing import Any

import attrs

from exporter.metrics import catalogue as c

from . import promql
from .rules import Indicator, indicators
from .slo import Burn, Occurrence, Share, Slo

AGENT = ("project", "agent")
GROUPS = ("phonic-callers", "phonic-budgets", "phonic-exporter")


@attrs.frozen(kw_only=True)
class Alert:
    """One alert. ``board`` is the uid of the dashboard to look at, ``labels`` those the link keeps."""

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

    def annotations(self, slo: Slo) -> dict[str, str]:
        """Summary, description and links, with Prometheus' templates still in them."""
        query = "&".join(f"var-{label}={{{{ $labels.{label} | urlquery }}}}" for label in self.labels)
        return {
            "summary": self.summary,
            "description": self.description,
            "dashboard_url": f"{slo.links.grafana}/d/{self.board}" + (f"?{query}" if query else ""),
            "runbook_url": f"{slo.links.runbook}#{self.name.lower()}",
        }

    def rule(self, slo: Slo) -> dict[str, Any]:
        """The alert as a rule file spells it."""
        keep = {"keep_firing_for": self.keep_firing} if self.keep_firing else {}
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.lasting,
            **keep,
            "labels": {"severity": self.severity},
            "annotations": self.annotations(slo),
        }


def alerts(slo: Slo) -> tuple[Alert, ...]:
    """All alerts, the most urgent first within each group."""
    return (*_callers(slo), *_budgets(slo), *_exporter(slo))


def alerting(slo: Slo) -> dict[str, Any]:
    """The rule file."""
    everything = alerts(slo)
    return {
        "groups": [
            {"name": group, "rules": [a.rule(slo) for a in everything if a.group == group]} for group in GROUPS
        ]
    }


def _callers(slo: Slo) -> tuple[Alert, ...]:
    waiting, errors, tools = slo.alerts.callers_waiting, slo.alerts.error_endings, slo.alerts.tool_failures
    return (
        Alert(
            name="PhonicCallersWaiting",
            group="phonic-callers",
            expr=(
                f"count by (job, project, agent) (\n"
                f"    (time() - {c.LIVE_WAITING_SINCE.name} > {waiting.seconds:g})\n"
                f"  * on (job, instance, conversation_id) group_left (project, agent)\n"
                f"    {c.LIVE_INFO.name}\n"
                f") >= {waiting.callers}"
            ),
            severity=waiting.severity,
            lasting=waiting.lasting,
            keep_firing=waiting.keep_firing,
            summary="Callers are on the line and hear no answer.",
            description=(
                "Callers of agent {{ $labels.agent }} in project {{ $labels.project }} who have waited more than "
                f"{waiting.seconds:g} s for an answer: {{{{ $value }}}}."
            ),
            board="phonic-live",
            labels=AGENT,
        ),
        _share(
            name="PhonicErrorEndings",
            group="phonic-callers",
            bad=f"{promql.without('reason')} (increase({c.CONVERSATION_ERRORS.sample_name}[{errors.window}]))",
            every=f"{promql.without('ended_by')} (increase({c.CONVERSATIONS_ENDED.sample_name}[{errors.window}]))",
            of=errors,
            summary="Conversations of an agent end in errors.",
            what="conversations",
            did="ended in an error",
        ),
        _share(
            name="PhonicToolFailures",
            group="phonic-callers",
            bad=f"{promql.without('reason')} (increase({c.TOOL_CALL_FAILURES.sample_name}[{tools.window}]))",
            every=f"{promql.without()} (increase({c.TOOL_CALLS.sample_name}[{tools.window}]))",
            of=tools,
            summary="Tool calls of an agent fail.",
            what="tool calls",
            did="failed",
        ),
        Alert(
            name="PhonicConcurrencyNearLimit",
            group="phonic-callers",
            expr=(
                f"  {_highest(c.PROJECT_ACTIVE.name)} / {_highest(c.PROJECT_LIMIT.name)}\n"
                f"    > {slo.alerts.concurrency_near_limit.ratio:g}\n"
                f"or\n"
                f"  {_highest(c.WORKSPACE_ACTIVE.name)} / {_highest(c.WORKSPACE_LIMIT.name)}\n"
                f"    > {slo.alerts.concurrency_near_limit.ratio:g}"
            ),
            severity=slo.alerts.concurrency_near_limit.severity,
            lasting=slo.alerts.concurrency_near_limit.lasting,
            summary="Concurrent conversations are close to the limit, beyond which Phonic refuses calls.",
            description=(
                "{{ $value | humanizePercentage }} of the concurrent conversations that "
                "{{ if $labels.project }}project {{ $labels.project }}{{ else }}the workspace{{ end }} "
                "may have are in progress."
            ),
            board="phonic-overview",
            labels=("project",),
        ),
    )


def _share(*, name: str, group: str, bad: str, every: str, of: Share, summary: str, what: str, did: str) -> Alert:
    """Alert on a share of one agent's events; ``bad`` on the left keeps its labels for the description."""
    return Alert(
        name=name,
        group=group,
        expr=f"  {bad}\n/\n  {every}\n  > {of.ratio:g}\nand\n  {bad}\n  >= {of.minimum}",
        severity=of.severity,
        lasting=of.lasting,
        summary=summary,
        description=(
            f"{{{{ $value | humanizePercentage }}}} of the {what} of agent {{{{ $labels.agent }}}} in project "
            f"{{{{ $labels.project }}}} {did} within {of.window}."
        ),
        board="phonic-overview",
        labels=AGENT,
    )


def _budgets(slo: Slo) -> tuple[Alert, ...]:
    response, conversations = indicators(slo)
    limit = f"{slo.response.threshold_seconds:g}"
    texts: tuple[tuple[Indicator, str, str, str, str], ...] = (
        (response, "PhonicResponseBudgetBurn", "Responses are slow", f"answered later than {limit} s", "latency"),
        (conversations, "PhonicErrorBudgetBurn", "Conversations fail", "ended in an error", "overview"),
    )
    return tuple(
        Alert(
            name=name + speed.capitalize(),
            group="phonic-budgets",
            expr="\nor\n".join(_burning(slo, indicator, burn)),
            severity=burn.severity,
            lasting=burn.lasting,
            keep_firing=burn.keep_firing,
            summary=f"{summary}: the error budget is {state}.",
            description=(
                f"{{{{ $value | humanizePercentage }}}} of the "
                f"{'turns' if indicator is response else 'conversations'} of agent {{{{ $labels.agent }}}} in "
                f"project {{{{ $labels.project }}}} {what}; the objective allows "
                f"{1 - indicator.objective:.6g} of them."
            ),
            board=f"phonic-{board}",
            labels=AGENT,
        )
        for indicator, name, summary, what, board in texts
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
    of = slo.alerts
    feed, lost = of.feed_errors, of.conversations_lost
    feed_errors = f"{promql.without('reason')} (increase({c.FEED_ERRORS.sample_name}[{feed.window}]))"
    short = of.watching_falls_short
    active, live = (
        f"max by (job, project) ({c.PROJECT_ACTIVE.name})",
        f"sum by (job, project) ({c.CONVERSATIONS_LIVE.name})",
    )
    return (
        Alert(
            name="PhonicExporterDown",
            group="phonic-exporter",
            expr=f'up{{job="{slo.job}"}} == 0 or absent(up{{job="{slo.job}"}})',
            severity=of.exporter_down.severity,
            lasting=of.exporter_down.lasting,
            summary="The exporter cannot be scraped: live conversations are not observed.",
            description=(
                "Prometheus cannot scrape job {{ $labels.job }}"
                "{{ if $labels.instance }}, instance {{ $labels.instance }}{{ else }}: it has no target{{ end }}."
            ),
            board="phonic-exporter",
        ),
        Alert(
            name="PhonicUpstreamUnreachable",
            group="phonic-exporter",
            expr=f"max without (instance, pod) ({c.UP.name}) == 0",
            severity=of.upstream_unreachable.severity,
            lasting=of.upstream_unreachable.lasting,
            summary="Phonic's REST API does not answer the exporter: new conversations are not found.",
            description="No exporter of job {{ $labels.job }} gets an answer from Phonic's REST API.",
            board="phonic-exporter",
        ),
        Alert(
            name="PhonicFeedErrors",
            group="phonic-exporter",
            expr=(
                f"  {feed_errors}\n>=\n"
                f"  clamp_min({feed.ratio:g} * {promql.without('state')} ({c.WATCHERS.name}), {feed.minimum})"
            ),
            severity=feed.severity,
            lasting=feed.lasting,
            summary="Live feeds break or cannot be opened.",
            description=(
                f"{{{{ $value | humanize }}}} live feeds of job {{{{ $labels.job }}}} failed within {feed.window}."
            ),
            board="phonic-exporter",
        ),
        # By (job, project) and not without: the two families have different labels of their own. Only where
        # discovery searches, which --watch.project restricts; where --metrics.labels leaves project out there is
        # nothing to compare, and no alert.
        Alert(
            name="PhonicWatchingFallsShort",
            group="phonic-exporter",
            expr=(
                f"  {active} - ({live} or 0 * {active})\n"
                f">=\n"
                f"  clamp_min({short.ratio:g} * {active}, {short.minimum})\n"
                f"and on (job, project)\n"
                f"  {c.DISCOVERED.name}\n"
                f"unless on (job)\n"
                f'  {c.CONVERSATIONS_LIVE.name}{{project=""}}'
            ),
            severity=short.severity,
            lasting=short.lasting,
            summary="Conversations are in progress that the exporter does not watch.",
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
                f"  {promql.without()} (increase({c.CONVERSATIONS_LOST.sample_name}[{lost.window}]))\n"
                f">= on (job) group_left ()\n"
                f"  clamp_min({lost.ratio:g} * sum by (job) "
                f"(increase({c.CONVERSATIONS.sample_name}[{lost.window}])), {lost.minimum})"
            ),
            severity=lost.severity,
            lasting=lost.lasting,
            summary="Conversations ended before the exporter saw their timings.",
            description=(
                f"The timings of {{{{ $value | humanize }}}} conversations were lost within {lost.window} "
                f"(reason: {{{{ $labels.reason }}}}) and cannot be fetched later."
            ),
            board="phonic-exporter",
        ),
        _occurred(
            "PhonicCheckpointFailing",
            f"{promql.without()} (increase({c.CHECKPOINT_ERRORS.sample_name}[$window])) > 0",
            of.checkpoint_failing,
            "The exporter cannot write its checkpoint: a restart would lose counts.",
            "{{ $value | humanize }} checkpoints of job {{ $labels.job }} failed within $window.",
        ),
        _occurred(
            "PhonicSchemaDrift",
            f"  {promql.without('object')} (increase({c.UNKNOWN_FIELDS.sample_name}[$window]))\n"
            f"+\n"
            f"  {promql.without('field')} (increase({c.UNKNOWN_WORDS.sample_name}[$window]))\n"
            f"  > 0",
            of.schema_drift,
            "Phonic sends fields or words that the exporter does not know.",
            "{{ $value | humanize }} unknown fields or words were met by job {{ $labels.job }} within $window.",
        ),
        _occurred(
            "PhonicLabelsFolded",
            f"{promql.without()} (increase({c.LABEL_VALUES_FOLDED.sample_name}[$window])) > 0",
            of.labels_folded,
            "Label values are folded into __other__: metrics no longer tell agents apart.",
            "{{ $value | humanize }} conversations lost their {{ $labels.label }} to a limit within $window.",
        ),
    )


def _occurred(name: str, expr: str, of: Occurrence, summary: str, description: str) -> Alert:
    return Alert(
        name=name,
        group="phonic-exporter",
        expr=expr.replace("$window", of.window),
        severity=of.severity,
        lasting=of.lasting,
        summary=summary,
        description=description.replace("$window", of.window),
        board="phonic-exporter",
    )


def _highest(gauge: str) -> str:
    """A gauge that every replica reports alike."""
    return f"max without (instance, pod) ({gauge})"
