"""Several workspaces in one process: whose conversation is whose, in labels, limits, state, push API and file."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from trio.abc import Clock

from exporter.conversations import Conversations
from exporter.counting import retention
from exporter.counting.labels import OTHER
from exporter.enums import Reset, Started, WatcherState, Word
from exporter.gauges import by_project, gauges
from exporter.metrics import catalog
from exporter.metrics.loop_lag import LoopLag
from exporter.metrics.publisher import Publisher
from exporter.metrics.store import LabelLimits
from exporter.people import MOST_TROUBLES, People
from exporter.phonic.clock import PhonicClock
from exporter.phonic.keys import is_reference
from exporter.reports import Reports
from exporter.shares import Shares
from exporter.watch.assigned import AssignedTargets
from exporter.watch.feed_gate import FeedGate
from exporter.watch.interfaces import Feed
from exporter.watch.supervisor import Supervisor
from exporter.watch.watch_file import WatchFile
from exporter.watching import Workspace
from exporter.workspaces import EXPIRE_INTERVAL, Workspaces, _References
from tests.unit.counted import NOW, Disk, live, new_conversations, numbers_of, one_series, recorded, totals

pytestmark = pytest.mark.usefixtures("quiet_logs")

NAMED = LabelLimits(names=("workspace", "project", "agent"))
CALL = {"items": [{"item_idx": 0, "role": "user"}], "agent": {"id": "a1", "name": "clerk"}}


@asynccontextmanager
async def silent_feed() -> AsyncIterator[Feed]:
    await trio.sleep_forever()
    yield  # never reached


def no_answer(conversation_id: str) -> AbstractAsyncContextManager[Feed]:
    """A feed that never opens."""
    del conversation_id
    return silent_feed()


@attrs.define
class Offers:
    """What a workspace offered to the shards. Implements `exporter.watch.interfaces.Sharing`."""

    made: list[tuple[str, Word]] = attrs.Factory(list)

    def offer(self, conversation_id: str, word: Word) -> None:
        self.made.append((conversation_id, word))

    async def elect(self, projects: object) -> tuple[str, ...]:
        del projects
        return ()


def workspace(
    name: str, conversations: Conversations, *, limit: int = 10, sharing: Offers | None = None
) -> Workspace:
    reports = Reports(conversations, name)
    supervisor = Supervisor(open_feed=no_answer, sink=reports, records=None, limit=limit)
    assigned = AssignedTargets(supervisor, sharing, sink=reports, backfill=None) if sharing else None
    return Workspace(
        name=name,
        conversations=conversations,
        clock=PhonicClock(),
        supervisor=supervisor,
        gate=FeedGate(no_answer, access=None, has_labels=lambda _: True),
        targets=assigned or supervisor,
        assigned=assigned,
    )


def named(*names: str, **options: object) -> Workspaces:
    conversations = new_conversations(NAMED)
    conversations.store.shares.set(names)
    return Workspaces(conversations, [workspace(each, conversations, **options) for each in names])  # type: ignore[arg-type]


def call(conversation_id: str, **more: object) -> Callable[[Reports], None]:
    return lambda reports: reports.update(conversation_id, live({"id": conversation_id, **CALL, **more}))


def count(conversations: Conversations, *labels: str) -> int:
    return totals(conversations).get((catalog.CONVERSATIONS.sample_name, labels), (0,))[0]


# --- labels


def test_projects_and_agents_of_one_name_in_two_workspaces_are_apart() -> None:
    conversations = new_conversations(NAMED)
    conversations.store.shares.set(["acme", "globex"])
    acme, globex = Reports(conversations, "acme"), Reports(conversations, "globex")
    acme.learn_projects({"p1": "main", "p2": "b"})
    globex.learn_projects({"p1": "main"})
    call("conv_1", project_id="p1")(acme)
    call("conv_2", project_id="p1")(globex)
    call("conv_3", project_id="p1")(globex)
    assert count(conversations, "acme", "main", "clerk") == 1
    assert count(conversations, "globex", "main", "clerk") == 2
    acme.learn_agents("main", [("a1", "clerk")])
    assert not acme.unknown_agents("main")
    assert globex.unknown_agents("main"), "its own list has not come yet"
    acme.finish("conv_1", recorded({"id": "conv_1", **CALL}))
    assert not conversations.is_finished("conv_2")
    assert [entry.workspace for entry in conversations.live_entries()] == ["globex", "globex"]


def test_a_conversation_that_two_workspaces_report_is_counted_once_for_the_first() -> None:
    conversations = new_conversations(NAMED)
    for name in ("acme", "globex", "acme"):
        call("conv_1")(Reports(conversations, name))
    Reports(conversations, "globex").finish("conv_1", recorded({"id": "conv_1", **CALL}))
    assert count(conversations, "acme", "none", "clerk") == 1
    assert not any("globex" in labels for _, labels in totals(conversations))


def test_beyond_the_limits_each_workspace_has_labels_of_its_own() -> None:
    limits = attrs.evolve(NAMED, sets=4, values=4)
    conversations = new_conversations(limits)
    conversations.store.shares.set(["acme", "globex"])
    greedy, modest = Reports(conversations, "acme"), Reports(conversations, "globex")
    for number in range(9):
        call(f"conv_{number}", agent={"id": f"a{number}", "name": f"agent {number}"})(greedy)
    call("conv_modest")(modest)
    call("conv_other", agent={"id": "a2", "name": "second"})(modest)
    call("conv_third", agent={"id": "a3", "name": "third"})(modest)
    assert count(conversations, "globex", "none", "clerk") == 1
    assert count(conversations, "globex", "none", "second") == 1
    assert sum(count(conversations, "acme", "none", f"agent {number}") for number in range(9)) == 2
    folded = {
        labels[0]: numbers[0]
        for (name, labels), numbers in totals(conversations).items()
        if name == catalog.CONVERSATIONS.sample_name and OTHER in labels
    }
    assert folded == {"acme": 7, "globex": 1}


def test_agents_that_rest_lists_take_no_more_than_their_workspaces_share() -> None:
    limits = attrs.evolve(NAMED, sets=4, values=4)
    conversations = new_conversations(limits)
    conversations.store.shares.set(["acme", "globex"])
    Reports(conversations, "acme").learn_agents("main", [(f"a{each}", f"agent {each}") for each in range(9)])
    Reports(conversations, "globex").learn_agents("main", [("g1", "clerk"), ("g2", "second")])
    shown = [each.values for each in conversations.store.label_sets]
    assert [each for each in shown if each[0] == "globex"] == [
        ("globex", "main", "clerk"),
        ("globex", "main", "second"),
    ]
    assert len(shown) == 4
    of_globex = [labels for labels, _ in conversations.agents() if labels[0] == "globex"]
    assert of_globex == [("globex", "main", "clerk", "g1"), ("globex", "main", "second", "g2")]


def test_live_series_beyond_the_limit_are_divided() -> None:
    conversations = new_conversations(NAMED, live_limit=4)
    conversations.store.shares.set(["acme", "globex"])
    for number in range(9):
        call(f"conv_a{number}")(Reports(conversations, "acme"))
    for number in range(2):
        call(f"conv_g{number}")(Reports(conversations, "globex"))
    shown = [entry.conversation_id for entry in conversations.live_entries()]
    assert sorted(shown) == ["conv_a0", "conv_a1", "conv_g0", "conv_g1"]


def test_gauges_of_each_workspace_have_its_name_only_where_workspaces_have_names() -> None:
    def rows(workspaces: Workspaces) -> list[str]:
        sources = gauges(
            conversations=workspaces.conversations,
            workspaces=workspaces,
            keeper=None,
            publisher=Publisher(workspaces.conversations.store, workspaces.conversations, None),
            web_config=None,
            slo_response=1.5,
            loop_lag=LoopLag(),
        )
        shown = sources[catalog.WATCHERS]()
        assert not isinstance(shown, Mapping)
        return [labels for labels, _ in shown]

    assert rows(named("acme", "globex")) == [
        f'{{state="{state.value}",workspace="{name}"}}' for name in ("acme", "globex") for state in WatcherState
    ]
    conversations = new_conversations()
    assert rows(Workspaces(conversations, [workspace("", conversations)])) == [
        f'{{state="{state.value}"}}' for state in WatcherState
    ]


def test_projects_beyond_the_label_limit_are_added_up_in_their_own_workspace() -> None:
    shares = Shares(["acme", "globex"])
    numbers = [("acme", f"p{each}", 1.0) for each in range(5)] + [("globex", "p0", 1.0), ("globex", "p9", 1.0)]
    assert by_project(numbers, 4, shares) == [
        ("acme", "p0", 1.0),
        ("acme", "p1", 1.0),
        ("acme", OTHER, 3.0),
        ("globex", "p0", 1.0),
        ("globex", "p9", 1.0),
    ]


# --- state


NO_NAMES, ACME_AND_GLOBEX = LabelLimits(), NAMED


def restarted(before: Conversations, limits: LabelLimits) -> Conversations:
    disk = Disk(label_names=before.store.limits.names)
    disk.save(before)
    return disk.restored(new_conversations(limits))


def test_with_names_a_conversation_of_before_belongs_to_the_workspace_that_reports_it() -> None:
    before = new_conversations(NO_NAMES)
    before.update("conv_1", live({"id": "conv_1", **CALL}))
    before.update("conv_2", live({"id": "conv_2", **CALL}))
    after = restarted(restarted(before, NAMED), NAMED)
    assert list(after.unfinished("acme")) == list(after.unfinished("")) == []
    assert not list(after.store.label_sets)
    more = [{"item_idx": 0, "role": "user"}, {"item_idx": 1, "role": "assistant"}]
    call("conv_1", items=more)(Reports(after, "acme"))
    assert [each for each, _ in after.unfinished("acme")] == ["conv_1"]
    Reports(after, "globex").finish("conv_2", recorded({"id": "conv_2", **CALL}))
    assert after.is_finished("conv_2")
    shown = {key: numbers[0] for key, numbers in totals(after).items() if key[0] == catalog.TURNS.sample_name}
    assert shown == {(catalog.TURNS.sample_name, ("acme", "none", "clerk", "assistant")): 1}, "only what is new"
    assert [each for each, _ in restarted(after, NAMED).unfinished("acme")] == ["conv_1"]


def test_back_at_one_key_it_does_not_take_over_conversations_of_other_workspaces() -> None:
    before = new_conversations(NAMED)
    call("conv_mine")(Reports(before, "acme"))
    call("conv_theirs")(Reports(before, "globex"))
    after = restarted(restarted(before, NO_NAMES), NO_NAMES)
    assert list(after.unfinished()) == [], "the key of acme would be told that conv_theirs does not exist"
    assert not list(after.store.label_sets)
    call("conv_mine", items=[{"item_idx": 0, "role": "user"}, {"item_idx": 1, "role": "user"}])(Reports(after, ""))
    assert [each for each, _ in after.unfinished()] == ["conv_mine"]
    assert totals(after)[catalog.TURNS.sample_name, ("none", "clerk", "user")] == (1,)
    assert "workspace" not in after.live_entries()[0].info_text
    again = restarted(after, NO_NAMES)
    assert [each for each, _ in again.unfinished()] == ["conv_mine"]


@pytest.mark.parametrize(("before", "after"), [(NO_NAMES, NAMED), (NAMED, NO_NAMES)])
def test_either_way_labelled_counters_begin_anew_and_it_is_counted(
    before: LabelLimits, after: LabelLimits
) -> None:
    conversations = new_conversations(before)
    Reports(conversations, "acme" if before.has_workspaces else "").update(
        "conv_1", live({"id": "conv_1", **CALL})
    )
    fresh = restarted(conversations, after)
    assert not totals(fresh)
    assert numbers_of(one_series(fresh.store, catalog.CHECKPOINT_RESETS, Reset.LABELS.value)) == (1,)


def test_a_conversation_that_no_workspace_reports_is_forgotten_after_a_day() -> None:
    before = new_conversations(NO_NAMES)
    before.update("conv_1", live({"id": "conv_1", **CALL}))
    disk = Disk()
    disk.save(before)
    time = NOW
    after = disk.restored(new_conversations(NAMED, now=lambda: time))
    time = NOW + retention.UNHEARD
    after.expire(is_followed=lambda _: False)
    assert not after.has_unfinished


# --- conversations that are named


async def test_push_names_the_workspace_where_there_are_several(autojump_clock: Clock) -> None:
    del autojump_clock
    workspaces = named("acme", "globex")
    async with trio.open_nursery() as nursery:
        await nursery.start(workspaces.run)
        assert workspaces.push("conv_1", None) is Started.NOT_NAMED
        assert workspaces.push("conv_1", "initech") is Started.NO_WORKSPACE
        assert workspaces.push("conv_1", "globex") is Started.STARTED
        assert workspaces.push("conv_1", None) is Started.ALREADY_WATCHED
        assert workspaces.is_watched("conv_1")
        assert [watch.conversation_id for watch in workspaces.get("globex").supervisor.watches()] == ["conv_1"]  # type: ignore[union-attr]
        assert workspaces.stop("conv_1")
        assert not workspaces.stop("conv_1")
        nursery.cancel_scope.cancel()


async def test_one_workspace_need_not_be_named(autojump_clock: Clock) -> None:
    del autojump_clock
    conversations = new_conversations()
    alone = Workspaces(conversations, [workspace("", conversations)])
    for workspaces in (alone, named("acme")):
        async with trio.open_nursery() as nursery:
            await nursery.start(workspaces.run)
            assert workspaces.push("conv_1", None) is Started.STARTED
            assert workspaces.push("conv_2", "globex") is Started.NO_WORKSPACE
            nursery.cancel_scope.cancel()


async def test_flags_and_watch_file_name_workspaces(tmp_path: Path) -> None:
    file = tmp_path / "ids"
    file.write_text("acme/conv_1\nglobex/conv_2\ninitech/conv_3\nconv_4\n")
    workspaces = named("acme", "globex")
    watched = WatchFile(file, _References(workspaces), is_conversation_id=is_reference, now=lambda: NOW)
    async with trio.open_nursery() as nursery:
        await nursery.start(workspaces.run, ("globex/conv_9",))
        await watched.look()

        def ids(name: str) -> list[str]:
            found = workspaces.get(name)
            assert found is not None
            return sorted(watch.conversation_id for watch in found.supervisor.watches())

        assert (ids("acme"), ids("globex")) == (["conv_1"], ["conv_2", "conv_9"])
        late = workspace("initech", workspaces.conversations)
        workspaces._opened["initech"] = late
        await nursery.start(late.run, ())
        await watched.look()
        assert ids("initech") == ["conv_3"], "its workspace came later"
        file.write_text("globex/conv_1\n")
        await watched.look()
        await trio.testing.wait_all_tasks_blocked()
        assert (ids("acme"), ids("globex"), ids("initech")) == ([], ["conv_1", "conv_9"], [])
        nursery.cancel_scope.cancel()


async def test_a_workspace_cannot_take_the_watch_limit_from_another(autojump_clock: Clock) -> None:
    del autojump_clock
    conversations = new_conversations(NAMED)
    conversations.store.shares.set(["acme", "globex"])
    workspaces = Workspaces(conversations)
    for name in ("acme", "globex"):
        each = workspace(name, conversations, limit=6)
        each.supervisor._has_room = lambda name=name: workspaces._has_room(name, 6)  # type: ignore[misc]
        workspaces._opened[name] = each
    async with trio.open_nursery() as nursery:
        await nursery.start(workspaces.run)
        greedy = [workspaces.push(f"conv_a{number}", "acme") for number in range(6)]
        assert greedy == [Started.STARTED] * 3 + [Started.LIMIT_REACHED] * 3
        assert [workspaces.push(f"conv_g{number}", "globex") for number in range(4)] == [
            *[Started.STARTED] * 3,
            Started.LIMIT_REACHED,
        ]
        nursery.cancel_scope.cancel()


# --- shards


async def test_what_is_assigned_to_a_workspace_waits_until_it_is_open(autojump_clock: Clock) -> None:
    del autojump_clock
    conversations = new_conversations(NAMED)
    conversations.store.shares.set(["acme"])
    workspaces = Workspaces(conversations, [workspace("acme", conversations, sharing=Offers())])
    async with trio.open_nursery() as nursery:
        await nursery.start(workspaces.run)
        workspaces.receive("acme", "conv_1", Word.LIVE)
        workspaces.receive("globex", "conv_2", Word.LIVE)
        workspaces.receive("globex", "conv_2", Word.CHECK)
        workspaces.receive("globex", "conv_2", Word.LIVE)
        assert workspaces.is_watched("conv_1")
        assert not workspaces.is_watched("conv_2")
        assert workspaces._unopened == {"globex": {"conv_2": Word.CHECK}}
        workspaces.receive("globex", "conv_3", Word.LIVE)
        globex = workspace("globex", conversations, sharing=Offers())
        workspaces._opened["globex"] = globex
        await workspaces._watch(globex)
        assert workspaces.is_watched("conv_3")
        assert not workspaces._unopened
        nursery.cancel_scope.cancel()


async def test_what_is_assigned_to_a_workspace_that_does_not_come_is_given_up_after_a_day(
    autojump_clock: Clock,
) -> None:
    del autojump_clock
    conversations = new_conversations(NAMED)
    workspaces = Workspaces(conversations, [workspace("acme", conversations, sharing=Offers())])
    conversations.committed(conversations.changes())
    async with trio.open_nursery() as nursery:
        await nursery.start(workspaces.run)
        workspaces.receive("gone", "conv_1", Word.LIVE)
        await trio.sleep(retention.UNHEARD - EXPIRE_INTERVAL)
        workspaces.receive("gone", "conv_2", Word.LIVE)
        assert not conversations.changes().forgotten
        await trio.sleep(2 * EXPIRE_INTERVAL)
        assert list(conversations.changes().forgotten) == ["conv_1", "conv_2"], "so a drained shard is empty"
        assert not workspaces._unopened
        nursery.cancel_scope.cancel()


async def test_a_conversation_that_another_workspace_watches_stays_there_until_it_is_over(
    autojump_clock: Clock,
) -> None:
    """A key file is renamed, so a workspace of another name reports its calls."""
    del autojump_clock
    conversations = new_conversations(NAMED)
    both = [workspace(name, conversations, sharing=Offers()) for name in ("acme", "globex")]
    workspaces = Workspaces(conversations, both)
    async with trio.open_nursery() as nursery:
        await nursery.start(workspaces.run)
        workspaces.receive("acme", "conv_1", Word.LIVE)
        workspaces.receive("globex", "conv_1", Word.LIVE)
        assert [each.supervisor.watched_count for each in both] == [1, 0]
        workspaces.receive("gone", "conv_2", Word.LIVE)
        workspaces.receive("globex", "conv_2", Word.LIVE)
        assert [each.supervisor.watched_count for each in both] == [1, 1]
        assert workspaces._unopened == {"gone": {}}
        nursery.cancel_scope.cancel()


async def test_a_workspace_hands_over_all_that_it_has_not_finished(autojump_clock: Clock) -> None:
    del autojump_clock
    conversations = new_conversations(NAMED)
    found = workspace("acme", conversations, limit=1, sharing=Offers())
    assert found.assigned is not None
    async with trio.open_nursery() as nursery:
        await nursery.start(found.run, ())
        for number in range(3):
            found.assigned.receive(f"conv_{number}", Word.LIVE)
        assert found.supervisor.watched_count == 1
        assert found.assigned.left_over() == {f"conv_{number}": Word.LIVE for number in range(3)}
        await found.stop()
        nursery.cancel_scope.cancel()


# --- pages for people


def people(workspaces: Workspaces) -> People:
    conversations = workspaces.conversations
    return People(
        conversations=conversations,
        workspaces=workspaces,
        publisher=Publisher(conversations.store, conversations, None),
        state=None,
        objective=1.5,
        history=False,
        began=0.0,
    )


async def test_the_landing_page_tells_only_of_the_workspaces_in_trouble_and_of_some() -> None:
    workspaces = named(*(f"w{number:03}" for number in range(200)))
    for at, each in enumerate(workspaces):
        ours = 30.0 if at >= 100 else 0.5
        each.clock.heard("Thu, 01 Jan 1970 00:00:00 GMT", ours, ours)
    first, *rest = people(workspaces).parts()
    assert (first.name, first.is_well, first.text) == ("Workspaces", False, "100 of 200 are well")
    names = [part.name for part in rest]
    assert names == [
        *(f"Clock of w{number}" for number in range(100, 100 + MOST_TROUBLES)),
        "Live feeds",
        "State file",
    ]


async def test_the_landing_page_of_one_workspace_and_of_none() -> None:
    conversations = new_conversations()
    alone = people(Workspaces(conversations, [workspace("", conversations)])).parts()
    assert [part.name for part in alone] == ["API key", "Discovery", "Live feeds", "State file", "Clock"]
    assert [part.name for part in people(named("acme")).parts()][:2] == ["API key of acme", "Discovery of acme"]
    first, *_ = people(named()).parts()
    assert (first.is_well, first.text) == (False, "the folder of API keys holds none")
