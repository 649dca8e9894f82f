"""Pure: how a live feed can end, whatever library carries it.

``Lost`` is worth another try, ``Refused`` is not without asking REST first, ``NotFound`` is worth a few tries,
``Ended`` is the conversation's own end (close code 1000).
"""

from ...enums import FeedError


class FeedClosed(Exception):
    """A feed came to an end. ``reason`` is a closed label; no text of the peer is kept."""

    def __init__(self, reason: FeedError | None, retry_after: float | None = None) -> None:
        super().__init__(reason.value if reason else "ended")
        self.reason = reason
        self.retry_after = retry_after


class FeedEnded(FeedClosed):
    """Close code 1000: the conversation is over (API 1.4)."""

    def __init__(self) -> None:
        super().__init__(None)


class FeedLost(FeedClosed):
    """Network trouble, a restart, an error of the server: reconnect after a while.

    ``retry_after`` is the server's wish in seconds, if it gave one; ``at_once``: another credential was found,
    which is worth a try without any wait.
    """

    def __init__(
        self, reason: FeedError | None, retry_after: float | None = None, *, at_once: bool = False
    ) -> None:
        super().__init__(reason, retry_after)
        self.at_once = at_once


class FeedRefused(FeedClosed):
    """401, 403, close 1008 or an error message that says so: the credential, or the conversation is not ours."""


class FeedNotFound(FeedClosed):
    """404 or 410 at the handshake: unknown, not live yet, or over."""
