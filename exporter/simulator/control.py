"""Edge: what a test harness can see and do to a running simulator, under ``/simulator/``. No credential needed.

``GET /simulator/state``
    ``now_ms`` (plan time), ``epoch_ms`` (Unix time of plan time 0), ``held``, ``complete`` (the plan is played
    to its end), ``open_sockets``, ``sent`` (frames and faults by kind), ``faults``, ``absences`` (pairs of plan
    times, the second null while it lasts), and for each conversation that has begun ``live``, ``connections``
    (handshakes so far) and ``last_snapshot_sent`` (to an observer who stayed).
``PUT /simulator/faults``
    A JSON list of transport faults (``["drop=0.01", "outage=1@30:60"]``) that replaces the present ones; 400 with
    the reason otherwise. Planned faults (slow-model, latency-spike, error-wave) belong to the scenario: refused.
``POST /simulator/drop``
    Drops every open live socket at once. Replies ``{"dropped": n}``.
``POST /simulator/hold``, ``POST /simulator/release``
    While held no conversation ends; everything else goes on. Upon release those whose time has passed end, with
    the values that were planned.
``POST /simulator/leave``
    The observers are away, until ``hold`` or ``release``: conversations that begin and end meanwhile do so unseen,
    also with ``--simulator.patient``; those that began before wait for their return. Open sockets are dropped.
    Call it after the observers were stopped.
"""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .faults import PLANNED, parse_fault
from .replies import failure, reply
from .stage import Stage


class Control:
    """Handlers over a stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def routes(self) -> list[Route]:
        return [
            Route("/simulator/state", self._state),
            Route("/simulator/faults", self._faults, methods=["PUT"]),
            Route("/simulator/drop", self._drop, methods=["POST"]),
            Route("/simulator/hold", self._hold, methods=["POST"]),
            Route("/simulator/leave", self._leave, methods=["POST"]),
            Route("/simulator/release", self._release, methods=["POST"]),
        ]

    async def _state(self, _: Request) -> Response:
        return reply(self._stage.report())

    async def _faults(self, request: Request) -> Response:
        try:
            faults = tuple(map(parse_fault, msgspec.json.decode(await request.body(), type=list[str])))
        except ValueError as bad:  # msgspec's errors are ValueErrors too
            return failure(400, str(bad))
        planned = [fault.kind for fault in faults if fault.kind in PLANNED]
        if planned:
            return failure(400, f"{planned[0]} belongs to the scenario")
        self._stage.switch(faults)
        return reply(self._stage.report())

    async def _drop(self, _: Request) -> Response:
        return reply({"dropped": self._stage.drop_all()})

    async def _hold(self, _: Request) -> Response:
        self._stage.hold()
        return reply(self._stage.report())

    async def _leave(self, _: Request) -> Response:
        self._stage.leave()
        return reply(self._stage.report())

    async def _release(self, _: Request) -> Response:
        self._stage.release()
        return reply(self._stage.report())
