"""The proof of `tests.soak` in short: faults, kills and a downtime, and totals that are those of the plan."""

import os
import random
import sys
from pathlib import Path

import pytest

from tests.soak.harness import Run, play

pytestmark = pytest.mark.real


def test_totals_are_those_of_the_plan_whatever_went_wrong(tmp_path: Path) -> None:
    seed = 1 if os.environ.get("CI") else random.randrange(1_000_000)
    run = Run(seed=seed, conversations=150, kills=3, long_downtimes=1, long_downtime_s=4.0)
    say(f"seed {seed}")
    outcome = play(run, tmp_path, say)
    assert 0 < outcome.missed < outcome.conversations
    assert outcome.faults["kills"] + outcome.faults["kills while starting"] == run.kills


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
