"""From the documented example payload to the exact text of the page.

``UPDATE_GOLDEN=1 python -m pytest tests/unit/test_golden.py`` writes the pages anew; review them as output.
"""

import os
from pathlib import Path

import pytest

from exporter.conversations import Conversations
from exporter.metrics import catalog
from exporter.metrics.formats import Format
from exporter.phonic.decode import decode
from tests.unit.counted import new_conversations, numbers_of, one_series, page_of

pytestmark = pytest.mark.usefixtures("quiet_logs")

DATA = Path(__file__).parents[1] / "data"
FRAME = (DATA / "payloads" / "live_conversation_updated.co.json").read_text()
LABELS = ("proj_ad0334f1-2487-4155-9df3-abd8129b29ad", "support-agent")


@pytest.fixture
def example() -> Conversations:
    conversations = new_conversations()
    message = decode(FRAME)
    assert message.snapshot is not None
    conversations.update(message.snapshot.conversation.id, message.snapshot)
    return conversations


@pytest.mark.parametrize(
    ("form", "name"), [(Format.TEXT_0_0_4, "example.prom"), (Format.OPENMETRICS_1_0_0, "example.openmetrics")]
)
def test_the_documented_example_gives_exactly_this_page(example: Conversations, form: Format, name: str) -> None:
    golden = DATA / "golden" / name
    page = page_of(example).render(form)
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.write_bytes(page)
    assert page.decode() == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("family", "labels", "numbers"),
    [
        (catalog.CONVERSATIONS, (), (1,)),
        (catalog.TURNS, ("assistant",), (2,)),
        (catalog.TURNS, ("user",), (1,)),
        (catalog.FIRST_AUDIO, (), (1_045_000_000, 2)),
        (catalog.MODEL_GENERATION, (), (830_000_000, 2)),
        (catalog.MODEL_INPUT, (), (215_000_000, 2)),
        (catalog.RESPONSE, (), (700_000_000, 1)),
        (catalog.TURN_DURATION, ("assistant",), (1_800_000_000, 1)),
        (catalog.TURN_DURATION, ("user",), (2_500_000_000, 1)),
        (catalog.CONVERSATION_DURATION, (), (0, 0)),
    ],
    ids=lambda value: value.name if isinstance(value, catalog.Family) else None,
)
def test_the_documented_example_has_these_totals(
    example: Conversations, family: catalog.Family, labels: tuple[str, ...], numbers: tuple[int, ...]
) -> None:
    total, *counts = numbers_of(one_series(example.store, family, *LABELS, *labels))
    assert (total, *([sum(counts)] if counts else [])) == numbers
