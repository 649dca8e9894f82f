"""Open files: as many as are needed are asked for, and what the system has to give is what one gets."""

import resource
from collections.abc import Iterator

import pytest

from exporter.filelimit import allow_files, files_for_feeds


def soft() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@pytest.fixture
def hard() -> Iterator[int]:
    """A process that may open 200 files; the limit that it may ask for."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] == resource.RLIM_INFINITY:
        pytest.skip("this system calls the limit infinite, and what it then gives is its own affair")
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_is_wanted_is_allowed_within_the_hard_limit(hard: int) -> None:
    assert hard > 300
    assert allow_files(300) == soft() == 300


def test_more_than_the_hard_limit_gets_the_hard_limit(hard: int) -> None:
    assert allow_files(hard + 1) == soft() == hard


@pytest.mark.usefixtures("hard")
def test_a_higher_limit_is_left_alone() -> None:
    assert allow_files(100) == soft() == 200


@pytest.mark.parametrize(
    ("allowed", "feeds"), [(5500, 5000), (1024, 524), (1000, 500), (500, 250), (128, 64), (80, 16), (20, 1)]
)
def test_others_keep_their_share_where_files_are_few(allowed: int, feeds: int) -> None:
    assert files_for_feeds(allowed, others=500) == feeds
