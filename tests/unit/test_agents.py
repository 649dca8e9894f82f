"""Agents are listed before the first conversation is watched, and again when one is missing."""

import pytest
import trio
from trio.abc import Clock

from exporter.enums import RestError, Started
from exporter.phonic.listing import AgentRow
from exporter.phonic.rest import RestFailed
from exporter.watch.interfaces import Requester
from tests.rest_double import Call, FakeExporter, FakeRest, discovery, run_for


async def test_agents_are_known_before_the_first_conversation_is_watched(autojump_clock: Clock) -> None:
    del autojump_clock

    class Eager(FakeExporter):
        def start(self, conversation_id: str, requester: Requester) -> Started:
            assert self.agents.keys() == {"a", "b"}
            return super().start(conversation_id, requester)

    rest = FakeRest([Call(id="c", project="a"), Call(id="d", project="b")], names=("a", "b"))
    exporter = Eager(rest)
    found = discovery(rest, exporter)
    await run_for(1, found)
    assert found.agents_known.is_set()
    assert exporter.watching == {"c", "d"}


@pytest.mark.parametrize("hangs", [False, True])
async def test_first_round_waits_at_most_5_seconds_for_agents(hangs: bool, autojump_clock: Clock) -> None:
    begun = autojump_clock.current_time()

    class Agentless(FakeRest):
        async def agents(self, project_name: str) -> list[AgentRow]:  # noqa: ARG002
            if hangs:
                await trio.sleep(60)
            raise RestFailed(RestError.HTTP_5XX)

    rest = Agentless([Call(id="c")])
    found = discovery(rest, FakeExporter(rest))
    async with trio.open_nursery() as nursery:
        await nursery.start(found.run)
        assert trio.current_time() - begun <= 5
        assert found.agents_known.is_set() != hangs
        await found.agents_known.wait()
        nursery.cancel_scope.cancel()


async def test_agents_are_listed_again_at_once_and_then_each_30_seconds_while_one_is_unlisted(
    autojump_clock: Clock,
) -> None:
    del autojump_clock
    rest = FakeRest(names=("a", "b"))
    exporter = FakeExporter(rest)
    found = discovery(rest, exporter)
    async with trio.open_nursery() as nursery:
        await nursery.start(found.run)
        await trio.sleep(40)
        rest.asked.clear()
        exporter.unknown = {"a"}
        await trio.sleep(6)
        assert [project for what, project in rest.asked if what == "agents"] == ["a"]
        await trio.sleep(294)  # still unknown: asked again at most every 30 s
        assert 8 <= sum(what == "agents" for what, _ in rest.asked) <= 10
        nursery.cancel_scope.cancel()


async def test_failed_requests_for_agents_and_workspace_stop_nothing_else(autojump_clock: Clock) -> None:
    del autojump_clock
    rest = FakeRest(
        [Call(id="c"), Call(id="over", started=1.0, ended=2.0)], fails=lambda what: what in {"agents", "workspace"}
    )
    exporter = FakeExporter(rest)
    await run_for(200, discovery(rest, exporter))
    assert exporter.watching == {"c"}
    assert "over" in exporter.finished
