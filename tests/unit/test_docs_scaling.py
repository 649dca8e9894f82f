"""docs/scaling.md: its tables are the arithmetic, and that rests on what code and benchmarks say."""

import json
import re
from pathlib import Path

import pytest

from docs import scaling
from docs.markdown import rewritten
from docs.scaling import Assumptions, Needs, largest_organisation
from exporter.phonic.rest import LARGEST_PAGE
from exporter.settings import flag_table
from exporter.state.statements import MOST_EXPIRED
from exporter.watch import sweep

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
ASSUMED = Assumptions()
ROWS = {row.key: row for row in flag_table()}


def test_the_tables_are_what_the_arithmetic_gives() -> None:
    assert rewritten(PAGE, scaling.parts()) == PAGE, "run `make docs`"


def test_measured_assumptions_are_those_of_the_benchmark() -> None:
    results = json.loads((ROOT / "benchmarks/results/capacity.json").read_text(encoding="utf-8"))["data"]
    assert ASSUMED.cores == pytest.approx(results["share of a core, %"] / 100, abs=0.01)
    assert ASSUMED.memory_mb == pytest.approx(results["resident MB"], abs=1)


def test_constants_are_those_of_the_code() -> None:
    assert ASSUMED.overlap == sweep.OVERLAP
    assert ASSUMED.page_rows == LARGEST_PAGE
    assert ASSUMED.calls_of_shard == int(ROWS["watch.limit"].default)
    assert f"{sweep.MAX_PAGES * LARGEST_PAGE:,} rows" in PAGE
    assert f"at most {MOST_EXPIRED:,} rows in a statement" in PAGE
    shards = ROWS["shard.count"].allowed
    assert shards is not None
    assert f"that can be set is {shards[1]:,}" in PAGE


def test_the_text_says_where_an_organisation_ends_as_the_table_does() -> None:
    calls = round(largest_organisation(), -3)
    assert calls in scaling.SHOWN
    assert re.search(rf"at about {calls:,}\s+concurrent calls", PAGE)
    assert Needs(calls=largest_organisation()).organisations == 1
    assert Needs(calls=largest_organisation() + 100).organisations == 2


def test_needs_grow_with_the_calls_and_a_spare_is_always_there() -> None:
    small, large = Needs(calls=100), Needs(calls=1_000_000)
    assert (small.shards, small.spares) == (1, 1)
    assert (large.shards, large.spares) == (200, 20)
    assert large.requests == pytest.approx(10_000 * small.requests)
