"""Progress and numbers of many conversations: labels, live gauges, ends and restarts."""

from typing import Any

import pytest

from exporter.conversations import Conversations
from exporter.counting import retention
from exporter.counting.labels import OTHER
from exporter.enums import DecodePath, Drift, FeedError, Invalid, Lost, MessageType, Reconciled
from exporter.metrics import catalog
from exporter.metrics.formats import Format
from exporter.metrics.series import Counter
from exporter.metrics.store import LabelLimits, saved_families
from exporter.phonic.schema import Agent, Conversation, Item, Project, Snapshot
from exporter.state.rows import Changes, Saved, SavedConversation
from tests.unit.counted import (
    NOW,
    Disk,
    live,
    new_conversations,
    numbers_of,
    one_series,
    page_of,
    series_of,
    totals,
)

pytestmark = pytest.mark.usefixtures("quiet_logs")


class Clock:
    """Unix time that the test advances."""

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> float:
        return self.time


def conversation(conversation_id: str = "conv_1", **fields: Any) -> Snapshot:
    fields = {"project_id": "proj_1", "agent": Agent("agent_1", "support"), "items": [], **fields}
    return Snapshot(conversation=Conversation(conversation_id, **fields))


def turns(*roles: str, **fields: Any) -> Snapshot:
    return conversation(items=[Item(item_idx=at, role=role) for at, role in enumerate(roles)], **fields)


def count(conversations: Conversations, family: catalog.Family, *labels: str) -> int:
    return numbers_of(one_series(conversations.store, family, *labels))[0]


def label_sets(conversations: Conversations) -> list[tuple[str, ...]]:
    return [each.values for each in conversations.store.label_sets]


def saved(conversations: Conversations, *, everything: bool = False) -> Changes:
    """The changes of a write that succeeded."""
    changes = conversations.changes(everything=everything)
    conversations.committed(changes)
    return changes


def restarted(conversations: Conversations, **options: Any) -> Conversations:
    disk = Disk()
    disk.save(conversations)
    return disk.restored(new_conversations(**options))


# --- reports of watchers


def test_reports_of_watchers_are_counted() -> None:
    conversations = new_conversations()
    conversations.connected("conv_1")
    conversations.message(MessageType.CONVERSATION_UPDATED, 100)
    conversations.message(MessageType.ERROR, 10)
    conversations.decoded(DecodePath.FULL)
    conversations.decoded(DecodePath.INCREMENTAL)
    conversations.decoded(DecodePath.INCREMENTAL)
    conversations.superseded(3, 300)
    conversations.invalid("conv_1", Invalid.NOT_JSON)
    conversations.feed_error("conv_1", FeedError.NO_PONG)
    conversations.crashed("conv_1")
    conversations.over_limit("conv_1")
    conversations.reconciled(Reconciled.COMPLETE)
    conversations.drift({(Drift.ITEM, "tone"), (Drift.ITEM, "mood"), (Drift.CONVERSATION, "x")})
    counted = {
        each.prefix.strip(): each.total
        for family in catalog.CATALOG
        if family.scope is catalog.Scope.PROCESS
        for each in series_of(conversations.store, family)
        if isinstance(each, Counter) and numbers_of(each)[0]
    }
    assert counted == {
        "phonic_exporter_feed_connects_total": 1,
        "phonic_exporter_updates_total": 4,
        "phonic_exporter_update_bytes_total": 400,
        "phonic_exporter_updates_superseded_total": 3,
        'phonic_exporter_decodes_total{path="full"}': 1,
        'phonic_exporter_decodes_total{path="incremental"}': 2,
        'phonic_exporter_messages_total{message="conversation-updated"}': 4,
        'phonic_exporter_messages_total{message="error"}': 1,
        'phonic_exporter_invalid_messages_total{reason="not_json"}': 1,
        'phonic_exporter_feed_errors_total{reason="no_pong"}': 1,
        "phonic_exporter_watcher_crashes_total": 1,
        "phonic_exporter_conversations_refused_total": 1,
        'phonic_exporter_reconciliations_total{result="complete"}': 1,
        'phonic_exporter_unknown_fields_total{object="item"}': 2,
        'phonic_exporter_unknown_fields_total{object="conversation"}': 1,
    }


# --- labels


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({}, ("proj_1", "support")),
        ({"agent": None}, ("proj_1", "none")),
        ({"agent": Agent(None, None)}, ("proj_1", "none")),
        ({"agent": Agent("agent_1", None)}, ("proj_1", "agent_1")),
        ({"agent": Agent("agent_1", "")}, ("proj_1", "agent_1")),
        ({"project_id": None}, ("none", "support")),
        ({"project_id": None, "project": Project("proj_9", "sales team")}, ("sales team", "support")),
        ({"project_id": None, "project": Project("proj_9", None)}, ("proj_9", "support")),
        ({"project_id": "proj_2"}, ("learnt", "support")),
        ({"agent": Agent("agent_1", "x" * 500)}, ("proj_1", "x" * 200)),
        ({"agent": Agent("agent_1", "a\ud800")}, ("proj_1", "a?")),
    ],
)
def test_labels_are_names_else_ids_else_none(fields: dict[str, Any], labels: tuple[str, str]) -> None:
    conversations = new_conversations()
    conversations.learn_projects({"proj_2": "learnt"})
    conversations.update("conv_1", conversation(**fields))
    assert label_sets(conversations) == [labels]


def test_all_labels_may_be_chosen() -> None:
    conversations = new_conversations(
        LabelLimits(names=("model", "language", "call_provider", "is_test", "origin", "agent", "project"))
    )
    conversations.update("conv_1", conversation(origin="inbound", is_test=True, default_language="en"))
    conversations.update(
        "conv_2", conversation(origin="carrier pigeon", is_test=False, model="merritt", call_provider="twilio")
    )
    assert label_sets(conversations) == [
        ("unknown", "en", "unknown", "true", "inbound", "support", "proj_1"),
        ("merritt", "unknown", "twilio", "false", "other", "support", "proj_1"),
    ]
    assert count(conversations, catalog.UNKNOWN_WORDS, "origin") == 1


def test_labels_do_not_change_after_a_conversation_is_first_seen() -> None:
    conversations = new_conversations()
    conversations.update("conv_1", turns("user"))
    conversations.learn_projects({"proj_1": "main"})
    conversations.update("conv_1", turns("user", "assistant", agent=Agent("agent_1", "renamed")))
    assert label_sets(conversations) == [("proj_1", "support")]
    assert count(conversations, catalog.TURNS, "proj_1", "support", "assistant") == 1


def test_listed_agents_have_series_before_their_first_conversation() -> None:
    conversations = new_conversations()
    conversations.learn_agents("main", [("agent_1", "support"), ("agent_2", "sales")])
    assert label_sets(conversations) == [("main", "support"), ("main", "sales")]
    assert list(conversations.agents()) == [
        (("main", "support", "agent_1"), 1.0),
        (("main", "sales", "agent_2"), 1.0),
    ]
    assert totals(conversations) == {}


def test_agents_with_conversations_replace_agents_without() -> None:
    conversations = new_conversations(LabelLimits(sets=3))
    conversations.learn_agents("proj_1", [(f"agent_{number}", f"agent {number}") for number in range(10, 15)])
    for number in range(5):
        conversations.update(f"conv_{number}", turns("user", agent=Agent(f"agent_{number}", f"agent {number}")))
    conversations.learn_agents("proj_1", [("agent_1", "agent 1"), ("agent_10", "agent 10")])
    assert [agent for (_, agent, _), _ in conversations.agents()] == ["agent 0", "agent 1", "agent 2"]


def test_listed_agents_have_no_series_if_other_labels_are_chosen() -> None:
    conversations = new_conversations(LabelLimits(names=("agent", "origin")))
    conversations.learn_agents("main", [("agent_1", "support")])
    assert label_sets(conversations) == []


def test_agents_of_snapshots_join_names_to_ids() -> None:
    conversations = new_conversations()
    conversations.update("conv_1", conversation())
    assert list(conversations.agents()) == [(("proj_1", "support", "agent_1"), 1.0)]


def test_ten_thousand_agents_leave_the_page_small_and_the_sums_right() -> None:
    conversations = new_conversations()
    for number in range(10_000):
        conversations.update(f"conv_{number}", turns("user", agent=Agent(f"agent_{number}", f"agent {number}")))
    page = page_of(conversations).render(Format.TEXT_0_0_4).decode()
    turns_by_user = [
        line for line in page.splitlines() if line.startswith("phonic_turns_total") and '"user"' in line
    ]
    assert len(turns_by_user) == 101
    assert sum(float(line.rsplit(" ", 1)[1]) for line in turns_by_user) == 10_000
    assert f'phonic_turns_total{{agent="{OTHER}",project="proj_1",role="user"}} 9900.0' in turns_by_user
    assert len(list(conversations.agents())) <= conversations.store.limits.sets
    assert len(page) < 3_000_000


# --- live


def shown(conversations: Conversations) -> list[str]:
    return [each.conversation_id for each in conversations.live_entries()]


def test_a_conversation_is_live_from_its_first_snapshot_until_it_ends() -> None:
    conversations = new_conversations()
    assert conversations.live_counts() == []
    conversations.update("conv_1", conversation())
    assert shown(conversations) == ["conv_1"]
    assert conversations.live_counts() == [('{agent="support",project="proj_1"}', 1)]
    conversations.ended("conv_1")
    conversations.update("conv_1", conversation())
    assert shown(conversations) == []
    assert conversations.live_counts() == [('{agent="support",project="proj_1"}', 0)]


def test_a_conversation_without_a_watcher_is_not_live_until_its_next_snapshot() -> None:
    conversations = new_conversations()
    conversations.update("conv_1", conversation())
    conversations.stopped("conv_1")
    assert shown(conversations) == []
    conversations.update("conv_1", conversation())
    assert shown(conversations) == ["conv_1"]


def test_the_waiting_gauge_is_absent_while_the_connection_is_lost() -> None:
    asked = conversation(items=[Item(role="user", started_at="2025-07-31T00:00:00Z", duration_ms=1000.0)])
    conversations = new_conversations()
    conversations.update("conv_1", asked)
    assert waiting(conversations)
    conversations.feed_error("conv_1", FeedError.NO_PONG)
    assert not waiting(conversations)
    assert shown(conversations) == ["conv_1"]
    conversations.update("conv_1", asked)
    assert waiting(conversations)


def waiting(conversations: Conversations) -> bool:
    return f"\n{catalog.LIVE_WAITING_SINCE.name}{{" in page_of(conversations).render(Format.TEXT_0_0_4).decode()


@pytest.mark.parametrize("limit", [0, 2, 5])
def test_at_most_the_limit_of_conversations_have_series_of_their_own(limit: int) -> None:
    conversations = new_conversations(live_limit=limit)
    for number in range(4):
        conversations.update(f"conv_{number}", conversation(f"conv_{number}"))
    assert shown(conversations) == [f"conv_{number}" for number in range(min(limit, 4))]
    assert conversations.live_counts() == [('{agent="support",project="proj_1"}', 4)]


# --- ends


def test_an_end_counts_once_and_is_remembered() -> None:
    conversations = new_conversations()
    conversations.update("conv_1", turns("user"))
    conversations.finish("conv_1", None)
    assert (
        conversations.is_finished("conv_1"),
        conversations.has_seen("conv_1"),
        conversations.entry("conv_1"),
    ) == (True, False, None)
    before = totals(conversations)
    conversations.finish("conv_1", turns("user", "assistant"))
    conversations.update("conv_1", turns("user", "assistant"))
    conversations.forget("conv_1")
    assert {key: value for key, value in totals(conversations).items() if "lost" not in key[0]} == before


def test_a_conversation_known_only_from_rest_is_counted() -> None:
    conversations = new_conversations()
    conversations.finish("conv_1", turns("user", ended_by="user"), Lost.NEVER_LIVE)
    assert count(conversations, catalog.CONVERSATIONS_ENDED, "proj_1", "support", "user") == 1
    assert count(conversations, catalog.CONVERSATIONS_LOST, "never_live") == 1


def test_forgetting_a_seen_conversation_ends_it_and_an_unseen_one_is_lost_once_in_ten_minutes() -> None:
    clock = Clock()
    conversations = new_conversations(now=clock)
    conversations.update("conv_1", conversation())
    conversations.forget("conv_1")
    conversations.forget("conv_2")
    conversations.forget("conv_2")
    assert count(conversations, catalog.CONVERSATIONS_ENDED, "proj_1", "support", "unknown") == 1
    assert count(conversations, catalog.CONVERSATIONS_LOST, "not_found") == 1
    assert (conversations.is_finished("conv_1"), conversations.is_finished("conv_2")) == (True, True)
    clock.time += 601
    conversations.expire(is_followed=not_followed)
    assert (conversations.is_finished("conv_1"), conversations.is_finished("conv_2")) == (True, False)


def not_followed(_: str) -> bool:
    return False


def test_ends_and_abandoned_conversations_are_forgotten_after_a_day() -> None:
    clock = Clock()
    conversations = new_conversations(now=clock)
    for each in ("finished", "abandoned", "refused", "over"):
        conversations.update(each, conversation(each))
    conversations.finish("finished", None)
    conversations.stopped("abandoned")
    conversations.stopped("refused")
    conversations.ended("over")
    saved(conversations)
    clock.time += retention.UNHEARD - 1
    conversations.expire(is_followed=not_followed)
    assert conversations.is_finished("finished")
    assert conversations.has_seen("abandoned")
    clock.time += 2
    conversations.expire(is_followed={"refused", "over"}.__contains__)
    assert not conversations.is_finished("finished")
    assert [each for each, _ in conversations.unfinished()] == ["refused", "over"]
    assert saved(conversations).forgotten == ["abandoned"]


def test_an_end_is_remembered_for_24_to_25_hours() -> None:
    clock = Clock()
    conversations = new_conversations(now=clock)
    for _ in range(5):
        conversations.update("conv_1", conversation())
        conversations.finish("conv_1", None)
        clock.time += retention.ENDED - 1
        conversations.expire(is_followed=not_followed)
        assert conversations.is_finished("conv_1")
        clock.time += 3601
        conversations.expire(is_followed=not_followed)
        assert not conversations.is_finished("conv_1")


# --- restart


def test_a_restart_keeps_numbers_progress_labels_and_ends() -> None:
    conversations = new_conversations()
    conversations.update("running", turns("user"))
    conversations.update("over", turns("user"))
    conversations.ended("over")
    conversations.update("finished", turns("user"))
    conversations.finish("finished", None)
    again = restarted(conversations)
    assert totals(again) == totals(conversations)
    assert sorted(again.unfinished()) == [("over", True), ("running", False)]
    assert again.is_finished("finished")
    assert shown(again) == []
    again.update("running", turns("user", "assistant", agent=None))
    assert count(again, catalog.TURNS, "proj_1", "support", "user") == 3
    assert count(again, catalog.TURNS, "proj_1", "support", "assistant") == 1
    assert shown(again) == ["running"]


def test_a_conversation_without_messages_for_a_day_is_over_after_any_number_of_restarts() -> None:
    clock = Clock()
    conversations = new_conversations(now=clock)
    conversations.update("conv_1", conversation("conv_1"))
    for _ in range(3):
        disk = Disk()
        disk.save(conversations)
        conversations = disk.restored(new_conversations(now=clock))
        assert list(conversations.unfinished()) == [("conv_1", clock.time - NOW >= retention.UNHEARD)]
        clock.time += retention.UNHEARD / 2


def test_changes_hold_only_what_changed() -> None:
    conversations = new_conversations()
    conversations.update("conv_1", turns("user"))
    assert saved(conversations)
    assert not saved(conversations)
    conversations.update("conv_2", conversation("conv_2"))
    assert [each.id for each in saved(conversations).conversations()] == ["conv_2"]
    everything = saved(conversations, everything=True)
    assert [each.id for each in everything.conversations()] == ["conv_1", "conv_2"]


def test_changes_of_a_failed_write_are_in_the_next_one_with_their_latest_values() -> None:
    conversations = new_conversations()
    conversations.update("conv_1", turns("user"))
    conversations.update("conv_2", turns("user"))
    conversations.update("conv_3", turns("user"))
    conversations.finish("conv_3", None)
    failed = conversations.changes()
    conversations.update("conv_1", turns("user", "user"))
    conversations.finish("conv_2", None)
    conversations.put_back(failed)
    again = restarted(conversations)
    assert totals(again) == totals(conversations)
    assert [each for each, _ in again.unfinished()] == ["conv_1"]
    assert again.is_finished("conv_2")
    assert again.is_finished("conv_3")


def test_a_conversation_folded_before_a_restart_stays_folded_after_it() -> None:
    limits = LabelLimits(values=1)
    conversations = new_conversations(limits)
    conversations.update("conv_0", turns("user", agent=Agent("agent_0", "known")))
    conversations.update("conv_1", turns("user"))
    again = restarted(conversations, limits=limits)
    again.update("conv_1", turns("user", "user"))
    assert count(again, catalog.TURNS, "proj_1", OTHER, "user") == 2


def test_after_a_change_of_labels_labelled_families_start_again_and_a_reset_is_counted() -> None:
    conversations = new_conversations()
    conversations.update("conv_1", turns("user", origin="inbound"))
    conversations.forget("conv_2")
    disk = Disk()
    disk.save(conversations)
    again = disk.restored(new_conversations(LabelLimits(names=("origin",))))
    assert totals(again) == {("phonic_exporter_conversations_lost_total", ("not_found",)): (1,)}
    assert count(again, catalog.CHECKPOINT_RESETS, "labels") == 1
    again.update("conv_1", turns("user", "user"))
    assert totals(again)["phonic_turns_total", ("inbound", "user")] == (1,)


@pytest.mark.parametrize("blob", [b"", b"\xc1", b"\x80", b"\xff" * 10, b"\x81\xa1\xff\x00"])
def test_unreadable_progress_loses_only_its_conversation(blob: bytes) -> None:
    conversations = new_conversations()
    conversations.update("good", turns("user"))
    changes = saved(conversations)
    again = new_conversations()
    again.restore(
        Saved(
            label_names=("project", "agent"),
            families=saved_families(),
            first_start=1.0,
            series=list(changes.series()),
            held=[],
            conversations=[SavedConversation("bad", blob), *changes.conversations()],
            ends=[],
        )
    )
    assert [each for each, _ in again.unfinished()] == ["good"]
    assert count(again, catalog.CHECKPOINT_RESETS, "corrupt") == 1
    assert again.first_start == 1.0


def test_any_text_phonic_sends_can_be_saved() -> None:
    conversations = new_conversations()
    odd = {"id": "conv_1", "end_reason": "\ud800", "agent": {"name": "\udfff", "id": "\ud800"}}
    conversations.update("conv_1", live({**odd, "items": [{"item_idx": 0, "tool_call_ids": ["\ud800"]}]}))
    again = restarted(conversations)
    again.finish("conv_1", None)
    assert count(again, catalog.TOOL_CALLS, "none", "?") == 1


@pytest.mark.parametrize(
    "name", ['"quoted"', "line\nbreak", "back\\slash", "\U0001f600", "}{", ' a="b",', "\r\t\0", " "]
)
def test_the_page_renders_any_name_of_an_agent(name: str) -> None:
    conversations = new_conversations()
    conversations.update("conv_1", turns("user", agent=Agent("agent_1", name)))
    for form in Format:
        assert page_of(conversations).render(form)


def test_agent_info_obeys_the_label_limit() -> None:
    conversations = new_conversations(limits=LabelLimits(values=5, sets=200))
    for project in range(10):
        conversations.learn_agents(
            f"p{project}", [(f"id{project}-{each}", f"a{project}-{each}") for each in range(10)]
        )
    rows = [labels for labels, _ in conversations.agents()]
    assert len(rows) == len(set(rows))
    assert all(len({labels[at] for labels in rows} - {"__other__"}) <= 5 for at in range(3))


def test_a_conversation_of_an_unlisted_agent_marks_its_project() -> None:
    conversations = new_conversations()
    conversations.learn_agents("main", [("agent_1", "one")])
    assert not conversations.unknown_agents("main")
    for agent, is_unknown in (("agent_1", False), ("agent_2", True)):
        conversation = Conversation(
            f"conv_{agent}", agent=Agent(id=agent, name=agent), project=Project(name="main")
        )
        conversations.update(conversation.id, Snapshot(conversation=conversation))
        assert conversations.unknown_agents("main") is is_unknown
    conversations.learn_agents("main", [("agent_1", "one"), ("agent_2", "two")])
    assert not conversations.unknown_agents("main")
