"""The numbers: where additions go, how labels are bounded, and what survives a restart."""

from itertools import accumulate, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.counting.increments import TURN, What, rejected
from exporter.enums import Field, Lost, MessageType, Rejection, Role
from exporter.metrics import catalog as catalogue
from exporter.metrics.catalog import CATALOGUE, Kind, Scope
from exporter.metrics.series import rebucketed
from exporter.metrics.store import (
    _FAMILY_OF,
    _FIXED,
    OTHER,
    LabelLimits,
    LabelSet,
    Ledger,
    accumulated,
    saved_families,
)
from exporter.state.rows import SavedSeries

AT = 1_753_920_000.0


def apply(ledger: Ledger, label_set: LabelSet, *additions: tuple[tuple[str, ...], float]) -> None:
    ledger.apply(label_set, additions, conversation_id="conv_1", at=AT)


def total(ledger: Ledger, family: catalogue.Family, *labels: str) -> int:
    return ledger.value(family, *labels).dump()[0]


def test_every_kind_of_addition_has_exactly_one_place() -> None:
    assert set(_FAMILY_OF) | set(_FIXED) == set(What)
    assert not set(_FAMILY_OF) & set(_FIXED)


def test_every_family_of_conversations_is_fed_by_additions() -> None:
    fed = {family.name for family in _FAMILY_OF.values()}
    assert fed == {family.name for family in accumulated() if family.scope in (Scope.CONVERSATIONS, Scope.COUNTED)}


def test_series_without_conversation_labels_exist_at_zero_from_the_start() -> None:
    ledger = Ledger(LabelLimits())
    for family in accumulated():
        expected = [] if family.scope is Scope.CONVERSATIONS else list(product(*family.values))
        assert [each.labels for each in ledger.series(family)] == expected
        assert not any(any(each.dump()) for each in ledger.series(family))


def test_a_label_set_is_born_with_all_its_series_at_zero() -> None:
    ledger = Ledger(LabelLimits())
    ledger.label_set(("main", "support"))
    for family in accumulated():
        if family.scope is Scope.CONVERSATIONS:
            expected = [("main", "support", *own) for own in product(*family.values)]
            assert [each.labels for each in ledger.series(family)] == expected


def test_additions_of_one_conversation_go_to_its_label_set_only() -> None:
    ledger = Ledger(LabelLimits())
    support, sales = ledger.label_set(("main", "support")), ledger.label_set(("main", "sales"))
    apply(ledger, support, TURN[Role.USER], TURN[Role.USER], ((What.FIRST_AUDIO,), 0.57))
    apply(ledger, sales, TURN[Role.USER])
    assert total(ledger, catalogue.TURNS, "main", "support", "user") == 2
    assert total(ledger, catalogue.TURNS, "main", "sales", "user") == 1
    assert total(ledger, catalogue.FIRST_AUDIO, "main", "support") == 570_000_000


def test_a_rare_role_gets_its_series_when_it_is_met() -> None:
    ledger = Ledger(LabelLimits())
    apply(ledger, ledger.label_set(("main", "support")), TURN[Role.OTHER], TURN[Role.OTHER])
    assert total(ledger, catalogue.TURNS, "main", "support", "other") == 2


def test_additions_without_conversation_labels_share_their_series() -> None:
    ledger = Ledger(LabelLimits())
    for agent in ("support", "sales"):
        apply(ledger, ledger.label_set(("main", agent)), rejected(Field.RESPONSE, Rejection.TOO_LARGE))
        apply(ledger, ledger.label_set(("main", agent)), ((What.UNKNOWN_TIMING,), 1), ((What.UNKNOWN_ROLE,), 1))
    assert total(ledger, catalogue.REJECTED_VALUES, "response", "too_large") == 2
    assert total(ledger, catalogue.UNKNOWN_FIELDS, "timings") == 2
    assert total(ledger, catalogue.UNKNOWN_WORDS, "role") == 2


# --- limits


def test_the_same_values_are_the_same_label_set() -> None:
    ledger = Ledger(LabelLimits())
    assert ledger.label_set(("main", "support")) is ledger.label_set(["main", "support"])


def test_ten_thousand_agents_are_folded_counted_and_bounded() -> None:
    ledger = Ledger(LabelLimits(values=100, sets=200))
    for number in range(10_000):
        apply(ledger, ledger.label_set(("main", f"agent {number}")), TURN[Role.USER])
    assert len(ledger.label_sets) == 101
    assert total(ledger, catalogue.LABEL_VALUES_FOLDED, "agent") == 9_900
    assert total(ledger, catalogue.TURNS, "main", OTHER, "user") == 9_900
    assert sum(each.dump()[0] for each in ledger.series(catalogue.TURNS)) == 10_000


def test_a_combination_beyond_the_limit_gets_other_for_all_its_labels() -> None:
    ledger = Ledger(LabelLimits(values=100, sets=2))
    for number in range(5):
        apply(ledger, ledger.label_set((f"project {number}", "support")), TURN[Role.USER])
    assert [each.values for each in ledger.label_sets] == [
        ("project 0", "support"), ("project 1", "support"), (OTHER, OTHER)
    ]  # fmt: skip
    assert total(ledger, catalogue.LABEL_VALUES_FOLDED, "label_set") == 3
    assert total(ledger, catalogue.TURNS, OTHER, OTHER, "user") == 3


def test_an_agent_really_called_other_is_no_news() -> None:
    ledger = Ledger(LabelLimits(values=1))
    assert ledger.label_set((OTHER, OTHER)).values == (OTHER, OTHER)
    assert total(ledger, catalogue.LABEL_VALUES_FOLDED, "agent") == 0


def test_label_sets_made_ahead_take_only_room_that_is_there() -> None:
    ledger = Ledger(LabelLimits(values=2, sets=2))
    ledger.label_set(("main", "called"))
    for agent in ("a", "b", "c"):
        ledger.expect(("main", agent))
    assert [each.values for each in ledger.label_sets] == [("main", "called"), ("main", "a")]
    assert not any(each.dump()[0] for each in ledger.series(catalogue.LABEL_VALUES_FOLDED))


def test_label_sets_made_ahead_give_way_to_conversations() -> None:
    ledger = Ledger(LabelLimits(values=100, sets=200))
    for number in range(10_000):
        ledger.expect(("main", f"idle {number}"))
    assert len(ledger.label_sets) == 100
    for number in range(102):
        apply(ledger, ledger.label_set(("main", f"busy {number}")), TURN[Role.USER])
    assert [each.values[1] for each in ledger.label_sets] == [*(f"busy {number}" for number in range(100)), OTHER]
    assert {each.labels[1] for each in ledger.series(catalogue.RESPONSE)} == {
        each.values[1] for each in ledger.label_sets
    }
    assert total(ledger, catalogue.LABEL_VALUES_FOLDED, "agent") == 2


def test_a_label_set_made_ahead_stays_once_a_conversation_has_it() -> None:
    ledger = Ledger(LabelLimits(values=100, sets=1))
    ledger.expect(("main", "support"))
    called = ledger.label_set(("main", "support"))
    assert ledger.label_set(("main", "sales")).values == (OTHER, OTHER)
    assert ledger.label_set(("main", "support")) is called


_NAMES = st.text("abcde", min_size=1, max_size=1)


@given(
    st.lists(st.tuples(_NAMES, st.text(max_size=2), st.booleans()), max_size=60),
    st.integers(1, 4),
    st.integers(1, 6),
)
def test_no_input_makes_more_label_sets_than_the_limits_allow(
    wanted: list[tuple[str, str, bool]], values: int, sets: int
) -> None:
    ledger = Ledger(LabelLimits(values=values, sets=sets))
    given_out: list[LabelSet] = []
    for project, agent, is_ahead in wanted:
        if is_ahead:
            ledger.expect((project, agent))
        else:
            given_out.append(ledger.label_set((project, agent)))
            assert ledger.label_set((project, agent)) is given_out[-1]
        assert len(ledger.label_sets) <= sets + 1
        for at in range(2):
            assert len({each.values[at] for each in ledger.label_sets} - {OTHER}) <= values
    assert all(each in ledger.label_sets for each in given_out)
    assert {each.labels for each in ledger.series(catalogue.CONVERSATIONS)} == {
        each.values for each in ledger.label_sets
    }


def test_without_chosen_labels_there_is_one_label_set() -> None:
    ledger = Ledger(LabelLimits(names=()))
    apply(ledger, ledger.label_set(()), TURN[Role.USER])
    assert total(ledger, catalogue.TURNS, "user") == 1
    assert ledger.value(catalogue.TURNS, "user").prefix == 'phonic_turns_total{role="user"} '  # type: ignore[union-attr]


# --- checkpoint


def filled() -> Ledger:
    ledger = Ledger(LabelLimits())
    label_set = ledger.label_set(("main", "support"))
    apply(ledger, label_set, TURN[Role.OTHER], ((What.FIRST_AUDIO,), 0.57), ((What.LOST, Lost.NEVER_LIVE), 1))
    ledger.count(catalogue.MESSAGES, MessageType.ERROR)
    return ledger


def changes(ledger: Ledger) -> list[SavedSeries]:
    frozen = ledger.freeze()
    ledger.publish(frozen)
    return list(frozen.rows())


def test_changes_are_the_guarded_series_that_changed_since_the_last_call() -> None:
    ledger = filled()
    assert {row.family for row in changes(ledger)} == {
        "phonic_turns", "phonic_turn_first_audio_seconds", "phonic_exporter_conversations_lost"
    }  # fmt: skip
    assert not ledger.freeze()
    apply(ledger, ledger.label_set(("main", "support")), TURN[Role.OTHER])
    assert changes(ledger) == [SavedSeries("phonic_turns", ("main", "support", "other"), (), (2,))]


def test_what_is_counted_past_any_label_set_is_saved_too() -> None:
    ledger = Ledger(LabelLimits())
    ledger.count(catalogue.CONVERSATIONS_LOST, Lost.NOT_FOUND)
    assert [row.numbers for row in changes(ledger)] == [(1,)]


def test_restored_numbers_go_on_where_they_were() -> None:
    restored = Ledger(LabelLimits())
    everything = filled().freeze(everything=True).rows()
    assert restored.restore(everything, families=saved_families()) == (set(), False)
    assert changes(restored) == []
    apply(restored, restored.label_set(("main", "support")), TURN[Role.OTHER], ((What.FIRST_AUDIO,), 0.43))
    assert total(restored, catalogue.TURNS, "main", "support", "other") == 2
    assert total(restored, catalogue.FIRST_AUDIO, "main", "support") == 1_000_000_000
    assert total(restored, catalogue.CONVERSATIONS_LOST, "never_live") == 1
    assert total(restored, catalogue.MESSAGES, "error") == 0


def test_everything_includes_the_series_at_zero() -> None:
    rows = list(filled().freeze(everything=True).rows())
    guarded = {each.name for each in accumulated() if each.scope in (Scope.CONVERSATIONS, Scope.COUNTED)}
    assert {row.family for row in rows} == guarded
    assert any(not any(row.numbers) for row in rows)


def test_a_changed_bucket_layout_goes_on_with_its_sum_its_count_and_its_common_bounds() -> None:
    family = catalogue.RESPONSE
    older = family.buckets[:-3]
    saved = SavedSeries(family.name, ("main", "support"), older, (90 * 10**9, *range(len(older)), 7))
    restored = Ledger(LabelLimits())
    unusable, is_outdated = restored.restore([saved], families=saved_families())
    assert (unusable, is_outdated) == (set(), True)
    nanos, *counts = restored.value(family, "main", "support").dump()
    assert nanos == 90 * 10**9
    assert counts == [*range(len(older)), 0, 0, 0, 7]


@given(st.data())
def test_no_cumulative_count_falls_under_any_other_bucket_layout(data: st.DataObject) -> None:
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


def test_a_row_with_too_few_numbers_costs_its_series_only() -> None:
    rows = changes(filled())
    damaged = [
        SavedSeries(row.family, row.labels, row.layout, row.numbers[:-1]) if row.layout else row for row in rows
    ]
    restored = Ledger(LabelLimits())
    assert restored.restore(damaged, families=saved_families())[0] == {"phonic_turn_first_audio_seconds"}
    assert total(restored, catalogue.TURNS, "main", "support", "other") == 1


def test_families_of_another_version_are_left_out() -> None:
    restored = Ledger(LabelLimits())
    unknown = SavedSeries("phonic_no_more", ("main", "support"), (), (7,))
    process = SavedSeries(catalogue.MESSAGES.name, ("error",), (), (7,))
    assert restored.restore([unknown, process], families=saved_families())[0] == set()
    assert total(restored, catalogue.MESSAGES, "error") == 0


def test_a_label_set_that_counted_nothing_yet_survives_a_restart_and_still_gives_way() -> None:
    ledger = Ledger(LabelLimits())
    ledger.expect(("main", "support"))
    restored = Ledger(LabelLimits(sets=1))
    restored.restore(changes(ledger), families=saved_families())
    assert total(restored, catalogue.TURNS, "main", "support", "user") == 0
    assert restored.label_set(("main", "sales")).values == ("main", "sales")
    assert [each.values for each in restored.label_sets] == [("main", "sales")]


def test_restored_label_values_use_up_the_limits() -> None:
    restored = Ledger(LabelLimits(values=1))
    restored.restore(changes(filled()), families=saved_families())
    assert restored.label_set(("main", "sales")).values == ("main", OTHER)


@pytest.mark.parametrize(
    "family", [each for each in CATALOGUE if each.kind is Kind.GAUGE], ids=lambda each: each.name
)
def test_gauges_are_not_accumulated(family: catalogue.Family) -> None:
    with pytest.raises(KeyError):
        Ledger(LabelLimits()).series(family)


# --- label sets that make room, and files that hold more of them than fit


def row(family: catalogue.Family, *labels: str, numbers: tuple[int, ...] = (0,)) -> SavedSeries:
    return SavedSeries(family.name, labels, family.buckets, numbers)


def test_a_label_set_of_an_older_file_that_made_room_and_came_back_is_saved_with_its_numbers_only() -> None:
    """Series of a family that the file's writer had not are held together, those of a dropped label set too."""
    ledger = Ledger(LabelLimits(sets=2), hold=30.0)
    families = [each for each in saved_families() if each != catalogue.TURNS.name]
    ledger.restore([row(catalogue.CONVERSATIONS, "main", "support")], families=families)
    ledger.label_set(("main", "sales"))
    ledger.label_set(("main", "billing"))  # takes the place of support's
    ledger.limits = LabelLimits(sets=3)
    apply(ledger, ledger.label_set(("main", "support")), TURN[Role.USER])
    ledger.seen(ledger.held_now(), 0.0, by_prometheus=False)
    ledger.release(1000.0)
    assert not ledger.held_count
    saved = [(each.family, each.labels) for each in ledger.freeze().rows()]
    assert len(saved) == len(set(saved))


def test_a_file_with_more_label_sets_than_fit_leaves_room_for_those_with_conversations() -> None:
    used = [row(catalogue.CONVERSATIONS, "main", f"used {each}", numbers=(1,)) for each in range(2)]
    spare = [row(catalogue.CONVERSATIONS, "main", f"spare {each}") for each in range(8)]
    ledger = Ledger(LabelLimits(sets=4))
    _, is_outdated = ledger.restore([*spare, *used], families=saved_families())
    assert is_outdated
    assert len(ledger.label_sets) == 4
    for name in ("new", "newer"):
        assert ledger.label_set(("main", name)).values == ("main", name)
    assert [each.values[1] for each in ledger.label_sets] == ["used 0", "used 1", "new", "newer"]
    assert total(ledger, catalogue.LABEL_VALUES_FOLDED, "label_set") == 0
