"""Pure: decodes the messages of the live socket and the records of REST, as far as they can be used.

Theory of operation. A document is decoded in one of three ways:

1. *Typed*: one msgspec pass straight into the classes of `schema`. It reads everything that Phonic documents.
2. *Lenient*: if the typed pass fails (a string for a number, ``1e999``, a literal ``NaN``), the standard library
   parses the same text, and each value is judged on its own. Usable values are used, the others are listed in
   `Snapshot.bad`.
3. *In steps*: both ways above decode a document in one piece, with which a hostile peer could hold the event loop
   for seconds. A document that may take longer than 20 ms (judged by its size and its count of commas and
   brackets) is walked through by `exporter.phonic.walker`, item by item, with pauses. Values that are too large
   are listed as bad.

Invariants:

- When the typed pass succeeds, the lenient one would give the same snapshot; a test compares them. So the choice
  of the way never changes what is counted, within the limits below.
- Between two pauses (``None`` from `read` and `read_record`) at most about 40 ms pass, whatever the document.
- One bad value costs that value, one bad item that item, one bad message that message.
- Deriving from a snapshot takes time, too: `pieces` splits a long one into several that add up to the same.
"""

import json
import re
from collections.abc import Callable, Generator, Iterator
from math import isfinite
from typing import Any, TypeVar

import attrs
import msgspec

from ..enums import DecodePath, Drift, Field, Invalid, MessageType, Rejection
from .schema import (
    LONGEST_TEXT,
    MOST_TIMINGS,
    MOST_TOOL_CALLS,
    Agent,
    Analysis,
    BadValue,
    Conversation,
    Item,
    Project,
    Snapshot,
    Tool,
    ToolCall,
)
from .walker import NotJson, TooMuch, Walker

MOST_ITEMS = 100_000
"""Items of a snapshot that are decoded."""
MOST_UNNUMBERED = 5_000
"""The same if their indexes do not ascend by one: such items are derived from in one piece."""
MOST_RECORDED = 10_000
"""The same for a record, which is derived from in one piece."""
PIECE = 1_000  # items of a snapshot that are derived from in one piece, in about 20 ms
KEPT = 2  # turns at the end that may still change, and that the next piece begins with
MOST_DOCUMENTS = 64  # in one frame
MOST_CALLED = 20_000
"""Tool calls of a large snapshot that are kept."""
# Decoded in one piece: a short document, or one that is not long and has few commas (each costs 2 µs at worst, for
# an empty item). Lenient decoding costs more, and brackets count as well.
_SHORT = 16 * 1024
_LONG = 4 * 1024 * 1024
_FEW_COMMAS = 10_000
_FEW_MARKS = 6_000
_COUNTED_AT_ONCE = 1024 * 1024
_LONGEST_VALUE = 32 * 1024  # characters of a value in a large document that is decoded in one piece
_ITEMS_AT_ONCE = 200
# Characters allowed around a document: a byte order mark, padding, the separator of RFC 7464.
_JUNK = re.compile("[\ufeff\\x00 \\t\\r\\n\\x1e]*+")
_PADDING = "\ufeff\0 \t\r\n\x1e"


class InvalidMessage(Exception):
    """A message that cannot be used at all. Carries no part of it."""

    def __init__(self, reason: Invalid) -> None:
        super().__init__(reason.value)
        self.reason = reason


@attrs.define
class _ErrorBody:
    message: str | None = None


@attrs.define
class _Envelope:
    type: str
    conversation: Conversation | None = None
    error: _ErrorBody | None = None
    message: str | None = None


@attrs.frozen
class Message:
    """One message of the live socket (API 1.3).

    ``snapshot`` is set for ``conversation-updated`` only, and ``path`` tells how it was decoded. ``denied`` tells
    that an error message speaks of the credential or of access; nothing else of its text is kept.
    """

    type: MessageType
    snapshot: Snapshot | None = None
    denied: bool = False
    path: DecodePath = DecodePath.FULL


_DENIALS = ("invalid token", "unauthorized", "forbidden", "authentication")
_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def decode(frame: str | bytes) -> Message:
    """Decode the first message of a frame, without pauses. Raises: `InvalidMessage`."""
    return next(message for message in read(frame) if message is not None)


def read(frame: str | bytes) -> Iterator[Message | None]:
    """Decode a frame of the live socket, which has one message as a rule.

    Yields its messages. ``None`` is a pause, at which the caller should let other tasks run.

    Raises: `InvalidMessage`, after the messages before the invalid one.
    """
    if _is_light(frame):
        message = _documented(frame)
        if message is not None:
            yield message
            return
    yield from _read_all(_text_of(frame))


def _read_all(text: str) -> Iterator[Message | None]:
    is_light = _has_few_marks(text)
    at = yield from _behind_junk(text, 0)
    if at and is_light and (message := _documented(text[at:])) is not None:
        yield message
        return
    for _ in range(MOST_DOCUMENTS):
        message, at = yield from _read_one(text, at, is_light=is_light)
        yield message
        at = yield from _behind_junk(text, at)
        if at == len(text):
            return
        yield None
    raise InvalidMessage(Invalid.TOO_LARGE)


def _behind_junk(text: str, at: int) -> Generator[None, None, int]:
    while match := _JUNK.match(text, at, at + _COUNTED_AT_ONCE):
        if match.end() < at + _COUNTED_AT_ONCE:
            return match.end()
        at = match.end()
        yield
    return at


def _read_one(text: str, at: int, *, is_light: bool) -> Generator[None, None, tuple[Message, int]]:
    if is_light:
        try:
            document, end = _LENIENT.raw_decode(text, at)
            return _message_from(document), end
        except ValueError:
            raise InvalidMessage(Invalid.NOT_JSON) from None
        except RecursionError:
            pass
    document, end = yield from _document_in_steps(text, at)
    return _message_from(document), end


def _is_light(text: str | bytes) -> bool:
    """Whether the typed pass takes less than 20 ms: it creates objects only for values, which commas separate."""
    if len(text) <= _SHORT:
        return True
    return len(text) <= _LONG and (text.count(",") if isinstance(text, str) else text.count(b",")) <= _FEW_COMMAS


def _has_few_marks(text: str) -> bool:
    """Whether the lenient pass takes less than 40 ms."""
    return len(text) <= _LONG and text.count(",") + text.count("[") + text.count("{") <= _FEW_MARKS


def _text_of(frame: str | bytes) -> str:
    if isinstance(frame, str):
        return frame
    is_wide = b"\x00" in frame.strip(b"\x00")  # UTF-16 or UTF-32; around UTF-8 zeros are padding
    return frame.decode(json.detect_encoding(frame) if is_wide else "utf-8", "replace")


def _documented(frame: str | bytes) -> Message | None:
    """The message of a frame that the typed pass can decode; None for any other frame."""
    try:
        envelope = _decode_envelope(frame)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    kind = MessageType(envelope.type)
    if kind is MessageType.CONVERSATION_UPDATED:
        if envelope.conversation is None:
            raise InvalidMessage(Invalid.WRONG_SHAPE)
        return Message(kind, Snapshot(conversation=envelope.conversation))
    if kind is MessageType.ERROR:
        text = envelope.error.message if envelope.error else None
        return Message(kind, denied=_is_denial(text or envelope.message))
    return Message(kind)


def documented_conversation(frame: str) -> Conversation | None:
    """The conversation of a ``conversation-updated`` frame by the typed pass; None for any other frame."""
    if not _is_light(frame):
        return None
    try:
        envelope = _decode_envelope(frame)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return envelope.conversation if envelope.type == MessageType.CONVERSATION_UPDATED else None


@attrs.define
class _ConversationId:
    id: str


@attrs.define
class _Identity:
    type: str
    conversation: _ConversationId | None = None


_decode_identity = msgspec.json.Decoder(_Identity).decode


def snapshot_id(frame: str) -> str | None:
    """The id of the conversation in a frame that is exactly one ``conversation-updated`` message, else None.

    Reads only the type and the id and skips the rest at memory speed, whatever the order of the keys.
    """
    try:
        found = _decode_identity(frame)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    is_snapshot = found.type == MessageType.CONVERSATION_UPDATED
    return found.conversation.id if is_snapshot and found.conversation is not None else None


def _is_denial(text: object) -> bool:
    return isinstance(text, str) and any(word in text.lower() for word in _DENIALS)


def _message_from(document: Any) -> Message:
    """A message from parsed JSON. Its conversation may be a `Snapshot` already."""
    if not isinstance(document, dict) or not isinstance(document.get("type"), str):
        raise InvalidMessage(Invalid.WRONG_SHAPE)
    kind = MessageType(document["type"])
    if kind is MessageType.CONVERSATION_UPDATED:
        conversation = document.get("conversation")
        is_read = isinstance(conversation, Snapshot)
        return Message(kind, conversation if is_read else snapshot_from(conversation))
    if kind is MessageType.ERROR:
        error = document.get("error")
        text = error.get("message") if isinstance(error, dict) else None
        return Message(kind, denied=_is_denial(text or document.get("message")))
    return Message(kind)


# --- large documents


class _TooMuch:
    """Stands for a value of a large document that is too large itself."""


_TOO_MUCH = _TooMuch()


def _document_in_steps(text: str, at: int) -> Generator[None, None, tuple[dict[str, Any], int]]:
    """The fields of the document that begins at ``at``, with a `Snapshot` as conversation; and where it ends."""
    walker = Walker(text, at)
    document: dict[str, Any] = {}
    try:
        if walker.next != "{":
            yield from walker.skip()
            raise InvalidMessage(Invalid.WRONG_SHAPE)
        for key in walker.members():
            if key is None:
                yield
            elif key == "conversation" and walker.next == "{":
                document[key] = yield from _conversation_in_steps(walker)
            else:
                document[key] = yield from _value_in_steps(walker)
        return document, walker.at
    except NotJson:
        raise InvalidMessage(Invalid.NOT_JSON) from None
    except TooMuch:
        raise InvalidMessage(Invalid.TOO_LARGE) from None


def _conversation_in_steps(walker: Walker) -> Generator[None, None, Snapshot]:
    fields: dict[str, Any] = {}
    items: _Items | None = None
    for key in walker.members():
        if key is None:
            yield
        elif key == "items" and walker.next == "[":
            items = yield from _items_in_steps(walker)
            fields.pop(key, None)
        else:
            fields[key] = yield from _value_in_steps(walker)
            items = None if key == "items" else items
    snapshot = _snapshot(fields, items if items is not None else _items_of(fields.get("items")))
    is_numbered = is_ascending(snapshot.conversation.items or [])
    return snapshot if is_numbered else _limited(snapshot, MOST_UNNUMBERED)


def _limited(snapshot: Snapshot, most: int) -> Snapshot:
    items = snapshot.conversation.items
    if items is None or len(items) <= most:
        return snapshot
    bad = [each for each in snapshot.bad if each.position < most]
    if BadValue(-1, Field.ITEMS, Rejection.TOO_LARGE) not in bad:
        bad.append(BadValue(-1, Field.ITEMS, Rejection.TOO_LARGE))
    conversation = attrs.evolve(snapshot.conversation, items=items[:most])
    return attrs.evolve(snapshot, conversation=conversation, bad=tuple(bad))


def _items_in_steps(walker: Walker) -> Generator[None, None, "_Items"]:
    found = _Items()
    for number in walker.elements():
        if number is None:
            yield
            continue
        if number % _ITEMS_AT_ONCE == _ITEMS_AT_ONCE - 1:
            yield
        if number >= MOST_ITEMS:
            found.bad.append(BadValue(-1, Field.ITEMS, Rejection.TOO_LARGE))
            yield from walker.leave()
            walker.to_token()
            break
        if walker.next != "{":
            yield from walker.skip()
            found.malformed += 1
        else:
            yield from _item_in_steps(walker, found)
    return found


def _item_in_steps(walker: Walker, found: "_Items") -> Generator[None, None, None]:
    start = walker.at
    yield from walker.skip()
    piece = walker.text[start : walker.at]
    if len(piece) <= _LONGEST_VALUE:
        try:
            found.take(_decode_item(piece))
            return
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            pass
        try:
            found.add(parse_anything(piece))
            return
        except InvalidMessage:
            pass
    end, walker.at = walker.at, start
    fields: dict[str, Any] = {}
    for key in walker.members():
        if key is None:
            yield
        else:
            fields[key] = yield from _value_in_steps(walker)
    walker.at = end
    found.add(fields)


def _value_in_steps(walker: Walker) -> Generator[None, None, Any]:
    start = walker.at
    yield from walker.skip()
    if walker.at - start > _LONGEST_VALUE:
        return _TOO_MUCH
    try:
        return parse_anything(walker.text[start : walker.at])
    except InvalidMessage:
        return _TOO_MUCH


def pieces(snapshot: Snapshot) -> Iterator[Snapshot]:
    """Split a snapshot into several that add up to the same, each of which can be derived from in 20 ms.

    Each begins with the last `KEPT` turns of the one before, as if several messages had brought the turns one
    after the other.
    """
    items = snapshot.conversation.items
    if items is None or len(items) <= PIECE or not is_ascending(items):
        yield snapshot
        return
    for start in range(0, len(items) - KEPT, PIECE - KEPT):
        some = items[start : start + PIECE]
        yield attrs.evolve(
            snapshot,
            conversation=attrs.evolve(snapshot.conversation, items=some),
            bad=tuple(
                attrs.evolve(bad, position=max(bad.position - start, -1))
                for bad in snapshot.bad
                if bad.position < 0 or start <= bad.position < start + len(some)
            ),
        )


def is_ascending(items: list[Item]) -> bool:
    """Whether the indexes of the turns ascend by one, and are in the range of indexes (semantics 1)."""
    first = items[0].item_idx if items else 0
    if first is None or not 0 <= first <= MOST_ITEMS - len(items):
        return False
    return [each.item_idx for each in items] == list(range(first, first + len(items)))


# --- value by value


@attrs.define
class _Record:
    conversation: Conversation


_decode_record = msgspec.json.Decoder(_Record).decode
_decode_item = msgspec.json.Decoder(Item).decode


def decode_record(body: bytes) -> Snapshot:
    """Decode the reply of ``GET /conversations/{id}`` (API 3.2), without pauses. Raises: `InvalidMessage`."""
    return next(snapshot for snapshot in read_record(body) if snapshot is not None)


def read_record(body: bytes) -> Iterator[Snapshot | None]:
    """The same with pauses: at ``None`` the caller should let other tasks run."""
    if _is_light(body):
        try:
            yield Snapshot(conversation=_decode_record(body).conversation)
            return
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            pass
    text = _text_of(body)
    if _has_few_marks(text):
        document = parse_anything(text.strip(_PADDING))
        yield snapshot_from(document.get("conversation") if isinstance(document, dict) else None)
        return
    at = yield from _behind_junk(text, 0)
    document, _ = yield from _document_in_steps(text, at)
    snapshot = document.get("conversation")
    if not isinstance(snapshot, Snapshot):
        raise InvalidMessage(Invalid.WRONG_SHAPE)
    yield _limited(snapshot, MOST_RECORDED)


def parse_anything(document: str | bytes) -> Any:
    """Parse JSON as leniently as Python does (``NaN``, ``1e999``, lone surrogates). Raises: `InvalidMessage`."""
    try:
        return json.loads(document, parse_int=_integer)
    except (ValueError, UnicodeError, RecursionError):
        raise InvalidMessage(Invalid.NOT_JSON) from None


def _integer(digits: str) -> int | float:
    # int() refuses very long digit strings: one absurd value would cost the whole frame.
    return int(digits) if len(digits) < 19 else float(digits)


_LENIENT = json.JSONDecoder(parse_int=_integer)


@attrs.define
class _Items:
    """The items decoded so far, and the bad values in them. ``is_list`` is False if there is no list at all."""

    items: list[Item] = attrs.Factory(list)
    bad: list[BadValue] = attrs.Factory(list)
    malformed: int = 0
    is_list: bool = True
    called: int = 0

    def add(self, item: dict[str, Any]) -> None:
        self.take(_item(len(self.items), item, self.number, self.bad))

    def take(self, item: Item) -> None:
        self.called += len(item.tool_call_ids or ()) + len(item.tool_calls or ())
        if self.called > MOST_CALLED and (item.tool_call_ids or item.tool_calls):
            item.tool_call_ids = item.tool_calls = None
            self.bad.append(BadValue(len(self.items), Field.TOOL_CALLS, Rejection.TOO_LARGE))
        self.items.append(item)

    def number(self, at: int, field: Field, value: Any) -> float | None:
        """``value`` as a number; None, noted as bad, if it is none."""
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.bad.append(BadValue(at, field, Rejection.WRONG_TYPE))
            return None
        if value != value or value in (float("inf"), float("-inf")):
            self.bad.append(BadValue(at, field, Rejection.NOT_FINITE))
            return None
        return float(value)


def _items_of(value: Any) -> _Items:
    found = _Items(is_list=isinstance(value, list))
    if value is not None and not found.is_list:
        reason = Rejection.TOO_LARGE if value is _TOO_MUCH else Rejection.WRONG_TYPE
        found.bad.append(BadValue(-1, Field.ITEMS, reason))
    for item in value if found.is_list else ():
        if isinstance(item, dict):
            found.add(item)
        else:
            found.malformed += 1
    return found


def snapshot_from(document: Any) -> Snapshot:
    """A conversation from parsed JSON, value by value. Raises: `InvalidMessage` without a usable id."""
    if not isinstance(document, dict):
        raise InvalidMessage(Invalid.WRONG_SHAPE)
    return _snapshot(document, _items_of(document.get("items")))


def _snapshot(document: dict[str, Any], found: _Items) -> Snapshot:
    if not isinstance(document.get("id"), str):
        raise InvalidMessage(Invalid.WRONG_SHAPE)
    number, bad = found.number, found.bad
    conversation = Conversation(
        id=_text(document["id"]) or "",
        agent=_named(Agent, document.get("agent")),
        project_id=_text(document.get("project_id")),
        project=_named(Project, document.get("project")),
        origin=_text(document.get("origin")),
        is_test=_flag(document.get("is_test")),
        call_provider=_text(document.get("call_provider")),
        default_language=_text(document.get("default_language")),
        model=_text(document.get("model")),
        intelligence_level=_text(document.get("intelligence_level")),
        duration_ms=number(-1, Field.CONVERSATION_DURATION, document.get("duration_ms")),
        started_at=_time(-1, Field.STARTED_AT, document.get("started_at"), bad),
        ended_at=_time(-1, Field.ENDED_AT, document.get("ended_at"), bad),
        is_live=_flag(document.get("is_live")),
        end_reason=_text(document.get("end_reason")),
        ended_by=_text(document.get("ended_by")),
        items=found.items if found.is_list else None,
        analysis=_analysis(document.get("analysis"), number, bad),
    )
    return Snapshot(conversation=conversation, bad=tuple(bad), malformed=found.malformed)


_Number = Callable[[int, Field, Any], float | None]
_TIMING_FIELDS = {field.value: field for field in (Field.MODEL_GENERATION, Field.FIRST_AUDIO, Field.MODEL_INPUT)}


def _item(at: int, item: dict[str, Any], number: _Number, bad: list[BadValue]) -> Item:
    return Item(
        item_idx=_whole(at, Field.ITEM_IDX, item.get("item_idx"), number, bad),
        id=_text(item.get("id")),
        role=_text(item.get("role")),
        started_at=_time(at, Field.STARTED_AT, item.get("started_at"), bad),
        duration_ms=number(at, Field.DURATION, item.get("duration_ms")),
        timings=_timings(at, item.get("timings"), number, bad),
        assistant_chose_not_to_respond=_flag(item.get("assistant_chose_not_to_respond")),
        tool_call_ids=_texts(at, item.get("tool_call_ids"), bad),
        tool_calls=_tool_calls(at, item.get("tool_calls"), bad),
    )


def _whole(at: int, field: Field, value: Any, number: _Number, bad: list[BadValue]) -> int | None:
    found = number(at, field, value)
    if found is not None and not found.is_integer():
        bad.append(BadValue(at, field, Rejection.WRONG_TYPE))
        return None
    return None if found is None else int(found)


def _timings(at: int, value: Any, number: _Number, bad: list[BadValue]) -> dict[str, float | None] | None:
    if value is _TOO_MUCH or (isinstance(value, dict) and len(value) > MOST_TIMINGS):
        bad.append(BadValue(at, Field.TIMINGS, Rejection.TOO_LARGE))
        return None
    if not isinstance(value, dict):
        if value is not None:
            bad.append(BadValue(at, Field.TIMINGS, Rejection.WRONG_TYPE))
        return None
    return {
        key: number(at, _TIMING_FIELDS[key], each) if key in _TIMING_FIELDS else _number(each)
        for key, each in value.items()
    }


def _tool_calls(at: int, value: Any, bad: list[BadValue]) -> list[ToolCall] | None:
    calls = _elements(at, Field.TOOL_CALLS, value, dict, bad)
    if calls is None:
        return None
    return [
        ToolCall(
            id=_text(call.get("id")),
            tool=_tool(call.get("tool")),
            timed_out=_flag(call.get("timed_out")),
            response_status_code=status if type(status := call.get("response_status_code")) is int else None,
            error_message=_text(call.get("error_message")),
        )
        for call in calls
    ]


def _tool(value: Any) -> Tool | None:
    return Tool(name=_text(value.get("name"))) if isinstance(value, dict) else None


def _analysis(value: Any, number: _Number, bad: list[BadValue]) -> Analysis | None:
    if not isinstance(value, dict):
        return None
    latencies = _elements(-1, Field.RESPONSE, value.get("latencies_ms"), (int, float), bad)
    return Analysis(
        latencies_ms=None if latencies is None else [float(each) for each in latencies],
        interruptions_count=_whole(-1, Field.INTERRUPTIONS, value.get("interruptions_count"), number, bad),
    )


# `_elements` reads the tool calls of a turn and the latencies of a record.
MOST_ELEMENTS = {Field.TOOL_CALLS: MOST_TOOL_CALLS, Field.RESPONSE: MOST_ITEMS}


def _elements(
    at: int, field: Field, value: Any, kind: type | tuple[type, ...], bad: list[BadValue]
) -> list[Any] | None:
    """The elements of a list that are of a type. One bad value is noted if there are others, or no list."""
    usable = None
    if value is _TOO_MUCH or (isinstance(value, list) and len(value) > MOST_ELEMENTS[field]):
        bad.append(BadValue(at, field, Rejection.TOO_LARGE))
        return None
    if isinstance(value, list):
        usable = [each for each in value if isinstance(each, kind) and not isinstance(each, bool)]
    if value is not None and (usable is None or len(usable) < len(value)):
        bad.append(BadValue(at, field, Rejection.WRONG_TYPE))
    return usable


_Named = TypeVar("_Named", Agent, Project)


def _named(kind: type[_Named], value: Any) -> _Named | None:
    if not isinstance(value, dict):
        return None
    return kind(id=_text(value.get("id")), name=_text(value.get("name")))


def _text(value: Any) -> str | None:
    """Text of bounded length that UTF-8 can encode: JSON can spell lone surrogates, which it cannot."""
    return value[:LONGEST_TEXT].encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _time(at: int, field: Field, value: Any, bad: list[BadValue]) -> str | None:
    if value is not None and not isinstance(value, str):
        bad.append(BadValue(at, field, Rejection.WRONG_TYPE))
    return _text(value)


def _texts(at: int, value: Any, bad: list[BadValue]) -> list[str] | None:
    texts = _elements(at, Field.TOOL_CALLS, value, str, bad)
    return None if texts is None else [_text(each) or "" for each in texts]


def _number(value: Any) -> float | None:
    """A number under an unknown name, as the typed pass would have read it."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and isfinite(value) else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


# The documented fields of both shapes (API 2.1 to 2.3, SDK 0.32.42 and the live example). Any other is drift.
CONVERSATION_FIELDS = frozenset(
    """
    id agent external_id origin generate_welcome_message push_to_talk is_welcome_message_interruptible
    welcome_message no_input_poke_text template_variables system_prompt input_format output_format
    background_noise_level background_noise intelligence_level duration_ms summary boosted_keywords
    additional_languages min_words_to_interrupt default_language multilingual_mode generate_no_input_poke_text
    no_input_poke_sec no_input_end_conversation_sec vad_min_silence_duration_ms started_at ended_at task_results
    items is_live org_id project_id text retranscribed_text end_reason call_provider from_phone_number
    to_phone_number twilio_call_sid timezone is_test created_by assistant_end_conversation_signal_at vad_info
    annotations storage_key workspace project model phonic_model live_transcript post_call_transcript
    redacted_transcript is_redacted call_info audio_url ended_by analysis heard_languages listen_only languages
    pronunciation_dictionary websocket_timeout_sec vad_prebuffer_duration_ms vad_min_speech_duration_ms
    vad_threshold metadata data_retention_policy deletion_info enable_watermarking enable_assistant_backchannel
    assistant_backchannel_aggressiveness
    """.split()
)
ITEM_FIELDS = frozenset(
    """
    id item_idx role duration_ms started_at audio_speed text retranscribed_text voice tool_call_ids
    transcript_corrections naturalness_report hallucination_report assistant_chose_not_to_respond timings
    live_transcript post_call_transcript redacted_transcript voice_id tool_calls system_prompt
    """.split()
)
_decode_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_Junk = bool | int | float | str | list[msgspec.Raw] | None
_decode_items = msgspec.json.Decoder(list[dict[str, msgspec.Raw] | _Junk]).decode


def unknown_fields(frame: str | bytes) -> set[tuple[Drift, str]]:
    """The undocumented fields of a ``conversation-updated`` frame; none for a large frame.

    Parses the whole frame, so it is not for every update.
    """
    found: set[tuple[Drift, str]] = set()
    if not _is_light(frame):
        return found
    try:
        conversation = _decode_keys(_decode_keys(frame)["conversation"])
        found.update((Drift.CONVERSATION, key) for key in conversation.keys() - CONVERSATION_FIELDS)
        for item in _decode_items(conversation["items"]):
            if isinstance(item, dict):
                found.update((Drift.ITEM, key) for key in item.keys() - ITEM_FIELDS)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, KeyError):
        pass  # `read` judges a frame of another shape
    return found
