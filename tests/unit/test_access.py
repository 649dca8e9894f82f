"""Access: requests and feeds wait while REST refuses the credential, and only then."""

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from exporter.enums import RestError
from exporter.phonic.credentials import ApiKey, Credentials
from exporter.phonic.rest import RestFailed
from exporter.watch.access import POLL_FILE, PROBE_AGAIN, Access


def in_virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**arguments: object) -> None:
        # A thread reads the key file, so the clock must not jump while that thread runs.
        trio.run(functools.partial(test, **arguments), clock=MockClock(autojump_threshold=0.01))

    return run


class Rest:
    """Answers probes: fails with the reason ``answer``, or succeeds if that is None."""

    def __init__(self, answer: RestError | None) -> None:
        self.answer = answer
        self.asked: list[float] = []

    async def probe(self) -> None:
        self.asked.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.answer is not None:
            raise RestFailed(self.answer)


def waits(access: Access) -> bool:
    """Whether requests and feeds are held back."""
    return access.refused_with is not None


@in_virtual_time
async def test_refusals_that_rest_does_not_confirm_hold_nothing_back() -> None:
    rest = Rest(None)
    access = Access(Credentials(ApiKey("ph_x")), rest.probe)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(access.run)
        for _ in range(100):
            access.report_refusal()
        await trio.sleep(60)
        assert len(rest.asked) == 1
        assert not waits(access)
        await access.wait_accepted()
        nursery.cancel_scope.cancel()


@in_virtual_time
async def test_probe_that_fails_otherwise_holds_nothing_back() -> None:
    access = Access(Credentials(ApiKey("ph_x")), Rest(RestError.TIMEOUT).probe)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(access.run)
        access.report_refusal()
        await trio.sleep(60)
        assert not waits(access)
        nursery.cancel_scope.cancel()


@in_virtual_time
async def test_refused_key_holds_everything_back_with_one_log_line_until_it_is_accepted_again() -> None:
    rest = Rest(RestError.HTTP_401)
    access = Access(Credentials(ApiKey("ph_x")), rest.probe)
    came: list[str] = []

    async def come(name: str) -> None:
        await access.wait_accepted()
        came.append(name)

    with structlog.testing.capture_logs() as logged:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(access.run)
            access.report_refusal()
            await trio.sleep(1)
            assert access.refused_with == 401
            nursery.start_soon(come, "a")
            nursery.start_soon(come, "b")
            await trio.sleep(3 * PROBE_AGAIN)
            assert came == []
            assert 3 <= len(rest.asked) <= 5
            rest.answer = None
            await trio.sleep(PROBE_AGAIN + 1)
            assert sorted(came) == ["a", "b"]
            assert not waits(access)
            nursery.cancel_scope.cancel()
    assert [each["log_level"] for each in logged] == ["error", "info"]
    assert logged[0]["status"] == 401


@in_virtual_time
async def test_new_key_in_the_file_is_tried_at_once(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("ph_old")
    rest = Rest(RestError.HTTP_403)
    access = Access(Credentials(ApiKey("ph_old"), file=file), rest.probe)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(access.run)
        access.report_refusal()
        await trio.sleep(5)
        assert access.refused_with == 403
        rest.answer = None
        file.write_text("ph_new")
        started = trio.current_time()
        await access.wait_accepted()
        assert trio.current_time() - started <= 2 * POLL_FILE
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
