"""The scrape rule of shards, in the hands of a real Prometheus."""

import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import trio

from exporter.scrape_rule import scrape_rule
from tests.e2e.prometheus import RELEASES, Release, needs, prometheus
from tests.servers import request, rude_server

pytestmark = pytest.mark.e2e

PAGE = """\
# TYPE of_a_shard gauge
of_a_shard{shard="0",project="main"} 1
# TYPE of_the_process gauge
of_the_process 2
"""


def config(target: str) -> str:
    """Two jobs of one target: the second has a label ``pod``, as in Kubernetes."""
    return "\n".join(
        [
            "global: {scrape_interval: 250ms, scrape_timeout: 250ms}",
            "scrape_configs:",
            *(
                line
                for job, labels in (("plain", "{}"), ("kubernetes", "{pod: exporter-7d4f}"))
                for line in (
                    f"- job_name: {job}",
                    f"  static_configs: [{{targets: [{target!r}], labels: {labels}}}]",
                    *(f"  {line}" for line in scrape_rule().splitlines()),
                )
            ),
        ]
    )


async def answer(stream: trio.SocketStream) -> None:
    await request(stream)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(PAGE)}\r\n\r\n"
    await stream.send_all((head + PAGE).encode())


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_promtool_accepts_the_rule(release: Release, tmp_path: Path) -> None:
    path = tmp_path / "prometheus.yml"
    path.write_text(config("127.0.0.1:10058"), encoding="utf-8")
    checked = subprocess.run(
        [needs("promtool", release), "check", "config", path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stderr


async def test_series_of_a_shard_have_no_label_of_the_process_and_others_keep_theirs(
    tmp_path: Path, http: httpx.AsyncClient
) -> None:
    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            target = (await stack.enter_async_context(rude_server(answer))).removeprefix("http://")
            server = await stack.enter_async_context(prometheus(tmp_path, target, http, config=config(target)))
            for job, pod in (("plain", {}), ("kubernetes", {"pod": "exporter-7d4f"})):
                await server.number(f'of_the_process{{job="{job}"}}')
                [of_shard, of_process] = [
                    found["metric"]
                    for name in ("of_a_shard", "of_the_process")
                    for found in (await server.get("query", query=f'{name}{{job="{job}"}}'))["result"]
                ]
                assert of_shard == {
                    "__name__": "of_a_shard",
                    "job": job,
                    "shard": "0",
                    "project": "main",
                    "instance": "shard-0",
                    **({"pod": "shard-0"} if pod else {}),
                }
                assert of_process == {"__name__": "of_the_process", "job": job, "instance": target, **pod}
