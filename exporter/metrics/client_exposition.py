"""Edge: the page by prometheus_client's writer, which `exporter.metrics.exposition` equals byte for byte.

It is the slower reference (docs/decisions/0006): tests compare both writers on any numbers, and
``Page(..., exposition=client_exposition.render)`` renders pages without our own writer, for debugging.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import accumulate
from math import inf

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Exemplar, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from .exposition import EOF, Block
from .formats import Format
from .series import NANO, Column, Counter, HistogramNumbers

_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)")


def render(blocks: Iterable[Block], form: Format) -> Iterator[bytes]:
    """Return the same as `exporter.metrics.exposition.render`."""
    for block in blocks:
        metric = _metric(block)
        if metric.samples:
            registry = CollectorRegistry(auto_describe=False)
            registry.register(_One(metric))
            if form is Format.OPENMETRICS_1_0_0:
                page: bytes = generate_openmetrics(registry)  # type: ignore[no-untyped-call]
                yield page.removesuffix(EOF)
            else:
                yield generate_latest(registry)


def labels_in(text: str) -> dict[str, str]:
    """Parse the labels in a text of `exporter.metrics.series.labels_text`."""
    return {
        name: _ESCAPE.sub(lambda found: "\n" if found[1] == "n" else found[1], value)
        for name, value in _LABEL.findall(text)
    }


class _One(Collector):
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def _metric(block: Block) -> Metric:
    family, rows = block
    metric = Metric(family.name, family.help, family.kind.value)
    if isinstance(rows, Column):
        for text, value in zip(rows.labels, rows.values, strict=True):
            metric.add_sample(family.name, labels_in(text), value)
        return metric
    for series, numbers in rows:
        if isinstance(series, Counter):
            metric.add_sample(family.sample_name, labels_in(series.prefix), numbers)  # type: ignore[arg-type]
        else:
            _add_histogram(metric, labels_in(series.count_prefix), family.buckets, numbers)  # type: ignore[arg-type]
    return metric


def _add_histogram(
    metric: Metric, labels: dict[str, str], bounds: Iterable[float], numbers: HistogramNumbers
) -> None:
    nanos, counts, slowest = numbers
    for bound, count, seen in zip((*bounds, inf), accumulate(counts), slowest, strict=True):
        exemplar = seen and Exemplar(labels_in(seen.labels), seen.value, seen.at)
        limit = floatToGoString(bound)  # type: ignore[no-untyped-call]
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": limit}, count, exemplar=exemplar)
    metric.add_sample(f"{metric.name}_count", labels, sum(counts))
    metric.add_sample(f"{metric.name}_sum", labels, nanos / NANO)
