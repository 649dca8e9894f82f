"""Label values: always all of them, never empty, never too long, whatever Phonic sends."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.counting.labels import LABEL_CHOICES, LABEL_LENGTH, label_value, labels_of
from exporter.phonic.schema import Agent, Conversation, Project

any_text = st.none() | st.text(max_size=3) | st.text(min_size=LABEL_LENGTH, max_size=LABEL_LENGTH + 2)
any_conversation = st.builds(
    Conversation,
    id=st.just("conv_1"),
    project_id=any_text,
    project=st.none() | st.builds(Project, id=any_text, name=any_text),
    agent=st.none() | st.builds(Agent, id=any_text, name=any_text),
    origin=any_text,
    is_test=st.none() | st.booleans(),
    call_provider=any_text,
    default_language=any_text,
    model=any_text,
    intelligence_level=any_text,
)


@given(any_conversation, st.dictionaries(st.text(max_size=3), st.text(max_size=3)))
def test_any_conversation_has_a_value_for_every_label(conversation: Any, names: dict[str, str]) -> None:
    labels = labels_of(conversation, names)
    assert tuple(labels) == LABEL_CHOICES
    assert all(labels.values())


@pytest.mark.parametrize(
    ("level", "label"), [("high", "high"), ("default", "default"), ("genius", "other"), (None, "unknown")]
)
def test_levels_of_intelligence_are_a_closed_set(level: str | None, label: str) -> None:
    assert labels_of(Conversation("conv_1", intelligence_level=level), {})["intelligence_level"] == label


@given(st.text(st.characters(), max_size=LABEL_LENGTH + 5))
def test_a_label_value_is_bounded_and_can_be_encoded(text: str) -> None:
    value = label_value(text)
    assert len(value) <= LABEL_LENGTH
    assert len(value.encode()) <= 4 * LABEL_LENGTH
    assert label_value(value) == value
