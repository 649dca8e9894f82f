"""``slo.yml``: what it may not say is refused in one line that names the key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards import slo
from dashboards.slo import Slo
from exporter.errors import ConfigError
from exporter.metrics.catalogue import RESPONSE_BUCKETS

SHIPPED = slo.load()
TEXT = slo.PATH.read_text(encoding="utf-8")


def changed(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new, 1)


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        Slo.parse(text)
    return str(caught.value)


def test_shipped_objectives_give_the_factors_of_the_sre_workbook() -> None:
    assert [SHIPPED.factor(window) for window in SHIPPED.burn.windows()] == [14.4, 6, 3, 1]


def test_ranges_are_ordered_by_length_and_unique() -> None:
    assert SHIPPED.burn.ranges() == ("5m", "30m", "1h", "2h", "6h", "1d", "3d")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("objective: 0.95", "objective: 0.90", "slo.yml burn.fast.windows[0]: burns 14.4 times too fast"),
        ("objective: 0.95", "objective: 1", "slo.yml response.objective: 1 is not between 0 and 1"),
        ("objective: 0.95", "objective: .nan", "slo.yml response.objective: nan is not between 0 and 1"),
        ("objective: 0.95", "objectiv: 0.95", "slo.yml response.objectiv: unknown; expected one of objective"),
        ("  objective: 0.95\n", "", "slo.yml: Object missing required field `objective`"),
        ("seconds: 1.5", "seconds: 1.6", "slo.yml response.threshold_seconds: 1.6 is not a bucket boundary"),
        ("minimum: 10", "minimum: 0", "slo.yml response.minimum: 0 is not above 0"),
        ("minimum: 10", "minimum: many", "slo.yml: Expected `int`, got `str`"),
        ("period: 30d", "period: 30 days", "slo.yml period: '30 days' is not a duration"),
        ("period: 30d", "period: 2d", "slo.yml burn.slow.windows[1]: needs short < long < period (2d)"),
        ("lasting: 1m", "lasting: 0m", "slo.yml burn.fast.lasting: '0m' is not a duration"),
        ("{ long: 1h", "{ lang: 1h", "slo.yml burn.fast.windows[0].lang: unknown"),
        ("short: 5m", "short: 2h", "slo.yml burn.fast.windows[0]: needs short < long"),
        ("severity: critical", "severity: loud", "slo.yml burn.fast.severity: 'loud' is not one of critical"),
        ("ratio: 0.2,", "ratio: 10,", "slo.yml alerts.error_endings.ratio: 10 is not a share"),
        ("job: phonic-exporter", "job: phonic exporter", "slo.yml job: must be plain text"),
        ("job: phonic-exporter", "job: 'a\"b'", "slo.yml job: must be plain text"),
        ("response:", "[", "slo.yml: not YAML"),
    ],
)
def test_mistakes_are_named_in_one_line(old: str, new: str, line: str) -> None:
    said = refusal(changed(old, new))
    assert said.startswith(line)
    assert "\n" not in said


def test_empty_file_is_refused() -> None:
    assert refusal("") == "slo.yml: Expected `object`, got `null`"


def test_a_burn_without_windows_is_refused() -> None:
    start = TEXT.index("    windows:")
    end = TEXT.index("  slow:")
    assert refusal(TEXT[:start] + "    windows: []\n" + TEXT[end:]) == (
        "slo.yml burn.fast.windows: must not be empty"
    )


@given(objective=st.floats(min_value=0.01, max_value=0.999))
def test_burns_are_accepted_exactly_when_a_total_outage_would_fire_them(objective: float) -> None:
    text = changed("objective: 0.95", f"objective: {objective!r}")  # the first, of responses
    largest = max(SHIPPED.factor(window) for window in SHIPPED.burn.windows())
    if largest * (1 - objective) < 1:
        assert Slo.parse(text).response.objective == objective
    else:
        assert "could never fire" in refusal(text)


@given(threshold=st.floats(min_value=0.01, max_value=30) | st.sampled_from(RESPONSE_BUCKETS))
def test_thresholds_are_accepted_exactly_at_bucket_boundaries(threshold: float) -> None:
    text = changed("threshold_seconds: 1.5", f"threshold_seconds: {threshold!r}")
    if threshold in RESPONSE_BUCKETS:
        assert Slo.parse(text).response.threshold_seconds == threshold
    else:
        assert "not a bucket boundary" in refusal(text)


@given(count=st.integers(1, 10**6), unit=st.sampled_from("smhd"))
def test_durations_are_read_in_seconds(count: int, unit: str) -> None:
    assert slo.seconds(f"{count}{unit}") == count * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
