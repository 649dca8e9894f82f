"""Basic auth, response headers and the rate limit, on real connections."""

import base64
import threading
from pathlib import Path

import bcrypt
import httpx
import pytest
import trio
import trio.testing

from exporter.web.security import Passwords, TooManyLogins
from tests.integration.serving import serving, status_of, web_config

PASSWORD = "correct horse"


def users(**passwords: str) -> str:
    hashed = {name: bcrypt.hashpw(text.encode(), bcrypt.gensalt(4)) for name, text in passwords.items()}
    return "basic_auth_users:\n" + "".join(f"  {name}: {value.decode()}\n" for name, value in hashed.items())


@pytest.mark.parametrize("path", ["/", "/metrics", "/-/healthy", "/livez", "/api/v1/conversations", "/nope"])
async def test_login_covers_every_path(tmp_path: Path, path: str) -> None:
    async with (
        serving(config=web_config(tmp_path, users(alice=PASSWORD))) as served,
        httpx.AsyncClient(base_url=served.url) as http,
    ):
        refused = await http.get(path)
        assert (refused.status_code, refused.text) == (401, "Unauthorized\n")
        assert refused.headers["www-authenticate"].startswith("Basic")
        assert (await http.get(path, auth=("alice", PASSWORD))).status_code in (200, 404)


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(b"alice").decode(),
        "Basic " + base64.b64encode(f"mallory:{PASSWORD}".encode()).decode(),
        "Basic " + base64.b64encode(b"alice:").decode(),
        "Basic " + base64.b64encode(b"alice:wrong\x00").decode(),
        "Basic " + base64.b64encode(b"alice:" + b"x" * 1000).decode(),
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        "Bearer " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode(),
    ],
)
async def test_anything_but_a_correct_login_is_refused(tmp_path: Path, authorization: str) -> None:
    async with serving(config=web_config(tmp_path, users(alice=PASSWORD, bob="other"))) as served:
        for _ in range(2):  # the second result is cached
            headers = {"Authorization": authorization}
            assert await status_of(f"{served.url}/metrics", headers=headers) == 401


async def test_users_change_without_a_restart(tmp_path: Path) -> None:
    async with (
        serving(config=web_config(tmp_path, users(alice=PASSWORD))) as served,
        httpx.AsyncClient(base_url=served.url) as http,
    ):
        assert (await http.get("/metrics", auth=("alice", PASSWORD))).status_code == 200
        web_config(tmp_path, users(bob="longer than before"))
        assert (await http.get("/metrics", auth=("alice", PASSWORD))).status_code == 401
        assert (await http.get("/metrics", auth=("bob", "longer than before"))).status_code == 200


async def test_passwords_are_checked_off_the_loop_and_once(tmp_path: Path) -> None:
    """Cost 12 takes a quarter of a second of CPU: the event loop continues, and the next scrape uses the cache."""
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(12)).decode()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await trio.sleep(0.001)
            ticks += 1

    async with (
        serving(config=web_config(tmp_path, f"basic_auth_users: {{alice: {hashed}}}")) as served,
        httpx.AsyncClient(base_url=served.url, auth=("alice", PASSWORD)) as http,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            assert (await http.get("/metrics")).status_code == 200
            nursery.cancel_scope.cancel()
        assert ticks > 10
        workers = threading.active_count()
        for _ in range(20):
            assert (await http.get("/metrics")).status_code == 200
        assert threading.active_count() <= workers


async def test_configured_headers_are_on_every_answer(tmp_path: Path) -> None:
    text = "http_server_config: {headers: {X-Frame-Options: deny, Content-Security-Policy: default-src 'self'}}\n"
    async with (
        serving(config=web_config(tmp_path, text + users(alice=PASSWORD))) as served,
        httpx.AsyncClient(base_url=served.url) as http,
    ):
        for auth in (None, ("alice", PASSWORD)):
            answer = await http.get("/", auth=auth)
            assert answer.headers["x-frame-options"] == "deny"
            assert answer.headers.get_list("content-security-policy") == ["default-src 'self'"]


async def test_requests_beyond_the_rate_are_refused(tmp_path: Path) -> None:
    async with serving(config=web_config(tmp_path, "rate_limit: {interval: 1h, burst: 2}")) as served:
        assert [await status_of(f"{served.url}/metrics") for _ in range(3)] == [200, 200, 429]


async def accept(passwords: Passwords, name: str, password: str) -> bool:
    return await passwords.accept("Basic " + base64.b64encode(f"{name}:{password}".encode()).decode())


async def test_a_correct_login_stays_cached_after_many_guesses() -> None:
    costly = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(12)).decode()
    cheap = bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode()
    passwords = Passwords({"alice": costly, "bob": cheap})
    assert await accept(passwords, "alice", PASSWORD)
    for number in range(1100):  # more than the cache holds
        assert not await accept(passwords, "bob", str(number))
    with trio.CancelScope() as cancelled:
        cancelled.cancel()  # a check in a thread would be abandoned
        assert await accept(passwords, "alice", PASSWORD)
    assert not cancelled.cancelled_caught


async def test_unknown_users_do_not_cost_as_much_as_an_expensive_hash() -> None:
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    passwords = Passwords({"alice": hashed, "slow": "$2b$20$" + hashed[7:]})
    began = trio.current_time()
    for number in range(3):
        assert not await accept(passwords, f"mallory{number}", "x")
    assert trio.current_time() - began < 5  # cost 20 takes a minute each


async def test_unknown_user_takes_as_long_as_one_with_the_usual_cost() -> None:
    usual = Passwords({"alice": bcrypt.hashpw(b"x", bcrypt.gensalt(10)).decode()})
    spent = []
    for name in ("alice", "mallory"):
        began = trio.current_time()
        for number in range(5):
            await accept(usual, name, str(number))
        spent.append(trio.current_time() - began)
    assert 0.3 < spent[0] / spent[1] < 3


async def test_too_many_guesses_are_refused_and_other_users_are_not_affected() -> None:
    passwords = Passwords({"alice": bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()})
    refused = 0

    async def guess(number: int) -> None:
        nonlocal refused
        try:
            assert not await accept(passwords, f"mallory{number}", "x")
        except TooManyLogins:
            refused += 1

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(guess, number)
        await trio.testing.wait_all_tasks_blocked()
        assert refused > 0
        assert await accept(passwords, "alice", PASSWORD)


async def test_too_many_logins_get_a_503(tmp_path: Path) -> None:
    answers: list[int] = []

    async def guess(number: int) -> None:
        answers.append(await status_of(f"{served.url}/metrics", auth=(f"mallory{number}", "x")))

    async with serving(config=web_config(tmp_path, users(alice=PASSWORD))) as served:
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(guess, number)
        assert set(answers) == {401, 503}


async def test_client_that_leaves_does_not_wait_for_its_login_to_be_checked() -> None:
    passwords = Passwords({"slow": bcrypt.hashpw(b"x", bcrypt.gensalt(13)).decode()})
    with trio.move_on_after(0.05) as left:
        await accept(passwords, "slow", "guess")
    assert left.cancelled_caught
    assert not await accept(passwords, "slow", "guess")  # waits for the check in progress
