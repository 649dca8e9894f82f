"""Pure: expressions that more than one dashboard asks."""

from exporter.metrics import catalog as c

from ..promql import age, gauge, largest, part_of, rate, ratio, series
from ..slo import Slo

JOINED = "* on (job, instance, conversation_id) group_left (project, agent)"
RECORDED = 'job=~"$job",project=~"$project",agent=~"$agent"'

LATENCY_LINK = (
    "/d/phonic-latency?${__url_time_range}&${datasource:queryparam}&${job:queryparam}&${instance:queryparam}"
    "&var-project=${__data.fields.Project}&var-agent=${__data.fields.Agent}"
)


def of_selected_agents(expr: str) -> str:
    """Series by conversation_id alone, joined with whose it is; each once, however many exporters watch."""
    return largest(f"({expr}) {JOINED} {series(c.LIVE_INFO)}")


def zero_while_scraped(expr: str) -> str:
    """``expr`` without labels, or 0 when there is nothing to count; still absent when the exporter is."""
    return f"{expr} or 0 * max({series(c.BUILD_INFO)})"


def waits() -> str:
    """Seconds that each waiting caller has waited."""
    return of_selected_agents(age(series(c.LIVE_WAITING_SINCE)))


def waiting(slo: Slo, *by: str) -> str:
    """Callers who have waited longer than the alert allows."""
    long = of_selected_agents(f"{age(series(c.LIVE_WAITING_SINCE))} > {slo.alerts.callers_waiting.seconds:g}")
    return f"count by ({', '.join(by)}) ({long})" if by else f"count({long})"


def waiting_by_agent(slo: Slo) -> str:
    """The ten agents with most callers waiting; 0, and not nothing, where all are answered."""
    by = ("project", "agent")
    return f"topk(10, {waiting(slo, *by)} or 0 * {gauge(c.CONVERSATIONS_LIVE, *by)})"


def error_ratio(slo: Slo) -> str:
    """Share of the conversations that ended which ended in an error, over the window of the alert about it."""
    window = slo.alerts.error_endings.window
    return part_of(rate(c.CONVERSATION_ERRORS, window=window), rate(c.CONVERSATIONS_ENDED, window=window))


def lost_ratio(slo: Slo) -> str:
    """Share of the conversations whose timings were never seen, over the window of the alert about it."""
    window = slo.alerts.conversations_lost.window
    return ratio(rate(c.CONVERSATIONS_LOST, window=window), rate(c.CONVERSATIONS, window=window))


def slow_window(slo: Slo) -> str:
    """The window over which the first page about slow answers looks."""
    return slo.burn.fast.windows[0].long


def slow_limit(slo: Slo) -> float:
    """The share of slow turns within that window from which it pages."""
    return slo.factor(slo.burn.fast.windows[0]) * (1 - slo.response.objective)


def share(value: float) -> str:
    """A share as people say it: 5 %."""
    return f"{100 * value:.6g} %"


def in_progress() -> str:
    """Conversations in progress as Phonic counts them; replicas, which share a job, report the same number."""
    return f"sum({gauge(c.PROJECT_ACTIVE, 'job', 'project', operation='max')})"


def in_progress_where_searched() -> str:
    """The same, of the projects that discovery searches: what --watch.project leaves out is nobody's loss."""
    return (
        f"sum({gauge(c.PROJECT_ACTIVE, 'job', 'project', operation='max')} "
        f"and on (job, project) {gauge(c.DISCOVERED, 'job', 'project', operation='max')})"
    )


def per_minute(expr: str) -> str:
    """Calls happen by the minute, not by the second."""
    return f"60 * {expr}"
