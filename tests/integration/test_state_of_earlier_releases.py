"""Counting continues from a state file of 0.1.0 as in 0.1.0, whose totals are in a file beside it."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from exporter.conversations import Conversations
from exporter.counting.increments import Measure
from exporter.metrics import catalog
from exporter.metrics.catalog import CATALOG
from exporter.metrics.series import rebucketed
from exporter.phonic.decode import decode
from exporter.state.ended import hash_of
from exporter.state.keeper import StateKeeper
from tests.unit.counted import new_conversations, shown, totals

DATA = Path(__file__).parent.parent / "data" / "state"
STORY: dict[str, Any] = json.loads((DATA / "0.1.0.json").read_text("utf-8"))
NOW = STORY["written_at"] + 60.0

NEW = {
    Measure.GREETING, Measure.HANGUP_WAIT, Measure.END_OF_TURN, Measure.SLOW_TURN, Measure.TOOL_RESPONSE,
    Measure.USER_RESPONSE, Measure.BARGE_IN, Measure.TOOL_COMPLETED, Measure.TOOL_FAILED,
}  # fmt: skip
"""What 0.1.0 did not count."""

Totals = dict[tuple[str, tuple[str, ...]], tuple[int, ...]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copy(DATA / "0.1.0.sqlite", tmp_path / "exporter.db"))


def today(rows: list[Any]) -> Totals:
    """Numbers of 0.1.0 in the current buckets."""
    families = {each.name: each for each in CATALOG}
    return {
        (families[name].sample_name, tuple(labels)): tuple(
            rebucketed(layout, numbers, families[name].buckets) if layout else numbers
        )
        for name, labels, layout, numbers in rows
    }


def of_0_1_0(numbers: Totals) -> Totals:
    """Those of the families that 0.1.0 had."""
    known = {catalog.FAMILY_OF[each].sample_name for each in catalog.FAMILY_OF if each not in NEW}
    return {key: each for key, each in numbers.items() if key[0] in known}


async def start(path: Path) -> tuple[StateKeeper, Conversations]:
    conversations = new_conversations(hold=30.0, now=lambda: NOW)
    opened = await StateKeeper.open(path, label_names=conversations.store.limits.names, now=lambda: NOW)
    assert opened.problem is None
    assert opened.saved is not None
    if conversations.restore(opened.saved):
        opened.keeper.write_everything()
    conversations.learn_projects(STORY["projects"])
    return opened.keeper, conversations


def go_on(conversations: Conversations) -> None:
    for conversation_id, frames in STORY["later_frames"].items():
        for frame in frames:
            message = decode(json.dumps(frame))
            assert message.snapshot is not None
            conversations.update(conversation_id, message.snapshot)
    for conversation_id in STORY["finished_then"]:
        conversations.finish(conversation_id, None)


async def test_numbers_progress_and_ends_of_0_1_0_are_taken_over(path: Path) -> None:
    keeper, conversations = await start(path)
    assert totals(conversations) == today(STORY["numbers"])
    page = shown(conversations)
    assert {key: page[key] for key in totals(conversations)} == totals(
        conversations
    )  # shown at once, because Prometheus saw them before
    assert sorted(conversations.unfinished()) == [("conv_a", False), ("conv_b", False), ("conv_c", True)]
    assert conversations.is_finished("conv_d")
    assert conversations.is_finished("conv_f")
    assert not conversations.is_finished("conv_a")
    assert conversations.first_start == STORY["written_at"]
    await keeper.close()


@pytest.mark.parametrize("restarts", [False, True])
async def test_later_snapshots_count_as_they_did_in_0_1_0(path: Path, restarts: bool) -> None:
    keeper, conversations = await start(path)
    if restarts:
        assert await keeper.write_now(conversations, on_error=pytest.fail)
        await keeper.close()
        keeper, conversations = await start(path)
    go_on(conversations)
    # 0.1.0 rejected a start that is no time only where a response depended on it.
    bad_start = {("phonic_exporter_rejected_values_total", ("started_at", "wrong_type")): (1,)}
    assert of_0_1_0(totals(conversations)) == today(STORY["numbers_then"]) | bad_start
    assert await keeper.write_now(conversations, on_error=pytest.fail)
    await keeper.close()
    keeper, again = await start(path)
    assert totals(again) == totals(conversations)
    assert all(again.is_finished(each) for each in ("conv_d", "conv_f", *STORY["finished_then"]))
    go_on(again)
    assert totals(again) == totals(conversations)
    await keeper.close()


@pytest.mark.parametrize("everything", [True, False])
async def test_the_first_write_migrates_the_file(path: Path, everything: bool) -> None:
    before = path.read_bytes()  # noqa: ASYNC240
    keeper, conversations = await start(path)
    if not everything:  # a release with the same families and buckets would migrate it row by row
        keeper._needs_everything = False
    assert path.read_bytes() == before  # noqa: ASYNC240  # reading must not change it
    go_on(conversations)
    assert await keeper.write_now(conversations, on_error=pytest.fail)
    await keeper.close()
    rows = sqlite3.connect(path)
    assert rows.execute("PRAGMA user_version").fetchone() == (3,)
    assert rows.execute("SELECT count(*) FROM sqlite_master WHERE name = 'tombstone'").fetchone() == (0,)
    hashes = b"".join(each for (each,) in rows.execute("SELECT hashes FROM ended"))
    found = {int.from_bytes(hashes[at : at + 8], "little") for at in range(0, len(hashes), 8)}
    assert found == {hash_of(each) for each in ("conv_d", "conv_f", *STORY["finished_then"])}
    rows.close()
    keeper, again = await start(path)
    assert totals(again) == totals(conversations)
    await keeper.close()


def test_measurements_beyond_the_last_bucket_of_0_1_0_stay_beyond_the_last_bucket() -> None:
    layout = next(each[2] for each in STORY["numbers"] if each[0] == catalog.RESPONSE.name)
    numbers = [5, *[0] * (len(layout) - 1), 3, 4]
    moved = rebucketed(layout, numbers, catalog.RESPONSE.buckets)
    assert catalog.RESPONSE.buckets[len(layout) :] == (20, 30, 60)
    assert moved == [5, *[0] * (len(layout) - 1), 3, 0, 0, 0, 4]
