"""State: the web configuration in force, reloaded when its file or a file that it names changes.

`ReloadedConfig.current` is called for every connection and request. It compares the files' metadata with the last
look, in a thread, and reads them only if the metadata differs. A look that hangs (a dead network mount) delays one
call by a few seconds; until it returns, later calls use the configuration in force without another look.
"""

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

LOOK_SECONDS: Final = 2.0  # for all files together; the disk may hang
_BLANK_SECONDS: Final = 1.0  # an empty file counts only once it is this old


@attrs.frozen(kw_only=True)
class InForce:
    """A loaded web configuration: ``contexts`` for TLS handshakes, ``protection`` for requests."""

    config: WebConfig
    contexts: Contexts | None
    protection: Protection

    @property
    def tls(self) -> ssl.SSLContext | None:
        """Any of the TLS contexts; None for plain HTTP."""
        return self.contexts.first if self.contexts else None


@attrs.frozen(kw_only=True)
class _Look:
    """Result of a look at the files: their metadata, and their content if the metadata is new."""

    files: tuple[Path, ...]
    seen: tuple[Signature, ...]
    found: InForce | ConfigError | None


class ReloadedConfig:
    """The web configuration file, or none (plain HTTP without authentication).

    If the file changes and cannot be used, or would turn TLS on or off, the old configuration stays in force.
    ``last_success`` tells whether the last reload worked; ``last_success_timestamp`` is the Unix time in seconds
    at which the configuration in force was read. Without a file neither ever changes.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        now: Callable[[], float] = time.time,
        patience_seconds: float = LOOK_SECONDS,
    ) -> None:
        """Read the file and the files that it names. Blocks on the disk.

        Args:
            path: the web configuration file; None for plain HTTP.
            now: clock, Unix time in seconds.
            patience_seconds: how long `current` waits for the disk.

        Raises: ConfigError, which names the key.
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
        """The configuration in force at the last look."""
        return self._in_force

    async def current(self) -> InForce:
        """Reload changed files and return the configuration in force.

        Waits for the disk at most ``patience_seconds``.

        Cancellation: abandons the thread that looks at the files; the configuration does not change.
        """
        if self._path is None:
            return self._in_force
        async with self._one_at_a_time:
            if self._one_thread.borrowed_tokens:  # an earlier look still hangs
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
                self._seen = ()  # so that the next look reads the files again
                self._fail("takes too long to read")
        return self._in_force

    async def reread(self) -> None:
        """Read the files again even if their metadata is unchanged: a repaired mount may not change it."""
        self._seen = ()
        await self.current()

    def _take(self, look: _Look) -> None:
        self._files, self._seen = look.files, look.seen
        if isinstance(look.found, ConfigError):
            self._fail(look.found.reason)
        elif look.found is not None and (look.found.contexts is None) != (self._in_force.contexts is None):
            self._fail("tls_server_config: turning TLS on or off requires a restart")
        elif look.found is not None:
            self._in_force = look.found
            self.last_success, self.last_success_timestamp = True, self._now()
            log.info("web config file reloaded")

    def _fail(self, reason: str) -> None:
        if self.last_success or reason != self._said:
            log.error("web config file not reloaded, the old one stays in force", reason=reason)
        self.last_success, self._said = False, reason


def _look(path: Path, files: tuple[Path, ...], seen: tuple[Signature, ...], before: InForce) -> _Look:
    """Read the files if they have changed. Blocks on the disk. Returns every error instead of raising it.

    The metadata is taken before the files are read, so that the next look sees a change made in between.
    """
    files = files or (path,)
    now_seen = tuple(map(signature, files))
    if now_seen == seen:
        return _Look(files=files, seen=seen, found=None)
    try:
        content = read_config(path)
        if before.config.users and _is_being_written(path, content):
            return _Look(
                files=files, seen=(), found=ConfigError(FLAG, "is empty, perhaps because it is being written")
            )
        config = parse(_text(content), path.parent)
        files = (path, *config.files)
        now_seen = (now_seen[0], *map(signature, config.files))
        return _Look(files=files, seen=now_seen, found=_ready(config, before))
    except ConfigError as bad:
        return _Look(files=files, seen=now_seen, found=bad)
    except Exception as bad:  # such as out of memory: keep the old configuration
        return _Look(files=files, seen=now_seen, found=ConfigError(FLAG, f"cannot be used: {type(bad).__name__}"))


def _is_being_written(path: Path, content: bytes) -> bool:
    """Whether the file is empty but recent: an editor may be writing it, and empty means no basic auth."""
    return not content.strip() and time.time() - path.stat().st_mtime < _BLANK_SECONDS


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigError(FLAG, "is not UTF-8 text") from None


def _ready(config: WebConfig, before: InForce) -> InForce:
    """Load a configuration. Unchanged sections keep their state: remembered logins, rate limit tokens."""
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
