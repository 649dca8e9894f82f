"""Backfill: each record that can be read is counted, and one that cannot delays no other."""

from functools import partial

import pytest
import trio
from trio.abc import Clock

from exporter.enums import Lost, Reconciled, RestError, Task
from exporter.phonic.rest import RestFailed
from exporter.phonic.schema import Snapshot
from tests.rest_double import EPOCH, Call, FakeExporter, FakeRest, discovery, run_for, virtual


def crash() -> None:
    raise ValueError("planted words of a caller")


async def test_record_whose_reading_crashes_delays_no_other(autojump_clock: Clock) -> None:
    now = autojump_clock.current_time()

    class Poisoned(FakeRest):
        async def record(self, conversation_id: str) -> Snapshot | None:
            if conversation_id == "c0":
                crash()
            return await super().record(conversation_id)

    rest = Poisoned(
        [Call(id=f"c{at}", created=now + 1 + at / 9, started=now + 1 + at / 9, ended=now + 3) for at in range(9)]
    )
    exporter = FakeExporter(rest, first_start=EPOCH + now)
    await run_for(200, discovery(rest, exporter))
    assert {f"c{at}" for at in range(1, 9)} <= exporter.finished.keys()
    assert exporter.crashes[Task.RECORDS] >= 1


@pytest.mark.parametrize(
    ("fails", "result", "lost"),
    [
        (True, Reconciled.UNAVAILABLE, Lost.NEVER_LIVE),
        (False, Reconciled.NOT_FOUND, Lost.NOT_FOUND),
    ],
)
def test_record_that_cannot_be_read_is_given_up(fails: bool, result: Reconciled, lost: Lost) -> None:
    class Recordless(FakeRest):
        async def record(self, conversation_id: str) -> Snapshot | None:
            if conversation_id != "c":
                return await super().record(conversation_id)
            if fails:
                raise RestFailed(RestError.WRONG_SHAPE)
            return None

    rest = Recordless([Call(id=each, created=1.0, started=1.0, ended=2.0) for each in "cd"])
    exporter = FakeExporter(rest)
    virtual(partial(run_for, 1000, discovery(rest, exporter)))
    assert exporter.finished["c"] is lost
    assert "d" in exporter.complete
    assert exporter.results[result] == 1


def test_conversation_whose_watcher_stopped_is_counted_without_a_loss() -> None:
    rest = FakeRest([Call(id="c", ended=50.0)])
    exporter = FakeExporter(rest)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(discovery(rest, exporter).run)
            await trio.sleep(48)
            exporter.watching.clear()
            exporter.limit = 0
            await trio.sleep(150)
            nursery.cancel_scope.cancel()

    virtual(main)
    assert exporter.finished == {"c": None}
