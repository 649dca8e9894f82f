"""Pure: the file of a recording: JSON lines, a header and then events in the order in which they happened.

Rules for this file: version 1 is read for ever; unknown kinds of events are an error, since a recording that is
played in part would prove nothing.
"""

import json
import re
from collections.abc import Iterable, Iterator
from datetime import MAXYEAR, MINYEAR
from enum import StrEnum
from typing import Any, Final

import attrs

FORMAT: Final = "phonic-exporter recording"
VERSION: Final = 1
YEARS_OF_NO_TIME: Final = frozenset({MINYEAR, MAXYEAR})
"""Programs write the first or the last moment of the calendar for no time; such a time is not moved."""
_STATUSES: Final = range(200, 1000)
_CLOSE_CODES: Final = range(1000, 65_536)
_HALF_A_CHARACTER: Final = re.compile("[\ud800-\udfff]")  # UTF-8 has none


class UnreadableRecording(Exception):
    """The file is no recording, or of a later version; ``str()`` says what is wrong and in which line."""


class Kind(StrEnum):
    """What happened: on the live feed, or a reply of REST to the request for the conversation's record."""

    OPENED = "opened"
    FRAME = "frame"  # one text message
    PING = "ping"
    CLOSED = "closed"  # with the close code, or none
    REFUSED = "refused"  # the handshake, with an HTTP status
    RECORD = "record"  # a reply of REST


@attrs.frozen(kw_only=True)
class Entry:
    """``at``: seconds since the recording began. ``code``: close code or status. ``body``: text as it came."""

    at: float
    kind: Kind
    code: int | None = None
    body: str = ""


@attrs.frozen(kw_only=True)
class Recording:
    """All of one conversation. ``conversation_id`` is the anonymised one."""

    conversation_id: str
    entries: tuple[Entry, ...]


def header(conversation_id: str, version: str) -> str:
    """The first line. ``version`` is the exporter's."""
    return _line(
        {"format": FORMAT, "version": VERSION, "exporter": version, "conversation_id": conversation_id},
    )


def line(entry: Entry) -> str:
    """One event as a line."""
    content: dict[str, Any] = {"at": round(entry.at, 3), "kind": entry.kind.value}
    if entry.code is not None:
        content["code"] = entry.code
    if entry.body:
        content["body"] = entry.body
    return _line(content)


def read(lines: Iterable[str]) -> Recording:
    """Read a whole recording. Raises `UnreadableRecording`."""
    numbered = enumerate(lines, 1)
    first = _object(*next(numbered, (1, "")))
    if first.get("format") != FORMAT:
        raise UnreadableRecording("line 1: no recording of phonic-exporter")
    if first.get("version") != VERSION:
        raise UnreadableRecording("line 1: made by a later version of phonic-exporter")
    identity = first.get("conversation_id")
    if not isinstance(identity, str) or not identity:
        raise UnreadableRecording("line 1: names no conversation")
    return Recording(conversation_id=identity, entries=tuple(_entries(numbered)))


def _entries(numbered: Iterable[tuple[int, str]]) -> Iterator[Entry]:
    latest = 0.0
    for number, text in numbered:
        if not text.strip():
            continue
        found = _object(number, text)
        try:
            entry = Entry(
                at=float(found["at"]), kind=Kind(found["kind"]), code=found.get("code"), body=found.get("body", "")
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UnreadableRecording(f"line {number}: no event that is known") from None
        if not latest <= entry.at < float("inf"):
            raise UnreadableRecording(f"line {number}: earlier than the line before")
        if not _is_playable(entry):
            raise UnreadableRecording(f"line {number}: no event that is known")
        latest = entry.at
        yield entry


def _is_playable(entry: Entry) -> bool:
    """Whether a server can send this."""
    codes = _CLOSE_CODES if entry.kind is Kind.CLOSED else _STATUSES
    is_code = entry.code is None or (isinstance(entry.code, int) and entry.code in codes)
    return is_code and isinstance(entry.body, str) and not _HALF_A_CHARACTER.search(entry.body)


def _object(number: int, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UnreadableRecording(f"line {number}: no JSON object")
    return found


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":")) + "\n"
