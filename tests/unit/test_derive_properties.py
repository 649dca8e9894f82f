"""Exactly once: lost, repeated, late and damaged messages and restarts give the totals of one clean run.

What is expected is counted by `tests.strategies.Expected` from the plan of each conversation.
"""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from exporter.enums import Lost
from exporter.metrics.formats import Format
from exporter.phonic.schema import Snapshot
from tests.strategies import FAILURES, Expected, History, Stage, damaged, deliveries, histories
from tests.unit.counted import BUCKETS, Disk, live, new_conversations, page_of, recorded, totals

pytestmark = pytest.mark.usefixtures("quiet_logs")

Totals = dict[tuple[str, tuple[str, ...]], tuple[int, ...]]


def clean_run(history: History, **ending: Any) -> Totals:
    expected = Expected()
    expected.conversation(history, history.stages()[-1], **ending)
    return expected.totals(BUCKETS)


def snapshots(history: History) -> list[Snapshot]:
    return [live(each) for each in history.snapshots()]


@given(histories())
def test_each_message_once(history: History) -> None:
    conversations = new_conversations()
    for snapshot in snapshots(history):
        conversations.update(history.id, snapshot)
    assert totals(conversations) == clean_run(history)


@given(st.data())
def test_lost_repeated_stale_and_shuffled_messages_give_the_same_totals(data: st.DataObject) -> None:
    history = data.draw(histories())
    messages = snapshots(history)
    conversations = new_conversations()
    for at in data.draw(deliveries(len(messages))):
        conversations.update(history.id, messages[at])
    assert totals(conversations) == clean_run(history)
    conversations.finish(history.id, None)
    assert totals(conversations) == clean_run(history, finished=True)


@given(histories(), st.integers(1, 4))
def test_reconnects_repeat_the_newest_message_and_add_nothing(history: History, times: int) -> None:
    conversations = new_conversations()
    for snapshot in snapshots(history):
        for _ in range(times):
            conversations.stopped(history.id)
            conversations.update(history.id, snapshot)
    assert totals(conversations) == clean_run(history)


@given(st.data())
def test_any_number_of_kills_and_restarts_gives_the_same_totals(data: st.DataObject) -> None:
    history = data.draw(histories())
    messages = snapshots(history)
    conversations, disk = new_conversations(), Disk()
    for at in data.draw(deliveries(len(messages))):
        conversations.update(history.id, messages[at])
        if data.draw(st.booleans()):
            disk.save(conversations)
        if data.draw(st.integers(0, 3)) == 0:
            conversations = disk.restored(new_conversations())
    conversations.update(
        history.id, messages[-1]
    )  # a restart reconnects, and each connection begins with the whole conversation
    assert totals(conversations) == clean_run(history)
    conversations.finish(history.id, recorded(history.record()))
    assert totals(conversations) == clean_run(history, finished=True, record=True)


@given(st.data())
def test_the_record_brings_what_was_missed_and_doubles_nothing(data: st.DataObject) -> None:
    history = data.draw(histories())
    messages = snapshots(history)
    conversations = new_conversations()
    seen = data.draw(st.lists(st.integers(0, len(messages) - 1), max_size=5))
    for at in seen:
        conversations.update(history.id, messages[at])
    conversations.finish(history.id, recorded(history.record()))
    expected = Expected()
    furthest = history.stages()[max(seen)] if seen else None
    expected.conversation(history, furthest, finished=True, record=True)
    assert totals(conversations) == expected.totals(BUCKETS)


@given(histories())
def test_never_live_counts_the_same_from_the_record_alone_but_timings_and_silence(history: History) -> None:
    conversations = new_conversations()
    conversations.finish(history.id, recorded(history.record()), Lost.NEVER_LIVE)
    expected = Expected()
    expected.conversation(history, None, finished=True, record=True, lost="never_live")
    assert totals(conversations) == expected.totals(BUCKETS)


@given(st.data())
def test_messages_after_the_end_add_nothing(data: st.DataObject) -> None:
    history = data.draw(histories())
    conversations = new_conversations()
    for snapshot in (messages := snapshots(history)):
        conversations.update(history.id, snapshot)
    conversations.finish(history.id, recorded(history.record()))
    before = totals(conversations)
    conversations.update(history.id, data.draw(st.sampled_from(messages)))
    conversations.finish(history.id, recorded(history.record()))
    assert totals(conversations) == before


@given(st.data())
def test_families_about_the_same_turns_agree(data: st.DataObject) -> None:
    conversations = new_conversations()
    for number in range(2):
        history = data.draw(histories(f"conv_{number}"))
        for at in data.draw(deliveries(len(history.snapshots()))):
            conversations.update(history.id, live(history.snapshots()[at]))
        conversations.finish(history.id, recorded(history.record()))
    history = data.draw(histories("never live"))
    conversations.finish(history.id, recorded(history.record()), Lost.NEVER_LIVE)
    found: Totals = {}
    for (name, labels), numbers in totals(conversations).items():
        known = found.get((name, ()), (0,) * len(numbers))
        found[name, ()] = tuple(map(sum, zip(known, numbers, strict=True)))
        if name.startswith("phonic_tool_call"):
            found[name, labels[-1:]] = (found.get((name, labels[-1:]), (0,))[0] + numbers[0],)

    def buckets(name: str) -> list[int]:
        return list(found.get((name, ()), (0,) * (len(BUCKETS["phonic_turn_response_seconds"]) + 2))[1:])

    responses, with_tools = buckets("phonic_turn_response_seconds"), buckets("phonic_turn_tool_response_seconds")
    above = BUCKETS["phonic_turn_response_seconds"].index(1.5) + 1
    assert sum(responses[above:]) == found.get(("phonic_slow_turns_total", ()), (0,))[0]
    assert all(some <= every for some, every in zip(with_tools, responses, strict=True))
    for reason in ((), *((each,) for each in FAILURES if each)):
        failures = [found.get((f"phonic_tool_{name}_total", reason)) for name in ("call_failures", "calls_failed")]
        assert failures[0] == failures[1]
    ends_of_turn = found.get(("phonic_turn_end_of_turn_seconds", ()), (0,))
    assert sum(ends_of_turn[1:]) <= sum(responses)


@given(st.data())
def test_damaged_messages_break_nothing_and_repeat_nothing(data: st.DataObject) -> None:
    conversations = new_conversations()
    documents = histories().map(lambda history: history.snapshots()[-1])
    damage = [live({**each, "id": "conv_1"}) for each in data.draw(st.lists(damaged(documents), max_size=4))]
    for snapshot in damage:
        conversations.update("conv_1", snapshot)
        before = totals(conversations)
        conversations.update("conv_1", snapshot)
        assert totals(conversations) == before
    disk = Disk()
    disk.save(conversations)
    assert totals(disk.restored(new_conversations())) == totals(conversations)


class Exporter(RuleBasedStateMachine):
    """Several conversations, one exporter that is killed at any time, and a model that knows only the plans.

    The model remembers the furthest stage that arrived of each conversation and how it was finished, and
    forgets with the exporter what was not written down.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conversations = new_conversations()
        self.disk = Disk()
        self.plans: dict[str, History] = {}
        self.seen: dict[str, int] = {}
        self.finished: dict[str, bool] = {}
        self.written: tuple[dict[str, int], dict[str, bool]] = ({}, {})

    @precondition(lambda self: len(self.plans) < 4)
    @rule(data=st.data())
    def starts(self, data: st.DataObject) -> None:
        conversation_id = f"conv_{len(self.plans)}"
        self.plans[conversation_id] = data.draw(histories(conversation_id))

    @precondition(lambda self: self.plans)
    @rule(data=st.data())
    def message_arrives(self, data: st.DataObject) -> None:
        history = self.plans[data.draw(st.sampled_from(sorted(self.plans)))]
        at = data.draw(st.integers(0, len(history.stages()) - 1))
        self.conversations.update(history.id, live(history.snapshots()[at]))
        if history.id not in self.finished:
            self.seen[history.id] = max(at, self.seen.get(history.id, 0))

    @precondition(lambda self: self.plans)
    @rule(data=st.data(), with_record=st.booleans())
    def conversation_ends(self, data: st.DataObject, with_record: bool) -> None:
        history = self.plans[data.draw(st.sampled_from(sorted(self.plans)))]
        if not with_record and history.id not in self.seen:
            return
        self.conversations.ended(history.id)
        self.conversations.finish(history.id, recorded(history.record()) if with_record else None)
        self.finished.setdefault(history.id, with_record)

    @rule()
    def checkpoint(self) -> None:
        self.disk.save(self.conversations)
        self.written = (dict(self.seen), dict(self.finished))

    @rule()
    def killed_and_restarted(self) -> None:
        self.conversations = self.disk.restored(new_conversations())
        self.seen, self.finished = dict(self.written[0]), dict(self.written[1])

    @rule()
    def scraped(self) -> None:
        assert page_of(self.conversations).render(Format.TEXT_0_0_4)

    @invariant()
    def totals_are_those_of_the_plans(self) -> None:
        expected = Expected()
        for conversation_id, history in self.plans.items():
            at = self.seen.get(conversation_id)
            expected.conversation(
                history,
                self.stage(history, at),
                finished=conversation_id in self.finished,
                record=self.finished.get(conversation_id, False),
            )
        assert totals(self.conversations) == expected.totals(BUCKETS)

    @staticmethod
    def stage(history: History, at: int | None) -> Stage | None:
        return None if at is None else history.stages()[at]


TestExporter = Exporter.TestCase
TestExporter.settings = settings(stateful_step_count=25)
