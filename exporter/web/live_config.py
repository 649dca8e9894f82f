"""State: the web configuration in force, read again when it or a file that it names has changed."""

import ssl
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import structlog
import trio

from ..errors import ConfigError
from .config_file import FLAG, WebConfig, parse
from .security import Passwords, Protection, TokenBucket
from .tls import build_context

log = structlog.get_logger()

# Modification time, inode and size of each file, None for one that is missing.
_Signature = tuple[tuple[int, int, int] | None, ...]


@attrs.frozen(kw_only=True)
class InForce:
    """A web configuration made ready: ``tls`` for handshakes, ``protection`` for requests."""

    config: WebConfig
    tls: ssl.SSLContext | None
    protection: Protection


class LiveConfig:
    """The web configuration file, or none (plain HTTP for everybody).

    A changed file that is bad, or that would lift TLS or basic auth, leaves the old one in force: an editor's
    half-written file must not open the door. ``last_success`` says how the last read went,
    ``last_success_timestamp`` is the Unix time of the last good one; without a file both stay at their start.
    """

    def __init__(self, path: Path | None, *, now: Callable[[], float] = time.time) -> None:
        """Read the file and what it names. Blocks on files.

        Errors: ConfigError naming the key, which is also what ``check-config`` reports.
        """
        self._path = path
        self._now = now
        self._watched: tuple[Path, ...] = () if path is None else (path,)
        self._seen: _Signature = ()
        self._one_at_a_time = trio.Lock()
        self._in_force = self._load()
        self.last_success = True
        self.last_success_timestamp = now()

    @property
    def in_force(self) -> InForce:
        """What was in force at the last look."""
        return self._in_force

    async def current(self) -> InForce:
        """What is in force now, after a look at the files (a few ``stat`` calls in a thread)."""
        if self._path is None:
            return self._in_force
        async with self._one_at_a_time:
            seen = await trio.to_thread.run_sync(_signature, self._watched)
            if seen != self._seen:
                await self._reload()
        return self._in_force

    async def reread(self) -> None:
        """Read the files again, changed or not: a mended permission or mount changes none of what is looked at."""
        self._seen = ()
        await self.current()

    async def _reload(self) -> None:
        before = self._in_force
        try:
            after = await trio.to_thread.run_sync(self._load)
            _refuse_weaker(before, after)
        except ConfigError as bad:
            self.last_success = False
            log.error("web config file not reloaded, the old one stays in force", reason=bad.reason)
        else:
            self._in_force = after
            self.last_success = True
            self.last_success_timestamp = self._now()
            log.info("web config file reloaded")

    def _load(self) -> InForce:
        """Read everything, remembering first how the files look: a change meanwhile is seen next time."""
        if self._path is None:
            return InForce(config=WebConfig(), tls=None, protection=Protection())
        self._seen = _signature(self._watched)
        config = parse(_read(self._path), self._path.parent)
        self._watched = (self._path, *config.files)
        self._seen = _signature(self._watched)
        return InForce(
            config=config,
            tls=build_context(config.tls) if config.tls else None,
            protection=Protection(
                headers=config.headers,
                passwords=Passwords(config.users) if config.users else None,
                bucket=TokenBucket(config.rate_limit) if config.rate_limit else None,
            ),
        )


def _refuse_weaker(before: InForce, after: InForce) -> None:
    if (before.tls is None) != (after.tls is None):
        raise ConfigError(FLAG, "tls_server_config: turning TLS on or off takes a restart")
    if before.config.users and not after.config.users:
        raise ConfigError(FLAG, "basic_auth_users: turning basic auth off takes a restart")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(FLAG, "is not UTF-8 text") from None
    except OSError as bad:
        raise ConfigError(FLAG, f"cannot be read: {bad.strerror}: {path}") from None


def _signature(paths: tuple[Path, ...]) -> _Signature:
    return tuple(map(_signature_of, paths))


def _signature_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
