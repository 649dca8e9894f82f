"""Progress and numbers of many conversations: labels, live gauges, ends, and what a restart finds."""

from typing import Any

import pytest

from exporter.conversations import Tally
from exporter.counting import retention
from exporter.enums import Drift, FeedError, Invalid, Lost, MessageType, Reconciled
from exporter.metrics import catalog as catalogue
from exporter.metrics.formats import Format
from exporter.metrics.store import OTHER, LabelLimits, saved_families
from exporter.phonic.schema import Agent, Conversation, Item, Project, Snapshot
from exporter.state.rows import Changes, Saved, SavedConversation
from tests.unit.tallies import NOW, Disk, live, new_tally, page_of, totals

pytestmark = pytest.mark.usefixtures("quiet_logs")


class Clock:
    """Unix time that passes when told to."""

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> float:
        return self.time


def conversation(conversation_id: str = "conv_1", **fields: Any) -> Snapshot:
    fields = {"project_id": "proj_1", "agent": Agent("agent_1", "support"), "items": [], **fields}
    return Snapshot(conversation=Conversation(conversation_id, **fields))


def turns(*roles: str, **fields: Any) -> Snapshot:
    return conversation(items=[Item(item_idx=at, role=role) for at, role in enumerate(roles)], **fields)


def count(tally: Tally, family: catalogue.Family, *labels: str) -> int:
    return tally.ledger.value(family, *labels).dump()[0]


def label_sets(tally: Tally) -> list[tuple[str, ...]]:
    return [each.values for each in tally.ledger.label_sets]


def saved(tally: Tally, *, everything: bool = False) -> Changes:
    """What a write takes, acknowledged."""
    changes = tally.changes(everything=everything)
    tally.committed(changes)
    return changes


def restarted(tally: Tally, **options: Any) -> Tally:
    disk = Disk()
    disk.save(tally)
    return disk.restored(new_tally(**options))


# --- what watchers say


def test_what_watchers_say_is_counted() -> None:
    tally = new_tally()
    tally.connected("conv_1")
    tally.message(MessageType.CONVERSATION_UPDATED, 100)
    tally.message(MessageType.ERROR, 10)
    tally.superseded(3, 300)
    tally.invalid("conv_1", Invalid.NOT_JSON)
    tally.feed_error("conv_1", FeedError.NO_PONG)
    tally.crashed("conv_1")
    tally.refused("conv_1")
    tally.reconciled(Reconciled.COMPLETE)
    tally.drift({(Drift.ITEM, "tone"), (Drift.ITEM, "mood"), (Drift.CONVERSATION, "x")})
    counted = {
        each.prefix.strip(): each.total
        for family in catalogue.CATALOGUE
        if family.scope is catalogue.Scope.PROCESS
        for each in tally.ledger.series(family)
        if each.dump()[0]
    }  # type: ignore[union-attr]
    assert counted == {
        "phonic_exporter_feed_connects_total": 1,
        "phonic_exporter_updates_total": 4,
        "phonic_exporter_update_bytes_total": 400,
        "phonic_exporter_updates_superseded_total": 3,
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
    tally = new_tally()
    tally.learn_projects({"proj_2": "learnt"})
    tally.update("conv_1", conversation(**fields))
    assert label_sets(tally) == [labels]


def test_all_labels_may_be_chosen() -> None:
    tally = new_tally(
        LabelLimits(names=("model", "language", "call_provider", "is_test", "origin", "agent", "project"))
    )
    tally.update("conv_1", conversation(origin="inbound", is_test=True, default_language="en"))
    tally.update(
        "conv_2", conversation(origin="carrier pigeon", is_test=False, model="merritt", call_provider="twilio")
    )
    assert label_sets(tally) == [
        ("unknown", "en", "unknown", "true", "inbound", "support", "proj_1"),
        ("merritt", "unknown", "twilio", "false", "other", "support", "proj_1"),
    ]
    assert count(tally, catalogue.UNKNOWN_WORDS, "origin") == 1


def test_labels_freeze_when_a_conversation_is_first_seen() -> None:
    tally = new_tally()
    tally.update("conv_1", turns("user"))
    tally.learn_projects({"proj_1": "main"})
    tally.update("conv_1", turns("user", "assistant", agent=Agent("agent_1", "renamed")))
    assert label_sets(tally) == [("proj_1", "support")]
    assert count(tally, catalogue.TURNS, "proj_1", "support", "assistant") == 1


def test_agents_that_are_known_have_series_before_their_first_conversation() -> None:
    tally = new_tally()
    tally.learn_agents("main", [("agent_1", "support"), ("agent_2", "sales")])
    assert label_sets(tally) == [("main", "support"), ("main", "sales")]
    assert list(tally.agents()) == [(("main", "support", "agent_1"), 1.0), (("main", "sales", "agent_2"), 1.0)]
    assert totals(tally) == {}


def test_agents_with_conversations_are_named_before_those_that_only_exist() -> None:
    tally = new_tally(LabelLimits(sets=3))
    tally.learn_agents("proj_1", [(f"agent_{number}", f"agent {number}") for number in range(10, 15)])
    for number in range(5):
        tally.update(f"conv_{number}", turns("user", agent=Agent(f"agent_{number}", f"agent {number}")))
    tally.learn_agents("proj_1", [("agent_1", "agent 1"), ("agent_10", "agent 10")])
    assert [agent for (_, agent, _), _ in tally.agents()] == ["agent 0", "agent 1", "agent 2"]


def test_agents_make_no_series_where_their_other_labels_cannot_be_known() -> None:
    tally = new_tally(LabelLimits(names=("agent", "origin")))
    tally.learn_agents("main", [("agent_1", "support")])
    assert label_sets(tally) == []


def test_agents_of_snapshots_join_names_to_ids() -> None:
    tally = new_tally()
    tally.update("conv_1", conversation())
    assert list(tally.agents()) == [(("proj_1", "support", "agent_1"), 1.0)]


def test_ten_thousand_agents_leave_the_page_small_and_the_sums_right() -> None:
    tally = new_tally()
    for number in range(10_000):
        tally.update(f"conv_{number}", turns("user", agent=Agent(f"agent_{number}", f"agent {number}")))
    page = page_of(tally).render(Format.TEXT_0_0_4).decode()
    turns_by_user = [
        line for line in page.splitlines() if line.startswith("phonic_turns_total") and '"user"' in line
    ]
    assert len(turns_by_user) == 101
    assert sum(float(line.rsplit(" ", 1)[1]) for line in turns_by_user) == 10_000
    assert f'phonic_turns_total{{agent="{OTHER}",project="proj_1",role="user"}} 9900.0' in turns_by_user
    assert len(list(tally.agents())) <= tally.ledger.limits.sets
    assert len(page) < 3_000_000


# --- live


def shown(tally: Tally) -> list[str]:
    return [each.conversation_id for each in tally.live()]


def test_a_conversation_is_live_from_its_first_snapshot_until_it_ends() -> None:
    tally = new_tally()
    assert tally.live_counts() == []
    tally.update("conv_1", conversation())
    assert shown(tally) == ["conv_1"]
    assert tally.live_counts() == [('{agent="support",project="proj_1"}', 1)]
    tally.ended("conv_1")
    tally.update("conv_1", conversation())
    assert shown(tally) == []
    assert tally.live_counts() == [('{agent="support",project="proj_1"}', 0)]


def test_a_conversation_nobody_watches_is_not_live_until_it_is_seen_again() -> None:
    tally = new_tally()
    tally.update("conv_1", conversation())
    tally.stopped("conv_1")
    assert shown(tally) == []
    tally.update("conv_1", conversation())
    assert shown(tally) == ["conv_1"]


def test_nobody_is_said_to_wait_while_the_feed_is_lost() -> None:
    asked = conversation(items=[Item(role="user", started_at="2025-07-31T00:00:00Z", duration_ms=1000.0)])
    tally = new_tally()
    tally.update("conv_1", asked)
    assert waiting(tally)
    tally.feed_error("conv_1", FeedError.NO_PONG)
    assert not waiting(tally)
    assert shown(tally) == ["conv_1"]
    tally.update("conv_1", asked)
    assert waiting(tally)


def waiting(tally: Tally) -> bool:
    return f"\n{catalogue.LIVE_WAITING_SINCE.name}{{" in page_of(tally).render(Format.TEXT_0_0_4).decode()


@pytest.mark.parametrize("limit", [0, 2, 5])
def test_only_so_many_conversations_get_series_of_their_own(limit: int) -> None:
    tally = new_tally(live_limit=limit)
    for number in range(4):
        tally.update(f"conv_{number}", conversation(f"conv_{number}"))
    assert shown(tally) == [f"conv_{number}" for number in range(min(limit, 4))]
    assert tally.live_counts() == [('{agent="support",project="proj_1"}', 4)]


# --- ends


def test_an_end_counts_once_and_leaves_a_tombstone() -> None:
    tally = new_tally()
    tally.update("conv_1", turns("user"))
    tally.finish("conv_1", None)
    assert (tally.is_finished("conv_1"), tally.has_seen("conv_1"), tally.entry("conv_1")) == (True, False, None)
    before = totals(tally)
    tally.finish("conv_1", turns("user", "assistant"))
    tally.update("conv_1", turns("user", "assistant"))
    tally.forget("conv_1")
    assert {key: value for key, value in totals(tally).items() if "lost" not in key[0]} == before


def test_a_conversation_known_from_rest_alone_is_counted() -> None:
    tally = new_tally()
    tally.finish("conv_1", turns("user", ended_by="user"), Lost.NEVER_LIVE)
    assert count(tally, catalogue.CONVERSATIONS_ENDED, "proj_1", "support", "user") == 1
    assert count(tally, catalogue.CONVERSATIONS_LOST, "never_live") == 1


def test_forgetting_what_was_seen_is_an_end_and_what_was_not_a_loss_counted_once_in_ten_minutes() -> None:
    clock = Clock()
    tally = new_tally(now=clock)
    tally.update("conv_1", conversation())
    tally.forget("conv_1")
    tally.forget("conv_2")
    tally.forget("conv_2")
    assert count(tally, catalogue.CONVERSATIONS_ENDED, "proj_1", "support", "unknown") == 1
    assert count(tally, catalogue.CONVERSATIONS_LOST, "not_found") == 1
    assert (tally.is_finished("conv_1"), tally.is_finished("conv_2")) == (True, True)
    clock.time += 601
    tally.expire(is_followed=nobody)
    assert (tally.is_finished("conv_1"), tally.is_finished("conv_2")) == (True, False)


def nobody(_: str) -> bool:
    return False


def test_tombstones_and_abandoned_conversations_go_after_a_day() -> None:
    clock = Clock()
    tally = new_tally(now=clock)
    for each in ("finished", "abandoned", "refused", "over"):
        tally.update(each, conversation(each))
    tally.finish("finished", None)
    tally.stopped("abandoned")
    tally.stopped("refused")
    tally.ended("over")
    saved(tally)
    clock.time += retention.UNHEARD - 1
    tally.expire(is_followed=nobody)
    assert tally.is_finished("finished")
    assert tally.has_seen("abandoned")
    clock.time += 2
    tally.expire(is_followed={"refused", "over"}.__contains__)
    assert not tally.is_finished("finished")
    assert [each for each, _ in tally.unfinished()] == ["refused", "over"]
    assert saved(tally).forgotten == ["abandoned"]


def test_an_end_is_remembered_for_a_day_at_least_and_an_hour_more_at_most() -> None:
    clock = Clock()
    tally = new_tally(now=clock)
    for _ in range(5):
        tally.update("conv_1", conversation())
        tally.finish("conv_1", None)
        clock.time += retention.ENDED - 1
        tally.expire(is_followed=nobody)
        assert tally.is_finished("conv_1")
        clock.time += 3601
        tally.expire(is_followed=nobody)
        assert not tally.is_finished("conv_1")


# --- restart


def test_a_restart_goes_on_with_numbers_progress_labels_and_ends() -> None:
    tally = new_tally()
    tally.update("running", turns("user"))
    tally.update("over", turns("user"))
    tally.ended("over")
    tally.update("finished", turns("user"))
    tally.finish("finished", None)
    again = restarted(tally)
    assert totals(again) == totals(tally)
    assert sorted(again.unfinished()) == [("over", True), ("running", False)]
    assert again.is_finished("finished")
    assert shown(again) == []
    again.update("running", turns("user", "assistant", agent=None))
    assert count(again, catalogue.TURNS, "proj_1", "support", "user") == 3
    assert count(again, catalogue.TURNS, "proj_1", "support", "assistant") == 1
    assert shown(again) == ["running"]


def test_a_conversation_unheard_of_for_a_day_is_over_at_the_next_restart_however_many_there_were() -> None:
    clock = Clock()
    tally = new_tally(now=clock)
    tally.update("conv_1", conversation("conv_1"))
    for _ in range(3):
        disk = Disk()
        disk.save(tally)
        tally = disk.restored(new_tally(now=clock))
        assert list(tally.unfinished()) == [("conv_1", clock.time - NOW >= retention.UNHEARD)]
        clock.time += retention.UNHEARD / 2


def test_changes_are_only_what_changed() -> None:
    tally = new_tally()
    tally.update("conv_1", turns("user"))
    assert saved(tally)
    assert not saved(tally)
    tally.update("conv_2", conversation("conv_2"))
    assert [each.id for each in saved(tally).conversations()] == ["conv_2"]
    everything = saved(tally, everything=True)
    assert [each.id for each in everything.conversations()] == ["conv_1", "conv_2"]


def test_what_a_failed_write_held_is_in_the_next_one_as_it_stands_then() -> None:
    tally = new_tally()
    tally.update("conv_1", turns("user"))
    tally.update("conv_2", turns("user"))
    tally.update("conv_3", turns("user"))
    tally.finish("conv_3", None)
    failed = tally.changes()
    tally.update("conv_1", turns("user", "user"))
    tally.finish("conv_2", None)
    tally.put_back(failed)
    again = restarted(tally)
    assert totals(again) == totals(tally)
    assert [each for each, _ in again.unfinished()] == ["conv_1"]
    assert again.is_finished("conv_2")
    assert again.is_finished("conv_3")


def test_a_conversation_folded_before_a_restart_stays_folded_after_it() -> None:
    limits = LabelLimits(values=1)
    tally = new_tally(limits)
    tally.update("conv_0", turns("user", agent=Agent("agent_0", "known")))
    tally.update("conv_1", turns("user"))
    again = restarted(tally, limits=limits)
    again.update("conv_1", turns("user", "user"))
    assert count(again, catalogue.TURNS, "proj_1", OTHER, "user") == 2


def test_other_labels_than_before_start_the_labelled_families_again_and_say_so() -> None:
    tally = new_tally()
    tally.update("conv_1", turns("user", origin="inbound"))
    tally.forget("conv_2")
    disk = Disk()
    disk.save(tally)
    again = disk.restored(new_tally(LabelLimits(names=("origin",))))
    assert totals(again) == {("phonic_exporter_conversations_lost_total", ("not_found",)): (1,)}
    assert count(again, catalogue.CHECKPOINT_RESETS, "labels") == 1
    again.update("conv_1", turns("user", "user"))
    assert totals(again)["phonic_turns_total", ("inbound", "user")] == (1,)


@pytest.mark.parametrize("blob", [b"", b"\xc1", b"\x80", b"\xff" * 10, b"\x81\xa1\xff\x00"])
def test_progress_that_cannot_be_read_costs_only_its_conversation(blob: bytes) -> None:
    tally = new_tally()
    tally.update("good", turns("user"))
    changes = saved(tally)
    again = new_tally()
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
    assert count(again, catalogue.CHECKPOINT_RESETS, "corrupt") == 1
    assert again.first_start == 1.0


def test_any_text_phonic_sends_can_be_saved() -> None:
    tally = new_tally()
    odd = {"id": "conv_1", "end_reason": "\ud800", "agent": {"name": "\udfff", "id": "\ud800"}}
    tally.update("conv_1", live({**odd, "items": [{"item_idx": 0, "tool_call_ids": ["\ud800"]}]}))
    again = restarted(tally)
    again.finish("conv_1", None)
    assert count(again, catalogue.TOOL_CALLS, "none", "?") == 1


@pytest.mark.parametrize(
    "name", ['"quoted"', "line\nbreak", "back\\slash", "\U0001f600", "}{", ' a="b",', "\r\t\0", " "]
)
def test_the_page_renders_whatever_an_agent_is_called(name: str) -> None:
    tally = new_tally()
    tally.update("conv_1", turns("user", agent=Agent("agent_1", name)))
    for form in Format:
        assert page_of(tally).render(form)


def test_agents_on_the_page_obey_the_label_limit() -> None:
    tally = new_tally(limits=LabelLimits(values=5, sets=200))
    for project in range(10):
        tally.learn_agents(f"p{project}", [(f"id{project}-{each}", f"a{project}-{each}") for each in range(10)])
    rows = [labels for labels, _ in tally.agents()]
    assert len(rows) == len(set(rows))
    assert all(len({labels[at] for labels in rows} - {"__other__"}) <= 5 for at in range(3))


def test_an_agent_that_was_not_listed_makes_its_project_worth_asking_again() -> None:
    tally = new_tally()
    tally.learn_agents("main", [("agent_1", "one")])
    assert not tally.unknown_agents("main")
    for agent, is_unknown in (("agent_1", False), ("agent_2", True)):
        conversation = Conversation(
            f"conv_{agent}", agent=Agent(id=agent, name=agent), project=Project(name="main")
        )
        tally.update(conversation.id, Snapshot(conversation=conversation))
        assert tally.unknown_agents("main") is is_unknown
    tally.learn_agents("main", [("agent_1", "one"), ("agent_2", "two")])
    assert not tally.unknown_agents("main")
