"""Tasks: checking the credential, and holding all requests and feeds back while Phonic refuses it.

A refusal of one feed proves nothing about the credential, because Phonic may refuse an unknown conversation in the
same way (API 1.2). So when a request or a feed is refused, `Access` probes REST for something that every
credential may read. If REST refuses that too, all requests and feeds wait until the key file holds another
credential or REST accepts the old one again (semantics 10).

States:

    accepted    requests and feeds go ahead. A reported refusal starts a probe, at most one each `PROBE_SPACING`.
    refused     REST has refused a probe. Requests and feeds wait in `Access.wait_accepted`. REST is probed each
                `PROBE_AGAIN` seconds, and at once when the key file changes. Any probe that succeeds leads back.
"""

from collections.abc import Awaitable, Callable

import structlog
import trio

from ..phonic.credentials import Credential, Credentials
from ..phonic.rest import REFUSALS, RestFailed

log = structlog.get_logger("exporter.watch")

PROBE_AGAIN = 30.0  # seconds between two probes while the credential is refused
POLL_FILE = 1.0  # seconds between two looks at the key file meanwhile
PROBE_SPACING = 5.0  # seconds between two probes while REST accepts the credential and feeds are refused


class Access:
    """Whether REST accepts the credential.

    ``refused_with``: the HTTP status with which REST refuses it; None while it is accepted.
    """

    def __init__(self, credentials: Credentials, probe: Callable[[], Awaitable[object]]) -> None:
        """``probe`` requests what every credential may read, and raises `RestFailed`."""
        self.refused_with: int | None = None
        self._credentials = credentials
        self._probe = probe
        self._refusal_reported = trio.Event()
        self._is_accepted = trio.Event()
        self._is_accepted.set()

    def report_refusal(self) -> None:
        """Tell that Phonic refused a request or a feed, so that the credential is checked.

        Idempotent; does not wait.
        """
        self._refusal_reported.set()

    async def wait_accepted(self) -> None:
        """Wait until the credential is accepted; returns at once if it is. Cancellation: at any time."""
        await self._is_accepted.wait()

    async def run(self) -> None:
        """Check the credential after reported refusals, until cancelled."""
        while True:
            await self._refusal_reported.wait()
            refused_with = await self._refused_with()
            if refused_with is not None:
                await self._wait_while_refused(refused_with)
            else:
                await trio.sleep(PROBE_SPACING)
            self._refusal_reported = trio.Event()

    async def _refused_with(self) -> int | None:
        """The status with which REST refuses the credential; None if it does not, or does not answer."""
        try:
            await self._probe()
        except RestFailed as failed:
            return REFUSALS.get(failed.reason)
        return None

    async def _wait_while_refused(self, refused_with: int) -> None:
        refused = self._credentials.current()
        self._is_accepted = trio.Event()
        self.refused_with = refused_with
        log.error(
            "API key refused: no feed is opened until Phonic accepts it; "
            "check that the key is current and of this workspace",
            status=refused_with,
        )
        try:
            while True:
                with trio.move_on_after(PROBE_AGAIN):
                    await self._wait_new_credential(refused)
                refused = self._credentials.current()
                try:
                    await self._probe()
                    break
                except RestFailed as failed:
                    self.refused_with = REFUSALS.get(failed.reason, self.refused_with)
            log.info("API key accepted again")
        finally:
            self.refused_with = None
            self._is_accepted.set()

    async def _wait_new_credential(self, refused: Credential) -> None:
        # The file system does not notify us, so poll the key file. SIGHUP may read it before us.
        while True:
            await trio.to_thread.run_sync(self._credentials.reload)
            if self._credentials.current() != refused:
                return
            await trio.sleep(POLL_FILE)
