"""Conversation ids, path segments and ``Retry-After``, as REST and the live feed use them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.phonic.wire import retry_after, segment

NOW = 1_792_567_680.0  # Wed, 21 Oct 2026 07:28:00 GMT
LONGEST = 30.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("30", 30.0),
        ("99999", 30.0),
        ("9" * 5000, 30.0),
        ("Wed, 21 Oct 2026 07:28:12 GMT", 12.0),
        ("Wed, 21 Oct 2026 07:28:12 -0000", 12.0),
        ("Wed, 21 Oct 2026 09:28:12 +0200", 12.0),
        ("Wednesday, 21-Oct-26 07:28:12 GMT", 12.0),
        ("Wed Oct 21 07:28:12 2026", 12.0),
        ("Thu, 22 Oct 2026 07:28:00 GMT", 30.0),
        ("Tue, 20 Oct 2026 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 9999 07:28:00 GMT", 30.0),
    ],
)
def test_a_number_of_seconds_or_a_date_is_a_wait_within_the_bound(value: str, seconds: float) -> None:
    assert retry_after({"retry-after": value}, NOW, LONGEST) == seconds


@pytest.mark.parametrize(
    "value", ["", " ", "-1", "+1", "1.5", "1e9", "soon", "٣", "Wed, 99 Oct 2026 07:28:00 GMT", "nan", "inf"]
)
def test_an_unreadable_retry_after_is_none(value: str) -> None:
    assert retry_after({"retry-after": value}, NOW, LONGEST) is None


@pytest.mark.parametrize(("value", "seconds"), [("1500", 1.5), ("0", 0.0), ("99999999", 30.0), ("soon", 7.0)])
def test_readable_milliseconds_come_first(value: str, seconds: float) -> None:
    assert retry_after({"retry-after-ms": value, "retry-after": "7"}, NOW, LONGEST) == seconds


@given(st.text())
def test_any_text_is_one_segment_of_a_path(text: str) -> None:
    assert not set(segment(text)) & set("/?#.\\ ")


def test_no_header_is_none() -> None:
    assert retry_after({}, NOW, LONGEST) is None


@given(st.text() | st.integers().map(str) | st.datetimes().map("{:%a, %d %b %Y %H:%M:%S GMT}".format))
def test_any_text_is_a_wait_within_the_bound_or_none(value: str) -> None:
    seconds = retry_after({"retry-after": value}, NOW, LONGEST)
    assert seconds is None or 0 <= seconds <= LONGEST
