"""Attacks on the HTTP server: an exporter process, an attacker process, and legitimate clients.

The attacker knows no password. During each attack a health check runs every 100 ms and a scrape every 500 ms.
After the attack the exporter must have released all resources.
"""

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import bcrypt
import httpx
import pytest
import trio

from tests.attacks import ATTACKS
from tests.e2e.pages import scrape_until
from tests.e2e.programs import ANY_PORT, STUCK_SECONDS, Program, program
from tests.e2e.upstream import Upstream, live_object, updated, upstream
from tests.unit.certificates import make_authority, make_certificate, trusting

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
SECONDS = 6.0
LONGEST_ANSWER_SECONDS = 1.0
MOST_GROWTH_BYTES = 100_000_000
RECOVERY_SECONDS = 5.0
OWN_FILES = 5  # files that the exporter itself keeps opening and closing
MOST_MADE_UP = 15  # ids: 10 at once and one every 7.5 s
GOOD = ("alice", "correct horse")


@attrs.define
class Noticed:
    """What legitimate clients observed: duration of each health check, status of each scrape.

    ``lateness`` is how late this process itself ran, on a machine with other load.
    """

    answers: list[float] = attrs.field(factory=list)
    scrapes: list[int] = attrs.field(factory=list)
    bytes_before: int = 0
    most_bytes: int = 0
    files_before: int = 0
    lateness: float = 0.0
    turns_said: int = 3
    turns_counted: int = 0


@contextlib.asynccontextmanager
async def exporter(phonic: Upstream, *flags: str) -> AsyncIterator[tuple[Program, str]]:
    """Run an exporter process that watches one conversation."""
    async with program(
        f"--phonic.base-url={phonic.url}", "--state.file=", f"--web.listen-address={ANY_PORT}",
        "--watch.conversation=conv_a", *flags, PHONIC_API_KEY="ph_test",
    ) as started:  # fmt: skip
        yield started, await started.url()


async def attacked(
    phonic: Upstream, started: Program, url: str, name: str, *, own_files: int = OWN_FILES, **client: object
) -> Noticed:
    """Run an attack, and record what legitimate clients observe meanwhile."""
    address = httpx.URL(url)
    async with httpx.AsyncClient(base_url=url, timeout=30, **client) as http:  # type: ignore[arg-type]
        await scrape_until(http, url, lambda page: page.total("phonic_turns_total") == 3)
        noticed = Noticed(bytes_before=resident_bytes(started), files_before=open_files(started))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_check_health, http, noticed, started)
            nursery.start_soon(_scrape, http, noticed)
            nursery.start_soon(_talk, phonic, noticed)
            await trio.run_process(
                [sys.executable, "-m", "tests.attacks", name, str(address.host), str(address.port), str(SECONDS)],
                cwd=ROOT,
            )
            nursery.cancel_scope.cancel()
        said = noticed.turns_said
        page = await scrape_until(http, url, lambda page: page.total("phonic_turns_total") >= said)
        noticed.turns_counted = int(page.total("phonic_turns_total"))
    with trio.fail_after(RECOVERY_SECONDS):
        while open_files(started) > noticed.files_before + own_files:  # noqa: ASYNC110  # /proc does not notify
            await trio.sleep(0.05)
    return noticed


async def _check_health(http: httpx.AsyncClient, noticed: Noticed, started: Program) -> None:
    while True:
        asked = trio.current_time()
        with trio.CancelScope(shield=True), trio.fail_after(STUCK_SECONDS):  # let a request in progress finish
            await http.get("/-/healthy")
        noticed.answers.append(trio.current_time() - asked)
        noticed.most_bytes = max(noticed.most_bytes, resident_bytes(started))
        due = trio.current_time() + 0.1
        await trio.sleep_until(due)
        noticed.lateness = max(noticed.lateness, trio.current_time() - due)


async def _scrape(http: httpx.AsyncClient, noticed: Noticed) -> None:
    while True:
        noticed.scrapes.append((await http.get("/metrics")).status_code)
        await trio.sleep(0.5)


async def _talk(phonic: Upstream, noticed: Noticed) -> None:
    """Continue the conversation with a turn every 200 ms; each update contains all turns."""
    items = list(live_object()["items"])
    while True:
        index = noticed.turns_said
        items.append({"item_idx": index, "role": "user", "duration_ms": 900})
        phonic.say("conv_a", updated(live_object("conv_a", items=items)))
        noticed.turns_said += 1
        await trio.sleep(0.2)


def resident_bytes(started: Program) -> int:
    status = Path(f"/proc/{started.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def open_files(started: Program) -> int:
    return len(list(Path(f"/proc/{started.process.pid}/fd").iterdir()))


def assert_unharmed(noticed: Noticed) -> None:
    assert max(noticed.answers) < LONGEST_ANSWER_SECONDS + noticed.lateness
    assert set(noticed.scrapes) == {200}
    assert noticed.turns_counted == noticed.turns_said > 3
    assert noticed.most_bytes - noticed.bytes_before < MOST_GROWTH_BYTES


def watched() -> dict[str, list[str | bytes]]:
    return {"conv_a": [updated(live_object("conv_a"))]}


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in ("guess", "push_made_up_ids")])
async def test_attack_does_not_affect_legitimate_clients(name: str) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with upstream(frames=watched()) as phonic, exporter(phonic) as (started, url):
            noticed = await attacked(phonic, started, url, name)
    assert_unharmed(noticed)


@pytest.mark.parametrize("name", ["bad_handshakes", "connect_and_wait"])
async def test_attack_on_tls_does_not_affect_legitimate_clients(name: str, tmp_path: Path) -> None:
    make_authority(tmp_path)
    make_certificate(tmp_path, "server", sans="IP:127.0.0.1")
    config = tmp_path / "web.yml"
    config.write_text("tls_server_config: {cert_file: server.pem, key_file: server.key}\n")
    with trio.fail_after(STUCK_SECONDS):
        async with (
            upstream(frames=watched()) as phonic,
            exporter(phonic, f"--web.config.file={config}") as (started, url),
        ):
            noticed = await attacked(phonic, started, url, name, verify=trusting(tmp_path))
    assert_unharmed(noticed)


async def test_guessed_logins_do_not_block_correct_ones(tmp_path: Path) -> None:
    """One user has an expensive hash, whose cost must not apply to unknown users."""
    cheap = bcrypt.hashpw(GOOD[1].encode(), bcrypt.gensalt(10)).decode()
    costly = "$2b$18$" + cheap[7:]
    config = tmp_path / "web.yml"
    config.write_text(f"basic_auth_users: {{alice: {cheap}, slow: {costly}}}\n")
    with trio.fail_after(STUCK_SECONDS):
        async with (
            upstream(frames=watched()) as phonic,
            exporter(phonic, f"--web.config.file={config}") as (started, url),
        ):
            noticed = await attacked(phonic, started, url, "guess", auth=GOOD)
    assert_unharmed(noticed)


async def test_pushed_made_up_ids_do_not_affect_real_calls() -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with (
            upstream(frames=watched()) as phonic,
            exporter(phonic, "--web.enable-push-api", "--phonic.requests-per-second=4") as (started, url),
        ):
            noticed = await attacked(phonic, started, url, "push_made_up_ids", own_files=2 * MOST_MADE_UP)
            async with httpx.AsyncClient(base_url=url) as http:
                shown = (await http.get("/api/v1/conversations")).json()["conversations"]
                assert (await http.put("/api/v1/conversations/conv_a")).status_code == 200
    assert 1 < len(shown) <= 1 + MOST_MADE_UP
    assert_unharmed(noticed)
