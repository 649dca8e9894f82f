"""Pure: PromQL text built from the catalog's families, so that a name cannot be misspelt.

Two vocabularies. Rules aggregate ``without (instance, pod)``: whatever else a user's Prometheus adds stays.
Panels select by the dashboard's variables and aggregate ``by`` what they show.

Several exporters may watch the same conversations. Each counts them all, so what they say of conversations is not
added up: the largest of their numbers holds.
"""

from exporter.metrics.catalog import Family, Kind, Scope

SELECTED = 'job=~"$job",instance=~"$instance"'

TARGET_LABELS = ("instance", "pod")


def bound(value: float) -> str:
    """A bucket boundary as label ``le`` spells it (``1.0``, ``0.5``)."""
    return repr(float(value))


def largest(expr: str) -> str:
    """The largest of what the instances say."""
    return f"max without ({', '.join(TARGET_LABELS)}) ({expr})"


def smallest(expr: str) -> str:
    """The smallest of what the instances say."""
    return f"min without ({', '.join(TARGET_LABELS)}) ({expr})"


def counted(expr: str, *labels: str) -> str:
    """Each instance's sum over ``labels``, of which the largest holds."""
    return largest(f"sum without ({', '.join(labels)}) ({expr})" if labels else expr)


def age(selector: str) -> str:
    """Seconds from the time that a gauge holds to the moment at which it was scraped.

    ``time()`` in its place would add the age of the sample, up to a whole scrape interval. A sample bears the time
    at which its scrape began, and its page is made a moment later: what is done in between is 0 seconds old.
    """
    return f"clamp_min(timestamp({selector}) - {selector}, 0)"


def variables(family: Family) -> str:
    """Matchers of the dashboard variables that the family's labels can follow."""
    labels = ("project", "agent") if family.scope is Scope.CONVERSATIONS else family.labels
    followed = [f'{label}=~"${label}"' for label in ("project", "agent") if label in labels]
    return ",".join((SELECTED, *followed))


def series(family: Family, *matchers: str, part: str = "") -> str:
    """Selector of the family's series under the dashboard variables.

    ``part`` is the suffix of a histogram's series, ``matchers`` are added to those of the variables.
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
    """Events per second of a counter, or of a part of a histogram, summed by labels."""
    return _sum(f"rate({series(family, *matchers, part=part)}[{window}])", family, by)


def total(family: Family, *by: str, matchers: tuple[str, ...] = (), part: str = "") -> str:
    """Events within the dashboard's whole time range, for tables."""
    return _sum(f"increase({series(family, *matchers, part=part)}[$__range])", family, by)


def occurring(expr: str, family: Family, *by: str) -> str:
    """``expr`` for what was counted within the time range at all; 0, not gone, once it is over.

    Without the 0 a legend would go on showing the last number of a trouble that has passed.
    """
    return f"{expr} and {total(family, *by)} > 0"


def gauge(family: Family, *by: str, operation: str = "sum") -> str:
    """A gauge aggregated by labels."""
    if operation == "sum":
        return _sum(series(family), family, by)
    return f"{_aggregate(operation, by)}({series(family)})"


def quantile(q: float, family: Family, *by: str, window: str = "$__rate_interval") -> str:
    """Quantile of a histogram; NaN where nothing was observed, the last boundary where it lies beyond."""
    return f"histogram_quantile({q}, {rate(family, 'le', *by, part='bucket', window=window)})"


def mean(family: Family, *by: str) -> str:
    """Mean of a histogram; absent where nothing was observed."""
    return ratio(rate(family, *by, part="sum"), rate(family, *by, part="count"))


def ratio(numerator: str, denominator: str) -> str:
    """Share; absent, not NaN and not distorted, where the denominator is 0."""
    return f"{numerator} / ({denominator} > 0)"


def part_of(part: str, whole: str) -> str:
    """Share of events that are all counted in the whole; at most 1.

    Prometheus extrapolates each series of a range by itself, up to a scrape interval beyond its samples, and the
    smaller one of two young series sometimes further: 1 of 1 would be 133 %.
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
    """Added up, but not over exporters that say the same of conversations."""
    if family.scope is not Scope.PROCESS and "instance" not in by:
        expr = largest(expr)
    return f"{_aggregate('sum', by)}({expr})"


def _aggregate(operation: str, by: tuple[str, ...]) -> str:
    return f"{operation} by ({', '.join(by)}) " if by else operation
