"""Shards in PostgreSQL as Prometheus sums them, through faults of processes, of their network and of the engine.

`tests.soak.shards` explains what is played and what must agree.
"""

import os
import random
import sys
from pathlib import Path

import pytest

from tests.e2e.prometheus import needs
from tests.soak.shards import Outcome, Run, defects, play
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


@pytest.mark.parametrize(
    ("defect", "sign"),
    [
        ("show counted", "falls of"),
        ("no relabel rule", "has the instances"),
        ("no epoch check", "falls of"),
    ],
)
async def test_the_comparison_detects(defect: str, sign: str, tmp_path: Path) -> None:
    outcome = await played(defects(needs("prometheus"))[defect], tmp_path)
    assert any(sign in line for line in outcome.wrong)
