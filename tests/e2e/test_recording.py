"""`record` and `simulate --replay`: a replay gives an exporter the numbers that the real conversation gave."""

import json
import os
import signal
import ssl
import subprocess
import sys
from contextlib import aclosing
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from exporter.diagnosis.raw_feed import Closed, Event, RawFeeds, Refused
from exporter.phonic.credentials import ApiKey, Credentials
from exporter.phonic.proxies import Proxies
from exporter.recording.file import Entry, Kind, Recording, UnreadableRecording, read
from exporter.recording.record import NotRecorded, record
from exporter.settings import PhonicSettings
from exporter.simulator import server as simulator
from exporter.simulator.scenario import Scenario
from tests.e2e.pages import Page, scrape_until
from tests.e2e.programs import KEY, STUCK_SECONDS, exporting, settings_for
from tests.e2e.upstream import AUDIO, EXAMPLE, live_object, updated, upstream
from tests.e2e.upstream import record as rest_record

SECRET = "Quastenflosser"
WITH_KEY = {**os.environ, "PHONIC_API_KEY": KEY}
# Families that tell what was counted of conversations; labels differ, since names are replaced.
COUNTED = ("phonic_turn", "phonic_conversation", "phonic_tool", "phonic_silent", "phonic_interruptions")


async def recorded(url: str, conversation_id: str, *, seconds: float = 60) -> Recording:
    lines: list[str] = []
    await record(
        PhonicSettings(base_url=url),
        Credentials(ApiKey(KEY)),
        Proxies.from_environment({}),
        conversation_id=conversation_id,
        seconds=seconds,
        write=lines.append,
    )
    return read(lines)


def counted(page: Page) -> dict[str, float]:
    """Totals over all labels of names, by sample and the labels that are closed."""
    totals: dict[str, float] = {}
    for sample in (each for family in page.families for each in family.samples):
        if sample.name.startswith(COUNTED) and "conversation_id" not in sample.labels:
            closed = {key: value for key, value in sample.labels.items() if key not in ("project", "agent")}
            key = f"{sample.name}{sorted(closed.items())}"
            totals[key] = totals.get(key, 0.0) + sample.value
    return {key: value for key, value in totals.items() if value}


async def numbers_of(
    url: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> dict[str, float]:
    """What an exporter counts there by the end of its one conversation. ``started`` once it watches."""
    with trio.fail_after(STUCK_SECONDS):
        async with exporting(settings_for(url)) as pages, httpx.AsyncClient() as http:
            task_status.started()
            page = await scrape_until(
                http, pages, lambda page: page.total("phonic_conversations_ended_total") == 1
            )
    return counted(page)


async def test_replay_gives_the_numbers_of_the_conversation_that_was_recorded() -> None:
    scenario = Scenario(pace=0.05, calls_per_minute=600, total=1, warm_up_s=0, turns=12, seed=5)
    async with trio.open_nursery() as nursery:
        url = await nursery.start(partial(simulator.serve, scenario, api_key=KEY, patient=True))
        real: list[dict[str, float]] = []

        async def count(*, task_status: trio.TaskStatus[None]) -> None:
            real.append(await numbers_of(url, task_status=task_status))

        # First, because a conversation that had ended before the exporter began would be history to it.
        await nursery.start(count)
        identity = await _first_conversation(url)
        recording = await recorded(url, identity)
        while not real:  # noqa: ASYNC110  # the other task ends by itself
            await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    assert recording.conversation_id != identity
    assert [each.kind for each in recording.entries if each.kind is Kind.RECORD] != []
    async with trio.open_nursery() as nursery:
        url = await nursery.start(partial(simulator.replay, recording, api_key=KEY))
        replayed = await numbers_of(url)
        nursery.cancel_scope.cancel()
    assert replayed == real[0]


async def _first_conversation(url: str) -> str:
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {KEY}"}) as http:
        while True:
            for project in (await http.get("/v1/projects")).json()["projects"]:
                rows = (await http.get("/v1/conversations", params={"project": project["name"]})).json()
                for row in rows["conversations"]:
                    return str(row["id"])
            await trio.sleep(0.02)


def _recording(url: str, file: Path) -> list[str]:
    command = [sys.executable, "-m", "exporter", "record", "--phonic.base-url", url]
    return [*command, "--conversation", EXAMPLE, "--output", str(file)]


async def _events_of(url: str, conversation_id: str = "conv_1") -> list[Event]:
    """What comes on a feed, until it ends."""
    feeds = RawFeeds(base_url=url, tls=ssl.create_default_context(), proxy=None)
    with trio.fail_after(STUCK_SECONDS):
        async with aclosing(feeds.events(conversation_id, ApiKey(KEY))) as events:
            return [each async for each in events]


async def test_recording_holds_no_personal_data(tmp_path: Path) -> None:
    file = tmp_path / "call.jsonl"
    conversation = live_object(
        text=f"I am {SECRET}",
        from_phone_number="+14155550123",
        template_variables={SECRET: 77120},
        metadata={"quastenflosser": ["a"]},
        unknown_field={"deep": [SECRET]},
    )
    async with upstream() as phonic:
        phonic.records[EXAMPLE] = rest_record(call_info={"from_phone_number": "+14155550123"}, summary=SECRET)
        phonic.say(EXAMPLE, updated(conversation), f"not json {SECRET}", '{"type":"conversation-ended"}')
        done = await trio.run_process(
            [*_recording(phonic.url, file), "--seconds", "2"], env=WITH_KEY, capture_stdout=True, check=False
        )
    assert done.returncode == 0
    text = file.read_text()
    planted = [
        "uasten",
        "4155550123",
        "77120",
        KEY,
        EXAMPLE.removeprefix("conv_"),
        "support-agent",
        "customer-support",
    ]
    assert [each for each in planted if each in text] == []
    assert "unknown_field" in text
    assert len(json.loads(read(text.splitlines()).entries[1].body)["conversation"]["items"]) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 503])
async def test_refused_feed_is_told_with_its_status(status: int) -> None:
    async with upstream() as phonic:
        phonic.trouble["/live/ws"] = (status, "no")
        with pytest.raises(NotRecorded, match=f"^Phonic refuses the feed: HTTP {status}"):
            await recorded(phonic.url, EXAMPLE)


async def test_feed_without_a_snapshot_is_not_recorded() -> None:
    async with upstream() as phonic:
        phonic.say(EXAMPLE, AUDIO, "not json", "[" * 100_000, '"conversation-updated"')
        with pytest.raises(NotRecorded, match="no snapshot"):
            await recorded(phonic.url, EXAMPLE, seconds=1)


async def test_snapshot_that_the_exporter_cannot_read_is_recorded() -> None:
    async with upstream() as phonic:
        phonic.say(EXAMPLE, '{"type":"conversation-updated","conversation":[]}')
        recording = await recorded(phonic.url, EXAMPLE, seconds=1)
    assert [each.kind for each in recording.entries] == [Kind.OPENED, Kind.FRAME]


async def test_wrong_key_is_one_line_at_once_and_leaves_no_file(tmp_path: Path) -> None:
    file = tmp_path / "call.jsonl"
    scenario = Scenario(calls_per_minute=600, total=1, warm_up_s=0)
    async with trio.open_nursery() as nursery:
        url = await nursery.start(partial(simulator.serve, scenario, api_key="ph_other"))
        with trio.fail_after(20):
            done = await trio.run_process(
                _recording(url, file), env=WITH_KEY, capture_stdout=True, capture_stderr=True, check=False
            )
        nursery.cancel_scope.cancel()
    assert (done.returncode, done.stdout, file.exists()) == (1, b"", False)
    errors = [line for line in done.stderr.decode().splitlines() if "error" in line]
    assert len(errors) == 1
    assert "Phonic refuses the feed: close code 1008" in errors[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signal_ends_a_recording_which_is_kept_if_a_snapshot_came(number: int, tmp_path: Path) -> None:
    file = tmp_path / "call.jsonl"
    async with upstream() as phonic, trio.open_nursery() as nursery:

        async def stopped_after(kind: Kind) -> tuple[int | None, str]:
            with (tmp_path / "said").open("w+") as said:
                run = partial(trio.run_process, check=False, env=WITH_KEY, stdout=said)
                process = await nursery.start(run, _recording(phonic.url, file))
                while not file.exists() or f'"{kind}"' not in file.read_text():  # noqa: ASYNC110  # its own process
                    await trio.sleep(0.02)
                process.send_signal(number)
                code = await process.wait()
                said.seek(0)
                return code, said.read()

        with trio.fail_after(STUCK_SECONDS):
            assert await stopped_after(Kind.OPENED) == (1, "")
            assert not file.exists()
            phonic.say(EXAMPLE, updated(live_object()))
            code, said = await stopped_after(Kind.FRAME)
    assert (code, said.split(";")[0]) == (0, f"1 snapshots recorded in {file}")
    assert [each.kind for each in read(file.read_text().splitlines()).entries] == [Kind.OPENED, Kind.FRAME]


@pytest.mark.parametrize(("code", "again"), [(None, None), (1005, None), (1006, None), (1000, 1000), (4999, 4999)])
async def test_a_feed_ends_in_a_replay_as_it_ended(code: int | None, again: int | None) -> None:
    entries = (Entry(at=0, kind=Kind.OPENED), Entry(at=0, kind=Kind.CLOSED, code=code))
    recording = Recording(conversation_id="conv_1", entries=entries)
    async with trio.open_nursery() as nursery:
        url = await nursery.start(partial(simulator.replay, recording, api_key=KEY))
        closed = (await _events_of(url))[-1]
        nursery.cancel_scope.cancel()
    assert isinstance(closed, Closed)
    assert closed.code == again


@pytest.mark.parametrize("status", [200, 204, 304, 404, 999])
async def test_any_status_that_refused_a_feed_refuses_it_again(status: int) -> None:
    recording = read([HEAD, f'{{"at":0,"kind":"refused","code":{status}}}'])
    async with trio.open_nursery() as nursery:
        url = await nursery.start(partial(simulator.replay, recording, api_key=KEY))
        (refused,) = await _events_of(url)
        nursery.cancel_scope.cancel()
    assert isinstance(refused, Refused)
    assert refused.status == status


async def test_no_server_is_one_error() -> None:
    with pytest.raises(NotRecorded, match="doctor"):
        await recorded("http://127.0.0.1:1", EXAMPLE)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "line 1: no JSON object"),
        (["{}"], "line 1: no recording"),
        (['{"format":"phonic-exporter recording","version":2}'], "line 1: made by a later version"),
        (['{"format":"phonic-exporter recording","version":1}'], "line 1: names no conversation"),
        (
            [HEAD := '{"format":"phonic-exporter recording","version":1,"conversation_id":"conv_1"}', "x"],
            "line 2: no JSON",
        ),
        ([HEAD, '{"at":1,"kind":"dance"}'], "line 2: no event"),
        ([HEAD, '{"at":2,"kind":"ping"}', "", '{"at":1,"kind":"ping"}'], "line 4: earlier"),
        ([HEAD, '{"at":NaN,"kind":"ping"}'], "line 2: earlier"),
        ([HEAD, '{"at":1,"kind":"frame","body":5}'], "line 2: no event"),
        ([HEAD, '{"at":1,"kind":"frame","body":"\\ud835"}'], "line 2: no event"),
        ([HEAD, '{"at":1,"kind":"refused","code":99999}'], "line 2: no event"),
        ([HEAD, '{"at":1,"kind":"refused","code":101}'], "line 2: no event"),
        ([HEAD, '{"at":1,"kind":"refused","code":true}'], "line 2: no event"),
        ([HEAD, '{"at":1,"kind":"closed","code":99999}'], "line 2: no event"),
        ([HEAD, '{"at":1,"kind":"closed","code":-1}'], "line 2: no event"),
        (["[" * 100_000], "line 1: no JSON object"),
        ([HEAD, '{"a":' * 100_000], "line 2: no JSON object"),
        ([HEAD, f'{{"at":1{"0" * 400},"kind":"ping"}}'], "line 2: no event"),
    ],
)
def test_file_that_is_no_recording_is_told_by_line(lines: list[str], words: str) -> None:
    with pytest.raises(UnreadableRecording, match=words):
        read(lines)


def test_replay_of_no_recording_is_one_line_and_exit_2(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("hello")
    for path in (file, tmp_path / "missing", tmp_path):
        done = _run("simulate", "--replay", str(path), "--simulator.listen-address", "127.0.0.1:0")
        assert (done[0], done[1].count("\n")) == (2, 1), done
        assert "--replay" in done[1]


def test_recording_never_overwrites_a_file(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("mine")
    code, text = _run("record", "--conversation", EXAMPLE, "--output", str(file))
    assert (code, file.read_text()) == (2, "mine")
    assert "--output" in text


def _run(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "exporter", *arguments],
        env=WITH_KEY,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr
