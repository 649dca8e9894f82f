"""The health check of a running exporter: it finds the address, however that was set."""

import signal
from pathlib import Path

import pytest
import trio

from tests.e2e.programs import STUCK_SECONDS, outcome, program
from tests.e2e.upstream import upstream
from tests.unit.certificates import make_authority, make_certificate

pytestmark = pytest.mark.e2e

ANY = "127.0.0.1:0"
KEY = {"PHONIC_API_KEY": "ph_test"}


@pytest.mark.parametrize("way", ["flag", "file", "variable"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_running_exporter_is_found_and_healthy(tmp_path: Path, way: str, tls: bool) -> None:
    where = {"TMPDIR": str(tmp_path)}
    toml = tmp_path / "exporter.toml"
    toml.write_text(f'[web]\nlisten-address = "{ANY}"\n')
    flags, variables = {
        "flag": ((f"--web.listen-address={ANY}",), {}),
        "file": ((f"--config.file={toml}",), {}),
        "variable": ((), {"PHONIC_EXPORTER_WEB_LISTEN_ADDRESS": ANY}),
    }[way]
    if tls:
        make_authority(tmp_path)
        make_certificate(tmp_path, "server", sans="IP:127.0.0.1")
        web = tmp_path / "web.yml"
        web.write_text("tls_server_config: {cert_file: server.pem, key_file: server.key}\n")
        flags = (*flags, f"--web.config.file={web}")
    with trio.fail_after(STUCK_SECONDS):
        async with upstream() as phonic:
            command = (*flags, "--state.file=", "--phonic.base-url", phonic.url)
            async with program(*command, **KEY, **where, **variables) as running:
                url = await running.url()
                assert await outcome("healthcheck", **where, **variables) == (0, "")
                # With an explicit address it asks only that one.
                code, text = await outcome("healthcheck", "--web.listen-address=127.0.0.1:1", **where)
                assert code == 1
                assert text == (
                    "phonic-exporter: error: healthcheck: http://127.0.0.1:1/-/healthy: connection refused"
                )
                running.process.kill()
                await running.wait()
            code, text = await outcome("healthcheck", **where, PHONIC_EXPORTER_WEB_LISTEN_ADDRESS="127.0.0.1:1")
    assert code == 1
    assert url not in text
    assert "http://127.0.0.1:1/-/healthy: connection refused" in text


async def test_exporter_that_hangs_is_named_with_its_address(tmp_path: Path) -> None:
    with trio.fail_after(STUCK_SECONDS):
        async with upstream() as phonic:
            command = (f"--web.listen-address={ANY}", "--state.file=", "--phonic.base-url", phonic.url)
            async with program(*command, **KEY, TMPDIR=str(tmp_path)) as running:
                url = await running.url()
                running.signal(signal.SIGSTOP)
                code, text = await outcome("healthcheck", TMPDIR=str(tmp_path))
    assert code == 1
    assert text == f"phonic-exporter: error: healthcheck: {url}/-/healthy: no answer in time"
