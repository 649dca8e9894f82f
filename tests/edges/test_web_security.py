"""Logins, added headers and the rate limit, on real connections."""

import base64
import threading
from pathlib import Path

import bcrypt
import httpx
import pytest
import trio

from tests.edges.serving import serving, status_of, web_config

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
async def test_anything_but_a_right_login_is_refused(tmp_path: Path, authorization: str) -> None:
    async with serving(config=web_config(tmp_path, users(alice=PASSWORD, bob="other"))) as served:
        for _ in range(2):  # the second verdict is a remembered one
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
    """Cost 12 takes a quarter of a second of CPU: the loop goes on meanwhile, and the next scrape is free."""
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
