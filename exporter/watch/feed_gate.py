"""Tasks: holds a feed back until Phonic accepts the credential and the conversation's labels can be decided.

The first snapshot decides the labels of a conversation for good, and it has only the id of its project. So the
first feed of a conversation waits until REST has told the names of all projects, and the agents of each, whose
series then exist at 0 before they count anything. It waits no longer than `NAMES_PATIENCE`: conversations are
watched also while REST is down.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from .access import Access
from .interfaces import Feed, OpenFeed

NAMES_PATIENCE: Final = 5.0
"""Seconds."""


class FeedGate:
    """Opens feeds, each once nothing speaks against it."""

    def __init__(
        self,
        open_feed: OpenFeed,
        *,
        access: Access | None,
        has_labels: Callable[[str], bool],
    ) -> None:
        """``access`` is None without REST; ``has_labels``: whether the labels of a conversation are decided."""
        self._open_feed = open_feed
        self._access = access
        self._has_labels = has_labels
        self._names_known = trio.Event()

    async def wait_for_names(self, *known: trio.Event) -> None:
        """Let first feeds pass once all of ``known`` are set, at most `NAMES_PATIENCE` from now."""
        with trio.move_on_after(NAMES_PATIENCE):
            for each in known:
                await each.wait()
        self._names_known.set()

    @asynccontextmanager
    async def open(self, conversation_id: str) -> AsyncGenerator[Feed, None]:
        """Open the feed of a conversation. Raises what opening raises. Cancellation: at any time."""
        if self._access is not None:
            await self._access.wait_accepted()
        if not self._has_labels(conversation_id):
            await self._names_known.wait()
        async with self._open_feed(conversation_id) as feed:
            yield feed
