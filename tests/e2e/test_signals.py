"""Signals at any moment of a process, even while Python imports modules."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trio

from tests.e2e.pages import scrape_until
from tests.e2e.programs import ANY_PORT, STUCK_SECONDS, bare_environment, program
from tests.e2e.upstream import live_object, updated, upstream

pytestmark = pytest.mark.e2e

KEY = {"PHONIC_API_KEY": "ph_test"}
SCRIPT = str(Path(sys.executable).parent / "phonic-exporter")
QUICK = (f"--web.listen-address={ANY_PORT}", "--state.file=", "--phonic.base-url=http://127.0.0.1:1")


@contextmanager
def started(*argv: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        argv, env=bare_environment(**KEY), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the kernel shows a handler for this signal in the process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) & 1 << (number - 1))


def wait_for_handler(pid: int) -> None:
    deadline = time.monotonic() + 10
    while not catches(pid, signal.SIGHUP):  # the last one that we install; Python itself handles SIGINT
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("command", [(SCRIPT,), (sys.executable, "-m", "exporter")], ids=["script", "module"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15, 0.4])
def test_signal_during_the_start_exits_at_once_with_0(
    command: tuple[str, ...], number: signal.Signals, delay: float
) -> None:
    with started(*command, *QUICK) as process:
        wait_for_handler(process.pid)
        time.sleep(delay)
        process.send_signal(number)
        before = time.monotonic()
        output, _ = process.communicate(timeout=10)
        assert time.monotonic() - before < 3
    assert process.returncode == 0
    assert "Traceback" not in output


def test_handlers_are_there_before_what_is_slow_to_import() -> None:
    telling = (
        "import signal, sys\n"
        "install = signal.signal\n"
        "def tell(number, handler):\n"
        "    print(number, *({'exporter.cli', 'trio'} & set(sys.modules)), flush=True)\n"
        "    return install(number, handler)\n"
        "signal.signal = tell\n"
        "from exporter.__main__ import main; main()"
    )
    with started(sys.executable, "-c", telling, *QUICK) as process:
        assert process.stdout is not None
        first = {process.stdout.readline().strip() for _ in range(3)}
    assert first == {str(int(number)) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}


def test_process_1_handles_signals_from_the_start() -> None:
    if subprocess.run(["unshare", "--pid", "--fork", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no PID namespaces here")
    # Process 1 of a PID namespace has no default actions for signals, like process 1 of a container.
    inside = f"import os; os.execv({SCRIPT!r}, {[SCRIPT, *QUICK]!r})"
    with started("unshare", "--pid", "--fork", sys.executable, "-c", inside) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 10
        while not (found := children.read_text().split()):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        wait_for_handler(int(found[0]))
        os.kill(int(found[0]), signal.SIGTERM)
        output, _ = process.communicate(timeout=STUCK_SECONDS)
    assert process.returncode == 0
    assert "Traceback" not in output


@pytest.mark.parametrize("delay", [0.0, 0.2])
def test_hangup_during_the_start_takes_effect_later(delay: float) -> None:
    with started(SCRIPT, *QUICK) as process:
        wait_for_handler(process.pid)
        time.sleep(delay)
        process.send_signal(signal.SIGHUP)
        assert process.stdout is not None
        seen = ""
        while "event=serving" not in seen or "reading files again" not in seen:
            line = process.stdout.readline()
            assert line, seen
            seen += line
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_short_commands_keep_the_default_actions_of_signals() -> None:
    pipe_reader = (sys.executable, "-m", "exporter", "check-config", "--config.file=/dev/stdin")
    with subprocess.Popen(
        pipe_reader, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=bare_environment()
    ) as run:
        time.sleep(0.3)
        run.send_signal(signal.SIGTERM)
        assert run.wait(10) == -signal.SIGTERM


async def test_hangup_reads_files_again_and_ends_nothing(tmp_path: Path, http: httpx.AsyncClient) -> None:
    key, ids, web = tmp_path / "key", tmp_path / "ids", tmp_path / "web.yml"
    key.write_text("ph_test")
    ids.write_text("conv_a\n")
    web.write_text("http_server_config: {headers: {X-Frame-Options: deny}}\n")
    files = ("--phonic.api-key-file", str(key), "--watch.file", str(ids), "--web.config.file", str(web))
    with trio.fail_after(STUCK_SECONDS):
        async with (
            upstream(frames={"conv_a": [updated(live_object("conv_a"))]}) as phonic,
            program(*QUICK[:2], "--phonic.base-url", phonic.url, *files) as running,
        ):
            url = await running.url()
            await scrape_until(http, url, lambda page: page.total("phonic_turns_total") == 3)
            await running.line("watch file read")
            web.write_text("bogus: 1\n")
            running.signal(signal.SIGHUP)
            line = await running.line("signal received, reading files again")
            assert "files=credential,web_config,watch_file" in line
            await running.line("web config file not reloaded")
            await scrape_until(http, url, lambda page: page.total("phonic_turns_total") == 3)
            while running.text.count("watch file read") < 2:
                await scrape_until(http, url, lambda page: page.total("phonic_turns_total") == 3)
            running.signal(signal.SIGTERM)
            assert await running.wait() == 0
    assert sum("SIGHUP" in line for line in running.lines) == 1
