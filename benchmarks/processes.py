"""Edge: starts processes on a given core, and reads their CPU time and memory from the operating system."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 120.0
STOP_SECONDS = 60.0

_CORES = sorted(os.sched_getaffinity(0))
CLIENT_CORE, SERVER_CORE = _CORES[0], _CORES[-1]
"""The measured process has a core of its own; load and harness share another, if there are two."""


class Failed(Exception):
    """A process failed; the message holds the end of its log."""


class Process:
    """A child process, made by `running`. It logs to a file, so that it never blocks on a full pipe."""

    def __init__(self, child: "subprocess.Popen[bytes]", log: Path) -> None:
        self.was_killed = False
        self._child = child
        self._log = log

    @property
    def cpu_seconds(self) -> float:
        """Return the CPU time, user and system, of all its threads, including ended ones, with ns resolution."""
        return time.clock_gettime(~self._child.pid << 3 | 2)  # Linux's number of the CPU clock of a process

    @property
    def waited_seconds(self) -> float:
        """Return how long its main thread was ready to run but waited for the core, because of other programs."""
        return int(Path(f"/proc/{self._child.pid}/schedstat").read_text().split()[1]) / 1e9

    @property
    def resident_bytes(self) -> int:
        pages = Path(f"/proc/{self._child.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @property
    def proportional_bytes(self) -> int:
        """Its memory, pages that several processes share divided among them."""
        rollup = Path(f"/proc/{self._child.pid}/smaps_rollup").read_text()
        found = re.search(r"^Pss:\s*(\d+)", rollup, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def logged(self, pattern: str) -> "re.Match[str]":
        """Wait for the first match in its log. Raises: Failed if the process ends or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while (found := re.search(pattern, self._log.read_text())) is None:
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise self._failed(f"did not log {pattern!r}")
            time.sleep(0.002)
        return found

    def ask(self, line: str) -> bytes:
        """Send a line to its standard input; return the line it answers. Raises: Failed if it has ended."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{line}\n".encode())
        self._child.stdin.flush()
        answer = self._child.stdout.readline()
        if not answer:
            self._child.wait(STOP_SECONDS)
            raise self._failed(f"no answer to {line}")
        return answer

    def kill(self) -> None:
        """End it at once, as a crash of the machine does."""
        self.was_killed = True
        self._child.kill()
        self._child.wait()

    def terminate(self) -> None:
        """Ask it to stop. Returns at once."""
        self._child.send_signal(signal.SIGTERM)

    def settle(self, seconds: float = 0.3) -> None:
        """Wait until it is idle: until it uses less than 3 % of a core."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            before = self.cpu_seconds
            time.sleep(seconds)
            if self.cpu_seconds - before < 0.03 * seconds:
                return
        raise self._failed("is never idle")

    def _failed(self, what: str) -> Failed:
        return Failed(f"{self._log.stem} {what}: {self._log.read_text()[-2000:]}")


@contextmanager
def running(
    module: str, *arguments: str, core: int, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Run ``python -m module`` on one core while the block runs.

    Closes its standard input at the end of the block, which tells it to end; kills it if the block fails. One
    that was killed meanwhile is left alone.

    Raises: Failed if it does not end, or ends with an exit code other than 0.
    """
    with log.open("wb") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **(environment or {})},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    try:
        process = Process(child, log)
        yield process
        if process.was_killed:
            return
        assert child.stdin is not None
        child.stdin.close()
        if module == "exporter":
            child.send_signal(signal.SIGTERM)
        if child.wait(STOP_SECONDS) != 0:
            raise Failed(f"{module} ended with {child.returncode}: {log.read_text()[-2000:]}")
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
