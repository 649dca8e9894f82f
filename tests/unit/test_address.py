"""Base URLs as users paste them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.phonic.address import normalised

API = "https://api.phonic.ai"


@pytest.mark.parametrize(
    "pasted",
    [
        API,
        f"{API}/",
        f"{API}//",
        f"{API}/v1",
        f"{API}/v1/",
        f"{API}//v1//",
        f"{API}/V1",
        f"{API}/v1/conversations",
        f"{API}/v1/conversations/conv_1/live/ws",
        f"{API}/v1/projects/",
        f"  {API}/v1\n",
        "HTTPS://API.PHONIC.AI/v1",
    ],
)
def test_version_endpoint_and_slashes_are_removed(pasted: str) -> None:
    assert normalised(pasted) == API


@pytest.mark.parametrize(
    ("pasted", "wanted"),
    [
        ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("https://gateway/Phonic/v1/", "https://gateway/Phonic"),
        ("https://gateway/v1/phonic", "https://gateway/v1/phonic"),
        ("https://gateway/v1beta", "https://gateway/v1beta"),
        ("https://User:Word@API.phonic.ai/v1", "https://User:Word@api.phonic.ai"),
    ],
)
def test_any_other_path_stays(pasted: str, wanted: str) -> None:
    assert normalised(pasted) == wanted


@pytest.mark.parametrize("pasted", ["", "api.phonic.ai/v1", "https://h/v1?x=y", "https://h/v1#x", "https://[::1"])
def test_a_text_that_is_no_url_stays_for_the_settings_to_refuse(pasted: str) -> None:
    assert normalised(pasted) == pasted


@given(st.text(alphabet="/v1abcV:.@[]?# ") | st.text())
def test_normalising_is_idempotent(pasted: str) -> None:
    once = normalised(f"https://h{pasted}")
    assert normalised(once) == once
