"""The state file on real files and disks: writes are restored, whatever happens to the file or the process."""

import itertools
import os
import shutil
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
import structlog
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from exporter.counting import retention
from exporter.errors import ConfigError, StateUnavailable
from exporter.state import keeper as keeper_module
from exporter.state.ended import hash_of, packed
from exporter.state.file import check_file
from exporter.state.keeper import COUNTED_AFTER, Opened, StateKeeper
from exporter.state.rows import Changes, HeldBack, Saved, SavedConversation, SavedEnds, SavedSeries
from exporter.state.sqlite import MIGRATIONS, migrate
from tests.soak.disk import SmallDisk, small_disk

NAMES = ("project", "agent")
START = 1_800_000_000.0


@attrs.define
class Clock:
    """Unix time that stands still."""

    at: float = START

    def __call__(self) -> float:
        return self.at


@attrs.define(eq=False)
class Batch:
    """The changes of a write, to put them back."""

    changed: set[str]
    ended: list[tuple[str, float]]
    forgotten: list[str]


@attrs.define
class Numbers:
    """The memory of an exporter: counters, conversations, ends. Implements `keeper.ChangeSource`."""

    series: dict[str, int] = attrs.field(factory=dict)
    conversations: dict[str, bytes] = attrs.field(factory=dict)
    ends: set[int] = attrs.field(factory=set)
    changed: set[str] = attrs.field(factory=set, eq=False)
    newly_ended: list[tuple[str, float]] = attrs.field(factory=list, eq=False)
    forgotten: list[str] = attrs.field(factory=list, eq=False)
    errors: int = attrs.field(default=0, eq=False)
    asked: list[bool] = attrs.field(factory=list, eq=False)
    is_asked: trio.Event = attrs.field(factory=trio.Event, eq=False)

    def count(self, name: str, conversation: str) -> None:
        """Let an unfinished conversation add 1 to a counter, and remember that it did."""
        if hash_of(conversation) in self.ends:
            return
        self.series[name] = self.series.get(name, 0) + 1
        self.conversations[conversation] = b"%d" % self.series[name]
        self.changed |= {name, conversation}

    def finish(self, conversation: str, at: float) -> None:
        if self.conversations.pop(conversation, None) is not None:
            self.ends.add(hash_of(conversation))
            self.newly_ended.append((conversation, at))

    def forget(self, conversation: str) -> None:
        if self.conversations.pop(conversation, None) is not None:
            self.forgotten.append(conversation)

    def changes(self, *, everything: bool = False) -> Changes:
        self.asked.append(everything)
        self.is_asked.set()
        batch = Batch(self.changed, self.newly_ended, self.forgotten)
        self.changed, self.newly_ended, self.forgotten = set(), [], []
        series = [(k, v) for k, v in self.series.items() if everything or k in batch.changed]
        conversations = [(k, v) for k, v in self.conversations.items() if everything or k in batch.changed]
        ends = [SavedEnds(at, packed([hash_of(each)])) for each, at in batch.ended]
        if everything:
            ends = [SavedEnds(START, packed(self.ends))]
        return Changes(
            series=lambda: (SavedSeries(k, ("p", "a"), (), (v,)) for k, v in series),
            held=None,
            conversations=lambda: (SavedConversation(k, v) for k, v in conversations),
            finished=[each for each, _ in batch.ended],
            forgotten=batch.forgotten,
            ends=lambda: ends,
            families=sorted(self.series),
            first_start=START,
            is_empty=not (everything or batch.changed or batch.ended or batch.forgotten),
            token=batch,
        )

    def committed(self, changes: Changes) -> None:
        pass

    def put_back(self, changes: Changes) -> None:
        batch = changes.token
        self.changed |= batch.changed
        self.newly_ended[:0] = batch.ended
        self.forgotten[:0] = batch.forgotten

    def failed(self) -> None:
        self.errors += 1

    def kept(self) -> "Numbers":
        return Numbers(dict(self.series), dict(self.conversations), set(self.ends))


def hashes(ends: Sequence[SavedEnds]) -> list[int]:
    return [
        int.from_bytes(each.hashes[at : at + 8], "little") for each in ends for at in range(0, len(each.hashes), 8)
    ]


def size_of(path: Path) -> int:
    return path.stat().st_size


def restored(saved: Saved | None) -> Numbers:
    assert saved is not None
    return Numbers(
        {each.family: each.numbers[0] for each in saved.series},
        {each.id: each.blob for each in saved.conversations},
        set(hashes(saved.ends)),
    )


@asynccontextmanager
async def opened(
    path: Path, *, names: tuple[str, ...] = NAMES, now: Callable[[], float] = lambda: START
) -> AsyncIterator[Opened]:
    with trio.fail_after(20):
        found = await StateKeeper.open(path, label_names=names, now=now)
        try:
            yield found
        finally:
            await found.keeper.close()


async def written(path: Path, numbers: Numbers) -> None:
    async with opened(path) as found:
        assert await found.keeper.write_now(numbers, on_error=pytest.fail)


async def read(path: Path, *, now: float = START) -> Saved | None:
    async with opened(path, now=lambda: now) as found:
        assert found.problem is None
        return found.saved


def some_numbers(*, conversations: int = 3) -> Numbers:
    numbers = Numbers()
    for each in range(conversations):
        numbers.count("turns", f"conv_{each}")
    numbers.finish("conv_0", START)
    return numbers


def files(folder: Path) -> dict[str, bytes | None]:
    """Names in a folder, with the contents of plain files."""
    return {each.name: each.read_bytes() if each.is_file() else None for each in folder.iterdir()}


@contextmanager
def told(text: str) -> Iterator[trio.Event]:
    """An event that is set when a line with this text is logged."""
    event = trio.Event()

    def tell(_logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if text in str(line["event"]):
            event.set()
        raise structlog.DropEvent

    processors = structlog.get_config()["processors"]
    before = processors.copy()
    processors[:] = [tell]
    try:
        yield event
    finally:
        processors[:] = before


@contextmanager
def locked(path: Path, how: str = "EXCLUSIVE") -> Iterator[None]:
    """Another program has locked the file."""
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute(f"BEGIN {how}")
        yield
    finally:
        other.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "exporter.db"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 4 MB as the folder of the file."""
    try:
        with small_disk(tmp_path / "state", megabytes=4) as mounted:
            yield mounted
    except PermissionError as denied:
        pytest.skip(f"a disk to fill cannot be mounted: {denied}")


# --- writes are restored

words = st.lists(st.text(max_size=20), max_size=4).map(tuple)
ids = st.text(max_size=20)


T = TypeVar("T")


def distinct(values: st.SearchStrategy[T], key: Callable[[T], Any]) -> st.SearchStrategy[list[T]]:
    return st.lists(values, max_size=8, unique_by=key)


@attrs.frozen
class Given:
    """A source of the same rows each time."""

    rows: Changes

    def changes(self, *, everything: bool = False) -> Changes:
        assert everything
        return self.rows

    def committed(self, changes: Changes) -> None:
        assert changes is self.rows

    def put_back(self, changes: Changes) -> None:
        raise AssertionError(changes)


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
    held=distinct(
        st.builds(HeldBack, st.text(max_size=20), words, st.booleans()), lambda each: (each.family, each.labels)
    ),
    conversations=distinct(st.builds(SavedConversation, ids, st.binary(max_size=2000)), lambda each: each.id),
    finished=st.lists(ids, max_size=4),
    ends=st.lists(
        st.builds(
            SavedEnds, st.floats(START - 1000, START + 1000), st.lists(st.integers(1, 2**64 - 1)).map(packed)
        ),
        max_size=8,
    ),
    families=words,
    first_start=st.floats(0, START),
)
@settings(max_examples=40)
def test_every_row_survives_a_restart_unchanged(
    names: tuple[str, ...],
    series: list[SavedSeries],
    held: list[HeldBack],
    conversations: list[SavedConversation],
    finished: list[str],
    ends: list[SavedEnds],
    families: tuple[str, ...],
    first_start: float,
) -> None:
    source = Given(
        Changes(
            series=lambda: series,
            held=held,
            conversations=lambda: conversations,
            finished=finished,
            forgotten=[],
            ends=lambda: ends,
            families=families,
            first_start=first_start,
            is_empty=False,
        )
    )

    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "db"
            async with opened(path, names=names) as found:
                assert (found.saved, found.problem) == (None, None)
                assert await found.keeper.write_now(source, on_error=pytest.fail)
            async with opened(path, names=("other",)) as found:
                saved = found.saved
        assert saved is not None
        assert (saved.label_names, saved.families, saved.first_start) == (names, families, first_start)
        assert set(saved.series) == set(series)
        assert set(saved.held) == set(held)
        assert set(saved.conversations) == {each for each in conversations if each.id not in finished}
        assert saved.ends == ends

    trio.run(main)


steps = st.one_of(
    st.tuples(st.sampled_from(["count", "finish", "forget"]), st.integers(0, 3)),
    st.tuples(st.sampled_from(["write", "delete", "replace", "restart"]), st.just(0)),
)


@given(history=st.lists(steps, max_size=15))
@settings(max_examples=40)
def test_restart_finds_the_last_write_whatever_happened_before_it(history: Sequence[tuple[str, int]]) -> None:
    """A deleted file is written again; a file that replaced it is left alone until the next start."""

    async def main() -> None:
        with capture_logs(), tempfile.TemporaryDirectory() as folder:
            path, other = Path(folder) / "db", Path(folder) / "other"
            numbers, in_file, calls = Numbers(), Numbers(), itertools.count()
            is_replaced = False
            found = await StateKeeper.open(path, label_names=NAMES, now=Clock())
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
                        numbers.errors = 0
                        while not await found.keeper.write_now(numbers, on_error=numbers.failed):
                            if (
                                numbers.errors > 2
                            ):  # one finds that the file is gone, one that the new file is empty
                                assert is_replaced
                                break
                        else:
                            assert not is_replaced
                            in_file = numbers.kept()
                    case "delete":
                        path.unlink(missing_ok=True)
                        in_file, is_replaced = Numbers(), False
                    case "replace":
                        in_file = some_numbers()
                        await written(other, in_file)
                        other.rename(path)
                        in_file, is_replaced = in_file.kept(), True
                    case "restart":
                        await found.keeper.close()
                        found = await StateKeeper.open(path, label_names=NAMES, now=Clock())
                        assert found.problem is None
                        numbers = restored(found.saved) if found.saved else Numbers()
                        assert numbers == in_file
                        is_replaced = False
            await found.keeper.close()

    trio.run(main)


async def test_label_names_in_the_file_are_those_of_the_last_write(path: Path) -> None:
    for names, before in [(("project",), None), (("agent",), ("project",)), (("agent",), ("agent",))]:
        async with opened(path, names=names) as found:
            assert (found.saved.label_names if found.saved else None) == before
            await found.keeper.write_now(some_numbers(), on_error=pytest.fail)


async def test_rows_that_were_not_taken_over_are_deleted_when_everything_is_written(path: Path) -> None:
    await written(path, some_numbers())
    async with opened(path) as found:
        found.keeper.write_everything()
        assert await found.keeper.write_now(Numbers({"other": 1}), on_error=pytest.fail)
    assert restored(await read(path)) == Numbers({"other": 1})


async def test_old_ends_are_deleted_and_the_file_shrinks(path: Path) -> None:
    clock = Clock()
    numbers = some_numbers()
    for each in range(20_000):
        numbers.ends.add(hash_of(f"conv_{each:032}"))
    async with opened(path, now=clock) as found:
        write = partial(found.keeper.write_now, on_error=pytest.fail)
        await write(numbers)
        numbers.finish("conv_1", START + 100)
        await write(numbers)
        large = found.keeper.size_bytes or 0
        clock.at = START + retention.ENDED + 50
        numbers.count("turns", "conv_2")
        await write(numbers)
    saved = await read(path)
    assert saved is not None
    assert hashes(saved.ends) == [hash_of("conv_1")]
    assert size_of(path) < large / 4
    saved = await read(path, now=START + retention.ENDED + 101)
    assert saved is not None
    assert not saved.ends


async def test_only_the_owner_may_read_the_files(path: Path) -> None:
    async with opened(path) as found:
        await found.keeper.write_now(some_numbers(), on_error=pytest.fail)
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert {f"exporter.db{suffix}" for suffix in ("", "-wal", ".lock")} == set(modes)
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_opening_writes_nothing(path: Path) -> None:
    await written(path, some_numbers())
    before = files(path.parent)
    assert await read(path) is not None
    assert files(path.parent) == before


# --- processes

WRITER = """
import os, sys, trio
from pathlib import Path
from exporter.state.keeper import StateKeeper
from exporter.state.rows import Changes, SavedConversation, SavedEnds, SavedSeries

path, last, where = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

class Writes:
    count = 0

    def changes(self, *, everything=False):
        self.count += 1
        written = self.count

        def rows(name, made):
            # Blocks for ever in the middle of the rows called `where` of the last write.
            for each in range(50):
                if (name, written, each) == (where, last, 25):
                    print("stopped", flush=True)
                    sys.stdin.read()
                yield made(each)

        return Changes(
            series=lambda: rows("series", lambda at: SavedSeries(f"family {at}", (), (), (written,))),
            held=None,
            conversations=lambda: rows("conversations", lambda at: SavedConversation(str(at), b"%d" % written)),
            finished=[],
            forgotten=[],
            ends=lambda: rows("ends", lambda at: SavedEnds(written, bytes(8))),
            families=[],
            first_start=0.0,
            is_empty=False,
        )

    def committed(self, changes):
        pass

    def put_back(self, changes):
        sys.exit(3)

async def main():
    found = await StateKeeper.open(path, label_names=(), now=lambda: 0.0)
    await found.keeper.run(Writes(), interval=0, on_error=lambda: sys.exit(3))

trio.run(main)
"""


@contextmanager
def stopped_writer(path: Path, *, last: int, where: str) -> Iterator["subprocess.Popen[str]"]:
    """Another exporter during its write number ``last``; the writes before it are done. Killed at the end."""
    command = [sys.executable, "-c", WRITER, str(path), str(last), where]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "stopped\n"
            yield process
        finally:
            process.kill()


def assert_holds_writes(saved: Saved | None, count: int) -> None:
    """The rows after so many whole writes of a `WRITER`."""
    if count == 0:
        assert saved is None
        return
    assert saved is not None
    assert [each.numbers[0] for each in saved.series] == [count] * 50
    assert [int(each.blob) for each in saved.conversations] == [count] * 50
    assert [each.at for each in saved.ends] == [write for write in range(1, count + 1) for _ in range(50)]


@pytest.mark.parametrize("where", ["series", "conversations", "ends"])
@pytest.mark.parametrize("last", [1, 2, 30])
async def test_kill_during_a_write_leaves_the_previous_write(path: Path, last: int, where: str) -> None:
    with stopped_writer(path, last=last, where=where):
        pass
    assert_holds_writes(await read(path, now=0), last - 1)


async def test_second_exporter_is_refused_until_the_first_is_killed(path: Path) -> None:
    with stopped_writer(path, last=2, where="series") as process, pytest.raises(ConfigError) as refused:
        await StateKeeper.open(path, label_names=NAMES, now=Clock())
    assert str(refused.value) == f"--state.file: {path} is in use by another exporter (pid {process.pid})"
    assert await read(path) is not None


async def test_a_link_to_the_file_does_not_bypass_the_lock(path: Path) -> None:
    link = path.parent.parent / "link"
    link.symlink_to(path)
    async with opened(path):
        with pytest.raises(ConfigError, match="in use"):
            await StateKeeper.open(link, label_names=NAMES, now=Clock())


async def test_lock_file_that_is_a_symbolic_link_is_not_followed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "START_PATIENCE", 0.0)
    await written(path, some_numbers())
    target = path.with_name("key")
    target.write_text("ph_secret")
    lock = path.with_name("exporter.db.lock")
    lock.unlink()
    lock.symlink_to(target)
    with pytest.raises(StateUnavailable, match="symbolic link"):
        await StateKeeper.open(path, label_names=NAMES, now=Clock())
    assert target.read_text() == "ph_secret"
    assert lock.is_symlink()


# --- state files that cannot be read


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def delete(path: Path) -> None:
    path.unlink()


def sql(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "header only": lambda path: os.truncate(path, 100),
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 4096),
    "damaged page": lambda path: overwrite(path, 2 * 4096, b"\xff" * 4096),
    "damaged schema": lambda path: overwrite(path, 100, b"\xff" * 3996),
    "missing table": lambda path: sql(path, "DROP TABLE series"),
    "missing row": lambda path: sql(path, "DELETE FROM about"),
    "bad row": lambda path: sql(path, "UPDATE series SET labels = '[+4915112345678'"),
    "bad text": lambda path: sql(path, "UPDATE series SET labels = CAST(X'FF' || '+4915112345678' AS TEXT)"),
    "bad type": lambda path: sql(path, "UPDATE about SET first_start = 'x+4915112345678'"),
    "bad hashes": lambda path: sql(path, "UPDATE ended SET hashes = X'00'"),
    "orphan": lambda path: sql(path, "DELETE FROM family"),
    "newer": lambda path: sql(path, "PRAGMA user_version = 99"),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_unreadable_state_file_is_set_aside_and_a_new_one_begun(path: Path, name: str) -> None:
    await written(path, some_numbers())
    UNREADABLE[name](path)
    content = files(path.parent)[path.name]
    with capture_logs() as logs:
        async with opened(path) as found:
            assert found.saved is None
            assert found.problem
            assert await found.keeper.write_now(some_numbers(), on_error=pytest.fail)
    word = "newer" if name == "newer" else "corrupt"
    aside = path.with_name(f"exporter.db.{word}-20270115T080000Z")
    assert set(files(path.parent)) == {path.name, f"{path.name}.lock", aside.name}
    assert files(path.parent)[aside.name] == content
    assert restored(await read(path)) == some_numbers().kept()
    (line,) = logs
    assert (line["log_level"], line["aside"], line["reason"]) == ("error", aside.name, found.problem)
    assert "4915112345678" not in str(line)


async def test_of_the_files_set_aside_the_newest_three_are_kept(path: Path) -> None:
    clock = Clock()
    for version in range(98, 103):
        await written(path, Numbers({"version": version}))
        sql(path, f"PRAGMA user_version = {version}")
        async with opened(path, now=clock):
            clock.at += 0.5  # two within a second
    aside = sorted(path.parent.glob("exporter.db.newer-*"), key=lambda each: each.stat().st_mtime_ns)
    assert len(set(path.parent.iterdir())) == 3 + 2
    assert [int.from_bytes(each.read_bytes()[60:64], "big") for each in aside] == [100, 101, 102]


async def test_damage_found_by_a_write_is_repaired_by_the_next_writes(path: Path, disk: SmallDisk) -> None:
    numbers = some_numbers(conversations=200)
    async with opened(path) as found:
        write = partial(found.keeper.write_now, numbers, on_error=numbers.failed)
        assert await write()
        disk.fill()
        for each in range(200):
            numbers.conversations[f"conv_{each + 1}"] = bytes(100_000)
            numbers.count("turns", f"conv_{each + 1}")
        numbers.conversations["conv_1"] = bytes(1_000_000)
        assert not await write()
        numbers.conversations["conv_1"] = b""
        disk.free()
        delete(path.with_name(f"{path.name}-wal"))
        overwrite(path, 4096, b"\xff" * (size_of(path) - 4096))
        assert not await write()
        assert await write()
    assert restored(await read(path)) == numbers.kept()
    assert len(list(path.parent.glob("*.corrupt-*"))) == 1


# --- files of other programs are left alone


def text_file(path: Path) -> None:
    path.write_text("no database, but longer than the header of one\n" * 200)


def other_database(path: Path) -> None:
    sql(path, "CREATE TABLE calls (number)")


def other_database_with_an_id(path: Path) -> None:
    sql(path, "PRAGMA application_id = 7")


def other_database_with_a_version(path: Path) -> None:
    sql(path, "PRAGMA user_version = 7")


def other_database_in_its_log(path: Path) -> None:
    """A database with all its contents in the write-ahead log, as a killed program leaves it."""
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('PRAGMA journal_mode = WAL'); c.execute('CREATE TABLE calls (number)'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def link_to_a_key(path: Path) -> None:
    path.with_name("key").write_text("ph_x")
    path.symlink_to(path.with_name("key"))


NOT_OURS: dict[str, Callable[[Path], object]] = {
    "key": lambda path: path.write_text("ph_0123456789abcdef"),
    "text": text_file,
    "random bytes": lambda path: path.write_bytes(Random(0).randbytes(20_000)),
    "first bytes of a database": lambda path: path.write_bytes(b"SQLite format 3\0"),
    "first bytes of a page": lambda path: path.write_bytes(b"SQLite format 3\0".ljust(101, b"\0")),
    "other database": other_database,
    "other database with an id": other_database_with_an_id,
    "other database with a version": other_database_with_a_version,
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/null"),
    "link to a key": link_to_a_key,
}


@pytest.mark.parametrize("make", NOT_OURS.values(), ids=NOT_OURS)
async def test_file_of_another_program_is_refused_and_left_unchanged(
    path: Path, make: Callable[[Path], object]
) -> None:
    path.parent.mkdir()
    make(path)
    before = files(path.parent)
    said = []
    for _ in range(2):
        with pytest.raises(ConfigError) as checked:
            check_file(path)
        with pytest.raises(ConfigError) as refused:
            await StateKeeper.open(path, label_names=NAMES, now=Clock())
        said += [checked.value, refused.value]
    assert {(str(each), each.exit_code) for each in said} == {(str(said[0]), 2)}
    assert "\n" not in str(said[0])
    assert "ph_" not in str(said[0])
    assert files(path.parent) == before


async def test_database_with_tables_only_in_its_log_is_left_unchanged(path: Path) -> None:
    path.parent.mkdir()
    other_database_in_its_log(path)
    for _ in range(2):  # a refused start must not leave a lock
        with pytest.raises(ConfigError, match="a database of another program"):
            await StateKeeper.open(path, label_names=NAMES, now=Clock())
    rows = sqlite3.connect(path)
    assert rows.execute("SELECT name FROM sqlite_master").fetchall() == [("calls",)]
    rows.close()
    assert not list(path.parent.glob("*.corrupt-*"))


def nothing(path: Path) -> None:
    path.parent.rmdir()


USABLE: dict[str, Callable[[Path], object]] = {
    "no file": lambda _path: None,
    "empty file": lambda path: path.touch(),
    "no folder": nothing,
    "dangling link": lambda path: path.symlink_to(path.with_name("target")),
    "empty database": lambda path: sql(path, "PRAGMA journal_mode = WAL"),
}


@pytest.mark.parametrize("make", USABLE.values(), ids=USABLE)
async def test_missing_or_empty_file_is_used(path: Path, make: Callable[[Path], object]) -> None:
    path.parent.mkdir()
    make(path)
    before = files(path.parent) if path.parent.exists() else None
    check_file(path)
    assert (files(path.parent) if path.parent.exists() else None) == before
    await written(path, some_numbers())
    assert restored(await read(path)) == some_numbers().kept()
    assert not list(path.parent.glob("*.corrupt-*"))


# --- places that cannot be used


async def test_exporter_that_cannot_create_the_file_runs_and_uses_it_once_it_can(path: Path) -> None:
    numbers = some_numbers()
    path.parent.write_text("")  # a file in place of the folder
    check_file(path)
    async with opened(path) as found:
        assert found.saved is None
        assert found.problem
        write = partial(found.keeper.write_now, on_error=numbers.failed)
        assert not await write(numbers)
        assert (numbers.errors, found.keeper.last_success) == (1, None)
        path.parent.unlink()
        numbers.count("turns", "conv_2")
        assert await write(numbers)
    assert restored(await read(path)) == numbers.kept()


async def test_file_that_appears_later_is_neither_written_nor_renamed(path: Path) -> None:
    old = path.parent.with_name("old")
    await written(old / path.name, some_numbers())
    path.parent.write_text("")
    numbers = Numbers({"new": 1})
    async with opened(path) as found:
        assert found.problem
        path.parent.unlink()
        old.rename(path.parent)
        before = files(path.parent)
        with capture_logs() as logs:
            assert not await found.keeper.write_now(numbers, on_error=numbers.failed)
        assert ["another file took its place" in each["reason"] for each in logs] == [True]
    assert {**files(path.parent), "exporter.db.lock": b""} == {**before, "exporter.db.lock": b""}
    assert restored(await read(path)) == some_numbers().kept()


async def test_file_that_replaced_the_state_file_keeps_its_log(path: Path) -> None:
    numbers, other = some_numbers(), path.parent / "other" / path.name
    with stopped_writer(other, last=3, where="series"):
        pass
    async with opened(path) as found:
        assert await found.keeper.write_now(numbers, on_error=numbers.failed)
        for suffix in ("-wal", ""):
            other.with_name(other.name + suffix).rename(path.with_name(path.name + suffix))
        for _ in range(3):
            numbers.count("turns", "conv_1")
            assert not await found.keeper.write_now(numbers, on_error=numbers.failed)
    assert_holds_writes(await read(path, now=0), 2)


@pytest.mark.parametrize("command", [[], ["check-config"]], ids=["start", "check-config"])
@pytest.mark.parametrize("name", ["key", "other database"])
async def test_program_refuses_a_file_of_another_program_in_one_line(
    path: Path, name: str, command: list[str]
) -> None:
    path.parent.mkdir()
    NOT_OURS[name](path)
    before = files(path.parent)
    done = await trio.run_process(
        [sys.executable, "-m", "exporter", *command,
         "--state.file", str(path), "--web.listen-address", "127.0.0.1:0"],
        env={**os.environ, "PHONIC_API_KEY": "ph_x"},
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    errors = [line for line in done.stderr.decode().splitlines() if not line.startswith("ts=")]
    assert len(errors) == 1
    assert errors[0].startswith("phonic-exporter: error: --state.file: ")
    assert files(path.parent) == before


async def test_unreadable_folder_is_reported(path: Path) -> None:
    """Also by `check-config`. Root may read any folder unless it gives up two capabilities."""
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv")
    await written(path, some_numbers())
    before = files(path.parent)
    code = "import exporter.state.keeper as c; c.START_PATIENCE = 0; from exporter.cli import main; main()"
    path.parent.chmod(0)
    for command in ([], ["check-config"]):
        done = await trio.run_process(
            ["setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable, "-c", code, *command,
             "--state.file", str(path), "--web.listen-address", "127.0.0.1:0"],
            env={**os.environ, "PHONIC_API_KEY": "ph_x"},
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )  # fmt: skip
        said = done.stderr.decode().splitlines()
        assert done.returncode == 1, said
        assert said[-1] == f"phonic-exporter: error: --state.file: {path} cannot be read: Permission denied"
        assert "Traceback" not in done.stderr.decode()
    path.parent.chmod(0o700)
    assert files(path.parent) == before


# --- temporary failures


async def test_file_locked_at_start_is_tried_again_until_it_can_be_read(path: Path) -> None:
    await written(path, some_numbers())
    before = files(path.parent)
    found: list[Saved | None] = []

    async def start() -> None:
        found.append(await read(path))

    async with trio.open_nursery() as nursery:
        with locked(path), told("state file cannot be read, trying again") as warned:
            nursery.start_soon(start)
            await warned.wait()
    assert restored(found[0]) == some_numbers().kept()
    assert files(path.parent) == before


async def test_file_locked_at_start_for_too_long_is_an_error_and_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "START_PATIENCE", 0.0)
    await written(path, some_numbers())
    before = files(path.parent)
    with locked(path), pytest.raises(StateUnavailable) as refused:
        await StateKeeper.open(path, label_names=NAMES, now=Clock())
    assert str(refused.value) == f"--state.file: {path} cannot be read: SQLITE_BUSY"
    assert refused.value.exit_code == 1
    assert files(path.parent) == before
    assert restored(await read(path)) == some_numbers().kept()


def link_to_itself(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(path)


async def test_file_that_cannot_be_read_at_start_is_one_log_line_for_all_retries(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "START_PATIENCE", 0.05)
    monkeypatch.setattr(keeper_module, "_START_RETRY", 0.01)
    link_to_itself(path)
    with capture_logs() as logs, pytest.raises(StateUnavailable):
        await StateKeeper.open(path, label_names=NAMES, now=Clock())
    levels = [line["log_level"] for line in logs]
    assert levels[0] == "warning"
    assert set(levels[1:]) == {"debug"}


async def test_lock_of_another_program_delays_the_first_write_and_loses_nothing(path: Path) -> None:
    numbers = some_numbers()
    async with opened(path) as found:
        write = partial(found.keeper.write_now, on_error=numbers.failed)
        with locked(path, "IMMEDIATE"), capture_logs() as logs:
            assert not await write(numbers)
        assert [each["reason"] for each in logs] == ["SQLITE_BUSY"]
        assert (numbers.errors, found.keeper.last_success) == (1, None)
        numbers.count("turns", "conv_2")
        assert await write(numbers)
        with pytest.raises(sqlite3.OperationalError, match="locked"), locked(path, "IMMEDIATE"):
            pass  # from now on the keeper has it locked
    assert restored(await read(path)) == numbers.kept()


async def test_disk_full_at_start_loses_nothing(path: Path, disk: SmallDisk) -> None:
    numbers = some_numbers(conversations=50)
    await written(path, numbers)
    disk.fill()
    before = set(files(path.parent))
    async with opened(path) as found:
        assert found.problem is None
        numbers = restored(found.saved)
        assert numbers == some_numbers(conversations=50).kept()
        write = partial(found.keeper.write_now, numbers, on_error=numbers.failed)
        numbers.count("turns", "conv_1")
        for _ in range(3):
            assert not await write()
        assert set(files(path.parent)) - before <= {f"{path.name}-wal"}
        disk.free()
        numbers.count("turns", "conv_2")
        assert await write()
    assert restored(await read(path)) == numbers.kept()
    assert set(files(path.parent)) == {path.name, f"{path.name}.lock"}


async def test_disk_full_at_the_start_after_a_kill_loses_nothing(path: Path, disk: SmallDisk) -> None:
    with stopped_writer(path, last=20, where="ends"):
        pass
    disk.fill()
    for _ in range(2):
        assert_holds_writes(await read(path, now=0), 19)
    disk.free()
    assert_holds_writes(await read(path, now=0), 19)


async def test_disk_full_at_the_first_start_stops_nothing(path: Path, disk: SmallDisk) -> None:
    numbers = some_numbers()
    disk.fill()
    async with opened(path) as found:
        assert found.saved is None
        for _ in range(2):
            assert not await found.keeper.write_now(numbers, on_error=numbers.failed)
        assert not list(path.parent.glob("*.corrupt-*"))
    async with opened(path) as found:  # despite the files it left behind
        assert (found.saved, found.problem) == (None, None)
        assert not await found.keeper.write_now(numbers, on_error=numbers.failed)
        disk.free()
        assert await found.keeper.write_now(numbers, on_error=numbers.failed)
    assert restored(await read(path)) == numbers.kept()


async def test_disk_full_while_running_stops_nothing_and_loses_nothing(path: Path, disk: SmallDisk) -> None:
    numbers, in_file = Numbers(), Numbers()
    async with opened(path) as found:
        write = partial(found.keeper.write_now, numbers, on_error=numbers.failed)
        for each in range(60):
            numbers.count("conversations", f"conv_{each}")
            numbers.conversations[f"conv_{each}"] = bytes(100_000)
            if await write():
                in_file = numbers.kept()
        assert 0 < numbers.errors < 60
    assert restored(await read(path)) == in_file
    async with opened(path) as found:
        for each in range(50):
            numbers.forget(f"conv_{each}")
        found.keeper.write_everything()
        disk.free()
        for _ in range(5):
            if await found.keeper.write_now(numbers, on_error=numbers.failed):
                break
    assert {path.name, f"{path.name}.lock"} >= set(files(path.parent)) - {f"{path.name}-wal"}


# --- schema


async def test_older_file_is_migrated_with_its_rows(path: Path) -> None:
    await written(path, some_numbers())
    newer = [*MIGRATIONS, ("ALTER TABLE conversation ADD COLUMN seen REAL NOT NULL DEFAULT 7",)]
    connection = sqlite3.connect(path, isolation_level=None)
    for _ in range(2):  # the second time there is nothing to do
        migrate(connection, newer)
        assert connection.execute("PRAGMA user_version").fetchone() == (4,)
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
    clock, numbers = Clock(), some_numbers()
    idle = trio.Event()

    class Watched(Numbers):
        def changes(self, *, everything: bool = False) -> Changes:
            clock.at += 1
            if len(self.asked) == 2:
                path.unlink()  # which a write would notice
            if len(self.asked) == 6:
                idle.set()
            return super().changes(everything=everything)

    watched = Watched(numbers.series, numbers.conversations, numbers.ends)
    async with opened(path, now=clock) as found, trio.open_nursery() as nursery:
        nursery.start_soon(partial(found.keeper.run, watched, interval=0.001, on_error=pytest.fail))
        await idle.wait()
        nursery.cancel_scope.cancel()
    assert watched.asked[0]
    assert not any(watched.asked[1:])
    assert found.keeper.last_success is not None
    assert found.keeper.last_success >= clock.at - 2


async def test_run_writes_only_changes_to_a_file_that_was_read(path: Path) -> None:
    await written(path, some_numbers())
    async with opened(path) as found, trio.open_nursery() as nursery:
        numbers = restored(found.saved)
        nursery.start_soon(partial(found.keeper.run, numbers, interval=60, on_error=pytest.fail))
        await numbers.is_asked.wait()
        await trio.testing.wait_all_tasks_blocked()
        numbers.count("turns", "conv_1")
        await found.keeper.commit(5)
        nursery.cancel_scope.cancel()
    assert numbers.asked == [False, False]
    assert restored(await read(path)) == numbers.kept()


async def test_run_retries_with_growing_delays(path: Path) -> None:
    path.parent.write_text("")
    works, tries = trio.Event(), []

    class Watched(Numbers):
        def changes(self, *, everything: bool = False) -> Changes:
            tries.append(trio.current_time())
            if not everything:
                works.set()
            return super().changes(everything=everything)

    numbers = Watched({"turns": 1})

    def on_error() -> None:
        numbers.failed()
        if numbers.errors == 3:
            path.parent.unlink()

    async with opened(path) as found, trio.open_nursery() as nursery:
        nursery.start_soon(partial(found.keeper.run, numbers, interval=0.01, on_error=on_error))
        await works.wait()
        nursery.cancel_scope.cancel()
    assert numbers.errors == 3
    waits = [after - before for before, after in itertools.pairwise(tries)]
    assert [wait > 0.9 * least for wait, least in zip(waits, (0.02, 0.04, 0.08), strict=False)] == [True] * 3
    assert restored(await read(path)) == numbers.kept()


async def test_changes_of_a_cancelled_write_are_in_the_last_one(path: Path) -> None:
    numbers = some_numbers()
    async with opened(path) as found:
        with locked(path, "IMMEDIATE"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(found.keeper.run, numbers, interval=1, on_error=pytest.fail))
                await numbers.is_asked.wait()
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        with trio.CancelScope() as stopping:
            stopping.cancel()
            numbers.count("turns", "conv_2")
            assert await found.keeper.write_now(numbers, on_error=pytest.fail)
    assert restored(await read(path)) == numbers.kept()


async def test_loss_of_the_file_found_by_a_cancelled_write_is_remembered(path: Path) -> None:
    numbers = some_numbers()
    async with opened(path) as found:
        write = partial(found.keeper.write_now, numbers, on_error=numbers.failed)
        assert await write()
        delete(path)
        numbers.count("turns", "conv_1")
        assert not await write()
        sql(path)  # SQLite creates an empty file
        numbers.is_asked = trio.Event()
        with locked(path):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(found.keeper.run, numbers, interval=1, on_error=pytest.fail))
                await numbers.is_asked.wait()
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        while not await write():
            assert numbers.errors < 4
    assert restored(await read(path)) == numbers.kept()


async def test_scrape_triggers_a_write_before_the_interval_is_over(path: Path) -> None:
    numbers = some_numbers()
    async with opened(path) as found, trio.open_nursery() as nursery:
        nursery.start_soon(partial(found.keeper.run, numbers, interval=3600, on_error=pytest.fail))
        for each in range(5):
            numbers.count("turns", f"conv_{each + 1}")
            await found.keeper.commit(10)
            await found.keeper.commit(10)
            assert not numbers.changed
        nursery.cancel_scope.cancel()
    assert restored(await read(path)) == numbers.kept()


async def test_scrape_does_not_wait_while_writes_fail_and_pages_show_counted_numbers_after_a_while(
    path: Path, mock_clock: trio.testing.MockClock
) -> None:
    numbers = some_numbers()
    found = await StateKeeper.open(path, label_names=NAMES, now=Clock())
    write = partial(found.keeper.write_now, numbers, on_error=numbers.failed)
    assert await write()
    shutil.rmtree(path.parent)
    path.parent.write_text("")
    numbers.count("turns", "conv_9")
    assert not await write()
    await found.keeper.commit(3600)  # the clock stands still: this would wait for ever
    mock_clock.jump(COUNTED_AFTER)
    assert not found.keeper.is_behind
    mock_clock.jump(1)
    with capture_logs() as logs:
        assert found.keeper.is_behind
        assert found.keeper.is_behind
    assert [each["log_level"] for each in logs] == ["error"]
    path.parent.unlink()
    assert not await write()  # it finds that the file is lost
    with capture_logs() as logs:
        assert await write()
    assert [each["log_level"] for each in logs] == ["info"]
    assert not found.keeper.is_behind
    await found.keeper.close()


async def test_exporter_that_cannot_create_the_file_shows_counted_numbers_from_the_start(path: Path) -> None:
    path.parent.write_text("")
    found = await StateKeeper.open(path, label_names=NAMES, now=Clock())
    assert found.keeper.is_behind
    path.parent.unlink()
    assert await found.keeper.write_now(some_numbers(), on_error=pytest.fail)
    assert not found.keeper.is_behind
    await found.keeper.close()
