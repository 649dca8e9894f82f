"""One series: how it counts, and how each number, label and exemplar is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.metrics import catalog
from exporter.metrics.series import EXEMPLAR_LIFE, Column, Histogram, exemplar_labels, labels_text

ID = '{conversation_id="conv_1"}'


def histogram() -> Histogram:
    return Histogram(catalog.FIRST_AUDIO, (), ())


def bucket(series: Histogram, le: str) -> str:
    out: list[str] = []
    series.write(out, series.freeze(), exemplars=True)
    (line,) = [each for each in out if f'le="{le}"' in each]
    return line.split("} ", 1)[1].rstrip("\n")


def test_labels_are_sorted_and_escaped() -> None:
    assert labels_text(("b", "a"), ('quote " slash \\ line \n', "}{\U0001f600")) == (
        '{a="}{\U0001f600",b="quote \\" slash \\\\ line \\n"}'
    )
    assert labels_text((), ()) == ""


def test_a_value_at_a_boundary_is_in_the_bucket_below() -> None:
    series = histogram()
    series.observe(0.5, "", 0.0)
    series.observe(0.5000001, "", 0.0)
    assert (bucket(series, "0.4"), bucket(series, "0.5"), bucket(series, "0.6")) == ("0.0", "1.0", "2.0")


def test_a_value_above_the_last_boundary_is_in_the_infinite_bucket() -> None:
    series = histogram()
    series.observe(600.0, "", 0.0)
    assert (bucket(series, "10.0"), bucket(series, "+Inf")) == ("0.0", "1.0")


@given(st.lists(st.floats(0, 600_000)), st.randoms())
def test_the_sum_does_not_depend_on_the_order(milliseconds: list[float], random: object) -> None:
    one, other = histogram(), histogram()
    for value in milliseconds:
        one.observe(value / 1000, "", 0.0)
    random.shuffle(milliseconds)  # type: ignore[attr-defined]
    for value in milliseconds:
        other.observe(value / 1000, "", 0.0)
    assert one.freeze() == other.freeze()


def test_sums_of_milliseconds_are_exact() -> None:
    series = histogram()
    for value in (0.1, 0.2, 0.745):
        series.observe(value, "", 0.0)
    out: list[str] = []
    series.write(out, series.freeze(), exemplars=False)
    assert out[-1] == "phonic_turn_first_audio_seconds_sum 1.045\n"


def test_the_slowest_recent_observation_of_a_bucket_is_its_exemplar() -> None:
    series = histogram()
    series.observe(0.45, ID, 1000.0)
    series.observe(0.42, '{conversation_id="faster"}', 1001.0)
    assert bucket(series, "0.5") == f"2.0 # {ID} 0.45 1000.0"
    series.observe(0.48, '{conversation_id="slower"}', 1002.1234)
    assert bucket(series, "0.5") == '3.0 # {conversation_id="slower"} 0.48 1002.123'
    series.observe(0.41, ID, 1002.0 + EXEMPLAR_LIFE + 1)
    assert bucket(series, "0.5") == f"4.0 # {ID} 0.41 {1003.0 + EXEMPLAR_LIFE}"


def test_a_clock_that_is_set_back_does_not_keep_an_exemplar_for_ever() -> None:
    series = histogram()
    series.observe(0.45, ID, 10_000.0)
    series.observe(0.42, ID, 1_000.0)
    assert bucket(series, "0.5") == f"2.0 # {ID} 0.42 1000.0"


def test_each_bucket_has_its_own_exemplar_and_an_empty_one_has_none() -> None:
    series = histogram()
    series.observe(0.45, ID, 1000.0)
    assert bucket(series, "0.4") == "0.0"
    assert bucket(series, "0.6") == "1.0"


def test_exemplars_are_written_only_in_openmetrics() -> None:
    series = histogram()
    series.observe(0.45, ID, 1000.0)
    out: list[str] = []
    series.write(out, series.freeze(), exemplars=False)
    assert not [line for line in out if "#" in line]


@pytest.mark.parametrize(("length", "is_kept"), [(113, True), (114, False)])
def test_an_exemplar_that_prometheus_would_drop_is_not_written(length: int, is_kept: bool) -> None:
    assert bool(exemplar_labels("x" * length)) is is_kept
    series = histogram()
    series.observe(0.45, exemplar_labels("x" * length), 1000.0)
    assert ("#" in bucket(series, "0.5")) is is_kept


def test_a_column_has_only_series_with_a_value() -> None:
    assert Column.present(["a", "b", "c"], [0.0, None, 1.5]) == Column(["a", "c"], [0.0, 1.5])
