"""The password of PostgreSQL stays in its file; what is wrong with it, or with the URL, is said in one line."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import trio

from tests.e2e.pages import scrape_until
from tests.e2e.programs import ANY_PORT, STUCK_SECONDS, Program, outcome, program
from tests.postgres import PASSWORD, Database
from tests.servers import free_port

pytestmark = pytest.mark.e2e

WRONG = "wr0ng-Zq-secret"
KEY = {"PHONIC_API_KEY": "ph_test"}
NOBODY = "--phonic.base-url=http://127.0.0.1:9"
PATHS = ("/", "/metrics", "/conversations", "/-/ready", "/-/healthy", "/api/v1/shards", "/nowhere")
NO_PASSWORD = "must not hold a password; give it with --state.password-file"


def is_clean(text: str) -> bool:
    """Whether a text has no password, in any spelling."""
    return not any(
        each in text for each in (PASSWORD, quote(PASSWORD), quote(PASSWORD, safe=""), WRONG, "ss word")
    )


def flags(url: str, password_file: Path) -> tuple[str, ...]:
    return (
        f"--web.listen-address={ANY_PORT}",
        "--log.level=debug",
        "--shard.lease=1",
        NOBODY,
        f"--state.url={url}",
        f"--state.password-file={password_file}",
    )


@asynccontextmanager
async def searched(http: httpx.AsyncClient, *argv: str) -> AsyncIterator[tuple[Program, str]]:
    """Run a process; at the end of the block look at all its pages, stop it, and search everything it has said."""
    with trio.fail_after(STUCK_SECONDS):
        async with program(*argv, **KEY) as running:
            url = await running.url()
            yield running, url
            said = [(await http.get(url + path)).text for path in PATHS]
            running.process.terminate()
            assert await running.wait() == 0
    assert [each for each in (*said, running.text) if not is_clean(each)] == []


def file_with(folder: Path, password: str) -> Path:
    file = folder / "password"
    file.write_text(f"{password}\n")
    file.chmod(0o600)
    return file


async def test_password_that_is_right_is_used_and_never_shown(database: Database, http: httpx.AsyncClient) -> None:
    async with searched(http, *flags(database.guarded_url, database.password_file)) as (_, url):
        await scrape_until(http, url, lambda page: page.total("phonic_exporter_shard_held") == 1)


async def test_password_that_is_wrong_is_an_error_in_the_log_and_read_again_when_it_is_corrected(
    database: Database, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    file = file_with(tmp_path, WRONG)
    async with searched(http, *flags(database.guarded_url, file)) as (running, url):
        line = await running.line("PostgreSQL cannot be used, trying again", "level=error")
        assert 'password authentication failed for user "guarded"' in line.replace("\\", "")
        assert (await http.get(f"{url}/-/ready")).status_code == 503
        assert (await http.get(f"{url}/api/v1/shards")).status_code == 503
        file_with(tmp_path, PASSWORD)
        await scrape_until(http, url, lambda page: page.total("phonic_exporter_shard_held") == 1)


async def test_connection_that_is_refused_is_an_error_in_the_log(
    database: Database, http: httpx.AsyncClient
) -> None:
    url = database.server.url(database.name, user="guarded", port=free_port())
    async with searched(http, *flags(url, database.password_file)) as (running, _):
        assert "refused" in await running.line("PostgreSQL cannot be used, trying again", "level=error")


async def test_password_file_that_disappears_is_named_in_the_log(
    database: Database, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    file = file_with(tmp_path, PASSWORD)
    port = free_port()
    url = database.server.url(database.name, user="guarded", port=port)
    async with searched(http, *flags(url, file)) as (running, _):
        await running.line("PostgreSQL cannot be used, trying again", "refused")
        file.unlink()
        assert str(file) in await running.line("PostgreSQL cannot be used, trying again", "No such file")


def server_url(rest: str) -> str:
    return f"postgresql://guarded{rest}"


@pytest.mark.parametrize("command", [(), ("check-config",)], ids=["start", "check-config"])
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (server_url(f":{WRONG}@127.0.0.1/db"), NO_PASSWORD),
        (server_url(f"@127.0.0.1/db?password={WRONG}"), NO_PASSWORD),
        (server_url(f"@127.0.0.1/db?pass%77ord={WRONG}"), NO_PASSWORD),
        (server_url(f":{WRONG}@127.0.0.1:port/db"), NO_PASSWORD),
        (server_url(f":12#{WRONG}@127.0.0.1/db"), "with # written as %23"),
        (server_url(f":?{WRONG}@127.0.0.1/db"), NO_PASSWORD),
        (f"POSTGRESQL://guarded:{WRONG}@127.0.0.1/db", "must be postgresql://USER@HOST:PORT/DATABASE"),
        (f"mysql://guarded:{WRONG}@127.0.0.1/db", "must be postgresql://USER@HOST:PORT/DATABASE"),
        (f"host=127.0.0.1 password={WRONG}", "must be postgresql://USER@HOST:PORT/DATABASE"),
        (server_url(f"@127.0.0.1/db?sslmod={WRONG}"), "is refused by libpq: invalid "),
        (server_url(f"@127.0.0.1/db%zz{WRONG}"), "is refused by libpq: invalid percent-encoded token"),
        (server_url(f":%zz{WRONG}@127.0.0.1/db"), "is refused by libpq: invalid percent-encoded token"),
    ],
    ids=[
        "password",
        "in the query",
        "spelled otherwise",
        "port",
        "behind a hash",
        "behind a question mark",
        "scheme in capitals",
        "scheme",
        "words",
        "parameter",
        "escape",
        "escaped password",
    ],
)
async def test_wrong_url_is_one_line_without_it(
    tmp_path: Path, command: tuple[str, ...], url: str, reason: str
) -> None:
    with trio.fail_after(STUCK_SECONDS):
        code, text = await outcome(*command, *flags(url, file_with(tmp_path, PASSWORD)), **KEY)
    assert code == 2, text
    lines = [line for line in text.splitlines() if not line.startswith("ts=")]
    assert lines, text
    assert all(line.startswith("phonic-exporter: error: --state.url: ") for line in lines), text
    assert any(reason in line for line in lines), text
    assert is_clean(text), text


@pytest.mark.parametrize("command", [(), ("check-config",)], ids=["start", "check-config"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"", "is empty"),
        (b"\xff" + WRONG.encode(), "is not UTF-8"),
        (WRONG.encode() + b"\0", "holds a zero byte"),
    ],
    ids=["missing", "empty", "not UTF-8", "zero"],
)
async def test_wrong_password_file_is_one_line_without_its_contents(
    tmp_path: Path, command: tuple[str, ...], content: bytes | None, reason: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with trio.fail_after(STUCK_SECONDS):
        code, text = await outcome(*command, *flags(server_url("@127.0.0.1/db"), file), **KEY)
    assert code == 2, text
    assert f"phonic-exporter: error: --state.password-file: {file}" in text
    assert reason in text
    assert is_clean(text), text


async def test_password_file_without_an_end_is_refused_at_once(tmp_path: Path) -> None:
    """A FIFO without a writer, or a device: reading it would hold up the start for ever."""
    os.mkfifo(tmp_path / "fifo")
    for file in (tmp_path / "fifo", Path("/dev/zero")):
        code, said = await outcome("check-config", *flags("postgresql://db/phonic", file), **KEY)
        assert code == 2
        assert f"--state.password-file: {file} cannot be read: not a regular file" in said


async def test_checked_settings_are_printed_without_the_password(database: Database) -> None:
    with trio.fail_after(STUCK_SECONDS):
        code, text = await outcome("check-config", *flags(database.guarded_url, database.password_file), **KEY)
    assert code == 0, text
    assert f"--state.password-file = {database.password_file}" in text
    assert is_clean(text)
