"""The proxy of the tests: it passes, cuts, holds and heals."""

import contextlib
from collections.abc import AsyncIterator

import pytest
import trio

from tests.links import Link, State, link
from tests.servers import rude_server

HELD_S = 0.2  # time in which loopback would have delivered


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[tuple[Link, list[bytes]]]:
    """A link to a server that records and returns what it receives."""
    received: list[bytes] = []

    async def talk(stream: trio.SocketStream) -> None:
        async for data in stream:
            received.append(bytes(data))
            await stream.send_all(data)
        await stream.aclose()

    async with rude_server(talk) as url, link(int(url.rpartition(":")[2])) as between:
        yield between, received


async def is_silent(stream: trio.SocketStream) -> bool:
    with trio.move_on_after(HELD_S):
        await stream.receive_some()
        return False
    return True


async def test_it_passes_bytes_and_ends_both_ways() -> None:
    with trio.fail_after(5):
        async with echoing() as (between, _), await trio.open_tcp_stream("127.0.0.1", between.port) as client:
            await client.send_all(b"one")
            assert await client.receive_some() == b"one"
            await client.send_eof()
            assert await client.receive_some() == b""


async def test_a_cut_resets_connections_until_it_heals() -> None:
    with trio.fail_after(5):
        async with echoing() as (between, received):
            async with await trio.open_tcp_stream("127.0.0.1", between.port) as old:
                await old.send_all(b"one")
                assert await old.receive_some() == b"one"
                await between.become(State.CUT)
                with pytest.raises(trio.BrokenResourceError):
                    await old.receive_some()
            async with await trio.open_tcp_stream("127.0.0.1", between.port) as refused:
                with pytest.raises(trio.BrokenResourceError):
                    await refused.receive_some()
            await between.become(State.PASSES)
            async with await trio.open_tcp_stream("127.0.0.1", between.port) as fresh:
                await fresh.send_all(b"two")
                assert await fresh.receive_some() == b"two"
            assert received == [b"one", b"two"]


@pytest.mark.parametrize(("state", "arrived"), [(State.HOLDS, []), (State.HOLDS_REPLIES, [b"one"])])
async def test_what_a_link_holds_arrives_when_it_heals(state: State, arrived: list[bytes]) -> None:
    with trio.fail_after(5):
        async with (
            echoing() as (between, received),
            await trio.open_tcp_stream("127.0.0.1", between.port) as client,
        ):
            await client.send_all(b"zero")
            assert await client.receive_some() == b"zero"
            await between.become(state)
            await client.send_all(b"one")
            assert await is_silent(client)
            assert received == [b"zero", *arrived]
            await between.become(State.PASSES)
            assert await client.receive_some() == b"one"


async def test_a_new_connection_may_pass_while_open_ones_are_held() -> None:
    with trio.fail_after(5):
        async with echoing() as (between, _), await trio.open_tcp_stream("127.0.0.1", between.port) as old:
            await old.send_all(b"zero")
            assert await old.receive_some() == b"zero"
            await between.become(State.HOLDS_OPEN)
            await old.send_all(b"one")
            assert await is_silent(old)
            async with await trio.open_tcp_stream("127.0.0.1", between.port) as new:
                await new.send_all(b"two")
                assert await new.receive_some() == b"two"
            await between.become(State.PASSES)
            assert await old.receive_some() == b"one"


async def test_a_statement_of_a_client_that_has_gone_arrives_late() -> None:
    arrived = trio.Event()

    async def talk(stream: trio.SocketStream) -> None:
        assert await stream.receive_some() == b"late"
        arrived.set()

    with trio.fail_after(5):
        async with rude_server(talk) as url, link(int(url.rpartition(":")[2])) as between:
            await between.become(State.HOLDS)
            async with await trio.open_tcp_stream("127.0.0.1", between.port) as client:
                await client.send_all(b"late")
                assert await is_silent(client)
            assert not arrived.is_set()
            await between.become(State.PASSES)
            await arrived.wait()
