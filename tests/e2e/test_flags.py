"""Settings of a whole exporter: labels and limits, the push API, concurrent scrapes."""

import re
import socket
import sys
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from exporter.settings import MetricsSettings, PhonicSettings, Settings, WatchSettings, WebSettings
from tests.e2e.pages import scrape_until
from tests.e2e.programs import (
    ANY_PORT,
    STUCK_SECONDS,
    bare_environment,
    exporting,
    program,
    settings_for,
    unread_scrape,
)
from tests.e2e.upstream import ENDED, PROJECT, Upstream, live_object, updated, upstream

pytestmark = pytest.mark.e2e

THREE = ("conv_a", "conv_b", "conv_c")


def three_agents() -> dict[str, list[str | bytes]]:
    """Return three live conversations with different agents."""
    return {each: [updated(live_object(each, agent={"id": f"agent_{each}", "name": each[-1]}))] for each in THREE}


def watching(phonic: Upstream, *conversations: str, **metrics: object) -> Settings:
    return settings_for(
        phonic.url,
        watch=WatchSettings(interval=0.1, conversation=conversations),
        metrics=MetricsSettings(**{"hold_new_series": 0, **metrics}),  # type: ignore[arg-type]
    )


async def test_chosen_labels_are_the_labels(http: httpx.AsyncClient) -> None:
    labels = ("agent", "origin", "is_test", "call_provider", "language", "model")
    with trio.fail_after(STUCK_SECONDS):
        async with (
            upstream(frames=three_agents()) as phonic,
            exporting(watching(phonic, "conv_a", labels=labels)) as url,
        ):
            page = await scrape_until(http, url, lambda page: page.total("phonic_conversations_total") == 1)
    [seen] = [each for each in page.samples("phonic_conversations_total") if each.value]
    assert seen.labels == {
        "agent": "a",
        "origin": "inbound",
        "is_test": "false",
        "call_provider": "twilio_inbound_user",
        "language": "en",
        "model": "unknown",  # only REST has it
    }


async def test_no_labels_are_possible(http: httpx.AsyncClient) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with (
            upstream(frames=three_agents()) as phonic,
            exporting(watching(phonic, *THREE, labels=())) as url,
        ):
            page = await scrape_until(http, url, lambda page: page.total("phonic_conversations_total") == 3)
    [seen] = page.samples("phonic_conversations_total")
    assert seen.labels == {}


@pytest.mark.parametrize(("limit", "label"), [("label_limit", "agent"), ("label_set_limit", "label_set")])
async def test_what_exceeds_a_limit_is_folded_and_counted_but_not_lost(
    http: httpx.AsyncClient, limit: str, label: str
) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with (
            upstream(frames=three_agents()) as phonic,
            exporting(watching(phonic, *THREE, **{limit: 2})) as url,
        ):
            page = await scrape_until(http, url, lambda page: page.total("phonic_turns_total") == 9)
    agents = page.values_of("phonic_conversations_total", "agent")
    assert len(agents & {"a", "b", "c"}) == 2
    assert agents - {"a", "b", "c"} == {"__other__"}
    assert page.total("phonic_conversations_total", agent="__other__") == 1
    assert page.total("phonic_turns_total", agent="__other__") == 3
    assert page.total("phonic_exporter_label_values_folded_total", label=label) == 1
    assert page.total("phonic_exporter_label_values_folded_total") == 1


@pytest.mark.parametrize("limit", [0, 2])
async def test_only_so_many_conversations_get_series_of_their_own(http: httpx.AsyncClient, limit: int) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with (
            upstream(frames=three_agents()) as phonic,
            exporting(watching(phonic, *THREE, per_conversation_limit=limit)) as url,
        ):
            page = await scrape_until(http, url, lambda page: page.total("phonic_turns_total") == 9)
    assert len(page.samples("phonic_conversation_live_info")) == limit
    assert len(page.samples("phonic_conversation_live_turns")) == limit
    assert page.total("phonic_conversations_live") == 3


async def test_conversations_are_pushed_and_withdrawn_over_http(http: httpx.AsyncClient) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames=three_agents()) as phonic:
            settings = settings_for(
                phonic.url,
                watch=WatchSettings(discover=False, limit=2),
                web=WebSettings(listen_address=(ANY_PORT,), enable_push_api=True),
            )
            async with exporting(settings) as url:
                api = f"{url}/api/v1/conversations"

                async def put(conversation_id: str) -> int:
                    return (await http.put(f"{api}/{conversation_id}")).status_code

                async def delete(conversation_id: str) -> int:
                    return (await http.delete(f"{api}/{conversation_id}")).status_code

                assert await put("conv_a") == 201
                assert await put("conv_a") == 200
                page = await scrape_until(http, url, lambda page: page.total("phonic_turns_total") == 3)
                assert page.values_of("phonic_conversation_live_info", "conversation_id") == {"conv_a"}
                assert await put("conv_b") == 201
                assert await put("conv_c") == 409
                for malformed in ("conv_", "a", "conv_a%2Fb", "..%2Fconv_a", "conv_%C3%A9"):
                    assert await put(malformed) == 400, malformed
                assert await delete("conv_a") == 204
                assert await delete("conv_a") == 404
                page = await scrape_until(http, url, lambda page: page.total("phonic_turns_total") == 6)
                assert page.values_of("phonic_conversation_live_info", "conversation_id") == {"conv_b"}
                [shown] = (await http.get(api)).json()["conversations"]
                assert (shown["conversation_id"], shown["state"], shown["turns"]) == ("conv_b", "live", 3)
                assert await put("conv_a") == 201  # watched again: its turns were counted already
                phonic.say("conv_a", updated(live_object("conv_a", items=[*live_object()["items"], FOURTH])))
                await scrape_until(http, url, lambda page: page.total("phonic_turns_total") == 7)


async def test_a_conversation_pushed_before_the_names_of_projects_are_known_carries_them(
    http: httpx.AsyncClient,
) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames=three_agents(), trouble={"/projects": (500, "")}) as phonic:
            settings = settings_for(phonic.url, web=WebSettings(listen_address=(ANY_PORT,), enable_push_api=True))
            async with exporting(settings) as url:
                assert (await http.put(f"{url}/api/v1/conversations/conv_a")).status_code == 201
                phonic.trouble.clear()
                page = await scrape_until(http, url, lambda page: page.total("phonic_turns_total") == 3)
    assert page.values_of("phonic_conversations_total", "project") == {PROJECT["name"]}


async def test_a_session_token_follows_named_conversations_to_their_end_without_rest(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("ph_session_test")
    with trio.fail_after(STUCK_SECONDS):
        async with (
            upstream(frames={"conv_a": [updated(live_object("conv_a", end_reason="user")), ENDED]}) as phonic,
            program(
                f"--phonic.base-url={phonic.url}", f"--phonic.session-token-file={token}", "--state.file=",
                f"--web.listen-address={ANY_PORT}", "--watch.conversation=conv_a",
            ) as exporter,
        ):  # fmt: skip
            phonic.keys, phonic.tokens = set(), {"ph_session_test"}
            url = await exporter.url()
            page = await scrape_until(http, url, lambda page: page.total("phonic_conversations_ended_total") == 1)
            assert (await http.get(f"{url}/-/ready")).status_code == 200
    assert page.total("phonic_turns_total") == 3
    assert page.total("phonic_conversations_ended_total", ended_by="user") == 1
    assert page.samples("phonic_up") == []


FOURTH = {"item_idx": 3, "role": "user", "started_at": "2025-07-30T23:45:10.000Z", "duration_ms": 900}


async def test_scrapes_beyond_the_limit_get_a_503(http: httpx.AsyncClient) -> None:
    # Enough series that the system cannot buffer the page, so that a client that does not read blocks its scrape.
    agents = [{"id": f"agent_{n}", "name": f"agent {n}"} for n in range(99)]
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(agents=agents) as phonic:
            settings = settings_for(phonic.url, web=WebSettings(listen_address=(ANY_PORT,), max_requests=1))
            async with exporting(settings) as url:
                await scrape_until(http, url, lambda page: len(page.samples("phonic_agent_info")) == 99)
                async with unread_scrape(url) as slow:
                    assert (await slow.receive_some(12)).startswith(b"HTTP/1.1 200")
                    refused = await http.get(f"{url}/metrics")
                    assert refused.status_code == 503
                    assert refused.headers["Retry-After"] == "1"
                    assert (await http.get(f"{url}/-/healthy")).status_code == 200
                    assert len(b"".join([chunk async for chunk in slow])) > 1_000_000
                assert (await http.get(f"{url}/metrics")).status_code == 200


async def test_pushed_ids_that_do_not_exist_have_a_budget(http: httpx.AsyncClient) -> None:
    """They use little of the REST budget, and do not affect real conversations."""
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames=three_agents()) as phonic:
            settings = settings_for(
                phonic.url,
                phonic=PhonicSettings(base_url=phonic.url, requests_per_second=4),
                watch=WatchSettings(discover=False),
                web=WebSettings(listen_address=(ANY_PORT,), enable_push_api=True),
            )
            async with exporting(settings) as url:
                api = f"{url}/api/v1/conversations"
                assert (await http.put(f"{api}/conv_a")).status_code == 201
                await scrape_until(http, url, lambda page: page.total("phonic_turns_total") == 3)
                answers = [await http.put(f"{api}/conv_unknown_{number}") for number in range(100)]
                statuses = [answer.status_code for answer in answers]
                assert set(statuses) == {201, 429}
                assert statuses.count(201) <= 15
                assert answers[-1].headers["Retry-After"] == "5"
                assert len((await http.get(api)).json()["conversations"]) <= 16
                elsewhere = {"Host": "attacker.example"}
                assert (await http.put(f"{api}/conv_b", headers=elsewhere)).status_code == 403


async def test_pages_are_served_below_a_prefix(http: httpx.AsyncClient) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with upstream() as phonic:
            for web, prefix, link in (
                (WebSettings(listen_address=(ANY_PORT,), route_prefix="/in"), "/in", "/in/metrics"),
                (
                    WebSettings(listen_address=(ANY_PORT,), external_url="https://example.com/out/"),
                    "/out",
                    "/out/metrics",
                ),
                (
                    WebSettings(
                        listen_address=(ANY_PORT,), external_url="https://example.com/out", route_prefix="/"
                    ),
                    "",
                    "/out/metrics",
                ),
            ):
                async with exporting(settings_for(phonic.url, web=web)) as url:
                    assert "phonic_exporter_build_info" in (await http.get(f"{url}{prefix}/metrics")).text
                    assert f'href="{link}"' in (await http.get(f"{url}{prefix}/")).text
                    assert (await http.get(f"{url}/-/healthy")).status_code == 200


async def test_metrics_about_the_exporter_can_be_left_out(http: httpx.AsyncClient) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with upstream() as phonic:
            web = WebSettings(listen_address=(ANY_PORT,), disable_exporter_metrics=True)
            async with exporting(settings_for(phonic.url, web=web)) as url:
                await scrape_until(http, url, lambda page: bool(page.samples("phonic_up")))
                for accept in ("text/plain", "application/openmetrics-text"):
                    page = (await http.get(f"{url}/metrics", headers={"Accept": accept})).text
                    assert "phonic_up 1" in page
                    own = re.findall("^(?:process_|phonic_exporter_)[a-z_]*", page, re.MULTILINE)
                    assert set(own) == {"phonic_exporter_build_info", "phonic_exporter_slo_response_seconds"}
                asked = "name[]=process_cpu_seconds_total&name[]=phonic_exporter_updates_total&name[]=phonic_up"
                page = (await http.get(f"{url}/metrics?{asked}")).text
                assert {line.split()[0] for line in page.splitlines() if line[0] != "#"} <= {"phonic_up"}
                assert (await http.get(f"{url}/-/healthy")).status_code == 200


async def test_sockets_that_systemd_passes_are_served(http: httpx.AsyncClient) -> None:
    with trio.fail_after(STUCK_SECONDS), socket.create_server(("127.0.0.1", 0)) as passed:
        host, port = passed.getsockname()
        async with upstream() as phonic, trio.open_nursery() as nursery:
            as_systemd_does = (
                f"import os; os.dup2({passed.fileno()}, 3)\n"
                "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
                "from exporter.cli import main; main()"
            )
            flags = ("--web.systemd-socket", "--state.file=", f"--phonic.base-url={phonic.url}")
            process = await nursery.start(
                partial(
                    trio.run_process,
                    [sys.executable, "-c", as_systemd_does, *flags],
                    env=bare_environment(PHONIC_API_KEY="ph_test"),
                    pass_fds=(passed.fileno(),),
                    capture_stderr=True,
                )
            )
            passed.close()  # a connection waits in the queue until it is accepted
            assert (await http.get(f"http://{host}:{port}/-/healthy")).status_code == 200
            process.terminate()
