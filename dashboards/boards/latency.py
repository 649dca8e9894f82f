"""Pure: the dashboard *Latency*: how long callers wait for answers, by agent and by stage."""

from exporter.metrics import catalog as c

from ..frame import Row, board
from ..model import Board, Panel, Query
from ..panels import ORANGE, RED, Column, falling, heat, listing, number, rising, trend
from ..promql import AGENT, mean, quantile, rate, ratio, total
from ..slo import Slo
from .questions import (
    AGENT_NAME,
    LATENCY_LINK,
    gave_up_ratio,
    in_time,
    increase_by_bucket,
    per_minute,
    share,
    slow_limit,
    slow_window,
)

BY = AGENT
NAME = AGENT_NAME

# The parts of a wait, in order of time; the last one contains the two before it.
STAGES = (
    (
        c.END_OF_TURN,
        "end of turn",
        "what is left of the wait without first audio: recognising that the user has finished, and transport",
    ),
    (c.MODEL_INPUT, "model input", "from API output to the model's input, as Phonic reports it"),
    (c.MODEL_GENERATION, "model generation", "from the model's input to its first audio, as Phonic reports it"),
    (
        c.FIRST_AUDIO,
        "first audio",
        "from API output to the first audio chunk, as Phonic reports it, which contains the two before it",
    ),
)


def build(slo: Slo) -> Board:
    """Build the rows: what callers experience, at which agents, in which stage."""
    return board(
        uid="phonic-latency",
        title="Phonic / Latency",
        description="How long callers wait for answers, at which agent, and in which stage.",
        rows=[
            Row("Response", _response(slo)),
            Row("Agents", _agents(slo)),
            Row("Where the time goes", _stages(slo)),
            Row("Stage by stage", _heatmaps()),
            Row("Both sides", _sides()),
        ],
    )


def _response(slo: Slo) -> list[Panel]:
    limit, objective, leaving = (
        slo.response.threshold_seconds,
        slo.response.objective,
        slo.alerts.callers_giving_up,
    )
    felt = f"From the end of the user's turn to the start of the assistant's, over the last {slow_window(slo)}"
    return [
        *(
            number(
                f"Response p{100 * q:g}",
                f"{felt}; {many} of the answers came sooner. The objective is {limit:g} s.",
                quantile(q, c.RESPONSE, window=slow_window(slo)),
                "s",
                steps=rising(limit, 2 * limit),
                width=4,
                empty="no turns",
                capped=c.RESPONSE.buckets[-1],
            )
            for q, many in ((0.5, "half"), (0.95, "nineteen of twenty"), (0.99, "99 of a hundred"))
        ),
        number(
            "Answered in time",
            f"Share of the turns of the last {slow_window(slo)} answered within {limit:g} s; a caller who gave up "
            f"waiting got no answer. The objective is {share(objective)}; below {share(1 - slow_limit(slo))} an "
            "alert pages.",
            in_time(slo),
            "percentunit",
            steps=falling(1 - slow_limit(slo), objective),
            width=4,
            empty="no turns",
            decimals=1,
        ),
        number(
            "First audio p95",
            "From API output to the first audio chunk, inside Phonic, over the last five minutes.",
            quantile(0.95, c.FIRST_AUDIO),
            "s",
            width=4,
            empty="no turns",
            capped=c.FIRST_AUDIO.buckets[-1],
        ),
        number(
            "Answers",
            "Turns with a response time, each minute, over the last five minutes: the number of turns behind the "
            "quantiles beside it.",
            per_minute(rate(c.RESPONSE, part="count")),
            "cpm",
            width=4,
            decimals=0,
        ),
        heat(
            "Response",
            "Every answer by how long the caller waited for it. Diamonds are single turns and lead to their "
            "conversation.",
            increase_by_bucket(c.RESPONSE),
        ),
        trend(
            "Response quantiles",
            f"The same as quantiles. Dashed: the objective, {limit:g} s.",
            "s",
            *(Query(quantile(q, c.RESPONSE), f"p{100 * q:g}", exemplar=q == 0.99) for q in (0.5, 0.9, 0.95, 0.99)),
            steps=((None, "transparent"), (limit, RED)),
            capped=c.RESPONSE.buckets[-1],
        ),
        heat(
            "Waits before hang-ups",
            "Callers who hung up after their own turn, by how long they had waited for an answer; a goodbye is a "
            f"short wait. Above {limit:g} s they count as slow turns. Diamonds lead to their conversation.",
            increase_by_bucket(c.HANGUP_WAIT),
        ),
        trend(
            "Share of callers who gave up, the ten worst agents",
            f"Conversations that ended with a caller who had waited more than {limit:g} s, of the "
            f"{leaving.window} before. Dashed: where the alert begins, {share(leaving.ratio)}.",
            "percentunit",
            Query(f"topk(10, {gave_up_ratio(slo, *BY)})", NAME),
            steps=((None, "transparent"), (leaving.ratio, RED)),
        ),
    ]


def _agents(slo: Slo) -> list[Panel]:
    limit, allowed = slo.response.threshold_seconds, 1 - slo.response.objective
    return [
        trend(
            "Response p95, the ten slowest agents",
            f"Agents whose callers wait longest. Dashed: the objective, {limit:g} s.",
            "s",
            # `> 0` drops agents without turns: they are NaN, which topk sorts first.
            Query(f"topk(10, {quantile(0.95, c.RESPONSE, *BY)} > 0)", NAME, exemplar=True),
            steps=((None, "transparent"), (limit, RED)),
            capped=c.RESPONSE.buckets[-1],
        ),
        trend(
            "Share of slow turns, the ten worst agents",
            f"Turns answered later than {limit:g} s, or never, of the {slow_window(slo)} before. Dashed: what the "
            f"objective allows, {share(allowed)}, and where the paging alert begins, {share(slow_limit(slo))}.",
            "percentunit",
            Query(f"topk(10, 1 - {in_time(slo, *BY)})", NAME),
            steps=((None, "transparent"), (allowed, ORANGE), (slow_limit(slo), RED)),
        ),
        listing(
            "Quantiles by agent",
            "Each agent over the dashboard's time range: what callers felt, and what Phonic reports "
            "of its stages.",
            [
                Column(title="Workspace", label="workspace"),
                Column(title="Project", label="project"),
                Column(title="Agent", label="agent", link=LATENCY_LINK),
                Column(title="Answers", expr=total(c.RESPONSE, *BY, part="count"), decimals=0),
                *(
                    Column(
                        title=f"{title} p{100 * q:g}",
                        expr=f"histogram_quantile({q}, {total(family, 'le', *BY, part='bucket')})",
                        unit="s",
                        steps=rising(limit, 2 * limit) if family is c.RESPONSE else (),
                        capped=family.buckets[-1],
                    )
                    for family, title, quantiles in (
                        (c.RESPONSE, "Response", (0.5, 0.95, 0.99)),
                        (c.FIRST_AUDIO, "First audio", (0.95,)),
                        (c.MODEL_GENERATION, "Generation", (0.95,)),
                        (c.MODEL_INPUT, "Input", (0.95,)),
                        (c.END_OF_TURN, "End of turn", (0.95,)),
                    )
                    for q in quantiles
                ),
            ],
            sort="Response p95",
        ),
    ]


def _stages(slo: Slo) -> list[Panel]:
    limit = slo.response.threshold_seconds
    return [
        trend(
            "Mean response, stage by stage",
            "Means add up where quantiles do not. Model input and model generation as Phonic reports "
            "them; the rest of "
            "what the caller hears is recognising the end of the user's turn, and transport. Turns that "
            "have only some of the timings shift the stages against each other a little.",
            "s",
            Query(mean(c.END_OF_TURN), "1 end of turn and transport"),
            Query(mean(c.MODEL_INPUT), "2 model input"),
            Query(mean(c.MODEL_GENERATION), "3 model generation"),
            stacked=True,
        ),
        trend(
            "Slow turns by stage",
            f"Turns answered later than {limit:g} s, each minute, by the largest part of the wait; unknown where "
            "Phonic sent no timings.",
            "cpm",
            Query(per_minute(rate(c.SLOW_TURNS, "stage")), "{{stage}}"),
            stacked=True,
        ),
        trend(
            "p95 of each stage",
            "; ".join(f"{name}: {meaning}" for _, name, meaning in STAGES).capitalize() + ".",
            "s",
            *(Query(quantile(0.95, family), name, exemplar=True) for family, name, _ in STAGES),
            capped=max(family.buckets[-1] for family, _, _ in STAGES),
        ),
        tools(limit),
    ]


def _heatmaps() -> list[Panel]:
    return [
        *(
            heat(
                name.capitalize(),
                f"{meaning[0].upper()}{meaning[1:]}. Diamonds lead to their conversation.",
                increase_by_bucket(family),
            )
            for family, name, meaning in STAGES
        ),
    ]


def tools(limit: float) -> Panel:
    """Compare turns with and without tools, also for the dashboard *Tools*."""
    every, with_tools = (
        (rate(family, part="sum"), rate(family, part="count")) for family in (c.RESPONSE, c.TOOL_RESPONSE)
    )
    # The difference of two rates may be a little below 0 where there is hardly a turn without tools.
    seconds, turns = (f"clamp_min({a} - ({b} or 0 * {a}), 0)" for a, b in zip(every, with_tools, strict=True))
    return trend(
        "Response with and without tools",
        "Mean of the turns that made tool calls or answer a user's turn with tool calls, and of all others; and "
        f"the 95th percentile with tools. Dashed: the objective, {limit:g} s.",
        "s",
        Query(mean(c.TOOL_RESPONSE), "with tools"),
        Query(ratio(seconds, turns), "without tools"),
        Query(quantile(0.95, c.TOOL_RESPONSE), "with tools, p95", exemplar=True),
        steps=((None, "transparent"), (limit, RED)),
        capped=c.TOOL_RESPONSE.buckets[-1],
    )


def _sides() -> list[Panel]:
    return [
        trend(
            "Length of turns, p95",
            "How long users and assistants speak: long assistant turns keep callers from answering.",
            "s",
            Query(quantile(0.95, c.TURN_DURATION, "role"), "{{role}}"),
        ),
        trend(
            "Answers that began too early",
            "Assistant turns that started before the user's had ended, each minute, the ten agents "
            "with most of "
            "them. They have no response time.",
            "cpm",
            Query(f"topk(10, {per_minute(rate(c.OVERLAPS, *BY))} > 0)", NAME),
        ),
        trend(
            "How soon callers speak",
            "From the end of an assistant's turn to the start of the user's. Long pauses are confusion, or speech "
            "that was not heard.",
            "s",
            *(Query(quantile(q, c.USER_RESPONSE), f"p{100 * q:g}", exemplar=q == 0.95) for q in (0.5, 0.95)),
            capped=c.USER_RESPONSE.buckets[-1],
        ),
        trend(
            "First word",
            "From the start of a conversation to its first turn, where that is the assistant's. Whether the start "
            "includes ringing is not documented.",
            "s",
            *(Query(quantile(q, c.GREETING), f"p{100 * q:g}", exemplar=q == 0.95) for q in (0.5, 0.95)),
            capped=c.GREETING.buckets[-1],
        ),
    ]
