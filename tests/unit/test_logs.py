"""Logs: one line for each event of any library, without secrets."""

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter import logs
from exporter.settings import LogSettings

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions
    root.handlers = []  # pytest's handlers, which basicConfig(force=True) would close
    yield
    root.handlers[:], root.level, logging.raiseExceptions = before
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_logfmt_line_has_time_level_and_event_first(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings())
    structlog.get_logger().warning("feed lost", conversation="conv_1", after=1.5, listed=["a", "b c"], none=None)
    (line,) = lines(capsys)
    assert re.fullmatch(
        r"ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=warn "
        r'event="feed lost" conversation=conv_1 after=1\.5 listed="a,b c"',
        line,
    )


def test_json_line_has_the_same_keys(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="json"))
    structlog.get_logger().info("started", ids=("a", "b"), ratio=float("nan"), found={"x": True})
    (line,) = lines(capsys)
    event = json.loads(line)
    assert list(event)[:3] == ["ts", "level", "event"]
    del event["ts"]
    assert event == {"level": "info", "event": "started", "ids": ["a", "b"], "ratio": "nan", "found": {"x": True}}


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warn", "error"]),
        ("info", ["info", "warn", "error"]),
        ("warn", ["warn", "error"]),
        ("error", ["error"]),
    ],
)
def test_level_suppresses_less_severe_events(
    capsys: pytest.CaptureFixture[str], level: Any, expected: list[str]
) -> None:
    logs.configure(LogSettings(level=level))
    log = structlog.get_logger()
    for method in (log.debug, log.info, log.warning, log.error):
        method("x")
    assert [re.findall(r"level=(\w+)", line) for line in lines(capsys)] == [[name] for name in expected]


@pytest.mark.parametrize("form", logs.FORMATS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(event=st.text(), fields=st.dictionaries(st.text(min_size=1), VALUES, max_size=4))
def test_any_value_stays_on_one_line(
    capsys: pytest.CaptureFixture[str], form: Any, event: str, fields: dict[str, Any]
) -> None:
    logs.configure(LogSettings(format=form))
    structlog.get_logger().info("x", e=event, f=fields, g=list(fields.values()))
    structlog.get_logger().info(event)
    written = capsys.readouterr().err
    assert len(written.splitlines()) == 2
    assert written.endswith("\n")
    assert written.encode()
    if form == "json":
        assert json.loads(written.splitlines()[1])["event"] == event


def test_quoting_can_be_undone(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings())
    structlog.get_logger().info('a "b" \\n', c="two\nlines", empty="", equal="a=b", **{"odd key=": 1})
    (line,) = lines(capsys)
    assert line.partition("event=")[2] == r'"a \"b\" \\n" c="two\nlines" empty="" equal="a=b" odd_key_=1'


def test_exception_is_its_type_and_frames_only(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings())
    phone = "+49 secret"
    try:
        dict[str, str]()[phone]
    except KeyError as exc:
        structlog.get_logger().exception("crashed", reason=exc)
        logging.getLogger("hypercorn.error").exception("task failed")
    ours, theirs = lines(capsys)
    where = r"error=KeyError at=unit/test_logs\.py:\d+:test_exception_is_its_type_and_frames_only"
    assert re.search(rf"level=error event=crashed reason=KeyError {where}$", ours)
    assert re.search(rf'level=error event="task failed" logger=hypercorn\.error {where}$', theirs)


def test_frames_of_a_group_name_its_leaves() -> None:
    def fail() -> None:
        raise ValueError("secret")

    def leaf() -> ValueError:
        try:
            fail()
        except ValueError as exc:
            return exc
        raise AssertionError

    try:
        raise ExceptionGroup("secret", [leaf(), *(KeyError("secret") for _ in range(4))])
    except ExceptionGroup as group:
        text = logs.frames(group)
    assert re.fullmatch(
        r"unit/test_logs\.py:\d+:test_frames_of_a_group_name_its_leaves "
        r"\[ValueError unit/test_logs\.py:\d+:\S+\.leaf > unit/test_logs\.py:\d+:\S+\.fail\] "
        r"\[KeyError\] \[KeyError\] \[and 2 more\]",
        text,
    )


def test_frames_of_an_endless_recursion_stay_short() -> None:
    def recurse() -> None:
        recurse()

    with pytest.raises(RecursionError) as caught:
        recurse()
    assert logs.frames(caught.value).count(" > ") < 25


@pytest.mark.parametrize("level", ["debug", "info"])
def test_libraries_that_log_urls_are_silent_below_a_warning(
    capsys: pytest.CaptureFixture[str], level: Any
) -> None:
    logs.configure(LogSettings(level=level))
    for name in ("httpx", "httpcore.connection", "trio-websocket"):
        logging.getLogger(name).debug("GET https://h/x?session_token=ph_secret")
        logging.getLogger(name).info("GET https://h/x?session_token=ph_secret")
    logging.getLogger("hypercorn.error").debug("payload")
    assert lines(capsys) == []
    logging.getLogger("httpx").warning("odd %s", "thing")
    (line,) = lines(capsys)
    assert line.endswith('level=warn event="odd thing" logger=httpx')


def test_a_closed_stderr_loses_lines_but_does_not_end_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, _: str) -> int:
            raise BrokenPipeError

    logs.configure(LogSettings())
    monkeypatch.setattr("sys.stderr", Closed())
    structlog.get_logger().info("lost")
    logging.getLogger("hypercorn.error").error("lost too")
