"""Tasks: whether Phonic accepts the credential, and holding all feeds and requests back while it does not.

A refusal on one feed proves nothing about the credential: an unknown conversation may be refused in the same way.
Only REST can say that the credential is bad. When a request or a feed is refused, REST is asked for something that
every credential may read; if it refuses that too, everything waits, together, until the key file brings another
credential or REST accepts the old one again.
"""

from collections.abc import Awaitable, Callable

import structlog
import trio

from ..phonic.credentials import Credentials
from ..phonic.rest import REFUSALS, RestFailed

log = structlog.get_logger("exporter.watch")

LOOK_AGAIN = 30.0  # seconds between two questions while the credential is refused
LOOK_AT_FILE = 1.0  # seconds between two looks at the key file meanwhile
PROBE_SPACING = 5.0  # seconds between two questions while REST accepts it and feeds are refused


class Access:
    """``refused_with`` is the HTTP status with which REST refuses the credential, None while it does not."""

    def __init__(self, credentials: Credentials, probe: Callable[[], Awaitable[object]]) -> None:
        """``probe`` asks REST for what every credential may read; raises `RestFailed`."""
        self.refused_with: int | None = None
        self._credentials = credentials
        self._probe = probe
        self._refusal_reported = trio.Event()
        self._is_accepted = trio.Event()
        self._is_accepted.set()

    def report_refusal(self) -> None:
        """A request or a feed was refused: ask whether it is the credential. Idempotent, never waits."""
        self._refusal_reported.set()

    async def wait_accepted(self) -> None:
        """Wait while the credential is refused. Cancellation: at any time."""
        await self._is_accepted.wait()

    async def run(self) -> None:
        """Answer doubts until cancelled."""
        while True:
            await self._refusal_reported.wait()
            refused_with = await self._ask()
            if refused_with is not None:
                await self._hold_back(refused_with)
            else:
                await trio.sleep(PROBE_SPACING)
            self._refusal_reported = trio.Event()

    async def _ask(self) -> int | None:
        """The status with which REST refuses the credential; None if it does not, or cannot be asked."""
        try:
            await self._probe()
        except RestFailed as failed:
            return REFUSALS.get(failed.reason)
        return None

    async def _hold_back(self, refused_with: int | None) -> None:
        self._is_accepted = trio.Event()
        self.refused_with = refused_with
        log.error(
            "API key refused: no feed is opened until Phonic accepts it; "
            "check that the key is current and of this workspace",
            status=refused_with,
        )
        try:
            while True:
                with trio.move_on_after(LOOK_AGAIN):
                    await self._new_credential()
                try:
                    await self._probe()
                    break
                except RestFailed as failed:
                    self.refused_with = REFUSALS.get(failed.reason, self.refused_with)
            log.info("API key accepted again")
        finally:
            self.refused_with = None
            self._is_accepted.set()

    async def _new_credential(self) -> None:
        # The key file tells nobody when it changes.
        while not await trio.to_thread.run_sync(self._credentials.reload):  # noqa: ASYNC110
            await trio.sleep(LOOK_AT_FILE)
