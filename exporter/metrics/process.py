"""Edge: the standard ``process_*`` metrics, from prometheus_client."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from .formats import Format

OPENMETRICS_END = b"# EOF\n"


def process_metrics() -> Callable[[Format, frozenset[str] | None], bytes]:
    """Return a function that renders the metrics of this process, without the end mark of OpenMetrics.

    Its arguments are the format and the family or sample names to restrict the page to (None: all).
    """
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)

    def render(form: Format, names: frozenset[str] | None) -> bytes:
        chosen = registry if names is None else registry.restricted_registry(sorted(names))
        if form is Format.OPENMETRICS_1_0_0:
            page: bytes = generate_openmetrics(chosen)  # type: ignore[no-untyped-call]
            return page.removesuffix(OPENMETRICS_END)
        return generate_latest(chosen)

    return render
