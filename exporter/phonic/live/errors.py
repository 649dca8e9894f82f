"""Pure: how a live feed can end, independent of the library that carries it.

What the watcher does: after `FeedLost` it reconnects; after `FeedRefused` it asks REST before it tries again;
after `FeedNotFound` it tries a few times; `FeedEnded` is the end of the conversation (close code 1000).
"""

from ...enums import FeedError


class FeedClosed(Exception):
    """A feed ended. ``reason`` is the value of a metric label; no text of the peer is kept.

    ``retry_after``: seconds that the server asked to wait, None if it did not ask.
    """

    def __init__(self, reason: FeedError | None, retry_after: float | None = None) -> None:
        super().__init__(reason.value if reason else "ended")
        self.reason = reason
        self.retry_after = retry_after


class FeedEnded(FeedClosed):
    """Close code 1000: the conversation is over (API 1.4)."""

    def __init__(self) -> None:
        super().__init__(None)


class FeedLost(FeedClosed):
    """A network failure, a restart or an error of the server: reconnect later.

    ``at_once``: reconnect without any wait, because the credential has been replaced.
    """

    def __init__(
        self, reason: FeedError | None, retry_after: float | None = None, *, at_once: bool = False
    ) -> None:
        super().__init__(reason, retry_after)
        self.at_once = at_once


class FeedRefused(FeedClosed):
    """401, 403, close code 1008 or an error message about access: this credential may not read the feed."""


class FeedNotFound(FeedClosed):
    """404, 410 or another 4xx at the handshake: the conversation is unknown, not live yet, or over."""
