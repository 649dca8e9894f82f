"""Short runs of `tests.soak`: totals as planned, and no growth, in spite of faults."""

import os
import random
import sys
from pathlib import Path

import pytest

from tests.attacks import ATTACKS
from tests.soak.everything import Plan, soak
from tests.soak.harness import Run, play

pytestmark = pytest.mark.e2e


def test_totals_are_those_of_the_plan_in_spite_of_faults(tmp_path: Path) -> None:
    seed = 1 if os.environ.get("CI") else random.randrange(1_000_000)
    run = Run(seed=seed, conversations=150, kills=3, long_downtimes=1, long_downtime_s=4.0)
    say(f"seed {seed}")
    outcome = play(run, tmp_path, say)
    assert 0 < outcome.missed < outcome.conversations
    assert outcome.faults["kills"] + outcome.faults["kills while starting"] == run.kills


def test_nothing_grows_crashes_or_goes_unanswered_with_everything_at_once(tmp_path: Path) -> None:
    outcome = soak(Plan(seconds=50, live=40, sample_s=1.0), tmp_path, say)
    say(outcome.table())
    assert outcome.wrong == []
    assert len(outcome.samples) > 20
    assert max(each.live for each in outcome.samples) > 10
    assert 0 < outcome.done["attacks"] <= len(ATTACKS)
    assert all(
        outcome.done[each] for each in ("scrapes", "rewritten files", "hangups", "sent garbage", "sent cut")
    )


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
