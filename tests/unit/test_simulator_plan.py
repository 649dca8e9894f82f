"""The plan: reproducible, plausible, and the same in the live feed and in REST."""

import itertools
import json
from collections import Counter
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.simulator.faults import parse_fault
from exporter.simulator.plan import plan, workspace
from exporter.simulator.scenario import (
    FIRST_AUDIO,
    MODEL_GENERATION,
    MODEL_INPUT,
    Conversation,
    Scenario,
    change_times_ms,
    response_gaps_ms,
)
from exporter.simulator.views import LiveView, analysis, iso, rest_object

PAYLOADS = Path(__file__).parents[1] / "data" / "payloads"
EPOCH_MS = 1_753_919_100_123
WORKSPACE = workspace(Scenario())

SCENARIOS = st.builds(
    Scenario,
    seed=st.integers(0, 1000),
    pace=st.sampled_from([0.001, 0.02, 0.3, 1.0]),
    turns=st.integers(1, 20),
    total=st.just(6),
    projects=st.integers(1, 4),
    agents=st.integers(1, 9),
)


def live(conversation: Conversation, now_ms: int, over_ms: int | None = None) -> dict[str, Any]:
    return LiveView(conversation, WORKSPACE, EPOCH_MS).at(now_ms, over_ms=over_ms)


def rest(conversation: Conversation, now_ms: int, over_ms: int | None = None) -> dict[str, Any]:
    return rest_object(conversation, WORKSPACE, EPOCH_MS, now_ms, over_ms=over_ms)


def unix_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@given(SCENARIOS)
@settings(max_examples=25, deadline=None)
def test_equal_scenarios_give_equal_plans(scenario: Scenario) -> None:
    whole = list(plan(scenario))
    again = plan(scenario)
    assert whole == [next(again) for _ in whole]
    assert whole[:3] == list(itertools.islice(plan(attrs.evolve(scenario, total=None)), 3))


def test_another_seed_gives_other_conversations() -> None:
    first, second = (list(plan(Scenario(seed=seed, total=5))) for seed in (1, 2))
    assert {each.id for each in first}.isdisjoint(each.id for each in second)


def test_a_plan_has_every_documented_ending_and_all_kinds_of_turns() -> None:
    everything = list(plan(Scenario(total=2000, pace=0.02)))
    turns = [turn for each in everything for turn in each.turns]
    gaps = [
        after.started_ms - before.ended_ms
        for each in everything
        for before, after in pairwise(each.turns)
        if (before.role, after.role) == ("user", "assistant")
    ]
    assert len({each.id for each in everything}) == 2000
    assert {each.ended_by for each in everything} == {
        "user",
        "user_canceled",
        "user_validation_failed",
        "assistant",
        "assistant_silence_limit_reached",
        "configuration_endpoint_timed_out",
        "configuration_endpoint_error",
        "configuration_endpoint_invalid_response",
        "error",
    }
    assert {call.failure for turn in turns for call in turn.tool_calls} == {
        None,
        "timeout",
        "http_4xx",
        "http_5xx",
        "error",
    }
    assert any(call for turn in turns if turn.role == "user" for call in turn.tool_calls)
    assert any(turn.silent for turn in turns)
    assert min(gaps) < 0 < max(gaps)
    assert any(each.interruptions for each in everything)
    assert any(each.agent is None for each in everything)
    assert any(each.started_ms is None for each in everything)
    assert any(each.turns and each.turns[-1].role == "user" for each in everything)
    assert any(
        each.turns and each.turns[0].role == "assistant" and not each.turns[0].timings for each in everything
    )
    assert any(turn.timings and turn.timings_ms > turn.visible_ms for turn in turns)
    assert {each.project.name for each in everything} >= {"main", "customer support", "Réservations ☎"}


def test_latencies_are_realistic() -> None:
    everything = list(plan(Scenario(total=300)))
    reported = [turn.timings for each in everything for turn in each.turns if turn.timings]
    gaps = [gap for each in everything for gap in response_gaps_ms(each.turns)]
    audio = quantiles((timings[FIRST_AUDIO] for timings in reported), n=100)
    assert 400 < median(gaps) < 1500
    assert 350 < audio[49] < 900
    assert audio[98] > 2 * audio[49]
    sums = [timings[MODEL_INPUT] + timings[MODEL_GENERATION] - timings[FIRST_AUDIO] for timings in reported]
    assert max(map(abs, sums)) < 10
    assert any(sums)
    assert 30_000 < median(each.duration_ms for each in everything) < 300_000


@given(SCENARIOS)
@settings(max_examples=25, deadline=None)
def test_timelines_are_consistent_for_any_pace_and_seed(scenario: Scenario) -> None:
    for conversation in plan(scenario):
        assert [turn.index for turn in conversation.turns] == list(range(len(conversation.turns)))
        for before, after in pairwise(conversation.turns):
            assert before.started_ms <= after.started_ms
            assert after.visible_ms >= max(after.started_ms, before.ended_ms)
        for turn in conversation.turns:
            assert turn.duration_ms > 0 or turn.silent
            assert turn.ended_ms <= conversation.ended_ms
            assert turn.timings_ms <= conversation.ended_ms
        assert conversation.created_ms < conversation.ended_ms


@given(SCENARIOS)
@settings(max_examples=15, deadline=None)
def test_last_live_snapshot_and_rest_agree(scenario: Scenario) -> None:
    shared = ("id", "item_idx", "role", "started_at", "duration_ms")
    for conversation in plan(scenario):
        end = conversation.ended_ms
        last = live(conversation, end)
        record = rest(conversation, end + conversation.settle_ms, over_ms=end)
        assert [[item[key] for key in shared] for item in last["items"]] == [
            [item[key] for key in shared] for item in record["items"]
        ]
        assert [item["tool_call_ids"] for item in last["items"]] == [
            [call["id"] for call in item["tool_calls"]] for item in record["items"]
        ]
        assert last["duration_ms"] == record["duration_ms"]
        assert last["started_at"] == record["started_at"]
        gaps = [
            unix_ms(after["started_at"]) - unix_ms(before["started_at"]) - before["duration_ms"]
            for before, after in pairwise(last["items"])
            if (before["role"], after["role"]) == ("user", "assistant")
            and not after["assistant_chose_not_to_respond"]
        ]
        assert record["analysis"]["latencies_ms"] == [gap for gap in gaps if gap >= 0]
        assert record["analysis"]["interruptions_count"] == conversation.interruptions


@given(SCENARIOS)
@settings(max_examples=15, deadline=None)
def test_snapshots_only_grow_and_change_only_at_change_times(scenario: Scenario) -> None:
    for conversation in plan(scenario):
        view = LiveView(conversation, workspace(scenario), EPOCH_MS)
        times = change_times_ms(conversation)
        snapshots = [view.at(time) for time in times]
        assert all(
            moment["items"] == live(conversation, time)["items"]
            for time, moment in zip(times, snapshots, strict=True)
        )
        for before, after in pairwise(snapshots):
            assert len(before["items"]) <= len(after["items"])
            for old, new in zip(before["items"], after["items"], strict=False):
                assert old["duration_ms"] <= new["duration_ms"]
                assert new["text"].startswith(old["text"])
                assert old.get("timings", new.get("timings")) == new.get("timings")
            for settled in before["items"][:-1]:
                assert settled["duration_ms"] == after["items"][settled["item_idx"]]["duration_ms"]
        # Between two change times the set of turns and of timings stays the same.
        for time, moment in zip(times[1:], snapshots, strict=False):
            between = live(conversation, time - 1)
            assert [len(item) for item in between["items"]] == [len(item) for item in moment["items"]]


def test_an_earlier_snapshot_can_be_taken_again() -> None:
    conversation = next(each for each in plan(Scenario(total=50)) if len(each.turns) > 6)
    view = LiveView(conversation, WORKSPACE, EPOCH_MS)
    middle = conversation.turns[3].visible_ms
    first = json.dumps(view.at(middle))
    view.at(conversation.ended_ms)
    assert json.dumps(view.at(middle)) == first


def test_live_object_has_exactly_the_documented_fields() -> None:
    example = json.loads((PAYLOADS / "live_conversation_updated.co.json").read_text())["conversation"]
    conversation = next(each for each in plan(Scenario(total=50)) if len(each.turns) > 6 and each.agent)
    view = live(conversation, conversation.ended_ms)
    assert view.keys() ^ example.keys() == {"is_welcome_message_interruptible"}
    assert view["agent"].keys() == example["agent"].keys()
    documented = {item["role"]: item.keys() for item in example["items"]}
    for item in view["items"]:
        assert item.keys() - {"timings"} == documented[item["role"]] - {"timings"}
        if "timings" in item:
            assert item["role"] == "assistant"
            assert item["timings"].keys() == example["items"][0]["timings"].keys()
    assert (view["is_live"], view["ended_at"], view["end_reason"]) == (True, None, None)


def test_rest_object_has_the_documented_fields() -> None:
    example = json.loads((PAYLOADS / "rest_conversation_get.json").read_text())["conversation"]
    conversation = next(
        each
        for each in plan(Scenario(total=90))
        if any(turn.tool_calls for turn in each.turns[1:]) and each.by_phone
    )
    record = rest(conversation, conversation.ended_ms + conversation.settle_ms, over_ms=conversation.ended_ms)
    assert example.keys() <= record.keys()
    called = next(item for item in record["items"] if item["tool_calls"] and item["role"] == "assistant")
    assert example["items"][1].keys() <= called.keys()
    assert example["items"][1]["tool_calls"][0].keys() <= called["tool_calls"][0].keys()
    assert not any("timings" in item for item in record["items"])


def test_the_end_appears_step_by_step_in_rest() -> None:
    conversation = next(each for each in plan(Scenario(total=50)) if each.turns and each.ended_by == "user")
    end = conversation.ended_ms
    during, just_over, later = (
        rest(conversation, conversation.turns[0].visible_ms),
        rest(conversation, end, over_ms=end),
        rest(conversation, end + conversation.settle_ms, over_ms=end),
    )
    assert (during["ended_at"], during["duration_ms"], during["ended_by"], during["analysis"]) == (None,) * 4
    assert just_over["ended_at"] == iso(EPOCH_MS + end)
    assert (just_over["ended_by"], just_over["analysis"]) == (None, None)
    assert later["ended_by"] == "user"
    assert later["analysis"] == analysis(conversation)


def test_a_ringing_conversation_has_no_start() -> None:
    conversation = next(plan(Scenario(total=1)))
    assert live(conversation, conversation.created_ms)["started_at"] is None
    assert rest(conversation, conversation.created_ms)["started_at"] is None


def test_timestamps_keep_every_millisecond() -> None:
    assert [unix_ms(iso(EPOCH_MS + ms)) for ms in range(1000)] == [EPOCH_MS + ms for ms in range(1000)]


def test_a_session_token_sees_the_reduced_object_with_timings() -> None:
    conversation = next(each for each in plan(Scenario(total=50)) if len(each.turns) > 6)
    view = LiveView(conversation, WORKSPACE, EPOCH_MS).at(conversation.ended_ms, reduced=True)
    assert view.keys() == {
        "id",
        "external_id",
        "origin",
        "agent",
        "items",
        "text",
        "summary",
        "duration_ms",
        "started_at",
        "ended_at",
        "assistant_end_conversation_signal_at",
        "is_live",
    }
    assert any("timings" in item for item in view["items"])


def test_a_slow_model_slows_only_the_turns_in_its_window() -> None:
    usual = list(plan(Scenario(total=200)))
    slow = list(plan(Scenario(total=200, faults=(parse_fault("slow-model=5@0:600"),))))

    def generation(conversations: list[Conversation], *, inside: bool) -> float:
        return median(
            turn.timings[MODEL_GENERATION]
            for each in conversations
            for turn in each.turns
            if turn.timings and (20_000 <= turn.visible_ms < 600_000) == inside
        )

    assert generation(slow, inside=True) > 3 * generation(usual, inside=True)
    assert generation(slow, inside=False) < 1.3 * generation(usual, inside=False)


@pytest.mark.parametrize("faults", ["latency-spike=0.5", "error-wave=1"])
def test_planned_faults_change_the_plan(faults: str) -> None:
    usual, struck = (list(plan(Scenario(total=100, faults=active))) for active in ((), (parse_fault(faults),)))
    slow = [
        sum(t.timings[MODEL_GENERATION] > 2000 for each in some for t in each.turns if t.timings)
        for some in (usual, struck)
    ]
    errors = [Counter(each.ended_by for each in some)["error"] for some in (usual, struck)]
    assert (slow[1] > 5 * slow[0]) == (faults == "latency-spike=0.5")
    assert (errors[1] == 100) == (faults == "error-wave=1")


def by_kind(conversations: list[Conversation], kind: str) -> float:
    """Median of one timing of all turns that have it."""
    return median(turn.timings[kind] for each in conversations for turn in each.turns if turn.timings)


@pytest.mark.parametrize(
    ("fault", "slower"),
    [("slow-input=9", {MODEL_INPUT}), ("slow-model=9", {MODEL_GENERATION}), ("slow-end-of-turn=9", {"end"})],
)
def test_each_stage_is_slowed_alone(fault: str, slower: set[str]) -> None:
    usual, slow = (list(plan(Scenario(total=100, faults=active))) for active in ((), (parse_fault(fault),)))

    def ends(conversations: list[Conversation]) -> float:
        """Median of what is left of a response without its first audio."""
        return median(
            after.started_ms - before.ended_ms - after.timings[FIRST_AUDIO]
            for each in conversations
            for before, after in pairwise(each.turns)
            if (before.role, after.role) == ("user", "assistant") and after.timings
        )

    grown = {kind for kind in (MODEL_INPUT, MODEL_GENERATION) if by_kind(slow, kind) > 3 * by_kind(usual, kind)}
    if ends(slow) > 3 * ends(usual):
        grown.add("end")
    assert grown == slower


def test_slow_tools_delay_only_answers_that_have_to_do_with_tools() -> None:
    usual, slow = (
        list(plan(Scenario(total=300, faults=active))) for active in ((), (parse_fault("slow-tools=1"),))
    )
    delays: dict[bool, set[bool]] = {False: set(), True: set()}
    for one, other in zip(usual, slow, strict=True):
        for (asked, before), (_, after) in zip(pairwise(one.turns), pairwise(other.turns), strict=True):
            if before.timings and (asked.role, before.role) == ("user", "assistant") and after.timings:
                later = after.timings[FIRST_AUDIO] - before.timings[FIRST_AUDIO]
                assert later == after.timings[MODEL_GENERATION] - before.timings[MODEL_GENERATION]
                early = before.started_ms < asked.ended_ms  # an answer that began too early did not wait
                delays[bool(asked.tool_calls or before.tool_calls) and not early].add(later >= 2000)
    assert delays == {False: {False}, True: {True}}


def test_callers_without_an_answer_hang_up_after_a_while() -> None:
    for each in plan(Scenario(total=100, faults=(parse_fault("no-answer=1"),))):
        asked = [turn for turn in each.turns if turn.role == "user"]
        if asked:
            assert each.ended_by == "user"
            assert each.turns[-1] is asked[0]
            assert 6000 <= each.ended_ms - each.turns[-1].ended_ms <= 20_000


def test_without_that_fault_a_caller_who_says_goodbye_waits_for_no_answer() -> None:
    waits = [
        each.ended_ms - each.turns[-1].ended_ms
        for each in plan(Scenario(total=500))
        if each.ended_by == "user" and each.turns and each.turns[-1].role == "user"
    ]
    assert len(waits) > 50
    assert sum(wait > 1500 for wait in waits) < 0.05 * len(waits)


def test_callers_barge_in_as_often_as_the_fault_says() -> None:
    conversations = list(plan(Scenario(total=100, faults=(parse_fault("barge-in=0.5"),))))
    pairs = [
        after.started_ms < before.ended_ms
        for each in conversations
        for before, after in pairwise(each.turns)
        if (before.role, after.role) == ("assistant", "user")
    ]
    assert 0.4 < sum(pairs) / len(pairs) < 0.65
    assert sum(each.interruptions for each in conversations) == sum(pairs)


def test_failing_calls_of_one_tool_are_in_the_records() -> None:
    calls: Counter[tuple[str, bool]] = Counter()
    for each in plan(Scenario(total=400, faults=(parse_fault("tool-failures=1"),))):
        for item in rest(each, each.ended_ms, over_ms=each.ended_ms)["items"]:
            for call in item["tool_calls"]:
                failed = call["timed_out"] or call["error_message"] or (call["response_status_code"] or 0) >= 400
                calls[call["tool"]["name"], bool(failed)] += 1
    assert calls["create_ticket", True] > 50
    assert calls["create_ticket", False] == 0
    assert calls["find_customer", False] > 5 * calls["find_customer", True]
