"""Sweeps: every end of an unwatched conversation is counted exactly once."""

import time
from email.utils import formatdate
from functools import partial
from random import Random

import attrs
import httpx
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from exporter.enums import Lost, RestError
from exporter.phonic.clock import PhonicClock
from exporter.phonic.credentials import ApiKey, Credentials
from exporter.phonic.listing import ListPage
from exporter.phonic.rest import open_rest
from exporter.simulator.plan import plan
from exporter.simulator.scenario import Scenario
from exporter.simulator.server import serve
from exporter.watch.discovery import Discovery
from tests.rest_double import EPOCH, HOUR, Call, FakeExporter, FakeRest, discovery, run_for, unix_now, virtual


@pytest.mark.parametrize(
    ("started", "ended", "expected"),
    [
        pytest.param(1.0, 3.0, {"c": Lost.NEVER_LIVE}, id="between two rounds"),
        pytest.param(None, 3.0, {"c": Lost.NEVER_LIVE}, id="never started"),
        pytest.param(-HOUR, 0.5, {"c": Lost.NEVER_LIVE}, id="began before the first start"),
        pytest.param(-10.0, -1.0, {}, id="history"),
        pytest.param(None, -1.0, {}, id="history that never started"),
    ],
)
def test_end_is_counted_from_its_record_unless_it_is_history(
    started: float | None, ended: float, expected: dict[str, Lost]
) -> None:
    rest = FakeRest([Call(id="c", created=-HOUR if started is None else started, started=started, ended=ended)])
    rest.fails = lambda what: trio.current_time() < 4 and what == "projects"  # no round while it is live
    exporter = FakeExporter(rest)
    virtual(partial(run_for, 200, discovery(rest, exporter)))
    assert exporter.finished == expected
    assert exporter.complete == set(expected)  # the record was read until it had the analysis


def test_restart_counts_what_ended_meanwhile_and_within_a_day() -> None:
    day = 24 * HOUR
    rest = FakeRest(
        [
            Call(id="long ago", created=-30 * HOUR, started=-30 * HOUR, ended=-25 * HOUR),
            Call(id="meanwhile", created=-9 * HOUR, started=-9 * HOUR, ended=-8 * HOUR),
            Call(id="counted", created=-9 * HOUR, started=-9 * HOUR, ended=-8 * HOUR),
            Call(id="before the first start", created=-20 * HOUR, started=-20 * HOUR, ended=-19 * HOUR),
        ],
        page_size=2,
    )
    exporter = FakeExporter(rest, first_start=EPOCH - 18 * HOUR, finished={"counted": None})
    virtual(partial(run_for, 100, discovery(rest, exporter)))
    assert exporter.finished == {"counted": None, "meanwhile": Lost.NEVER_LIVE}
    exporter = FakeExporter(rest, first_start=EPOCH - 10 * day)
    virtual(partial(run_for, 100, discovery(rest, exporter)))
    assert exporter.finished.keys() == {"meanwhile", "counted", "before the first start"}


def test_conversation_over_the_limit_is_counted_when_it_ends_however_long_it_took() -> None:
    rest = FakeRest([Call(id=f"c{at}", created=-at, started=-at, ended=HOUR) for at in range(3)])
    rest.calls += [
        Call(id=f"short{at}", created=at * 30, started=at * 30, ended=at * 30 + 3) for at in range(1, 100)
    ]
    exporter = FakeExporter(rest, limit=1)
    virtual(partial(run_for, HOUR + 200, discovery(rest, exporter)))
    assert len(exporter.finished) == 3 + 99
    assert sorted(map(str, (exporter.finished[f"c{at}"] for at in range(3)))) == [
        "None",
        "watch_limit",
        "watch_limit",
    ]


def test_wave_during_an_outage_is_counted_over_many_pages() -> None:
    rest = FakeRest([Call(id=f"c{at}", created=at, started=at, ended=at + 3) for at in range(20, 600, 20)])
    rest.calls += [Call(id=f"w{at}", created=600 + at, started=600 + at, ended=602 + at) for at in range(70)]
    rest.fails = lambda _: 590 < trio.current_time() < 700
    exporter = FakeExporter(rest)
    virtual(partial(run_for, 1100, discovery(rest, exporter)))
    assert len(exporter.finished) == 29 + 70


@pytest.mark.parametrize("ahead", [180.0, HOUR, -HOUR, -180.0, 0.0])
def test_history_is_decided_by_phonics_clock_whatever_ours_says(ahead: float) -> None:
    """The first start of an exporter whose clock is wrong by so many seconds."""
    rest = FakeRest(
        [
            Call(id="history", created=-40 * 60, started=-40 * 60, ended=-30 * 60),
            Call(id="just before", created=-100, started=-100, ended=-5),
            Call(id="ours", created=-60, started=-60, ended=3),
        ]
    )
    rest.fails = lambda what: trio.current_time() < 5 and what == "conversations"  # so it ends unseen
    clock = PhonicClock(lambda: unix_now() + ahead)
    exporter = FakeExporter(rest)

    async def handle(request: httpx.Request) -> httpx.Response:
        reply = await rest.handle(request)
        reply.headers["Date"] = formatdate(int(unix_now()), usegmt=True)
        return reply

    async def main() -> None:
        exporter.first_start = unix_now() + ahead
        began = exporter.first_start
        async with open_rest(
            "http://127.0.0.1",
            Credentials(ApiKey("ph_key")),
            on_error=lambda _: None,
            transport=httpx.MockTransport(handle),
            clock=clock,
            now=lambda: unix_now() + ahead,
        ) as client:
            await client.workspace()
            assert clock.offset is not None
            exporter.first_start = began - clock.offset  # as `Conversations` does
            found = Discovery(
                client,
                targets=exporter,  # type: ignore[arg-type]
                sink=exporter,  # type: ignore[arg-type]
                directory=exporter,
                rng=Random(0),
                interval=5.0,
                now=clock.now,
            )
            await run_for(200, found)

    with capture_logs():
        virtual(main)
    assert exporter.finished.keys() == {"ours"}


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_step_of_our_clock_hides_nothing(step: float) -> None:
    rest = FakeRest(
        [Call(id=f"c{at}", created=at * 40, started=at * 40, ended=at * 40 + 2) for at in range(1, 50)]
    )
    exporter = FakeExporter(rest, first_start=EPOCH - 2 * HOUR)
    stepping = discovery(rest, exporter, now=lambda: unix_now() + (step if trio.current_time() > 900 else 0.0))
    virtual(partial(run_for, 2300, stepping))
    assert len(exporter.finished) == 49


def test_start_in_the_future_hides_nothing() -> None:
    rest = FakeRest(
        [Call(id=f"c{at}", created=at * 40, started=at * 40, ended=at * 40 + 2) for at in range(1, 50)]
    )

    class Odd(FakeRest):
        async def conversations(
            self, project_name: str, *, after: str | None = None, limit: int = 100
        ) -> ListPage:
            page = await super().conversations(project_name, after=after, limit=limit)
            rows = [
                attrs.evolve(row, started_at="2199-01-01T00:00:00Z") if row.id == "c9" else row
                for row in page.rows
            ]
            return attrs.evolve(page, rows=rows)

    rest = Odd(rest.calls)
    exporter = FakeExporter(rest)
    virtual(partial(run_for, 2300, discovery(rest, exporter)))
    assert len(exporter.finished) == 49


def test_start_in_the_future_hides_nothing_that_begins_during_a_long_sweep() -> None:
    class Slow(FakeRest):
        async def conversations(
            self, project_name: str, *, after: str | None = None, limit: int = 100
        ) -> ListPage:
            if after is not None and trio.current_time() < 1:
                await trio.sleep(400)
            page = await super().conversations(project_name, after=after, limit=limit)
            rows = [
                attrs.evolve(row, started_at="2199-01-01T00:00:00Z") if row.id == "odd" else row
                for row in page.rows
            ]
            return attrs.evolve(page, rows=rows)

    history = [Call(id=f"h{at}", created=-HOUR - at, started=-HOUR - at, ended=-HOUR) for at in range(20)]
    during = [Call(id=f"c{at}", created=50 + at, started=50 + at, ended=52 + at) for at in range(30)]
    rest = Slow([*history, Call(id="odd", created=-2, started=-2, ended=-1), *during], page_size=10)
    exporter = FakeExporter(rest)
    virtual(partial(run_for, 900, discovery(rest, exporter, interval=2000.0)))
    assert exporter.finished.keys() == {each.id for each in during}


async def test_unwatched_calls_of_the_simulator_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    scenario = Scenario(seed=3, projects=2, calls_per_minute=10, total=120, pace=0.02, warm_up_s=0)
    planned = {each.id for each in plan(scenario)}
    exporter = FakeExporter(FakeRest(), first_start=time.time() - HOUR)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            # The scenario began an hour ago and took minutes, so all of its calls are over.
            url = await nursery.start(partial(serve, scenario, api_key="ph_key", epoch=exporter.first_start))
            async with open_rest(
                url, Credentials(ApiKey("ph_key")), on_error=failed, requests_per_second=1000
            ) as client:
                found = Discovery(
                    client,
                    targets=exporter,  # type: ignore[arg-type]
                    sink=exporter,  # type: ignore[arg-type]
                    directory=exporter,
                    rng=Random(0),
                    interval=5.0,
                )
                await nursery.start(found.run)
                await exporter.has_finished(len(planned))
            nursery.cancel_scope.cancel()
    assert exporter.finished == dict.fromkeys(planned, Lost.NEVER_LIVE)
    assert exporter.complete == planned
    assert exporter.agents.keys() == {row.name for row in found.projects}


def failed(reason: RestError) -> None:
    raise AssertionError(reason)


# --- any history
#
# Calls may begin long before the first start (time 0), or many together, and ring or last for minutes or hours.
# Left out are calls that no sweep can find: those of over two hours that ended before the first sweep, and those
# that ring for longer than `OVERLAP`.
moments = st.one_of(st.floats(-1.9 * HOUR, 1200), st.floats(600, 630)).map(lambda at: round(at, 3))
lives = st.tuples(
    moments,
    st.one_of(st.none(), st.floats(0, 250)),  # until it starts; some never do
    st.one_of(st.none(), st.floats(0.1, 20), st.floats(0.1, 1.5 * HOUR)),  # until it ends; some never do
)
outages = st.lists(st.tuples(st.one_of(st.just(590), st.floats(0, 1500)), st.floats(1, 400)), max_size=2)


@given(
    lives=st.lists(lives, max_size=25),
    page_size=st.integers(1, 12),
    limit=st.sampled_from([0, 1, 5, 1000]),
    outages=outages,
    flaky=st.sampled_from([0.0, 0.2]),
    kills=st.lists(st.tuples(st.floats(1, 700), st.floats(1, 700)), max_size=2),
    seed=st.integers(0, 10),
)
@settings(max_examples=settings().max_examples // 2)  # an example takes hours of virtual time
def test_every_end_is_counted_exactly_once(
    lives: list[tuple[float, float | None, float | None]],
    page_size: int,
    limit: int,
    outages: list[tuple[float, float]],
    flaky: float,
    kills: list[tuple[float, float]],
    seed: int,
) -> None:
    rng = Random(seed)
    calls = [
        Call(
            id=f"c{at}",
            created=created,
            started=None if ringing is None else created + ringing,
            ended=None if talk is None else created + (ringing or 0) + talk,
        )
        for at, (created, ringing, talk) in enumerate(lives)
    ]

    def fails(_: str) -> bool:
        now = trio.current_time()
        return any(begin <= now < begin + length for begin, length in outages) or (
            now < 3000 and rng.random() < flaky
        )

    rest = FakeRest(calls, page_size=page_size, fails=fails)
    exporter = FakeExporter(rest, limit=limit)

    async def main() -> None:
        for alive, dead in kills:
            await run_for(alive, discovery(rest, exporter, rng=rng))
            exporter.over_limit.clear()  # not in the checkpoint
            await trio.sleep(dead)
        await run_for(2.5 * HOUR, discovery(rest, exporter, rng=rng, interval=20.0))

    with capture_logs():  # thousands of lines
        virtual(main)
    assert exporter.finished.keys() == {each.id for each in calls if each.ended is not None and each.ended >= 0}
    assert all((lost is None) == (each in exporter.seen) for each, lost in exporter.finished.items())
    assert exporter.complete == {each for each, lost in exporter.finished.items() if lost is not None}
