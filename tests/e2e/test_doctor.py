"""`doctor` against a Phonic that behaves, one that is broken, and one that differs from its documents."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import trio

from exporter.diagnosis.examine import UNKNOWN_ID, examine
from exporter.diagnosis.report import Report, Verdict, report
from exporter.phonic.credentials import ApiKey, Credentials, SessionToken
from exporter.phonic.proxies import Proxies
from exporter.settings import PhonicSettings
from exporter.simulator import server as simulator
from exporter.simulator.scenario import Scenario
from tests.e2e.programs import STUCK_SECONDS
from tests.e2e.upstream import EXAMPLE, PROJECT, Json, Upstream, live_object, record, updated, upstream
from tests.servers import frame, request, reset, rude_server, upgrade

KEY = "ph_test"
ACTIVE = {**PROJECT, "active_conversations": 1}
# Personal data, none of which may be in a report.
SECRETS: dict[str, Any] = {
    "text": "My name is Ottilie Quastenflosser",
    "summary": "wants a refund for order 77120",
    "from_phone_number": "+14155550123",
    "to_phone_number": "+442079460000",
    "external_id": "crm-4711-quastenflosser",
    "twilio_call_sid": "CA0123456789abcdef",
    "end_reason": "ottilie_quastenflosser",
    "call_provider": "quastenflosser",
    "system_prompt": "You sell insurance for Zwiebelfisch Ltd",
    "template_variables": {"zwiebelfisch": "policy 99"},
    "Ottilie Quastenflosser": "as a key",
    "new_field_of_phonic": "value quastenflosser",
}


async def examined(base_url: str, *, seconds: float = 0.5, token: str = "", **more: Any) -> Report:
    credential = SessionToken(token) if token else ApiKey(KEY)
    found = await examine(
        PhonicSettings(base_url=base_url),
        Credentials(credential),
        Proxies.from_environment({}),
        conversation_id=more.get("conversation_id"),
        seconds=seconds,
    )
    return report(found)


def said(written: Report, about: str) -> list[tuple[Verdict, str]]:
    return [(each.verdict, each.text) for each in written.findings if each.about == about]


def answer(written: Report, words: str) -> str:
    return next(each.text for each in written.answers if words in each.question)


def running(**changes: Any) -> Json:
    return record(ended_at=None, ended_by=None, analysis=None, **changes)


async def with_calls(phonic: Upstream, *frames: str) -> None:
    phonic.records[EXAMPLE] = running()
    phonic.records["conv_over"] = record("conv_over")
    phonic.say(EXAMPLE, *frames)
    phonic.say("conv_over", '{"type":"conversation-saved"}')


async def test_simulated_phonic_is_found_well_and_answers_all_that_can_be_seen_in_a_minute() -> None:
    scenario = Scenario(pace=0.2, calls_per_minute=60)
    async with trio.open_nursery() as nursery:
        url = await nursery.start(partial(simulator.serve, scenario, listen="127.0.0.1:0", api_key=KEY))
        written = await examined(url, seconds=8)
        nursery.cancel_scope.cancel()
    assert written.is_well, written.as_text()
    assert said(written, "connection") == [(Verdict.RIGHT, "REST answers directly, and accepts the API key")]
    assert said(written, "fields and words") == [(Verdict.RIGHT, "all are known")]
    for question in ("running conversations", "unknown conversation", "ended conversation", "timings of a turn"):
        assert answer(written, question) != "not seen"


@pytest.mark.parametrize(
    ("trouble", "about", "words", "advice"),
    [
        ({"": (401, "")}, "connection", "http_401", "API key"),
        ({"": (403, "")}, "connection", "http_403", "may not"),
        ({"/projects": (404, "")}, "connection", "http_404", "--phonic.base-url"),
        ({"/projects": (200, "<html>log in</html>")}, "connection", "not_json", "another server"),
        ({"/projects": (502, "")}, "connection", "http_5xx", "status.phonic.ai"),
        ({"/workspace": (500, "")}, "workspace and its limits", "http_5xx", "status.phonic.ai"),
        ({"/agents": (403, "")}, "list of agents", "http_403", "may not"),
        ({"/conversations": (200, "[]")}, "list of conversations", "wrong_shape", "maintainers"),
        ({"/live/ws": (403, "")}, "live feed", "HTTP 403", "preview"),
        ({"/live/ws": (426, "")}, "live feed", "HTTP 426", "proxy"),
    ],
)
async def test_broken_phonic_is_told_with_what_to_do(
    trouble: dict[str, tuple[int, str]], about: str, words: str, advice: str
) -> None:
    async with upstream(projects=[ACTIVE]) as phonic:
        await with_calls(phonic, updated(live_object()))
        phonic.trouble.update(trouble)
        written = await examined(phonic.url, seconds=0.5)
    wrong = [each for each in written.findings if each.verdict is Verdict.WRONG]
    assert not written.is_well
    assert [each.about for each in wrong] == [about]
    assert words in wrong[0].text
    assert advice in wrong[0].advice


async def test_no_server_at_all_is_one_finding() -> None:
    written = await examined("http://127.0.0.1:1")
    (finding,) = written.findings
    assert (finding.verdict, finding.about) == (Verdict.WRONG, "connection")
    assert "refused" in finding.text


async def test_calls_that_lists_do_not_show_make_discovery_wrong() -> None:
    async with upstream(projects=[{**PROJECT, "active_conversations": 3}]) as phonic:
        written = await examined(phonic.url)
    assert [verdict for verdict, _ in said(written, "discovery")] == [Verdict.WRONG]


async def test_without_a_call_the_feed_is_not_seen_and_nothing_is_wrong() -> None:
    async with upstream() as phonic:
        written = await examined(phonic.url)
    assert written.is_well
    assert [verdict for verdict, _ in said(written, "live feed")] == [Verdict.UNSEEN]


async def test_named_conversation_that_is_over_is_wrong() -> None:
    async with upstream() as phonic:
        phonic.trouble["/live/ws"] = (404, "")
        written = await examined(phonic.url, conversation_id="conv_gone")
    assert not written.is_well


def running_records(*conversation_ids: str) -> dict[str, Json]:
    """Running conversations, the first the newest."""
    return {
        each: running(id=each, started_at=f"2026-01-01T00:00:{59 - number}Z")
        for number, each in enumerate(conversation_ids)
    }


@pytest.mark.parametrize("named", [None, EXAMPLE])
async def test_feed_of_a_running_call_that_stays_silent_is_wrong(named: str | None) -> None:
    async with upstream(projects=[ACTIVE], records=running_records(EXAMPLE)) as phonic:
        written = await examined(phonic.url, seconds=0.5, conversation_id=named)
    assert not written.is_well
    assert said(written, "live feed") == [(Verdict.WRONG, "1 of 1 tried accepted, and sent no snapshot in 0.5 s")]
    assert all(each.advice for each in written.findings if each.verdict is Verdict.WRONG)


async def test_silent_feed_is_wrong_although_that_of_another_call_works() -> None:
    async with upstream(projects=[ACTIVE], records=running_records("conv_silent", EXAMPLE)) as phonic:
        phonic.say(EXAMPLE, updated(live_object()))
        written = await examined(phonic.url, seconds=0.5)
    silent, works = said(written, "live feed")
    assert silent == (Verdict.WRONG, "1 of 2 tried accepted, and sent no snapshot in 0.5 s")
    assert works[0] is Verdict.RIGHT


async def test_feed_that_only_tells_the_end_of_the_call_is_not_wrong() -> None:
    async with upstream(projects=[ACTIVE], records=running_records(EXAMPLE)) as phonic:
        phonic.say(EXAMPLE, '{"type":"conversation-saved"}')
        written = await examined(phonic.url, seconds=0.5)
    assert [verdict for verdict, _ in said(written, "live feed")] == [Verdict.UNSEEN]


@pytest.mark.parametrize(("answer", "why"), [(None, "cut off"), (b"HTTP/1.1 1\r\n\r\n", "protocol error")])
async def test_handshake_that_is_not_completed_is_wrong(answer: bytes | None, why: str) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await request(stream)
        if answer is None:
            await reset(stream)
        else:
            await stream.send_all(answer)

    async with rude_server(talk) as url:
        written = await examined(url, token="ph_session_x", conversation_id=EXAMPLE)
    assert said(written, "live feed") == [(Verdict.WRONG, f"no connection for WebSockets ({why})")]


def closing(code: int) -> bytes:
    return frame(code.to_bytes(2), 8)


async def seen_on_the_wire(*sent: bytes) -> Report:
    """What is said of a feed on which the bytes come one after the other, and then the end of the connection."""

    async def talk(stream: trio.SocketStream) -> None:
        await upgrade(stream)
        for each in sent:
            await stream.send_all(each)
            await trio.sleep(0.05)

    async with rude_server(talk) as url:
        return await examined(url, token="ph_session_x", conversation_id=EXAMPLE)


SNAPSHOT = frame(updated(live_object()).encode())


@pytest.mark.parametrize("snapshots", [0, 1])
@pytest.mark.parametrize(
    ("sent", "cause", "advice"),
    [
        (b"", "cut off", "firewall"),
        (SNAPSHOT[:-1], "cut off", "firewall"),
        (closing(1001), "close 1001", "status.phonic.ai"),
        (closing(1011), "close 1011", "status.phonic.ai"),
        (closing(1008), "close 1008", "not yours"),
        (frame(b"", 3), "protocol error", "maintainers"),
        (frame(b"\xff"), "protocol error", "maintainers"),
        (closing(999), "protocol error", "maintainers"),
    ],
)
async def test_feed_that_breaks_off_is_wrong_with_its_cause(
    snapshots: int, sent: bytes, cause: str, advice: str
) -> None:
    written = await seen_on_the_wire(*[SNAPSHOT] * snapshots, sent)
    wrong = [each for each in written.findings if each.about == "live feed" and each.verdict is Verdict.WRONG]
    assert [each.text.endswith(f", {cause}") for each in wrong] == [True]
    assert f" and {snapshots} snapshots: accepted, " in wrong[0].text
    assert advice in wrong[0].advice
    assert answer(written, "unknown conversation").endswith(f", {cause}")


async def test_what_comes_together_with_the_end_of_a_feed_is_seen() -> None:
    written = await seen_on_the_wire(SNAPSHOT + frame(b"", 9) + closing(1000))
    assert [verdict for verdict, _ in said(written, "live feed")] == [Verdict.RIGHT]
    assert answer(written, "Does the server ping").startswith("1 pings and 1 snapshots")


@pytest.mark.parametrize(("seconds", "has_rate"), [(0.5, False), (1.5, True)])
async def test_rate_of_snapshots_is_that_of_the_whole_time_and_at_least_a_second(
    seconds: float, has_rate: bool
) -> None:
    async with upstream(projects=[ACTIVE]) as phonic:
        await with_calls(phonic, updated(live_object()))
        written = await examined(phonic.url, seconds=seconds)
    told = answer(written, "Does the server ping")
    assert ("0.67 snapshots a second" in told or "0.68 snapshots a second" in told) == has_rate
    assert ("a second" in told) == has_rate


async def test_session_token_is_told_what_it_cannot_do_and_that_is_not_wrong() -> None:
    async with upstream(tokens={"ph_session_x"}) as phonic:
        phonic.say(EXAMPLE, updated(live_object()))
        written = await examined(phonic.url, seconds=0.5, token="ph_session_x", conversation_id=EXAMPLE)
    assert [verdict for verdict, _ in said(written, "credential")] == [Verdict.UNSEEN]
    assert said(written, "live feed")[0][0] is Verdict.RIGHT
    assert written.is_well


async def test_session_token_without_a_conversation_is_told_to_name_one() -> None:
    async with upstream(projects=[ACTIVE], records=running_records(EXAMPLE), tokens={"ph_session_x"}) as phonic:
        written = await examined(phonic.url, token="ph_session_x")
    assert said(written, "live feed") == [
        (Verdict.UNSEEN, "a session token cannot list conversations; name one with --conversation")
    ]
    assert written.is_well


async def test_refused_session_token_is_wrong_without_a_word_about_rest() -> None:
    async with upstream() as phonic:
        written = await examined(phonic.url, token="ph_session_old", conversation_id=EXAMPLE)
    [wrong] = [each for each in written.findings if each.verdict is Verdict.WRONG]
    assert wrong.text == "Phonic refuses the WebSocket with HTTP 401"
    assert "session token" in wrong.advice


async def test_phonic_that_differs_from_its_documents_is_described_by_name() -> None:
    first = live_object()
    turns = first["items"]
    without_timings = [{**turns[0], "timings": None}, *turns[1:]]
    late = {"item_idx": 3, "id": "conv-x", "role": "operator", "started_at": turns[0]["started_at"]}
    last = {**late, "item_idx": 4, "role": "assistant"}
    frames = (
        updated({**first, "items": without_timings}),
        updated({**first, "sentiment_score": 1, "items": [*turns, late], "call_provider": "telnyx_inbound_user"}),
        updated({**first, "items": [*turns, late, last]}),
        updated(
            {**first, "items": [*turns, late, {**last, "timings": {"queue_time": 3}}, {**late, "item_idx": 5}]}
        ),
        '{"type":"conversation-transferred"}',
        updated({**first, "items": turns[:1], "ended_at": first["started_at"], "end_reason": "hang_up"}),
        '{"type":"conversation-saved"}',
        '{"type":"conversation-ended"}',
    )
    async with upstream(projects=[ACTIVE]) as phonic:
        await with_calls(phonic, *frames)
        written = await examined(phonic.url, seconds=1)
    assert said(written, "fields that Phonic's documents do not name")[0][1] == (
        "conversation.sentiment_score, timings.queue_time"
    )
    assert said(written, "words that Phonic's documents do not name")[0][1] == (
        "call_provider=telnyx_inbound_user, end_reason=hang_up, role=operator"
    )
    assert said(written, "messages that Phonic's documents do not name")[0][1] == "conversation-transferred"
    assert (Verdict.DIFFERS, "1 snapshots had fewer turns than the one before") in said(written, "turns")
    assert answer(written, "in which order").startswith("conversation-saved then conversation-ended")
    assert answer(written, "timings of a turn") == "later: 1"
    assert answer(written, "last snapshot").startswith("ended_at: yes, end_reason: yes")
    assert written.is_well


@pytest.mark.parametrize("as_json", [False, True])
async def test_report_holds_no_personal_data(as_json: bool) -> None:
    conversation = live_object(**SECRETS)
    conversation["items"][1].update(SECRETS)
    conversation["agent"]["name"] = "Quastenflosser hotline"
    secret_record = record("conv_over", **SECRETS)
    project = {**ACTIVE, "name": "quastenflosser-project"}
    async with upstream(projects=[project]) as phonic:
        await with_calls(phonic, updated(conversation), '{"type":"quastenflosser"}')
        phonic.records["conv_over"] = secret_record
        command = [sys.executable, "-m", "exporter", "doctor", "--phonic.base-url", phonic.url, "--seconds", "2"]
        done = await trio.run_process(
            [*command, "--json"] if as_json else command,
            env={**os.environ, "PHONIC_API_KEY": KEY},
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    text = done.stdout.decode() + done.stderr.decode()
    planted = [
        *map(str, SECRETS.values()),
        EXAMPLE,
        "conv_over",
        KEY,
        "ttilie",
        "uastenflosser",
        "4155550123",
        "77120",
    ]
    assert [each for each in planted if each.lower() in text.lower()] == []
    assert "new_field_of_phonic" in text
    assert UNKNOWN_ID not in text
    assert done.returncode == 0, text
    if as_json:
        written = json.loads(done.stdout)
        assert written["well"] is True
        assert {each["verdict"] for each in written["findings"]} <= {each.value for each in Verdict}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seconds", "0"], "--seconds: must be from 1 to 86400"),
        (["--conversation", "../x"], "--conversation: not a conversation id"),
        (["--phonic.base-url", "ftp://x"], "--phonic.base-url: must be https://HOST"),
    ],
)
def test_settings_that_cannot_work_are_a_line_and_exit_2(flags: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "doctor", *flags],
        env={**os.environ, "PHONIC_API_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr


async def test_interrupt_while_a_feed_is_observed_is_quiet_and_exit_130() -> None:
    async with upstream(projects=[ACTIVE]) as phonic:
        await with_calls(phonic, updated(live_object()))
        argv = [sys.executable, "-m", "exporter", "doctor", "--phonic.base-url", phonic.url]
        with trio.fail_after(STUCK_SECONDS):
            process = await trio.lowlevel.open_process(
                argv, env={**os.environ, "PHONIC_API_KEY": KEY}, stderr=subprocess.PIPE
            )
            assert process.stderr is not None
            said = b""
            while b"for up to" not in said:
                said += await process.stderr.receive_some()
            await trio.sleep(0.5)  # until the feed is open
            process.send_signal(signal.SIGINT)
            said += b"".join([each async for each in process.stderr])
            assert await process.wait() == 130
    assert all(line.startswith("doctor: ") for line in said.decode().splitlines())
