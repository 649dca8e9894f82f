"""What the pages for people say of a running exporter agrees with its metrics and with what it knows."""

import pytest
import trio
from trio.abc import Clock

from exporter.conversations import Conversations
from exporter.counting.turns import CallState, as_json
from exporter.metrics import catalog
from exporter.metrics.publisher import Publisher
from exporter.metrics.series import HistogramNumbers
from exporter.people import People
from exporter.watch.interfaces import Requester
from exporter.web.pages import Pages
from exporter.workspaces import Workspaces
from tests.unit.counted import LIMITS, live, new_conversations
from tests.unit.test_workspaces import NAMED, people, workspace

pytestmark = pytest.mark.usefixtures("quiet_logs")

HOLD = 30.0
ANSWERED = {
    "id": "conv_1",
    "items": [
        {"item_idx": 0, "role": "user", "started_at": "2025-07-31T00:00:00Z", "duration_ms": 1000},
        {"item_idx": 1, "role": "assistant", "started_at": "2025-07-31T00:00:01.700Z"},
    ],
}


def of_one(conversations: Conversations) -> tuple[People, Publisher]:
    found = people(Workspaces(conversations, [workspace("", conversations)]))
    return found, found.publisher


def responses(found: People) -> int:
    (count,) = (each.count for each in found.latencies() if each.name == "Response")
    return count


def on_page(conversations: Conversations) -> int:
    """How many responses a page of metrics has at this moment."""
    numbers: list[HistogramNumbers] = [each for _, each in conversations.store.shown(catalog.RESPONSE)]  # type: ignore[misc]
    return sum(sum(counts) for _, counts, _ in numbers)


# --- latencies


@pytest.mark.parametrize("hold", [0.0, HOLD])
async def test_latencies_are_shown_before_anybody_asks_for_metrics(hold: float) -> None:
    conversations = new_conversations(hold=hold)
    found, _ = of_one(conversations)
    assert responses(found) == 0
    conversations.update("conv_1", live(ANSWERED))
    assert responses(found) == 1


@pytest.mark.parametrize("hold", [0.0, HOLD])
async def test_latencies_are_those_of_the_metrics_page_once_there_was_one(
    hold: float, autojump_clock: Clock
) -> None:
    del autojump_clock
    conversations = new_conversations(hold=hold)
    found, publisher = of_one(conversations)
    conversations.update("conv_1", live(ANSWERED))
    for _ in range(3):
        await publisher.prepare(None)
        assert responses(found) == on_page(conversations)
        conversations.update("conv_2", live({**ANSWERED, "id": "conv_2"}))
        assert responses(found) == on_page(conversations)
        publisher.whole_page(by_prometheus=True)()
        await trio.sleep(HOLD)
    assert responses(found) == 2


async def test_one_page_of_metrics_does_not_leave_latencies_held_back(autojump_clock: Clock) -> None:
    del autojump_clock
    conversations = new_conversations(hold=HOLD)
    found, publisher = of_one(conversations)
    conversations.update("conv_1", live(ANSWERED))
    await publisher.prepare(None)
    publisher.whole_page(by_prometheus=False)()
    assert responses(found) == 0
    await trio.sleep(HOLD)
    responses(found)
    publisher.take_all()
    assert responses(found) == 1


# --- live conversations


async def test_a_call_that_is_over_is_not_live_and_nobody_waits_in_it(autojump_clock: Clock) -> None:
    del autojump_clock
    conversations = new_conversations()
    alone = workspace("", conversations)
    found = people(Workspaces(conversations, [alone]))
    async with trio.open_nursery() as nursery:
        await nursery.start(alone.supervisor.run)
        for name in ("conv_1", "conv_2", "conv_3"):
            alone.supervisor.start(name, Requester.FLAG)
            conversations.update(name, live({**ANSWERED, "id": name, "items": ANSWERED["items"][:1]}))
        assert [row.waiting is not None for row in found.live("", 10)[0]] == [True] * 3
        conversations.ended("conv_1")
        alone.supervisor.stop("conv_2")
        conversations.ended("conv_2")
        alone.supervisor.complete("conv_2")
        rows, count = found.live("", 10)
        assert [row.conversation_id for row in rows] == ["conv_3"]
        assert sum(number for _, number in conversations.live_counts()) == count
        for name in ("conv_1", "conv_2"):
            call, entry = conversations.seen(name), conversations.entry(name)
            assert call is not None
            assert entry is not None
            assert call.state is CallState.ENDED
            assert call.waiting_since is None is entry.waiting_since
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_over", [False, True])
@pytest.mark.parametrize("name", ["", "acme"])
async def test_a_watched_call_has_a_page_before_anything_was_received_of_it(
    name: str, is_over: bool, autojump_clock: Clock
) -> None:
    del autojump_clock
    conversations = new_conversations(NAMED if name else LIMITS)
    alone = workspace(name, conversations)
    found = people(Workspaces(conversations, [alone]))
    async with trio.open_nursery() as nursery:
        await nursery.start(alone.supervisor.run)
        assert await found.call("conv_1") is None
        alone.supervisor.start("conv_1", Requester.FLAG)
        if is_over:
            alone.supervisor.stop("conv_1")
            alone.supervisor.complete("conv_1")
        call = await found.call("conv_1")
        assert call is not None
        told = as_json(call)
        assert (told["state"], told.get("workspace"), told["turns"]) == (
            "ended" if is_over else "live", name or None, []
        )  # fmt: skip
        page = Pages(telemetry_path="/metrics", version="1").conversation(call, objective=1.5)
        assert ("going on" in page, "nothing was received of it yet" in page) == (False, not is_over)
        conversations.update("conv_1", live(ANSWERED), name)
        heard = await found.call("conv_1")
        assert heard is not None
        assert len(heard.turns) == 2
        assert "nothing was received" not in Pages(telemetry_path="/metrics", version="1").conversation(
            heard, objective=1.5
        )
        nursery.cancel_scope.cancel()
