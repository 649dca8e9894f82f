"""Edge: a real Prometheus that scrapes exporters through all of their lives, and its sums.

`SCRAPE_S` is short, so that kills, scrapes and writes occur in every order. Increases follow Prometheus' rule (a
decrease is a reset, after which the new value counts in full; the first sample counts nothing), but without
extrapolation: if ``resets()`` is 0, the increase is the last value minus the first.
"""

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import httpx

from .oracle import SampleKey, Totals

SCRAPE_S: Final = 0.25
_CONFIG: Final = """\
global: {{scrape_interval: 250ms, scrape_timeout: 250ms}}
scrape_configs:
  - job_name: phonic
    static_configs: [{{targets: {targets}}}]
    metric_relabel_configs: {rules}
"""
_WINDOW: Final = "2h"
_PATIENCE_S: Final = 30.0


@attrs.frozen
class Prometheus:
    """A running Prometheus."""

    url: str
    http: httpx.Client

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = self.http.get(f"{self.url}/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def names(self) -> list[str]:
        """Return the names of the samples that the state file keeps."""
        found = self.http.get(f"{self.url}/api/v1/label/__name__/values").json()["data"]
        return [
            name
            for name in found
            if re.fullmatch(r"phonic_\w+_(total|bucket|count|sum)", name)
            and (not name.startswith("phonic_exporter_") or name in _GUARDED)
        ]

    def resets(self) -> dict[SampleKey, float]:
        """Return the number of resets of each series that had any."""
        return {
            (name, labels): value
            for name in self.names()
            for labels, value in self._values(f"resets({name}[{_WINDOW}])")
            if value
        }

    def increases(self) -> Totals:
        """Return the increase of each series since its first sample. Correct only without resets."""
        return {
            (name, labels): value
            for name in self.names()
            for labels, value in self._values(
                f"max_over_time({name}[{_WINDOW}]) - min_over_time({name}[{_WINDOW}])"
            )
        }

    def has_scraped_since(self, at: float) -> bool:
        """Whether a scrape that began after this Unix time succeeded."""
        return any(
            float(each["value"][1]) > at for each in self.query("timestamp(phonic_exporter_build_info) - 0.001")
        )

    def _values(self, expression: str) -> Iterator[tuple[frozenset[tuple[str, str]], float]]:
        for each in self.query(expression):
            labels = {
                name: repr(float(value)) if name == "le" else value
                for name, value in each["metric"].items()
                if name not in ("job", "instance", "__name__")
            }
            yield frozenset(labels.items()), float(each["value"][1])


_GUARDED: Final = frozenset(
    f"phonic_exporter_{name}_total"
    for name in ("conversations_lost", "rejected_values", "turns_revised", "turns_skipped")
)


@contextlib.contextmanager
def scraping(
    program: str, targets: Sequence[str], directory: Path, http: httpx.Client, *, rules: Sequence[str] = ()
) -> Iterator[Prometheus]:
    """Run ``program`` (a path) until the block ends.

    ``targets``: each is host:port. ``rules`` relabel metrics; each is YAML.
    """
    config = directory / "prometheus.yml"
    config.write_text(_CONFIG.format(targets=json.dumps(list(targets)), rules=f"[{', '.join(rules)}]"))
    log = directory / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'prometheus'}",
                "--web.listen-address=127.0.0.1:0",
                "--log.level=info",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield Prometheus(_url(log, process), http)
    finally:
        process.kill()
        process.wait()


def _url(log: Path, process: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        text = log.read_text()
        listening = re.search(r'msg="Listening on" .*?address=(\S+)', text)
        if listening and "ready to receive web requests" in text:
            return f"http://{listening[1]}"
        time.sleep(0.05)
    raise AssertionError(log.read_text())
