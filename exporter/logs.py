"""Wiring: configures logging: one line on stderr for each event, as logfmt or JSON, from any library.

Values are escaped, so that an event is always one line. An exception is logged as its type and place, never with
its message or variables, because both may quote what a caller said.
"""

import json
import logging
import math
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from datetime import UTC, datetime
from pathlib import PurePath
from types import TracebackType
from typing import Any, Final, Protocol

import structlog

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
FORMATS: Final = ("logfmt", "json")

# Libraries that log URLs (with session tokens), headers or frames below WARNING.
_VERBOSE_LIBRARIES = ("httpx", "httpcore", "hpack", "trio-websocket")
# Terminal control characters, every line end that str.splitlines() knows, and what UTF-8 cannot hold.
_UNPRINTABLE = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
_ESCAPED = re.compile(f"[{_UNPRINTABLE}]")
_BARE = re.compile(rf'[^\s"=\\{_UNPRINTABLE}]+')
_MAX_FRAMES = 20
_MAX_LEAVES = 3


class _Settings(Protocol):
    """Settings of logging: a key of ``LEVELS`` and one of ``FORMATS``."""

    @property
    def level(self) -> str: ...
    @property
    def format(self) -> str: ...


def configure(settings: _Settings) -> None:
    """Send structlog and the standard library's logging to stderr in one format. May be called again."""
    level = LEVELS[settings.level]
    render = _json if settings.format == "json" else _logfmt
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _complete, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Stderr,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(_Stderr())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _complete, render],
            foreign_pre_chain=[structlog.stdlib.add_logger_name],
        )
    )
    # Debug events of libraries hold payloads, so they are never logged, even if our level is debug.
    logging.basicConfig(level=max(level, logging.INFO), handlers=[handler], force=True)
    logging.raiseExceptions = False  # a full disk or closed pipe must not print tracebacks
    for name in _VERBOSE_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


def frames(exc: BaseException) -> str:
    """Return an exception's stack as ``file:line:function > …``, outermost first; a group's leaves in brackets.

    The text contains no message, value or absolute path.
    """
    path = " > ".join(_frames(exc.__traceback__))
    if not isinstance(exc, BaseExceptionGroup):
        return path
    leaves = [f"[{f'{type(leaf).__name__} {frames(leaf)}'.rstrip()}]" for leaf in exc.exceptions[:_MAX_LEAVES]]
    if len(exc.exceptions) > _MAX_LEAVES:
        leaves.append(f"[and {len(exc.exceptions) - _MAX_LEAVES} more]")
    return " ".join([path, *leaves]).strip()


def _frames(traceback: TracebackType | None) -> Iterable[str]:
    found = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        file = "/".join(PurePath(code.co_filename).parts[-2:])
        found.append(f"{file}:{traceback.tb_lineno}:{code.co_qualname}")
        traceback = traceback.tb_next
    return found[-_MAX_FRAMES:]  # the innermost frames tell most


class _Stderr:
    """Structlog logger and logging stream that ignores write errors, so that logging never stops the exporter."""

    def __init__(self, *_: object) -> None:
        pass

    def msg(self, line: str) -> None:
        self.write(line + "\n")

    debug = info = warning = error = critical = exception = log = msg

    def write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):  # broken pipe, full disk, or closed stream
            pass

    def flush(self) -> None:
        """Do nothing: every write is flushed."""


def _complete(_: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add time and level, and replace an exception with its type and frames."""
    exc_info = event.pop("exc_info", None)
    event.pop("stack_info", None)
    exc = sys.exception() if exc_info is True else exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if isinstance(exc, BaseException):
        event.update(error=type(exc).__name__, at=frames(exc))
    return {
        "ts": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": "warn" if method == "warning" else "error" if method in ("exception", "critical") else method,
        "event": event.pop("event", ""),
        **event,
    }


def _logfmt(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    return " ".join(f"{_key(key)}={_quoted(value)}" for key, value in event.items() if value is not None)


def _json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    return json.dumps({_key(key): _json_value(value) for key, value in event.items()})


def _key(key: object) -> str:
    return re.sub(r"[^\w.\-]", "_", str(key), flags=re.ASCII) or "_"


def _quoted(value: object) -> str:
    text = _text(value)
    if _BARE.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + _ESCAPED.sub(lambda found: found[0].encode("unicode_escape").decode(), escaped) + '"'


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, BaseException):
        return type(value).__name__
    if isinstance(value, (list, tuple, set, frozenset)):
        return ",".join(_text(item) for item in value)
    return str(value)


def _json_value(value: object) -> object:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_json_value(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    return value if isinstance(value, str) else _text(value)
