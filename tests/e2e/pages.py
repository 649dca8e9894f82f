"""Metrics pages: fetched over HTTP as by Prometheus, and parsed with the reference parsers."""

from collections.abc import Callable

import attrs
import httpx
import trio
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

TEXT = "text/plain;version=0.0.4"
TEXT_UTF8 = "text/plain;version=1.0.0;escaping=allow-utf-8"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"

LOOK_AGAIN_SECONDS = 0.05


@attrs.frozen
class Page:
    """One scrape: the response and its parsed samples."""

    text: str
    families: list[Metric]

    def samples(self, name: str, **labels: str) -> list[Sample]:
        """Return the samples with this name that have at least these labels."""
        return [
            sample
            for family in self.families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of those samples."""
        return sum(sample.value for sample in self.samples(name, **labels))

    def values_of(self, name: str, label: str) -> set[str]:
        return {sample.labels[label] for sample in self.samples(name)}


async def scrape(http: httpx.AsyncClient, url: str, accept: str = TEXT) -> Page:
    """Scrape ``url``/metrics in one format."""
    response = await http.get(f"{url}/metrics", headers={"Accept": accept})
    assert response.status_code == 200, response.status_code
    is_openmetrics = response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert is_openmetrics == (accept is OPENMETRICS)
    parse = parse_openmetrics if is_openmetrics else parse_text
    return Page(response.text, list(parse(response.text)))


async def scrape_until(http: httpx.AsyncClient, url: str, says: Callable[[Page], bool]) -> Page:
    """Scrape repeatedly until ``says`` returns true for a page. The caller sets the deadline."""
    while True:
        page = await scrape(http, url)
        if says(page):
            return page
        await trio.sleep(LOOK_AGAIN_SECONDS)
