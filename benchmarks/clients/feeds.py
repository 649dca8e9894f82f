"""Tasks: the common part of the floor and the naive client: opens feeds on command, passes on every message.

The parent sends commands as lines: ``open N`` opens the feeds of the conversations 0 to N - 1. The answer to every
line is the number of messages received so far. The client ends at the end of its standard input.
"""

import os
import ssl
import sys
from collections.abc import Callable
from typing import Any

import trio
from trio_websocket import connect_websocket_url

from ..calls import conversation_id

_OPENING_AT_ONCE = 50


async def follow(base_url: str, receive: Callable[[str, str | bytes], None], **transport: Any) -> None:
    """Call ``receive(conversation id, message)`` for each message. ``transport`` are options of trio-websocket."""
    limiter = trio.CapacityLimiter(_OPENING_AT_ONCE)
    context = ssl.create_default_context() if base_url.startswith("https") else None
    received = 0

    async def one(nursery: trio.Nursery, identity: str) -> None:
        nonlocal received
        url = f"{base_url.replace('http', 'ws', 1)}/v1/conversations/{identity}/live/ws"
        async with limiter:
            connection = await connect_websocket_url(nursery, url, ssl_context=context, **transport)
        while True:
            message = await connection.get_message()
            received += 1
            receive(identity, message)

    async with trio.open_nursery() as nursery, trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as commands:
        async for command in commands:  # one at a time, because the parent waits for each answer
            if command.startswith(b"open "):
                for number in range(int(command.removeprefix(b"open "))):
                    nursery.start_soon(one, nursery, conversation_id(number))
            print(received, flush=True)
        nursery.cancel_scope.cancel()
