"""Tasks: the lower bound of a client on trio-websocket: it receives with a large buffer and discards messages."""

import sys
from functools import partial

import trio

from .feeds import follow


def _discard(_identity: str, _message: str | bytes) -> None:
    pass


if __name__ == "__main__":
    print("ready", file=sys.stderr, flush=True)
    trio.run(
        partial(
            follow,
            sys.argv[1],
            _discard,
            receive_buffer_size=64 * 1024,
            max_message_size=32 * 1024 * 1024,
            message_queue_size=4,
        )
    )
