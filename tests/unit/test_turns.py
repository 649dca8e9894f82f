"""What people are told of a conversation can be told of any that Phonic may send and any state file may hold."""

from datetime import UTC, datetime
from math import inf, nan

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from exporter.conversations import Conversations
from exporter.counting.turns import CallState, SeenCall, as_json, for_people, rfc3339
from exporter.web.pages import Pages
from tests.unit.counted import Disk, live, new_conversations

pytestmark = pytest.mark.usefixtures("quiet_logs")

PAGES = Pages(telemetry_path="/metrics", version="1")
times = st.builds(
    lambda moment, zone: f"{moment.isoformat()}{zone}",
    st.datetimes() | st.sampled_from([datetime.min, datetime.max]),  # noqa: DTZ901  # the zone comes after it
    st.sampled_from(["Z", "", "+23:59", "-23:59", "-05:00"]),
)


@given(st.floats() | st.integers())
@example(inf)
@example(nan)
@example(-62_135_596_801.0)
@example(253_402_300_800.0)
@example(2**63)
def test_any_number_can_be_told_as_a_time(at: float) -> None:
    text = rfc3339(at)
    assert text is None or abs(datetime.fromisoformat(text).timestamp() - at) < 0.01
    assert for_people(at) == ("unknown" if text is None else f"{text[:10]} {text[11:19]}")
    call = SeenCall(conversation_id="conv_1", state=CallState.LIVE, started_at=at, waiting_since=at)
    assert as_json(call)["started_at"] == text
    assert for_people(at) in PAGES.conversation(call, objective=1.5)


def told(conversations: Conversations) -> tuple[str | None, str]:
    call = conversations.seen("conv_1")
    assert call is not None
    return as_json(call)["started_at"], PAGES.conversation(call, objective=1.5)


@given(times, times, st.floats(0, 24 * 3_600_000))
@example("9999-12-31T23:59:59-05:00", "9999-12-31T23:59:59Z", 86_400_000.0)
@example("0001-01-01T00:00:00+01:00", "0001-01-01T00:00:00+01:00", 0.0)
def test_a_call_can_be_told_whatever_its_times(began: str, asked: str, duration_ms: float) -> None:
    conversations, disk = new_conversations(), Disk()
    items = [{"item_idx": 0, "role": "user", "started_at": asked, "duration_ms": duration_ms}]
    conversations.update("conv_1", live({"id": "conv_1", "started_at": began, "items": items}))
    started_at, page = told(conversations)
    year = datetime.fromisoformat(began).year
    if 2 < year < 9998:
        assert started_at is not None
        assert started_at.endswith("Z")
        assert datetime.fromisoformat(started_at).astimezone(UTC).year - year in (-1, 0, 1)
    disk.save(conversations)
    again = disk.restored(new_conversations())
    assert told(again)[0] == started_at
    assert "conv_1" in page
