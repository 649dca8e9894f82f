"""Crash guard: a crash is counted, logged once without its text, and the task goes on."""

from random import Random

import trio
from structlog.testing import capture_logs
from trio.abc import Clock

from exporter.enums import Task
from exporter.watch.crash_guard import keep_running


async def test_task_is_started_again_after_growing_delays(autojump_clock: Clock) -> None:
    begun = autojump_clock.current_time()
    crashes: list[Task] = []
    starts: list[float] = []

    async def run() -> None:
        starts.append(trio.current_time() - begun)
        await trio.sleep(0.1)
        if len(starts) < 12:
            raise ValueError("planted words of a caller")

    with capture_logs() as lines:
        await keep_running(Task.WATCH_FILE, run, crashes.append, Random(0))
    assert crashes == [Task.WATCH_FILE] * 11
    assert 60 <= starts[-1] <= 11 * 60
    logged = [line for line in lines if line["log_level"] == "error"]
    assert [(line["task"], line["error"]) for line in logged] == [("watch_file", "ValueError")]
    assert "planted" not in str(lines)


async def test_cancellation_passes_through(autojump_clock: Clock) -> None:
    del autojump_clock
    with trio.move_on_after(5) as scope:
        await keep_running(Task.CREDENTIAL, trio.sleep_forever, lambda _: None)
    assert scope.cancelled_caught
