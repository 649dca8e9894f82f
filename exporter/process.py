"""Wiring: what one process has once, whatever it watches: settings, credentials, files, proxies, its stop."""

from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from .filelimit import allow_files, files_for_feeds
from .metrics.loop_lag import LoopLag
from .phonic.keys import Keys
from .phonic.proxies import Proxies
from .settings import Settings
from .web.reload import ReloadedConfig

OTHER_FILES: Final = 500
"""Files open at once beside the feeds: scrapes and idle clients, REST, the state."""


@attrs.frozen(kw_only=True)
class Files:
    """Files that may be open at once: ``wanted``, ``allowed`` by the system, and of these for ``feeds``."""

    wanted: int
    allowed: int
    feeds: int

    @classmethod
    def allowed_for(cls, watch_limit: int) -> "Files":
        wanted = watch_limit + OTHER_FILES
        allowed = allow_files(wanted)
        feeds = min(watch_limit, files_for_feeds(allowed, others=OTHER_FILES))
        return cls(wanted=wanted, allowed=allowed, feeds=feeds)

    @property
    def others(self) -> int:
        return self.allowed - self.feeds


@attrs.frozen(kw_only=True)
class Process:
    """One process. ``stop`` is set by the first signal; ``reloads``: what SIGHUP reads again, by name."""

    settings: Settings
    keys: Keys
    proxies: Proxies
    files: Files
    web_config: ReloadedConfig
    reloads: dict[str, Callable[[], Awaitable[object]]]
    loop_lag: LoopLag = attrs.field(factory=LoopLag)
    stop: trio.Event = attrs.field(factory=trio.Event)
