"""The metric families: the public contract, and the naming rules of Prometheus."""

import re

import pytest

from exporter.counting.increments import Measure
from exporter.counting.labels import LABEL_CHOICES
from exporter.metrics.catalog import (
    CATALOG,
    FAMILY_OF,
    FIXED_LABEL_OF,
    SERIES_OF_A_TOOL,
    STATE_VALUES,
    TOOL,
    Family,
    Kind,
    Scope,
    series_of,
)
from exporter.metrics.formats import Format
from exporter.settings import Settings
from tests.unit.counted import new_conversations, page_of

# The public contract: names that users' dashboards rely on. Names may be added, never changed.
CONTRACT = """
    phonic_conversations_total phonic_conversations_live phonic_conversations_ended_total
    phonic_conversation_errors_total phonic_conversation_duration_seconds phonic_conversation_turns
    phonic_turns_total phonic_turn_duration_seconds phonic_turn_model_generation_seconds
    phonic_turn_first_audio_seconds phonic_turn_model_input_seconds phonic_turn_response_seconds
    phonic_turn_overlaps_total phonic_silent_turns_total phonic_interruptions_total phonic_tool_calls_total
    phonic_tool_call_failures_total phonic_agent_info phonic_project_conversations_active
    phonic_project_conversations_limit phonic_workspace_conversations_active
    phonic_workspace_conversations_limit phonic_up
    phonic_conversation_live_info phonic_conversation_live_turns phonic_conversation_live_duration_seconds
    phonic_conversation_live_model_generation_seconds phonic_conversation_live_first_audio_seconds
    phonic_conversation_live_last_update_timestamp_seconds
    phonic_conversation_live_waiting_since_timestamp_seconds
    phonic_exporter_build_info phonic_exporter_watchers phonic_exporter_updates_total
    phonic_exporter_update_bytes_total phonic_exporter_messages_total phonic_exporter_invalid_messages_total
    phonic_exporter_rejected_values_total phonic_exporter_feed_connects_total phonic_exporter_feed_errors_total
    phonic_exporter_watcher_crashes_total phonic_exporter_conversations_lost_total
    phonic_exporter_turns_revised_total phonic_exporter_turns_skipped_total
    phonic_exporter_label_values_folded_total phonic_exporter_unknown_fields_total
    phonic_exporter_discovery_last_success_timestamp_seconds
    phonic_exporter_requests_total phonic_exporter_request_duration_seconds phonic_exporter_requests_waiting
    phonic_exporter_requests_waiting_since_timestamp_seconds phonic_exporter_requests_per_second_allowed
    phonic_exporter_clock_offset_seconds phonic_exporter_task_crashes_total
    phonic_exporter_discovery_errors_total
    phonic_exporter_discovery_duration_seconds phonic_exporter_checkpoint_last_success_timestamp_seconds
    phonic_exporter_checkpoint_errors_total phonic_exporter_checkpoint_size_bytes
    phonic_exporter_render_duration_seconds phonic_exporter_event_loop_lag_seconds
    phonic_conversation_hangup_wait_seconds phonic_conversation_greeting_seconds phonic_turn_end_of_turn_seconds
    phonic_slow_turns_total phonic_turn_tool_response_seconds phonic_tool_calls_completed_total
    phonic_tool_calls_failed_total phonic_turn_barge_ins_total phonic_turn_user_response_seconds
    phonic_exporter_state_write_seconds phonic_exporter_handover_timings_lost_total phonic_exporter_shard_held
    phonic_exporter_shard_lease_epoch phonic_exporter_shards phonic_exporter_shard_lease_losses_total
""".split()
CONTRACT_LABELS = {
    "phonic_conversations_ended_total": ("L", "ended_by"),
    "phonic_conversation_errors_total": ("L", "reason"),
    "phonic_turns_total": ("L", "role"),
    "phonic_turn_duration_seconds": ("L", "role"),
    "phonic_turn_response_seconds": ("L",),
    "phonic_tool_call_failures_total": ("L", "reason"),
    "phonic_slow_turns_total": ("L", "stage"),
    "phonic_tool_calls_completed_total": ("L", "tool"),
    "phonic_tool_calls_failed_total": ("L", "tool", "reason"),
    "phonic_conversation_hangup_wait_seconds": ("L",),
    "phonic_agent_info": ("project", "agent", "agent_id"),
    "phonic_project_conversations_limit": ("project",),
    "phonic_workspace_conversations_active": (),
    "phonic_conversation_live_info": ("conversation_id", "project", "agent", "origin"),
    "phonic_conversation_live_turns": ("conversation_id",),
    "phonic_exporter_watchers": ("state",),
    "phonic_exporter_messages_total": ("message",),
    "phonic_exporter_invalid_messages_total": ("reason",),
    "phonic_exporter_rejected_values_total": ("field", "reason"),
    "phonic_exporter_feed_errors_total": ("reason",),
    "phonic_exporter_conversations_lost_total": ("reason",),
    "phonic_exporter_turns_skipped_total": ("reason",),
    "phonic_exporter_label_values_folded_total": ("label",),
    "phonic_exporter_unknown_fields_total": ("object",),
    "phonic_exporter_discovery_errors_total": ("reason",),
}
_RESPONSE_BUCKETS = "0.1 0.2 0.3 0.4 0.5 0.65 0.8 1 1.2 1.5 2 2.5 3 3.5 5 7 8 10 15 20 30 60"
CONTRACT_BUCKETS = {
    "phonic_conversation_hangup_wait_seconds": _RESPONSE_BUCKETS,
    "phonic_conversation_greeting_seconds": _RESPONSE_BUCKETS,
    "phonic_turn_tool_response_seconds": _RESPONSE_BUCKETS,
    "phonic_turn_user_response_seconds": _RESPONSE_BUCKETS,
    "phonic_turn_end_of_turn_seconds": "0.05 0.1 0.15 0.2 0.25 0.3 0.4 0.5 0.6 0.8 1 1.5 2 3 5 10",
    "phonic_exporter_request_duration_seconds": "0.05 0.1 0.2 0.5 1 2 5 10 20 60",
    "phonic_exporter_state_write_seconds": "0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10",
    "phonic_turn_response_seconds": _RESPONSE_BUCKETS,
    "phonic_turn_model_generation_seconds": "0.05 0.1 0.15 0.2 0.25 0.3 0.4 0.5 0.6 0.8 1 1.5 2 3 5 10",
    "phonic_turn_first_audio_seconds": "0.05 0.1 0.15 0.2 0.25 0.3 0.4 0.5 0.6 0.8 1 1.5 2 3 5 10",
    "phonic_turn_model_input_seconds": "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.5 1 2.5 5",
    "phonic_turn_duration_seconds": "0.25 0.5 1 2 3 5 8 13 20 30 60 120",
    "phonic_conversation_duration_seconds": "5 10 30 60 120 180 300 600 900 1200 1800 2700 3600 7200",
    "phonic_conversation_turns": "1 2 3 5 8 13 20 30 50 80 130 200",
}

BY_NAME = {family.sample_name: family for family in CATALOG}
BASE_UNITS = set("amperes bytes celsius grams joules kelvin meters metres seconds volts".split())
OTHER_UNITS = set(
    """
    minutes hours days weeks bits kelvins fahrenheit rankine inches yards miles calories pounds ounces
    """.split()
)
PREFIXES = "pico nano micro milli centi deci deca hecto kilo kibi mega mibi giga gibi tera tebi peta pebi".split()
ABBREVIATIONS = set("s ms us ns sec b kb mb gb tb pb m h d".split())
# Target labels of most installations, and words that mean nothing on their own. ``stage`` would be another one; it
# is part of the public contract.
CLASHING_LABELS = set("type region zone cluster owner customer service env id job instance le quantile".split())

families = pytest.mark.parametrize("family", CATALOG, ids=lambda family: family.name)


@pytest.mark.parametrize("name", CONTRACT)
def test_names_of_the_public_contract_are_kept(name: str) -> None:
    assert name in BY_NAME


@pytest.mark.parametrize("name", CONTRACT_LABELS)
def test_labels_of_the_public_contract_are_kept(name: str) -> None:
    family = BY_NAME[name]
    assert family.label_names(("L",)) == CONTRACT_LABELS[name]


def test_buckets_of_the_public_contract_are_kept() -> None:
    histograms = {family.name: family.buckets for family in CATALOG if family.kind is Kind.HISTOGRAM}
    assert histograms == {
        name: tuple(float(bound) for bound in bounds.split()) for name, bounds in CONTRACT_BUCKETS.items()
    }


def test_no_two_families_have_a_sample_name_in_common() -> None:
    samples = [f"{family.name}{suffix}" for family in CATALOG for suffix in suffixes(family)]
    assert len(samples) == len(set(samples))


def suffixes(family: Family) -> tuple[str, ...]:
    return (
        ("_bucket", "_sum", "_count", "")
        if family.kind is Kind.HISTOGRAM
        else ("", "_total")[: 1 + is_counter(family)]
    )


def is_counter(family: Family) -> bool:
    return family.kind is Kind.COUNTER


@families
def test_every_family_has_a_help_text_and_a_derivation(family: Family) -> None:
    assert family.help.strip().endswith(".")
    assert family.derived.strip()
    assert "\n" not in family.help + family.derived


@families
def test_names_pass_promlint(family: Family) -> None:
    words = family.sample_name.split("_")
    assert re.fullmatch(r"phonic(_[a-z]+)+", family.sample_name), "no colon, no camelCase, our prefix"
    assert not ABBREVIATIONS & set(words)
    assert not OTHER_UNITS & set(words)
    assert not any(
        word.removeprefix(prefix) in BASE_UNITS for word in words for prefix in PREFIXES if word.startswith(prefix)
    )
    assert family.kind.value not in words
    assert family.sample_name.endswith("_total") == is_counter(family)
    assert not family.name.endswith(("_total", "_bucket", "_count", "_sum", "_created"))
    assert family.name.endswith("_info") == (family.kind is Kind.GAUGE and "always 1" in family.help)


@families
def test_times_are_timestamps_or_durations_in_seconds(family: Family) -> None:
    if "_timestamp" in family.name:
        assert family.name.endswith("_timestamp_seconds")
        assert family.kind is Kind.GAUGE
    if "duration" in family.name:
        assert family.name.endswith("_seconds")


@families
def test_label_names_do_not_clash_with_common_target_labels(family: Family) -> None:
    names = family.label_names(LABEL_CHOICES)
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z_]*", name) for name in names)
    assert not CLASHING_LABELS & set(names)


@families
def test_only_live_gauges_have_the_conversation_as_a_label(family: Family) -> None:
    assert ("conversation_id" in family.labels) == (family.scope is Scope.LIVE)
    assert family.scope is not Scope.LIVE or family.kind is Kind.GAUGE


@families
def test_labels_of_counters_and_histograms_have_fixed_values(family: Family) -> None:
    if family.kind is not Kind.GAUGE:
        assert len(family.values) == len(family.labels)
        assert all(
            len(set(values)) == len(values) > 0
            for label, values in zip(family.labels, family.values, strict=True)
            if label != TOOL
        )


@families
def test_the_names_of_tools_are_the_only_open_set_and_come_first(family: Family) -> None:
    assert (() in family.values) == family.is_by_tool
    assert not family.is_by_tool or (family.labels[0], family.values[0]) == (TOOL, ())


def test_a_label_set_has_fewer_than_300_series() -> None:
    """The documentation's advice on sizing rests on this."""
    assert series_of(Scope.CONVERSATIONS) < 300
    assert SERIES_OF_A_TOOL == 5


def test_every_closed_label_value_is_exposed_at_zero_before_its_first_event() -> None:
    conversations = new_conversations()
    label_set = conversations.store.label_set(("main", "support"))
    conversations.store.apply(
        label_set, [((Measure.TOOL_COMPLETED, "search"), 1)], conversation_id="conv_1", at=0.0
    )
    page = page_of(conversations).render(Format.TEXT_0_0_4).decode()
    for family in CATALOG:
        for at, label in enumerate(family.labels):
            for value in family.values[at] if family.values else ():
                found = re.findall(
                    rf'^{family.name}(?:_count|_total).*{label}="{value}".* 0\.0$', page, re.MULTILINE
                )
                assert found, (family.name, label, value)


@pytest.mark.parametrize("measure", Measure)
def test_every_measure_is_added_up_by_exactly_one_family(measure: Measure) -> None:
    feeding = [family.name for family in CATALOG if family.measure is measure]
    feeding += [family.name for family in CATALOG for fixed, _ in family.fixed if fixed is measure]
    assert len(feeding) == 1, feeding
    assert (measure in FAMILY_OF) != (measure in FIXED_LABEL_OF)


@families
def test_every_family_added_up_from_conversations_has_a_measure(family: Family) -> None:
    is_counted = family.scope in (Scope.CONVERSATIONS, Scope.COUNTED) and family.kind is not Kind.GAUGE
    assert (family.measure is not None) == is_counted


@families
def test_a_fixed_label_value_is_among_the_values_of_its_label(family: Family) -> None:
    for _, value in family.fixed:
        assert [value in values for values in family.values] == [True]


def test_fixed_values_are_listed_for_state_gauges_only() -> None:
    assert set(STATE_VALUES) <= {family.name for family in CATALOG if family.scope is Scope.STATE}


def test_the_objective_is_a_bucket_boundary() -> None:
    assert Settings().metrics.slo_response in BY_NAME["phonic_turn_response_seconds"].buckets


@pytest.mark.parametrize("family", [each for each in CATALOG if each.buckets], ids=lambda family: family.name)
def test_bucket_boundaries_rise(family: Family) -> None:
    assert list(family.buckets) == sorted(set(family.buckets))
    assert family.buckets[0] > 0
