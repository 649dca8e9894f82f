"""docs/metrics.md: it is what the generator writes, and every example asks for what exists."""

from pathlib import Path

import attrs
import pytest

from dashboards import slo
from docs import examples, metrics
from docs.examples import SECTIONS, Example
from docs.markdown import prose, rewritten, slug, table
from exporter.counting.labels import LABEL_CHOICES
from exporter.metrics.catalog import CATALOG
from tests.unit.promql_reading import family_of, problems, selectors

PAGE = Path(metrics.__file__).with_name("metrics.md")
EXAMPLES = {name: example for section in SECTIONS for name, example in section.examples.items()}


def test_the_page_is_what_the_generator_writes() -> None:
    """Else: ``make docs``."""
    text = PAGE.read_text(encoding="utf-8")
    assert text == rewritten(text, metrics.parts())


def test_every_family_has_an_example_once() -> None:
    named = [name for section in SECTIONS for name in section.examples]
    assert sorted(named) == sorted(family.name for family in CATALOG)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_parses_and_names_only_metrics_and_labels_that_exist(name: str) -> None:
    assert problems(EXAMPLES[name].query, slo.load()) == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_asks_for_its_own_family(name: str) -> None:
    families = {family_of(selector.name) for selector in selectors(EXAMPLES[name].query)}
    assert name in {family.name for family in families if family is not None}


def test_a_family_without_an_example_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = SECTIONS
    fewer = {name: example for name, example in first.examples.items() if name != "phonic_conversations"}
    monkeypatch.setattr(metrics, "SECTIONS", (attrs.evolve(first, examples=fewer), *others))
    with pytest.raises(ValueError, match=r"phonic_conversations'"):
        metrics.parts()


def test_an_example_of_a_family_that_does_not_exist_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = SECTIONS
    more = {**first.examples, "phonic_unicorns": Example("None.", "phonic_unicorns")}
    monkeypatch.setattr(metrics, "SECTIONS", (attrs.evolve(first, examples=more), *others))
    with pytest.raises(ValueError, match="phonic_unicorns"):
        metrics.parts()


def test_closed_label_values_and_buckets_are_on_the_page() -> None:
    page = metrics.parts()["metrics"]
    for family in CATALOG:
        for label, values in zip(family.labels, family.values, strict=False):
            assert f"- label `{label}`: {', '.join(f'`{value}`' for value in values)}" in page
        assert ", ".join(f"{bound:g}" for bound in family.buckets) in page


def test_the_stability_words_are_explained() -> None:
    for word in examples.Stability:
        assert f"- `{word.value}`:" in PAGE.read_text(encoding="utf-8")


def test_the_labels_to_choose_from_are_explained() -> None:
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"the choices are {', '.join(f'`{label}`' for label in LABEL_CHOICES)}." in page


def test_words_with_an_underscore_and_flags_become_code() -> None:
    assert prose("see items[].duration_ms, --web.listen-address.") == (
        "see `items[].duration_ms`, `--web.listen-address`."
    )
    assert prose("PUT of /api/v1/conversations/{id}, process_* and phonic_exporter_* too") == (
        "PUT of /api/v1/conversations/{id}, `process_*` and `phonic_exporter_*` too"
    )
    assert prose("nothing here; already `in_code`") == "nothing here; already `in_code`"


def test_anchors_are_those_of_github() -> None:
    assert slug("`phonic_turns_total`") == "phonic_turns_total"
    assert slug("`--web.listen-address`") == "--weblisten-address"
    assert slug("Backup, and files set aside") == "backup-and-files-set-aside"


def test_a_table_escapes_the_separator_of_cells() -> None:
    assert table(("a", "b"), [("x|y", "z")]) == "| a | b |\n| --- | --- |\n| x\\|y | z |\n"


def test_rewriting_changes_nothing_but_what_stands_between_the_markers() -> None:
    page = "before\n<!-- a:begin -->\nwas here\n<!-- a:end -->\nafter\n"
    fresh = rewritten(page, {"a": "is here\n"})
    assert fresh == "before\n<!-- a:begin -->\nis here\n<!-- a:end -->\nafter\n"
    assert rewritten(fresh, {"a": "is here\n"}) == fresh


def test_a_marker_that_is_missing_is_refused() -> None:
    with pytest.raises(ValueError, match="unpack"):
        rewritten("no marker\n", {"a": "text\n"})
