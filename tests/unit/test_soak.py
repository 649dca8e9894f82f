"""Parts of the soak: the oracle, the differences, the schedules."""

import ast
from pathlib import Path

import attrs
import pytest

from exporter.simulator.plan import plan
from exporter.simulator.scenario import Agent, Conversation, Project, Scenario, ToolCall, Turn
from tests.soak import oracle
from tests.soak.oracle import Totals, differences, expected, was_missed
from tests.soak.schedule import lives

PROJECT = Project(id="proj", name="main", max_active_conversations=None)
AGENT = Agent(
    id="agent",
    name="support",
    project=PROJECT,
    model_input_ms=0,
    generation_ms=0,
    spread=0,
    silence_ms=0,
    words=0,
    tool_rate=0,
    tool_id="tool",
)
TIMINGS = {
    "phonic_api_output_to_modal_input": 100,
    "model_generation_time": 400,
    "phonic_api_output_to_first_audio_chunk": 501,
}


def turn(index: int, role: str, started_ms: int, duration_ms: int, **more: object) -> Turn:
    given = {"timings": None, "silent": False, "tool_calls": (), "text": ""} | more
    return Turn(
        index=index,
        role=role,
        started_ms=started_ms,
        duration_ms=duration_ms,
        visible_ms=started_ms,
        timings_ms=started_ms,
        **given,  # type: ignore[arg-type]
    )


CALL = Conversation(
    id="conv",
    number=0,
    project=PROJECT,
    agent=AGENT,
    created_ms=1000,
    started_ms=2000,
    ended_ms=12_000,
    settle_ms=0,
    ended_by="error",
    turns=(
        turn(0, "user", 2000, 1000, tool_calls=(ToolCall(id="a", name="a", called_ms=0, failure="timeout"),)),
        turn(1, "assistant", 3650, 2000, timings=TIMINGS),
        turn(2, "user", 6000, 1000),
        turn(3, "assistant", 6900, 500, timings=TIMINGS),
        turn(4, "user", 8000, 1000),
        turn(5, "assistant", 9500, 0, silent=True),
    ),
    interruptions=2,
    origin="web",
    is_test=False,
    language="en",
    phonic_model="",
    welcome_message=None,
)


def without_buckets(totals: Totals) -> dict[str, float]:
    """Return totals by name and by role or reason; project and agent are the same for all."""
    shown = {}
    for (name, labels), value in totals.items():
        own = {label: text for label, text in labels if label not in ("project", "agent")}
        if "le" not in own:
            assert labels - own.items() == {("project", "main"), ("agent", "support")} or "lost" in name
            shown[" ".join([name.removeprefix("phonic_"), *sorted(own.values())])] = value
    return shown


def test_a_watched_call_counts_in_full() -> None:
    totals = expected([CALL], absences=[])
    assert without_buckets(totals) == {
        "conversations_total": 1,
        "conversations_ended_total error": 1,
        "conversation_errors_total error": 1,
        "conversation_duration_seconds_count": 1,
        "conversation_duration_seconds_sum": 10,
        "conversation_turns_count": 1,
        "conversation_turns_sum": 6,
        "interruptions_total": 2,
        "turns_total user": 3,
        "turns_total assistant": 3,
        "turn_duration_seconds_count user": 3,
        "turn_duration_seconds_sum user": 3,
        "turn_duration_seconds_count assistant": 3,
        "turn_duration_seconds_sum assistant": 2.5,
        "tool_calls_total": 1,
        "tool_call_failures_total timeout": 1,
        "silent_turns_total": 1,
        "turn_model_input_seconds_count": 2,
        "turn_model_input_seconds_sum": 0.2,
        "turn_model_generation_seconds_count": 2,
        "turn_model_generation_seconds_sum": 0.8,
        "turn_first_audio_seconds_count": 2,
        "turn_first_audio_seconds_sum": 1.002,
        "turn_response_seconds_count": 1,
        "turn_response_seconds_sum": 0.65,
        "turn_overlaps_total": 1,
        "tool_calls_completed_total a": 1,
        "tool_calls_failed_total a timeout": 1,
        "turn_end_of_turn_seconds_count": 1,
        "turn_end_of_turn_seconds_sum": 0.149,
        "turn_tool_response_seconds_count": 1,
        "turn_tool_response_seconds_sum": 0.65,
        "turn_user_response_seconds_count": 2,
        "turn_user_response_seconds_sum": 0.95,
    }
    named = {("project", "main"), ("agent", "support")}
    below = [
        totals["phonic_turn_response_seconds_bucket", frozenset({*named, ("le", le)})] for le in ("0.5", "0.65")
    ]
    assert below == [0, 1]


def test_a_missed_call_has_no_timings_and_is_lost() -> None:
    watched = without_buckets(expected([CALL], absences=[(1000, 12_000), (999, 11_999)]))
    missed = without_buckets(expected([CALL], absences=[(999, 12_000)]))
    told_live = ("_model_", "first_audio", "silent", "end_of_turn", "tool_response")
    gone = {name for name in watched if any(word in name for word in told_live)}
    lost = {"exporter_conversations_lost_total never_live": 1}
    assert missed == {name: value for name, value in watched.items() if name not in gone} | lost


def test_a_caller_who_waits_interrupts_and_hangs_up_counts_by_what_was_slow() -> None:
    slow = attrs.evolve(
        CALL,
        ended_by="user",
        turns=(
            turn(0, "assistant", 2600, 2000),
            turn(1, "user", 4000, 1000),
            turn(2, "assistant", 6600, 1000, timings=TIMINGS),
            turn(3, "user", 8000, 1000),
            turn(4, "assistant", 10_600, 500, timings={**TIMINGS, "model_generation_time": 1200}),
            turn(5, "user", 11_200, 300),
        ),
    )
    totals = without_buckets(expected([slow], absences=[]))
    names = ("slow_turns", "barge_ins", "greeting", "hangup")
    assert {name: value for name, value in totals.items() if any(each in name for each in names)} == {
        "slow_turns_total end_of_turn": 1,
        "slow_turns_total model_generation": 1,
        "turn_barge_ins_total": 1,
        "conversation_greeting_seconds_count": 1,
        "conversation_greeting_seconds_sum": 0.6,
        "conversation_hangup_wait_seconds_count": 1,
        "conversation_hangup_wait_seconds_sum": 0.5,
    }
    missed = without_buckets(expected([slow], absences=[(999, 12_000)]))
    assert missed["slow_turns_total unknown"] == 2


def test_history_does_not_count() -> None:
    scenario = Scenario(total=60, warm_up_s=600, calls_per_minute=4)
    counted = sum(
        value for (name, _), value in expected(plan(scenario), []).items() if name == "phonic_conversations_total"
    )
    assert 0 < counted == sum(each.ended_ms > 0 for each in plan(scenario)) < 60
    assert not was_missed(CALL, [])


def test_a_difference_names_family_labels_and_both_values() -> None:
    key = ("phonic_turns_total", frozenset({("role", "user"), ("agent", "x")}))
    assert differences({key: 2}, {key: 3.0}) == ["phonic_turns_total{agent='x', role='user'}: expected 2, got 3.0"]
    assert differences({key: 2}, {}) == ["phonic_turns_total{agent='x', role='user'}: expected 2, got 0"]
    assert differences({key: 2}, {key: 2.0, ("phonic_up_total", frozenset()): 0.0}) == []


@pytest.mark.parametrize(("kills", "long_downtimes"), [(3, 1), (20, 4), (1, 1), (5, 0), (0, 0)])
def test_schedules_have_the_requested_number_of_kills(kills: int, long_downtimes: int) -> None:
    for seed in range(50):
        drawn = lives(seed, kills=kills, seconds=60, long_downtimes=long_downtimes, long_downtime_s=8)
        assert drawn == lives(seed, kills=kills, seconds=60, long_downtimes=long_downtimes, long_downtime_s=8)
        assert sum(life.is_killed for life in drawn) == kills
        assert sum(life.downtime_s > 1 for life in drawn) == long_downtimes
        assert all(life.stillborn_s is None and not life.clock for life in drawn[:1])
        assert all(life.is_killed for life in drawn if life.stillborn_s is not None)


def test_the_oracle_imports_no_code_that_counts() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    ours = {module for module in imported if module.startswith(("exporter", "tests"))}
    assert ours == {"exporter.simulator.scenario"}
