"""Pure: expressions that several dashboards share."""

from collections.abc import Callable

from exporter.metrics import catalog as c

from ..promql import AGENT, WORKSPACE, age, bound, gauge, largest, part_of, rate, ratio, series, total
from ..slo import Slo

JOINED = f"* on (job, instance, conversation_id) group_left ({', '.join(AGENT)})"
RECORDED = 'job=~"$job",workspace=~"$workspace",project=~"$project",agent=~"$agent"'
# The name of the workspace at the end, where nothing is seen of it if there is none.
AGENT_NAME = "{{project}} / {{agent}} {{workspace}}"

LATENCY_LINK = (
    "/d/phonic-latency?${__url_time_range}&${datasource:queryparam}&${job:queryparam}&${instance:queryparam}"
    "&${workspace:queryparam}&var-project=${__data.fields.Project}&var-agent=${__data.fields.Agent}"
)


def of_selected_agents(expr: str) -> str:
    """Join series that have only conversation_id with project and agent; one series per conversation."""
    return largest(f"({expr}) {JOINED} {series(c.LIVE_INFO)}")


def zero_while_scraped(expr: str) -> str:
    """Return ``expr`` (without labels), or 0 if it is empty; absent if the exporter is not scraped."""
    return f"{expr} or 0 * max({series(c.BUILD_INFO)})"


def waits() -> str:
    """Return the seconds that each waiting caller has waited."""
    return of_selected_agents(age(series(c.LIVE_WAITING_SINCE)))


def waiting(slo: Slo, *by: str) -> str:
    """Count the callers who have waited longer than the alert allows."""
    long = of_selected_agents(f"{age(series(c.LIVE_WAITING_SINCE))} > {slo.alerts.callers_waiting.seconds:g}")
    return f"count by ({', '.join(by)}) ({long})" if by else f"count({long})"


def waiting_by_agent(slo: Slo) -> str:
    """Return the ten agents with most waiting callers; 0, not absent, if none waits."""
    return f"topk(10, {waiting(slo, *AGENT)} or 0 * {gauge(c.CONVERSATIONS_LIVE, *AGENT)})"


def in_time(slo: Slo, *by: str, within_range: bool = False) -> str:
    """Return the share of answers in time, as the response budget counts: a caller who gave up got none.

    Over the window of the first paging alert, or the dashboard's time range.
    """

    def count(family: c.Family, part: str, matchers: tuple[str, ...] = ()) -> str:
        if within_range:
            return total(family, *by, matchers=matchers, part=part)
        return rate(family, *by, matchers=matchers, part=part, window=slow_window(slo))

    answers = count(c.RESPONSE, "count")
    soon = count(c.RESPONSE, "bucket", (_le(slo),))
    gave_up = f"({count(c.HANGUP_WAIT, 'count')} - {count(c.HANGUP_WAIT, 'bucket', (_le(slo),))})"
    # An exporter that does not count hang-ups yet has no series of them.
    return part_of(soon, f"({answers} + ({gave_up} or 0 * {answers}))")


def slow(slo: Slo, family: c.Family, *by: str, window: str) -> str:
    """Return the rate of a histogram's observations above the threshold of responses.

    The rates of the two series may differ a little where they should be equal, which is not a negative number.
    """
    soon = rate(family, *by, matchers=(_le(slo),), part="bucket", window=window)
    return f"clamp_min({rate(family, *by, part='count', window=window)} - {soon}, 0)"


def gave_up(slo: Slo, *by: str, window: str) -> str:
    """Return the rate of callers who hung up after having waited longer than the threshold of responses."""
    return slow(slo, c.HANGUP_WAIT, *by, window=window)


def increase_by_bucket(family: c.Family) -> str:
    """Return what a heatmap of a histogram shows."""
    increase = largest(f"increase({series(family, part='bucket')}[$__rate_interval])")
    return f"sum by (le) ({increase})"


def gave_up_ratio(slo: Slo, *by: str) -> str:
    """Return the share of ended conversations whose caller gave up waiting, over the window of its alert."""
    window = slo.alerts.callers_giving_up.window
    return part_of(gave_up(slo, *by, window=window), rate(c.CONVERSATIONS_ENDED, *by, window=window))


def minutes(expr: Callable[..., str], *by: str) -> str:
    """Return minutes of ended conversations: ``expr`` is `rate` or `total`."""
    return f"{expr(c.CONVERSATION_DURATION, *by, part='sum')} / 60"


def _le(slo: Slo) -> str:
    return f'le="{bound(slo.response.threshold_seconds)}"'


def error_ratio(slo: Slo) -> str:
    """Return the share of ended conversations that ended in an error, over the window of its alert."""
    window = slo.alerts.error_endings.window
    return part_of(rate(c.CONVERSATION_ERRORS, window=window), rate(c.CONVERSATIONS_ENDED, window=window))


def lost_ratio(slo: Slo) -> str:
    """Return the share of conversations whose timings were never seen, over the window of its alert."""
    window = slo.alerts.conversations_lost.window
    return ratio(rate(c.CONVERSATIONS_LOST, window=window), rate(c.CONVERSATIONS, window=window))


def slow_window(slo: Slo) -> str:
    """Return the window of the first paging alert on slow answers."""
    return slo.burn.fast.windows[0].long


def slow_limit(slo: Slo) -> float:
    """Return the share of slow turns in that window from which it pages."""
    return slo.factor(slo.burn.fast.windows[0]) * (1 - slo.response.objective)


def share(value: float) -> str:
    """Format a share: 5 %."""
    return f"{100 * value:.6g} %"


def in_progress() -> str:
    """Sum Phonic's count of conversations in progress. Replicas share a job and report the same value."""
    return f"sum({gauge(c.PROJECT_ACTIVE, 'job', WORKSPACE, 'project', operation='max')})"


def in_progress_where_searched() -> str:
    """Sum it for the projects that discovery searches, not for those that --watch.project excludes."""
    return (
        f"sum({gauge(c.PROJECT_ACTIVE, 'job', WORKSPACE, 'project', operation='max')} and on "
        f"(job, workspace, project) {gauge(c.DISCOVERED, 'job', WORKSPACE, 'project', operation='max')})"
    )


def per_minute(expr: str) -> str:
    """Convert a rate per second into one per minute."""
    return f"60 * {expr}"
