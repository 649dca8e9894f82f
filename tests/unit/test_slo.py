"""``slo.yml``: what it may not say is refused in one line that names the key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards import slo
from dashboards.alerts import GROUPS
from dashboards.rules import recording
from dashboards.slo import Slo, Window
from exporter.errors import ConfigError
from exporter.metrics.catalog import RESPONSE_BUCKETS

SHIPPED = slo.load()
TEXT = slo.PATH.read_text(encoding="utf-8")


def changed(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new, 1)


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        Slo.parse(text)
    return str(caught.value)


def test_shipped_slow_windows_give_the_factors_of_the_sre_workbook() -> None:
    assert [SHIPPED.factor(window) for window in SHIPPED.burn.windows()] == [7.2, 4.68, 6, 3, 1]


def time_to_page(of: Slo, window: Window, objective: float) -> float:
    """Seconds from the beginning of a total outage to the page, with all that rules add."""
    burning = of.factor(window) * (1 - objective) * slo.seconds(window.long)
    recorded = {group["name"]: slo.seconds(group["interval"]) for group in recording(of)["groups"]}
    evaluated = recorded[f"phonic-burn-{window.long}"] + slo.seconds(GROUPS["phonic-budgets"])
    return burning + evaluated + slo.seconds(of.burn.fast.lasting)


@pytest.mark.parametrize("of", ["response", "conversations"])
def test_a_total_outage_pages_within_ten_minutes_and_every_page_within_a_quarter_of_an_hour(of: str) -> None:
    objective = getattr(SHIPPED, of).objective
    times = [time_to_page(SHIPPED, window, objective) for window in SHIPPED.burn.fast.windows]
    assert min(times) <= 600
    assert max(times) <= 900 + 180  # the rest is `lasting` and how often rules are evaluated


def test_ranges_are_ordered_by_length_and_unique() -> None:
    assert SHIPPED.burn.ranges() == ("3m", "5m", "15m", "30m", "1h", "2h", "6h", "1d", "3d")


def test_a_file_without_the_alerts_about_shards_has_those_of_the_shipped_file() -> None:
    """Files of earlier releases stay valid."""
    head, _, rest = TEXT.partition("  # Of several processes that share their state")
    earlier = head + rest[rest.index("\n# What a minute") :]
    assert "shard_unheld" not in earlier
    assert Slo.parse(earlier) == SHIPPED


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "seconds: 1, ratio: 0.1",
            "seconds: 1.5, ratio: 0.1",
            "slo.yml alerts.state_writes_slow.seconds: 1.5 is not a bucket boundary of "
            "phonic_exporter_state_write_seconds",
        ),
        ("objective: 0.95", "objective: 0.85", "slo.yml burn.fast.windows[0]: burns 7.2 times too fast"),
        (
            "budget: 0.0025",
            "budget: 0.0065",
            "slo.yml burn.fast: pages 15.0 minutes after a total outage (response): one of its windows must do so "
            "within 10",
        ),
        (
            "budget: 0.0065",
            "budget: 0.02",
            "slo.yml burn.fast.windows[1]: notices a total outage after 43.2 minutes (factor x response budget x "
            "long), and a page must come within 15: budget may be at most 0.0069",
        ),
        (
            "severity: warning",
            "severity: critical",
            "slo.yml burn.slow.windows[0]: notices a total outage after 108.0 minutes",
        ),
        (
            "keep_firing: 7m",
            "keep_firing: 1m",
            "slo.yml alerts.callers_waiting.keep_firing: 1m ends before burn.fast does (short + keep_firing + 60",
        ),
        ("objective: 0.95", "objective: 1", "slo.yml response.objective: 1 is not between 0 and 1"),
        ("objective: 0.95", "objective: .nan", "slo.yml response.objective: nan is not between 0 and 1"),
        ("objective: 0.95", "objectiv: 0.95", "slo.yml response.objectiv: unknown; expected one of objective"),
        ("  objective: 0.95\n", "", "slo.yml: Object missing required field `objective`"),
        ("seconds: 1.5", "seconds: 1.6", "slo.yml response.threshold_seconds: 1.6 is not a bucket boundary"),
        ("minimum: 10", "minimum: 0", "slo.yml response.minimum: 0 is not above 0"),
        ("minimum: 10", "minimum: many", "slo.yml: Expected `int`, got `str`"),
        ("period: 30d", "period: 30 days", "slo.yml period: '30 days' is not a duration"),
        ("period: 30d", "period: 2d", "slo.yml burn.slow.windows[2]: needs short < long < period (2d)"),
        ("lasting: 1m", "lasting: 0m", "slo.yml burn.fast.lasting: '0m' is not a duration"),
        ("{ long: 15m", "{ lang: 15m", "slo.yml burn.fast.windows[0].lang: unknown"),
        ("short: 3m", "short: 2h", "slo.yml burn.fast.windows[0]: needs short < long"),
        ("severity: critical", "severity: loud", "slo.yml burn.fast.severity: 'loud' is not one of critical"),
        ("ratio: 0.2,", "ratio: 10,", "slo.yml alerts.error_endings.ratio: 10 is not a share"),
        ("job: phonic-exporter", "job: phonic exporter", "slo.yml job: must be plain text"),
        ("job: phonic-exporter", "job: 'a\"b'", "slo.yml job: must be plain text"),
        ("price_per_minute: 0", "price_per_minute: -1", "slo.yml cost.price_per_minute: -1 is not above 0"),
        ("price_per_minute: 0", "price_per_minute: .inf", "slo.yml cost.price_per_minute: inf is not above 0"),
        ("currency: USD", "currency: dollars", "slo.yml cost.currency: 'dollars' is not one of USD, EUR"),
        (
            "exporter: http://localhost",
            "exporter: http://local host",
            "slo.yml links.exporter: must be plain text",
        ),
        ("response:", "[", "slo.yml: not YAML"),
    ],
)
def test_mistakes_are_named_in_one_line(old: str, new: str, line: str) -> None:
    said = refusal(changed(old, new))
    assert said.startswith(line)
    assert "\n" not in said


def test_a_file_without_price_and_address_of_the_exporter_has_defaults() -> None:
    older = TEXT.replace("cost: { price_per_minute: 0, currency: USD }\n", "")
    older = older.replace("  exporter: http://localhost:10058\n", "")
    assert len(older) < len(TEXT) - 79
    assert Slo.parse(older) == SHIPPED


def test_empty_file_is_refused() -> None:
    assert refusal("") == "slo.yml: Expected `object`, got `null`"


def test_a_burn_without_windows_is_refused() -> None:
    start = TEXT.index("    windows:")
    end = TEXT.index("  slow:")
    assert refusal(TEXT[:start] + "    windows: []\n" + TEXT[end:]) == (
        "slo.yml burn.fast.windows: must not be empty"
    )


@given(objective=st.floats(min_value=0.01, max_value=0.999))
def test_burns_are_accepted_exactly_when_a_total_outage_fires_them_soon(objective: float) -> None:
    text = changed("objective: 0.95", f"objective: {objective!r}")  # the first, of responses
    largest = max(SHIPPED.factor(window) for window in SHIPPED.burn.windows())
    after = [SHIPPED.notices_after(window, objective) for window in SHIPPED.burn.fast.windows]
    if largest * (1 - objective) >= 1:
        assert "could never fire" in refusal(text)
    elif max(after) > slo.LATEST_PAGE_SECONDS:
        assert "a page must come within 15" in refusal(text)
    elif min(after) + slo.seconds(SHIPPED.burn.fast.lasting) > slo.QUICKEST_PAGE_SECONDS:
        assert "must do so within 10" in refusal(text)
    else:
        assert Slo.parse(text).response.objective == objective


@given(budget=st.floats(min_value=0.007, max_value=0.027))
def test_the_budget_that_a_refusal_recommends_is_accepted(budget: float) -> None:
    recommended = refusal(changed("budget: 0.0065", f"budget: {budget!r}")).rpartition(" ")[2]
    assert Slo.parse(changed("budget: 0.0065", f"budget: {recommended}")).burn.fast.windows[1].budget > 0.005


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
