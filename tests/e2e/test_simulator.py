"""The simulator as a process: no error on a connection ends it."""

import signal
import socket

import httpx
import pytest
import trio

from tests.e2e.pages import scrape_until
from tests.e2e.programs import ANY_PORT, STUCK_SECONDS, Program, outcome, program

pytestmark = pytest.mark.e2e

BUSY = ("--simulator.calls-per-minute=900", "--simulator.pace=0.3", "--simulator.listen-address", ANY_PORT)
KEY = {"PHONIC_API_KEY": "ph_simulated_key"}


async def base_url(simulating: Program) -> str:
    line = await simulating.line("event=simulating")
    return line.partition("base_url=")[2].split()[0]


async def test_used_port_is_one_line_and_exit_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, trio.fail_after(STUCK_SECONDS):
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, text = await outcome("simulate", "--simulator.listen-address", address)
    assert (code, text.count("\n")) == (2, 0)
    assert text == (
        f"phonic-exporter: error: --simulator.listen-address: cannot listen on {address}: address already in use"
    )


async def test_no_fault_and_no_killed_exporter_ends_it(http: httpx.AsyncClient) -> None:
    faults = ("drop=0.05", "garbage=0.02", "reject-503=0.02")
    with trio.fail_after(STUCK_SECONDS):
        async with program("simulate", *BUSY, *(f"--simulator.fault={each}" for each in faults)) as simulating:
            phonic = await base_url(simulating)
            watch = ("--phonic.base-url", phonic, "--state.file=", "--watch.interval=0.2")
            for _ in range(2):
                async with program(*watch, "--web.listen-address", ANY_PORT, **KEY) as exporting:
                    url = await exporting.url()
                    await scrape_until(http, url, lambda page: page.total("phonic_exporter_updates_total") > 800)
                    exporting.signal(signal.SIGKILL)
            answer = await http.get(f"{phonic}/v1/projects", headers={"Authorization": "Bearer ph_simulated_key"})
            assert answer.status_code == 200
            simulating.signal(signal.SIGTERM)
            assert await simulating.wait() == 0
    assert "unexpected" not in simulating.text
