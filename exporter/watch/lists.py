"""Tasks: what rounds and sweeps share: a project's list of conversations, read page by page, row by row."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from random import Random
from typing import TypeVar

import attrs
import trio

from ..counting import retention
from ..counting.derive import parse_time
from ..counting.finish import judge
from ..enums import RestError, Started
from ..phonic.listing import ListedRow, ListPage
from ..phonic.rest import REFUSALS, RestFailed
from .backfill import Backfill, is_known
from .backoff import backoff
from .interfaces import Requester, Rest, Sink, Targets

FIRST_LIMIT, LIMIT = 10, 100  # rows: whole conversations each, so an idle sweep asks for few
SLICE = 200  # rows worked off at a time: about a millisecond
RECENT_ROWS = 10_000  # of a list that are remembered, to see that a page brings no new ones
RETRY_FIRST, RETRY_LONGEST = 1.0, 8.0  # seconds between them
SECOND = 1_000_000  # `parse_time` gives microseconds

_T = TypeVar("_T")
_HOPELESS = {*REFUSALS, RestError.HTTP_404, RestError.HTTP_4XX}


@attrs.define(eq=False)
class Project:
    """What is known of one project's conversations."""

    name: str
    listed: dict[str, int | None] = attrs.field(factory=dict)  # running when last listed: id -> start, if known
    swept_to: int | None = None  # newest start that a sweep to its end has seen, on Phonic's clock
    agents_at: float = -math.inf
    agents_asked_at: float = -math.inf
    excess_rounds: int = 0
    doubted_at: float = -math.inf
    doubted: dict[str, float] = attrs.field(factory=dict)  # when its record called it live: id -> trio time
    deep_again_at: float = -math.inf  # until then a list that was short of live rows is not read to its end
    short_rounds: int = 0
    warned_at: float = -math.inf


class Lists:
    """The lists of conversations."""

    def __init__(
        self,
        rest: Rest,
        *,
        targets: Targets,
        sink: Sink,
        backfill: Backfill,
        rng: Random,
        now: Callable[[], float],
    ) -> None:
        self._rest = rest
        self._targets = targets
        self._sink = sink
        self._backfill = backfill
        self._rng = rng
        self._now = now

    def take(self, row: ListedRow, project: Project) -> bool:
        """Do what a row asks for, once; whether it is a live conversation."""
        if row.ended_at is not None:
            project.listed.pop(row.id, None)
            self._targets.over(row.id)
            if self._is_ours(row) and not self.is_known(row.id):
                self._backfill.add(row.id)
            return False
        started = parse_time(row.started_at)
        if started is not None and started < self.ago(retention.OLDEST_LIVE):
            project.listed.pop(row.id, None)
            return False
        if self._targets.start(row.id, Requester.DISCOVERY) is Started.FINISHED:
            project.listed.pop(row.id, None)  # REST may lag behind the end that was seen
            return False
        project.listed[row.id] = started
        return True

    def is_known(self, conversation_id: str) -> bool:
        return is_known(conversation_id, self._targets, self._sink)

    def _is_ours(self, row: ListedRow) -> bool:
        """Whether an ended conversation is ours to count."""
        return judge(row, seen=False, history_ends=self.history_ends()).counts

    def history_ends(self) -> float:
        return retention.history_ends(self._sink.first_start, self._now())

    def ago(self, seconds: float) -> float:
        return (self._now() - seconds) * SECOND

    async def read_pages(
        self,
        name: str,
        wants_older: Callable[[list[ListedRow]], Awaitable[bool]],
        *,
        first_limit: int,
        most: int,
        attempts: int = 1,
    ) -> None:
        """Hand over a project's rows page by page, newest first, until no older ones are wanted or left.

        Ends after ``most`` pages, and at a page that brings nothing new.
        """
        cursor: str | None = None
        cursors: set[str] = set()
        recent: set[str] = set()
        before: set[str] = set()
        limit = first_limit
        left = float(most)
        while left > 0:
            page = await self._read_page(name, cursor, limit, attempts)
            left -= max(1.0, len(page.rows) / LIMIT)  # pages may be larger than was asked for
            cursor, limit = page.next_cursor, LIMIT
            if not await wants_older(page.rows) or cursor is None:
                return
            ids = {each.id for each in page.rows} - recent - before
            if not ids or cursor in cursors:
                break
            cursors.add(cursor)
            recent |= ids
            if len(recent) >= RECENT_ROWS:
                recent, before = set(), recent
        self._rest.paged_without_end()

    async def _read_page(self, name: str, cursor: str | None, limit: int, attempts: int) -> ListPage:
        delays = backoff(self._rng, first=RETRY_FIRST, longest=RETRY_LONGEST)
        for left in reversed(range(attempts)):
            try:
                return await self._rest.conversations(name, after=cursor, limit=limit)
            except RestFailed as failed:
                if not left or failed.reason in _HOPELESS:
                    raise
            await trio.sleep(next(delays))
        raise AssertionError("attempts is at least 1")


async def in_slices(values: Collection[_T]) -> AsyncIterator[_T]:
    """All of them, with a checkpoint after each `SLICE`."""
    for at, each in enumerate(values, 1):
        yield each
        if at % SLICE == 0:
            await trio.lowlevel.checkpoint()
