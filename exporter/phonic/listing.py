"""Pure: decodes REST lists, the fields that discovery uses, each row on its own (API 3.1, 3.2).

A list is split into raw rows first (a scan at memory speed; whole conversations are 20 KB and more), then a few
fields of each row are decoded. A document that msgspec finds malformed (``NaN``, lone surrogates) is decoded again
with `parse_anything`. All functions raise `InvalidMessage` when the list itself is missing.
"""

import codecs
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import msgspec

from ..enums import Invalid
from .decode import InvalidMessage, parse_anything

_LONGEST_TEXT = 1024  # characters of an id or name; longer ones would not fit into a URL
_LARGEST_COUNT = 2**53  # larger integers are no counts, and a metric could not show them


@attrs.frozen(kw_only=True)
class ProjectRow:
    """A project. ``active`` is None if it is no count, ``limit`` also if the limit of the workspace applies."""

    id: str
    name: str
    active: int | None
    limit: int | None


@attrs.frozen
class Workspace:
    """The same two numbers for all projects together."""

    active: int | None
    limit: int | None


@attrs.frozen
class AgentRow:
    """An agent of a project."""

    id: str
    name: str


@attrs.frozen(kw_only=True)
class ListedRow:
    """A conversation in a list, with times as Phonic wrote them. Without ``ended_at`` it is live or unclosed."""

    id: str
    started_at: str | None
    ended_at: str | None


@attrs.frozen(kw_only=True)
class ListPage:
    """Conversations, newest first. ``next_cursor`` leads to older ones; ``unusable`` counts rows left out."""

    rows: list[ListedRow]
    next_cursor: str | None
    unusable: int


def read_projects(body: bytes) -> tuple[list[ProjectRow], int]:
    """The projects, and how many rows were unusable."""
    return _read(_document(body).projects, _project)


def read_agents(body: bytes) -> tuple[list[AgentRow], int]:
    """The agents, and how many rows were unusable."""
    return _read(_document(body).agents, _agent)


def read_page(body: bytes) -> ListPage:
    """A page of conversations."""
    document = _document(body)
    rows, unusable = _read(document.conversations, _listed)
    cursor = document.pagination.get("next_cursor") if isinstance(document.pagination, dict) else None
    return ListPage(rows=rows, next_cursor=cursor if _is_text(cursor) else None, unusable=unusable)


def read_workspace(body: bytes) -> Workspace:
    """The workspace."""
    document = _document(body)
    return Workspace(_count(document.active_conversations), _count(document.max_active_conversations))


@attrs.define
class _Document:
    """The fields of all kinds of replies."""

    projects: Any = None
    agents: Any = None
    conversations: Any = None
    pagination: Any = None
    active_conversations: Any = None
    max_active_conversations: Any = None


@attrs.define
class _RawDocument(_Document):
    projects: list[msgspec.Raw] | None = None
    agents: list[msgspec.Raw] | None = None
    conversations: list[msgspec.Raw] | None = None


@attrs.define
class _Fields:
    """The fields of all kinds of rows, of any type."""

    id: Any = None
    name: Any = None
    active_conversations: Any = None
    max_active_conversations: Any = None
    started_at: Any = None
    ended_at: Any = None


_decode_document = msgspec.json.Decoder(_RawDocument).decode
_decode_fields = msgspec.json.Decoder(_Fields).decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
_Row = TypeVar("_Row")


def _document(body: bytes) -> _Document:
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        return _decode_document(body)
    except _UNREADABLE:
        document = parse_anything(body)
    if not isinstance(document, dict):
        raise InvalidMessage(Invalid.WRONG_SHAPE)
    return _Document(**_known(document, _Document))


def _read(found: Any, row_from: Callable[[_Fields], _Row | None]) -> tuple[list[_Row], int]:
    if not isinstance(found, list):
        raise InvalidMessage(Invalid.WRONG_SHAPE)
    rows: list[_Row] = []
    for each in found:
        try:
            fields = _decode_fields(each) if isinstance(each, msgspec.Raw) else _fields(each)
        except _UNREADABLE:
            continue
        row = row_from(fields)
        if row is not None:
            rows.append(row)
    return rows, len(found) - len(rows)


def _fields(row: Any) -> _Fields:
    """The fields of a parsed row. Raises: ValidationError for a row that is no object."""
    if not isinstance(row, dict):
        raise msgspec.ValidationError
    return _Fields(**_known(row, _Fields))


def _known(found: dict[str, Any], fields: type) -> dict[str, Any]:
    """The known fields of an object. Not `msgspec.convert`, which fails at keys that UTF-8 cannot encode."""
    return {each.name: found[each.name] for each in attrs.fields(fields) if each.name in found}


def _project(fields: _Fields) -> ProjectRow | None:
    if not (_is_text(fields.id) and _is_text(fields.name)):
        return None
    return ProjectRow(
        id=fields.id,
        name=fields.name,
        active=_count(fields.active_conversations),
        limit=_count(fields.max_active_conversations),
    )


def _agent(fields: _Fields) -> AgentRow | None:
    return AgentRow(fields.id, fields.name) if _is_text(fields.id) and _is_text(fields.name) else None


def _listed(fields: _Fields) -> ListedRow | None:
    if not _is_text(fields.id) or not isinstance(fields.ended_at, str | None):
        return None
    started_at = fields.started_at if isinstance(fields.started_at, str) else None
    return ListedRow(id=fields.id, started_at=started_at, ended_at=fields.ended_at)


def _is_text(value: Any) -> bool:
    """Whether it can be used in a URL and a label: not empty, not too long, and encodable in UTF-8."""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_TEXT:
        return False
    try:
        value.encode()
    except UnicodeError:
        return False
    return True


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _LARGEST_COUNT else None
