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
from ..promql import AGENT, WORKSPACE, beyond, gauge, occurring, part_of, quantile, rate, ratio, total
from ..rules import budget_left, indicators
from ..slo import Slo
from .questions import (
    AGENT_NAME,
    LATENCY_LINK,
    RECORDED,
    error_ratio,
    gave_up,
    gave_up_ratio,
    in_progress,
    in_time,
    minutes,
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
            f"Share of the turns of the last {slow_window(slo)} answered within {limit:g} s; a caller who gave up "
            f"waiting got no answer. The objective is {share(objective)}; below {share(1 - slow_limit(slo))} an "
            "alert pages.",
            in_time(slo),
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
            f"max({gauge(c.PROJECT_ACTIVE, 'job', WORKSPACE, 'project', operation='max')} / "
            f"{gauge(c.PROJECT_LIMIT, 'job', WORKSPACE, 'project', operation='max')} or "
            f"{gauge(c.WORKSPACE_ACTIVE, 'job', WORKSPACE, operation='max')} / "
            f"{gauge(c.WORKSPACE_LIMIT, 'job', WORKSPACE, operation='max')})",
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
        *_calls(slo),
        _firing(slo),
        trend(
            "Callers waiting, by agent",
            f"Live calls without an answer for more than {slo.alerts.callers_waiting.seconds:g} s, by "
            "agent; the ten "
            "worst.",
            "short",
            Query(waiting_by_agent(slo), AGENT_NAME),
            width=12,
            stacked=True,
            decimals=0,
        ),
    ]


def _calls(slo: Slo) -> list[Panel]:
    """Build a line of tiles about how calls go. Events are few, so they have the window of the slow alerts."""
    of, price = slo.alerts.callers_giving_up, slo.cost.price_per_minute
    spoken = rate(c.TURN_DURATION, part="sum", window=of.window)
    by_assistant = rate(c.TURN_DURATION, matchers=('role="assistant"',), part="sum", window=of.window)
    lasted = rate(c.CONVERSATION_DURATION, part="sum", window=of.window)
    an_hour = f"3600 * {lasted} / 60"
    return [
        number(
            "Gave up waiting",
            f"Share of the conversations that ended in the last {of.window} with a caller who had waited more "
            f"than {slo.response.threshold_seconds:g} s for an answer when they hung up; from {share(of.ratio)} "
            "of one agent's there is an alert.",
            gave_up_ratio(slo),
            "percentunit",
            steps=rising(of.ratio / 2, of.ratio),
            empty="no ends",
            decimals=1,
        ),
        number(
            "First word p95",
            f"In nineteen of twenty conversations of the last {of.window} the assistant spoke sooner after the "
            "start, where it spoke first. Whether the start includes ringing is not documented.",
            quantile(0.95, c.GREETING, window=of.window),
            "s",
            empty="no greetings",
            capped=c.GREETING.buckets[-1],
        ),
        number(
            "Assistant talks",
            f"The assistant's part of the time in which the two sides spoke, over the last {of.window}.",
            part_of(by_assistant, spoken),
            "percentunit",
            empty="no turns",
            decimals=0,
        ),
        number(
            "Dead air",
            f"Share of the time of conversations in which no turn was spoken, over the last {of.window}. "
            "Approximate: turns count when they end, conversations when they do.",
            f"clamp(1 - {ratio(spoken, lasted)}, 0, 1)",
            "percentunit",
            empty="no ends",
            decimals=0,
        ),
        number(
            "Engaged",
            f"Share of the conversations that ended in the last {of.window} after more than 3 turns.",
            beyond(c.CONVERSATION_TURNS, 3, window=of.window),
            "percentunit",
            empty="no ends",
            decimals=0,
        ),
        number(
            "Barge-ins",
            f"Share of the callers' turns of the last {of.window} that began while the assistant still spoke. "
            "Phonic may shorten turns that are interrupted; then most are missing here.",
            part_of(
                rate(c.BARGE_INS, window=of.window), rate(c.TURNS, matchers=('role="user"',), window=of.window)
            ),
            "percentunit",
            empty="no turns",
            decimals=1,
        ),
        number(
            "Minutes an hour",
            f"Minutes of conversation an hour, by the ends of the last {of.window}.",
            an_hour,
            "short",
            width=3 if price else 6,
            empty="no ends",
            decimals=0,
        ),
        *(
            [
                number(
                    "Cost an hour",
                    f"Those minutes at {price:g} {slo.cost.currency} each (slo.yml).",
                    f"{price:g} * {an_hour}",
                    f"currency{slo.cost.currency}",
                    empty="no ends",
                    decimals=2,
                )
            ]
            if price
            else []
        ),
    ]


def _firing(slo: Slo) -> Panel:
    of = 'job=~"$job",alertname=~"Phonic.+",alertname!="PhonicWatchdog"'
    by = "max by (severity, alertname, workspace, project, agent)"
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
            Column(title="Workspace", label="workspace", width=100),
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
        trend(
            "Callers who gave up",
            f"Callers who hung up after having waited more than {limit:g} s for an answer, each minute; the ten "
            "agents with most of them.",
            "cpm",
            Query(
                f"topk(10, {per_minute(gave_up(slo, *AGENT, window='$__rate_interval'))})",
                AGENT_NAME,
            ),
            stacked=True,
        ),
        trend(
            "Slow turns by stage",
            f"Turns answered later than {limit:g} s, each minute, by the largest part of the wait: where to look "
            "first.",
            "cpm",
            Query(per_minute(rate(c.SLOW_TURNS, "stage")), "{{stage}}"),
            stacked=True,
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
            Query(
                f"sum({gauge(c.PROJECT_LIMIT, 'job', WORKSPACE, 'project', operation='max')})",
                "limit of the projects",
            ),
            Query(f"sum({gauge(c.WORKSPACE_LIMIT, WORKSPACE, operation='max')})", "limit of the workspace"),
            width=12,
        ),
        trend(
            "Starts",
            "Conversations seen for the first time, each minute, by project.",
            "cpm",
            Query(per_minute(rate(c.CONVERSATIONS, WORKSPACE, "project")), "{{project}} {{workspace}}"),
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
            "assistant chose to stay silent, interruptions as Phonic counts them after the end, and barge-ins as "
            "the exporter sees them.",
            "percentunit",
            *(
                Query(ratio(rate(family), rate(c.TURNS, matchers=('role="assistant"',))), legend)
                for family, legend in (
                    (c.OVERLAPS, "overlapping"),
                    (c.SILENT_TURNS, "silent"),
                    (c.INTERRUPTIONS, "interrupted"),
                    (c.BARGE_INS, "barge-ins"),
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
    by = AGENT
    errors = 1 - slo.conversations.objective
    return listing(
        "Agents, the slowest first",
        "Each agent over the dashboard's time range; an agent's name leads to its latencies.",
        [
            Column(title="Workspace", label="workspace"),
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
                expr=f"1 - {in_time(slo, *by, within_range=True)}",
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
            Column(title="Minutes", expr=minutes(total, *by), decimals=0),
            *(
                [
                    Column(
                        title="Cost",
                        expr=f"{slo.cost.price_per_minute:g} * {minutes(total, *by)}",
                        unit=f"currency{slo.cost.currency}",
                        decimals=2,
                    )
                ]
                if slo.cost.price_per_minute
                else []
            ),
        ],
        sort="Slow turns",
        height=8,
    )
