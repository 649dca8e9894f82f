"""What ``check-config`` and the documents say about the number of series is what a page has."""

import re
from pathlib import Path

import pytest

from exporter import cli
from exporter.metrics.catalog import CATALOG, Scope, series_of
from exporter.metrics.formats import Format
from exporter.metrics.store import LabelLimits
from tests.unit.counted import live, new_conversations, page_of

ROOT = Path(__file__).parents[2]
LABEL_SETS, LIVE = 3, 2
pytestmark = pytest.mark.usefixtures("quiet_logs")


def series_on_a_full_page(scope: Scope) -> int:
    """Samples of a scope on the page of an exporter that has met more agents and calls than its limits allow."""
    conversations = new_conversations(LabelLimits(sets=LABEL_SETS), live_limit=LIVE)
    turns = [
        {
            "item_idx": 0,
            "role": "assistant",
            "timings": {"model_generation_time": 450, "phonic_api_output_to_first_audio_chunk": 600},
        },
        {"item_idx": 1, "role": "user", "started_at": "2026-11-25T12:00:00Z", "duration_ms": 900},
    ]
    for number in range(2 * LABEL_SETS):
        conversation_id, agent = f"conv_{number}", {"id": f"agent_{number}", "name": f"agent {number}"}
        snapshot = live({"id": conversation_id, "agent": agent, "duration_ms": 5000, "items": turns})
        conversations.update(conversation_id, snapshot)
    names = frozenset(family.name for family in CATALOG if family.scope is scope)
    page = page_of(conversations).render(Format.TEXT_0_0_4, names).decode()
    return sum(not line.startswith("#") for line in page.splitlines())


def test_check_config_estimates_the_series_of_a_full_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PHONIC_API_KEY", "key")
    limits = ["--metrics.label-set-limit", str(LABEL_SETS), "--metrics.per-conversation-limit", str(LIVE)]
    with pytest.raises(SystemExit, check=lambda stop: stop.code == 0):
        cli.main(["check-config", "--state.file", "", *limits])
    said = re.search(r"about (\d+) series: (\d+) of label sets, (\d+) of live", capsys.readouterr().out)
    assert said is not None
    label_sets, of_live = series_on_a_full_page(Scope.CONVERSATIONS), series_on_a_full_page(Scope.LIVE)
    assert tuple(map(int, said.groups())) == (label_sets + of_live, label_sets, of_live)


def test_the_documents_name_the_number_of_series_that_the_catalog_has() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    said = [
        tuple(map(int, found))
        for document in documents
        for found in re.findall(
            r"(\d+) for each label set, (\d+) for each live conversation", document.read_text(encoding="utf-8")
        )
    ]
    assert set(said) == {(series_of(Scope.CONVERSATIONS), series_of(Scope.LIVE))}
