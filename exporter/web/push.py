"""State: the budget for conversation ids pushed over HTTP, so that made-up ids do not starve real conversations.

A client of the push API can name ids that do not exist. Each costs connection attempts and REST requests until
Phonic has rejected it often enough. So each new id takes a token from a bucket that fills slowly. When Phonic
confirms that an id exists, its token is returned: an application that pushes its own calls does not notice the
limit.
"""

from collections.abc import Callable
from typing import Final

import attrs

from ..enums import Started
from .config_file import RateLimit
from .endpoints import PushTargets
from .security import TokenBucket

REQUESTS_FOR_A_MADE_UP_ID: Final = 3
SHARE_OF_REQUESTS: Final = 0.1
SHARE_OF_WATCHES: Final = 0.1
_LEAST_BURST: Final = 10


@attrs.frozen(kw_only=True)
class PushBudget:
    """``rate`` limits new ids; at most ``most`` of them may wait for Phonic to confirm that they exist."""

    rate: RateLimit
    most: int


def budget(*, requests_per_second: float, watch_limit: int) -> PushBudget:
    """Give pushed ids a tenth of the REST requests and of the watch limit."""
    ids_per_second = requests_per_second * SHARE_OF_REQUESTS / REQUESTS_FOR_A_MADE_UP_ID
    burst = max(_LEAST_BURST, round(2 * requests_per_second))
    return PushBudget(
        rate=RateLimit(1 / ids_per_second, burst),
        most=max(_LEAST_BURST, int(watch_limit * SHARE_OF_WATCHES)),
    )


class BudgetedTargets:
    """Wraps push targets with a budget for new ids. Implements `exporter.web.endpoints.PushTargets`."""

    def __init__(
        self,
        targets: PushTargets,
        budget: PushBudget,
        *,
        is_watched: Callable[[str], bool],
        is_real: Callable[[str], bool],
        now: Callable[[], float],
    ) -> None:
        """Wrap ``targets``.

        Args:
            targets: where accepted ids go.
            budget: limits of new ids.
            is_watched: whether an id is being watched.
            is_real: whether Phonic has confirmed that an id exists.
            now: monotonic clock, in seconds.
        """
        self._targets = targets
        self._most = budget.most
        self._bucket = TokenBucket(budget.rate)
        self._is_watched = is_watched
        self._is_real = is_real
        self._now = now
        self._unproven: set[str] = set()

    def start(self, conversation_id: str, workspace: str | None = None) -> Started:
        """Start a watcher if the budget allows; an id that is watched already costs nothing."""
        self._settle()
        if self._is_watched(conversation_id):
            return self._targets.start(conversation_id, workspace)
        if len(self._unproven) >= self._most:
            return Started.LIMIT_REACHED
        if not self._bucket.allow(self._now()):
            return Started.TOO_FAST
        started = self._targets.start(conversation_id, workspace)
        if started is Started.STARTED:
            self._unproven.add(conversation_id)
        else:
            self._bucket.give_back()
        return started

    def stop(self, conversation_id: str) -> bool:
        """Stop a watcher; return False if the id was not watched."""
        return self._targets.stop(conversation_id)

    def _settle(self) -> None:
        """Forget the ids that Phonic has confirmed, returning their tokens, and those no longer watched."""
        for each in list(self._unproven):
            if self._is_real(each):
                self._bucket.give_back()
                self._unproven.discard(each)
            elif not self._is_watched(each):
                self._unproven.discard(each)
