"""A state file that 0.1.0 wrote is gone on with as if 0.1.0 had done it; what it had counted then is beside it."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from exporter.conversations import Tally
from exporter.metrics import catalog as catalogue
from exporter.metrics.catalog import CATALOGUE
from exporter.metrics.series import rebucketed
from exporter.phonic.decode import decode
from exporter.state.ended import hash_of
from exporter.state.keeper import Checkpoint
from tests.unit.tallies import new_tally, shown, totals

DATA = Path(__file__).parent.parent / "data" / "state"
STORY: dict[str, Any] = json.loads((DATA / "0.1.0.json").read_text("utf-8"))
NOW = STORY["written_at"] + 60.0

Totals = dict[tuple[str, tuple[str, ...]], tuple[int, ...]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copy(DATA / "0.1.0.sqlite", tmp_path / "exporter.db"))


def today(rows: list[Any]) -> Totals:
    """Numbers of 0.1.0 in the buckets of today."""
    families = {each.name: each for each in CATALOGUE}
    return {
        (families[name].sample_name, tuple(labels)): tuple(
            rebucketed(layout, numbers, families[name].buckets) if layout else numbers
        )
        for name, labels, layout, numbers in rows
    }


async def start(path: Path) -> tuple[Checkpoint, Tally]:
    tally = new_tally(hold=30.0, now=lambda: NOW)
    opened = await Checkpoint.open(path, label_names=tally.ledger.limits.names, now=lambda: NOW)
    assert opened.problem is None
    assert opened.saved is not None
    if tally.restore(opened.saved):
        opened.checkpoint.write_everything()
    tally.learn_projects(STORY["projects"])
    return opened.checkpoint, tally


def go_on(tally: Tally) -> None:
    for conversation_id, frames in STORY["later_frames"].items():
        for frame in frames:
            message = decode(json.dumps(frame))
            assert message.snapshot is not None
            tally.update(conversation_id, message.snapshot)
    for conversation_id in STORY["finished_then"]:
        tally.finish(conversation_id, None)


async def test_numbers_progress_and_ends_of_0_1_0_are_taken_over(path: Path) -> None:
    checkpoint, tally = await start(path)
    assert totals(tally) == today(STORY["numbers"])
    page = shown(tally)
    assert {key: page[key] for key in totals(tally)} == totals(tally)  # which Prometheus saw before: at once
    assert sorted(tally.unfinished()) == [("conv_a", False), ("conv_b", False), ("conv_c", True)]
    assert tally.is_finished("conv_d")
    assert tally.is_finished("conv_f")
    assert not tally.is_finished("conv_a")
    assert tally.first_start == STORY["written_at"]
    await checkpoint.close()


@pytest.mark.parametrize("restarts", [False, True])
async def test_what_comes_later_counts_as_0_1_0_counted_it(path: Path, restarts: bool) -> None:
    checkpoint, tally = await start(path)
    if restarts:
        assert await checkpoint.write_now(tally, on_error=pytest.fail)
        await checkpoint.close()
        checkpoint, tally = await start(path)
    go_on(tally)
    assert totals(tally) == today(STORY["numbers_then"])
    assert await checkpoint.write_now(tally, on_error=pytest.fail)
    await checkpoint.close()
    checkpoint, again = await start(path)
    assert totals(again) == totals(tally)
    assert all(again.is_finished(each) for each in ("conv_d", "conv_f", *STORY["finished_then"]))
    go_on(again)
    assert totals(again) == totals(tally)
    await checkpoint.close()


@pytest.mark.parametrize("everything", [True, False])
async def test_the_first_write_makes_it_a_file_of_today(path: Path, everything: bool) -> None:
    before = path.read_bytes()  # noqa: ASYNC240
    checkpoint, tally = await start(path)
    if not everything:  # a release whose families and buckets were the same would migrate it row by row
        checkpoint._needs_everything = False
    assert path.read_bytes() == before  # noqa: ASYNC240  # reading changes nothing
    go_on(tally)
    assert await checkpoint.write_now(tally, on_error=pytest.fail)
    await checkpoint.close()
    rows = sqlite3.connect(path)
    assert rows.execute("PRAGMA user_version").fetchone() == (2,)
    assert rows.execute("SELECT count(*) FROM sqlite_master WHERE name = 'tombstone'").fetchone() == (0,)
    hashes = b"".join(each for (each,) in rows.execute("SELECT hashes FROM ended"))
    found = {int.from_bytes(hashes[at : at + 8], "little") for at in range(0, len(hashes), 8)}
    assert found == {hash_of(each) for each in ("conv_d", "conv_f", *STORY["finished_then"])}
    rows.close()
    checkpoint, again = await start(path)
    assert totals(again) == totals(tally)
    await checkpoint.close()


def test_measurements_beyond_the_last_bucket_of_0_1_0_stay_beyond_the_last_one_of_today() -> None:
    layout = next(each[2] for each in STORY["numbers"] if each[0] == catalogue.RESPONSE.name)
    numbers = [5, *[0] * (len(layout) - 1), 3, 4]
    moved = rebucketed(layout, numbers, catalogue.RESPONSE.buckets)
    assert catalogue.RESPONSE.buckets[len(layout) :] == (20, 30, 60)
    assert moved == [5, *[0] * (len(layout) - 1), 3, 0, 0, 0, 4]
