"""Tasks: SIGTERM and SIGINT stop the program in order, SIGHUP has it read its files again."""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import structlog
import trio

from . import signals

log = structlog.get_logger("exporter")


@asynccontextmanager
async def stopping_on_signals(
    stop: trio.Event, reloads: Mapping[str, Callable[[], Awaitable[object]]] | None = None
) -> AsyncIterator[None]:
    """Handle signals while the block runs.

    The first SIGTERM or SIGINT sets ``stop``; a second one cancels the block. SIGHUP calls all of ``reloads``, by
    the name of what they read; one that fails is logged and the others still run.
    """
    async with trio.open_nursery() as nursery:

        async def reload() -> None:
            files = reloads or {}
            log.info("signal received, reading files again", signal="SIGHUP", files=list(files))
            for name, read in list(files.items()):
                try:
                    await read()
                except Exception:  # a file that cannot be read must not end the process
                    log.exception("file not read again", file=name)

        async def listen(*, task_status: trio.TaskStatus[None]) -> None:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
                task_status.started()
                if signals.missed_hangup():
                    nursery.start_soon(reload)
                async for number in received:
                    if number == signal.SIGHUP:
                        nursery.start_soon(reload)  # reading may hang, and the next signal must be handled
                        continue
                    log.info("signal received", signal=signal.Signals(number).name)
                    if stop.is_set():
                        nursery.cancel_scope.cancel()
                    stop.set()

        await nursery.start(listen)
        yield
        nursery.cancel_scope.cancel()
