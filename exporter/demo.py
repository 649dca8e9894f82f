"""Wiring: the simulated Phonic, alone or with an exporter in the same process."""

import sys
from functools import partial

import attrs
import structlog
import trio

from .app import Running, run
from .phonic.credentials import ApiKey, Credentials
from .settings import Settings
from .shutdown import stopping_on_signals
from .simulator import server
from .simulator.settings import LISTEN_ADDRESS, SimulatorSettings, others_of, recorded, scenario_of

log = structlog.get_logger("exporter")


async def demo(
    settings: Settings,
    simulator: SimulatorSettings,
    *,
    task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the exporter against a simulated Phonic in this process, until a signal."""
    async with trio.open_nursery() as playing:
        listen = simulator.listen_address or "127.0.0.1:0"
        base_url = await playing.start(partial(_simulate, attrs.evolve(simulator, listen_address=listen)))
        settings = attrs.evolve(settings, phonic=attrs.evolve(settings.phonic, base_url=base_url))
        async with trio.open_nursery() as exporting:
            running = await exporting.start(run, settings, Credentials(ApiKey(simulator.api_key)))
            page = running.urls[0]
            log.info("demo is running", open=page, metrics=page + settings.web.telemetry_path)
            sys.stdout.write(f"The demo is running: open {page} in a browser; Ctrl-C ends it.\n")
            sys.stdout.flush()
            task_status.started(running)
        playing.cancel_scope.cancel()


async def simulate(
    simulator: SimulatorSettings, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run only the simulated Phonic, until a signal. ``started`` with its base URL."""
    stop = trio.Event()
    async with stopping_on_signals(stop), trio.open_nursery() as nursery:
        base_url = await nursery.start(_simulate, simulator)
        log.info("simulating", base_url=base_url, seed=simulator.seed)
        task_status.started(base_url)
        await stop.wait()
        nursery.cancel_scope.cancel()


async def _simulate(
    simulator: SimulatorSettings, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    if simulator.replay is not None:
        recording = recorded(simulator.replay)
        await server.replay(
            recording,
            listen=simulator.listen_address or LISTEN_ADDRESS,
            api_key=simulator.api_key,
            task_status=task_status,
        )
        return
    scenario, faults = scenario_of(simulator)
    await server.serve(
        scenario,
        listen=simulator.listen_address or LISTEN_ADDRESS,
        api_key=simulator.api_key,
        others=others_of(simulator, scenario),
        faults=faults,
        patient=simulator.patient,
        refuse_ended=simulator.refuse_ended,
        task_status=task_status,
    )
