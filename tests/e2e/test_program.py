"""The command as a process: signals, kills, restarts, changing files, exit codes and error lines."""

import json
import signal
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from tests.e2e.pages import Page, scrape, scrape_until
from tests.e2e.programs import ANY_PORT, STUCK_SECONDS, outcome, program, unread_scrape
from tests.e2e.upstream import EXAMPLE, PROJECT, live_object, record, updated, upstream
from tests.unit.certificates import make_authority, make_certificate, trusting

pytestmark = pytest.mark.e2e

KEY = {"PHONIC_API_KEY": "ph_test"}
QUICK = (f"--web.listen-address={ANY_PORT}", "--watch.interval=0.1")
NO_STATE = "--state.file="
OFTEN = "--state.interval=0.05"
FOURTH = {"item_idx": 3, "role": "user", "started_at": "2025-07-30T23:45:10.000Z", "duration_ms": 900}
GUARDED = ("phonic_conversations_total", "phonic_turns_total", "phonic_turn_")


def has_turns(count: int) -> Callable[[Page], bool]:
    return lambda page: page.total("phonic_turns_total") == count


def totals(page: Page) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return all conversation metrics that are not 0, by sample."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in page.families
        for sample in family.samples
        if sample.name.startswith(GUARDED) and sample.value
    }


async def test_sigterm_writes_the_checkpoint_and_finishes_the_scrape(
    tmp_path: Path, http: httpx.AsyncClient
) -> None:
    state = f"--state.file={tmp_path / 'state.db'}"
    seldom = "--state.interval=3600"  # so that only the stop writes what the next start finds
    agents = [{"id": f"agent_{n}", "name": f"agent {n}"} for n in range(90)]
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames={EXAMPLE: [updated(live_object())]}, agents=agents) as phonic:
            watch = ("--phonic.base-url", phonic.url, "--watch.conversation", EXAMPLE)
            async with program(*QUICK, *watch, state, seldom, **KEY) as first:
                url = await first.url()
                before = await scrape_until(
                    http, url, lambda page: has_turns(3)(page) and len(page.samples("phonic_agent_info")) > 90
                )
                async with unread_scrape(url) as slow:
                    begun = await slow.receive_some(1000)
                    first.signal(signal.SIGTERM)
                    await first.line("signal received", "SIGTERM")
                    answer = begun + b"".join([chunk async for chunk in slow])
                with trio.fail_after(10):
                    assert await first.wait() == 0
            headers, _, body = answer.partition(b"\r\n\r\n")
            assert f"content-length: {len(body)}".encode() in headers.lower()
            assert first.lines[-1].endswith("event=stopped")
            phonic.frames.clear()
            async with program(*QUICK, *watch, state, **KEY) as second:
                after = await scrape(http, await second.url())
    assert before.total("phonic_turns_total") == 3
    assert totals(after) == totals(before)


async def test_second_signal_ends_at_once(http: httpx.AsyncClient) -> None:
    agents = [{"id": f"agent_{n}", "name": f"agent {n}"} for n in range(90)]
    with trio.fail_after(STUCK_SECONDS):
        async with (
            upstream(agents=agents) as phonic,
            program(*QUICK, NO_STATE, "--phonic.base-url", phonic.url, **KEY) as running,
        ):
            url = await running.url()
            await scrape_until(http, url, lambda page: len(page.samples("phonic_agent_info")) == 90)
            async with unread_scrape(url):  # would delay a graceful stop
                running.signal(signal.SIGINT)
                await running.line("signal received", "SIGINT")
                with trio.fail_after(2):
                    running.signal(signal.SIGINT)
                    assert await running.wait() == 0


async def test_kill_9_loses_nothing_and_doubles_nothing(tmp_path: Path, http: httpx.AsyncClient) -> None:
    state = f"--state.file={tmp_path / 'state.db'}"
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames={EXAMPLE: [updated(live_object())]}) as phonic:
            command = (*QUICK, "--phonic.base-url", phonic.url, "--watch.conversation", EXAMPLE, state, OFTEN)
            async with program(*command, **KEY) as first:
                url = await first.url()
                before = await scrape_until(http, url, has_turns(3))
                counted_at = before.total("phonic_conversation_live_last_update_timestamp_seconds")
                written = "phonic_exporter_checkpoint_last_success_timestamp_seconds"
                await scrape_until(http, url, lambda page: page.total(written) > counted_at + 0.1)
                first.signal(signal.SIGKILL)
                assert await first.wait() == -signal.SIGKILL
            async with program(*command, **KEY) as second:
                url = await second.url()
                after = await scrape_until(
                    http, url, lambda page: page.total("phonic_exporter_updates_total") == 1
                )
                assert totals(after) == totals(before)
                phonic.say(EXAMPLE, updated(live_object(items=[*live_object()["items"], FOURTH])))
                grown = await scrape_until(http, url, has_turns(4))
    assert grown.total("phonic_conversations_total") == 1
    assert grown.total("phonic_turn_response_seconds_count") == 1
    assert grown.total("phonic_turn_duration_seconds_count") == 3


async def test_wrong_setting_is_one_line_and_exit_2(tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    web_config = tmp_path / "web.yml"
    web_config.write_text("tls_server_config: {cert_file: missing.pem, key_file: missing.key}\n")
    local = (f"--web.listen-address={ANY_PORT}", "--phonic.base-url=http://127.0.0.1:1")
    with socket.create_server(("127.0.0.1", 0)) as taken, trio.fail_after(STUCK_SECONDS):
        port = taken.getsockname()[1]
        cases = {
            "--state.file": (*local, f"--state.file={state}"),
            "--web.listen-address": (*local, NO_STATE, f"--web.listen-address=127.0.0.1:{port}"),
            "--phonic.base-url": (NO_STATE, "--phonic.base-url=http://phonic.example"),
            "--web.config.file": (*local, NO_STATE, f"--web.config.file={web_config}"),
            "--watch.file": (*local, NO_STATE, f"--watch.file={tmp_path / 'missing'}"),
        }
        async with program(*local, f"--state.file={state}", **KEY) as holder:
            await holder.url()
            outcomes: dict[str, tuple[int, str]] = {}

            async def run(flag: str) -> None:
                outcomes[flag] = await outcome(*cases[flag], **KEY)

            async with trio.open_nursery() as nursery:
                for flag in cases:
                    nursery.start_soon(run, flag)
    for flag, (code, text) in outcomes.items():
        assert code == 2, (flag, text)
        assert text.count("\n") == 0, text
        assert text.startswith(f"phonic-exporter: error: {flag}: "), text
    assert f"pid {holder.process.pid}" in outcomes["--state.file"][1]
    assert "address already in use" in outcomes["--web.listen-address"][1]


async def test_corrupt_state_file_is_set_aside_and_logged(tmp_path: Path, http: httpx.AsyncClient) -> None:
    state = tmp_path / "state.db"
    header = b"SQLite format 3\0".ljust(68, b"\0") + b"PhEx"  # with our application id
    state.write_bytes(header + b"\x00not a database" * 1000)
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames={EXAMPLE: [updated(live_object())]}) as phonic:
            watch = ("--phonic.base-url", phonic.url, "--watch.conversation", EXAMPLE)
            async with program(*QUICK, *watch, f"--state.file={state}", OFTEN, **KEY) as running:
                url = await running.url()
                page = await scrape_until(
                    http,
                    url,
                    lambda page: has_turns(3)(page) and page.total("phonic_exporter_checkpoint_size_bytes") > 0,
                )
    assert page.total("phonic_exporter_checkpoint_resets_total", reason="corrupt") == 1
    assert any(name.startswith("state.db.corrupt-") for name in names_in(tmp_path))
    assert state.read_bytes().startswith(b"SQLite format 3")


def names_in(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


async def test_exporter_runs_without_a_writable_state_file(http: httpx.AsyncClient) -> None:
    nowhere = "/proc/phonic-exporter/state.db"  # not even root can create a folder here
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames={EXAMPLE: [updated(live_object())]}) as phonic:
            watch = ("--phonic.base-url", phonic.url, "--watch.conversation", EXAMPLE)
            async with program(*QUICK, *watch, f"--state.file={nowhere}", **KEY) as running:
                url = await running.url()
                page = await scrape_until(http, url, has_turns(3))
                running.signal(signal.SIGTERM)
                assert await running.wait() == 0
    assert page.total("phonic_exporter_checkpoint_errors_total") >= 1
    assert not page.samples("phonic_exporter_checkpoint_last_success_timestamp_seconds")


async def test_changed_watch_file_starts_and_stops_watchers(tmp_path: Path, http: httpx.AsyncClient) -> None:
    named = tmp_path / "ids.txt"
    named.write_text("conv_a\n")
    frames = {each: [updated(live_object(each))] for each in ("conv_a", "conv_b")}
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames=frames) as phonic:
            flags = ("--phonic.base-url", phonic.url, "--watch.no-discover", f"--watch.file={named}")
            async with program(*QUICK, NO_STATE, *flags, **KEY) as running:
                url = await running.url()
                for listed, others in ((named, {"conv_a"}), (named, {"conv_b"})):
                    listed.write_text("\n".join(others))
                    await scrape_until(http, url, partial(has_live_ids, others))
                named.write_text('["conv_b", "conv_a"]')
                page = await scrape_until(http, url, lambda page: live_ids(page) == {"conv_a", "conv_b"})
                assert page.total("phonic_exporter_config_last_reload_successful", file="watch_file") == 1
                named.write_text("[broken")
                page = await scrape_until(
                    http,
                    url,
                    lambda page: (
                        page.total("phonic_exporter_config_last_reload_successful", file="watch_file") == 0
                    ),
                )
    assert live_ids(page) == {"conv_a", "conv_b"}
    assert page.total("phonic_conversations_total") == 2


def has_live_ids(ids: set[str], page: Page) -> bool:
    return live_ids(page) == ids


def live_ids(page: Page) -> set[str]:
    return page.values_of("phonic_conversation_live_info", "conversation_id")


async def test_rotated_api_key_is_taken_up_after_a_401(tmp_path: Path, http: httpx.AsyncClient) -> None:
    key = tmp_path / "key"
    key.write_text("ph_old\n")
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(keys={"ph_old"}) as phonic:
            flags = ("--phonic.base-url", phonic.url, f"--phonic.api-key-file={key}")
            async with program(*QUICK, NO_STATE, *flags) as running:
                url = await running.url()
                await scrape_until(http, url, lambda page: page.total("phonic_up") == 1)
                phonic.keys = {"ph_new"}
                await scrape_until(
                    http,
                    url,
                    lambda page: page.total("phonic_exporter_discovery_errors_total", reason="http_401") > 0,
                )
                key.write_text("ph_new\n")
                phonic.projects = [{**PROJECT, "active_conversations": 1}]
                phonic.records[EXAMPLE] = record(ended_at=None, started_at=datetime.now(UTC).isoformat())
                phonic.say(EXAMPLE, updated(live_object()))
                page = await scrape_until(http, url, has_turns(3))
    assert page.total("phonic_up") == 1
    assert "ph_old" not in running.text
    assert "ph_new" not in running.text


async def test_tls_and_basic_auth_protect_the_page_and_healthcheck_works(tmp_path: Path) -> None:
    make_authority(tmp_path)
    make_certificate(tmp_path, "server", sans="IP:127.0.0.1")
    web_config = tmp_path / "web.yml"
    web_config.write_text(
        "tls_server_config: {cert_file: server.pem, key_file: server.key}\n"
        # "secret", at bcrypt's lowest cost
        "basic_auth_users: {scraper: $2b$04$POHVcvZPIrD9E1THkb4UcuB8t9mmJw2inITOhSLPEf6.7Md1joryq}\n"
    )
    protected = f"--web.config.file={web_config}"
    with trio.fail_after(STUCK_SECONDS):
        async with upstream() as phonic:
            flags = (NO_STATE, "--phonic.base-url", phonic.url, protected)
            async with program(*QUICK, *flags, **KEY) as running:
                url = await running.url()
                assert url.startswith("https://")
                async with httpx.AsyncClient(verify=trusting(tmp_path)) as http:
                    assert (await http.get(f"{url}/metrics")).status_code == 401
                    assert (await http.get(f"{url}/metrics", auth=("scraper", "wrong"))).status_code == 401
                    allowed = await http.get(f"{url}/metrics", auth=("scraper", "secret"))
                    assert allowed.status_code == 200
                    assert "phonic_exporter_build_info" in allowed.text
                assert await health(url, protected) == 0
    assert "secret" not in running.text


async def health(url: str, *flags: str) -> int:
    code, _ = await outcome("healthcheck", f"--web.listen-address={url.rpartition('/')[2]}", *flags)
    return code


async def test_healthcheck_tells_a_running_exporter_from_none(http: httpx.AsyncClient) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with (
            upstream() as phonic,
            program(*QUICK, NO_STATE, "--phonic.base-url", phonic.url, **KEY) as running,
        ):
            url = await running.url()
            assert await health(url) == 0
            assert (await http.get(f"{url}/-/healthy")).status_code == 200
            running.signal(signal.SIGTERM)
            await running.wait()
        assert await health(url) == 1


async def test_check_config_shows_what_would_run_and_no_secret(tmp_path: Path) -> None:
    config = tmp_path / "exporter.toml"
    config.write_text('[metrics]\nlabels = ["agent", "origin"]\n')
    environ = {"PHONIC_EXPORTER_WATCH_INTERVAL": "7", "PHONIC_API_KEY": "ph_very-secret"}
    with trio.fail_after(STUCK_SECONDS):
        code, text = await outcome("check-config", f"--config.file={config}", "--log.format=json", **environ)
        assert code == 0
        assert "--watch.interval = 7.0" in text.splitlines()
        assert "--metrics.labels = agent,origin" in text.splitlines()
        assert "very-secret" not in text
        code, text = await outcome("check-config", f"--config.file={config}", "--watch.interval=-1", **environ)
    assert code == 2
    assert text.startswith("phonic-exporter: error: --watch.interval: ")
    assert "very-secret" not in text


async def test_json_logs_are_one_object_a_line(http: httpx.AsyncClient) -> None:
    agent = {"id": "agent_1", "name": 'a "name"\nof two lines'}
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames={EXAMPLE: [updated(live_object(agent=agent)), "not json"]}) as phonic:
            flags = ("--phonic.base-url", phonic.url, "--watch.conversation", EXAMPLE)
            logs = ("--log.format=json", "--log.level=debug")
            async with program(*QUICK, NO_STATE, *flags, *logs, **KEY) as running:
                serving = json.loads(await running.line('"event": "serving"'))
                await scrape_until(
                    http,
                    serving["landing_page"],
                    lambda page: page.total("phonic_exporter_invalid_messages_total", reason="not_json") == 1,
                )
                running.signal(signal.SIGTERM)
                assert await running.wait() == 0
    events = [json.loads(line) for line in running.lines]
    assert all(each["ts"] and each["level"] and each["event"] for each in events)
    [seen] = [each for each in events if each["event"] == "conversation seen"]
    assert seen["conversation"] == EXAMPLE
    assert seen["agent"] == agent["name"]
