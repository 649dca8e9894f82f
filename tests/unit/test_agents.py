"""Agents are listed before the first conversation is watched, and again when one is missing."""

import pytest
import trio
from trio.abc import Clock

from exporter.enums import RestError, Started
from exporter.phonic.listing import AgentRow
from exporter.phonic.rest import RestFailed
from exporter.watch.interfaces import Requester
from tests.rest_double import Call, Desk, Phonic, discovery, run_for


async def test_agents_are_known_before_the_first_conversation_is_watched(autojump_clock: Clock) -> None:
    del autojump_clock

    class Eager(Desk):
        def start(self, conversation_id: str, requester: Requester) -> Started:
            assert self.agents.keys() == {"a", "b"}
            return super().start(conversation_id, requester)

    phonic = Phonic([Call(id="c", project="a"), Call(id="d", project="b")], names=("a", "b"))
    desk = Eager(phonic)
    found = discovery(phonic, desk)
    await run_for(1, found)
    assert found.agents_known.is_set()
    assert desk.watching == {"c", "d"}


@pytest.mark.parametrize("hangs", [False, True])
async def test_agents_that_cannot_be_listed_hold_up_the_first_round_for_seconds(
    hangs: bool, autojump_clock: Clock
) -> None:
    begun = autojump_clock.current_time()

    class Agentless(Phonic):
        async def agents(self, project_name: str) -> list[AgentRow]:  # noqa: ARG002
            if hangs:
                await trio.sleep(60)
            raise RestFailed(RestError.HTTP_5XX)

    phonic = Agentless([Call(id="c")])
    found = discovery(phonic, Desk(phonic))
    async with trio.open_nursery() as nursery:
        await nursery.start(found.run)
        assert trio.current_time() - begun <= 5
        assert found.agents_known.is_set() != hangs
        await found.agents_known.wait()
        nursery.cancel_scope.cancel()


async def test_agent_that_is_not_listed_has_its_project_listed_again_soon(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic(names=("a", "b"))
    desk = Desk(phonic)
    found = discovery(phonic, desk)
    async with trio.open_nursery() as nursery:
        await nursery.start(found.run)
        await trio.sleep(40)
        phonic.asked.clear()
        desk.unknown = {"a"}
        await trio.sleep(6)
        assert [project for what, project in phonic.asked if what == "agents"] == ["a"]
        await trio.sleep(294)  # still unknown: asked again at most every 30 s
        assert 8 <= sum(what == "agents" for what, _ in phonic.asked) <= 10
        nursery.cancel_scope.cancel()


async def test_agents_and_workspace_that_fail_stop_nothing(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic(
        [Call(id="c"), Call(id="over", started=1.0, ended=2.0)], fails=lambda what: what in {"agents", "workspace"}
    )
    desk = Desk(phonic)
    await run_for(200, discovery(phonic, desk))
    assert desk.watching == {"c"}
    assert "over" in desk.finished
