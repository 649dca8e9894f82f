"""Pure: what the frames of a live feed and the replies of REST show of Phonic's behaviour, in numbers and words.

Nothing of a payload is kept but counts, sizes, times, durations of turns, the words that `words` may quote, and
hashes of the ids of items.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from ..enums import Field, MessageType, Origin, Role
from ..phonic.decode import CONVERSATION_FIELDS, ITEM_FIELDS
from . import words
from .raw_feed import Closed, Event, Opened, Pinged, Received, Refused

_ENVELOPE_FIELDS = frozenset("type conversation error message url".split())
_AGENT_FIELDS = frozenset("id name is_deleted".split())
_TOOL_CALL_FIELDS = frozenset(
    """
    id tool integration endpoint_method endpoint_url endpoint_headers endpoint_timeout_ms endpoint_called_at
    query_params response_status_code tool_call_output_timeout_ms request_body response_body timed_out
    error_message
    """.split()
)
_TIMINGS = frozenset({Field.MODEL_GENERATION.value, Field.FIRST_AUDIO.value, Field.MODEL_INPUT.value})
_ANALYSIS_FIELDS = frozenset("id latencies_ms interruptions_count".split())
_TERMINAL = (MessageType.CONVERSATION_ENDED, MessageType.CONVERSATION_SAVED)


@attrs.define
class Vocabulary:
    """Fields and enumerated values that Phonic's documents do not name, as they may be quoted; how often each."""

    fields: Counter[str] = attrs.field(factory=Counter)
    values: Counter[str] = attrs.field(factory=Counter)

    def look_at(self, conversation: Mapping[str, Any]) -> None:
        """Note what is new in a conversation of either shape (API 2.1 to 2.4)."""
        self._kind("conversation.id", conversation.get("id"), str, "no text")
        self._kind("conversation.items", conversation.get("items"), list, "no list")
        self._fields("conversation", conversation, CONVERSATION_FIELDS)
        self._fields("agent", conversation.get("agent"), _AGENT_FIELDS)
        self._fields("analysis", conversation.get("analysis"), _ANALYSIS_FIELDS)
        self._value("origin", conversation.get("origin"), {each.value for each in Origin} - {Origin.OTHER.value})
        self._value("ended_by", conversation.get("ended_by"), words.ENDED_BY)
        self._value("end_reason", conversation.get("end_reason"), words.ENDED_BY)
        self._value("call_provider", conversation.get("call_provider"), words.CALL_PROVIDERS)
        for item in _objects(conversation.get("items")):
            self._kind("item.id", item.get("id"), str, "no text")
            self._kind("item.item_idx", item.get("item_idx"), int, "no whole number")
            self._fields("item", item, ITEM_FIELDS)
            self._fields("timings", item.get("timings"), _TIMINGS)
            self._value("role", item.get("role"), {Role.ASSISTANT.value, Role.USER.value})
            for call in _objects(item.get("tool_calls")):
                self._fields("tool call", call, _TOOL_CALL_FIELDS)
        vad = conversation.get("vad_info")
        if isinstance(vad, dict) and vad.get("events"):
            self.fields["vad_info.events: not empty"] += 1

    def envelope(self, message: Mapping[str, Any]) -> None:
        """Note what is new around the conversation (API 1.3)."""
        self._fields("message", message, _ENVELOPE_FIELDS)

    def _fields(self, of: str, found: object, known: frozenset[str]) -> None:
        if isinstance(found, dict):
            for name in found.keys() - known:
                self.fields[f"{of}.{words.field_name(name)}"] += 1

    def _kind(self, field: str, found: object, kind: type, otherwise: str) -> None:
        if found is not None and not isinstance(found, kind):
            self.fields[f"{field}: {otherwise}"] += 1

    def _value(self, field: str, found: object, known: Iterable[str]) -> None:
        if found is not None and str(found) not in known:
            self.values[f"{field}={words.enumerated(found)}"] += 1


@attrs.define
class _Turn:
    """What was seen of one turn of a feed. Updates are numbered from 0 on this connection."""

    role: str
    first_update: int
    timed_update: int | None = None
    durations: int = 0  # distinct ones
    duration: object = None
    is_settled: bool = False  # a later turn existed in an earlier update
    changes_after_settled: int = 0
    is_silent: bool = False


@attrs.define
class FeedSeen:
    """What one live feed showed. Seconds; sizes in characters."""

    opened_after: float | None = None
    refused_with: int | None = None
    close_code: int | None = None
    broke_by: str = ""  # why it ended, where the server closed it with no code
    ended_after: float | None = None  # None: still open when the observation ended
    first_update_after: float | None = None
    types: Counter[str] = attrs.field(factory=Counter)
    terminal: list[str] = attrs.field(factory=list)  # in the order in which they came
    updates: int = 0
    largest: int = 0
    fragmented: int = 0
    binary: int = 0
    not_json: int = 0
    pings: int = 0
    error_with_text: int = 0
    shrunk: int = 0  # updates with fewer turns than the one before
    odd_ids: int = 0  # items whose id is not the conversation's and the index
    last_update_says: dict[str, bool] = attrs.field(factory=dict)
    vocabulary: Vocabulary = attrs.field(factory=Vocabulary)
    turns: dict[int, _Turn] = attrs.field(factory=dict)
    conversation: int | None = None  # hash of its id
    item_ids: dict[int, int | None] = attrs.field(factory=dict)  # hashes, by index

    def add(self, event: Event) -> None:
        """Take the next event of the feed."""
        match event:
            case Opened():
                self.opened_after = event.at
            case Refused():
                self.refused_with = event.status
                self.ended_after = event.at
            case Pinged():
                self.pings += 1
            case Closed():
                self.close_code = event.code
                self.broke_by = event.why if event.code is None else ""
                self.ended_after = event.at
            case Received():
                self._message(event)

    @property
    def ended_normally(self) -> bool:
        """Whether Phonic said that the conversation is over (API 1.3, 1.4)."""
        return bool(self.terminal) or self.close_code == 1000

    @property
    def is_silent(self) -> bool:
        """Whether it was accepted, and told neither a snapshot nor the end for as long as it was observed."""
        is_open = self.opened_after is not None and self.ended_after is None
        return is_open and not self.updates and not self.terminal

    @property
    def broke(self) -> bool:
        """Whether it ended after it was accepted, and the conversation did not."""
        return self.opened_after is not None and self.ended_after is not None and not self.ended_normally

    def _message(self, message: Received) -> None:
        self.largest = max(self.largest, message.size)
        self.fragmented += message.frames > 1
        if message.text is None:
            self.binary += 1
            return
        try:
            content = json.loads(message.text)
        except (ValueError, RecursionError):
            self.not_json += 1
            return
        if not isinstance(content, dict):
            self.not_json += 1
            return
        kind = content.get("type")
        is_known = isinstance(kind, str) and MessageType(kind) is not MessageType.OTHER
        name = str(kind) if is_known else words.enumerated(kind)
        self.types[name] += 1
        self.vocabulary.envelope(content)
        if kind in _TERMINAL:
            self.terminal.append(name)
        elif kind == MessageType.ERROR:
            self.error_with_text += bool(content.get("message") or content.get("error"))
        conversation = content.get("conversation")
        if kind == MessageType.CONVERSATION_UPDATED and isinstance(conversation, dict):
            if self.first_update_after is None:
                self.first_update_after = message.at
            self._update(conversation)

    def _update(self, conversation: dict[str, Any]) -> None:
        number, self.updates = self.updates, self.updates + 1
        self.vocabulary.look_at(conversation)
        self.conversation = _hash(conversation.get("id"))
        self.last_update_says = {
            field: conversation.get(field) is not None for field in ("ended_at", "end_reason", "ended_by")
        }
        self.last_update_says["is_live"] = conversation.get("is_live") is True
        items = list(_objects(conversation.get("items")))
        self.shrunk += len(items) < len(self.turns)
        last = len(items) - 1
        for position, item in enumerate(items):
            self._turn(item, number, is_settled=position < last, conversation_id=conversation.get("id"))

    def _turn(self, item: dict[str, Any], update: int, *, is_settled: bool, conversation_id: object) -> None:
        index = item.get("item_idx")
        if not isinstance(index, int):
            return
        turn = self.turns.get(index)
        if turn is None:
            turn = self.turns[index] = _Turn(Role(str(item.get("role"))).value, update)
            self.odd_ids += item.get("id") != f"{conversation_id}-{index}"
            self.item_ids[index] = _hash(item.get("id"))
        if item.get("timings") and turn.timed_update is None:
            turn.timed_update = update
        turn.is_silent = turn.is_silent or item.get("assistant_chose_not_to_respond") is True
        duration = item.get("duration_ms")
        if duration != turn.duration:
            turn.durations += 1
            turn.changes_after_settled += turn.is_settled
            turn.duration = duration
        turn.is_settled = is_settled

    def timings(self, *, roles: Iterable[str] = (Role.ASSISTANT.value,), welcome: bool = False) -> Counter[str]:
        """When the timings of turns came: ``with the turn``, ``later`` or ``never``.

        Of turns that appeared while the feed was open and are settled by now. ``welcome``: of turn 0, whenever it
        appeared, instead of all others.
        """
        newest = max(self.turns, default=-1)
        found: Counter[str] = Counter()
        for index, turn in self.turns.items():
            if turn.role not in roles or index == newest or turn.is_silent or (index == 0) is not welcome:
                continue
            if turn.first_update == 0 and not welcome:
                continue  # it may have changed before we looked
            if turn.timed_update is None:
                found["never"] += 1
            else:
                found["with the turn" if turn.timed_update == turn.first_update else "later"] += 1
        return found


@attrs.define
class RestSeen:
    """What the replies of REST showed (API 3)."""

    running: int = 0  # rows of lists without `ended_at`
    running_with: Counter[str] = attrs.field(factory=Counter)  # which fields of these were not null
    ended: int = 0
    unusable: int = 0
    records: int = 0
    records_without: Counter[str] = attrs.field(factory=Counter)
    items_with_timings: int = 0
    items_without_id: int = 0
    items: int = 0
    same_ids: Counter[bool] = attrs.field(factory=Counter)
    vocabulary: Vocabulary = attrs.field(factory=Vocabulary)

    def rows(self, body: bytes) -> list[dict[str, Any]]:
        """Take a page of conversations; returns its rows."""
        content = _parsed(body)
        found = content.get("conversations")
        rows = list(_objects(found))
        self.unusable += (len(found) if isinstance(found, list) else 0) - len(rows)
        for row in rows:
            self.vocabulary.look_at(row)
            if row.get("ended_at") is None:
                self.running += 1
                for field in ("started_at", "duration_ms", "analysis", "items"):
                    self.running_with[field] += row.get(field) is not None
            else:
                self.ended += 1
        return rows

    def record(self, body: bytes, feed: FeedSeen | None = None) -> None:
        """Take the record of an ended conversation; if it is that of ``feed``, the ids of items are compared."""
        content = _parsed(body)
        conversation = content.get("conversation", content)
        if not isinstance(conversation, dict):
            self.unusable += 1
            return
        self.records += 1
        self.vocabulary.look_at(conversation)
        for field in ("ended_by", "analysis", "ended_at", "started_at", "duration_ms", "items"):
            self.records_without[field] += conversation.get(field) is None
        live_ids: Mapping[int, int | None] = {}
        if feed is not None and feed.conversation == _hash(conversation.get("id")):
            live_ids = feed.item_ids
        for item in _objects(conversation.get("items")):
            self.items += 1
            self.items_with_timings += item.get("timings") is not None
            self.items_without_id += item.get("id") is None
            index = item.get("item_idx")
            if isinstance(index, int) and index in live_ids:
                self.same_ids[live_ids[index] == _hash(item.get("id"))] += 1


def _objects(found: object) -> Iterable[dict[str, Any]]:
    return (each for each in found if isinstance(each, dict)) if isinstance(found, list) else ()


def _hash(found: object) -> int | None:
    """Hash of an id; None for other JSON, of which lists and objects have none."""
    return hash(found) if isinstance(found, str) else None


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
