"""The checkpoint on real files: what was written is what is restored, whatever happens to file and process."""

import itertools
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from exporter.checkpoint import Checkpoint, Opened
from exporter.database import MIGRATIONS, migrate
from exporter.errors import ConfigError
from exporter.saved import TOMBSTONE_LIFE, Changes, Saved, SavedConversation, SavedSeries, Tombstone

NAMES = ("project", "agent")
DAY = 86_400.0
START = 1_800_000_000.0


@attrs.define
class Clock:
    """Unix time that stands still."""

    at: float = START

    def __call__(self) -> float:
        return self.at


@attrs.define
class Numbers:
    """What an exporter holds in memory: counters, unfinished conversations, tombstones."""

    series: dict[str, int] = attrs.field(factory=dict)
    conversations: dict[str, bytes] = attrs.field(factory=dict)
    tombstones: dict[str, float] = attrs.field(factory=dict)
    changed: set[str] = attrs.field(factory=set)
    forgotten: list[str] = attrs.field(factory=list)
    errors: int = 0

    def count(self, name: str, conversation: str) -> None:
        """An unfinished conversation adds 1 to a counter, and remembers that it did."""
        if conversation in self.tombstones:
            return
        self.series[name] = self.series.get(name, 0) + 1
        self.conversations[conversation] = b"%d" % self.series[name]
        self.changed |= {name, conversation}

    def finish(self, conversation: str, at: float) -> None:
        if self.conversations.pop(conversation, None) is not None:
            self.tombstones[conversation] = at
            self.changed.add(conversation)

    def forget(self, conversation: str) -> None:
        if self.conversations.pop(conversation, None) is not None:
            self.forgotten.append(conversation)

    def collect(self, *, everything: bool) -> Changes:
        changed, self.changed = self.changed, set()
        forgotten, self.forgotten = self.forgotten, []

        def wanted(key: str) -> bool:
            return everything or key in changed

        return Changes(
            series=[SavedSeries(k, ("p", "a"), (), (v,)) for k, v in self.series.items() if wanted(k)],
            conversations=[SavedConversation(k, v) for k, v in self.conversations.items() if wanted(k)],
            finished=[Tombstone(k, v) for k, v in self.tombstones.items() if wanted(k)],
            forgotten=forgotten,
        )

    def failed(self) -> None:
        self.errors += 1

    def kept(self) -> "Numbers":
        return Numbers(dict(self.series), dict(self.conversations), dict(self.tombstones))


def restored(saved: Saved | None) -> Numbers:
    assert saved is not None
    return Numbers(
        {each.family: each.numbers[0] for each in saved.series},
        {each.id: each.blob for each in saved.conversations},
        {each.id: each.finished_at for each in saved.tombstones},
    )


@asynccontextmanager
async def opened(
    path: Path, *, names: tuple[str, ...] = NAMES, now: Callable[[], float] = lambda: START
) -> AsyncIterator[Opened]:
    with trio.fail_after(20):
        found = await Checkpoint.open(path, label_names=names, now=now)
        try:
            yield found
        finally:
            await found.checkpoint.close()


async def written(path: Path, numbers: Numbers) -> None:
    async with opened(path) as found:
        assert await found.checkpoint.write_now(numbers.collect, on_error=numbers.failed)


async def read(path: Path, *, now: float = START) -> Saved | None:
    async with opened(path, now=lambda: now) as found:
        assert found.problem is None
        return found.saved


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def some_numbers(*, conversations: int = 3) -> Numbers:
    numbers = Numbers()
    for each in range(conversations):
        numbers.count("turns", f"conv_{each}")
    numbers.finish("conv_0", START)
    return numbers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "exporter.db"


# --- what was written is what is restored

words = st.lists(st.text(max_size=20), max_size=4).map(tuple)
ids = st.text(max_size=20)
unix_times = st.floats(START - 1000, START + 1000)


T = TypeVar("T")


def distinct(values: st.SearchStrategy[T], key: Callable[[T], Any]) -> st.SearchStrategy[list[T]]:
    return st.lists(values, max_size=8, unique_by=key)


@given(
    names=words,
    series=distinct(
        st.builds(
            SavedSeries,
            st.text(max_size=20),
            words,
            st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20).map(tuple),
            st.lists(st.integers(0, 10**30), max_size=21).map(tuple),
        ),
        lambda each: (each.family, each.layout, each.labels),
    ),
    conversations=distinct(st.builds(SavedConversation, ids, st.binary(max_size=2000)), lambda each: each.id),
    finished=distinct(st.builds(Tombstone, ids, unix_times), lambda each: each.id),
)
@settings(max_examples=40, deadline=None)
def test_every_row_survives_a_restart_unchanged(
    names: tuple[str, ...],
    series: list[SavedSeries],
    conversations: list[SavedConversation],
    finished: list[Tombstone],
) -> None:
    rows = Changes(series=series, conversations=conversations, finished=finished, forgotten=[])

    def collect(*, everything: bool) -> Changes:
        assert everything
        return rows

    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "db"
            async with opened(path, names=names) as found:
                assert (found.saved, found.problem) == (None, None)
                assert await found.checkpoint.write_now(collect, on_error=pytest.fail)
            async with opened(path, names=("other",)) as found:
                saved = found.saved
        assert saved is not None
        over = {each.id for each in finished}
        assert (saved.label_names, saved.first_start) == (names, START)
        assert set(saved.series) == set(series)
        assert set(saved.conversations) == {each for each in conversations if each.id not in over}
        assert set(saved.tombstones) == set(finished)

    trio.run(main)


steps = st.one_of(
    st.tuples(st.sampled_from(["count", "finish", "forget"]), st.integers(0, 3)),
    st.tuples(st.sampled_from(["write", "delete", "replace", "restart"]), st.just(0)),
)


@given(history=st.lists(steps, max_size=15))
@settings(max_examples=40, deadline=None)
def test_restart_finds_the_last_write_whatever_happened_before_it(history: Sequence[tuple[str, int]]) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path, other = Path(folder) / "db", Path(folder) / "other"
            numbers, in_file, calls = Numbers(), Numbers(), itertools.count()
            found = await Checkpoint.open(path, label_names=NAMES, now=Clock())
            for what, which in [*history, ("write", 0), ("restart", 0)]:
                match what:
                    case "count":
                        numbers.count(f"turns {which % 2}", f"conv_{which}")
                    case "finish":
                        numbers.finish(f"conv_{which}", START)
                    case "forget":
                        numbers.forget(f"conv_{which}")
                    case "write":
                        numbers.count("turns", f"call_{next(calls)}")
                        while not await found.checkpoint.write_now(numbers.collect, on_error=numbers.failed):
                            assert numbers.errors == 1
                        numbers.errors = 0
                        in_file = numbers.kept()
                    case "delete":
                        path.unlink(missing_ok=True)
                        in_file = Numbers()
                    case "replace":
                        in_file = some_numbers()
                        await written(other, in_file)
                        other.rename(path)
                        in_file = in_file.kept()
                    case "restart":
                        await found.checkpoint.close()
                        found = await Checkpoint.open(path, label_names=NAMES, now=Clock())
                        assert found.problem is None
                        numbers = restored(found.saved) if found.saved else Numbers()
                        assert numbers == in_file
            await found.checkpoint.close()

    trio.run(main)


async def test_label_names_of_the_file_are_those_of_its_last_writer(path: Path) -> None:
    for names, before in [(("project",), None), (("agent",), ("project",)), (("agent",), ("agent",))]:
        async with opened(path, names=names) as found:
            assert (found.saved.label_names if found.saved else None) == before
            await found.checkpoint.write_now(some_numbers().collect, on_error=pytest.fail)


async def test_first_start_is_that_of_the_file(path: Path) -> None:
    clock = Clock()
    await written(path, some_numbers())
    clock.at += DAY
    async with opened(path, now=clock) as found:
        assert found.saved is not None
        assert found.saved.first_start == START


async def test_what_was_not_taken_over_is_gone_after_the_first_write(path: Path) -> None:
    await written(path, some_numbers())
    await written(path, Numbers({"other": 1}))
    assert restored(await read(path)) == Numbers({"other": 1})


async def test_old_tombstones_go_and_the_file_shrinks(path: Path) -> None:
    clock = Clock()
    numbers = Numbers(tombstones={f"conv_{each:032}": START + each % 2 for each in range(5000)})
    async with opened(path, now=clock) as found:
        write = partial(found.checkpoint.write_now, on_error=pytest.fail)
        await write(numbers.collect)
        large = found.checkpoint.size_bytes
        for clock.at in (START + TOMBSTONE_LIFE + 1, START + TOMBSTONE_LIFE + 2):
            numbers.count("turns", "conv")
            await write(numbers.collect)
    saved = await read(path)
    assert saved is not None
    assert {each.finished_at for each in saved.tombstones} == {START + 1}
    clock.at = START + TOMBSTONE_LIFE + 3
    async with opened(path, now=clock) as found:
        assert found.saved is not None
        assert not found.saved.tombstones
        await found.checkpoint.write_now(Numbers().collect, on_error=pytest.fail)
    assert len(content_of(path)) < large / 4


async def test_files_are_for_their_owner_only(path: Path) -> None:
    async with opened(path) as found:
        await found.checkpoint.write_now(some_numbers().collect, on_error=pytest.fail)
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert {f"exporter.db{suffix}" for suffix in ("", "-wal", "-shm", ".lock")} == set(modes)
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


# --- processes

WRITER = """
import sys, trio
from pathlib import Path
from exporter.checkpoint import Checkpoint
from exporter.saved import Changes, SavedConversation, SavedSeries, Tombstone

path, last, where = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
written = 0

class Rows(list):
    # Stops for ever in the middle of the rows called `where`, when the last write has come to them.
    def __init__(self, name, rows):
        super().__init__(rows)
        self.stops = name == where and written == last

    def __iter__(self):
        for at, row in enumerate(super().__iter__()):
            if self.stops and at == 25:
                print("stopped", flush=True)
                sys.stdin.read()
            yield row

def collect(*, everything):
    global written
    written += 1
    return Changes(
        series=Rows("series", [SavedSeries(f"family {each}", (), (), (written,)) for each in range(50)]),
        conversations=Rows("conversations", [SavedConversation(str(each), b"%d" % written) for each in range(50)]),
        finished=Rows("finished", [Tombstone(str(-each - 1), written) for each in range(50)]),
        forgotten=[],
    )

async def main():
    found = await Checkpoint.open(path, label_names=(), now=lambda: 0.0)
    await found.checkpoint.run(collect, interval=0, on_error=lambda: sys.exit(3))

trio.run(main)
"""


@contextmanager
def stopped_writer(path: Path, *, last: int, where: str) -> Iterator["subprocess.Popen[str]"]:
    """Another exporter in the midst of its write number ``last``, those before it being done. Killed at last."""
    command = [sys.executable, "-c", WRITER, str(path), str(last), where]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "stopped\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("where", ["series", "conversations", "finished"])
@pytest.mark.parametrize("last", [1, 2, 30])
async def test_kill_in_the_middle_of_a_write_leaves_the_one_before(path: Path, last: int, where: str) -> None:
    with stopped_writer(path, last=last, where=where):
        pass
    saved = await read(path, now=0)
    assert saved is not None
    before = [last - 1] * 50 if last > 1 else []
    assert [each.numbers[0] for each in saved.series] == before
    assert [int(each.blob) for each in saved.conversations] == before
    assert [each.finished_at for each in saved.tombstones] == before


async def test_second_exporter_is_refused_until_the_first_is_killed(path: Path) -> None:
    with stopped_writer(path, last=2, where="series") as process, pytest.raises(ConfigError) as refused:
        await Checkpoint.open(path, label_names=NAMES, now=Clock())
    assert str(refused.value) == f"--state.file: {path} is in use by another exporter (pid {process.pid})"
    assert await read(path) is not None


async def test_another_name_of_the_file_does_not_get_round_the_lock(path: Path) -> None:
    link = path.parent.parent / "link"
    link.symlink_to(path)
    async with opened(path):
        with pytest.raises(ConfigError, match="in use"):
            await Checkpoint.open(link, label_names=NAMES, now=Clock())


# --- files that cannot be read


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def sql(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def become_other_database(path: Path) -> None:
    path.unlink()
    sql(path, "CREATE TABLE calls (number)")


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "not a database": lambda path: path.write_text("no database, but longer than the header of one\n" * 200),
    "random bytes": lambda path: path.write_bytes(Random(0).randbytes(20_000)),
    "header only": lambda path: os.truncate(path, 100),
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 4096),
    "damaged page": lambda path: overwrite(path, 2 * 4096, b"\xff" * 4096),
    "other program's": become_other_database,
    "newer schema": lambda path: sql(path, "PRAGMA user_version = 99"),
    "missing table": lambda path: sql(path, "DROP TABLE series"),
    "missing row": lambda path: sql(path, "DELETE FROM about"),
    "bad row": lambda path: sql(path, "UPDATE series SET labels = '[+4915112345678'"),
    "bad text": lambda path: sql(path, "UPDATE series SET labels = CAST(X'FF' || '+4915112345678' AS TEXT)"),
    "bad type": lambda path: sql(path, "UPDATE about SET first_start = 'x+4915112345678'"),
    "orphan": lambda path: sql(path, "DELETE FROM family"),
}


@pytest.mark.parametrize("damage", UNREADABLE.values(), ids=UNREADABLE)
async def test_unreadable_file_is_set_aside_and_a_new_one_begun(
    path: Path, damage: Callable[[Path], object]
) -> None:
    await written(path, some_numbers())
    damage(path)
    content = content_of(path)
    with capture_logs() as logs:
        async with opened(path) as found:
            assert found.saved is None
            assert found.problem
            assert await found.checkpoint.write_now(some_numbers().collect, on_error=pytest.fail)
    aside = path.with_name("exporter.db.corrupt-20270115T080000Z")
    assert content_of(aside) == content
    assert restored(await read(path)) == some_numbers().kept()
    (line,) = logs
    assert (line["log_level"], line["aside"], line["reason"]) == ("error", aside.name, found.problem)
    assert "4915112345678" not in str(line)


async def test_damage_while_running_is_mended_by_the_next_writes(path: Path) -> None:
    numbers = some_numbers(conversations=200)
    async with opened(path) as found:
        write = partial(found.checkpoint.write_now, on_error=numbers.failed)
        assert await write(numbers.collect)
        sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        overwrite(path, 0, b"\xff" * len(content_of(path)))
        for each in range(3):
            numbers.count("turns", f"conv_{each + 1}")
            await write(numbers.collect)
        assert numbers.errors == 1
    assert restored(await read(path)) == numbers.kept()
    assert list(path.parent.glob("*.corrupt-*"))


# --- places that cannot be used


def folder_as_file(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def pipe_as_file(path: Path) -> Path:
    path.parent.mkdir()
    os.mkfifo(path)
    return path


def file_as_folder(path: Path) -> Path:
    path.parent.write_text("")
    return path.parent


@pytest.mark.parametrize("spoil", [folder_as_file, pipe_as_file, file_as_folder])
async def test_unusable_place_stops_nothing_and_is_used_once_it_is_mended(
    path: Path, spoil: Callable[[Path], Path]
) -> None:
    numbers = some_numbers()
    obstacle = spoil(path)
    async with opened(path) as found:
        assert found.saved is None
        assert found.problem
        write = partial(found.checkpoint.write_now, on_error=numbers.failed)
        assert not await write(numbers.collect)
        assert (numbers.errors, found.checkpoint.last_success) == (1, None)
        obstacle.rename(path.parent.parent / "gone")
        numbers.count("turns", "conv_2")
        assert await write(numbers.collect)
    assert restored(await read(path)) == numbers.kept()


async def test_file_that_turns_up_later_is_kept_beside(path: Path) -> None:
    old = path.with_name("old")
    await written(old, some_numbers())
    content = content_of(old)
    obstacle = folder_as_file(path)
    async with opened(path) as found:
        assert found.problem
        obstacle.rename(path.with_name("gone"))
        old.rename(path)
        assert await found.checkpoint.write_now(Numbers({"new": 1}).collect, on_error=pytest.fail)
    assert restored(await read(path)) == Numbers({"new": 1})
    (aside,) = path.parent.glob("exporter.db.unread-*")
    assert content_of(aside) == content


async def test_lock_of_another_program_delays_a_write_and_loses_nothing(path: Path) -> None:
    numbers = some_numbers()
    async with opened(path) as found:
        write = partial(found.checkpoint.write_now, on_error=numbers.failed)
        assert await write(numbers.collect)
        before = found.checkpoint.last_success
        numbers.count("turns", "conv_1")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with capture_logs() as logs:
            assert not await write(numbers.collect)
        assert [each["reason"] for each in logs] == ["SQLITE_BUSY"]
        assert (numbers.errors, found.checkpoint.last_success) == (1, before)
        other.close()
        numbers.count("turns", "conv_2")
        assert await write(numbers.collect)
    assert restored(await read(path)) == numbers.kept()


FULL_DISK = """
import resource, sys, trio
from pathlib import Path
from exporter.checkpoint import Checkpoint
from exporter.saved import Changes, SavedConversation, SavedSeries

held = {}
errors = []

def collect(*, everything):
    held[f"conv_{len(held)}"] = bytes(100_000)
    return Changes(
        series=[SavedSeries("conversations", (), (), (len(held),))],
        conversations=[SavedConversation(*each) for each in list(held.items())[0 if everything else -1 :]],
        finished=[],
        forgotten=[],
    )

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main():
    found = await Checkpoint.open(Path(sys.argv[1]), label_names=(), now=lambda: 0.0)
    limit(500_000)
    for attempt in range(20):
        await found.checkpoint.write_now(collect, on_error=lambda: errors.append(1))
    limit(resource.RLIM_INFINITY)
    assert await found.checkpoint.write_now(collect, on_error=lambda: errors.append(1))

trio.run(main)
print(len(errors), len(held), file=sys.stderr)
"""


async def test_full_disk_stops_nothing_and_loses_nothing(path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    with trio.fail_after(20):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    errors, held = map(int, done.stderr.split())
    assert 0 < errors < held == 21
    saved = await read(path)
    assert saved is not None
    assert saved.series[0].numbers == (held,)
    assert len(saved.conversations) == held


# --- schema


async def test_older_file_is_brought_to_the_newest_schema_with_its_rows(path: Path) -> None:
    await written(path, some_numbers())
    newer = [*MIGRATIONS, ("ALTER TABLE conversation ADD COLUMN seen REAL NOT NULL DEFAULT 7",)]
    connection = sqlite3.connect(path, isolation_level=None)
    for _ in range(2):  # the second time there is nothing to do
        migrate(connection, newer)
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    rows = connection.execute("SELECT id, progress, seen FROM conversation").fetchall()
    connection.close()
    assert sorted(rows) == [("conv_1", b"2", 7.0), ("conv_2", b"3", 7.0)]


async def test_migration_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    await written(path, some_numbers())
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN")
    with pytest.raises(sqlite3.OperationalError), connection:
        migrate(connection, [*MIGRATIONS, ("DROP TABLE series", "DROP TABLE nothing")])
    connection.close()
    assert restored(await read(path)) == some_numbers().kept()


# --- tasks


async def test_run_writes_everything_at_once_and_then_only_what_changes(path: Path) -> None:
    clock, numbers, asked = Clock(), some_numbers(), []
    idle = trio.Event()

    def collect(*, everything: bool) -> Changes:
        asked.append(everything)
        clock.at += 1
        if len(asked) == 2:
            path.unlink()  # a write would find out
        if len(asked) == 6:
            idle.set()
        return numbers.collect(everything=everything)

    async with opened(path, now=clock) as found, trio.open_nursery() as nursery:
        nursery.start_soon(partial(found.checkpoint.run, collect, interval=0.001, on_error=pytest.fail))
        await idle.wait()
        nursery.cancel_scope.cancel()
    assert asked[0]
    assert not any(asked[1:])
    assert found.checkpoint.last_success == clock.at - 1


async def test_run_tries_again_by_itself_less_and_less_often(path: Path) -> None:
    numbers, obstacle = some_numbers(), folder_as_file(path)
    works, tries = trio.Event(), []

    def collect(*, everything: bool) -> Changes:
        tries.append(trio.current_time())
        if not everything:
            works.set()
        return numbers.collect(everything=everything)

    def on_error() -> None:
        numbers.failed()
        if numbers.errors == 3:
            obstacle.rmdir()

    async with opened(path) as found, trio.open_nursery() as nursery:
        nursery.start_soon(partial(found.checkpoint.run, collect, interval=0.01, on_error=on_error))
        await works.wait()
        nursery.cancel_scope.cancel()
    assert numbers.errors == 3
    waits = [after - before for before, after in itertools.pairwise(tries)]
    assert [wait > 0.9 * least for wait, least in zip(waits, (0.02, 0.04, 0.08), strict=False)] == [True] * 3
    assert restored(await read(path)) == numbers.kept()


async def test_cancelled_write_is_made_good_by_the_last_one(path: Path) -> None:
    numbers = some_numbers()
    collected = trio.Event()

    def collect(*, everything: bool) -> Changes:
        collected.set()
        return numbers.collect(everything=everything)

    async with opened(path) as found:
        assert await found.checkpoint.write_now(numbers.collect, on_error=pytest.fail)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        numbers.count("turns", "conv_1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(found.checkpoint.run, collect, interval=1, on_error=pytest.fail))
            await collected.wait()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with trio.CancelScope() as stopping:
            stopping.cancel()
            other.close()
            numbers.count("turns", "conv_2")
            assert await found.checkpoint.write_now(numbers.collect, on_error=pytest.fail)
    assert restored(await read(path)) == numbers.kept()
