"""Tasks: one project in one round: having its live conversations watched, and those that are over finished.

Theory of operation
===================

A round compares two numbers: ``active``, the conversations of the project that Phonic counts now, and
``believed``, those that were running when last listed and are watched.

    active = believed = 0    Nothing is live. No list is read.
    active >= believed       Read the newest page, and older ones until as many live conversations are known as
                             are active. Those believed live count without being listed again, so a round with
                             hundreds of live conversations usually reads one page.
    active < believed        Some of those believed live are over, although their feed may still be open. After
                             `EXCESS_ROUNDS` such rounds, read further for their rows, and request the records of
                             those that are not listed. The supervisor finishes what REST calls over
                             (semantics 7).

Why it is right:

- The new conversations are on top of the list, so reading can stop at the right number. It goes on where a page
  ends with a new one, since more of those that began together may follow.
- Every search ends. It stops at rows older than a live conversation can be, and after `MAX_PAGES`. Where Phonic
  counts more than its list shows, the list is read to its end once in a sweep's interval; in between, a round
  reads the first page only.
- An open feed proves nothing, and neither does a number that is too low once, since it may be older than the list.
  Only a row or a record with an end finishes a conversation.
"""

import math
from collections.abc import Collection

import structlog
import trio

from ..counting import retention
from ..counting.derive import parse_time
from ..phonic.listing import ListedRow, ProjectRow
from .interfaces import Rest, Targets
from .lists import PAGE, SMALL_PAGE, ConversationLists, Project, in_slices

log = structlog.get_logger("exporter.watch")

MAX_PAGES = 1_000  # of one list in a round: 100,000 rows
EXCESS_ROUNDS = 2  # in a row, with more conversations believed live than active, before that is looked into
EXCESS_PAGES = 20  # of a list, read for the rows of those believed live
CHECK_INTERVAL = 60.0  # seconds between two such lists, and between two requests for one conversation's record
RECORDS_A_ROUND = 10  # requested for conversations that are believed live but not listed
# In a row, with fewer live conversations found than active, before a warning. Single ones are normal, because
# conversations begin and end between two requests.
SHORT_ROUNDS = 3
WARNING_INTERVAL = 3600.0  # seconds between two such warnings about one project


class LiveSearch:
    """Searches projects for live conversations."""

    def __init__(self, rest: Rest, lists: ConversationLists, *, targets: Targets, shallow_for: float) -> None:
        """``shallow_for``: seconds in which a list that lacks live rows is not read to its end again."""
        self._rest = rest
        self._lists = lists
        self._targets = targets
        self._shallow_for = shallow_for

    async def run(self, row: ProjectRow, project: Project) -> None:
        """Search a project once; ``Project.found`` then tells how many live conversations are known.

        Raises: `RestFailed`, with what was found before it still valid. Cancellation: at any request.
        """
        believed = {each for each in project.running if self._targets.is_watched(each)}
        if row.active == 0 and not believed:
            project.excess_rounds = 0
            self._note_found(row, project, 0)
            return
        now = trio.current_time()
        has_excess = self._has_excess(row, project, len(believed))
        reading = _Reading(
            self._lists,
            project,
            believed,
            wanted=1 if row.active is None else row.active,
            is_shallow=now < project.shallow_until,
            seeks_unlisted=has_excess and now >= project.excess_read_at + CHECK_INTERVAL,
        )
        if reading.seeks_unlisted:
            project.excess_read_at = now
        first_page = PAGE if reading.wanted else SMALL_PAGE
        await self._lists.read(row.name, reading.wants_older, first_page=first_page, max_pages=MAX_PAGES)
        if len(reading.live) < reading.wanted and not reading.is_shallow:
            # The list may lack live rows for long. New ones appear on its first page, and sweeps read further.
            project.shallow_until = trio.current_time() + self._shallow_for
        self._note_found(row, project, len(reading.live))
        if has_excess:
            await self._check_records(reading.unlisted, project)

    def _has_excess(self, row: ProjectRow, project: Project, believed: int) -> bool:
        is_more = row.active is not None and believed > row.active
        project.excess_rounds = project.excess_rounds + 1 if is_more else 0
        return project.excess_rounds >= EXCESS_ROUNDS

    def _note_found(self, row: ProjectRow, project: Project, found: int) -> None:
        project.found = found
        if found >= (row.active or 0):
            project.short_rounds = 0
            return
        project.short_rounds += 1
        now = trio.current_time()
        if project.short_rounds >= SHORT_ROUNDS and now - project.warned_at >= WARNING_INTERVAL:
            project.warned_at = now
            log.warning("fewer conversations found than active", project=row.name, active=row.active, found=found)

    async def _check_records(self, unlisted: Collection[str], project: Project) -> None:
        """Request the records of watched conversations that are not listed, to see which ones are over."""
        now = trio.current_time()
        project.checked_at = {each: at for each, at in project.checked_at.items() if each in project.running}
        due = [each for each in unlisted if now - project.checked_at.get(each, -math.inf) >= CHECK_INTERVAL]
        for each in sorted(due)[:RECORDS_A_ROUND]:
            record = await self._rest.record(each)
            if record is None or record.conversation.ended_at is None:
                project.checked_at[each] = now
            else:
                project.running.pop(each, None)
                self._targets.over(each)


class _Reading:
    """How far one search reads the project's list, and what it finds.

    ``live``: conversations known to be live, those believed live included. ``unlisted``: those believed live whose
    row has not been seen. ``wanted``: how many live ones there should be. ``is_shallow``: read no second page for
    their sake. ``seeks_unlisted``: read up to `EXCESS_PAGES` for the rows of ``unlisted``.
    """

    def __init__(
        self,
        lists: ConversationLists,
        project: Project,
        believed: Collection[str],
        *,
        wanted: int,
        is_shallow: bool,
        seeks_unlisted: bool,
    ) -> None:
        self.live = set(believed)
        self.unlisted = set(believed)
        self.wanted = wanted
        self.is_shallow = is_shallow
        self.seeks_unlisted = seeks_unlisted
        self._lists = lists
        self._project = project
        self._pages = 0

    async def wants_older(self, rows: list[ListedRow]) -> bool:
        """Act on a page's rows. Returns whether this round needs the next page."""
        self._pages += 1
        ends_with_new = has_reached_past = False
        oldest_live = self._lists.ago(retention.OLDEST_LIVE)
        async for each in in_slices(rows):
            self.unlisted.discard(each.id)
            is_known = each.id in self._project.running
            is_live = self._lists.act_on(each, self._project)
            if is_live:
                self.live.add(each.id)
            else:
                self.live.discard(each.id)
            ends_with_new = is_live and not is_known
            has_reached_past = has_reached_past or (parse_time(each.started_at) or math.inf) < oldest_live
        if has_reached_past:
            return False
        if self.seeks_unlisted and self.unlisted and self._pages < EXCESS_PAGES:
            return True
        # Where a page ends with a new conversation, more of those that began together may be on the next one.
        return not self.is_shallow and (len(self.live) < self.wanted or ends_with_new)
