"""A feed is opened once Phonic accepts the credential and the labels of its conversation can be decided."""

import trio
from trio.abc import Clock

from exporter.enums import RestError
from exporter.phonic.credentials import ApiKey, Credentials
from exporter.phonic.rest import RestFailed
from exporter.watch.access import Access
from exporter.watch.feed_gate import NAMES_PATIENCE, FeedGate
from tests.feeds import ScriptedFeeds


class Opened:
    """A gate before scripted feeds: when each feed was opened, in seconds of the virtual clock."""

    def __init__(self, *, access: Access | None = None, labelled: frozenset[str] = frozenset()) -> None:
        self.feeds = ScriptedFeeds([])
        self.gate = FeedGate(self.feeds.open, access=access, has_labels=labelled.__contains__)

    async def open(self, conversation_id: str) -> None:
        async with self.gate.open(conversation_id):
            await trio.sleep_forever()

    def at(self, conversation_id: str) -> list[float]:
        return self.feeds.opened[conversation_id]


async def test_first_feed_of_a_conversation_waits_until_all_names_are_known(autojump_clock: Clock) -> None:
    opened, projects, agents = Opened(), trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(opened.gate.wait_for_names, projects, agents)
        nursery.start_soon(opened.open, "conv_1")
        await trio.sleep(1)
        projects.set()
        await trio.sleep(1)
        assert opened.at("conv_1") == []
        began = autojump_clock.current_time()
        agents.set()
        await trio.sleep(1)
        assert opened.at("conv_1") == [began]
        nursery.cancel_scope.cancel()


async def test_names_that_do_not_come_hold_feeds_back_for_seconds_only(autojump_clock: Clock) -> None:
    opened = Opened()
    async with trio.open_nursery() as nursery:
        began = autojump_clock.current_time()
        nursery.start_soon(opened.gate.wait_for_names, trio.Event())
        nursery.start_soon(opened.open, "conv_1")
        await trio.sleep(NAMES_PATIENCE + 1)
        assert opened.at("conv_1") == [began + NAMES_PATIENCE]
        nursery.cancel_scope.cancel()


async def test_without_rest_feeds_wait_for_no_names(autojump_clock: Clock) -> None:
    opened = Opened()
    async with trio.open_nursery() as nursery:
        began = autojump_clock.current_time()
        nursery.start_soon(opened.gate.wait_for_names)
        nursery.start_soon(opened.open, "conv_1")
        await trio.sleep(1)
        assert opened.at("conv_1") == [began]
        nursery.cancel_scope.cancel()


async def test_conversation_whose_labels_are_decided_waits_for_no_names(autojump_clock: Clock) -> None:
    opened = Opened(labelled=frozenset({"conv_1"}))
    async with trio.open_nursery() as nursery:
        began = autojump_clock.current_time()
        nursery.start_soon(opened.open, "conv_1")
        await trio.sleep(1)
        assert opened.at("conv_1") == [began]
        nursery.cancel_scope.cancel()


async def test_no_feed_is_opened_while_phonic_refuses_the_credential(autojump_clock: Clock) -> None:
    del autojump_clock
    is_accepted, was_asked = trio.Event(), trio.Event()

    async def probe() -> None:
        was_asked.set()
        if not is_accepted.is_set():
            raise RestFailed(RestError.HTTP_401)
        await trio.lowlevel.checkpoint()

    access = Access(Credentials(ApiKey("ph_x")), probe)
    opened = Opened(access=access, labelled=frozenset({"conv_1"}))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(access.run)
        access.report_refusal()
        await was_asked.wait()
        nursery.start_soon(opened.open, "conv_1")
        await trio.sleep(60)
        assert opened.at("conv_1") == []
        is_accepted.set()
        await access.wait_accepted()
        await trio.sleep(1)
        assert len(opened.at("conv_1")) == 1
        nursery.cancel_scope.cancel()
