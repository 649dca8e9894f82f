"""Wiring: the long version: ``python -m tests.soak --seed 7 --conversations 2000 --kills 20``.

Without ``--seed`` it draws several seeds and prints them. Exits with 1 at the first difference, and prints its
seed.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from . import mutations
from .harness import Failed, Run, play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Totals against faults and kills.")
    parser.add_argument("--seed", type=int, action="append", help="repeatable; drawn at random by default")
    parser.add_argument("--seeds", type=int, default=2, help="how many to draw")
    parser.add_argument("--conversations", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--prometheus", help="path of a Prometheus that scrapes all the time and must have the same sums"
    )
    parser.add_argument(
        "--logs", type=Path, help="directory for the logs of all processes; a temporary one by default"
    )
    parser.add_argument(
        "--mutations",
        action="store_true",
        help="also play each known defect, which must be found; needs --prometheus",
    )
    given = parser.parse_args()
    if given.mutations and not given.prometheus:
        parser.error("--mutations needs --prometheus")
    for seed in given.seed or [random.randrange(1_000_000) for _ in range(given.seeds)]:
        run = Run(
            seed=seed,
            conversations=given.conversations,
            kills=given.kills,
            agents=30 if given.prometheus else 7,
            prometheus=given.prometheus,
        )
        directory = Path(tempfile.mkdtemp(prefix=f"soak-{seed}-", dir=given.logs))
        say(f"seed {seed}: {run.conversations} conversations, {run.kills} kills, logs in {directory}")
        try:
            outcome = play(run, directory, say)
        except Failed as failed:
            say(f"{failed}")
            say(
                f"FAILED. To repeat it: python -m tests.soak --seed {seed} "
                f"--conversations {run.conversations} --kills {run.kills}"
            )
            return 1
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(outcome.faults.items()) if count)
        say(f"faults: {faults}")
        say(
            f"seed {seed}: {outcome.conversations} conversations, {outcome.missed} of them over before they could "
            f"be watched; {outcome.compared} totals equal, in {outcome.seconds:.0f} s"
        )
    return _mutations(given.prometheus) if given.mutations else 0


def _mutations(prometheus: str) -> int:
    """Play a short run with each defect; return 1 if the comparison misses one."""
    for name, mutation in mutations.ALL.items():
        run = Run(seed=5, conversations=120, kills=4, agents=30, prometheus=prometheus, mutation=mutation)
        try:
            play(run, Path(tempfile.mkdtemp(prefix="soak-mutation-")), say)
        except Failed as failed:
            say(f"defect found, as it must be: {name}: {str(failed).splitlines()[0]}")
        else:
            say(f"FAILED: the defect was not found: {name}")
            return 1
    return 0


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
