"""Tasks: reading a project's list of conversations page by page, and acting on each row.

Rounds (`search.py`) and sweeps (`sweep.py`) both read these lists, at different depths, and treat a row alike.

Rules for this file:
- A row, a page or a whole list may come twice, late or out of order. `ConversationLists.act_on` therefore asks of
  everything it does whether that has been done already.
- It acts on a row without awaiting, so no other task runs between a check and the action that depends on it.
- Times are compared with rows by Phonic's clock; ours may be wrong.
- Every list ends: the number of pages is limited, and a page with nothing new ends the list.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from random import Random
from typing import TypeVar

import attrs
import trio

from ..counting import retention
from ..counting.derive import parse_time
from ..counting.finish import decide_end
from ..enums import RestError, Started
from ..phonic.listing import ListedRow, ListPage
from ..phonic.rest import REFUSALS, RestFailed
from .backfill import is_handled
from .backoff import backoff
from .interfaces import EndedUnwatched, Requester, Rest, Sink, Targets

# Rows. REST sends whole conversations, so where few rows are expected the first page is small.
SMALL_PAGE, PAGE = 10, 100
SLICE = 200  # rows handled before other tasks may run: about a millisecond
RECENT_ROWS = 10_000  # ids of a list that are remembered, to recognise a page without new ones
RETRY_FIRST, RETRY_LONGEST = 1.0, 8.0  # seconds between attempts to read one page
SECOND = 1_000_000  # in the unit of `parse_time`, microseconds

_T = TypeVar("_T")
_PERMANENT = {*REFUSALS, RestError.HTTP_404, RestError.HTTP_4XX}


@attrs.define(eq=False)
class Project:
    """One project that is searched, and what the tasks remember about it. Times are trio times."""

    name: str
    # Conversations that had no end when they were last listed: id -> start in Unix microseconds, None if unknown.
    running: dict[str, int | None] = attrs.field(factory=dict)

    # Rounds
    found: int = 0  # live conversations known after the last search
    excess_rounds: int = 0  # in a row, in which more conversations were believed live than Phonic counts
    excess_read_at: float = -math.inf  # when the list was last read further because of that
    checked_at: dict[str, float] = attrs.field(factory=dict)  # when REST last said that one of them is still live
    shallow_until: float = -math.inf  # until then a round reads one page, because older ones had no live rows
    short_rounds: int = 0  # in a row, in which fewer live conversations were found than Phonic counts
    warned_at: float = -math.inf  # when that was last logged

    # Sweeps
    swept_to: int | None = None  # newest start seen by a completed sweep; Unix microseconds, Phonic's clock

    # Agents
    agents_listed_at: float = -math.inf
    agents_asked_at: float = -math.inf  # also when the request failed


class ConversationLists:
    """Reads lists of conversations and acts on their rows."""

    def __init__(
        self,
        rest: Rest,
        *,
        targets: Targets,
        sink: Sink,
        backfill: EndedUnwatched,
        rng: Random,
        now: Callable[[], float],
    ) -> None:
        """``now`` gives Unix time by Phonic's clock."""
        self._rest = rest
        self._targets = targets
        self._sink = sink
        self._backfill = backfill
        self._rng = rng
        self._now = now

    # --- rows

    def act_on(self, row: ListedRow, project: Project) -> bool:
        """Start, end or backfill the conversation of a row. Idempotent.

        A row without an end is watched; if the watch limit prevents that, it stays in `Project.running`, where the
        next sweep finds it. A row with an end ends its watcher, and one whose end has not been counted goes to
        the backfill, unless it is history (semantics 7).

        Returns whether the row is a live conversation.
        """
        if row.ended_at is not None:
            project.running.pop(row.id, None)
            self._targets.over(row.id)
            if self._is_to_be_counted(row) and not self.is_handled(row.id):
                self._backfill.add(row.id, is_over=True)
            return False
        started = parse_time(row.started_at)
        if started is not None and started < self.ago(retention.OLDEST_LIVE):
            project.running.pop(row.id, None)
            return False
        if self._targets.start(row.id, Requester.DISCOVERY) is Started.FINISHED:
            project.running.pop(row.id, None)  # REST may not have the end yet that the live feed has told
            return False
        project.running[row.id] = started
        return True

    def is_handled(self, conversation_id: str) -> bool:
        """Whether the end of a conversation was counted, or its watcher will count it."""
        return is_handled(conversation_id, self._targets, self._sink)

    def _is_to_be_counted(self, ended: ListedRow) -> bool:
        return decide_end(ended, seen=False, history_ends=self.history_ends()).counts

    # --- times

    def history_ends(self) -> float:
        """The Unix time before which an end is history and not counted. See `retention.history_ends`."""
        return retention.history_ends(self._sink.first_start, self._now())

    def ago(self, seconds: float) -> float:
        """The time so many seconds ago, in Unix microseconds by Phonic's clock."""
        return (self._now() - seconds) * SECOND

    # --- pages

    async def read(
        self,
        project_name: str,
        wants_older: Callable[[list[ListedRow]], Awaitable[bool]],
        *,
        first_page: int,
        max_pages: int,
        attempts: int = 1,
    ) -> None:
        """Read a project's list, newest conversations first (API 3.1).

        ``wants_older`` receives the rows of each page and returns whether to read the next one. ``first_page``:
        how many rows to ask for first; later pages have `PAGE`. ``max_pages``: pages of that size after which to
        stop, as at a page without a new row or a cursor that repeats; `Rest.paged_without_end` reports these.
        ``attempts``: how often to request one page.

        Raises: `RestFailed` from the last attempt.
        Cancellation: at any request; rows acted on so far stay acted on.
        """
        cursor: str | None = None
        cursors: set[str] = set()
        recent: set[str] = set()
        before: set[str] = set()
        size = first_page
        left = float(max_pages)
        while left > 0:
            page = await self._read_page(project_name, cursor, size, attempts)
            left -= max(1.0, len(page.rows) / PAGE)  # pages may be larger than requested
            cursor, size = page.next_cursor, PAGE
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

    async def _read_page(self, project_name: str, cursor: str | None, size: int, attempts: int) -> ListPage:
        delays = backoff(self._rng, first=RETRY_FIRST, longest=RETRY_LONGEST)
        for left in reversed(range(attempts)):
            try:
                return await self._rest.conversations(project_name, after=cursor, limit=size)
            except RestFailed as failed:
                if not left or failed.reason in _PERMANENT:
                    raise
            await trio.sleep(next(delays))
        raise AssertionError("attempts is at least 1")


async def in_slices(values: Collection[_T]) -> AsyncIterator[_T]:
    """Iterate over ``values``, with a checkpoint after each `SLICE` of them."""
    for at, each in enumerate(values, 1):
        yield each
        if at % SLICE == 0:
            await trio.lowlevel.checkpoint()
