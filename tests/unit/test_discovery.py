"""Discovery: rounds search every project, whatever fails or crashes meanwhile."""

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
from tests.rest_double import EPOCH, Call, FakeExporter, FakeRest, discovery, run_for


def crash() -> None:
    raise ValueError("planted words of a caller")


@pytest.mark.parametrize("is_real", [False, True], ids=["fake", "real"])
async def test_fake_rest_answers_like_the_real_client(is_real: bool) -> None:
    calls = [
        Call(id="conv_a", created=-30, started=-20, ended=-10, project="a b/c"),
        Call(id="conv_b", created=-20, started=-20, project="a b/c"),
        Call(id="conv_c", created=-10, started=None, project="a b/c"),
        Call(id="other", project="other"),
    ]
    now = trio.current_time()
    rest = FakeRest(
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

    async def check(client: Rest) -> None:
        assert [(row.name, row.active) for row in await client.projects()] == [("a b/c", 2), ("other", 1)]
        assert await client.workspace() == Workspace(3, None)
        assert await client.agents("a b/c") == [AgentRow("agent_1", "a b/c agent")]
        newest = await client.conversations("a b/c", limit=2)
        assert [(row.id, bool(row.started_at), bool(row.ended_at)) for row in newest.rows] == [
            ("conv_c", False, False),
            ("conv_b", True, False),
        ]
        older = await client.conversations("a b/c", limit=2, after=newest.next_cursor)
        assert [row.id for row in older.rows] == ["conv_a"]
        assert older.next_cursor is None
        record = await client.record("conv_a")
        assert record is not None
        assert record.conversation.ended_at == older.rows[0].ended_at
        assert await client.record("conv_unknown") is None

    with trio.fail_after(5):
        if not is_real:
            await check(rest)
            return
        async with open_rest(
            "http://127.0.0.1",
            Credentials(ApiKey("ph_key")),
            on_error=lambda _: None,
            requests_per_second=1000,
            transport=httpx.MockTransport(rest.handle),
        ) as client:
            await check(client)


async def test_live_conversation_is_watched_within_one_interval(autojump_clock: Clock) -> None:
    now = autojump_clock.current_time()
    rest = FakeRest([Call(id="c", created=now + 12, started=now + 12)])
    exporter = FakeExporter(rest)
    await run_for(18, discovery(rest, exporter))
    assert exporter.watching == {"c"}


async def test_run_is_started_after_the_first_round_even_if_it_failed(autojump_clock: Clock) -> None:
    del autojump_clock
    for fails in (lambda _: False, lambda _: True):
        rest = FakeRest([Call(id="c")], fails=fails)
        exporter = FakeExporter(rest)
        found = discovery(rest, exporter)
        async with trio.open_nursery() as nursery:
            await nursery.start(found.run)
            assert found.first_round_done
            assert exporter.watching == (set() if rest.fails("") else {"c"})
            assert (found.last_success is None) == rest.fails("")
            nursery.cancel_scope.cancel()


async def test_only_named_projects_are_searched(autojump_clock: Clock) -> None:
    del autojump_clock
    rest = FakeRest([Call(id=name, project=name) for name in ("main", "a b")], names=("main", "a b"))
    exporter = FakeExporter(rest)
    with capture_logs() as lines:
        await run_for(60, discovery(rest, exporter, only={"a b", "gone"}))
    assert exporter.watching == {"a b"}
    assert {project for _, project in rest.asked if project} == {"a b"}
    assert [line["projects"] for line in lines if line["event"] == "no project of this name"] == [["gone"]]


async def test_without_search_only_names_and_numbers_are_requested(autojump_clock: Clock) -> None:
    del autojump_clock
    rest = FakeRest([Call(id="c"), Call(id="over", ended=1.0)])
    exporter = FakeExporter(rest)
    found = discovery(rest, exporter, finds=False, interval=60.0)
    await run_for(600, found)
    assert exporter.project_names == {"id-main": "main"}
    assert exporter.agents == {"main": [("agent_1", "main agent")]}
    assert [row.active for row in found.projects] == [1]
    assert found.workspace == Workspace(1, None)
    assert (exporter.watching, exporter.finished, found.found) == (set(), {}, {})
    assert {what for what, _ in rest.asked} == {"projects", "workspace", "agents"}


async def test_one_failing_project_does_not_stop_the_others(autojump_clock: Clock) -> None:
    del autojump_clock
    names = ("bad", "good")
    rest = FakeRest([Call(id=name, project=name) for name in names], names=names)
    rest.fails = lambda what: what == "conversations" and rest.asked[-1][1] == "bad"
    exporter = FakeExporter(rest)
    found = discovery(rest, exporter)
    await run_for(60, found)
    assert exporter.watching == {"good"}
    assert found.last_success is None


async def test_rounds_slow_down_in_an_outage_which_is_logged_once(autojump_clock: Clock) -> None:
    begun = autojump_clock.current_time()
    rest = FakeRest([Call(id="c")], fails=lambda _: trio.current_time() - begun < 600)
    exporter = FakeExporter(rest)
    with capture_logs() as lines:
        await run_for(680, discovery(rest, exporter))
    assert 10 <= sum(what == "projects" for what, _ in rest.asked) <= 45
    assert exporter.watching == {"c"}
    logged = [line["event"] for line in lines if line["log_level"] != "debug"]
    assert logged == ["discovery failing", "discovery recovered"]


async def test_projects_of_one_name_are_searched_as_one(autojump_clock: Clock) -> None:
    del autojump_clock
    rest = FakeRest([Call(id="c"), Call(id="d")], names=("main", "main"))
    exporter = FakeExporter(rest)
    found = discovery(rest, exporter)
    await run_for(4, found)
    assert found.found == {"main": 2}
    assert sum(what == "conversations" for what, _ in rest.asked) == 2  # a round and a sweep


class CrashingAt(FakeRest):
    """REST whose client crashes in the request ``crashes_at`` until the time ``until``."""

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
async def test_crash_is_counted_and_logged_once_without_its_text_and_the_search_goes_on(
    what: str, task: Task, autojump_clock: Clock
) -> None:
    now = autojump_clock.current_time()
    rest = CrashingAt([Call(id="c"), Call(id="short", created=now + 12.5, started=now + 12.5, ended=now + 12.6)])
    rest.crashes_at, rest.until = what, now + 130
    exporter = FakeExporter(rest, first_start=EPOCH + now)
    found = discovery(rest, exporter)
    with capture_logs() as lines:
        await run_for(600, found)
    assert exporter.crashes[task] >= 1
    assert exporter.watching == {"c"}
    assert exporter.finished.keys() == {"short"}
    assert found.last_success is not None
    logged = [line for line in lines if line["event"] == "task crashed" and line["log_level"] == "error"]
    assert all(line["error"] == "ValueError" and "test_discovery.py" in line["at"] for line in logged)
    assert 1 <= len(logged) <= 3  # one for each place in the code that calls it
    assert "planted" not in str(lines)
