"""Any bytes as the body of a REST reply: each reader accepts them or raises its named error, in short steps.

Values that are read can be encoded: ids, names and cursors are used in URLs, labels, logs and the state file.
"""

from collections.abc import Callable, Iterable
from time import thread_time

from exporter.counting.derive import NOTHING, derive_record
from exporter.phonic.body import STEP, Body, TooLarge, Unreadable
from exporter.phonic.decode import InvalidMessage, read_record
from exporter.phonic.listing import read_agents, read_page, read_projects, read_workspace
from exporter.phonic.schema import Snapshot

ID = "conv_1"
LONGEST_STEP = 0.1
"""Seconds of CPU."""
LARGEST = 1024 * 1024
"""Bytes of an unpacked body."""


def check(data: bytes) -> None:
    """Try the bytes as they are, and decompressed if they are gzip."""
    _read(data)
    unpacked = _unpacked(data)
    if unpacked is not None:
        _read(unpacked)


def _read(body: bytes) -> None:
    _in_a_step(lambda: _projects(body))
    _in_a_step(lambda: _agents(body))
    _in_a_step(lambda: _page(body))
    _in_a_step(lambda: _workspace(body))
    _record(body)


def _projects(body: bytes) -> None:
    projects, unusable = read_projects(body)
    assert unusable >= 0
    _writable(text for each in projects for text in (each.id, each.name))
    for each in projects:
        _counts(each.active, each.limit)


def _agents(body: bytes) -> None:
    agents, unusable = read_agents(body)
    assert unusable >= 0
    _writable(text for each in agents for text in (each.id, each.name))


def _page(body: bytes) -> None:
    page = read_page(body)
    assert page.unusable >= 0
    _writable(each.id for each in page.rows)
    _writable([page.next_cursor] if page.next_cursor is not None else [])


def _workspace(body: bytes) -> None:
    workspace = read_workspace(body)
    _counts(workspace.active, workspace.limit)


def _record(body: bytes) -> None:
    """Read a record and derive its increments; measure each step."""
    steps = read_record(body)
    is_over = False

    def step() -> None:
        nonlocal is_over
        found = next(steps, steps)
        if isinstance(found, Snapshot) and found.conversation.id == ID:  # others are refused
            for was_watched in (False, True):
                progress, _ = derive_record(NOTHING, found, was_watched=was_watched)
                _writable(progress.tools)
        is_over = found is steps

    while not is_over and _in_a_step(step):
        pass


def _in_a_step(work: Callable[[], None]) -> bool:
    """Run a step; return False if the body is refused. Any other error is a defect."""
    start = thread_time()
    try:
        work()
    except InvalidMessage:
        return False
    finally:
        took = thread_time() - start
        if took > LONGEST_STEP:
            raise AssertionError(f"a step of {took:.3f} s")
    return True


def _writable(texts: Iterable[str]) -> None:
    for each in texts:
        assert each
        each.encode()


def _counts(*values: int | None) -> None:
    assert all(value is None or 0 <= value <= 2**53 for value in values), values


def _unpacked(data: bytes) -> bytes | None:
    body = Body("gzip", largest=LARGEST)
    try:
        for _ in body.feed(data):
            pass
        whole = body.whole()
    except (TooLarge, Unreadable):
        return None
    assert len(whole) <= LARGEST + STEP
    return whole
