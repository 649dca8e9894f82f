"""Content negotiation with the headers that Prometheus sends, and with any other headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.metrics.formats import Format
from exporter.web.negotiation import accepts_gzip, negotiate

PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
PROMETHEUS_3_NATIVE_HISTOGRAMS = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
    + PROMETHEUS_3
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"

OPENMETRICS, TEXT_1, TEXT_0 = Format.OPENMETRICS_1_0_0, Format.TEXT_1_0_0, Format.TEXT_0_0_4


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, TEXT_0),
        ("", TEXT_0),
        ("*/*", TEXT_0),
        ("text/*", TEXT_0),
        (BROWSER, TEXT_0),
        (PROMETHEUS_2_42, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS),
        (PROMETHEUS_3_NATIVE_HISTOGRAMS, OPENMETRICS),
        ("application/openmetrics-text", OPENMETRICS),
        ("APPLICATION/OpenMetrics-Text; Version=1.0.0", OPENMETRICS),
        ('application/openmetrics-text; version="1.0.0"', OPENMETRICS),
        ("text/plain", TEXT_0),
        ("text/plain;version=1.0.0", TEXT_1),
        # weights decide, not the order
        ("application/openmetrics-text;q=0.2,text/plain;version=0.0.4;q=0.7", TEXT_0),
        ("text/plain;version=0.0.4;q=0.3,text/plain;version=1.0.0;q=0.31", TEXT_1),
        ("text/plain;version=0.0.4;q=0.3,application/openmetrics-text;q=0.9", OPENMETRICS),
        # with equal weights our preference decides
        ("text/plain;version=0.0.4,text/plain;version=1.0.0,application/openmetrics-text", OPENMETRICS),
        ("*/*,text/plain;version=1.0.0", TEXT_1),
        # excluded
        ("application/openmetrics-text;q=0", TEXT_0),
        ("application/openmetrics-text;q=0.000,text/plain;version=1.0.0;q=0.001", TEXT_1),
        # unsupported versions are ignored
        ("application/openmetrics-text;version=2.0.0", TEXT_0),
        ("application/openmetrics-text;version=2.0.0,text/plain;version=1.0.0;q=0.1", TEXT_1),
        ("application/openmetrics-text;version=0.0.1", TEXT_0),
        ("application/openmetrics-text;version=abc", TEXT_0),
        ("text/plain;version=9.9.9", TEXT_0),
        # malformed entries are ignored
        ("application/openmetrics-text;q=2", TEXT_0),
        ("application/openmetrics-text;q=nan,text/plain;version=1.0.0", TEXT_1),
        ("application/openmetrics-text;q=-1", TEXT_0),
        (",;,;;=,q=,/;q=1,application/openmetrics-text", OPENMETRICS),
    ],
)
def test_format_follows_weights_then_our_preference(accept: str | None, expected: Format) -> None:
    assert negotiate(accept).format is expected


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "text/plain; version=0.0.4; charset=utf-8"),
        (PROMETHEUS_2_42, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (PROMETHEUS_3, "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8"),
        (
            "text/plain;version=1.0.0;escaping=underscores",
            "text/plain; version=1.0.0; charset=utf-8; escaping=underscores",
        ),
        ("text/plain;version=1.0.0;escaping=rot13", "text/plain; version=1.0.0; charset=utf-8"),
        (
            "application/openmetrics-text;escaping=values\r\nx: y",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ],
)
def test_content_type_claims_only_what_is_served(accept: str | None, content_type: str) -> None:
    assert negotiate(accept).content_type == content_type


@pytest.mark.parametrize(
    ("accept_encoding", "accepted"),
    [
        (None, False),
        ("", False),
        ("identity", False),
        ("gzip", True),
        ("GZIP", True),
        ("br, gzip;q=0.2", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0, *;q=1", False),
        ("*", True),
        ("*;q=0", False),
        ("deflate", False),
        ("gzip;q=high", False),
    ],
)
def test_gzip_needs_a_positive_weight(accept_encoding: str | None, accepted: bool) -> None:
    assert accepts_gzip(accept_encoding) is accepted


_TOKENS = st.sampled_from(
    [
        "application/openmetrics-text",
        "text/plain",
        "*/*",
        ";",
        ",",
        "=",
        "q=",
        "0.5",
        "1",
        "version=",
        "2.0.0",
        '"',
    ]
)


@given(st.text() | st.lists(_TOKENS | st.text(max_size=3)).map("".join))
def test_any_header_yields_a_supported_version(header: str) -> None:
    negotiated = negotiate(header)
    assert negotiated.content_type.startswith(negotiated.format.content_type)
    assert accepts_gzip(header) in (True, False)
