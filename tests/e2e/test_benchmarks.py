"""The benchmarks with real exporters: all variants count the same."""

from pathlib import Path

import pytest

from benchmarks.cases import updates
from benchmarks.load import Load
from benchmarks.options import Options

pytestmark = pytest.mark.e2e


def test_variants_count_the_same_on_a_tiny_load(tmp_path: Path) -> None:
    load = Load(conversations=5, turns=12, updates=12, non_ascii=True)
    rounds = updates.play(load, updates.saturated, Options(folder=tmp_path), 1)
    assert [[cost.updates for cost in rounds[variant]] for variant in updates.VARIANTS] == [[60], [60], [60]]
