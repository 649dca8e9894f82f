"""Pure: the dashboard *Live conversations*: each live call, and distributions of recently ended ones."""

from exporter.metrics import catalog as c
from exporter.metrics.catalog import Family

from ..frame import Row, board
from ..model import Board, Panel, Query, Text
from ..panels import Column, listing, number, rising, spread, trend
from ..promql import AGENT, age, gauge, quantile, series
from ..slo import Slo
from .questions import AGENT_NAME, of_selected_agents, waiting, waiting_by_agent, waits, zero_while_scraped

UID = "phonic-live"

# An empty value selects every conversation; links of exemplars set it to theirs.
CHOSEN = 'conversation_id=~"$conversation.*"'
CONVERSATION_LINK = (
    f"/d/{UID}"
    "?${__url_time_range}&${datasource:queryparam}&${job:queryparam}&${instance:queryparam}"
    "&var-conversation=${__value.raw}"
)


def build(slo: Slo) -> Board:
    """Build the rows: waiting callers, every call, one call in detail."""
    return board(
        uid=UID,
        title="Phonic / Live conversations",
        description="The calls going on now, one by one. Series of a conversation end when it does.",
        since="now-15m",
        refresh="5s",
        texts=(
            Text(
                name="conversation",
                label="Conversation",
                description="Id of one conversation, or its beginning; empty for all.",
            ),
        ),
        rows=[
            Row("Now", _now(slo)),
            Row("Calls", [_calls(slo), *_one()]),
            Row("Distributions", _distributions()),
            Row("Ended", _ended()),
        ],
    )


def _now(slo: Slo) -> list[Panel]:
    of = slo.alerts.callers_waiting
    return [
        number(
            "Live conversations",
            "Conversations that are being watched and live now.",
            gauge(c.CONVERSATIONS_LIVE),
            "short",
            width=6,
        ),
        number(
            "Callers waiting",
            f"Callers who have waited more than {of.seconds:g} s for an answer.",
            zero_while_scraped(waiting(slo)),
            "short",
            steps=rising(1, of.callers),
            width=6,
        ),
        number(
            "Longest wait",
            "The caller who has waited longest for an answer, counted since the end of their turn.",
            f"max({waits()})",
            "s",
            steps=rising(slo.response.threshold_seconds, of.seconds),
            width=6,
            empty="none waiting",
            decimals=1,
        ),
        number(
            "Longest call",
            "The conversation that has been going on longest.",
            f"max({of_selected_agents(series(c.LIVE_DURATION))})",
            "dthms",
            width=6,
            empty="no calls",
        ),
        trend(
            "Callers waiting, by agent",
            f"Calls without an answer for more than {of.seconds:g} s, the ten worst agents.",
            "short",
            Query(waiting_by_agent(slo), AGENT_NAME),
            stacked=True,
            decimals=0,
        ),
        trend(
            "Live conversations, by agent",
            "The ten busiest agents.",
            "short",
            Query(f"topk(10, {gauge(c.CONVERSATIONS_LIVE, *AGENT)} > 0)", AGENT_NAME),
            stacked=True,
            decimals=0,
        ),
    ]


def _calls(slo: Slo) -> Panel:
    limit = slo.alerts.callers_waiting.seconds
    return listing(
        "Calls going on now, who waits longest first",
        "Every live conversation that has series of its own (--metrics.per-conversation-limit). "
        "Waiting counts from the end of the user's turn while no answer has begun; first audio and generation are "
        "those of the latest turn; silent since is the age of the latest snapshot. An id leads to the exporter's "
        "page of that conversation, turn by turn, or shows it alone here.",
        [
            Column(
                title="Conversation",
                label="conversation_id",
                link=CONVERSATION_LINK,
                page=f"{slo.links.exporter}/conversations/${{__value.raw}}",
                width=365,
            ),
            Column(title="Workspace", label="workspace"),
            Column(title="Project", label="project"),
            Column(title="Agent", label="agent"),
            Column(title="Origin", label="origin", width=155),
            Column(
                title="Waiting",
                expr=_called(age(_chosen(c.LIVE_WAITING_SINCE))),
                unit="s",
                steps=rising(slo.response.threshold_seconds, limit),
                decimals=1,
                width=80,
            ),
            Column(title="Duration", expr=_called(_chosen(c.LIVE_DURATION)), unit="dthms", width=90),
            Column(title="Turns", expr=_called(_chosen(c.LIVE_TURNS)), decimals=0, width=60),
            Column(title="First audio", expr=_called(_chosen(c.LIVE_FIRST_AUDIO)), unit="s", width=95),
            Column(title="Generation", expr=_called(_chosen(c.LIVE_GENERATION)), unit="s", width=95),
            Column(
                title="Silent since",
                expr=_called(age(_chosen(c.LIVE_LAST_UPDATE))),
                unit="s",
                decimals=0,
                width=100,
            ),
        ],
        sort="Waiting",
        height=12,
    )


def _one() -> list[Panel]:
    return [
        trend(
            "First audio and generation",
            "Latest turn of the conversation chosen above, or of the ten slowest.",
            "s",
            *(
                Query(
                    f"topk(10, max by (conversation_id) ({_called(_chosen(family))}))",
                    f"{name} {{{{conversation_id}}}}",
                )
                for family, name in ((c.LIVE_FIRST_AUDIO, "first audio"), (c.LIVE_GENERATION, "generation"))
            ),
        ),
        trend(
            "Turns so far",
            "Of the conversation chosen above, or of the ten longest. A flat line is a call without new turns.",
            "short",
            Query(
                f"topk(10, max by (conversation_id) ({_called(_chosen(c.LIVE_TURNS))}))",
                "{{conversation_id}}",
            ),
            decimals=0,
        ),
    ]


def _distributions() -> list[Panel]:
    return [
        spread(
            "Duration of live calls",
            "How long the calls of this moment have been going on.",
            of_selected_agents(series(c.LIVE_DURATION)),
            "s",
        ),
        spread(
            "Turns of live calls",
            "How many turns the calls of this moment have had.",
            of_selected_agents(series(c.LIVE_TURNS)),
            "short",
        ),
        spread(
            "Last first audio of live calls",
            "First audio of the latest turn of each call of this moment.",
            of_selected_agents(series(c.LIVE_FIRST_AUDIO)),
            "s",
        ),
    ]


def _ended() -> list[Panel]:
    return [
        trend(
            "Duration of ended conversations",
            "From start to end, of the conversations that ended.",
            "s",
            *(
                Query(quantile(q, c.CONVERSATION_DURATION), f"p{100 * q:g}", exemplar=q == 0.95)
                for q in (0.5, 0.95)
            ),
        ),
        trend(
            "Turns of ended conversations",
            "Turns of users and assistants together, of the conversations that ended.",
            "short",
            *(Query(quantile(q, c.CONVERSATION_TURNS), f"p{100 * q:g}") for q in (0.5, 0.95)),
        ),
    ]


def _chosen(family: Family) -> str:
    return series(family, CHOSEN)


def _called(expr: str) -> str:
    """Reduce to the labels that the table shows, so that its queries are merged into one row per call."""
    joined = of_selected_agents(expr).replace("(project, agent)", "(project, agent, origin)")
    return f"max by (conversation_id, project, agent, origin) ({joined})"
