"""Both major versions of Prometheus, and VictoriaMetrics, with a real page of the demo.

The table in ``dashboards/README.md`` shows the results of these tests; ``PHONIC_WRITE_TABLES=1`` updates it.
"""

import faulthandler
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import yaml

from dashboards import files, queries, slo
from docs.markdown import between, table
from tests.e2e.between import pinned
from tests.e2e.pages import OPENMETRICS, TEXT, TEXT_UTF8
from tests.e2e.programs import ANY_PORT, STUCK_SECONDS, program
from tests.e2e.prometheus import (
    INSTALLED,
    NEXT,
    Prometheus,
    needs,
    prometheus,
    victoria_metrics,
    vmalert,
)
from tests.e2e.verdicts import SERVERS, STEMS, TRIED, VICTORIA, Server, verdict

pytestmark = pytest.mark.e2e

ROOT = Path(files.__file__).parent
README = ROOT / "README.md"
JOB = slo.load().job
PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"

# Formats of the same page by scrape job: the one that the server requests, or a fixed one.
FORMATS = {
    JOB: "",
    "text-0-0-4": TEXT,
    "text-1-0-0": TEXT_UTF8,
    "openmetrics-1-0-0": OPENMETRICS,
    "protobuf": PROTOBUF,
}
LIVELY = (
    "--simulator.pace=0.05",
    "--simulator.calls-per-minute=600",
    "--simulator.warm-up=5",
    "--watch.interval=0.2",
)
YES, NO = "yes", "no"


TITLES = {
    JOB: "scrape, in the format that the server asks for",
    "text-0-0-4": "scrape of text 0.0.4",
    "text-1-0-0": "scrape of text 1.0.0",
    "openmetrics-1-0-0": "scrape of OpenMetrics 1.0.0",
    "protobuf": "scrape of a server that asks for protobuf alone: it gets text",
    "exemplars": "exemplars kept",
    "rules": "recording rules and alerts evaluated without errors",
    "rule tests": "tests of the rules (`promtool`, `vmalert-tool`)",
    "queries": "queries of all dashboards without errors, warnings and infos",
}

Row = dict[str, str]
"""Results of one server, by what was tried."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Row]:
    """Try all servers at the same time, once for all tests, because each has to scrape for a while."""
    faulthandler.cancel_dump_traceback_later()
    for server in SERVERS:
        needs(server.program, server.release)
    rows = trio.run(_ask, tmp_path_factory.mktemp)
    for server in SERVERS:
        said = [verdict(server, stem) for stem in STEMS if (server, stem) in TRIED]
        rows[server.name]["rule tests"] = YES if not any(said) else NO
    return rows


async def _ask(folder: Callable[[str], Path]) -> dict[str, Row]:
    rows: dict[str, Row] = {}

    async def ask(server: Server, http: httpx.AsyncClient, targets: Mapping[str, str]) -> None:
        rows[server.name] = await _asked(server, folder("server"), http, targets)

    with trio.fail_after(240):
        async with AsyncExitStack() as running:
            http = await running.enter_async_context(httpx.AsyncClient(timeout=STUCK_SECONDS))
            demo = await running.enter_async_context(program("demo", f"--web.listen-address={ANY_PORT}", *LIVELY))
            url = await demo.url()
            targets = {
                job: await running.enter_async_context(pinned(url, accept, http)) if accept else url
                for job, accept in FORMATS.items()
            }
            async with trio.open_nursery() as nursery:
                for server in SERVERS:
                    nursery.start_soon(ask, server, http, targets)
    return rows


async def _asked(server: Server, folder: Path, http: httpx.AsyncClient, targets: Mapping[str, str]) -> Row:
    config: dict[str, Any] = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s"},
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [url.removeprefix("http://")]}]}
            for job, url in targets.items()
        ],
    }
    rules = folder / "rules"
    rules.mkdir()
    for name in ("recording.yml", "alerts.yml"):
        document = yaml.safe_load((ROOT / "prometheus" / name).read_text())
        for group in document["groups"]:
            group["interval"] = "5s"
        (rules / name).write_text(yaml.safe_dump(document))
    async with AsyncExitStack() as running:
        if server is VICTORIA:
            metrics = await running.enter_async_context(
                victoria_metrics(folder, http, config=yaml.safe_dump(config))
            )
            evaluates = await running.enter_async_context(vmalert(metrics, rules, http))
        else:
            config["rule_files"] = [f"{rules}/*.yml"]
            metrics = evaluates = await running.enter_async_context(
                prometheus(folder, "", http, config=yaml.safe_dump(config), release=server.release)
            )
        row = {job: await _scraped(metrics, job) for job in FORMATS}
        row["rules"] = await _evaluated(evaluates)
        row["exemplars"] = await _exemplars(metrics, server)
        row["queries"] = await _answered(metrics)
    return row


async def _scraped(server: Prometheus, job: str) -> str:
    """Wait until turns and their buckets grow in this job."""
    for series in ("phonic_turns_total", "phonic_turn_response_seconds_bucket", "phonic_conversations_total"):
        await server.number(f'sum(increase({series}{{job="{job}"}}[30s])) > 0')
    await server.number(f'up{{job="{job}"}} == 1')
    return YES


async def _evaluated(server: Prometheus) -> str:
    """Whether every rule was evaluated without an error."""
    while True:
        groups = (await server.get("rules"))["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        if rules and not any(_is_new(rule) for rule in rules):
            break
        await trio.sleep(0.2)
    bad = [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] not in ("ok", "nodata")]
    assert not any(rule.get("lastError") for rule in rules)
    return YES if not bad else f"{NO}: {bad}"


def _is_new(rule: Mapping[str, Any]) -> bool:
    return rule["health"] == "unknown" or str(rule["lastEvaluation"]).startswith("0001")


async def _exemplars(server: Prometheus, of: Server) -> str:
    if of is VICTORIA:
        return NO
    answer = await server.get(
        "query_exemplars",
        query=f'phonic_turn_response_seconds_bucket{{job="{JOB}"}}',
        start=str(time.time() - 3600),
        end=str(time.time() + 60),
    )
    return YES if any(series["exemplars"] for series in answer) else NO


async def _answered(server: Prometheus) -> str:
    """Send every query of every panel as Grafana does; there must be no warnings or infos."""
    said = []
    now = time.time()
    for name, board in files.render(slo.load()).items():
        if name.startswith("grafana/"):
            for query in queries.panel_queries(yaml.safe_load(board)):
                answer = await server.ask(
                    "query_range", query=query.expr, start=str(now - 60), end=str(now), step="5"
                )
                more = {key: answer[key] for key in ("error", "warnings", "infos") if answer.get(key)}
                if answer["status"] != "success" or more:
                    said.append((query.panel, query.expr, more))
    return YES if not said else f"{NO}: {said}"


def matrix(found: Mapping[str, Row]) -> str:
    rows = [(title, *(found[server.name][key] for server in SERVERS)) for key, title in TITLES.items()]
    return table(("what", *(server.name for server in SERVERS)), rows)


@pytest.mark.parametrize(("server", "stem"), TRIED, ids=lambda each: getattr(each, "name", each))
def test_alerts_pass_their_unit_tests(server: Server, stem: str) -> None:
    assert verdict(server, stem) == ""


@pytest.mark.parametrize("name", [server.name for server in SERVERS])
@pytest.mark.parametrize("what", TITLES)
def test_it_works_on_every_server(found: Mapping[str, Row], name: str, what: str) -> None:
    expected = NO if (what, name) == ("exemplars", VICTORIA.name) else YES
    assert found[name][what] == expected


def test_the_readme_has_the_table_of_what_was_found(found: Mapping[str, Row]) -> None:
    text = README.read_text(encoding="utf-8")
    if os.environ.get("PHONIC_WRITE_TABLES"):
        mark = "<!-- servers:begin -->\n"
        README.write_text(text.replace(mark + between("servers", text), mark + matrix(found)), encoding="utf-8")
    assert between("servers", README.read_text(encoding="utf-8")) == matrix(found)


def test_the_next_release_is_another_major_version_of_prometheus() -> None:
    """Otherwise two columns of the table would show the same version."""
    said = [
        subprocess.run(
            [needs("prometheus", release), "--version"], capture_output=True, text=True, check=True
        ).stdout
        for release in (INSTALLED, NEXT)
    ]
    assert [text.split("version ")[1].partition(".")[0] for text in said] == ["2", "3"]


async def test_histograms_converted_by_the_server_keep_their_classic_series_if_told_to(
    tmp_path: Path, http: httpx.AsyncClient
) -> None:
    """Native histograms with custom buckets save about half of the series, but no rule or panel reads them."""
    needs("prometheus", NEXT)
    convert = {"convert_classic_histograms_to_nhcb": True}
    jobs = {"classic": {}, "converted": convert, "both": {**convert, "always_scrape_classic_histograms": True}}
    with trio.fail_after(STUCK_SECONDS):
        async with program("demo", f"--web.listen-address={ANY_PORT}", *LIVELY) as demo:
            target = (await demo.url()).removeprefix("http://")
            config = {
                "global": {"scrape_interval": "1s"},
                "scrape_configs": [
                    {"job_name": job, "static_configs": [{"targets": [target]}], **more}
                    for job, more in jobs.items()
                ],
            }
            async with prometheus(
                tmp_path,
                "",
                http,
                config=yaml.safe_dump(config),
                release=NEXT,
                features="exemplar-storage,native-histograms",
            ) as server:
                ask = partial(_of_job, server)
                for job in jobs:
                    await server.number(f'sum(increase(phonic_turns_total{{job="{job}"}}[15s])) > 0')
                for job in ("converted", "both"):
                    rate = f'sum(rate(phonic_turn_response_seconds{{job="{job}"}}[15s]))'
                    assert await server.number(f"histogram_quantile(0.95, {rate})") > 0
                for job in ("classic", "both"):
                    le = f'sum by (le) (rate(phonic_turn_response_seconds_bucket{{job="{job}"}}[15s]))'
                    assert await server.number(f"histogram_quantile(0.95, {le})") > 0
                assert await ask("phonic_turn_response_seconds_bucket", "converted") == 0
                series = {job: await ask("", job) for job in jobs}
                exemplars = await server.get(
                    "query_exemplars",
                    query='phonic_turn_response_seconds{job="converted"}',
                    start=str(time.time() - 3600),
                    end=str(time.time() + 60),
                )
    assert 0.3 < series["converted"] / series["classic"] < 0.6
    assert 1.0 < series["both"] / series["classic"] < 1.1
    assert any(each["exemplars"] for each in exemplars)


async def _of_job(server: Prometheus, name: str, job: str) -> float:
    """Return the number of series with that name, or of all series, in a job."""
    return await server.number(f'count({name}{{job="{job}"}}) or vector(0)')
