"""The page: byte for byte what prometheus_client writes for the same numbers, and read back by its parsers."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.counting.increments import TURN, Measure, rejected
from exporter.enums import EndedBy, Field, Lost, MessageType, Rejection, Role
from exporter.metrics import catalog, client_exposition
from exporter.metrics.catalog import CATALOG, Family
from exporter.metrics.client_exposition import labels_in
from exporter.metrics.exposition import Block, finish, has_samples_named, render
from exporter.metrics.formats import Format
from exporter.metrics.page import Page, one, rows
from exporter.metrics.process import process_metrics
from exporter.metrics.series import Column, Histogram, labels_text, samples
from exporter.metrics.store import LabelLimits, MetricStore, accumulated, saved_families
from tests.unit.counted import live, new_conversations, page_of, series_of

Rows = list[tuple[tuple[str, ...], float]]
pytestmark = pytest.mark.usefixtures("quiet_logs")
FORMATS = pytest.mark.parametrize("form", list(Format), ids=lambda form: form.name)


def blocks(store: MetricStore, gauges: dict[Family, Rows]) -> Iterator[Block]:
    held = set(accumulated())
    for family in CATALOG:
        yield (
            family,
            store.shown(family) if family in held else Column.of(samples(family.labels, gauges.get(family, []))),
        )


def by_client(store: MetricStore, gauges: dict[Family, Rows], form: Format) -> bytes:
    return b"".join(finish(client_exposition.render(blocks(store, gauges), form), form))


def by_us(store: MetricStore, gauges: dict[Family, Rows], form: Format) -> bytes:
    return b"".join(finish(render(blocks(store, gauges), form), form))


# Possible names of agents, without lone surrogates, which UTF-8 cannot encode.
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ['"', "\n", "\\", "\\n", "}", "{", "\U0001f600", 'a",b="c', " ", "__other__", "#", "\r", "\u2028"]
)
measured = st.tuples(
    st.sampled_from(
        [
            (Measure.RESPONSE,),
            (Measure.FIRST_AUDIO,),
            (Measure.CONVERSATION_TURNS,),
            (Measure.TURN_DURATION, Role.USER),
        ]
    ),
    st.floats(0, 1e6) | st.sampled_from([0.5, 1.0, 2.5, 0.1 + 0.2, 1e5]),
)
counted = st.sampled_from(
    [
        TURN[Role.USER],
        TURN[Role.OTHER],
        ((Measure.ENDED, EndedBy.OTHER), 1),
        ((Measure.LOST, Lost.NEVER_LIVE), 1),
        rejected(Field.RESPONSE, Rejection.NEGATIVE),
        ((Measure.INTERRUPTIONS,), 12_345_678),
        ((Measure.UNKNOWN_TIMING,), 1),
    ]
)


@st.composite
def stores(draw: st.DrawFn) -> MetricStore:
    chosen = draw(st.sampled_from([("project", "agent"), (), ("agent",), ("model", "agent", "is_test")]))
    store = MetricStore(LabelLimits(names=chosen), hold=draw(st.sampled_from([0.0, 30.0])))
    for at in range(draw(st.integers(0, 4))):
        label_set = store.label_set([draw(names) for _ in chosen])
        for increments in draw(st.lists(st.lists(measured | counted, max_size=5), max_size=3)):
            store.apply(label_set, increments, conversation_id=f"conv_{at}", at=1e9 + draw(st.floats(0, 1e9)))
    store.count(catalog.UPDATE_BYTES, amount=draw(st.integers(0, 10**18)))
    if draw(st.booleans()):
        store.show_counted()
    return store


@st.composite
def gauge_rows(draw: st.DrawFn) -> dict[Family, Rows]:
    return {
        family: list(
            draw(
                st.dictionaries(
                    st.tuples(*[names] * len(family.labels)), st.floats() | st.integers(0, 2**40), max_size=2
                )
            ).items()
        )
        for family in draw(
            st.lists(st.sampled_from([catalog.LIVE_INFO, catalog.LIVE_TURNS, catalog.UP, catalog.AGENT_INFO]))
        )
    }


@given(stores(), gauge_rows(), st.sampled_from(Format))
def test_both_writers_give_the_same_bytes(store: MetricStore, gauges: dict[Family, Rows], form: Format) -> None:
    assert by_us(store, gauges, form) == by_client(store, gauges, form)


def busy_store(seed: int = 0) -> MetricStore:
    rng = random.Random(seed)
    store = MetricStore(LabelLimits())
    for number in range(20):
        label_set = store.label_set((f"project {number % 3}", f'agent "{number}"\n\\ {{}} \U0001f600'))
        increments = [
            ((what,), rng.lognormvariate(-0.5, 1)) for what in (Measure.RESPONSE, Measure.FIRST_AUDIO)
        ] * 20
        store.apply(label_set, increments, conversation_id=f"conv_{number}", at=1e9 + number)
    store.count(catalog.MESSAGES, MessageType.ERROR, amount=10**12)
    store.show_counted()
    return store


@FORMATS
def test_both_writers_give_the_same_large_page(form: Format) -> None:
    store = busy_store()
    gauges: dict[Family, Rows] = {catalog.LIVE_TURNS: [((f"conv_{at}",), at) for at in range(1000)]}
    assert by_us(store, gauges, form) == by_client(store, gauges, form)


@given(st.lists(st.tuples(st.sampled_from(["a", "b_c", "le"]), names), max_size=3, unique_by=lambda pair: pair[0]))
def test_labels_are_read_back_from_their_text(pairs: list[tuple[str, str]]) -> None:
    text = labels_text([name for name, _ in pairs], [value for _, value in pairs])
    assert labels_in(text) == dict(pairs)


@FORMATS
def test_both_writers_give_the_same_page(form: Format) -> None:
    gauges: dict[Family, Any] = dict.fromkeys((each for each in CATALOG if each not in set(accumulated())), list)
    gauges[catalog.UP] = lambda: [("", 1.0)]
    store, one_family = busy_store(), frozenset({catalog.RESPONSE.name})
    for chosen in (one_family, None):  # the whole page comes last: the next one tells what it cost
        ours = Page(store, gauges, lambda *_: b"# p\n")
        client = Page(store, gauges, lambda *_: b"# p\n", exposition=client_exposition.render)
        assert ours.render(form, chosen) == client.render(form, chosen)


@given(st.lists(st.tuples(names, st.floats() | st.integers(0, 10**10)), max_size=5, unique_by=lambda row: row[0]))
def test_a_column_is_written_as_its_samples_are(found: list[tuple[str, float]]) -> None:
    rows = samples(catalog.LIVE_TURNS.labels, [((name,), value) for name, value in found])
    for form in Format:
        written = b"".join(render([(catalog.LIVE_TURNS, Column.of(rows))], form))
        one_by_one = [b"".join(render([(catalog.LIVE_TURNS, Column.of([row]))], form)) for row in rows]
        assert written.splitlines()[2:] == [line for each in one_by_one for line in each.splitlines()[2:]]


def families_of(page: bytes, form: Format) -> list[Metric]:
    parse = parse_openmetrics if form is Format.OPENMETRICS_1_0_0 else parse_text
    return list(parse(page.decode()))


def values(metrics: Iterable[Metric]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value
        for metric in metrics
        for each in metric.samples
    }


@FORMATS
def test_the_parsers_read_the_same_numbers_back(form: Format) -> None:
    store = busy_store()
    read = values(families_of(by_us(store, {}, form), form))
    for family in accumulated():
        for series in series_of(store, family):
            labels = tuple(sorted(zip(family.label_names(store.limits.names), series.labels, strict=True)))
            if isinstance(series, Histogram):
                assert read[f"{family.name}_sum", labels] == series.nanos / 1e9
                assert read[f"{family.name}_count", labels] == sum(series.counts)
            else:
                assert read[family.sample_name, labels] == series.total


@given(st.lists(names, min_size=1, max_size=3, unique=True), st.sampled_from(Format))
def test_any_agent_name_is_read_back_unchanged(agents: list[str], form: Format) -> None:
    conversations = new_conversations()
    for at, agent in enumerate(agents):
        conversations.update(f"conv_{at}", live({"id": f"conv_{at}", "agent": {"id": "agent_1", "name": agent}}))
    read = families_of(page_of(conversations).render(form, frozenset({"phonic_conversations"})), form)
    found = {
        each.labels["agent"] for metric in read if metric.name == "phonic_conversations" for each in metric.samples
    }
    assert found == {agent or "agent_1" for agent in agents}


def test_exemplars_are_read_back_with_conversation_value_and_time() -> None:
    conversations = new_conversations()
    conversations.update("conv_1", live({"id": "conv_1", "items": [{"timings": {"model_generation_time": 450}}]}))
    conversations.update("x" * 114, live({"id": "c", "items": [{"timings": {"model_generation_time": 900}}]}))
    read = families_of(page_of(conversations).render(Format.OPENMETRICS_1_0_0), Format.OPENMETRICS_1_0_0)
    (exemplar,) = [each.exemplar for metric in read for each in metric.samples if each.exemplar]
    assert (exemplar.labels, exemplar.value) == ({"conversation_id": "conv_1"}, 0.45)
    assert float(exemplar.timestamp or 0) == 1_753_920_000.0


@FORMATS
def test_no_family_is_repeated_or_empty(form: Format) -> None:
    lines = page_of(new_conversations()).render(form).decode().splitlines()
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    assert all(
        not line.startswith("#") for at, line in enumerate(lines) if at and lines[at - 1].startswith("# TYPE")
    )


def test_only_openmetrics_has_an_end_mark() -> None:
    pages = {form: b"".join(finish([b"a\n", b"b\n"], form)) for form in Format}
    assert pages == {
        Format.TEXT_0_0_4: b"a\nb\n",
        Format.TEXT_1_0_0: b"a\nb\n",
        Format.OPENMETRICS_1_0_0: b"a\nb\n# EOF\n",
    }


# --- the page as a whole


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("phonic_turns_total", ["phonic_turns"]),
        ("phonic_turns", ["phonic_turns"]),
        ("phonic_turn_response_seconds_bucket", ["phonic_turn_response_seconds"]),
        ("phonic_turn_response_seconds", ["phonic_turn_response_seconds"]),
        ("phonic_turns_count", []),
        ("process_cpu_seconds_total", ["process_cpu_seconds"]),
        ("nonsense", []),
    ],
)
@FORMATS
def test_a_page_can_be_restricted_to_names(name: str, families: list[str], form: Format) -> None:
    conversations = new_conversations()
    conversations.store.label_set(("main", "support"))
    gauges: dict[Family, Any] = dict.fromkeys((each for each in CATALOG if each not in set(accumulated())), list)
    page = Page(conversations.store, gauges, process_metrics()).render(form, frozenset({name}))
    assert [metric.name for metric in families_of(page, form)] == families


def test_every_sample_name_selects_its_family() -> None:
    for family in CATALOG:
        assert has_samples_named(family, frozenset({family.sample_name}))
        assert not has_samples_named(family, frozenset({f"{family.name}_more"}))


def test_a_family_without_a_source_is_an_error_at_the_start() -> None:
    with pytest.raises(ValueError, match="nothing feeds phonic_conversations_live"):
        Page(MetricStore(LabelLimits()), {}, process_metrics())


def test_gauges_are_read_at_each_scrape() -> None:
    state: list[float | None] = [None]
    family, source = one(catalog.UP, lambda: state[0])
    assert list(source()) == []
    state[0] = 1.0
    assert list(source()) == [("", 1.0)]
    family, source = rows(catalog.WATCHERS, lambda: [(("live",), 3.0)])
    assert (family, list(source())) == (catalog.WATCHERS, [('{state="live"}', 3.0)])


def test_families_with_a_shared_reader_show_the_same_moment_of_each_page() -> None:
    moments = count(1)

    def both() -> dict[Family, Column]:
        now = next(moments)
        return {catalog.LIVE_TURNS: Column(["a", "b"], [now, 0]), catalog.LIVE_DURATION: Column(["a"], [now])}

    gauges: dict[Family, Any] = dict.fromkeys((each for each in CATALOG if each not in set(accumulated())), list)
    page = Page(MetricStore(LabelLimits()), {**gauges, **dict.fromkeys(both(), both)}, lambda _form, _names: b"")
    for moment, names in ((2, None), (3, frozenset({catalog.LIVE_DURATION.name})), (4, None)):
        lines = page.render(Format.TEXT_0_0_4, names).decode().splitlines()
        turns = [f"{catalog.LIVE_TURNS.name}a {moment}.0", f"{catalog.LIVE_TURNS.name}b 0.0"]
        duration = [f"{catalog.LIVE_DURATION.name}a {moment}.0"]
        assert [line for line in lines if "_live_" in line and "#" not in line] == (
            duration if names else turns + duration
        )


@FORMATS
def test_all_parts_of_a_page_show_the_moment_of_the_request(form: Format) -> None:
    store = busy_store()
    turns = [("a", 1.0)]
    gauges: dict[Family, Any] = dict.fromkeys((each for each in CATALOG if each not in set(accumulated())), list)
    gauges[catalog.LIVE_TURNS] = lambda: turns

    def page() -> Page:
        return Page(store, gauges, lambda _form, _names: b"")

    before = page().render(form)
    parts = page().parts(form)
    taken = [next(parts)]
    for family in accumulated():
        for series in series_of(store, family):
            if isinstance(series, Histogram):
                series.observe(1e-9, '{conversation_id="conv_later"}', 2e9)
            else:
                series.add(1)
    turns[:] = [("a", 2.0), ("b", 2.0)]
    taken += parts
    assert len(taken) > 2
    assert b"".join(taken) == before
    assert page().render(form) != before


def test_a_page_has_the_render_duration_of_the_previous_one() -> None:
    page = page_of(new_conversations())
    assert b"phonic_exporter_render_duration_seconds" not in page.render(Format.TEXT_0_0_4)
    assert b"\nphonic_exporter_render_duration_seconds 0." in page.render(Format.TEXT_0_0_4)


@pytest.mark.e2e
def test_promtool_accepts_a_full_page() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is missing")
        pytest.skip("promtool is not installed")
    conversations = new_conversations()
    conversations.store.restore(busy_store().freeze().rows(), families=saved_families())
    gauges: dict[Family, Any] = dict.fromkeys((each for each in CATALOG if each not in set(accumulated())), list)
    for family in gauges:
        gauges[family] = lambda family=family: samples(family.labels, [(("x",) * len(family.labels), 1.5)])
    page = Page(conversations.store, gauges, process_metrics())
    page.render(Format.TEXT_0_0_4)
    full = page.render(Format.TEXT_0_0_4)
    assert {metric.name for metric in families_of(full, Format.TEXT_0_0_4)} >= {
        each.name for each in CATALOG if not each.is_by_tool
    }
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=full, capture_output=True, timeout=30, check=False
    )
    assert (checked.returncode, checked.stderr.decode(), checked.stdout.decode()) == (0, "", "")
