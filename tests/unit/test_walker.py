"""The walker finds the same values as a JSON parser, in steps, and refuses hostile texts."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.phonic.walker import MOST_MEMBERS, MOST_STEPS, NotJson, TooMuch, Walker

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)
STYLES: list[dict[str, Any]] = [{}, {"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}]


def skipped(text: str, at: int = 0) -> tuple[int, int]:
    """Where the value ends, and how many pauses there were."""
    walker = Walker(text, at)
    pauses = sum(1 for _ in walker.skip())
    return walker.at, pauses


@given(JSON, st.sampled_from(STYLES), st.sampled_from(["", " ", ",", "]", "}"]))
def test_a_value_ends_where_a_parser_finds_its_end(value: Any, style: dict[str, Any], behind: str) -> None:
    text = json.dumps(value, **style)
    end, _ = skipped(text + behind)
    assert end == len(text) + len(behind) - len(behind.lstrip())


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=6), st.sampled_from(STYLES))
def test_the_members_of_an_object_are_those_a_parser_finds(value: dict[str, Any], style: dict[str, Any]) -> None:
    walker = Walker(json.dumps(value, **style))
    found = {}
    for key in walker.members():
        assert key is not None
        start = walker.at
        assert not list(walker.skip())
        found[key] = json.loads(walker.text[start : walker.at])
    assert repr(found) == repr(value)
    assert walker.next == ""


@given(st.lists(JSON, max_size=6), st.sampled_from(STYLES))
def test_the_elements_of_an_array_are_those_a_parser_finds(value: list[Any], style: dict[str, Any]) -> None:
    walker = Walker(json.dumps(value, **style))
    found: list[Any] = []
    for number in walker.elements():
        assert number == len(found)
        start = walker.at
        assert not list(walker.skip())
        found.append(json.loads(walker.text[start : walker.at]))
    assert repr(found) == repr(value)
    assert walker.next == ""


@given(st.text(alphabet='[]{}",:\\ 0x', max_size=20))
def test_any_text_is_walked_to_its_end_or_is_no_json(text: str) -> None:
    for walk in (Walker.skip, Walker.members, Walker.elements):
        walker = Walker(text)
        try:
            for found in walk(walker):
                if found is not None:
                    list(walker.skip())
        except NotJson:
            continue
        assert 0 < walker.at <= len(text)


@pytest.mark.parametrize("text", ["", " ", '"', '"\\', '"x\\"', "[", "[[1]", '{"a":1', ":", "]"])
def test_an_unterminated_value_is_no_json(text: str) -> None:
    with pytest.raises(NotJson):
        skipped(text)


@pytest.mark.parametrize("text", ["", "{", '{"a":', '{"a" 1}', "{1:2}", '{"a":1,}', "[]"])
def test_a_value_that_is_no_object_has_no_members(text: str) -> None:
    with pytest.raises(NotJson):
        _walked(Walker(text), Walker.members)


@pytest.mark.parametrize("text", ["", "[", "[1,", "[1 2]", "[,]", "[1,]", "{}"])
def test_a_value_that_is_no_array_has_no_elements(text: str) -> None:
    with pytest.raises(NotJson):
        _walked(Walker(text), Walker.elements)


def _walked(walker: Walker, walk: Callable[[Walker], Iterator[Any]]) -> None:
    for found in walk(walker):
        if found is not None:
            list(walker.skip())


LARGE: dict[str, Callable[[], str]] = {
    "numbers": lambda: "[" + "0," * 3_000_000 + "0]",
    "brackets": lambda: "[" * 200_000 + "]" * 200_000,
    "strings": lambda: "[" + '"",' * 300_000 + "0]",
    "a string": lambda: '"' + "x" * 10_000_000 + '"',
    "escapes": lambda: '"' + "\\n" * 1_000_000 + '"',
    "quotes": lambda: '"' + '\\"' * 1_000_000 + '"',
    "backslashes": lambda: '"' + "\\\\" * 1_000_000 + '"',
}


@pytest.mark.parametrize("make", LARGE.values(), ids=LARGE)
def test_the_end_of_a_large_value_is_found_with_frequent_pauses(make: Callable[[], str]) -> None:
    text = make()
    end, pauses = skipped(text)
    assert end == len(text)
    assert pauses > 10


def test_a_text_of_nothing_but_brackets_is_too_much() -> None:
    with pytest.raises(TooMuch):
        skipped("[" * (MOST_STEPS + 1))


def test_members_beyond_the_limit_are_skipped() -> None:
    text = "{" + ",".join(f'"{number}":[{{}}]' for number in range(MOST_MEMBERS + 500)) + "} "
    walker = Walker(text)
    keys = []
    for key in walker.members():
        if key is not None:
            keys.append(key)
            list(walker.skip())
    assert keys == [str(number) for number in range(MOST_MEMBERS)]
    assert walker.at == len(text)
