"""Watch file: how it is parsed, and what its changes start and withdraw. Uses real files."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st

from exporter.enums import Started
from exporter.phonic.wire import is_conversation_id
from exporter.watch.interfaces import Requester
from exporter.watch.watch_file import LARGEST_FILE, POLL_SECONDS, UnreadableList, WatchFile, parse, read

A, B, C = "conv_a", "conv_b", "conv_c"
BOM = b"\xef\xbb\xbf"


class Asked:
    """Targets that record calls. Ids in ``full`` are over the watch limit."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.full: set[str] = set()
        self._over_limit: set[str] = set()
        self.called = trio.Event()

    def taken(self) -> list[tuple[str, str]]:
        """Calls since the last call of this method, in order."""
        calls, self.calls = self.calls, []
        return calls

    def start(self, conversation_id: str, requester: Requester) -> Started:
        assert requester is Requester.FILE
        self.calls.append(("start", conversation_id))
        self.called.set()
        if conversation_id in self.full:
            self._over_limit.add(conversation_id)
            return Started.LIMIT_REACHED
        self._over_limit.discard(conversation_id)
        return Started.STARTED

    def withdraw(self, conversation_id: str, requester: Requester) -> None:
        assert requester is Requester.FILE
        self.calls.append(("withdraw", conversation_id))

    def over(self, conversation_id: str) -> None:
        raise NotImplementedError(conversation_id)

    def is_watched(self, conversation_id: str) -> bool:
        raise NotImplementedError(conversation_id)

    def is_over_limit(self, conversation_id: str) -> bool:
        return conversation_id in self._over_limit


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ids.txt"


@pytest.fixture
def asked() -> Asked:
    return Asked()


def watch_file(file: Path, asked: Asked, now: Callable[[], float] = lambda: 1000.0) -> WatchFile:
    return WatchFile(file, asked, is_conversation_id=is_conversation_id, now=now)


def replace(file: Path, text: str | bytes) -> None:
    """Replace the file by a new one, so that it differs even if its time is the same."""
    fresh = file.with_suffix(".new")
    fresh.write_bytes(text if isinstance(text, bytes) else text.encode())
    fresh.replace(file)


# --- parsing


@pytest.mark.parametrize(
    ("content", "ids", "unusable"),
    [
        (b"", set(), 0),
        (b"\n\n# nothing yet\n", set(), 0),
        (b"conv_a\nconv_b", {A, B}, 0),
        (b"  conv_a \r\n\tconv_b # with a word on it\r\n\r\n", {A, B}, 0),
        (b"conv_a\nconv_a\n", {A}, 0),
        (BOM + b"conv_a\n", {A}, 0),
        (b"conv_a\nconv_b conv_c\n+49 171 5550101\n../etc\n", {A}, 3),
        (b"[]", set(), 0),
        (b' \n["conv_a", "conv_b", "conv_a"]\n', {A, B}, 0),
        (BOM + b'["conv_a"]', {A}, 0),
        (b'["conv_a", 7, null, true, "x", ["conv_b"], {"id": "conv_c"}]', {A}, 6),
        (b'{"ids": ["conv_a"]}', set(), 1),
    ],
)
def test_list_is_lines_or_json(content: bytes, ids: set[str], unusable: int) -> None:
    listed = parse(content, is_conversation_id)
    assert (set(listed.ids), listed.unusable) == (ids, unusable)


@pytest.mark.parametrize(
    "content", [b'["conv_a"', b'["conv_a"] x', b'["\xff"]', b"[" * 100_000, b"conv_a\n\xff\n"]
)
def test_broken_list_is_rejected_without_quoting_it(content: bytes) -> None:
    with pytest.raises(UnreadableList) as rejected:
        parse(content, is_conversation_id)
    assert "conv_a" not in str(rejected.value)


@given(
    st.binary(max_size=60) | st.from_regex(rb"\[.*\]", fullmatch=True) | st.text().map(json.dumps).map(str.encode)
)
def test_any_content_is_a_list_or_rejected(content: bytes) -> None:
    try:
        listed = parse(content, is_conversation_id)
    except UnreadableList:
        return
    assert all(is_conversation_id(each) for each in listed.ids)


def test_only_regular_files_up_to_a_size_are_read(tmp_path: Path) -> None:
    large, pipe = tmp_path / "large", tmp_path / "pipe"
    with large.open("wb") as stream:
        stream.truncate(LARGEST_FILE + 1)
    os.mkfifo(pipe)
    for path, reason in [
        (tmp_path / "missing", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (pipe, "not a regular file"),
        (large, f"larger than {LARGEST_FILE} bytes"),
    ]:
        with pytest.raises(UnreadableList, match=reason):
            read(path, is_conversation_id)


# --- changes


async def test_changed_file_starts_and_withdraws_what_differs(file: Path, asked: Asked) -> None:
    watching = watch_file(file, asked)
    replace(file, f"{A}\n{B}\n")
    await watching.look()
    assert asked.taken() == [("start", A), ("start", B)]
    replace(file, f"{B}\n{C}\n")
    await watching.look()
    assert asked.taken() == [("withdraw", A), ("start", C)]
    replace(file, "")
    await watching.look()
    assert sorted(asked.taken()) == [("withdraw", B), ("withdraw", C)]


async def test_unchanged_file_starts_nothing_again(file: Path, asked: Asked) -> None:
    """Otherwise a conversation that was given up, or ended long ago, would be started every second."""
    watching = watch_file(file, asked)
    replace(file, f"{A}\n")
    await watching.look()
    asked.taken()
    await watching.look()
    replace(file, f"{A}\n{B}\n")
    await watching.look()
    assert asked.taken() == [("start", B)]


async def test_ids_over_the_limit_are_tried_until_they_fit(file: Path, asked: Asked) -> None:
    watching = watch_file(file, asked)
    replace(file, f"{A}\n{B}\n")
    asked.full = {B}
    await watching.look()
    await watching.look()
    assert asked.taken() == [("start", A), ("start", B), ("start", B)]
    replace(file, f"{A}\n{B}\n{C}\n")
    await watching.look()
    assert asked.taken() == [("start", B), ("start", C)]
    asked.full = set()
    await watching.look()
    await watching.look()
    assert asked.taken() == [("start", B)]


def remove(file: Path) -> None:
    file.unlink()


def make_unopenable(file: Path) -> None:
    """Root can read any file, so a symbolic link to itself stands for one that cannot be opened."""
    file.unlink()
    file.symlink_to(file)


@pytest.mark.parametrize(
    "damage",
    [
        remove,
        make_unopenable,
        lambda file: replace(file, f'["{B}"'),
        lambda file: replace(file, b"\xff"),
        lambda file: replace(file, b"#" * (LARGEST_FILE + 1)),
    ],
    ids=["missing", "cannot be opened", "not JSON", "not UTF-8", "too large"],
)
async def test_file_that_cannot_be_used_changes_nothing(
    file: Path, asked: Asked, damage: Callable[[Path], None]
) -> None:
    watching = watch_file(file, asked)
    replace(file, f"{A}\n")
    await watching.look()
    asked.taken()
    assert (watching.is_usable, watching.last_success) == (True, 1000.0)
    damage(file)
    with structlog.testing.capture_logs() as logged:
        await watching.look()
        await watching.look()
    assert not watching.is_usable
    assert asked.taken() == []
    assert [each["event"] for each in logged] == ["watch file unusable"]  # once, not every second
    replace(file, f"{B}\n")
    await watching.look()
    assert asked.taken() == [("withdraw", A), ("start", B)]
    assert watching.is_usable


async def test_file_that_is_missing_at_first_is_logged_and_read_once_it_appears(file: Path, asked: Asked) -> None:
    watching = watch_file(file, asked)
    with structlog.testing.capture_logs() as logged:
        await watching.look()
    assert [each["event"] for each in logged] == ["watch file unusable"]
    assert (watching.is_usable, watching.last_success) == (False, None)
    replace(file, f"{A}\n")
    await watching.look()
    assert asked.taken() == [("start", A)]


async def test_log_has_counts_but_no_entries(file: Path, asked: Asked) -> None:
    replace(file, f"{A}\n+49 171 5550101\n")
    with structlog.testing.capture_logs() as logged:
        await watch_file(file, asked).look()
    [line] = logged
    assert (line["conversations"], line["unusable"]) == (1, 1)
    assert "5550101" not in str(logged)


async def test_file_is_polled(file: Path, asked: Asked, mock_clock: trio.testing.MockClock) -> None:
    replace(file, f"{A}\n")
    async with trio.open_nursery() as nursery:
        await nursery.start(watch_file(file, asked).run)
        assert asked.taken() == [("start", A)]
        asked.called = trio.Event()
        replace(file, f"{B}\n")
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(POLL_SECONDS)
        await asked.called.wait()
        assert asked.taken() == [("withdraw", A), ("start", B)]
        nursery.cancel_scope.cancel()
