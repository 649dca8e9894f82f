"""State: a metric store and its page as in a running exporter, filled without a network."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample

from exporter.conversations import Conversations
from exporter.gauges import gauges
from exporter.metrics.formats import Format
from exporter.metrics.loop_lag import LoopLag
from exporter.metrics.page import Page
from exporter.metrics.publisher import Publisher
from exporter.metrics.store import LabelLimits, MetricStore
from exporter.phonic.clock import PhonicClock
from exporter.phonic.decode import decode
from exporter.phonic.live.client import LiveFeed
from exporter.phonic.schema import Agent, Snapshot
from exporter.watch.feed_gate import FeedGate
from exporter.watch.supervisor import Supervisor
from exporter.watching import Workspace
from exporter.workspaces import Workspaces

from .calls import calls, conversation_id


def newest(turns: int) -> list[Snapshot]:
    """Return the last snapshots of some calls."""
    found = (decode(call[-1]).snapshot for call in calls(turns))
    return [each for each in found if each is not None]


def started_calls(count: int, agents: int, snapshots: list[Snapshot]) -> Iterator[tuple[str, Snapshot]]:
    """Yield ids and snapshots of different conversations, spread over the agents."""
    for number in range(count):
        snapshot = snapshots[number % len(snapshots)]
        identity, agent = conversation_id(number), f"agent-{number % agents}"
        conversation = attrs.evolve(
            snapshot.conversation, id=identity, agent=Agent(f"{agent}-id", agent), project_id="p"
        )
        yield identity, attrs.evolve(snapshot, conversation=conversation)


def filled(*, live: int, agents: int) -> Conversations:
    """Return ``live`` live conversations of 40 turns, and ended ones so that every agent has one."""
    conversations = Conversations(MetricStore(LabelLimits()), live_limit=live, now=time.time)
    for number, (identity, snapshot) in enumerate(started_calls(max(live, agents), agents, newest(40))):
        conversations.update(identity, snapshot)
        if number >= live:
            conversations.finish(identity, None)
    return conversations


def _no_feed(conversation_id: str) -> AbstractAsyncContextManager[LiveFeed]:
    raise AssertionError(conversation_id)  # the watch limit is 0


def page(conversations: Conversations) -> Page:
    """Return the page of an exporter without REST, state file and process metrics."""
    conversations.store.show_counted()
    supervisor = Supervisor(
        open_feed=_no_feed,
        sink=conversations,
        records=None,
        limit=0,
    )
    workspace = Workspace(
        conversations=conversations,
        clock=PhonicClock(),
        supervisor=supervisor,
        targets=supervisor,
        gate=FeedGate(_no_feed, access=None, has_labels=lambda _: True),
    )
    fed = gauges(
        conversations=conversations,
        workspaces=Workspaces(conversations, [workspace]),
        keeper=None,
        publisher=Publisher(conversations.store, conversations, None),
        web_config=None,
        slo_response=1.5,
        loop_lag=LoopLag(),
    )
    return Page(conversations.store, fed, lambda _form, _names: b"")


class Library:
    """Renders the same page with prometheus_client: a collector adds labels and numbers, the library formats.

    The constructor parses ``rendered``, so that both variants start from numbers in memory.
    """

    def __init__(self, rendered: bytes, form: Format) -> None:
        is_text = form is not Format.OPENMETRICS_1_0_0
        parsed = (parse_text if is_text else parse_openmetrics)(rendered.decode())
        self._registry = CollectorRegistry()
        self._registry.register(_Collector([_Rows.of(metric) for metric in parsed]))
        self._generate = generate_latest if is_text else generate_openmetrics

    def render(self) -> bytes:
        return self._generate(self._registry)


@attrs.frozen(kw_only=True)
class _Rows:
    """A metric family: arguments of ``add_metric`` for each of its series."""

    name: str
    help: str
    kind: str
    labels: list[str]
    series: list[tuple[Any, ...]]

    @classmethod
    def of(cls, metric: Metric) -> "_Rows":
        labels = [name for name in metric.samples[0].labels if name != "le"]
        found: dict[tuple[str, ...], list[Sample]] = {}
        for sample in metric.samples:
            found.setdefault(tuple(sample.labels[name] for name in labels), []).append(sample)
        series = [
            (values, *(_histogram(samples) if metric.type == "histogram" else (samples[0].value,)))
            for values, samples in found.items()
        ]
        return cls(name=metric.name, help=metric.documentation, kind=metric.type, labels=labels, series=series)


class _Collector(Collector):
    def __init__(self, families: list[_Rows]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for rows in self._families:
            family = _KINDS[rows.kind](rows.name, rows.help, labels=rows.labels)
            for arguments in rows.series:
                family.add_metric(*arguments)
            yield family


_KINDS: dict[str, Callable[..., Any]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _histogram(samples: list[Sample]) -> tuple[list[tuple[str, float, Exemplar | None]], float]:
    """Return buckets and sum as ``add_metric`` takes them."""
    buckets = [(each.labels["le"], each.value, _exemplar(each)) for each in samples if "le" in each.labels]
    (total,) = (each.value for each in samples if each.name.endswith("_sum"))
    return buckets, total


def _exemplar(sample: Sample) -> Exemplar | None:
    """Convert the timestamp to a float, as a live client has it: the parser keeps nanoseconds."""
    if sample.exemplar is None or sample.exemplar.timestamp is None:
        return sample.exemplar
    return sample.exemplar._replace(timestamp=round(float(sample.exemplar.timestamp), 3))
