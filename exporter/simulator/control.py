"""Edge: the control API of a running simulator for tests, under ``/simulator/``. Needs no credential; with
that of one of several workspaces it controls this one.

``GET /simulator/state``
    ``now_ms`` (plan time), ``epoch_ms`` (Unix time of plan time 0), ``held``, ``complete`` (all planned
    conversations are over), ``open_sockets``, ``sent`` (frames and faults by kind), ``faults``, ``absences``
    (pairs of plan times; the second is null for the present absence), and for each conversation that has begun
    ``live``, ``connections`` (handshakes so far) and ``last_snapshot_sent`` (to an observer that is still
    connected).
``PUT /simulator/faults``
    Replaces the transport faults with a JSON list (``["drop=0.01", "outage=1@30:60"]``); 400 with the reason if
    the list is invalid or holds a planned fault (such as slow-model), which belongs to the
    scenario.
``POST /simulator/drop``
    Drops every open live socket. Replies ``{"dropped": n}``.
``POST /simulator/hold``, ``POST /simulator/release``
    While held, no conversation ends; everything else continues. On release, the conversations whose planned end
    has passed end with their planned values.
``POST /simulator/leave``
    Tells the simulator that all observers are away until ``hold`` or ``release``: conversations that begin and end
    meanwhile are never observed, even with ``--simulator.patient``; those that began before do not end until the
    observers return. Drops open sockets. Call it after stopping the observers.
"""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .faults import PLANNED, parse_fault
from .playback import Playback
from .replies import failure, reply


class Control:
    """The handlers of the control API."""

    def __init__(self, playback: Playback) -> None:
        self._playback = playback

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
        return reply(self._playback.report())

    async def _faults(self, request: Request) -> Response:
        try:
            faults = tuple(map(parse_fault, msgspec.json.decode(await request.body(), type=list[str])))
        except ValueError as bad:  # msgspec's errors are ValueErrors too
            return failure(400, str(bad))
        planned = [fault.kind for fault in faults if fault.kind in PLANNED]
        if planned:
            return failure(400, f"{planned[0]} belongs to the scenario")
        self._playback.switch(faults)
        return reply(self._playback.report())

    async def _drop(self, _: Request) -> Response:
        return reply({"dropped": self._playback.drop_all()})

    async def _hold(self, _: Request) -> Response:
        self._playback.hold()
        return reply(self._playback.report())

    async def _leave(self, _: Request) -> Response:
        self._playback.leave()
        return reply(self._playback.report())

    async def _release(self, _: Request) -> Response:
        self._playback.release()
        return reply(self._playback.report())
