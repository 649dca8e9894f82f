"""Shards in PostgreSQL as Prometheus sums them, through faults of processes, of their network and of the engine.

`tests.soak.shards` explains what is played and what must agree.
"""

import os
import random
import sys
from pathlib import Path

import pytest

from tests.e2e.prometheus import needs
from tests.soak.shards import Outcome, Run, defect_signs, defects, play
from tests.soak.troubles import FAULTS, RESHARDING

pytestmark = pytest.mark.e2e


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


async def played(run: Run, folder: Path) -> Outcome:
    outcome = await play(run, folder, say)
    say(outcome.table())
    return outcome


async def test_engine_prometheus_and_plan_agree_through_all_faults(tmp_path: Path) -> None:
    seed = 1 if os.environ.get("CI") else random.randrange(1_000_000)
    say(f"seed {seed}")
    outcome = await played(Run(seed=seed, prometheus=needs("prometheus")), tmp_path)
    assert outcome.wrong == []
    assert {kind.value for kind in (*FAULTS, *RESHARDING)} <= outcome.faults.keys()
    assert outcome.take_overs
    assert outcome.hand_overs
    assert {"200", "by a standby", "held", "draining"} <= outcome.answers.keys()
    assert outcome.compared > 500


async def test_the_comparison_detects_writes_that_do_not_check_the_epoch(tmp_path: Path) -> None:
    """The other defects take another two minutes; ``make soak`` plays them all."""
    name = "no epoch check"
    outcome = await played(defects(needs("prometheus"))[name], tmp_path)
    assert defect_signs(name, outcome)
