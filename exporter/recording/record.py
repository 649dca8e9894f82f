"""Tasks: records a conversation, its live feed and then its record in REST, anonymised before it is written."""

import json
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from typing import Final

import attrs
import trio

from .. import __version__
from ..diagnosis.raw_feed import Closed, Event, Opened, Pinged, RawFeeds, Received, Refused
from ..enums import MessageType, Request
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
    snapshots: int = 0

    def entry(self, kind: Kind, *, code: int | None = None, body: str = "") -> None:
        text = self.anonymiser.text(body)
        self.write(line(Entry(at=trio.current_time() - self.began, kind=kind, code=code, body=text)))
        self.snapshots += kind is Kind.FRAME and _is_snapshot(body)

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
    """Record a conversation until it ends, for at most ``seconds``; returns the number of snapshots.

    ``write`` gets one line at a time, each complete, so that an interrupted recording can be played, too. SIGINT
    and SIGTERM end the recording early. Raises: NotRecorded where no snapshot came, so that nothing written is
    worth keeping. Cancellation: what was written stays.
    """
    anonymiser = Anonymiser(secrets.token_bytes(32), conversation_id=conversation_id, begins_at=_BEGINS_AT)
    recorder = Recorder(write=write, anonymiser=anonymiser, began=trio.current_time())
    write(header(anonymiser.identity(conversation_id), __version__))
    feeds = RawFeeds(
        base_url=settings.base_url, tls=trusting(settings.ca_file), proxy=proxies.for_url(settings.base_url)
    )
    progress(f"recording for up to {seconds:g} s, or until the conversation ends")
    end: Closed | Refused | None = None
    with _cancelled_by_signals():
        try:
            with trio.move_on_after(seconds):
                async with aclosing(feeds.events(conversation_id, credentials.current())) as events:
                    async for event in events:
                        recorder.event(event)
                        end = event if isinstance(event, Closed | Refused) else None
        except (FeedLost, OSError, trio.BrokenResourceError, trio.TooSlowError, UnicodeError):
            if not recorder.snapshots:
                raise NotRecorded("no connection to the live feed; `phonic-exporter doctor` says why") from None
            recorder.event(end := Closed(trio.current_time() - recorder.began, None))
        if recorder.snapshots and end is not None and isinstance(credentials.current(), ApiKey):
            progress("the feed ended; reading the record from REST")
            await _record(settings, credentials, proxies, conversation_id, recorder)
    if not recorder.snapshots:
        raise NotRecorded(_why_nothing_came(end))
    return recorder.snapshots


@contextmanager
def _cancelled_by_signals() -> Iterator[None]:
    """Cancel the block at SIGINT and SIGTERM."""
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:
        before = {
            number: signal.signal(number, lambda *_: token.run_sync_soon(scope.cancel))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _is_snapshot(text: str) -> bool:
    """Whether Phonic calls it one. Its content may be anything: what cannot be read is worth a recording."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict) and message.get("type") == MessageType.CONVERSATION_UPDATED


def _why_nothing_came(end: Closed | Refused | None) -> str:
    match end:
        case Refused(status=404 | 410 as status):
            return f"Phonic refuses the feed: HTTP {status}; the conversation is unknown or over"
        case Refused(status=status):
            return f"Phonic refuses the feed: HTTP {status}; `phonic-exporter doctor` says why"
        case Closed(code=1008):
            return "Phonic refuses the feed: close code 1008; the key is wrong, or the conversation is not live"
        case Closed(code=code):
            return f"the feed ended without a snapshot, close code {code or 'none'}; is the conversation live?"
    return "no snapshot came; is the conversation live?"


async def _record(
    settings: PhonicSettings,
    credentials: Credentials,
    proxies: Proxies,
    conversation_id: str,
    recorder: Recorder,
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
        with trio.move_on_after(RECORD_WAIT):
            while True:
                try:
                    found = await rest.record(conversation_id)
                except RestFailed:
                    found = None
                conversation = found.conversation if found else None
                if conversation and conversation.ended_by is not None and conversation.analysis is not None:
                    return
                await trio.sleep(RECORD_EVERY)
