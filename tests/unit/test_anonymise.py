"""A recording holds no person's data, and everything else as it came."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.recording.anonymise import Anonymiser
from tests.e2e.upstream import EXAMPLE, live_object, record, updated

BEGINS_AT = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "Quastenflosser"


def anonymiser(key: bytes = b"key") -> Anonymiser:
    return Anonymiser(key, conversation_id=EXAMPLE, begins_at=BEGINS_AT)


def anonymised(content: Any) -> Any:
    return json.loads(anonymiser().text(json.dumps(content)))


@pytest.mark.parametrize("content", [{"conversation": record()}, json.loads(updated(live_object()))])
def test_documented_examples_keep_their_shape_lengths_and_closed_words(content: Any) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    other = anonymiser().text(text)
    assert len(other) == len(text)
    assert re.sub(r'"[^"]*"|\d+', "", other) == re.sub(r'"[^"]*"|\d+', "", text)
    for word in ('"assistant"', '"user"', '"inbound"', '"mulaw_8000"', '"conversation-updated"', '"item_idx"'):
        assert text.count(word) == other.count(word)
    for secret in ("support-agent", "call-123", "Hello!", "Of course", "12cf6e88-c254", "ad0334f1", "helpful"):
        assert secret not in other


def test_ids_still_match_each_other() -> None:
    before = live_object()
    after = anonymised(before)
    assert after["id"] != before["id"]
    assert re.fullmatch(r"conv_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", after["id"])
    assert [each["id"] for each in after["items"]] == [f"{after['id']}-{number}" for number in range(3)]
    assert anonymiser().identity(before["id"]) == after["id"]


def test_two_recordings_share_no_replacement() -> None:
    assert anonymiser(b"one").word(SECRET) != anonymiser(b"two").word(SECRET)


@given(st.lists(st.datetimes().map(datetime.isoformat), min_size=2))
@example(["2025-07-30T23:45:00", "0001-01-01T00:00:00"])
@example(["0001-01-01T00:00:00", "9999-12-31T23:59:59"])
def test_any_times_can_be_replaced(times: list[str]) -> None:
    replaced = anonymised(times)
    assert [len(each) for each in replaced] == [len(each) for each in times]


def test_times_move_together_and_keep_their_form() -> None:
    content = {
        "started_at": "2025-07-30T23:45:00.000Z",
        "ended_at": "2025-07-30T23:45:12.5+00:00",
        "x": "2025-07-30T23:45:01",
    }
    assert anonymised(content) == {
        "started_at": "2026-01-01T00:00:00.000Z",
        "ended_at": "2026-01-01T00:00:12.5+00:00",
        "x": "2026-01-01T00:00:01",
    }


NO_TIMES = ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999Z"]


@pytest.mark.parametrize("none", NO_TIMES)
def test_a_time_that_stands_for_none_stays_and_moves_no_other(none: str) -> None:
    assert anonymised([none, "2025-07-30T23:45:00Z", none]) == [none, "2026-01-01T00:00:00Z", none]


@given(st.lists(st.datetimes().map(lambda each: each.isoformat(timespec="microseconds") + "Z"), max_size=5))
def test_any_times_move_together_or_stay(times: list[str]) -> None:
    after = anonymised(times)
    moved = {
        datetime.fromisoformat(other) - datetime.fromisoformat(each)
        for each, other in zip(times, after, strict=True)
        if each != other
    }
    assert len(moved) <= 1


@pytest.mark.parametrize(
    "content",
    [
        {"text": f"I am {SECRET}"},
        {"agent": {"name": SECRET}},
        {"end_reason": SECRET.lower()},
        {"role": "Quasten Flosser"},
        {"template_variables": {SECRET: 1}},
        {"metadata": {"a": [{"quastenflosser": "x"}]}},
        {SECRET: 1},
        [SECRET],
        {"a": [[SECRET]]},
        {"new": {"deep": [{"x": [SECRET]}]}},
    ],
)
def test_name_is_found_nowhere(content: Any) -> None:
    assert "uasten" not in json.dumps(anonymised(content)).lower()


@pytest.mark.parametrize("number", [14155550123, "+1 415 555 0123", "4155550123"])
@pytest.mark.parametrize("key", ["from_phone_number", "x", "external_id"])
def test_number_of_a_phone_becomes_another_of_its_length(key: str, number: object) -> None:
    after = anonymised({key: number})[key]
    assert after != number
    assert type(after) is type(number)
    assert len(str(after)) == len(str(number))


def test_numbers_that_are_measured_stay() -> None:
    content = {
        "duration_ms": 12345678,
        "item_idx": 3,
        "timings": {"model_generation_time": 450.25},
        "vad_threshold": 0.5,
    }
    assert anonymised(content) == content


@pytest.mark.parametrize("key", ["template_variables", "system_variables", "metadata", "request_body"])
@pytest.mark.parametrize("value", [{"age": 4217}, [4217], 4217, {"deep": [{"x": 4217}]}])
def test_numbers_of_a_customer_become_others_with_a_map_and_without(key: str, value: object) -> None:
    assert "4217" not in json.dumps(anonymised({key: value}))


@pytest.mark.parametrize(
    "text",
    ["phone_555-1234", "call_John-123456", "conv_12cf6e88-123456", f"{EXAMPLE}x-123456", f"{EXAMPLE}-1234567"],
)
@pytest.mark.parametrize("key", ["external_id", "id", "x"])
def test_digits_behind_an_id_are_replaced_unless_they_are_a_turns_index(key: str, text: str) -> None:
    before, after = text.rpartition("-"), anonymised({key: text})[key].rpartition("-")
    assert before[2] != after[2]
    assert before[0] != after[0]
    assert len(before[2]) == len(after[2])


def test_the_id_of_the_conversation_is_followed_by_an_index_in_no_customers_map() -> None:
    after = anonymised({"id": f"{EXAMPLE}-123456", "metadata": [f"{EXAMPLE}-123456"]})
    assert after["id"].endswith("-123456")
    assert not after["metadata"][0].endswith("-123456")


def test_a_word_that_begins_with_a_digit_is_no_number() -> None:
    assert "John" not in anonymiser().text('{"a": 12John}')


@given(st.text(), st.binary())
def test_text_that_is_no_json_keeps_its_length_and_loses_its_letters(text: str, key: bytes) -> None:
    assert len(anonymiser(key).text(text)) == len(text)


@pytest.mark.parametrize(
    "name",
    [
        "\U0001d409\U0001d428\U0001d421\U0001d427",  # John in mathematical letters, beyond the BMP
        "हिन्दी",  # vowel signs and a virama
        "ทิฆัมพร",
        "مُحَمَّد",
        "Ⓙⓞⓗⓝ",
        "e\u0301milie",
        "\ud835",  # half of a pair
    ],
)
@pytest.mark.parametrize("is_ascii", [False, True])
def test_no_character_of_a_name_stays_in_any_script_or_escape(name: str, is_ascii: bool) -> None:
    text = json.dumps({"text": name}, ensure_ascii=is_ascii)
    other = anonymiser().text(text)
    after = json.loads(other)["text"]
    assert len(other) == len(text)
    assert {*name}.isdisjoint(after)
    assert [len(each.encode("utf-8", "surrogatepass")) for each in after] == [
        len(each.encode("utf-8", "surrogatepass")) for each in name
    ]


@given(st.text(st.characters(categories=["L", "N", "M", "Cs"], min_codepoint=0x80)), st.booleans())
def test_what_replaces_a_letter_beyond_ascii_does_not_depend_on_it(name: str, is_ascii: bool) -> None:
    after = json.loads(anonymiser().text(json.dumps([name], ensure_ascii=is_ascii)))[0]
    assert {*after} <= {*"ä語𠮷\ud842\udfb7"}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_lengths_stay_in_every_encoding_whether_escaped_or_not(text: str) -> None:
    for is_ascii in (False, True):
        after = json.loads(anonymiser().text(json.dumps([text], ensure_ascii=is_ascii)))[0]
        for encoding in ("utf-8", "utf-16"):
            assert len(after.encode(encoding)) == len(text.encode(encoding))


@pytest.mark.parametrize("text", ["C:\\John", "\\u12", "half of { a pair \\ud835"])
def test_a_backslash_that_escapes_nothing_hides_no_letter(text: str) -> None:
    after = anonymiser().text(text)
    assert len(after) == len(text)
    assert "J" not in after
    assert "u12" not in after
    assert "ud835" not in after


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values.filter(lambda each: isinstance(each, dict | list)), st.booleans())
def test_any_json_stays_json_of_the_same_length_and_types(content: Any, is_ascii: bool) -> None:
    text = json.dumps(content, ensure_ascii=is_ascii)
    other = anonymiser().text(text)
    assert len(other) == len(text)
    assert shape(_pairs(other)) == shape(_pairs(text))


def _pairs(text: str) -> Any:
    """JSON with objects as lists of pairs, since two keys may become one."""
    return json.loads(
        text, object_pairs_hook=lambda pairs: {number: value for number, (_, value) in enumerate(pairs)}
    )


def shape(content: Any) -> Any:
    if isinstance(content, dict):
        return [shape(each) for each in content.values()]
    if isinstance(content, list):
        return [shape(each) for each in content]
    return type(content)


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyzäöü ", min_size=9))
def test_words_of_a_caller_are_replaced_wherever_they_stand(words: str) -> None:
    if len(max(words.split(), key=len, default="")) < 9:
        return
    secret = max(words.split(), key=len)
    after = anonymiser().text(json.dumps({"items": [{"text": words, "id": f"conv_{secret}"}]}))
    assert secret not in after
