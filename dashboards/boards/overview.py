"""Pure: the dashboard *Overview*: whether callers have problems, since when, and at which agent."""

from exporter.metrics import catalog as c

from ..frame import Row, board
from ..model import Board, Panel, Query
from ..panels import (
    BLUE,
    ORANGE,
    RED,
    Column,
    falling,
    listing,
    number,
    rising,
    trend,
)
from ..promql import bound, gauge, occurring, part_of, quantile, rate, ratio, total, within
from ..rules import budget_left, indicators
from ..slo import Slo
from .questions import (
    LATENCY_LINK,
    RECORDED,
    error_ratio,
    in_progress,
    per_minute,
    share,
    slow_limit,
    slow_window,
    waiting,
    waiting_by_agent,
    zero_while_scraped,
)


def build(slo: Slo) -> Board:
    """Build the rows: state, history and agents, everything else."""
    return board(
        uid="phonic-overview",
        title="Phonic / Overview",
        description="Whether callers have problems, since when, and at which agent.",
        rows=[
            Row("Now", _now(slo)),
            Row("Since when", _suffering(slo)),
            Row("Agents", [_agents(slo)]),
            Row("Conversations", _conversations(slo)),
        ],
    )


def _now(slo: Slo) -> list[Panel]:
    limit, objective = slo.response.threshold_seconds, slo.response.objective
    errors = 1 - slo.conversations.objective
    response, conversations = indicators(slo)
    near = slo.alerts.concurrency_near_limit.ratio
    seconds, ends = slo.alerts.callers_waiting.seconds, slo.alerts.error_endings
    return [
        number(
            "Callers waiting",
            f"Live calls in which the user has finished and has heard nothing for more than {seconds:g} s.",
            zero_while_scraped(waiting(slo)),
            "short",
            steps=rising(1, slo.alerts.callers_waiting.callers),
        ),
        number(
            "Response p95",
            f"Nineteen of twenty answers of the last {slow_window(slo)} came sooner. From the end of the "
            f"user's turn to the start of the assistant's; the objective is {limit:g} s.",
            quantile(0.95, c.RESPONSE, window=slow_window(slo)),
            "s",
            steps=rising(limit, 2 * limit),
            empty="no turns",
            capped=c.RESPONSE.buckets[-1],
        ),
        number(
            "Answered in time",
            f"Share of the turns of the last {slow_window(slo)} answered within {limit:g} s. The objective is "
            f"{share(objective)}; below {share(1 - slow_limit(slo))} an alert pages.",
            within(c.RESPONSE, limit, window=slow_window(slo)),
            "percentunit",
            steps=falling(1 - slow_limit(slo), objective),
            empty="no turns",
            decimals=1,
        ),
        number(
            "Error endings",
            f"Share of the conversations of the last {ends.window} that ended in an error. "
            f"The objective allows {share(errors)}; from {share(ends.ratio)} of one agent's there is an alert.",
            error_ratio(slo),
            "percentunit",
            steps=rising(min(errors, ends.ratio / 2), ends.ratio),
            empty="no ends",
            decimals=1,
        ),
        number(
            "Live of limit",
            "Concurrent conversations in progress against the limit of project or workspace, "
            "whichever is closer "
            "to its own. Phonic refuses calls beyond it.",
            f"max({gauge(c.PROJECT_ACTIVE, 'job', 'project', operation='max')} / "
            f"{gauge(c.PROJECT_LIMIT, 'job', 'project', operation='max')} or "
            f"{gauge(c.WORKSPACE_ACTIVE, 'job', operation='max')} / "
            f"{gauge(c.WORKSPACE_LIMIT, 'job', operation='max')})",
            "percentunit",
            steps=rising(near, slo.alerts.concurrency_at_limit.ratio),
            empty="no limit known",
            decimals=0,
        ),
        number(
            "Live calls",
            "Conversations that are being watched and live now.",
            gauge(c.CONVERSATIONS_LIVE),
            "short",
            steps=((None, BLUE),),
        ),
        number(
            "Response budget",
            f"Share of the slow turns that {slo.period} may have ({share(1 - objective)} of all) which "
            "is still unspent. "
            "Read from the recording rules; below 0 the objective is missed.",
            budget_left(slo, response, RECORDED),
            "percentunit",
            steps=falling(0, 0.25),
            empty="no turns recorded",
            decimals=0,
        ),
        number(
            "Error budget",
            f"Share of the error endings that {slo.period} may have ({share(errors)} of all) which is "
            "still unspent. "
            "Read from the recording rules; below 0 the objective is missed.",
            budget_left(slo, conversations, RECORDED),
            "percentunit",
            steps=falling(0, 0.25),
            empty="no ends recorded",
            decimals=0,
        ),
        _firing(slo),
        trend(
            "Callers waiting, by agent",
            f"Live calls without an answer for more than {slo.alerts.callers_waiting.seconds:g} s, by "
            "agent; the ten "
            "worst.",
            "short",
            Query(waiting_by_agent(slo), "{{project}} / {{agent}}"),
            width=12,
            stacked=True,
            decimals=0,
        ),
    ]


def _firing(slo: Slo) -> Panel:
    of = 'job=~"$job",alertname=~"Phonic.+",alertname!="PhonicWatchdog"'
    by = "max by (severity, alertname, project, agent)"
    firing = f'{by} (ALERTS{{{of},alertstate="firing"}})'
    return listing(
        "Firing alerts",
        "Alerts of the chosen jobs that fire now, and for how long their cause has been there. An alert's name "
        "leads to its entry in the runbook, an agent's to its latencies. Empty when all is well.",
        [
            Column(title="Alert", label="alertname", link=f"{slo.links.runbook}#${{__value.raw}}", width=250),
            Column(
                title="Severity",
                label="severity",
                width=78,
                names={"critical": ("critical", RED), "warning": ("warning", ORANGE), "info": ("info", BLUE)},
            ),
            Column(title="Project", label="project", width=140),
            Column(title="Agent", label="agent", link=LATENCY_LINK),
            Column(
                title="For",
                expr=f"time() - ({by} (ALERTS_FOR_STATE{{{of}}}) and {firing})",
                unit="s",
                decimals=0,
                width=68,
            ),
        ],
        sort="For",
        height=8,
        width=12,
        empty="no alert fires",
    )


def _suffering(slo: Slo) -> list[Panel]:
    limit, errors, ends = slo.response.threshold_seconds, 1 - slo.conversations.objective, slo.alerts.error_endings
    return [
        trend(
            "Response time",
            "The silence callers hear, from the end of the user's turn to the start of the assistant's. "
            f"Dashed: the objective, {limit:g} s. Diamonds are single turns and lead to their conversation.",
            "s",
            *(Query(quantile(q, c.RESPONSE), f"p{100 * q:g}", exemplar=q == 0.99) for q in (0.5, 0.95, 0.99)),
            steps=((None, "transparent"), (limit, RED)),
            capped=c.RESPONSE.buckets[-1],
        ),
        trend(
            "Share of error endings",
            f"Share of the conversations of the {ends.window} before that ended in an error, as on the "
            f"tile above. Dashed: what the objective allows, {share(errors)}, and where the alert begins, "
            f"{share(ends.ratio)}.",
            "percentunit",
            Query(error_ratio(slo), "all"),
            Query(
                occurring(
                    f"{rate(c.CONVERSATION_ERRORS, 'reason', window=ends.window)} / on () group_left () "
                    f"({rate(c.CONVERSATIONS_ENDED, window=ends.window)} > 0)",
                    c.CONVERSATION_ERRORS,
                    "reason",
                ),
                "{{reason}}",
            ),
            width=12,
            steps=((None, "transparent"), (errors, ORANGE), (ends.ratio, RED)),
        ),
    ]


def _conversations(slo: Slo) -> list[Panel]:
    response, conversations = indicators(slo)
    short = slo.burn.fast.windows[0].long
    fast, slow = slo.factor(slo.burn.fast.windows[0]), slo.factor(slo.burn.slow.windows[-1])
    return [
        trend(
            "Live conversations and limits",
            "Watched by the exporter, in progress as Phonic counts them, and the limits beyond which "
            "calls are "
            "refused.",
            "short",
            Query(gauge(c.CONVERSATIONS_LIVE), "watched"),
            Query(in_progress(), "in progress"),
            Query(f"sum({gauge(c.PROJECT_LIMIT, 'job', 'project', operation='max')})", "limit of the projects"),
            Query(gauge(c.WORKSPACE_LIMIT, operation="max"), "limit of the workspace"),
            width=12,
        ),
        trend(
            "Starts",
            "Conversations seen for the first time, each minute, by project.",
            "cpm",
            Query(per_minute(rate(c.CONVERSATIONS, "project")), "{{project}}"),
            width=12,
            stacked=True,
        ),
        trend(
            "Ends by reason",
            "Conversations that ended, each minute, by what ended them.",
            "cpm",
            Query(
                occurring(per_minute(rate(c.CONVERSATIONS_ENDED, "ended_by")), c.CONVERSATIONS_ENDED, "ended_by"),
                "{{ended_by}}",
            ),
            width=8,
            stacked=True,
        ),
        trend(
            "Budget burn",
            f"How many times faster than allowed the budgets went over {short}: at 1 they last exactly "
            f"{slo.period}. Dashed: where the alerts start.",
            "short",
            *(
                Query(
                    f"sum({bad}{{{RECORDED}}}) / (sum({every}{{{RECORDED}}}) > 0) / {1 - i.objective:.6g}",
                    i.name,
                )
                for i in (response, conversations)
                for bad, every in [i.rates(short)]
            ),
            width=8,
            steps=((None, "transparent"), (slow, ORANGE), (fast, RED)),
        ),
        trend(
            "Turns",
            "Turns of users and assistants, each minute.",
            "cpm",
            Query(per_minute(rate(c.TURNS, "role")), "{{role}}"),
            width=8,
        ),
        trend(
            "Manners",
            "As shares of the assistant's turns: answers that began before the user had finished, "
            "turns in which the "
            "assistant chose to stay silent, and interruptions.",
            "percentunit",
            *(
                Query(ratio(rate(family), rate(c.TURNS, matchers=('role="assistant"',))), legend)
                for family, legend in (
                    (c.OVERLAPS, "overlapping"),
                    (c.SILENT_TURNS, "silent"),
                    (c.INTERRUPTIONS, "interrupted"),
                )
            ),
        ),
        trend(
            "Tool calls",
            "Tool calls each minute, and those that failed, by reason.",
            "cpm",
            Query(per_minute(rate(c.TOOL_CALLS)), "calls"),
            Query(per_minute(rate(c.TOOL_CALL_FAILURES)), "failed"),
            Query(
                occurring(per_minute(rate(c.TOOL_CALL_FAILURES, "reason")), c.TOOL_CALL_FAILURES, "reason"),
                "failed: {{reason}}",
            ),
        ),
    ]


def _agents(slo: Slo) -> Panel:
    limit = slo.response.threshold_seconds
    by = ("project", "agent")
    soon = total(c.RESPONSE, *by, matchers=(f'le="{bound(limit)}"',), part="bucket")
    errors = 1 - slo.conversations.objective
    return listing(
        "Agents, the slowest first",
        "Each agent over the dashboard's time range; an agent's name leads to its latencies.",
        [
            Column(title="Project", label="project"),
            Column(title="Agent", label="agent", link=LATENCY_LINK),
            Column(title="Live", expr=gauge(c.CONVERSATIONS_LIVE, *by)),
            Column(title="Conversations", expr=total(c.CONVERSATIONS, *by), decimals=0),
            Column(title="Turns", expr=total(c.TURNS, *by), decimals=0),
            Column(
                title="Response p95",
                expr=f"histogram_quantile(0.95, {total(c.RESPONSE, 'le', *by, part='bucket')})",
                unit="s",
                steps=rising(limit, 2 * limit),
                capped=c.RESPONSE.buckets[-1],
            ),
            Column(
                title="Slow turns",
                expr=f"1 - {part_of(soon, total(c.RESPONSE, *by, part='count'))}",
                unit="percentunit",
                steps=rising(1 - slo.response.objective, slow_limit(slo)),
                decimals=1,
            ),
            Column(
                title="Error endings",
                expr=part_of(total(c.CONVERSATION_ERRORS, *by), total(c.CONVERSATIONS_ENDED, *by)),
                unit="percentunit",
                steps=rising(min(errors, slo.alerts.error_endings.ratio / 2), slo.alerts.error_endings.ratio),
                decimals=1,
            ),
            Column(
                title="Tool failures",
                expr=ratio(total(c.TOOL_CALL_FAILURES, *by), total(c.TOOL_CALLS, *by)),
                unit="percentunit",
                steps=rising(slo.alerts.tool_failures.ratio / 2, slo.alerts.tool_failures.ratio),
                decimals=1,
            ),
        ],
        sort="Slow turns",
        height=8,
    )
