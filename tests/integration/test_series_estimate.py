"""What ``check-config`` and the documents say about the number of series is what a full page has."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from exporter import cli
from exporter.metrics.catalog import BY_TOOL, CATALOG, SERIES_OF_A_TOOL, Family, Scope, series_of
from exporter.metrics.formats import Format
from exporter.metrics.store import LabelLimits
from exporter.settings import MetricsSettings
from tests.unit.counted import live, new_conversations, page_of, recorded

ROOT = Path(__file__).parents[2]
LABEL_SETS, TOOLS, LIVE = 3, 4, 2
LABELLED = [family for family in CATALOG if family.scope is Scope.CONVERSATIONS]
pytestmark = pytest.mark.usefixtures("quiet_logs")


def series_on_a_full_page(families: Iterable[Family]) -> int:
    """Samples of families on the page of an exporter that met more agents, tools and calls than allowed."""
    conversations = new_conversations(LabelLimits(sets=LABEL_SETS, tools=TOOLS), live_limit=LIVE)
    calls = [{"id": f"call_{each}", "tool": {"name": f"tool {each}"}} for each in range(2 * TOOLS)]
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
        record = {"id": f"ended_{number}", "agent": agent, "items": [{"role": "user", "tool_calls": calls}]}
        conversations.finish(f"ended_{number}", recorded(record))
    names = frozenset(family.name for family in families)
    page = page_of(conversations).render(Format.TEXT_0_0_4, names).decode()
    return sum(not line.startswith("#") for line in page.splitlines())


def test_check_config_estimates_the_series_of_a_full_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PHONIC_API_KEY", "key")
    limits = [
        *("--metrics.label-set-limit", str(LABEL_SETS)),
        *("--metrics.tool-limit", str(TOOLS)),
        *("--metrics.per-conversation-limit", str(LIVE)),
    ]
    with pytest.raises(SystemExit, check=lambda stop: stop.code == 0):
        cli.main(["check-config", "--state.file", "", *limits])
    said = re.search(
        r"about (\d+) series: (\d+) of label sets, (\d+) of their tools, (\d+) of live", capsys.readouterr().out
    )
    assert said is not None
    label_sets = series_on_a_full_page(family for family in LABELLED if not family.is_by_tool)
    of_tools = series_on_a_full_page(BY_TOOL)
    of_live = series_on_a_full_page(family for family in CATALOG if family.scope is Scope.LIVE)
    assert tuple(map(int, said.groups())) == (label_sets + of_tools + of_live, label_sets, of_tools, of_live)


def test_the_documents_quote_the_estimate_for_the_default_limits_and_what_it_rests_on() -> None:
    limits = MetricsSettings()
    label_sets = (limits.label_set_limit + 1) * series_of(Scope.CONVERSATIONS)
    tools = (limits.label_set_limit + 1) * (limits.tool_limit + 1) * SERIES_OF_A_TOOL
    of_live = limits.per_conversation_limit * series_of(Scope.LIVE)
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert (
        f"at most about {label_sets + tools + of_live} series: {label_sets} of label sets, "
        f"{tools} of their tools, {of_live} of live conversations\n"
    ) in text
    assert (
        f"{series_of(Scope.CONVERSATIONS)} for each label set, {SERIES_OF_A_TOOL} for each tool in it, "
        f"{series_of(Scope.LIVE)} for each live conversation"
    ) in text
