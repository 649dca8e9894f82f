"""Pure: the parts of Phonic's JSON that the exporter reads, for the live socket and for REST.

Rules for this file:

- There is one attrs class for each JSON object. It has the fields of both shapes (API 2.1 to 2.3: live and REST
  differ) that the exporter uses. msgspec decodes straight into the classes and skips all other fields.
- An attribute has the name of the JSON field: msgspec ignores aliases of attrs classes.
- Every field may be missing or null. Enumerations stay ``str`` here; `exporter.enums` maps them to closed sets.
- Sizes are bounded: a text to `LONGEST_TEXT` characters, a turn to `MOST_TIMINGS` and `MOST_TOOL_CALLS`.
- No field holds what a caller said, a phone number, a prompt or the body of a tool: what is not decoded cannot
  leak.
"""

from typing import Annotated

import attrs
from msgspec import Meta

from ..enums import Field, Rejection

LONGEST_TEXT = 1000
MOST_TIMINGS = 100
MOST_TOOL_CALLS = 1000
Text = Annotated[str, Meta(max_length=LONGEST_TEXT)]


@attrs.define
class Agent:
    """The agent of a conversation."""

    id: Text | None = None
    name: Text | None = None


@attrs.define
class Project:
    """The project of a conversation."""

    id: Text | None = None
    name: Text | None = None


@attrs.define
class Tool:
    """The tool of a call."""

    name: Text | None = None


@attrs.define
class ToolCall:
    """REST only (API 2.3): the live item has bare ids."""

    id: Text | None = None
    tool: Tool | None = None
    timed_out: bool | None = None
    response_status_code: int | None = None
    error_message: str | None = None  # only used to see whether there is one


@attrs.define
class Item:
    """One turn. ``timings`` exists on the live socket only, ``tool_calls`` in REST only."""

    item_idx: int | None = None
    id: Text | None = None
    role: Text | None = None
    started_at: Text | None = None
    duration_ms: float | None = None
    timings: Annotated[dict[str, float | None], Meta(max_length=MOST_TIMINGS)] | None = None
    assistant_chose_not_to_respond: bool | None = None
    tool_call_ids: Annotated[list[Text], Meta(max_length=MOST_TOOL_CALLS)] | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=MOST_TOOL_CALLS)] | None = None


@attrs.define
class Analysis:
    """REST only, computed by Phonic after the end (API 2.2)."""

    latencies_ms: list[float] | None = None
    interruptions_count: int | None = None


@attrs.define
class Conversation:
    """The whole conversation, which every live message and every REST record repeats."""

    id: Text
    agent: Agent | None = None
    project_id: Text | None = None
    project: Project | None = None
    origin: Text | None = None
    is_test: bool | None = None
    call_provider: Text | None = None
    default_language: Text | None = None
    model: Text | None = None
    intelligence_level: Text | None = None
    duration_ms: float | None = None
    started_at: Text | None = None
    ended_at: Text | None = None
    is_live: bool | None = None
    end_reason: Text | None = None
    ended_by: Text | None = None
    items: list[Item] | None = None
    analysis: Analysis | None = None


@attrs.frozen
class BadValue:
    """A value that cannot be used. ``position`` is the index of its item in ``items``, -1 for the conversation."""

    position: int
    field: Field
    reason: Rejection


@attrs.frozen(kw_only=True)
class Snapshot:
    """A conversation as one message described it.

    ``bad`` lists the values that cannot be used, which are None in ``conversation``. ``malformed`` counts elements
    of ``items`` that were no objects and are left out. ``items`` may also lack the first turns, where these are
    known to be the same as in an earlier snapshot.
    """

    conversation: Conversation
    bad: tuple[BadValue, ...] = ()
    malformed: int = 0
