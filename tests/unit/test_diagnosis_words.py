"""What a report may quote of Phonic's JSON: what vendors write, and nothing that could be data of a customer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.diagnosis.words import ENDED_BY, UNQUOTED, enumerated, field_name
from exporter.enums import EndedBy


@pytest.mark.parametrize("word", sorted(ENDED_BY | {"twilio_inbound_user", "call-forwarded", "websocket_closed"}))
def test_enumerated_value_of_a_vendor_is_quoted(word: str) -> None:
    assert enumerated(word) == word


@pytest.mark.parametrize(
    "word",
    ["Ottilie", "smith", "user_smith", "+14155550123", "order 7", "user_7712", "", None, 5, "user__x", "a" * 99],
)
def test_value_that_could_be_data_is_not_quoted(word: object) -> None:
    assert enumerated(word) == UNQUOTED


@pytest.mark.parametrize("name", ["sentiment_score", "vad_threshold2", "text"])
def test_field_name_of_a_vendor_is_quoted(name: str) -> None:
    assert field_name(name) == name


@pytest.mark.parametrize("name", ["Ottilie Quast", "+14155550123", "conv_12cf6e88", "a-b", "x" * 80, "", "a_1234"])
def test_key_that_could_be_data_is_not_quoted(name: str) -> None:
    assert field_name(name) == UNQUOTED


@given(st.text())
def test_whatever_is_quoted_is_lower_case_words_without_numbers_of_any_length(text: str) -> None:
    for quoted in (enumerated(text), field_name(text)):
        assert quoted in (text, UNQUOTED)
        if quoted is not UNQUOTED:
            assert sum(character.isdigit() for character in quoted) <= 2
            assert quoted == quoted.lower()


def test_known_endings_are_those_that_are_counted() -> None:
    assert {each.value for each in EndedBy} - {"unknown", "other"} == ENDED_BY
