"""The scrape rule: its two forms say the same, and the documents and manifests have it word for word."""

from pathlib import Path

import pytest
import yaml

from exporter.scrape_rule import RELABELINGS, scrape_rule

ROOT = Path(__file__).parents[2]


def test_the_text_is_what_prometheus_reads_as_the_rule() -> None:
    assert yaml.safe_load(scrape_rule()) == {
        "metric_relabel_configs": [each.in_prometheus for each in RELABELINGS]
    }


@pytest.mark.parametrize("page", ["docs/operations.md"])
def test_documents_quote_the_rule(page: str) -> None:
    assert f"```yaml\n{scrape_rule()}\n```" in (ROOT / page).read_text(encoding="utf-8")
