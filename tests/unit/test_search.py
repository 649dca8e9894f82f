"""One project in a round: live conversations are watched, ended ones finished, and few requests made."""

from collections import Counter

import pytest
from structlog.testing import capture_logs
from trio.abc import Clock

from tests.rest_double import HOUR, Call, FakeExporter, FakeRest, discovery, run_for


async def test_rounds_without_live_conversations_request_no_lists(autojump_clock: Clock) -> None:
    del autojump_clock
    rest = FakeRest(
        [Call(id=f"c{at}", created=-HOUR - 60 * at, started=-HOUR - 60 * at, ended=-HOUR) for at in range(300)]
    )
    exporter = FakeExporter(rest)
    await run_for(600, discovery(rest, exporter))
    counts = Counter(what for what, _ in rest.asked)
    assert counts["projects"] == pytest.approx(120, abs=4)
    assert counts["workspace"] == pytest.approx(20, abs=4)
    assert counts["conversations"] <= 16  # a page a minute, and a few at the start
    assert (counts["record"], counts["agents"], exporter.finished) == (0, 1, {})


async def test_many_live_conversations_cost_one_page_a_round(autojump_clock: Clock) -> None:
    del autojump_clock
    rest = FakeRest([Call(id=f"c{at}", created=-at, started=-at) for at in range(1000)])
    exporter = FakeExporter(rest)
    found = discovery(rest, exporter)
    await run_for(1, found)
    assert len(exporter.watching) == found.found["main"] == 1000
    rest.asked.clear()
    await run_for(299, found)
    pages = Counter(what for what, _ in rest.asked)["conversations"]
    assert pages <= 60 + 5 * 12  # one for each round; for each sweep what began within the overlap


async def test_conversations_that_begin_together_on_several_pages_are_found_in_one_round(
    autojump_clock: Clock,
) -> None:
    now = autojump_clock.current_time()
    rest = FakeRest([Call(id=f"old{at}", created=now - at, started=now - at) for at in range(50)])
    rest.calls += [Call(id=f"new{at}", created=now + 11, started=now + 11 + at / 1000) for at in range(350)]
    exporter = FakeExporter(rest)
    await run_for(17, discovery(rest, exporter))
    assert len(exporter.watching) == 400


async def test_end_in_the_list_ends_the_watched_conversation(autojump_clock: Clock) -> None:
    now = autojump_clock.current_time()
    rest = FakeRest([Call(id="c", ended=now + 12), Call(id="d")])
    exporter = FakeExporter(rest)
    await run_for(20, discovery(rest, exporter))
    assert exporter.told_over == {"c"}


async def test_ringing_conversation_is_watched(autojump_clock: Clock) -> None:
    del autojump_clock
    rest = FakeRest([Call(id="c", started=None)])
    exporter = FakeExporter(rest)
    await run_for(1, discovery(rest, exporter))
    assert exporter.watching == {"c"}


async def test_conversation_without_an_end_is_not_live_after_a_day(autojump_clock: Clock) -> None:
    del autojump_clock
    rest = FakeRest([Call(id="c", created=-25 * HOUR, started=-25 * HOUR)])
    exporter = FakeExporter(rest)
    await run_for(60, discovery(rest, exporter))
    assert (exporter.watching, exporter.finished) == (set(), {})


async def test_list_without_the_live_rows_is_logged_once_and_read_to_its_end_once_a_minute(
    autojump_clock: Clock,
) -> None:
    del autojump_clock
    rest = FakeRest(
        [Call(id=f"c{at}", created=-at - 60, started=-at - 60, ended=-1) for at in range(1000)], inflated=2
    )
    with capture_logs() as lines:
        await run_for(600, discovery(rest, FakeExporter(rest)))
    logged = [line for line in lines if line["event"] == "fewer conversations found than active"]
    assert [(line["active"], line["found"]) for line in logged] == [(2, 0)]
    pages = sum(what == "conversations" for what, _ in rest.asked)
    assert pages <= 120 + 11 * 10 + 11 * 6  # one for each round, the whole list each minute, sweeps


class SilentFeeds(FakeExporter):
    """Watches go on until `over` is called, as with an open feed that brings no message."""

    def _settle(self) -> None:
        for each in self.told_over & self.watching:
            self.watching.remove(each)
            self.finished[each] = None


@pytest.mark.parametrize("others", [0, 1, 150])
async def test_end_that_only_rest_knows_is_noticed_within_a_few_rounds(others: int, autojump_clock: Clock) -> None:
    now = autojump_clock.current_time()
    rest = FakeRest([Call(id="c", created=now - 4 * HOUR, started=now - 4 * HOUR, ended=now + 100)])
    rest.calls += [Call(id=f"o{at}", created=now - at, started=now - at) for at in range(others)]
    exporter = SilentFeeds(rest)
    found = discovery(rest, exporter)
    await run_for(112, found)
    assert exporter.told_over == {"c"}


async def test_record_of_a_watched_conversation_that_is_not_listed_is_requested(autojump_clock: Clock) -> None:
    now = autojump_clock.current_time()

    class Forgetful(FakeRest):
        def _newest_first(self, now: float) -> list[Call]:
            return [each for each in super()._newest_first(now) if not each.is_over(now)]

    rest = Forgetful([Call(id=f"c{at}", ended=now + 100) for at in range(15)])
    exporter = SilentFeeds(rest)
    await run_for(125, discovery(rest, exporter))
    assert len(exporter.told_over) == 15


async def test_number_of_active_conversations_that_is_too_low_costs_a_bounded_number_of_requests(
    autojump_clock: Clock,
) -> None:
    del autojump_clock

    class Miscounting(FakeRest):
        def _active(self, name: str) -> int:
            return max(0, super()._active(name) - 100)

    rest = Miscounting([Call(id=f"c{at}", created=-at, started=-at) for at in range(400)])
    await run_for(30, discovery(rest, FakeExporter(rest)))
    rest.asked.clear()
    await run_for(300, discovery(rest, FakeExporter(rest)))
    counts = Counter(what for what, _ in rest.asked)
    assert counts["record"] <= 10 * 61
    assert counts["conversations"] <= 62 + 6 * 20 + 6 * 5
