"""The configurations in ``docs/without-prometheus.md``, run as they stand there against a real exporter.

What differs here: addresses, and how often is scraped.
"""

import json
import os
import re
import shlex
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import yaml

from dashboards import slo
from tests.e2e.pages import Page, scrape, scrape_until
from tests.e2e.programs import ANY_PORT, STUCK_SECONDS, program
from tests.e2e.prometheus import (
    NEXT,
    RELEASES,
    Prometheus,
    Release,
    prometheus,
    prometheus_agent,
    victoria_metrics,
    vmagent,
)

pytestmark = pytest.mark.e2e

DOCUMENT = Path(__file__).parents[2] / "docs" / "without-prometheus.md"
CALLS = 8
# A burst of short calls, and then no more: what is counted comes to rest.
BURST = (
    f"--simulator.total={CALLS}",
    "--simulator.calls-per-minute=6000",
    "--simulator.pace=0.01",
    "--simulator.warm-up=0",
    "--watch.interval=0.2",
)
COUNTED = '{__name__=~"phonic_.+_(total|bucket|count|sum)",__name__!~"phonic_exporter_.+"}'
EXEMPLARS = {"query": "phonic_turn_response_seconds_bucket", "start": "0", "end": "9999999999"}
LOOK_AGAIN_SECONDS = 0.2


def snippets() -> dict[str, str]:
    """The blocks of the document that have a file's name in their first line, by that name."""
    blocks = re.findall(r"^```\w+\n(.+?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    named = (re.match(r"(?:#|//) (\S+)\n", block) for block in blocks)
    return {found[1]: found.string for found in named if found}


def snippet(name: str, **said_otherwise: str) -> str:
    """One of them, with addresses and the interval as they are here."""
    text = snippets()[name]
    for old, new in {"15s": "250ms", **said_otherwise}.items():
        assert old in text, (name, old)
        text = text.replace(old, new)
    return text


@pytest.fixture
async def exporter(http: httpx.AsyncClient) -> AsyncIterator[str]:
    """The address of a demo, once all of its calls have ended."""
    async with program("demo", f"--web.listen-address={ANY_PORT}", *BURST) as demo:
        with trio.fail_after(STUCK_SECONDS):
            url = await demo.url()
            await scrape_until(http, url, lambda page: page.total("phonic_conversations_ended_total") == CALLS)
        yield url.removeprefix("http://")


def counted(page: Page) -> dict[str, float]:
    """Sums of all that counts calls, by the name of the samples."""
    sums: dict[str, float] = {}
    for family in page.families:
        if family.type in ("counter", "histogram") and not family.name.startswith(
            ("phonic_exporter_", "process_")
        ):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums


async def same_numbers(
    http: httpx.AsyncClient,
    exporter: str,
    arrived: Callable[[], Awaitable[dict[str, float]]],
    *,
    called: Callable[[str], str] = str,
) -> None:
    """Wait until what ``arrived`` tells is what the exporter's page says, by the names that ``called`` gives."""
    there: dict[str, float] = {}
    expected: dict[str, float] = {}
    with trio.move_on_after(STUCK_SECONDS):
        while True:
            page = counted(await scrape(http, f"http://{exporter}"))
            expected = {called(name): value for name, value in page.items() if called(name)}
            there = await arrived()
            if there == pytest.approx(expected):
                break
            await trio.sleep(LOOK_AGAIN_SECONDS)
    assert there == pytest.approx(expected)
    assert expected[called("phonic_conversations_total")] == CALLS
    assert expected[called("phonic_turn_response_seconds_count")] > 0


async def sums(server: Prometheus) -> dict[str, float]:
    """Of one job alone: the one that rules and dashboards ask for."""
    found = await server.get("query", query=f"sum by (__name__, job) ({COUNTED})")
    assert {each["metric"]["job"] for each in found["result"]} <= {slo.load().job}
    return {each["metric"]["__name__"]: float(each["value"][1]) for each in found["result"]}


async def test_vmagent(exporter: str, http: httpx.AsyncClient, tmp_path: Path) -> None:
    config = tmp_path / "vmagent.yml"
    config.write_text(snippet(config.name, **{"localhost:10058": exporter}))
    async with victoria_metrics(tmp_path, http, config="scrape_configs: []") as server:
        command = snippets()["vmagent.sh"].replace("http://localhost:8428", server.url)
        [line] = (line for line in command.splitlines() if not line.startswith("#"))
        name, *flags = shlex.split(line)
        assert name == "vmagent"
        for relative in (config.name, "vmagent-data"):
            flags = [flag.replace(f"={relative}", f"={tmp_path / relative}") for flag in flags]
        async with vmagent(*flags):
            await same_numbers(http, exporter, partial(sums, server))


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
async def test_prometheus_agent(release: Release, exporter: str, http: httpx.AsyncClient, tmp_path: Path) -> None:
    receiving = {"config": "scrape_configs: []", "release": NEXT, "flags": ["--web.enable-remote-write-receiver"]}
    async with prometheus(tmp_path, "", http, **receiving) as server:  # type: ignore[arg-type]
        config = tmp_path / "agent.yml"
        addresses = {"localhost:10058": exporter, "http://localhost:9090": server.url}
        config.write_text(snippet(config.name, **addresses))
        async with prometheus_agent(config, tmp_path / "agent", release):
            await same_numbers(http, exporter, partial(sums, server))
            exemplars = []
            with trio.fail_after(STUCK_SECONDS):
                while True:
                    exemplars = await server.get("query_exemplars", **EXEMPLARS)
                    if exemplars:
                        break
                    await trio.sleep(LOOK_AGAIN_SECONDS)
            assert "conversation_id" in exemplars[0]["exemplars"][0]["labels"]


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
async def test_scrape_configs_of_the_opentelemetry_collector(
    release: Release, exporter: str, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    document = yaml.safe_load(snippet("otelcol.yml", **{"localhost:10058": exporter}))
    config = yaml.safe_dump(document["receivers"]["prometheus"]["config"])
    assert "$" not in config
    pipeline = document["service"]["pipelines"]["metrics"]
    assert all(set(names) <= set(document[kind]) for kind, names in pipeline.items())
    async with prometheus(tmp_path, "", http, config=config, release=release) as server:
        await same_numbers(http, exporter, partial(sums, server))


async def test_datadog_check(exporter: str, http: httpx.AsyncClient, tmp_path: Path) -> None:
    python = _datadog_python()
    config = tmp_path / "conf.yaml"
    config.write_text(snippets()["conf.d/openmetrics.d/conf.yaml"].replace("localhost:10058", exporter))
    said: dict[str, Any] = {}

    async def submitted() -> dict[str, float]:
        done = await trio.run_process(
            [str(python), str(Path(__file__).with_name("datadog.py")), str(config)],
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout.decode()
        said.update(json.loads(done.stdout))
        return {
            name: sum(values)
            for name, values in said["metrics"].items()
            if name.endswith((".count", ".sum")) and not name.startswith("phonic.exporter_")
        }

    await same_numbers(http, exporter, submitted, called=name_in_datadog)
    page = await scrape(http, f"http://{exporter}")
    assert said["buckets"]["phonic.turn_response_seconds"] == page.total("phonic_turn_response_seconds_count")
    assert "phonic.workspace_conversations_active" in said["metrics"]


def name_in_datadog(name: str) -> str:
    """What a sample's name becomes, as the document says; empty for buckets, which become a distribution."""
    for suffix, theirs in {"_total": ".count", "_count": ".count", "_sum": ".sum"}.items():
        if name.endswith(suffix):
            return "phonic." + name.removeprefix("phonic_").removesuffix(suffix) + theirs
    return ""


def _datadog_python() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = os.environ.get("PHONIC_DATADOG_CHECK") or cache / "phonic-exporter-tests" / "datadog-check"
    python = Path(folder) / "bin" / "python"
    if not python.exists():
        why = "Datadog's check is missing (.ci/datadog-check installs it)"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return python


def test_every_configuration_of_the_document_scrapes_the_exporter_every_15_seconds() -> None:
    found = snippets()
    assert set(found) == {
        "vmagent.yml", "vmagent.sh", "agent.yml", "conf.d/openmetrics.d/conf.yaml", "otelcol.yml", "config.alloy",
    }  # fmt: skip
    for name, text in found.items():
        if name != "vmagent.sh":
            assert "localhost:10058" in text
        if name.endswith(".yml") or name == "config.alloy":
            assert "15s" in text
            assert slo.load().job in text
