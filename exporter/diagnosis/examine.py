"""Tasks: asks REST and a live feed what a report needs; reads only, and of each list one page."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, Final

import attrs
import trio

from ..enums import Request, RestError
from ..phonic.clock import PhonicClock
from ..phonic.credentials import ApiKey, Credentials
from ..phonic.live.errors import FeedLost
from ..phonic.proxies import Proxies
from ..phonic.rest import RestApi, RestFailed, open_rest
from ..phonic.trust import trusting
from ..phonic.wire import is_conversation_id
from ..settings import PhonicSettings
from .raw_feed import Event, RawFeeds
from .seen import FeedSeen, RestSeen

MOST_PROJECTS: Final = 20
"""Projects whose agents and conversations are listed."""
MOST_TRIED: Final = 3
"""Rows without an end that are tried until one has a live feed."""
PROBE_TIME: Final = 10.0
"""Longest time in seconds for a feed that should end by itself: of an unknown, or an ended conversation."""
RECORD_WAIT: Final = 15.0
"""Seconds after the end of a watched conversation before its record is read."""
UNKNOWN_ID: Final = "conv_00000000-0000-4000-8000-000000000000"


@attrs.define(kw_only=True)
class Examined:
    """Everything that was seen. What was not asked, or not answered, is None or empty."""

    has_api_key: bool
    is_encrypted: bool
    through_proxy: bool
    seconds: float
    failures: dict[Request, RestError] = attrs.field(factory=dict)
    request_seconds: list[float] = attrs.field(factory=list)
    projects: int | None = None
    projects_listed: int = 0
    active: int | None = None
    agents: int = 0
    workspace_active: int | None = None
    workspace_limit: int | None = None
    rest: RestSeen = attrs.field(factory=RestSeen)
    clock_offset: float | None = None
    was_named: bool = False
    feed: FeedSeen | None = None  # of a conversation that goes on
    feed_trouble: str = ""  # why there was no connection
    feeds_tried: int = 0
    feeds_silent: int = 0
    unknown: FeedSeen | None = None
    over: FeedSeen | None = None
    record_failure: RestError | None = None


async def examine(
    settings: PhonicSettings,
    credentials: Credentials,
    proxies: Proxies,
    *,
    conversation_id: str | None,
    seconds: float,
    progress: Callable[[str], None] = lambda _: None,
) -> Examined:
    """Ask Phonic, and observe the feed of ``conversation_id``, or of one that REST lists, for up to ``seconds``.

    ``progress`` is told what happens next, in words for a terminal. Never raises for what Phonic or the network
    does. Cancellation: at any time.
    """
    proxy = proxies.for_url(settings.base_url)
    has_api_key = isinstance(credentials.current(), ApiKey)
    found = Examined(
        has_api_key=has_api_key,
        is_encrypted=settings.base_url.startswith("https:"),
        through_proxy=proxy is not None,
        seconds=seconds,
        was_named=conversation_id is not None,
    )
    feeds = RawFeeds(base_url=settings.base_url, tls=trusting(settings.ca_file), proxy=proxy)
    candidates = [conversation_id] if conversation_id else []
    over: str | None = None
    async with _rest(settings, credentials, proxies, found) as rest:
        if rest is not None:
            progress("asking REST for projects, limits, agents and conversations")
            running, over = await _ask_rest(rest, found)
            if conversation_id is None:
                candidates = running[:MOST_TRIED]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_probe_feeds, feeds, credentials, found, over, min(PROBE_TIME, seconds))
            watched = await _watch(feeds, credentials, found, candidates, seconds, progress)
        if rest is not None:
            await _read_records(rest, found, over, watched, progress)
    return found


@asynccontextmanager
async def _rest(
    settings: PhonicSettings, credentials: Credentials, proxies: Proxies, found: Examined
) -> AsyncIterator[RestApi | None]:
    if not found.has_api_key:
        yield None
        return
    clock = PhonicClock(time.time)
    bodies = _Bodies(found)
    async with open_rest(
        settings.base_url,
        credentials,
        on_error=lambda _: None,
        on_request=lambda _, seconds: found.request_seconds.append(seconds),
        on_body=bodies.take,
        clock=clock,
        requests_per_second=min(settings.requests_per_second, 5.0),
        proxy=proxies.for_url(settings.base_url),
        ca_file=settings.ca_file,
    ) as rest:
        yield rest
    found.clock_offset = clock.offset


@attrs.define
class _Bodies:
    """Hands the bodies of REST replies, as they came, to what looks at them."""

    _found: Examined

    def take(self, request: Request, body: bytes) -> None:
        if request is Request.CONVERSATIONS:
            self._found.rest.rows(body)
        elif request is Request.RECORD:
            self._found.rest.record(body, self._found.feed)


async def _ask_rest(rest: RestApi, found: Examined) -> tuple[list[str], str | None]:
    """Returns the conversations that may be going on, newest first, and one that is over."""
    running: list[tuple[str, str]] = []
    over: str | None = None
    projects = await _asked(found, Request.PROJECTS, rest.projects) or []
    if Request.PROJECTS in found.failures:
        return [], None
    found.projects = len(projects)
    found.active = sum(each.active or 0 for each in projects)
    workspace = await _asked(found, Request.WORKSPACE, rest.workspace)
    if workspace is not None:
        found.workspace_active, found.workspace_limit = workspace.active, workspace.limit
    # Those with conversations first, so that one to observe is found in any workspace.
    for project in sorted(projects, key=lambda each: -(each.active or 0))[:MOST_PROJECTS]:
        found.projects_listed += 1
        name = project.name
        found.agents += len(await _asked(found, Request.AGENTS, partial(rest.agents, name)) or [])
        page = await _asked(found, Request.CONVERSATIONS, partial(rest.conversations, name, limit=20))
        for row in page.rows if page else ():
            if not is_conversation_id(row.id):
                continue
            if row.ended_at is None:
                running.append((row.started_at or "", row.id))
            elif over is None:
                over = row.id
    return [each for _, each in sorted(running, reverse=True)], over


async def _asked(found: Examined, request: Request, ask: Callable[[], Any]) -> Any:
    try:
        return await ask()
    except RestFailed as failed:
        found.failures.setdefault(request, failed.reason)
        return None


async def _watch(
    feeds: RawFeeds,
    credentials: Credentials,
    found: Examined,
    candidates: list[str],
    seconds: float,
    progress: Callable[[str], None],
) -> str | None:
    """Observe the first candidate that has a live feed. Returns its id if it ended meanwhile."""
    for candidate in candidates:
        found.feeds_tried += 1
        progress(f"observing a live feed for up to {seconds:g} s")
        found.feed = seen = FeedSeen()
        await _observe(feeds, credentials, candidate, seen, seconds, found)
        if seen.updates:
            return candidate if seen.ended_normally else None
        found.feeds_silent += seen.is_silent
    return None


async def _probe_feeds(
    feeds: RawFeeds, credentials: Credentials, found: Examined, over: str | None, seconds: float
) -> None:
    found.unknown = FeedSeen()
    await _observe(feeds, credentials, UNKNOWN_ID, found.unknown, seconds, None)
    if over is not None:
        found.over = FeedSeen()
        await _observe(feeds, credentials, over, found.over, seconds, None)


async def _observe(
    feeds: RawFeeds,
    credentials: Credentials,
    conversation_id: str,
    seen: FeedSeen,
    seconds: float,
    found: Examined | None,
) -> None:
    trouble = ""
    try:
        with trio.move_on_after(seconds):
            async with aclosing(feeds.events(conversation_id, credentials.current())) as events:
                await _take_all(events, seen)
    except trio.TooSlowError:
        trouble = "timeout"
    except FeedLost as lost:
        trouble = lost.reason.value if lost.reason else "connect"
    except (OSError, trio.BrokenResourceError, UnicodeError):
        trouble = "connect"
    if found is not None:
        found.feed_trouble = trouble


async def _take_all(events: AsyncIterator[Event], seen: FeedSeen) -> None:
    async for event in events:
        seen.add(event)


async def _read_records(
    rest: RestApi,
    found: Examined,
    over: str | None,
    watched: str | None,
    progress: Callable[[str], None],
) -> None:
    """Read the record of a conversation that is over: the observed one if it ended, and an older one."""
    chosen = [(over, 0.0), (watched, RECORD_WAIT)]
    for conversation_id, wait in chosen:
        if conversation_id is None:
            continue
        if wait:
            progress(f"the conversation ended; reading its record in {wait:g} s")
            await trio.sleep(wait)
        try:
            await rest.record(conversation_id)
        except RestFailed as failed:
            found.record_failure = failed.reason
