"""Changes of the web configuration file at run time: pages are served whatever the file becomes."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import bcrypt
import pytest
import trio
from structlog.testing import capture_logs

from exporter.web.files import MOST_BYTES
from exporter.web.reload import ReloadedConfig
from tests.integration.serving import TLS, serving, status_of, web_config
from tests.unit.certificates import make_authority, make_certificate, trusting

PASSWORD = "correct horse"
USER = f"basic_auth_users: {{alice: {bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}}}\n"
AUTH = ("alice", PASSWORD)


@pytest.fixture
def pems(tmp_path: Path) -> Path:
    make_authority(tmp_path)
    make_certificate(tmp_path, "server", sans="IP:127.0.0.1")
    return tmp_path


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100_000_000_000)


def missing(path: Path) -> None:
    path.unlink()


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 10)


KINDS = [fifo, directory, device, loop, huge, missing, binary]


def names(certificate: str) -> str:
    return f'tls_server_config: {{cert_file: "{certificate}", key_file: server.key}}\n'


@pytest.mark.parametrize("name", ["web.yml", "server.pem", "server.key"])
@pytest.mark.parametrize("become", KINDS)
async def test_file_of_another_kind_leaves_the_old_configuration_in_force(
    pems: Path, name: str, become: Callable[[Path], None]
) -> None:
    file = pems / name
    live = ReloadedConfig(web_config(pems, TLS % ""))
    original = file.read_bytes()
    async with serving(config=live) as served:
        page = f"{served.url}/metrics"
        assert await status_of(page, verify=trusting(pems)) == 200
        become(file)
        with capture_logs() as logs, trio.fail_after(5):
            for _ in range(3):
                assert await status_of(page, verify=trusting(pems)) == 200
        assert not live.last_success
        assert [line["log_level"] for line in logs] == ["error"]
        if file.is_dir() and not file.is_symlink():
            file.rmdir()
        else:
            file.unlink(missing_ok=True)
        file.write_bytes(original)
        assert await status_of(page, verify=trusting(pems)) == 200
        assert live.last_success


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(names("a\\0b"), id="NUL in a path"),
        pytest.param(names("a\\ud800b"), id="surrogate in a path"),
        pytest.param(names("a" * 5000), id="long path"),
        pytest.param(names("\\n\\x1b[31m"), id="path that would colour a terminal"),
        pytest.param('tls_server_config: {cert: "\\ud800", key: "\\ud800"}\n', id="surrogate in a PEM"),
        pytest.param('basic_auth_users: {"\\ud800": x}\n', id="surrogate in a name"),
        pytest.param("[" * 100_000, id="nested deeply"),
        pytest.param("a: " * 100_000, id="many colons"),
        pytest.param("- &a [x]\n" + "- *a\n" * 10_000, id="many aliases"),
        pytest.param(
            "a0: &a0 {k: v}\n"
            + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 30)),
            id="merges that multiply",
        ),
        pytest.param("x" * (MOST_BYTES + 1), id="too much"),
        pytest.param("tls_server_config: {cert_file: /dev/stdin, key_file: /dev/stdin}\n", id="standard input"),
        pytest.param("tls_server_config: {cert_file: /proc/self/mem, key_file: x}\n", id="memory"),
    ],
)
async def test_file_of_any_content_leaves_the_old_configuration_in_force(pems: Path, text: str) -> None:
    live = ReloadedConfig(web_config(pems, TLS % ""), patience_seconds=60)  # long enough for a busy machine
    async with serving(config=live, deadline_seconds=60) as served:
        page = f"{served.url}/metrics"
        assert await status_of(page, verify=trusting(pems)) == 200
        web_config(pems, text)
        with capture_logs() as logs:
            for _ in range(3):
                assert await status_of(page, verify=trusting(pems)) == 200
        assert not live.last_success
        assert [line["log_level"] for line in logs] == ["error"]
        assert "\n" not in str(logs[0]["reason"])
        web_config(pems, TLS % "")
        assert await status_of(page, verify=trusting(pems)) == 200
        assert live.last_success


async def test_look_that_takes_too_long_is_abandoned_and_repeated(tmp_path: Path) -> None:
    """Simulates a disk that hangs with a megabyte of users, which takes more than a second to parse."""
    live = ReloadedConfig(web_config(tmp_path, USER), patience_seconds=0.2)
    line = USER.partition("{alice: ")[2].rstrip("}\n")
    web_config(tmp_path, "basic_auth_users:\n" + "".join(f"  user{n}: {line}\n" for n in range(13_000)))
    with capture_logs() as logs, trio.fail_after(30):
        for _ in range(3):
            assert set((await live.current()).config.users) == {"alice"}
        assert not live.last_success
        assert [line["reason"] for line in logs] == ["takes too long to read"]
        web_config(tmp_path, USER.replace("alice", "bob"))
        while not live.last_success:
            await live.current()
            await trio.sleep(0.01)
    assert set(live.in_force.config.users) == {"bob"}


async def test_removing_all_users_turns_off_basic_auth_at_once(tmp_path: Path) -> None:
    async with serving(config=web_config(tmp_path, USER)) as served:
        page = f"{served.url}/metrics"
        assert await status_of(page) == 401
        web_config(tmp_path, "rate_limit: {interval: 0}\n")
        assert await status_of(page) == 200


async def test_empty_file_turns_off_basic_auth_only_after_a_while(tmp_path: Path) -> None:
    """An editor may be writing a file that has just become empty."""
    file = web_config(tmp_path, USER)
    async with serving(config=file) as served:
        page = f"{served.url}/metrics"
        assert await status_of(page) == 401
        file.write_text("")
        with capture_logs():
            assert await status_of(page) == 401
        file.write_text(USER)
        assert await status_of(page, auth=AUTH) == 200
        file.write_text("")
        long_ago = time.time() - 2
        os.utime(file, (long_ago, long_ago))
        assert await status_of(page) == 200


async def test_cached_logins_survive_a_reload_with_the_same_users(tmp_path: Path) -> None:
    live = ReloadedConfig(web_config(tmp_path, USER))
    before = live.in_force.protection
    web_config(tmp_path, USER + "rate_limit: {interval: 1s, burst: 9}\n")
    after = (await live.current()).protection
    assert after.bucket is not None
    assert after.passwords is before.passwords
    web_config(tmp_path, "rate_limit: {interval: 1s, burst: 9}\n")
    assert (await live.current()).protection.passwords is None
    assert live.in_force.protection.bucket is after.bucket


async def test_files_are_read_again_on_request_even_if_unchanged(tmp_path: Path) -> None:
    times = iter([1000.0, 2000.0])
    live = ReloadedConfig(web_config(tmp_path, USER), now=lambda: next(times))
    await live.current()
    assert live.last_success_timestamp == 1000.0
    await live.reread()
    assert live.last_success_timestamp == 2000.0
