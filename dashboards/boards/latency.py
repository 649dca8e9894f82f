"""Pure: the dashboard *Latency*: how long callers wait for answers, by agent and by stage."""

from exporter.metrics import catalog as c
from exporter.metrics.catalog import Family

from ..frame import Row, board
from ..model import Board, Panel, Query
from ..panels import ORANGE, RED, Column, falling, heat, listing, number, rising, trend
from ..promql import beyond, largest, mean, quantile, rate, series, total, within
from ..slo import Slo
from .questions import LATENCY_LINK, per_minute, share, slow_limit, slow_window

BY = ("project", "agent")
NAME = "{{project}} / {{agent}}"

# The timings that Phonic reports for a turn, in order of time; the last one contains the others.
STAGES = (
    (c.MODEL_INPUT, "model input", "from API output to the model's input"),
    (c.MODEL_GENERATION, "model generation", "from the model's input to its first audio"),
    (c.FIRST_AUDIO, "first audio", "from API output to the first audio chunk, which contains the two others"),
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
            Row("Where the time goes", _stages()),
            Row("Stage by stage", _heatmaps()),
        ],
    )


def _response(slo: Slo) -> list[Panel]:
    limit, objective = slo.response.threshold_seconds, slo.response.objective
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
            f"Share of the turns of the last {slow_window(slo)} answered within {limit:g} s. The objective is "
            f"{share(objective)}; below {share(1 - slow_limit(slo))} an alert pages.",
            within(c.RESPONSE, limit, window=slow_window(slo)),
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
            _increase(c.RESPONSE),
        ),
        trend(
            "Response quantiles",
            f"The same as quantiles. Dashed: the objective, {limit:g} s.",
            "s",
            *(Query(quantile(q, c.RESPONSE), f"p{100 * q:g}", exemplar=q == 0.99) for q in (0.5, 0.9, 0.95, 0.99)),
            steps=((None, "transparent"), (limit, RED)),
            capped=c.RESPONSE.buckets[-1],
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
            f"Turns answered later than {limit:g} s, of the {slow_window(slo)} before. Dashed: what the objective "
            f"allows, {share(allowed)}, and where the paging alert begins, {share(slow_limit(slo))}.",
            "percentunit",
            Query(f"topk(10, {beyond(c.RESPONSE, limit, *BY, window=slow_window(slo))})", NAME),
            steps=((None, "transparent"), (allowed, ORANGE), (slow_limit(slo), RED)),
        ),
        listing(
            "Quantiles by agent",
            "Each agent over the dashboard's time range: what callers felt, and what Phonic reports "
            "of its stages.",
            [
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
                    )
                    for q in quantiles
                ),
            ],
            sort="Response p95",
        ),
    ]


def _stages() -> list[Panel]:
    # Negative while turns with a first audio whose answer has not begun are counted.
    before = f"clamp_min({mean(c.RESPONSE)} - ({mean(c.FIRST_AUDIO)}), 0)"
    return [
        trend(
            "Mean response, stage by stage",
            "Means add up where quantiles do not. Model input and model generation as Phonic reports "
            "them; the rest of "
            "what the caller hears is recognising the end of the user's turn, and transport. Turns that "
            "have only some of the timings shift the stages against each other a little.",
            "s",
            Query(mean(c.MODEL_INPUT), "1 model input"),
            Query(mean(c.MODEL_GENERATION), "2 model generation"),
            Query(before, "3 end of turn and transport"),
            stacked=True,
        ),
        trend(
            "p95 of each stage",
            "; ".join(f"{name}: {meaning}" for _, name, meaning in STAGES).capitalize() + ".",
            "s",
            *(Query(quantile(0.95, family), name, exemplar=True) for family, name, _ in STAGES),
            capped=max(family.buckets[-1] for family, _, _ in STAGES),
        ),
    ]


def _heatmaps() -> list[Panel]:
    return [
        *(
            heat(
                name.capitalize(),
                f"{meaning.capitalize()}, as Phonic reports it. Diamonds lead to their conversation.",
                _increase(family),
                width=8,
            )
            for family, name, meaning in reversed(STAGES)
        ),
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
    ]


def _increase(family: Family) -> str:
    increase = largest(f"increase({series(family, part='bucket')}[$__rate_interval])")
    return f"sum by (le) ({increase})"
