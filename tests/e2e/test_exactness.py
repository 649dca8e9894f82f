"""Counters as Prometheus sums them: a real Prometheus scrapes the exporter through kills, stalls and a full disk.

Feeds take a second to open, so that Prometheus scrapes a restarted exporter before it has read its calls again. No
agent is listed before it has a call, so that every series appears while calls are live.
"""

import sys
from pathlib import Path

import pytest

from tests.e2e.prometheus import needs
from tests.soak.disk import SmallDisk, small_disk
from tests.soak.harness import Failed, Outcome, Run, play
from tests.soak.mutations import HOLD_NOTHING, SHOW_COUNTED

pytestmark = pytest.mark.e2e


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def run(
    folder: Path, *, seed: int, kills: int, conversations: int, mutation: str = "", disk: SmallDisk | None = None
) -> Outcome:
    played = Run(
        seed=seed,
        conversations=conversations,
        kills=kills,
        agents=30,
        long_downtimes=1,
        long_downtime_s=3.0,
        prometheus=needs("prometheus"),
        mutation=mutation,
        disk=disk,
    )
    return play(played, folder, say)


def test_prometheus_sees_no_reset_and_exact_sums_through_ten_kills(tmp_path: Path) -> None:
    outcome = run(tmp_path, seed=21, kills=10, conversations=220)
    assert outcome.faults["kills"] + outcome.faults["kills while starting"] == 10
    assert outcome.faults["stalls before a kill"] > 0


def test_prometheus_sees_no_reset_with_a_full_disk_at_start_and_later(tmp_path: Path) -> None:
    try:
        with small_disk(tmp_path / "state", megabytes=4) as disk:
            outcome = run(tmp_path, seed=22, kills=4, conversations=120, disk=disk)
    except PermissionError as denied:
        pytest.skip(f"a disk to fill cannot be mounted: {denied}")
    assert outcome.faults["starts with a full disk"] > 0
    assert outcome.faults["disk full in the middle"] > 0


def test_the_comparison_detects_pages_with_uncommitted_numbers(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"Prometheus saw .* falls"):
        run(tmp_path, seed=5, kills=3, conversations=80, mutation=SHOW_COUNTED)


def test_the_comparison_detects_new_series_that_do_not_start_at_0(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="totals differ"):
        run(tmp_path, seed=5, kills=1, conversations=60, mutation=HOLD_NOTHING)
