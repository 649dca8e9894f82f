"""Wiring: ``python -m benchmarks [case …] [--quick] [--rounds N] [--list]``."""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from exporter import logs
from exporter.settings import LogSettings

from . import machine, results
from .cases import (
    checkpointing,
    committing,
    connections,
    decoding,
    idling,
    lateness,
    numbers,
    scraping,
    storing,
    updates,
    workspaces,
)
from .options import Options
from .processes import SERVER_CORE
from .report import Report

_RESULTS = Path(__file__).parent / "results"

CASES: dict[str, Callable[[Options], Report]] = {
    "saturated": updates.short_calls,
    "saturated-long": updates.long_calls,
    "saturated-tls": updates.short_calls_tls,
    "saturated-non-ascii": updates.short_calls_non_ascii,
    "paced": updates.paced_plain,
    "paced-tls": updates.paced_tls,
    "decoding": decoding.growth,
    "rendering": scraping.rendering,
    "numbers": numbers.writing_numbers,
    "packing": scraping.packing,
    "lateness": lateness.lateness,
    "opening": connections.opening,
    "capacity": connections.capacity,
    "capacity-postgres": connections.capacity_postgres,
    "start-up": idling.start_up,
    "committing": committing.committing,
    "restoring": checkpointing.restoring,
    "checkpointing": checkpointing.checkpointing,
    "discovering": idling.discovering,
    "storing": storing.storing,
    "failing-over": storing.failing_over,
    "workspaces": workspaces.many_workspaces,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the exporter.")
    parser.add_argument("case", nargs="*", help="cases to run, by default all; see --list")
    parser.add_argument(
        "--quick", action="store_true", help="small loads and one round, to check that every case works"
    )
    parser.add_argument("--rounds", type=int, help="number of interleaved rounds of each case")
    parser.add_argument(
        "--results", type=Path, help="folder for the results; without it a quick run writes nothing"
    )
    parser.add_argument("--list", action="store_true", help="list the cases")
    given = parser.parse_args()
    if given.list:
        print("\n".join(CASES))
        return
    unknown = set(given.case) - set(CASES)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    os.sched_setaffinity(0, {SERVER_CORE})
    logs.configure(LogSettings(level="error"))
    folder_of_results = given.results or (None if given.quick else _RESULTS)
    for name in given.case or CASES:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            environment = machine.describe()
            report = CASES[name](Options(folder=Path(folder), quick=given.quick, rounds=given.rounds))
        if folder_of_results is not None:
            results.write(report, environment, folder_of_results)
        print(*(str(table) for table in report.tables), sep="\n")
        for goal in report.goals:
            print(" | ".join(goal.row))
        print(f"{name}: {time.monotonic() - start:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
