"""Tasks: records a conversation, its live feed and then its record in REST, anonymised before it is written."""

import secrets
import time
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

import attrs
import trio

from .. import __version__
from ..diagnosis.raw_feed import Closed, Event, Opened, Pinged, RawFeeds, Received, Refused
from ..enums import Request
from ..phonic.clock import PhonicClock
from ..phonic.credentials import ApiKey, Credentials
from ..phonic.live.errors import FeedLost
from ..phonic.proxies import Proxies
from ..phonic.rest import RestFailed, open_rest
from ..phonic.trust import trusting
from ..settings import PhonicSettings
from .anonymise import Anonymiser
from .file import Entry, Kind, header, line

RECORD_WAIT: Final = 30.0
"""Longest time in seconds after the end until REST has the complete record."""
RECORD_EVERY: Final = 2.0
_BEGINS_AT: Final = datetime(2026, 1, 1, tzinfo=UTC)


class NotRecorded(Exception):
    """Nothing could be recorded; ``str()`` says why."""


@attrs.define(kw_only=True)
class Recorder:
    """Writes entries, anonymised. ``write`` takes one line."""

    write: Callable[[str], object]
    anonymiser: Anonymiser
    began: float
    frames: int = 0

    def entry(self, kind: Kind, *, code: int | None = None, body: str = "") -> None:
        text = self.anonymiser.text(body)
        self.write(line(Entry(at=trio.current_time() - self.began, kind=kind, code=code, body=text)))
        self.frames += kind is Kind.FRAME

    def event(self, event: Event) -> None:
        match event:
            case Opened():
                self.entry(Kind.OPENED)
            case Refused():
                self.entry(Kind.REFUSED, code=event.status)
            case Pinged():
                self.entry(Kind.PING)
            case Closed():
                self.entry(Kind.CLOSED, code=event.code)
            case Received():
                self.entry(Kind.FRAME, body=event.text or "")


async def record(
    settings: PhonicSettings,
    credentials: Credentials,
    proxies: Proxies,
    *,
    conversation_id: str,
    seconds: float,
    write: Callable[[str], object],
    progress: Callable[[str], None] = lambda _: None,
) -> int:
    """Record a conversation until it ends, for at most ``seconds``; returns the number of frames.

    ``write`` gets one line at a time, each complete, so that an interrupted recording can be played, too.
    Raises: NotRecorded where no live feed can be opened. Cancellation: what was written stays.
    """
    anonymiser = Anonymiser(secrets.token_bytes(32), conversation_id=conversation_id, begins_at=_BEGINS_AT)
    recorder = Recorder(write=write, anonymiser=anonymiser, began=trio.current_time())
    write(header(anonymiser.identity(conversation_id), __version__))
    feeds = RawFeeds(
        base_url=settings.base_url, tls=trusting(settings.ca_file), proxy=proxies.for_url(settings.base_url)
    )
    progress(f"recording for up to {seconds:g} s, or until the conversation ends")
    is_over = is_refused = False
    try:
        with trio.move_on_after(seconds):
            async with aclosing(feeds.events(conversation_id, credentials.current())) as events:
                async for event in events:
                    recorder.event(event)
                    is_over, is_refused = isinstance(event, Closed | Refused), isinstance(event, Refused)
    except (FeedLost, OSError, trio.BrokenResourceError, trio.TooSlowError, UnicodeError):
        raise NotRecorded("no connection to the live feed; `phonic-exporter doctor` says why") from None
    if is_over and isinstance(credentials.current(), ApiKey):
        progress("the feed ended; reading the record from REST")
        # A refused feed is often that of a conversation that is not to be had: one look is enough.
        patience = RECORD_EVERY if is_refused else RECORD_WAIT
        await _record(settings, credentials, proxies, conversation_id, recorder, patience)
    return recorder.frames


async def _record(
    settings: PhonicSettings,
    credentials: Credentials,
    proxies: Proxies,
    conversation_id: str,
    recorder: Recorder,
    patience: float,
) -> None:
    """Read the record until it is complete, and write each reply."""

    def write(request: Request, body: bytes) -> None:
        if request is Request.RECORD:
            recorder.entry(Kind.RECORD, code=200, body=body.decode("utf-8", "replace"))

    async with open_rest(
        settings.base_url,
        credentials,
        on_error=lambda _: None,
        on_body=write,
        clock=PhonicClock(time.time),
        proxy=proxies.for_url(settings.base_url),
        ca_file=settings.ca_file,
    ) as rest:
        with trio.move_on_after(patience):
            while True:
                try:
                    found = await rest.record(conversation_id)
                except RestFailed:
                    found = None
                conversation = found.conversation if found else None
                if conversation and conversation.ended_by is not None and conversation.analysis is not None:
                    return
                await trio.sleep(RECORD_EVERY)
