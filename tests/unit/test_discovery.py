"""Discovery: rounds find the live conversations of every project, whatever fails meanwhile."""

import math

import attrs
import httpx
import pytest
import trio
from structlog.testing import capture_logs
from trio.abc import Clock

from exporter.enums import Task
from exporter.phonic.credentials import ApiKey, Credentials
from exporter.phonic.listing import AgentRow, Workspace
from exporter.phonic.rest import open_rest
from exporter.watch.interfaces import Rest
from tests.rest_double import EPOCH, Call, Desk, Phonic, discovery, run_for


def crash() -> None:
    raise ValueError("planted words of a caller")


@pytest.mark.parametrize("is_real", [False, True], ids=["fake", "real"])
async def test_api_contract(is_real: bool) -> None:
    calls = [
        Call(id="conv_a", created=-30, started=-20, ended=-10, project="a b/c"),
        Call(id="conv_b", created=-20, started=-20, project="a b/c"),
        Call(id="conv_c", created=-10, started=None, project="a b/c"),
        Call(id="other", project="other"),
    ]
    now = trio.current_time()
    phonic = Phonic(
        [
            attrs.evolve(
                each,
                created=now + each.created,
                started=None if each.started is None else now + each.started,
                ended=None if each.ended is None else now + each.ended,
            )
            for each in calls
        ],
        names=("a b/c", "other"),
    )

    async def check(api: Rest) -> None:
        assert [(row.name, row.active) for row in await api.projects()] == [("a b/c", 2), ("other", 1)]
        assert await api.workspace() == Workspace(3, None)
        assert await api.agents("a b/c") == [AgentRow("agent_1", "a b/c agent")]
        newest = await api.conversations("a b/c", limit=2)
        assert [(row.id, bool(row.started_at), bool(row.ended_at)) for row in newest.rows] == [
            ("conv_c", False, False),
            ("conv_b", True, False),
        ]
        older = await api.conversations("a b/c", limit=2, after=newest.next_cursor)
        assert [row.id for row in older.rows] == ["conv_a"]
        assert older.next_cursor is None
        record = await api.record("conv_a")
        assert record is not None
        assert record.conversation.ended_at == older.rows[0].ended_at
        assert await api.record("nobody") is None

    with trio.fail_after(5):
        if not is_real:
            await check(phonic)
            return
        async with open_rest(
            "http://127.0.0.1",
            Credentials(ApiKey("ph_key")),
            on_error=lambda _: None,
            requests_per_second=1000,
            transport=httpx.MockTransport(phonic.handle),
        ) as api:
            await check(api)


async def test_live_conversation_is_watched_within_one_interval(autojump_clock: Clock) -> None:
    now = autojump_clock.current_time()
    phonic = Phonic([Call(id="c", created=now + 12, started=now + 12)])
    desk = Desk(phonic)
    await run_for(18, discovery(phonic, desk))
    assert desk.watching == {"c"}


async def test_first_round_is_over_when_started(autojump_clock: Clock) -> None:
    del autojump_clock
    for fails in (lambda _: False, lambda _: True):
        phonic = Phonic([Call(id="c")], fails=fails)
        desk = Desk(phonic)
        found = discovery(phonic, desk)
        async with trio.open_nursery() as nursery:
            await nursery.start(found.run)
            assert found.first_round_done
            assert desk.watching == (set() if phonic.fails("") else {"c"})
            assert (found.last_success is None) == phonic.fails("")
            nursery.cancel_scope.cancel()


async def test_only_named_projects_are_searched(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic([Call(id=name, project=name) for name in ("main", "a b")], names=("main", "a b"))
    desk = Desk(phonic)
    with capture_logs() as lines:
        await run_for(60, discovery(phonic, desk, only={"a b", "gone"}))
    assert desk.watching == {"a b"}
    assert {project for _, project in phonic.asked if project} == {"a b"}
    assert [line["projects"] for line in lines if line["event"] == "no project of this name"] == [["gone"]]


async def test_without_search_only_names_and_counts_are_learnt(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic([Call(id="c"), Call(id="over", ended=1.0)])
    desk = Desk(phonic)
    found = discovery(phonic, desk, finds=False, interval=60.0)
    await run_for(600, found)
    assert desk.project_names == {"id-main": "main"}
    assert desk.agents == {"main": [("agent_1", "main agent")]}
    assert [row.active for row in found.projects] == [1]
    assert found.workspace == Workspace(1, None)
    assert (desk.watching, desk.finished, found.found) == (set(), {}, {})
    assert {what for what, _ in phonic.asked} == {"projects", "workspace", "agents"}


async def test_one_failing_project_does_not_stop_the_others(autojump_clock: Clock) -> None:
    del autojump_clock
    names = ("bad", "good")
    phonic = Phonic([Call(id=name, project=name) for name in names], names=names)
    phonic.fails = lambda what: what == "conversations" and phonic.asked[-1][1] == "bad"
    desk = Desk(phonic)
    found = discovery(phonic, desk)
    await run_for(60, found)
    assert desk.watching == {"good"}
    assert found.last_success is None


async def test_outage_is_asked_about_less_and_less_and_told_once(autojump_clock: Clock) -> None:
    begun = autojump_clock.current_time()
    phonic = Phonic([Call(id="c")], fails=lambda _: trio.current_time() - begun < 600)
    desk = Desk(phonic)
    with capture_logs() as lines:
        await run_for(680, discovery(phonic, desk))
    assert 10 <= sum(what == "projects" for what, _ in phonic.asked) <= 45
    assert desk.watching == {"c"}
    told = [line["event"] for line in lines if line["log_level"] != "debug"]
    assert told == ["discovery failing", "discovery recovered"]


async def test_projects_of_one_name_are_searched_as_one(autojump_clock: Clock) -> None:
    del autojump_clock
    phonic = Phonic([Call(id="c"), Call(id="d")], names=("main", "main"))
    desk = Desk(phonic)
    found = discovery(phonic, desk)
    await run_for(4, found)
    assert found.found == {"main": 2}
    assert sum(what == "conversations" for what, _ in phonic.asked) == 2  # a round and a sweep


class CrashingAt(Phonic):
    """REST whose client has a defect in one of its methods, until a moment."""

    crashes_at: str = ""
    until: float = math.inf

    def _ask(self, what: str, project: str = "") -> None:
        if what == self.crashes_at and trio.current_time() < self.until:
            crash()
        super()._ask(what, project)


@pytest.mark.parametrize(
    ("what", "task"),
    [
        ("projects", Task.DISCOVERY),
        ("workspace", Task.DISCOVERY),
        ("agents", Task.DISCOVERY),
        ("conversations", Task.DISCOVERY),
        ("conversations", Task.SWEEP),
        ("record", Task.RECORDS),
    ],
)
async def test_defect_is_counted_logged_once_without_its_words_and_gone_on_after(
    what: str, task: Task, autojump_clock: Clock
) -> None:
    now = autojump_clock.current_time()
    phonic = CrashingAt([Call(id="c"), Call(id="short", created=now + 12.5, started=now + 12.5, ended=now + 12.6)])
    phonic.crashes_at, phonic.until = what, now + 130
    desk = Desk(phonic, first_start=EPOCH + now)
    found = discovery(phonic, desk)
    with capture_logs() as lines:
        await run_for(600, found)
    assert desk.crashes[task] >= 1
    assert desk.watching == {"c"}
    assert desk.finished.keys() == {"short"}
    assert found.last_success is not None
    told = [line for line in lines if line["event"] == "task crashed" and line["log_level"] == "error"]
    assert all(line["error"] == "ValueError" and "test_discovery.py" in line["at"] for line in told)
    assert 1 <= len(told) <= 3  # one for each way that leads there
    assert "planted" not in str(lines)
