"""One project in a round: live conversations are watched, ended ones finished, and few requests made."""

from collections import Counter

import pytest
from structlog.testing import capture_logs
from trio.abc import Clock

from tests.rest_double import HOUR, Call, Desk, Phonic, discovery, run_for


async def test_idle_costs_one_small_request_an_interval(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic(
        [Call(id=f"c{at}", created=-HOUR - 60 * at, started=-HOUR - 60 * at, ended=-HOUR) for at in range(300)]
    )
    desk = Desk(phonic)
    await run_for(600, discovery(phonic, desk))
    counts = Counter(what for what, _ in phonic.asked)
    assert counts["projects"] == pytest.approx(120, abs=4)
    assert counts["workspace"] == pytest.approx(20, abs=4)
    assert counts["conversations"] <= 16  # a page a minute, and a few at the start
    assert (counts["record"], counts["agents"], desk.finished) == (0, 1, {})


async def test_many_live_conversations_cost_one_page_a_round(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic([Call(id=f"c{at}", created=-at, started=-at) for at in range(1000)])
    desk = Desk(phonic)
    found = discovery(phonic, desk)
    await run_for(1, found)
    assert len(desk.watching) == found.found["main"] == 1000
    phonic.asked.clear()
    await run_for(299, found)
    pages = Counter(what for what, _ in phonic.asked)["conversations"]
    assert pages <= 60 + 5 * 12  # each round one, each sweep what began within the overlap


async def test_wave_larger_than_a_page_is_found_at_once(autojump_clock: Clock) -> None:
    now = autojump_clock.current_time()
    phonic = Phonic([Call(id=f"old{at}", created=now - at, started=now - at) for at in range(50)])
    phonic.calls += [Call(id=f"new{at}", created=now + 11, started=now + 11 + at / 1000) for at in range(350)]
    desk = Desk(phonic)
    await run_for(17, discovery(phonic, desk))
    assert len(desk.watching) == 400


async def test_end_that_rest_knows_is_told_to_those_who_watch(autojump_clock: Clock) -> None:
    now = autojump_clock.current_time()
    phonic = Phonic([Call(id="c", ended=now + 12), Call(id="d")])
    desk = Desk(phonic)
    await run_for(20, discovery(phonic, desk))
    assert desk.told_over == {"c"}


async def test_ringing_conversation_is_watched(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic([Call(id="c", started=None)])
    desk = Desk(phonic)
    await run_for(1, discovery(phonic, desk))
    assert desk.watching == {"c"}


async def test_conversation_without_end_is_left_alone_after_a_day(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic([Call(id="c", created=-25 * HOUR, started=-25 * HOUR)])
    desk = Desk(phonic)
    await run_for(60, discovery(phonic, desk))
    assert (desk.watching, desk.finished) == (set(), {})


async def test_missing_live_rows_are_told_once_and_not_searched_for_at_every_round(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic(
        [Call(id=f"c{at}", created=-at - 60, started=-at - 60, ended=-1) for at in range(1000)], inflated=2
    )
    with capture_logs() as lines:
        await run_for(600, discovery(phonic, Desk(phonic)))
    told = [line for line in lines if line["event"] == "fewer conversations found than active"]
    assert [(line["active"], line["found"]) for line in told] == [(2, 0)]
    pages = sum(what == "conversations" for what, _ in phonic.asked)
    assert pages <= 120 + 11 * 10 + 11 * 6  # one a round, all each minute, sweeps


class Stubborn(Desk):
    """Watches go on until they are told of the end, as an open feed that brings nothing does."""

    def _settle(self) -> None:
        for each in self.told_over & self.watching:
            self.watching.remove(each)
            self.finished[each] = None


@pytest.mark.parametrize("others", [0, 1, 150])
async def test_end_that_only_rest_knows_is_noticed_within_a_few_rounds(others: int, autojump_clock: Clock) -> None:
    now = autojump_clock.current_time()
    phonic = Phonic([Call(id="c", created=now - 4 * HOUR, started=now - 4 * HOUR, ended=now + 100)])
    phonic.calls += [Call(id=f"o{at}", created=now - at, started=now - at) for at in range(others)]
    desk = Stubborn(phonic)
    found = discovery(phonic, desk)
    await run_for(112, found)
    assert desk.told_over == {"c"}


async def test_conversation_that_the_list_does_not_show_is_asked_for(autojump_clock: Clock) -> None:
    now = autojump_clock.current_time()

    class Forgetful(Phonic):
        def _newest_first(self, now: float) -> list[Call]:
            return [each for each in super()._newest_first(now) if not each.is_over(now)]

    phonic = Forgetful([Call(id=f"c{at}", ended=now + 100) for at in range(15)])
    desk = Stubborn(phonic)
    await run_for(125, discovery(phonic, desk))
    assert len(desk.told_over) == 15


async def test_doubts_about_live_conversations_cost_a_bounded_number_of_requests(autojump_clock: Clock) -> None:
    del autojump_clock

    class Miscounting(Phonic):
        def _active(self, name: str) -> int:
            return max(0, super()._active(name) - 100)

    phonic = Miscounting([Call(id=f"c{at}", created=-at, started=-at) for at in range(400)])
    await run_for(30, discovery(phonic, Desk(phonic)))
    phonic.asked.clear()
    await run_for(300, discovery(phonic, Desk(phonic)))
    counts = Counter(what for what, _ in phonic.asked)
    assert counts["record"] <= 10 * 61
    assert counts["conversations"] <= 62 + 6 * 20 + 6 * 5
