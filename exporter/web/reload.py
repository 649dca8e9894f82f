"""State: the web configuration in force, read again when it or a file that it names has changed."""

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
import structlog
import trio

from ..errors import ConfigError
from ..files import Signature, signature
from .config_file import FLAG, WebConfig, parse
from .files import read_config
from .security import Passwords, Protection, TokenBucket
from .tls import Contexts, build_contexts

log = structlog.get_logger()

LOOK_SECONDS: Final = 2.0  # for all the files, which may be on a disk that hangs
_BLANK_SECONDS: Final = 1.0


@attrs.frozen(kw_only=True)
class InForce:
    """A web configuration made ready: ``contexts`` for handshakes, ``protection`` for requests."""

    config: WebConfig
    contexts: Contexts | None
    protection: Protection

    @property
    def tls(self) -> ssl.SSLContext | None:
        """None: plain HTTP."""
        return self.contexts.first if self.contexts else None


@attrs.frozen(kw_only=True)
class _Look:
    """What a look at the files found: how they look, and what they say if that is new."""

    files: tuple[Path, ...]
    seen: tuple[Signature, ...]
    found: InForce | ConfigError | None


class ReloadedConfig:
    """The web configuration file, or none (plain HTTP for everybody).

    A changed file that cannot be used, or that would turn TLS on or off, leaves the old one in force.
    ``last_success`` says how the last look went, ``last_success_timestamp`` is the Unix time at which what is in
    force was read; without a file both stay at their start.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        now: Callable[[], float] = time.time,
        patience_seconds: float = LOOK_SECONDS,
    ) -> None:
        """Read the file and what it names. Blocks on files.

        Errors: ConfigError naming the key, which is also what ``check-config`` reports.
        """
        self._path = path
        self._now = now
        self._patience_seconds = patience_seconds
        self._one_at_a_time = trio.Lock()
        self._one_thread = trio.CapacityLimiter(1)
        self._files: tuple[Path, ...] = ()
        self._seen: tuple[Signature, ...] = ()
        self._in_force = InForce(config=WebConfig(), contexts=None, protection=Protection())
        if path is not None:
            look = _look(path, self._files, self._seen, self._in_force)
            if isinstance(look.found, ConfigError):
                raise look.found
            self._files, self._seen, self._in_force = look.files, look.seen, look.found or self._in_force
        self.last_success = True
        self.last_success_timestamp = now()
        self._said = ""

    @property
    def in_force(self) -> InForce:
        """What was in force at the last look."""
        return self._in_force

    async def current(self) -> InForce:
        """What is in force now, after a look at the files in a thread, which is waited for a while only."""
        if self._path is None:
            return self._in_force
        async with self._one_at_a_time:
            if self._one_thread.borrowed_tokens:  # an earlier look hangs
                return self._in_force
            with trio.move_on_after(self._patience_seconds) as patience:
                look = await trio.to_thread.run_sync(
                    _look,
                    self._path,
                    self._files,
                    self._seen,
                    self._in_force,
                    limiter=self._one_thread,
                    abandon_on_cancel=True,
                )
                self._take(look)
            if patience.cancelled_caught:
                self._seen = ()  # so that the next look that ends says how things are
                self._fail("takes too long to read")
        return self._in_force

    async def reread(self) -> None:
        """Read the files again, changed or not: a mended permission or mount changes none of what is looked at."""
        self._seen = ()
        await self.current()

    def _take(self, look: _Look) -> None:
        self._files, self._seen = look.files, look.seen
        if isinstance(look.found, ConfigError):
            self._fail(look.found.reason)
        elif look.found is not None and (look.found.contexts is None) != (self._in_force.contexts is None):
            self._fail("tls_server_config: turning TLS on or off takes a restart")
        elif look.found is not None:
            self._in_force = look.found
            self.last_success, self.last_success_timestamp = True, self._now()
            log.info("web config file reloaded")

    def _fail(self, reason: str) -> None:
        if self.last_success or reason != self._said:
            log.error("web config file not reloaded, the old one stays in force", reason=reason)
        self.last_success, self._said = False, reason


def _look(path: Path, files: tuple[Path, ...], seen: tuple[Signature, ...], before: InForce) -> _Look:
    """Look whether the files have changed, and read them if so. Blocks on files; nothing escapes it.

    How the files look is taken before they are read: a change meanwhile is seen next time.
    """
    files = files or (path,)
    now_seen = tuple(map(signature, files))
    if now_seen == seen:
        return _Look(files=files, seen=seen, found=None)
    try:
        content = read_config(path)
        if before.config.users and _is_being_written(path, content):
            return _Look(files=files, seen=(), found=ConfigError(FLAG, "is empty, as while it is being written"))
        config = parse(_text(content), path.parent)
        files = (path, *config.files)
        now_seen = (now_seen[0], *map(signature, config.files))
        return _Look(files=files, seen=now_seen, found=_ready(config, before))
    except ConfigError as bad:
        return _Look(files=files, seen=now_seen, found=bad)
    except Exception as bad:  # YAML nested too deeply, out of memory: the old configuration outlives them all
        return _Look(files=files, seen=now_seen, found=ConfigError(FLAG, f"cannot be used: {type(bad).__name__}"))


def _is_being_written(path: Path, content: bytes) -> bool:
    """An empty file lifts basic auth only once it has been empty for a while: an editor may just have begun."""
    return not content.strip() and time.time() - path.stat().st_mtime < _BLANK_SECONDS


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigError(FLAG, "is not UTF-8 text") from None


def _ready(config: WebConfig, before: InForce) -> InForce:
    """Make a configuration ready. What has not changed is kept, with the verdicts and tokens it holds."""
    passwords, bucket = before.protection.passwords, before.protection.bucket
    if config.users != before.config.users:
        passwords = Passwords(config.users) if config.users else None
    if config.rate_limit != before.config.rate_limit:
        bucket = TokenBucket(config.rate_limit) if config.rate_limit else None
    return InForce(
        config=config,
        contexts=build_contexts(config.tls) if config.tls else None,
        protection=Protection(headers=config.headers, passwords=passwords, bucket=bucket),
    )
