"""Tasks: one process that watches many workspaces, against a process for each."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..options import Options
from ..processes import CLIENT_CORE, SERVER_CORE, Process, running
from ..report import Report, Table, number

_KEY = "ph_benchmark"
_CALLS_PER_MINUTE = 3.0


def many_workspaces(options: Options) -> Report:
    """Measure memory and CPU of both, with the same simulated calls."""
    count = 3 if options.quick else 20
    warm_up, seconds = (2.0, 4.0) if options.quick else (30.0, 60.0)
    keys = [_KEY, *(f"{_KEY}-{number}" for number in range(2, count + 1))]
    folders = {
        f"one process, {count} workspaces": [_folder(options.folder / "all", keys)],
        f"{count} processes, one workspace each": [
            _folder(options.folder / f"only-{at}", [key]) for at, key in enumerate(keys)
        ],
    }
    with _phonic(count, options.folder) as url:
        found = {
            what: _cost(url, each, options.folder, warm_up=warm_up, seconds=seconds)
            for what, each in folders.items()
        }
    return Report(
        name="workspaces",
        title="Many workspaces",
        method=f"Memory (proportional set size) and share of a core, of all processes, over {seconds:g} s "
        f"after {warm_up:g} s. The simulator plays {_CALLS_PER_MINUTE:g} calls a minute in each workspace; a "
        "state file, discovery every 5 s, no scrapes.",
        tables=[
            Table(
                title="Many workspaces",
                columns=("what", "MB", "% of a core"),
                rows=[(what, number(memory), number(share)) for what, (memory, share) in found.items()],
            )
        ],
        data=found,
    )


def _folder(path: Path, keys: Sequence[str]) -> Path:
    """A folder with a file for each key."""
    path.mkdir()
    for at, key in enumerate(keys):
        (path / f"workspace-{at:02}").write_text(key)
    return path


@contextmanager
def _phonic(count: int, folder: Path) -> Iterator[str]:
    with running(
        "exporter",
        "simulate",
        "--simulator.listen-address=127.0.0.1:0",
        f"--simulator.api-key={_KEY}",
        f"--simulator.workspaces={count}",
        f"--simulator.calls-per-minute={_CALLS_PER_MINUTE}",
        core=SERVER_CORE,
        log=folder / "simulator.log",
    ) as simulator:
        yield simulator.logged(r"base_url=(\S+)")[1]


def _cost(url: str, folders: Sequence[Path], logs: Path, *, warm_up: float, seconds: float) -> tuple[float, float]:
    """Megabytes, and percent of a core, of a process for each folder of keys."""
    with ExitStack() as started:
        processes: list[Process] = []
        for folder in folders:
            process = started.enter_context(
                running(
                    "exporter",
                    f"--phonic.base-url={url}",
                    f"--phonic.api-key-dir={folder}",
                    "--web.listen-address=127.0.0.1:0",
                    f"--state.file={folder}.db",
                    core=CLIENT_CORE,
                    log=logs / f"{folder.name}.log",
                )
            )
            process.logged("event=serving")
            processes.append(process)
        time.sleep(warm_up)
        before = sum(each.cpu_seconds for each in processes)
        time.sleep(seconds)
        share = (sum(each.cpu_seconds for each in processes) - before) / seconds * 100
        return sum(each.proportional_bytes for each in processes) / 1e6, share
