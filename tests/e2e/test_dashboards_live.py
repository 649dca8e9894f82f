"""Dashboards and alerts with a real Prometheus and Alertmanager: results of every panel, alerts of every scenario.

``PHONIC_PICTURES=docs`` also writes a picture of each dashboard into that folder.
"""

import faulthandler
import json
import math
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from dashboards import queries
from dashboards.boards import BOARDS
from dashboards.pictures.__main__ import components, draw, picture
from dashboards.pictures.asking import Results, Window
from dashboards.pictures.page import CAPTION, height
from dashboards.queries import PanelQuery
from exporter.phonic.wire import is_conversation_id
from tests.e2e.prometheus import Prometheus, needs
from tests.e2e.scenario import (
    DAY,
    ERRORS,
    OUTAGE,
    SLOW,
    STAGES,
    STORM,
    UNANSWERED,
    USUAL,
    Day,
    Stage,
    healthy,
    restart,
    stage,
)

pytestmark = pytest.mark.e2e

FIRES: Mapping[str, set[str]] = {
    DAY: set(),
    SLOW: {"PhonicCallersWaiting", "PhonicResponseBudgetBurnFast", "PhonicResponseBudgetBurnSlow"},
    OUTAGE: {"PhonicUpstreamUnreachable", "PhonicFeedErrors"},
    ERRORS: {"PhonicErrorBudgetBurnFast", "PhonicErrorBudgetBurnSlow", "PhonicErrorEndings"},
    STORM: {"PhonicFeedErrors"},
    UNANSWERED: {
        "PhonicCallersWaiting",
        "PhonicResponseBudgetBurnFast",
        "PhonicResponseBudgetBurnSlow",
        "PhonicCallersGivingUp",
    },
    STAGES: {"PhonicResponseBudgetBurnFast", "PhonicResponseBudgetBurnSlow"},
}
# One notification per cause: alerts that follow from another alert of the same job are inhibited.
INHIBITED: Mapping[str, set[str]] = {
    SLOW: {"PhonicResponseBudgetBurnFast", "PhonicResponseBudgetBurnSlow"},
    OUTAGE: {"PhonicFeedErrors"},
    ERRORS: {"PhonicErrorBudgetBurnSlow", "PhonicErrorEndings"},
    UNANSWERED: {"PhonicResponseBudgetBurnFast", "PhonicResponseBudgetBurnSlow", "PhonicCallersGivingUp"},
    STAGES: {"PhonicResponseBudgetBurnSlow"},
}

# Queries without results, by panel and letter of the query, with the reason.
EMPTY = {
    ("Folded labels", "B"): "three agents are below every limit",
    ("Unusable messages and values", "B"): "the simulator was not told to send garbage",
    ("Unusable messages and values", "D"): "the simulator was not told to send garbage",
    ("Schema drift", "B"): "the simulator sends what is documented",
    ("Schema drift", "D"): "the simulator sends what is documented",
    ("Revised and skipped turns", "C"): "every turn came once, with a role",
    ("Checkpoint errors", "C"): "every checkpoint could be read",
    ("Files read again", "A"): "no file to read again is configured",
    ("Age of files in use", "A"): "no file to read again is configured",
    **dict.fromkeys(
        (
            *((panel, "A") for panel in ("Shards held", "Shards unheld", "Shards draining", "Standing by")),
            *((panel, "A") for panel in ("Shards by state", "Take-overs", "Processes", "Conversations by shard")),
            ("Lease losses", "B"),
        ),
        "the state is a file, so there are no shards",
    ),
}

RANGES = {
    "s": (0.0, 7 * 86_400.0),
    "dthms": (0.0, 86_400.0),
    "percentunit": (0.0, 1.0001),
    "bytes": (1.0, 2.0**34),
    "Bps": (0.0, 1e9),
    "cps": (0.0, 1e5),
    "cpm": (0.0, 1e6),
    "short": (0.0, 1e6),
    "currencyUSD": (0.0, 1e6),
}
# a / a is not exactly 1 if both are extrapolated.
ROUNDING = 1e-9
# Ratios that may be outside 0 to 1.
OVERSPENT = {"Response budget", "Error budget"}
BEYOND_ONE = {
    "Watched of active": "a call that ended since the last round is no longer among the active ones",
    "Manners": "one answer may be interrupted by a call's interruptions, which are known only at its end",
    "Agents, the slowest first": "tool failures are known only at a call's end, its tool calls earlier",
    "CPU": "of one core",
    "Calls lost": "conversations of the time before",
    "Share of lost conversations": "conversations of the time before",
}


@attrs.frozen(kw_only=True)
class Fact:
    """Ranges for the ``lowest``, the ``middle`` and the ``highest`` value that a panel showed for a job.

    The middle one is for quantiles and shares of a normal day: of the few turns of the first seconds, the slowest
    one is the quantile, and one is a large share.
    """

    panel: str
    job: str
    lowest: tuple[float, float] = (-math.inf, math.inf)
    middle: tuple[float, float] = (-math.inf, math.inf)
    highest: tuple[float, float] = (-math.inf, math.inf)


FACTS = (
    Fact(panel="Response p95", job=DAY, middle=(0.5, 3)),
    Fact(panel="Response p95", job=SLOW, lowest=(0.3, 3), highest=(6, 30)),
    Fact(panel="First audio p95", job=DAY, middle=(0.3, 2.5)),
    Fact(panel="Answered in time", job=DAY, highest=(0.9, 1)),
    Fact(panel="Answered in time", job=SLOW, lowest=(0, 0.8), highest=(0.85, 1)),
    Fact(panel="Callers waiting", job=DAY, highest=(0, 2)),
    Fact(panel="Callers waiting", job=SLOW, highest=(3, 60)),
    Fact(panel="Callers waiting", job=OUTAGE, highest=(0, 2)),
    Fact(panel="Longest wait", job=SLOW, highest=(6, 60)),
    Fact(panel="Error endings", job=DAY, lowest=(0, 0.1)),
    Fact(panel="Error endings", job=ERRORS, highest=(0.2, 1)),
    Fact(panel="Live conversations", job=DAY, lowest=(5, 80), highest=(20, 100)),
    Fact(panel="Live of limit", job=DAY, lowest=(0.02, 0.6), highest=(0.1, 0.8)),
    Fact(panel="Phonic's REST API", job=DAY, lowest=(1, 1), highest=(1, 1)),
    Fact(panel="Phonic's REST API", job=OUTAGE, lowest=(0, 0), highest=(1, 1)),
    Fact(panel="Response budget", job=SLOW, lowest=(-20, 0.5)),
    Fact(panel="Error budget", job=ERRORS, lowest=(-20, 0)),
    # At most 20, but that both increases are extrapolated, and late scrapes make that less exact.
    Fact(panel="Budget burn", job=SLOW, highest=(6, 22)),
    Fact(panel="Feed errors", job=STORM, highest=(60, 10_000)),
    Fact(panel="REST errors", job=OUTAGE, highest=(1, 10_000)),
    Fact(panel="Memory", job=DAY, lowest=(2e7, 3e8), highest=(2e7, 3e8)),
    Fact(panel="Discovery age", job=OUTAGE, highest=(10, 120)),
    Fact(panel="Running since", job=DAY, highest=(40, 3600)),
    Fact(panel="Gave up waiting", job=DAY, middle=(0, 0.3)),
    Fact(panel="Gave up waiting", job=UNANSWERED, lowest=(0, 0.3), highest=(0.6, 1)),
    Fact(panel="Answered in time", job=UNANSWERED, lowest=(0, 0.5), highest=(0.85, 1)),
    Fact(panel="Callers who gave up", job=UNANSWERED, lowest=(0, 1), highest=(5, 300)),
    Fact(panel="First word p95", job=DAY, middle=(0.4, 3)),
    Fact(panel="Assistant talks", job=DAY, lowest=(0.1, 0.9), highest=(0.4, 1)),
    Fact(panel="Dead air", job=DAY, lowest=(0, 0.5), middle=(0, 0.9), highest=(0.02, 1)),
    Fact(panel="Engaged", job=DAY, lowest=(0, 0.9), highest=(0.5, 1)),
    Fact(panel="Barge-ins", job=DAY, lowest=(0, 0.2), middle=(0, 0.5), highest=(0.01, 1)),
    Fact(panel="Barge-ins", job=STAGES, middle=(0.05, 0.9), highest=(0.3, 1)),
    Fact(panel="Cost an hour", job=DAY, highest=(50, 1000)),
    Fact(panel="Response with tools p95", job=STAGES, highest=(2.5, 12)),
    Fact(panel="Failure share by tool", job=STAGES, highest=(0.99, 1)),
    Fact(panel="Slow turns with tools", job=STAGES, highest=(0.1, 1)),
    Fact(panel="Snapshots decoded", job=DAY, highest=(1, 1000)),
)

# The job that each dashboard is drawn for, and the end of its window in seconds after the start.
PICTURES = {
    "overview": (SLOW, 61),
    "latency": (STAGES, 71),
    "tools": (STAGES, 90),
    "live": (SLOW, 53),
    "exporter": (OUTAGE, 75),
}


@attrs.frozen(kw_only=True)
class Story:
    """Results at the quick pace: alerts by job before the restart and at the end, panels, exemplars, pictures."""

    fired: Mapping[str, set[str]]
    inhibited: Mapping[str, set[str]]
    left_over: Mapping[str, set[str]]
    fired_at_restart: Mapping[str, set[str]]
    left_over_at_the_end: Mapping[str, set[str]]
    resets: float
    boards: Mapping[str, dict[str, Any]]
    answers: Mapping[PanelQuery, Results]
    exemplars: Results
    pages: Mapping[str, str]
    has_watchdog: bool


@attrs.frozen(kw_only=True)
class Usual:
    """Results at the usual pace: alerts by job, and the notifications that page."""

    fired: Mapping[str, set[str]]
    inhibited: Mapping[str, set[str]]
    left_over: Mapping[str, set[str]]
    pages: Mapping[str, list[set[str]]]


@attrs.frozen(kw_only=True)
class Told:
    """Results of all runs, which were played at the same time."""

    quick: Story
    usual: Usual
    day: Day


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Play everything once for all tests, because it takes minutes."""
    faulthandler.cancel_dump_traceback_later()
    for program in ("prometheus", "prometheus-alertmanager"):
        needs(program)
    return trio.run(_play, tmp_path_factory.mktemp)


@pytest.fixture
def story(told: Told) -> Story:
    return told.quick


@pytest.fixture
def usual(told: Told) -> Usual:
    return told.usual


@pytest.fixture
def day(told: Told) -> Day:
    return told.day


# More than all waits of a run, each with its own patience.
_HANGS_SECONDS = 5000


async def _play(folder: Callable[[str], Path]) -> Told:
    """Play all three at the same time, because they mostly wait. They start one after the other."""
    seen: dict[str, Any] = {}

    async def usual(task_status: trio.TaskStatus[None]) -> None:
        async with stage(folder("usual"), USUAL) as playing:
            task_status.started()
            seen["usual"] = await _watched(playing)

    async def day() -> None:
        seen["day"] = await healthy(folder("day"), 4)

    with trio.fail_after(_HANGS_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(usual)
            nursery.start_soon(day)
            seen["quick"] = await _told(folder("quick"))
    return Told(**seen)


async def _watched(playing: Stage) -> Usual:
    watch = playing.watch
    await watch.wait(lambda: watch.has_seen(FIRES, INHIBITED) and not any(watch.present.values()))
    return Usual(
        fired=_noted(watch.fired),
        inhibited=_noted(watch.inhibited),
        left_over=_noted(watch.present),
        pages={job: playing.notified.told("pager", job=job) for job in FIRES},
    )


async def _told(folder: Path) -> Story:
    async with stage(folder) as playing:
        watch, server = playing.watch, playing.server
        await watch.wait(lambda: watch.has_seen(FIRES, INHIBITED) and not any(watch.present.values()))
        fired, inhibited, left_over = _noted(watch.fired), _noted(watch.inhibited), _noted(watch.present)
        boards = {name: json.loads(playing.rendered[f"grafana/{name}.json"]) for name in BOARDS}
        asked = {query for board in boards.values() for query in _queries(board)}
        asked |= {query for fact in FACTS for board in boards.values() for query in _about(fact, board)}
        asked |= {
            query
            for job in (DAY, SLOW, STAGES)
            for query in _about(Fact(panel="Slow turns by stage", job=job), boards["latency"])
        }
        now = time.time()
        answers = {query: await _over_time(server, query, playing.ready, now) for query in asked}
        exemplars = await server.get(
            "query_exemplars",
            query="phonic_turn_response_seconds_bucket",
            start=str(playing.start),
            end=str(playing.start + 600),
        )
        pages = {name: await trio.to_thread.run_sync(_drawn, playing, name, boards[name]) for name in PICTURES}
        await restart(playing)
        return Story(
            fired=fired,
            inhibited=inhibited,
            left_over=left_over,
            fired_at_restart={job: names - fired.get(job, set()) for job, names in _noted(watch.fired).items()},
            left_over_at_the_end=_noted(watch.present),
            resets=await server.number(f'sum(resets(phonic_turns_total{{job="{DAY}"}}[10m]))'),
            boards=boards,
            answers=answers,
            exemplars=exemplars,
            pages=pages,
            has_watchdog=watch.has_watchdog,
        )


def _noted(alerts: Mapping[str, set[str]]) -> dict[str, set[str]]:
    return {job: set(names) for job, names in alerts.items() if names}


def _queries(board: Mapping[str, Any], job: str = ".+") -> list[PanelQuery]:
    return queries.panel_queries(board, _variables(job))


def _variables(job: str) -> dict[str, str]:
    return {**queries.EVERYTHING, "job": job, "__rate_interval": "10s", "__range": "1m"}


def _about(fact: Fact, board: Mapping[str, Any]) -> list[PanelQuery]:
    return [query for query in _queries(board, fact.job) if query.panel == fact.panel]


async def _over_time(server: Prometheus, query: PanelQuery, start: float, end: float) -> Results:
    answer = await server.get("query_range", query=query.expr, start=str(start), end=str(end), step="1")
    return list(answer["result"])


def _drawn(playing: Stage, name: str, board: Mapping[str, Any]) -> str:
    """Return the dashboard's HTML page; write a picture of it to ``PHONIC_PICTURES`` if set."""
    job, until = PICTURES[name]
    window = Window(start=playing.ready + 3, end=playing.start + until, variables=_variables(job))
    page = draw(board, playing.server.url, window)
    folder = os.environ.get("PHONIC_PICTURES")
    if folder:
        html = playing.folder / f"{name}.html"
        html.write_text(draw(board, playing.server.url, window, components()), encoding="utf-8")
        picture(html, Path(folder) / f"{name}.png", height(board))
    return page


# --- alerts


def test_each_scenario_fires_exactly_its_alerts(story: Story) -> None:
    assert story.fired == {job: names for job, names in FIRES.items() if names}


def test_consequences_are_inhibited_by_their_cause(story: Story) -> None:
    assert story.inhibited == INHIBITED


def test_all_alerts_resolve(story: Story) -> None:
    assert story.left_over == {}


def test_the_watchdog_shows_that_alerts_are_delivered(story: Story) -> None:
    assert story.has_watchdog


def test_each_scenario_fires_its_alerts_at_the_usual_scrape_interval_too(usual: Usual) -> None:
    assert usual.fired == {job: names for job, names in FIRES.items() if names}
    assert usual.inhibited == INHIBITED
    assert usual.left_over == {}


def test_one_cause_pages_once(usual: Usual) -> None:
    assert usual.pages == {
        DAY: [],
        SLOW: [{"PhonicCallersWaiting"}],
        OUTAGE: [{"PhonicUpstreamUnreachable"}],
        ERRORS: [{"PhonicErrorBudgetBurnFast"}],
        STORM: [],
        UNANSWERED: [{"PhonicCallersWaiting"}],
        STAGES: [{"PhonicResponseBudgetBurnFast"}],
    }


def test_a_healthy_day_does_not_page_in_any_phase_of_the_scrape(day: Day) -> None:
    assert {alert for alert in day.alerts if alert[2] not in ("info", "none")} == set()
    assert day.rules == {"ok"}


def test_the_healthy_day_is_scraped_in_different_phases(day: Day) -> None:
    for interval, phases in day.phases.items():
        assert len(phases) == 10
        assert len({round(phase / interval * 10) for phase in phases}) > 4


def test_a_stopped_exporter_fires_an_alert_that_resolves_on_its_return(story: Story) -> None:
    assert {job: names for job, names in story.fired_at_restart.items() if names} == {DAY: {"PhonicExporterDown"}}
    assert story.left_over_at_the_end == {}


def test_prometheus_does_not_notice_the_restart_in_the_counters(story: Story) -> None:
    assert story.resets == 0


# --- panels


def test_every_query_of_every_panel_has_results_or_a_reason_to_have_none(story: Story) -> None:
    empty = {
        (query.panel, query.ref)
        for board in story.boards.values()
        for query in _queries(board)
        if not _values(story.answers[query])
    }
    assert empty == set(EMPTY)


def test_results_are_in_the_range_of_their_unit(story: Story) -> None:
    odd = []
    for board in story.boards.values():
        for query in _queries(board):
            low, high = RANGES[query.unit]
            if query.unit == "percentunit" and query.panel in OVERSPENT:
                low = -1 / 0.05
            if query.unit == "percentunit" and query.panel in BEYOND_ONE:
                high = 50.0
            values = _values(story.answers[query])
            if values and not low - ROUNDING <= min(values) <= max(values) <= high:
                odd.append((query.board, query.panel, query.ref, query.unit, min(values), max(values)))
    assert odd == []


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: f"{fact.panel}-{fact.job}")
def test_panel_shows_what_happened(story: Story, fact: Fact) -> None:
    asked = [query for board in story.boards.values() for query in _about(fact, board)]
    assert asked
    values = [value for query in asked for value in _values(story.answers[query])]
    assert values
    assert fact.lowest[0] <= min(values) <= fact.lowest[1]
    assert fact.middle[0] <= statistics.median(values) <= fact.middle[1]
    assert fact.highest[0] <= max(values) <= fact.highest[1] + ROUNDING


@pytest.mark.parametrize(
    ("job", "stages"),
    [(SLOW, {"model_generation"}), (STAGES, {"model_input", "end_of_turn"})],
)
def test_slow_turns_are_told_apart_by_the_stage_that_was_slow(story: Story, job: str, stages: set[str]) -> None:
    """Each of these stages has far more slow turns a minute at some time than it ever has on a normal day."""
    assert stages <= {stage for stage, most in _slow_turns(story, job).items() if most > 60}
    assert max(_slow_turns(story, DAY).values()) < 60


def _slow_turns(story: Story, job: str) -> dict[str, float]:
    [query] = [
        each
        for each in _about(Fact(panel="Slow turns by stage", job=job), story.boards["latency"])
        if "stage" in each.expr
    ]
    return {series["metric"]["stage"]: max(_values([series])) for series in story.answers[query]}


def _values(results: Results) -> list[float]:
    values = [float(value) for series in results for _, value in series["values"]]
    return [value for value in values if math.isfinite(value)]


# --- exemplars and pictures


@pytest.mark.parametrize("job", FIRES)
def test_exemplars_lead_from_buckets_to_conversations(story: Story, job: str) -> None:
    found = [
        (float(series["seriesLabels"]["le"]), float(each["value"]), each["labels"])
        for series in story.exemplars
        if series["seriesLabels"]["job"] == job
        for each in series["exemplars"]
    ]
    assert len({labels["conversation_id"] for _, _, labels in found}) > 9
    for bound, value, labels in found:
        assert value <= bound
        assert is_conversation_id(labels["conversation_id"])


def test_the_slowest_turns_have_exemplars(story: Story) -> None:
    slow = [
        float(each["value"])
        for series in story.exemplars
        if series["seriesLabels"]["job"] == SLOW
        for each in series["exemplars"]
    ]
    assert max(slow) > 6


@pytest.mark.parametrize("name", PICTURES)
def test_drawn_dashboard_has_all_panels_and_names_its_renderer(story: Story, name: str) -> None:
    page = story.pages[name]
    titles = re.findall(r"<h3>([^<]*)</h3>", page)
    assert titles == [panel["title"].replace("'", "&#x27;") for panel in queries.panels(story.boards[name])]
    assert CAPTION in page
    empty = set(re.findall(r'<h3>([^<]*)</h3><div class="none">', page))
    assert empty <= {panel for panel, _ in EMPTY}
