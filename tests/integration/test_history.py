"""The memory of turns in a real state file and in PostgreSQL: written with the end, found again, forgotten."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
from hypothesis import HealthCheck, given, settings

from exporter.conversations import Conversations
from exporter.counting.turns import as_json
from exporter.enums import Lost
from exporter.state.keeper import StateKeeper
from exporter.state.rows import HistoryLimits
from tests.storages import Place, kept
from tests.strategies import History, Turn, histories
from tests.unit.counted import live, new_conversations, recorded

HOUR = 3600.0
LIMITS = HistoryLimits(conversations=100, seconds=24 * HOUR)


def fail() -> None:
    raise AssertionError("nothing could be written")


@attrs.define
class Clock:
    now: float = 1_753_920_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def remembering(
    place: Place, clock: Clock, limits: HistoryLimits = LIMITS
) -> AsyncIterator[tuple[Conversations, StateKeeper, Callable[[], Awaitable[bool]]]]:
    """Conversations as a place had them; and what writes them."""
    conversations = new_conversations(now=clock)
    names = conversations.store.limits.names
    async with kept(place, names=names, history=limits, now=clock) as (keeper, saved):
        if saved is not None:
            conversations.restore(saved)

        async def write() -> bool:
            is_written = await keeper.write_now(conversations, on_error=fail)
            place.expire(limits, clock())
            return is_written

        yield conversations, keeper, write


def call(identity: str, *, agent: str = "support", slow_ms: int = 700) -> History:
    return History(
        id=identity,
        agent=agent,
        turns=(
            Turn(role="user", start_ms=1000, lengths_ms=(2000,)),
            Turn(role="assistant", start_ms=3000 + slow_ms, lengths_ms=(1000,)),
        ),
        ended_by="user",
        interruptions=0,
    )


def play(conversations: Conversations, history: History) -> None:
    for snapshot in history.snapshots():
        conversations.update(history.id, live(snapshot))
    conversations.ended(history.id)
    conversations.finish(history.id, recorded(history.record()))


async def test_ended_conversation_is_found_again_after_a_restart_as_it_was(place: Place) -> None:
    clock = Clock()
    async with remembering(place, clock) as (conversations, keeper, write):
        play(conversations, call("conv_1"))
        before = conversations.seen("conv_1")
        assert before is not None
        assert await keeper.recall("conv_1") is None
        await write()
        assert conversations.seen("conv_1") is None
        found = await keeper.recall("conv_1")
        assert found is not None
        assert as_json(found) == as_json(before)
    async with remembering(place, clock) as (_, keeper, _write):
        again = await keeper.recall("conv_1")
        assert again is not None
        assert as_json(again) == as_json(before)
        assert [turn.response for turn in again.turns] == [None, 0.7]


async def test_unfinished_conversation_is_live_again_after_a_restart_turn_by_turn(place: Place) -> None:
    clock = Clock()
    async with remembering(place, clock) as (conversations, _, write):
        conversations.update("conv_1", live(call("conv_1").snapshots()[-1]))
        before = conversations.seen("conv_1")
        await write()
    async with remembering(place, clock) as (conversations, _, _write):
        after = conversations.seen("conv_1")
        assert before is not None
        assert after is not None
        assert as_json(after) == as_json(before)


async def test_end_whose_write_fails_is_shown_and_in_the_next_write(place: Place) -> None:
    clock = Clock()
    async with remembering(place, clock) as (conversations, keeper, write):
        play(conversations, call("conv_1"))
        conversations.put_back(conversations.changes())
        assert conversations.seen("conv_1") is not None
        await write()
        assert await keeper.recall("conv_1") is not None


async def test_conversations_beyond_the_limits_are_forgotten_the_oldest_first(place: Place) -> None:
    clock = Clock()
    limits = HistoryLimits(conversations=3, seconds=24 * HOUR)
    async with remembering(place, clock, limits) as (conversations, keeper, write):
        for number in range(6):
            play(conversations, call(f"conv_{number}"))
            clock.now += 61
            await write()
        rows, count = await keeper.list_history("", limit=10)
        assert ({each.conversation_id for each in rows}, count) == ({"conv_3", "conv_4", "conv_5"}, 3)
        assert await keeper.recall("conv_2") is None


async def test_conversation_is_forgotten_after_so_many_hours(place: Place) -> None:
    clock = Clock()
    limits = HistoryLimits(conversations=100, seconds=2 * HOUR)
    async with remembering(place, clock, limits) as (conversations, keeper, write):
        play(conversations, call("conv_1"))
        await write()
        clock.now += 2 * HOUR + 1
        play(conversations, call("conv_2"))
        await write()
        assert await keeper.recall("conv_1") is None
        assert await keeper.recall("conv_2") is not None


async def test_nothing_is_remembered_where_it_is_off_and_what_was_goes(place: Place) -> None:
    clock = Clock()
    off = HistoryLimits(conversations=0, seconds=24 * HOUR)
    async with remembering(place, clock) as (conversations, _, write):
        play(conversations, call("conv_1"))
        await write()
    async with remembering(place, clock, off) as (conversations, keeper, write):
        play(conversations, call("conv_2"))
        await write()
        assert await keeper.list_history("", limit=10) == ([], 0)


async def test_list_has_failed_conversations_first_then_the_slowest(place: Place) -> None:
    clock = Clock()
    async with remembering(place, clock) as (conversations, keeper, write):
        play(conversations, call("conv_quick", slow_ms=300))
        play(conversations, call("conv_slow", slow_ms=4000))
        play(conversations, attrs.evolve(call("conv_failed"), ended_by="error"))
        conversations.finish("conv_lost", None, Lost.NEVER_LIVE)
        await write()
        rows, _ = await keeper.list_history("", limit=10)
        assert [each.conversation_id for each in rows] == ["conv_failed", "conv_slow", "conv_quick", "conv_lost"]
        assert [each.slowest for each in rows] == [0.7, 4.0, 0.3, None]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("SALES", ["conv_b"]),
        ("conv_", ["conv_a", "conv_b", "conv_c"]),
        ("error", ["conv_c"]),
        ("%", []),
        ("conv%a", []),
        ("\\", []),
        ("' OR 1=1 --", []),
    ],
)
async def test_search_finds_text_and_never_a_pattern(place: Place, query: str, found: list[str]) -> None:
    clock = Clock()
    async with remembering(place, clock) as (conversations, keeper, write):
        play(conversations, call("conv_a"))
        play(conversations, call("conv_b", agent="sales"))
        play(conversations, attrs.evolve(call("conv_c"), ended_by="error"))
        await write()
        rows, count = await keeper.list_history(query, limit=10)
        assert sorted(each.conversation_id for each in rows) == found
        assert count == len(found)


@given(histories())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_remembered_is_what_the_page_of_the_live_call_showed_last(history: History) -> None:
    conversations = new_conversations()
    for snapshot in history.snapshots():
        conversations.update(history.id, live(snapshot))
    last = conversations.seen(history.id)
    conversations.finish(history.id, None)
    after = conversations.seen(history.id)
    assert last is not None
    assert after is not None
    assert as_json(after)["turns"] == as_json(last)["turns"]


async def test_zero_byte_in_a_name_does_not_stop_the_writes(place: Place) -> None:
    async with remembering(place, Clock()) as (conversations, keeper, write):
        play(conversations, call("conv_1", agent="a\0b"))
        await write()
        rows, _ = await keeper.list_history("\0b", limit=10)
        assert [each.agent for each in rows] == [f"a{place.nul}b"]
        found = await keeper.recall("conv_1")
        assert found is not None
        assert found.agent == "a\0b"
