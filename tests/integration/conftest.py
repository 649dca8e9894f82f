"""Tests of the parts that meet the outside, each by itself: sockets, the state file, the command line."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # some tests run without psycopg
    from tests.storages import Place


@pytest.fixture(params=["file", "shard"])
def new_place(request: pytest.FixtureRequest) -> "Iterator[Callable[[], Place]]":
    """Make a place for the state that holds nothing: a file, or a shard of the same database each time."""
    from tests.storages import ShardPlace, new_file

    database = request.getfixturevalue("database") if request.param == "shard" else None
    made: list[Place] = []

    def make() -> "Place":
        made.append(new_file() if database is None else ShardPlace(database))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def place(new_place: "Callable[[], Place]") -> "Place":
    """A place for the state that holds nothing."""
    return new_place()
