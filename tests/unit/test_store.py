"""The store: where increments go, how label values are limited, and what survives a restart."""

from itertools import accumulate, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.counting.increments import TURN, Increment, Measure, rejected
from exporter.counting.labels import OTHER
from exporter.enums import Field, Lost, MessageType, Rejection, Role, ToolFailure
from exporter.metrics import catalog
from exporter.metrics.catalog import CATALOG, Kind, Scope
from exporter.metrics.series import rebucketed
from exporter.metrics.store import (
    LabelLimits,
    LabelSet,
    MetricStore,
    accumulated,
    saved_families,
)
from exporter.state.rows import SavedSeries
from tests.unit.counted import numbers_of, one_series, series_of

AT = 1_753_920_000.0


def apply(store: MetricStore, label_set: LabelSet, *increments: tuple[tuple[str, ...], float]) -> None:
    store.apply(label_set, increments, conversation_id="conv_1", at=AT)


def total(store: MetricStore, family: catalog.Family, *labels: str) -> int:
    return numbers_of(one_series(store, family, *labels))[0]


def test_series_without_conversation_labels_exist_at_zero_from_the_start() -> None:
    store = MetricStore(LabelLimits())
    for family in accumulated():
        expected = [] if family.scope is Scope.CONVERSATIONS else list(product(*family.values))
        assert [each.labels for each in series_of(store, family)] == expected
        assert not any(any(numbers_of(each)) for each in series_of(store, family))


def test_a_new_label_set_has_all_its_series_at_zero() -> None:
    store = MetricStore(LabelLimits())
    store.label_set(("main", "support"))
    for family in accumulated():
        if family.scope is Scope.CONVERSATIONS:
            expected = [("main", "support", *own) for own in product(*family.values)]
            assert [each.labels for each in series_of(store, family)] == expected


def test_increments_of_a_conversation_go_to_its_label_set_only() -> None:
    store = MetricStore(LabelLimits())
    support, sales = store.label_set(("main", "support")), store.label_set(("main", "sales"))
    apply(store, support, TURN[Role.USER], TURN[Role.USER], ((Measure.FIRST_AUDIO,), 0.57))
    apply(store, sales, TURN[Role.USER])
    assert total(store, catalog.TURNS, "main", "support", "user") == 2
    assert total(store, catalog.TURNS, "main", "sales", "user") == 1
    assert total(store, catalog.FIRST_AUDIO, "main", "support") == 570_000_000


def test_the_role_other_gets_its_series_when_it_first_occurs() -> None:
    store = MetricStore(LabelLimits())
    apply(store, store.label_set(("main", "support")), TURN[Role.OTHER], TURN[Role.OTHER])
    assert total(store, catalog.TURNS, "main", "support", "other") == 2


def test_increments_without_conversation_labels_share_their_series() -> None:
    store = MetricStore(LabelLimits())
    for agent in ("support", "sales"):
        apply(store, store.label_set(("main", agent)), rejected(Field.RESPONSE, Rejection.TOO_LARGE))
        apply(
            store, store.label_set(("main", agent)), ((Measure.UNKNOWN_TIMING,), 1), ((Measure.UNKNOWN_ROLE,), 1)
        )
    assert total(store, catalog.REJECTED_VALUES, "response", "too_large") == 2
    assert total(store, catalog.UNKNOWN_FIELDS, "timings") == 2
    assert total(store, catalog.UNKNOWN_WORDS, "role") == 2


# --- limits


def test_the_same_values_are_the_same_label_set() -> None:
    store = MetricStore(LabelLimits())
    assert store.label_set(("main", "support")) is store.label_set(["main", "support"])


def test_ten_thousand_agents_are_folded_at_the_limit_and_counted() -> None:
    store = MetricStore(LabelLimits(values=100, sets=200))
    for number in range(10_000):
        apply(store, store.label_set(("main", f"agent {number}")), TURN[Role.USER])
    assert len(store.label_sets) == 101
    assert total(store, catalog.LABEL_VALUES_FOLDED, "agent") == 9_900
    assert total(store, catalog.TURNS, "main", OTHER, "user") == 9_900
    assert sum(numbers_of(each)[0] for each in series_of(store, catalog.TURNS)) == 10_000


def test_a_label_set_beyond_the_limit_has_other_for_all_its_labels() -> None:
    store = MetricStore(LabelLimits(values=100, sets=2))
    for number in range(5):
        apply(store, store.label_set((f"project {number}", "support")), TURN[Role.USER])
    assert [each.values for each in store.label_sets] == [
        ("project 0", "support"), ("project 1", "support"), (OTHER, OTHER)
    ]  # fmt: skip
    assert total(store, catalog.LABEL_VALUES_FOLDED, "label_set") == 3
    assert total(store, catalog.TURNS, OTHER, OTHER, "user") == 3


def called(tool: str, *, fails: bool = False) -> list[Increment]:
    completed: Increment = ((Measure.TOOL_COMPLETED, tool), 1)
    return [completed, ((Measure.TOOL_FAILED, tool, "timeout"), 1)] if fails else [completed]


def test_ten_thousand_tools_are_folded_at_the_limit_and_counted_once_for_each_call() -> None:
    store = MetricStore(LabelLimits(tools=50))
    support, sales = store.label_set(("main", "support")), store.label_set(("main", "sales"))
    for number in range(10_000):
        apply(store, support, *called(f"tool {number}", fails=True))
    apply(store, sales, *called("tool 7"), *called("tool 77"))
    assert total(store, catalog.LABEL_VALUES_FOLDED, "tool") == 9_951
    assert total(store, catalog.TOOL_CALLS_COMPLETED, "main", "support", OTHER) == 9_950
    assert total(store, catalog.TOOL_CALLS_FAILED, "main", "support", OTHER, "timeout") == 9_950
    assert total(store, catalog.TOOL_CALLS_COMPLETED, "main", "sales", "tool 7") == 1
    assert len(series_of(store, catalog.TOOL_CALLS_COMPLETED)) == 51 + 2
    assert len(support.series) < 1000, "no memory of folded names"


def test_a_tool_named_other_is_not_counted_as_folded() -> None:
    store = MetricStore(LabelLimits(tools=0))
    apply(store, store.label_set(("main", "support")), *called(OTHER))
    assert total(store, catalog.LABEL_VALUES_FOLDED, "tool") == 0


def test_the_first_call_of_a_tool_shows_all_its_failures_at_zero_also_after_a_restart() -> None:
    store = MetricStore(LabelLimits())
    apply(store, store.label_set(("main", "support")), *called("search"))
    restored = MetricStore(LabelLimits(tools=1))
    restored.restore(list(store.freeze().rows()), families=saved_families())
    for each in (store, restored):
        failures = {series.labels[2:]: numbers_of(series) for series in series_of(each, catalog.TOOL_CALLS_FAILED)}
        assert failures == {("search", reason): (0,) for reason in ToolFailure}
    assert total(restored, catalog.TOOL_CALLS_COMPLETED, "main", "support", "search") == 1
    apply(restored, restored.label_set(("main", "support")), *called("search"), *called("another"))
    assert total(restored, catalog.TOOL_CALLS_COMPLETED, "main", "support", "search") == 2
    assert total(restored, catalog.TOOL_CALLS_COMPLETED, "main", "support", OTHER) == 1


def test_series_of_a_new_tool_are_held_back_on_their_own() -> None:
    store = MetricStore(LabelLimits(), hold=30.0)
    label_set = store.label_set(("main", "support"))
    store.seen(store.held_back(), 0.0, by_prometheus=True)
    store.release(31.0)
    apply(store, label_set, TURN[Role.USER], *called("search", fails=True))
    store.publish(store.freeze())
    shown = {
        (family.name, series.labels[2:]): numbers
        for family in (catalog.TURNS, catalog.TOOL_CALLS_COMPLETED, catalog.TOOL_CALLS_FAILED)
        for series, numbers in store.shown(family)
    }
    assert shown["phonic_turns", ("user",)] == 1
    assert shown["phonic_tool_calls_completed", ("search",)] == 0
    assert shown["phonic_tool_calls_failed", ("search", "timeout")] == 0
    store.seen(store.held_back(), 40.0, by_prometheus=True)
    store.release(71.0)
    store.publish(store.freeze())
    ((_, completed),) = store.shown(catalog.TOOL_CALLS_COMPLETED)
    assert completed == 1


def test_all_is_shown_once_nothing_is_held_back_and_every_copy_was_published() -> None:
    store = MetricStore(LabelLimits(), hold=1.0)
    apply(store, store.label_set(("p", "a")), ((Measure.TURN, "user"), 1))
    store.seen(store.held_back(), 5.0, by_prometheus=True)
    store.publish(store.freeze())
    assert not store.shows_all  # at 0
    store.release(6.0)
    assert not store.shows_all
    copy = store.freeze()
    assert not store.shows_all
    store.put_back(copy)
    assert not store.shows_all
    store.publish(store.freeze())
    assert store.shows_all


def test_an_agent_named_other_is_not_counted_as_folded() -> None:
    store = MetricStore(LabelLimits(values=1))
    assert store.label_set((OTHER, OTHER)).values == (OTHER, OTHER)
    assert total(store, catalog.LABEL_VALUES_FOLDED, "agent") == 0


def test_expected_label_sets_take_only_free_room() -> None:
    store = MetricStore(LabelLimits(values=2, sets=2))
    store.label_set(("main", "called"))
    for agent in ("a", "b", "c"):
        store.expect(("main", agent))
    assert [each.values for each in store.label_sets] == [("main", "called"), ("main", "a")]
    assert not any(numbers_of(each)[0] for each in series_of(store, catalog.LABEL_VALUES_FOLDED))


def test_expected_label_sets_give_way_to_conversations() -> None:
    store = MetricStore(LabelLimits(values=100, sets=200))
    for number in range(10_000):
        store.expect(("main", f"idle {number}"))
    assert len(store.label_sets) == 100
    for number in range(102):
        apply(store, store.label_set(("main", f"busy {number}")), TURN[Role.USER])
    assert [each.values[1] for each in store.label_sets] == [*(f"busy {number}" for number in range(100)), OTHER]
    assert {each.labels[1] for each in series_of(store, catalog.RESPONSE)} == {
        each.values[1] for each in store.label_sets
    }
    assert total(store, catalog.LABEL_VALUES_FOLDED, "agent") == 2


def test_an_expected_label_set_stays_once_a_conversation_has_it() -> None:
    store = MetricStore(LabelLimits(values=100, sets=1))
    store.expect(("main", "support"))
    called = store.label_set(("main", "support"))
    assert store.label_set(("main", "sales")).values == (OTHER, OTHER)
    assert store.label_set(("main", "support")) is called


_NAMES = st.text("abcde", min_size=1, max_size=1)


@given(
    st.lists(st.tuples(_NAMES, st.text(max_size=2), st.booleans()), max_size=60),
    st.integers(1, 4),
    st.integers(1, 6),
)
def test_no_input_makes_more_label_sets_than_the_limits_allow(
    wanted: list[tuple[str, str, bool]], values: int, sets: int
) -> None:
    store = MetricStore(LabelLimits(values=values, sets=sets))
    given_out: list[LabelSet] = []
    for project, agent, is_ahead in wanted:
        if is_ahead:
            store.expect((project, agent))
        else:
            given_out.append(store.label_set((project, agent)))
            assert store.label_set((project, agent)) is given_out[-1]
        assert len(store.label_sets) <= sets + 1
        for at in range(2):
            assert len({each.values[at] for each in store.label_sets} - {OTHER}) <= values
    assert all(each in store.label_sets for each in given_out)
    assert {each.labels for each in series_of(store, catalog.CONVERSATIONS)} == {
        each.values for each in store.label_sets
    }


def test_without_chosen_labels_there_is_one_label_set() -> None:
    store = MetricStore(LabelLimits(names=()))
    apply(store, store.label_set(()), TURN[Role.USER])
    assert total(store, catalog.TURNS, "user") == 1
    assert one_series(store, catalog.TURNS, "user").prefix == 'phonic_turns_total{role="user"} '  # type: ignore[union-attr]


# --- state file


def filled() -> MetricStore:
    store = MetricStore(LabelLimits())
    label_set = store.label_set(("main", "support"))
    apply(store, label_set, TURN[Role.OTHER], ((Measure.FIRST_AUDIO,), 0.57), ((Measure.LOST, Lost.NEVER_LIVE), 1))
    store.count(catalog.MESSAGES, MessageType.ERROR)
    return store


def changes(store: MetricStore) -> list[SavedSeries]:
    frozen = store.freeze()
    store.publish(frozen)
    return list(frozen.rows())


def test_a_copy_has_the_saved_series_that_changed_since_the_previous_copy() -> None:
    store = filled()
    assert {row.family for row in changes(store)} == {
        "phonic_turns", "phonic_turn_first_audio_seconds", "phonic_exporter_conversations_lost"
    }  # fmt: skip
    assert not store.freeze()
    apply(store, store.label_set(("main", "support")), TURN[Role.OTHER])
    assert changes(store) == [SavedSeries("phonic_turns", ("main", "support", "other"), (), (2,))]


def test_counts_without_a_label_set_are_saved_too() -> None:
    store = MetricStore(LabelLimits())
    store.count(catalog.CONVERSATIONS_LOST, Lost.NOT_FOUND)
    assert [row.numbers for row in changes(store)] == [(1,)]


def test_restored_numbers_continue() -> None:
    restored = MetricStore(LabelLimits())
    everything = filled().freeze(everything=True).rows()
    assert restored.restore(everything, families=saved_families()) == (set(), False)
    assert changes(restored) == []
    apply(restored, restored.label_set(("main", "support")), TURN[Role.OTHER], ((Measure.FIRST_AUDIO,), 0.43))
    assert total(restored, catalog.TURNS, "main", "support", "other") == 2
    assert total(restored, catalog.FIRST_AUDIO, "main", "support") == 1_000_000_000
    assert total(restored, catalog.CONVERSATIONS_LOST, "never_live") == 1
    assert total(restored, catalog.MESSAGES, "error") == 0


def test_a_copy_of_everything_includes_series_at_zero() -> None:
    rows = list(filled().freeze(everything=True).rows())
    guarded = {
        each.name
        for each in accumulated()
        if each.scope in (Scope.CONVERSATIONS, Scope.COUNTED) and not each.is_by_tool
    }
    assert {row.family for row in rows} == guarded
    assert any(not any(row.numbers) for row in rows)


def test_after_a_change_of_buckets_sum_count_and_common_bounds_continue() -> None:
    family = catalog.RESPONSE
    older = family.buckets[:-3]
    saved = SavedSeries(family.name, ("main", "support"), older, (90 * 10**9, *range(len(older)), 7))
    restored = MetricStore(LabelLimits())
    unusable, is_outdated = restored.restore([saved], families=saved_families())
    assert (unusable, is_outdated) == (set(), True)
    nanos, *counts = numbers_of(one_series(restored, family, "main", "support"))
    assert nanos == 90 * 10**9
    assert counts == [*range(len(older)), 0, 0, 0, 7]


@given(st.data())
def test_no_cumulative_count_falls_after_any_change_of_buckets(data: st.DataObject) -> None:
    layouts = st.lists(st.integers(1, 20), unique=True, max_size=8).map(sorted)
    old, new = data.draw(layouts), data.draw(layouts)
    counts = data.draw(st.lists(st.integers(0, 9), min_size=len(old) + 1, max_size=len(old) + 1))
    nanos, *moved = rebucketed(old, [5, *counts], new)
    assert (nanos, sum(moved)) == (5, sum(counts))
    before, after = (
        dict(zip(old, accumulate(counts), strict=False)),
        dict(zip(new, accumulate(moved), strict=False)),
    )
    assert all(after[bound] == before[bound] for bound in before.keys() & after.keys())


def test_a_row_with_too_few_numbers_loses_only_its_series() -> None:
    rows = changes(filled())
    damaged = [
        SavedSeries(row.family, row.labels, row.layout, row.numbers[:-1]) if row.layout else row for row in rows
    ]
    restored = MetricStore(LabelLimits())
    assert restored.restore(damaged, families=saved_families())[0] == {"phonic_turn_first_audio_seconds"}
    assert total(restored, catalog.TURNS, "main", "support", "other") == 1


def test_families_of_another_version_are_left_out() -> None:
    restored = MetricStore(LabelLimits())
    unknown = SavedSeries("phonic_no_more", ("main", "support"), (), (7,))
    process = SavedSeries(catalog.MESSAGES.name, ("error",), (), (7,))
    assert restored.restore([unknown, process], families=saved_families())[0] == set()
    assert total(restored, catalog.MESSAGES, "error") == 0


def test_an_empty_label_set_survives_a_restart_and_still_gives_way() -> None:
    store = MetricStore(LabelLimits())
    store.expect(("main", "support"))
    restored = MetricStore(LabelLimits(sets=1))
    restored.restore(changes(store), families=saved_families())
    assert total(restored, catalog.TURNS, "main", "support", "user") == 0
    assert restored.label_set(("main", "sales")).values == ("main", "sales")
    assert [each.values for each in restored.label_sets] == [("main", "sales")]


def test_restored_label_values_count_towards_the_limits() -> None:
    restored = MetricStore(LabelLimits(values=1))
    restored.restore(changes(filled()), families=saved_families())
    assert restored.label_set(("main", "sales")).values == ("main", OTHER)


@pytest.mark.parametrize(
    "family", [each for each in CATALOG if each.kind is Kind.GAUGE], ids=lambda each: each.name
)
def test_gauges_are_not_accumulated(family: catalog.Family) -> None:
    with pytest.raises(KeyError):
        MetricStore(LabelLimits()).shown(family)


# --- label sets that give way, and files with more label sets than the limit allows


def row(family: catalog.Family, *labels: str, numbers: tuple[int, ...] = (0,)) -> SavedSeries:
    return SavedSeries(family.name, labels, family.buckets, numbers)


def test_a_label_set_of_an_older_file_that_was_dropped_and_came_back_is_saved_with_its_numbers_only() -> None:
    """The series of a new family are held back together, including those of a dropped label set."""
    store = MetricStore(LabelLimits(sets=2), hold=30.0)
    families = [each for each in saved_families() if each != catalog.TURNS.name]
    store.restore([row(catalog.CONVERSATIONS, "main", "support")], families=families)
    store.label_set(("main", "sales"))
    store.label_set(("main", "billing"))  # takes the place of support's
    store.limits = LabelLimits(sets=3)
    apply(store, store.label_set(("main", "support")), TURN[Role.USER])
    store.seen(store.held_back(), 0.0, by_prometheus=False)
    store.release(1000.0)
    assert not store.held_back_count
    saved = [(each.family, each.labels) for each in store.freeze().rows()]
    assert len(saved) == len(set(saved))


def test_a_file_with_more_label_sets_than_fit_leaves_room_for_those_with_conversations() -> None:
    used = [row(catalog.CONVERSATIONS, "main", f"used {each}", numbers=(1,)) for each in range(2)]
    spare = [row(catalog.CONVERSATIONS, "main", f"spare {each}") for each in range(8)]
    store = MetricStore(LabelLimits(sets=4))
    _, is_outdated = store.restore([*spare, *used], families=saved_families())
    assert is_outdated
    assert len(store.label_sets) == 4
    for name in ("new", "newer"):
        assert store.label_set(("main", name)).values == ("main", name)
    assert [each.values[1] for each in store.label_sets] == ["used 0", "used 1", "new", "newer"]
    assert total(store, catalog.LABEL_VALUES_FOLDED, "label_set") == 0
