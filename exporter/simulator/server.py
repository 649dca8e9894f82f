"""Edge: one port that plays Phonic: REST, the live WebSocket, and the controls of a test harness."""

import logging
import math
import socket
import time
from typing import Final

import hypercorn.trio
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from .access import Access
from .control import Control
from .faults import Fault
from .live import LiveEndpoint
from .rest import Rest
from .scenario import Scenario
from .stage import Stage

_BACKLOG: Final = 1024  # a reconnect storm arrives at once


async def serve(
    scenario: Scenario,
    *,
    listen: str = "127.0.0.1:0",
    api_key: str = "ph_simulated_key",
    faults: tuple[Fault, ...] = (),
    epoch: float | None = None,
    patient: bool = False,
    refuse_ended: bool = False,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Play ``scenario`` on ``listen`` (``host:port``, loopback without a host) until cancelled.

    Reports the base URL as soon as it listens.

    ``faults`` are transport faults. ``epoch`` is the Unix time of plan time 0, now by default; with one in the
    past the play begins in the middle. ``patient``: no conversation ends before an observer has its last snapshot.
    ``refuse_ended``: a live socket to an ended conversation gets an error and 1008, not ``conversation-saved``.
    Raises OSError when the address cannot be used.
    """
    wall = time.time()
    epoch_ms = math.floor((wall if epoch is None else epoch) * 1000)
    now_ms = 0.0 if epoch is None else wall * 1000 - epoch_ms
    stage = Stage(scenario, faults=faults, epoch_ms=epoch_ms, now_ms=now_ms, patient=patient)
    access = Access(api_key)
    live = LiveEndpoint(stage, access, refuse_ended=refuse_ended)
    app = Starlette(
        routes=[
            *Rest(stage, access).routes(),
            *Control(stage).routes(),
            WebSocketRoute("/v1/conversations/{conversation_id}/live/ws", live.handle),
        ]
    )
    host, _, port = listen.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, int(port)), family=family, backlog=_BACKLOG)
    bound = listener.getsockname()[1]
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]  # bound here, so that an address in use is one plain OSError
    config.backlog = _BACKLOG
    config.errorlog = _errors()
    config.include_server_header = False
    task_status.started(f"http://{f'[{host}]' if ':' in host else host}:{bound}")
    await hypercorn.trio.serve(app, config, mode="asgi")  # type: ignore[arg-type]


def _errors() -> logging.Logger:
    """Where hypercorn complains; its announcement of an address is ours to make."""
    logger = logging.getLogger(__name__)
    logger.setLevel(logging.WARNING)
    return logger
