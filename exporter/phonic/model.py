"""Pure: the parts of Phonic's JSON that the exporter reads, for the live socket and for REST.

Rules for this file:
- One attrs class per JSON object, holding the union of both shapes (API 2.1 to 2.3: they differ) and only
  fields somebody uses; msgspec decodes straight into them and skips the rest.
- An attribute is called what the wire calls it: msgspec ignores aliases of attrs classes.
- Everything may be missing or null. Enumerated words stay ``str`` here; `exporter.vocabulary` closes them.
- No field holds what a caller said, a phone number, a prompt, or a tool's body: what is not decoded cannot leak.
"""

import attrs

from ..vocabulary import Field, Rejection


@attrs.define
class Agent:
    id: str | None = None
    name: str | None = None


@attrs.define
class Project:
    id: str | None = None
    name: str | None = None


@attrs.define
class ToolCall:
    """REST only (API 2.3): the live item has bare ids."""

    id: str | None = None
    timed_out: bool | None = None
    response_status_code: int | None = None
    error_message: str | None = None  # only whether there is one is ever looked at


@attrs.define
class Item:
    """One turn. ``timings`` exists on the live socket only, ``tool_calls`` in REST only."""

    item_idx: int | None = None
    id: str | None = None
    role: str | None = None
    started_at: str | None = None
    duration_ms: float | None = None
    timings: dict[str, float | None] | None = None
    assistant_chose_not_to_respond: bool | None = None
    tool_call_ids: list[str] | None = None
    tool_calls: list[ToolCall] | None = None


@attrs.define
class Analysis:
    """REST only, computed after the end."""

    latencies_ms: list[float] | None = None
    interruptions_count: int | None = None


@attrs.define
class Conversation:
    """The whole conversation, as every live message and every REST row repeats it."""

    id: str
    agent: Agent | None = None
    project_id: str | None = None
    project: Project | None = None
    origin: str | None = None
    is_test: bool | None = None
    call_provider: str | None = None
    default_language: str | None = None
    model: str | None = None
    duration_ms: float | None = None
    started_at: str | None = None
    ended_at: str | None = None
    is_live: bool | None = None
    end_reason: str | None = None
    ended_by: str | None = None
    items: list[Item] | None = None
    analysis: Analysis | None = None


@attrs.frozen
class BadValue:
    """A value that could not be read. ``position`` is its item's place in ``items``, -1 for the conversation."""

    position: int
    field: Field
    reason: Rejection


@attrs.frozen(kw_only=True)
class Snapshot:
    """A conversation as one message gave it, with what in it could not be read.

    ``bad`` values are None in ``conversation``; ``malformed`` counts elements of ``items`` that were no
    objects and are left out of it. Where turns at the start are known to be as they were in an earlier
    snapshot, ``items`` leaves them out and ``before`` is the last of these, with its index.
    """

    conversation: Conversation
    bad: tuple[BadValue, ...] = ()
    malformed: int = 0
    before: Item | None = None
    before_index: int = -1
