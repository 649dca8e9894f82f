"""Pure: the dashboard *Tools*: which tools are called, which fail, and what callers wait for them."""

from exporter.metrics import catalog as c

from ..frame import Row, board
from ..model import Board, Panel, Query
from ..panels import RED, Column, heat, listing, number, rising, trend
from ..promql import AGENT, beyond, occurring, part_of, quantile, rate, ratio, total
from ..slo import Slo
from .latency import tools as with_and_without
from .questions import AGENT_NAME, increase_by_bucket, per_minute, share, slow

TOOL = "tool"


def build(slo: Slo) -> Board:
    """Build the rows: state, single tools, what they cost callers."""
    return board(
        uid="phonic-tools",
        title="Phonic / Tools",
        description="Which tools agents call, which of them fail, and how long callers wait for them.",
        rows=[
            Row("Now", _now(slo)),
            Row("By tool", _tools(slo)),
            Row("Waits", _waits(slo)),
        ],
    )


def _now(slo: Slo) -> list[Panel]:
    of, limit = slo.alerts.tool_failures, slo.response.threshold_seconds
    return [
        number(
            "Tool calls",
            "Tool calls each minute, over the last five minutes.",
            per_minute(rate(c.TOOL_CALLS)),
            "cpm",
            width=6,
            decimals=1,
        ),
        number(
            "Failed calls",
            f"Share of the tool calls of the last {of.window} that failed; from {share(of.ratio)} of one agent's "
            "calls there is an alert. Failures are known only after the end of a conversation.",
            part_of(rate(c.TOOL_CALLS_FAILED, window=of.window), rate(c.TOOL_CALLS_COMPLETED, window=of.window)),
            "percentunit",
            steps=rising(of.ratio / 2, of.ratio),
            width=6,
            empty="no calls",
            decimals=1,
        ),
        number(
            "Response with tools p95",
            f"Nineteen of twenty answers that had to do with tools came sooner, over the last {of.window}. The "
            f"objective is {limit:g} s.",
            quantile(0.95, c.TOOL_RESPONSE, window=of.window),
            "s",
            steps=rising(limit, 2 * limit),
            width=6,
            empty="no turns",
            capped=c.TOOL_RESPONSE.buckets[-1],
        ),
        number(
            "Slow turns with tools",
            f"Share of the turns answered later than {limit:g} s, of the last {of.window}, that had to do with "
            "tools: how much of the slowness tools can explain.",
            part_of(slow(slo, c.TOOL_RESPONSE, window=of.window), slow(slo, c.RESPONSE, window=of.window)),
            "percentunit",
            width=6,
            empty="no slow turns",
            decimals=0,
        ),
    ]


def _tools(slo: Slo) -> list[Panel]:
    of = slo.alerts.tool_failures
    failed = rate(c.TOOL_CALLS_FAILED, TOOL, window=of.window)
    completed = rate(c.TOOL_CALLS_COMPLETED, TOOL, window=of.window)
    return [
        trend(
            "Calls by tool",
            "Tool calls of ended conversations, each minute, of the ten tools called most. They are known only "
            "after the end of a conversation, so the graph lags by the length of a call.",
            "cpm",
            Query(f"topk(10, {per_minute(rate(c.TOOL_CALLS_COMPLETED, TOOL))})", "{{tool}}"),
            stacked=True,
        ),
        trend(
            "Failure share by tool",
            f"Share of the calls of each tool that failed, of the {of.window} before, the ten worst tools. "
            f"Dashed: from where an alert begins if it is so of all calls of an agent, {share(of.ratio)}.",
            "percentunit",
            Query(f"topk(10, {part_of(failed, completed)})", "{{tool}}"),
            steps=((None, "transparent"), (of.ratio, RED)),
        ),
        listing(
            "Tools, the most failures first",
            "Each tool over the dashboard's time range: its calls in ended conversations, and how they failed. "
            "timeout is a slow tool, http_4xx a request that it refuses, http_5xx a tool that is down.",
            [
                Column(title="Tool", label=TOOL),
                Column(title="Calls", expr=total(c.TOOL_CALLS_COMPLETED, TOOL), decimals=0),
                Column(title="Failed", expr=total(c.TOOL_CALLS_FAILED, TOOL), decimals=0),
                Column(
                    title="Failure share",
                    expr=part_of(total(c.TOOL_CALLS_FAILED, TOOL), total(c.TOOL_CALLS_COMPLETED, TOOL)),
                    unit="percentunit",
                    steps=rising(of.ratio / 2, of.ratio),
                    decimals=1,
                ),
                *(
                    Column(
                        title=reason,
                        expr=total(c.TOOL_CALLS_FAILED, TOOL, matchers=(f'reason="{reason}"',)),
                        decimals=0,
                    )
                    for reason in c.TOOL_CALLS_FAILED.values[-1]
                ),
            ],
            sort="Failed",
            height=8,
        ),
        trend(
            "Calls and failures",
            "Tool calls as they are made, and those that failed, each minute. Failures are known later.",
            "cpm",
            Query(per_minute(rate(c.TOOL_CALLS)), "calls"),
            Query(per_minute(rate(c.TOOL_CALL_FAILURES)), "failed"),
        ),
        trend(
            "Failures by reason",
            "Failed tool calls each minute, by reason.",
            "cpm",
            Query(
                occurring(per_minute(rate(c.TOOL_CALL_FAILURES, "reason")), c.TOOL_CALL_FAILURES, "reason"),
                "{{reason}}",
            ),
            stacked=True,
        ),
    ]


def _waits(slo: Slo) -> list[Panel]:
    limit, window = slo.response.threshold_seconds, slo.alerts.tool_failures.window
    return [
        heat(
            "Response with tools",
            "Every answer that had to do with tools, by how long the caller waited for it. Diamonds lead to their "
            "conversation.",
            increase_by_bucket(c.TOOL_RESPONSE),
        ),
        with_and_without(limit),
        trend(
            "Share of slow turns, with tools and of all",
            f"Turns answered later than {limit:g} s, of the {window} before, as a share of those that had to do "
            "with tools, and of all.",
            "percentunit",
            Query(beyond(c.TOOL_RESPONSE, limit, window=window), "with tools"),
            Query(beyond(c.RESPONSE, limit, window=window), "all"),
        ),
        trend(
            "Slow turns with tools by agent",
            f"Turns answered later than {limit:g} s that had to do with tools, as a share of all turns of the "
            f"{window} before, the ten worst agents.",
            "percentunit",
            Query(
                "topk(10, "
                + ratio(
                    slow(slo, c.TOOL_RESPONSE, *AGENT, window=window),
                    rate(c.RESPONSE, *AGENT, part="count", window=window),
                )
                + ")",
                AGENT_NAME,
            ),
        ),
    ]
