"""Pure: the encoding of an unfinished conversation in the state file, in versions that every later release reads.

- A blob is a MessagePack map with a ``version``, and always written in the newest version. A change that an older
  release could misread needs a new version; the decoder of the old version stays.
- The encoding does not depend on the order of an enumeration: members are written as their words, flags of a
  turn as the numbers that `exporter.counting.derive` fixes.
- A blob holds what `derive.Progress` remembers, and label values: no transcript and no phone number.

Version 1 was written by release 0.1.0, without ``version``; it kept the rejected values of a turn as bits above
the turn's flags. A turn of versions 1 and 2 has neither its start nor its response nor its tool calls.
"""

from collections.abc import Mapping
from typing import Final

import attrs
import msgspec

from ..counting.derive import CONVERSATION_INDEX, LiveState, Progress, Rejected
from ..enums import EndedBy

VERSION: Final = 3
"""Of what is written. Where it changes, so must `exporter.state.postgres.FORMAT`."""


class UnreadableBlob(Exception):
    """A blob of an unknown version, or a damaged one. ``str()`` does not quote it."""


@attrs.frozen(kw_only=True)
class SavedEntry:
    """The contents of a blob.

    ``labels``: all labels of the conversation. ``label_values``: those of its label set, as limits made them when
    the conversation was first seen. ``updated_at``: Unix time of its latest snapshot.
    """

    project: str
    agent: str
    origin: str
    labels: dict[str, str]
    label_values: tuple[str, ...]
    progress: Progress
    has_ended: bool
    updated_at: float | None = None
    version: int = VERSION


_Turn2 = tuple[int, float | None, float | None, float | None, float | None]
_NO_MORE_2: Final = (None, None, 0, 0)  # what a turn has since version 3


@attrs.frozen(kw_only=True)
class _Progress2:
    seen: bool = False
    turns: Mapping[int, _Turn2] = attrs.field(factory=dict)
    tools: frozenset[str] = frozenset()
    rejected: frozenset[Rejected] = frozenset()
    malformed: int = 0
    duplicates: int = 0
    position: tuple[int, float, float] = (-1, -1.0, -1.0)
    duration_ms: float | None = None
    end_reason: EndedBy | None = None
    live: LiveState = attrs.field(factory=LiveState)


@attrs.frozen(kw_only=True)
class _Entry2:
    project: str
    agent: str
    origin: str
    labels: dict[str, str]
    label_values: tuple[str, ...]
    progress: _Progress2
    has_ended: bool
    updated_at: float | None = None


@attrs.frozen(kw_only=True)
class _Progress1:
    seen: bool = False
    turns: Mapping[int, _Turn2] = attrs.field(factory=dict)
    tools: frozenset[str] = frozenset()
    rejected: frozenset[tuple[str, str]] = frozenset()
    malformed: int = 0
    duplicates: int = 0
    position: tuple[int, float, float] = (-1, -1.0, -1.0)
    duration_ms: float | None = None
    end_reason: EndedBy | None = None
    live: LiveState = attrs.field(factory=LiveState)


@attrs.frozen(kw_only=True)
class _Entry1:
    project: str
    agent: str
    origin: str
    labels: dict[str, str]
    label_values: tuple[str, ...]
    progress: _Progress1
    has_ended: bool
    updated_at: float | None = None  # missing in the first files of 0.1.0


@attrs.frozen
class _Version:
    version: int = 1


# Version 1 kept a rejected value as bit 13 + 4 * field + reason of a turn's flags, with these orders of words.
_FLAGS_1: Final = (1 << 13) - 1
_FIELDS_1: Final = (
    "items",
    "item_idx",
    "started_at",
    "duration_ms",
    "model_generation_time",
    "phonic_api_output_to_first_audio_chunk",
    "phonic_api_output_to_modal_input",
    "response",
    "conversation_duration_ms",
    "tool_calls",
    "timings",
    "interruptions_count",
)
_REASONS_1: Final = ("wrong_type", "not_finite", "negative", "too_large")
_REJECTIONS_1: Final = tuple((field, reason) for field in _FIELDS_1 for reason in _REASONS_1)

encode = msgspec.msgpack.Encoder().encode
"""The blob of a `SavedEntry`."""

_version_of = msgspec.msgpack.Decoder(_Version).decode
_decode = msgspec.msgpack.Decoder(SavedEntry).decode
_decode_2 = msgspec.msgpack.Decoder(_Entry2).decode
_decode_1 = msgspec.msgpack.Decoder(_Entry1).decode


def decode(blob: bytes) -> SavedEntry:
    """Decode a blob of any version. Raises: UnreadableBlob, also for a version of a later release."""
    try:
        version = _version_of(blob).version
        if version == 1:
            return _from_1(_decode_1(blob))
        if version == 2:
            return _from_2(_decode_2(blob))
        if version == VERSION:
            return _decode(blob)
    except (msgspec.MsgspecError, RecursionError, ValueError) as bad:
        raise UnreadableBlob(type(bad).__name__) from None
    raise UnreadableBlob("a version of a later release")


def _from_1(old: _Entry1) -> SavedEntry:
    before = old.progress
    rejected: set[Rejected] = {(CONVERSATION_INDEX, *each) for each in before.rejected}
    turns: dict[int, _Turn2] = {}
    for index, (flags, generation, first_audio, model_input, duration) in before.turns.items():
        turns[index] = (flags & _FLAGS_1, generation, first_audio, model_input, duration)
        bits = flags >> 13
        rejected |= {(index, *each) for bit, each in enumerate(_REJECTIONS_1) if bits >> bit & 1}
    return _from_2(
        _Entry2(
            project=old.project,
            agent=old.agent,
            origin=old.origin,
            labels=old.labels,
            label_values=old.label_values,
            progress=_Progress2(
                seen=before.seen,
                turns=turns,
                tools=before.tools,
                rejected=frozenset(rejected),
                malformed=before.malformed,
                duplicates=before.duplicates,
                position=before.position,
                duration_ms=before.duration_ms,
                end_reason=before.end_reason,
                live=before.live,
            ),
            has_ended=old.has_ended,
            updated_at=old.updated_at,
        )
    )


def _from_2(old: _Entry2) -> SavedEntry:
    before = old.progress
    return SavedEntry(
        project=old.project,
        agent=old.agent,
        origin=old.origin,
        labels=old.labels,
        label_values=old.label_values,
        progress=Progress(
            seen=before.seen,
            turns={index: (*turn, *_NO_MORE_2) for index, turn in before.turns.items()},
            tools=before.tools,
            rejected=before.rejected,
            malformed=before.malformed,
            duplicates=before.duplicates,
            position=before.position,
            duration_ms=before.duration_ms,
            end_reason=before.end_reason,
            live=before.live,
        ),
        has_ended=old.has_ended,
        updated_at=old.updated_at,
    )
