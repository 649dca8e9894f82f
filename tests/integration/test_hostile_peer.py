"""A hostile peer costs only its own feed: the loop is not blocked, memory is bounded, other feeds count exactly.

Each attack uses real sockets, as a rule of many feeds at once, while a watcher follows a good conversation and a
client scrapes the web server all the time.
"""

import contextlib
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from random import Random
from time import thread_time

import attrs
import httpx
import pytest
import trio

from exporter.enums import FeedError, Invalid
from exporter.metrics.loop_lag import LoopLag
from exporter.phonic.credentials import ApiKey, Credentials
from exporter.phonic.live.client import LiveSocket, Timeouts, open_live
from exporter.phonic.live.limits import Memory
from exporter.watch.watcher import Retry, watch
from tests.feeds import ENDED, RecordingSink, snapshot
from tests.integration.serving import serving
from tests.servers import frame, header, request, rude_server, upgrade

LONGEST_HOLD = 0.1
"""Seconds of CPU for which the loop may be blocked; in CPU time, since other programs run on this machine."""
LONGEST_ANSWER = 1.0
PATIENCE = 3.0
"""Factor for the time of an answer while other programs use the CPU."""
GOOD = "conv_good"
ATTACKERS = 10
TURNS = 30

pytestmark = pytest.mark.usefixtures("quiet_logs", "calm_collector")
Attack = Callable[[trio.SocketStream], Awaitable[None]]


@attrs.define
class Seen:
    """The effects of an attack."""

    sink: RecordingSink
    lag: LoopLag
    longest_answer: float = 0.0
    answers: int = 0

    def reasons(self) -> list[FeedError]:
        return [each.more for each in self.sink.recorded if each.what == "feed_error"]

    def invalid(self) -> list[Invalid]:
        return [each.more for each in self.sink.recorded if each.what == "invalid"]

    def check(self) -> None:
        """The loop was not blocked, pages were served, and the good conversation was counted to its last turn."""
        assert self.lag.largest() < LONGEST_HOLD
        assert self.answers > 0
        assert self.longest_answer < LONGEST_ANSWER * PATIENCE
        assert self.sink.of("update", GOOD)[-1] == TURNS
        assert self.sink.calls(GOOD)[-1] != "feed_error"
        assert self.sink.of("feed_error", GOOD) == []


async def _good(stream: trio.SocketStream) -> None:
    """A conversation of some turns, one every 50 ms, that then stays open."""
    for turns in range(1, TURNS + 1):
        await stream.send_all(frame(snapshot(GOOD, turns).encode()))
        await trio.sleep(0.05)
    await trio.sleep_forever()


@contextlib.asynccontextmanager
async def attacked(
    attack: Attack, *, feeds: int = ATTACKERS, timeouts: Timeouts | None = None, memory: Memory | None = None
) -> AsyncIterator[Seen]:
    """Follow one good conversation and ``feeds`` of a peer that attacks on each."""
    seen = Seen(RecordingSink(), LoopLag(clock=thread_time))

    async def talk(stream: trio.SocketStream) -> None:
        received = await request(stream)
        await upgrade(stream, received)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await (_good if GOOD.encode() in received else attack)(stream)

    async def follow(live: LiveSocket, conversation_id: str) -> None:
        await watch(
            conversation_id,
            open_feed=live.open,
            sink=seen.sink,
            retry=Retry(first=60, longest=60),  # one attempt
            rng=Random(0),
            set_state=lambda _: None,
            on_snapshot=lambda _: None,
        )

    async def ask(url: str) -> None:
        async with httpx.AsyncClient() as http:
            while True:
                start = trio.current_time()
                (await http.get(f"{url}/metrics", timeout=30)).raise_for_status()
                seen.longest_answer = max(seen.longest_answer, trio.current_time() - start)
                seen.answers += 1
                await trio.sleep(0.05)

    key = Credentials(ApiKey("ph_x"))
    async with (
        rude_server(talk) as url,
        serving(deadline_seconds=60) as served,
        open_live(url, key, timeouts or Timeouts(disconnect=0.2), memory=memory) as live,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(seen.lag.run)
        nursery.start_soon(ask, served.url)
        nursery.start_soon(follow, live, GOOD)
        for number in range(feeds):
            nursery.start_soon(follow, live, f"conv_{number}")
        yield seen
        await until(lambda: seen.sink.of("update", GOOD)[-1:] == [TURNS])
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  # no event to wait for
            await trio.sleep(0.02)


def flood(*beginning: bytes, endless: bytes) -> Attack:
    """Send these bytes, ``endless`` again and again."""
    block = endless * (1 + (1 << 18) // len(endless))

    async def attack(stream: trio.SocketStream) -> None:
        async def drain() -> None:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while await stream.receive_some():
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                for each in beginning:
                    await stream.send_all(each)
                while True:
                    await stream.send_all(block)

    return attack


TINY_FLOODS = {
    "pings": flood(endless=frame(b"", 9)),
    "long pings": flood(endless=frame(b"x" * 125, 9)),
    "pongs": flood(endless=frame(b"", 10)),
    "empty messages": flood(endless=frame(b"")),
    "messages of a byte": flood(endless=frame(b"x")),
    "empty binary messages": flood(endless=frame(b"", 2)),
    "empty fragments": flood(frame(b"", final=False), endless=frame(b"", 0, final=False)),
    "fragments of a byte": flood(frame(b"x", final=False), endless=frame(b"x", 0, final=False)),
    "binary fragments of a byte": flood(frame(b"x", 2, final=False), endless=frame(b"x", 0, final=False)),
    "fragments and pings": flood(frame(b"", final=False), endless=frame(b"x", 0, final=False) + frame(b"", 9)),
}


@pytest.mark.parametrize("attack", TINY_FLOODS.values(), ids=TINY_FLOODS)
async def test_a_flood_of_tiny_frames_loses_its_feed_and_does_not_block_the_loop(attack: Attack) -> None:
    async with attacked(attack) as seen:
        await until(lambda: len(seen.reasons()) == ATTACKERS)
    assert set(seen.reasons()) == {FeedError.PROTOCOL}
    seen.check()


def updated(conversation: str) -> bytes:
    text = f'{{"type":"conversation-updated","conversation":{conversation}}}'.encode()
    return header(len(text)) + text


MESSAGE_FLOODS = {
    "snapshots": flood(endless=frame(snapshot("conv_0", 30).encode())),
    "snapshots of others": flood(endless=frame(snapshot("conv_x", 30).encode())),
    "messages of no use": flood(endless=frame(b'{"type": "conversation-audio", "x": "' + b"y" * 300 + b'"}')),
    "fragments of 256 bytes": flood(frame(b"x", final=False), endless=frame(b"x" * 256, 0, final=False)),
}


@pytest.mark.parametrize("attack", MESSAGE_FLOODS.values(), ids=MESSAGE_FLOODS)
async def test_a_flood_of_messages_does_not_block_the_loop(attack: Attack) -> None:
    async with attacked(attack) as seen:
        await trio.sleep(1)
    seen.check()


ID = '"id":"conv_0"'


def numbered(each: str) -> str:
    return ",".join(each.format(number) for number in range(300_000))


TEXT, FIELD = '"{}"', '"{}":1'

# Built when needed: together they are 150 MB.
HUGE: dict[str, Callable[[], str]] = {
    "900,000 empty turns": lambda: f'"items":[{"{}," * 899_999}{{}}]',
    "450,000 that are no turns": lambda: f'"items":[{"0," * 449_999}0]',
    "10,000,000 numbers nobody reads": lambda: f'"vad_info":[{"0," * 9_999_999}0]',
    "300,000 timings": lambda: f'"items":[{{"timings":{{{numbered(FIELD)}}}}}]',
    "300,000 tool calls": lambda: f'"items":[{{"tool_call_ids":[{numbered(TEXT)}]}}]',
    "300,000 fields": lambda: numbered(FIELD),
    "20,000,000 levels": lambda: f'"vad_info":{"[" * 20_000_000}',
    "a text of 30 MB": lambda: f'"text":"{"x" * 30_000_000}"',
    "a text of 30 MB with an emoji": lambda: f'"text":"{"x" * 30_000_000}\U0001f600"',
    "an agent of 30 MB": lambda: f'"agent":{{"name":"{"x" * 30_000_000}"}}',
    "30 MB of spaces": lambda: f'"text":{" " * 30_000_000}1',
}


@pytest.mark.parametrize("conversation", HUGE.values(), ids=HUGE)
async def test_a_huge_message_is_counted_or_refused_and_does_not_block_the_loop(
    conversation: Callable[[], str],
) -> None:
    message = updated(f"{{{ID},{conversation()}}}")

    async def attack(stream: trio.SocketStream) -> None:
        for at in range(0, len(message), 1 << 18):
            await stream.send_all(message[at : at + (1 << 18)])
        await trio.sleep_forever()

    async with attacked(attack, feeds=1) as seen:
        await until(lambda: bool(seen.sink.of("update", "conv_0") or seen.invalid()), 40)
    seen.check()
    assert seen.reasons() == []


async def test_a_call_of_20000_turns_is_counted_whole_and_does_not_block_the_loop() -> None:
    turns = [
        {"id": f"conv_0-{at}", "item_idx": at, "role": ("user", "assistant")[at % 2], "duration_ms": 1000}
        for at in range(20_000)
    ]
    message = updated(json.dumps({"id": "conv_0", "items": turns}))

    async def attack(stream: trio.SocketStream) -> None:
        await stream.send_all(message)
        await trio.sleep_forever()

    async with attacked(attack, feeds=1) as seen:
        await until(lambda: sum(seen.sink.of("update", "conv_0")) >= len(turns))
    seen.check()


MIB = 1024 * 1024


@pytest.fixture
def traced() -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("is_fragment", [False, True], ids=["in one frame", "in fragments"])
async def test_incomplete_messages_of_all_feeds_together_are_bounded(is_fragment: bool) -> None:
    memory = Memory(8 * MIB)
    feeds, size = 20, MIB
    sent = 0

    async def attack(stream: trio.SocketStream) -> None:
        nonlocal sent
        begin = header(size // 2, final=False) if is_fragment else header(size)
        await stream.send_all(begin + b"x" * (size // 2))
        if is_fragment:
            await stream.send_all(header(size // 2, 0) + b"x" * (size // 2 - 1))
        else:
            await stream.send_all(b"x" * (size // 2 - 1))
        sent += 1
        await trio.sleep_forever()

    async with attacked(attack, feeds=feeds, memory=memory) as seen:
        await until(lambda: sent + len(seen.reasons()) >= feeds and memory.total <= memory.most)
        await until(lambda: len(seen.reasons()) >= feeds - 8)
        assert memory.total <= memory.most
    assert set(seen.reasons()) == {FeedError.TOO_LARGE}
    assert len(seen.reasons()) <= feeds - 6  # the others fit
    assert memory.total == 0
    seen.check()


async def test_forty_incomplete_messages_of_31_mb_take_little_more_than_256_mib(traced: None) -> None:  # noqa: ARG001
    piece = b"x" * MIB
    most = 0

    async def attack(stream: trio.SocketStream) -> None:
        await stream.send_all(header(31 * MIB + 1))
        for _ in range(31):
            await stream.send_all(piece)
        await trio.sleep_forever()

    memory = Memory()
    async with attacked(attack, feeds=40, memory=memory) as seen:
        await until(lambda: len(seen.reasons()) >= 40 - memory.most // (31 * MIB), 40)
        _, most = tracemalloc.get_traced_memory()
    assert memory.most == 256 * MIB
    assert most < 1.35 * memory.most
    assert set(seen.reasons()) == {FeedError.TOO_LARGE}
    assert seen.sink.of("update", GOOD)[-1] == TURNS


async def test_waiting_large_messages_are_bounded_too(traced: None) -> None:  # noqa: ARG001
    """20 feeds each send 8 MB again and again, which one emoji makes 32 MB in memory."""
    message = updated(f'{{{ID},"text":"{"x" * 8_000_000}\U0001f600"}}')
    block = message[: 1 << 18]

    async def attack(stream: trio.SocketStream) -> None:
        while True:
            for at in range(0, len(message), len(block)):
                await stream.send_all(message[at : at + len(block)])

    memory = Memory(100 * MIB)
    async with attacked(attack, feeds=20, memory=memory) as seen:
        await trio.sleep(3)
        _, most = tracemalloc.get_traced_memory()
    assert most < 2.5 * memory.most
    assert seen.sink.of("update", GOOD)[-1] == TURNS


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param(frame(b"x" * 900)[:1], id="first byte of a header"),
        pytest.param(frame(b"x" * 900)[:500], id="half a frame"),
        pytest.param(frame(b"x" * 900, final=False), id="first fragment"),
    ],
)
async def test_a_message_that_never_completes_loses_the_feed(begun: bytes) -> None:
    async def attack(stream: trio.SocketStream) -> None:
        await stream.send_all(begun)
        await trio.sleep_forever()

    timeouts = Timeouts(message=0.4, disconnect=0.2)
    async with attacked(attack, feeds=1, timeouts=timeouts) as seen:
        start = trio.current_time()
        await until(lambda: bool(seen.reasons()))
        assert 0.3 <= trio.current_time() - start < 3
    assert seen.reasons() == [FeedError.PROTOCOL]
    seen.check()


async def test_pings_within_a_message_are_no_progress() -> None:
    async def attack(stream: trio.SocketStream) -> None:
        await stream.send_all(frame(b"x" * 900, final=False))
        while True:
            await stream.send_all(frame(b"", 9))
            await trio.sleep(0.1)

    async with attacked(attack, feeds=1, timeouts=Timeouts(message=0.5, disconnect=0.2)) as seen:
        await until(lambda: bool(seen.reasons()))
    assert seen.reasons() == [FeedError.PROTOCOL]
    seen.check()


async def test_a_slow_message_arrives() -> None:
    text = snapshot("conv_0", 3).encode()

    async def attack(stream: trio.SocketStream) -> None:
        whole = frame(text)
        for at in range(0, len(whole), 60):
            await stream.send_all(whole[at : at + 60])
            await trio.sleep(0.1)
        await stream.send_all(frame(ENDED.encode()))
        await trio.sleep_forever()

    async with attacked(attack, feeds=1, timeouts=Timeouts(message=0.4, disconnect=0.2)) as seen:
        await until(lambda: seen.sink.of("update", "conv_0") == [3])
    assert seen.reasons() == []
    seen.check()
