"""Pure: from the bytes Phonic sends to messages and records, as far as they can be read.

Strategy: one typed msgspec pass straight into the wire model reads what Phonic documents. Where that fails
(a string for a number, ``1e999``, a literal ``NaN``) the same document is read again with the standard
library, which takes anything, and judged value by value: what can be used is used, the rest is named in
`Snapshot.bad`. Strict success equals the lenient result; a test holds them to that.
"""

import json
from collections.abc import Callable
from math import isfinite
from typing import Any, TypeVar

import attrs
import msgspec

from ..vocabulary import Drift, Field, Invalid, MessageType, Rejection
from .model import Agent, Analysis, BadValue, Conversation, Item, Project, Snapshot, ToolCall


class InvalidMessage(Exception):
    """A message of which nothing can be used; carries no part of it."""

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

    ``snapshot`` is set for ``conversation-updated`` only. ``denied`` tells that an error message speaks of the
    credential or of access, which is all the exporter ever learns from its text.
    """

    type: MessageType
    snapshot: Snapshot | None = None
    denied: bool = False


_DENIALS = ("invalid token", "unauthorized", "forbidden", "authentication")
_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def decode(frame: str | bytes) -> Message:
    """Read one frame of the live socket. Raises `InvalidMessage`."""
    try:
        envelope = _decode_envelope(frame)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _decode_leniently(frame)
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
    """The conversation of a ``conversation-updated`` frame that is as documented; None for any other frame."""
    try:
        envelope = _decode_envelope(frame)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return envelope.conversation if envelope.type == MessageType.CONVERSATION_UPDATED else None


def _is_denial(text: object) -> bool:
    return isinstance(text, str) and any(word in text.lower() for word in _DENIALS)


def _decode_leniently(frame: str | bytes) -> Message:
    document = parse_anything(frame)
    if not isinstance(document, dict) or not isinstance(document.get("type"), str):
        raise InvalidMessage(Invalid.WRONG_SHAPE)
    kind = MessageType(document["type"])
    if kind is MessageType.CONVERSATION_UPDATED:
        return Message(kind, snapshot_from(document.get("conversation")))
    if kind is MessageType.ERROR:
        error = document.get("error")
        text = error.get("message") if isinstance(error, dict) else None
        return Message(kind, denied=_is_denial(text or document.get("message")))
    return Message(kind)


@attrs.define
class _Record:
    conversation: Conversation


_decode_record = msgspec.json.Decoder(_Record).decode


def decode_record(body: bytes) -> Snapshot:
    """Read the reply of ``GET /conversations/{id}`` (API 3.2). Raises `InvalidMessage`."""
    try:
        return Snapshot(conversation=_decode_record(body).conversation)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        document = parse_anything(body)
        return snapshot_from(document.get("conversation") if isinstance(document, dict) else None)


def parse_anything(document: str | bytes) -> Any:
    """JSON as lenient as Python reads it (``NaN``, ``1e999``, lone surrogates). Raises `InvalidMessage`."""
    try:
        return json.loads(document, parse_int=_integer)
    except (ValueError, UnicodeError, RecursionError):
        raise InvalidMessage(Invalid.NOT_JSON) from None


def _integer(digits: str) -> int | float:
    # int() refuses very long digit strings, which would cost the whole frame for one absurd value.
    return int(digits) if len(digits) < 19 else float(digits)


def snapshot_from(document: Any) -> Snapshot:
    """A conversation from parsed JSON, value by value. Raises `InvalidMessage` without a usable id."""
    if not isinstance(document, dict) or not isinstance(document.get("id"), str):
        raise InvalidMessage(Invalid.WRONG_SHAPE)
    bad: list[BadValue] = []

    def number(at: int, field: Field, value: Any) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            bad.append(BadValue(at, field, Rejection.WRONG_TYPE))
            return None
        if value != value or value in (float("inf"), float("-inf")):
            bad.append(BadValue(at, field, Rejection.NOT_FINITE))
            return None
        return float(value)

    items = document.get("items")
    if items is not None and not isinstance(items, list):
        bad.append(BadValue(-1, Field.ITEMS, Rejection.WRONG_TYPE))
        items = None
    usable = [item for item in items or () if isinstance(item, dict)]
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
        duration_ms=number(-1, Field.CONVERSATION_DURATION, document.get("duration_ms")),
        started_at=_text(document.get("started_at")),
        ended_at=_text(document.get("ended_at")),
        is_live=_flag(document.get("is_live")),
        end_reason=_text(document.get("end_reason")),
        ended_by=_text(document.get("ended_by")),
        items=None if items is None else [_item(at, item, number, bad) for at, item in enumerate(usable)],
        analysis=_analysis(document.get("analysis"), number, bad),
    )
    malformed = 0 if items is None else len(items) - len(usable)
    return Snapshot(conversation=conversation, bad=tuple(bad), malformed=malformed)


_Number = Callable[[int, Field, Any], float | None]
_TIMING_FIELDS = {field.value: field for field in (Field.MODEL_GENERATION, Field.FIRST_AUDIO, Field.MODEL_INPUT)}


def _item(at: int, item: dict[str, Any], number: _Number, bad: list[BadValue]) -> Item:
    started_at = item.get("started_at")
    if started_at is not None and not isinstance(started_at, str):
        bad.append(BadValue(at, Field.STARTED_AT, Rejection.WRONG_TYPE))
    return Item(
        item_idx=_whole(at, Field.ITEM_IDX, item.get("item_idx"), number, bad),
        id=_text(item.get("id")),
        role=_text(item.get("role")),
        started_at=_text(started_at),
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
    if value is not None and not isinstance(value, dict):
        bad.append(BadValue(at, Field.TIMINGS, Rejection.WRONG_TYPE))
    if not isinstance(value, dict):
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
            timed_out=_flag(call.get("timed_out")),
            response_status_code=status if type(status := call.get("response_status_code")) is int else None,
            error_message=_text(call.get("error_message")),
        )
        for call in calls
    ]


def _analysis(value: Any, number: _Number, bad: list[BadValue]) -> Analysis | None:
    if not isinstance(value, dict):
        return None
    latencies = _elements(-1, Field.RESPONSE, value.get("latencies_ms"), (int, float), bad)
    return Analysis(
        latencies_ms=None if latencies is None else [float(each) for each in latencies],
        interruptions_count=_whole(-1, Field.INTERRUPTIONS, value.get("interruptions_count"), number, bad),
    )


def _elements(
    at: int, field: Field, value: Any, kind: type | tuple[type, ...], bad: list[BadValue]
) -> list[Any] | None:
    """The elements of a list that are of a kind; one bad value if there are others, or no list."""
    usable = None
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
    """Text that can be written again: a lone surrogate, which JSON can spell, is no character."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _texts(at: int, value: Any, bad: list[BadValue]) -> list[str] | None:
    texts = _elements(at, Field.TOOL_CALLS, value, str, bad)
    return None if texts is None else [_text(each) or "" for each in texts]


def _number(value: Any) -> float | None:
    """A number under a name nobody knows, as the strict pass would have read it."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and isfinite(value) else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


# Documented fields of both shapes (API 2.1 to 2.3, SDK 0.32.42 and the live example): what is not here is drift.
_CONVERSATION_FIELDS = frozenset(
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
_ITEM_FIELDS = frozenset(
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
    """Fields of a ``conversation-updated`` frame that no documentation names. Reads all of it: not per update."""
    found: set[tuple[Drift, str]] = set()
    try:
        conversation = _decode_keys(_decode_keys(frame)["conversation"])
        found.update((Drift.CONVERSATION, key) for key in conversation.keys() - _CONVERSATION_FIELDS)
        for item in _decode_items(conversation["items"]):
            if isinstance(item, dict):
                found.update((Drift.ITEM, key) for key in item.keys() - _ITEM_FIELDS)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, KeyError):
        pass  # a frame of another shape is judged by `decode`
    return found
