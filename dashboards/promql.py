"""Pure: PromQL text built from the catalogue's families, so that a name cannot be misspelt.

Two vocabularies. Rules aggregate ``without (instance, pod)``: whatever else a user's Prometheus adds stays.
Panels select by the dashboard's variables and aggregate ``by`` what they show.
"""

from exporter.metrics.catalogue import Family, Kind, Scope

SELECTED = 'job=~"$job",instance=~"$instance"'

TARGET_LABELS = ("instance", "pod")


def bound(value: float) -> str:
    """A bucket boundary as label ``le`` spells it (``1.0``, ``0.5``)."""
    return repr(float(value))


def without(*labels: str) -> str:
    """Sum over instances, and over ``labels``."""
    return f"sum without ({', '.join((*TARGET_LABELS, *labels))})"


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


def rate(family: Family, *by: str, matchers: tuple[str, ...] = (), part: str = "") -> str:
    """Events per second of a counter, or of a part of a histogram, summed by labels."""
    return f"{_sum(by)}(rate({series(family, *matchers, part=part)}[$__rate_interval]))"


def total(family: Family, *by: str, matchers: tuple[str, ...] = (), part: str = "") -> str:
    """Events within the dashboard's whole time range, for tables."""
    return f"{_sum(by)}(increase({series(family, *matchers, part=part)}[$__range]))"


def occurring(expr: str, family: Family, *by: str) -> str:
    """``expr`` for what was counted within the time range at all; 0, not gone, once it is over.

    Without the 0 a legend would go on showing the last number of a trouble that has passed.
    """
    return f"{expr} and {total(family, *by)} > 0"


def gauge(family: Family, *by: str, operation: str = "sum") -> str:
    """A gauge aggregated by labels."""
    return f"{_aggregate(operation, by)}({series(family)})"


def quantile(q: float, family: Family, *by: str) -> str:
    """Quantile of a histogram; NaN where nothing was observed."""
    return f"histogram_quantile({q}, {rate(family, 'le', *by, part='bucket')})"


def mean(family: Family, *by: str) -> str:
    """Mean of a histogram; absent where nothing was observed."""
    return ratio(rate(family, *by, part="sum"), rate(family, *by, part="count"))


def ratio(numerator: str, denominator: str) -> str:
    """Share; absent, not NaN and not distorted, where the denominator is 0."""
    return f"{numerator} / ({denominator} > 0)"


def within(family: Family, threshold: float, *by: str) -> str:
    """Share of a histogram's observations up to a bucket boundary."""
    if family.kind is not Kind.HISTOGRAM or threshold not in family.buckets:
        raise ValueError(f"{threshold} is no boundary of {family.name}")
    soon = rate(family, *by, matchers=(f'le="{bound(threshold)}"',), part="bucket")
    return ratio(soon, rate(family, *by, part="count"))


def beyond(family: Family, threshold: float, *by: str) -> str:
    """Share of a histogram's observations above a bucket boundary."""
    return f"1 - {within(family, threshold, *by)}"


def _sum(by: tuple[str, ...]) -> str:
    return _aggregate("sum", by)


def _aggregate(operation: str, by: tuple[str, ...]) -> str:
    return f"{operation} by ({', '.join(by)}) " if by else operation
