"""What `doctor` sees in any JSON that Phonic may send: it counts what differs, and never fails because of it."""

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import reduce
from operator import getitem
from typing import Any

import pytest

from exporter.diagnosis.examine import Examined
from exporter.diagnosis.raw_feed import Opened, Received
from exporter.diagnosis.report import report
from exporter.diagnosis.seen import FeedSeen
from tests.e2e.upstream import EXAMPLE, Json, live_object, record
from tests.strategies import JUNK

MESSAGE: Json = {"type": "conversation-updated", "conversation": live_object()}
RECORD: Json = {"conversation": record()}
ROWS: Json = {"conversations": [record(), record("conv_live", ended_at=None)]}


def written(messages: list[str], rows: str = json.dumps(ROWS), kept: str = json.dumps(RECORD)) -> str:
    """The report about these messages of a feed, this list and this record."""
    found = Examined(has_api_key=True, is_encrypted=True, through_proxy=False, seconds=1.0, projects=1)
    found.feed = FeedSeen()
    found.feed.add(Opened(0.1))
    for number, text in enumerate(messages):
        found.feed.add(Received(at=1.0 + number, text=text, frames=1, size=len(text)))
    found.rest.rows(rows.encode())
    found.rest.record(kept.encode(), found.feed)
    return report(found).as_text()


def places(document: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every field and element in a document."""
    below = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in below:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def with_junk(document: Json, junk: object) -> Iterator[str]:
    """The document as often as it has places, each time with something else in one of them."""
    for *path, last in places(document):
        changed = deepcopy(document)
        reduce(getitem, path, changed)[last] = junk  # type: ignore[arg-type, index]
        yield json.dumps(changed)


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_any_json_in_place_of_any_field_gives_a_report(junk: object) -> None:
    for text in with_junk(MESSAGE, junk):
        assert EXAMPLE not in written([json.dumps(MESSAGE), text])
        assert EXAMPLE not in written([text, text])
    for text in with_junk(ROWS, junk):
        assert EXAMPLE not in written([], rows=text)
    for text in with_junk(RECORD, junk):
        assert EXAMPLE not in written([json.dumps(MESSAGE)], kept=text)


@pytest.mark.parametrize("other", [{"a": "Quastenflosser"}, ["Quastenflosser"], 4711.5])
@pytest.mark.parametrize("field", ["id", "items", "item.id", "item.item_idx"])
def test_field_of_another_type_is_named_without_its_value(field: str, other: Any) -> None:
    conversation = live_object()
    of = conversation["items"][0] if field.startswith("item.") else conversation
    of[field.removeprefix("item.")] = other
    said = written([json.dumps({**MESSAGE, "conversation": conversation})])
    assert (f"{field}: no " in said) == (not isinstance(other, list) or field != "items")
    assert "Quastenflosser" not in said
    assert "4711" not in said
