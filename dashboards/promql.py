"""Pure: builds PromQL from the catalog's families, so that names cannot be misspelt.

Rules aggregate ``without (instance, pod)``, which keeps other labels that a user's Prometheus adds. Panels select
by the dashboard's variables and aggregate ``by`` the labels that they show.

Several exporters may watch the same conversations. Each counts all of them, so their values must not be added: the
largest value counts. Shards divide the conversations, and their values are added. Series of a shard have the label
``shard`` and, by the scrape rule, one ``instance``, whichever process holds the shard; other series have no such
label.

Projects and agents of one name in two workspaces are two. The label ``workspace`` exists only where the settings
name workspaces; aggregated ``by`` it, series without it give what they give without the word.
"""

from exporter.metrics.catalog import LIVE_INFO, Family, Kind, Scope

SELECTED = 'job=~"$job",instance=~"$instance"'

TARGET_LABELS = ("instance", "pod")
SHARD = "shard"
WORKSPACE = "workspace"
AGENT = (WORKSPACE, "project", "agent")
"""The labels of an agent, as far as there are."""


def bound(value: float) -> str:
    """Format a bucket boundary as in the label ``le`` (``1.0``, ``0.5``)."""
    return repr(float(value))


def largest(expr: str, *labels: str) -> str:
    """Take the largest value of the instances, and over other labels."""
    return f"max without ({', '.join((*TARGET_LABELS, *labels))}) ({expr})"


def smallest(expr: str) -> str:
    """Take the smallest value of the instances."""
    return f"min without ({', '.join(TARGET_LABELS)}) ({expr})"


def added(expr: str) -> str:
    """Take the largest value of the instances, then add the shards."""
    return f"sum without ({SHARD}) ({largest(expr)})"


def counted(expr: str, *labels: str) -> str:
    """Sum each instance over ``labels``, take the largest value, then add the shards."""
    return added(_over(labels, expr))


def worst(expr: str, *labels: str) -> str:
    """Sum each process over ``labels``, then take the largest value: for what belongs to the process."""
    return largest(_over(labels, expr))


def age(selector: str) -> str:
    """Seconds from the time that a gauge holds to its scrape.

    ``time()`` instead of ``timestamp()`` would add the age of the sample, up to a scrape interval. The timestamp
    of a sample is the start of its scrape, and the page is rendered a moment later, so that the difference can be
    negative.
    """
    return f"clamp_min(timestamp({selector}) - {selector}, 0)"


def variables(family: Family) -> str:
    """Return matchers for the dashboard variables that apply to the family's labels."""
    labels = AGENT if family.scope is Scope.CONVERSATIONS else family.label_names((WORKSPACE,))
    followed = [f'{label}=~"${label}"' for label in AGENT if label in labels or family is LIVE_INFO]
    return ",".join((SELECTED, *followed))


def series(family: Family, *matchers: str, part: str = "") -> str:
    """Return a selector of the family's series with the dashboard variables.

    ``part`` is the suffix of a histogram's series; ``matchers`` are added.
    """
    name = f"{family.name}_{part}" if part else family.sample_name
    return f"{name}{{{','.join((variables(family), *matchers))}}}"


def rate(
    family: Family,
    *by: str,
    matchers: tuple[str, ...] = (),
    part: str = "",
    window: str = "$__rate_interval",
) -> str:
    """Rate per second of a counter, or of a part of a histogram, summed by labels."""
    return _sum(f"rate({series(family, *matchers, part=part)}[{window}])", family, by)


def total(family: Family, *by: str, matchers: tuple[str, ...] = (), part: str = "") -> str:
    """Increase within the dashboard's time range, for tables."""
    return _sum(f"increase({series(family, *matchers, part=part)}[$__range])", family, by)


def occurring(expr: str, family: Family, *by: str) -> str:
    """``expr`` for the series that increased within the time range, including the times when they are 0.

    Without the zeros a legend would keep showing the last value of a problem that has ended.
    """
    return f"{expr} and {total(family, *by)} > 0"


def gauge(family: Family, *by: str, operation: str = "sum") -> str:
    """A gauge aggregated by labels."""
    if operation == "sum":
        return _sum(series(family), family, by)
    return f"{_aggregate(operation, by)}({series(family)})"


def quantile(q: float, family: Family, *by: str, window: str = "$__rate_interval") -> str:
    """Quantile of a histogram; NaN without observations; at most the last boundary."""
    return f"histogram_quantile({q}, {rate(family, 'le', *by, part='bucket', window=window)})"


def mean(family: Family, *by: str) -> str:
    """Mean of a histogram; absent without observations."""
    return ratio(rate(family, *by, part="sum"), rate(family, *by, part="count"))


def ratio(numerator: str, denominator: str) -> str:
    """Ratio; absent, not NaN, if the denominator is 0."""
    return f"{numerator} / ({denominator} > 0)"


def part_of(part: str, whole: str) -> str:
    """Ratio of a part to the whole that includes it; at most 1.

    Prometheus extrapolates each series of a range separately, by up to a scrape interval, so that the part of two
    young series can be extrapolated further than the whole: 1 of 1 could be 133 %.
    """
    return f"clamp_max({ratio(part, whole)}, 1)"


def within(family: Family, threshold: float, *by: str, window: str = "$__rate_interval") -> str:
    """Share of a histogram's observations up to a bucket boundary."""
    if family.kind is not Kind.HISTOGRAM or threshold not in family.buckets:
        raise ValueError(f"{threshold} is no boundary of {family.name}")
    soon = rate(family, *by, matchers=(f'le="{bound(threshold)}"',), part="bucket", window=window)
    return part_of(soon, rate(family, *by, part="count", window=window))


def beyond(family: Family, threshold: float, *by: str, window: str = "$__rate_interval") -> str:
    """Share of a histogram's observations above a bucket boundary."""
    return f"1 - {within(family, threshold, *by, window=window)}"


def _sum(expr: str, family: Family, by: tuple[str, ...]) -> str:
    """Sum by labels, also over shards, except over exporters that watch the same conversations."""
    if family.scope is not Scope.PROCESS and "instance" not in by:
        expr = largest(expr)
    return f"{_aggregate('sum', by)}({expr})"


def _over(labels: tuple[str, ...], expr: str) -> str:
    return f"sum without ({', '.join(labels)}) ({expr})" if labels else expr


def _aggregate(operation: str, by: tuple[str, ...]) -> str:
    return f"{operation} by ({', '.join(by)}) " if by else operation
