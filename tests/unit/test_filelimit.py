"""The limit of open files: raised as far as needed and allowed."""

import resource
from collections.abc import Iterator

import pytest

from exporter.filelimit import allow_files, files_for_feeds


def soft() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@pytest.fixture
def hard() -> Iterator[int]:
    """Limit the process to 200 open files; yield the hard limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] == resource.RLIM_INFINITY:
        pytest.skip("the hard limit is infinite, so the result depends on the system")
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_limit_is_raised_within_the_hard_limit(hard: int) -> None:
    assert hard > 300
    assert allow_files(300) == soft() == 300


def test_limit_is_raised_at_most_to_the_hard_limit(hard: int) -> None:
    assert allow_files(hard + 1) == soft() == hard


@pytest.mark.usefixtures("hard")
def test_a_higher_limit_stays() -> None:
    assert allow_files(100) == soft() == 200


@pytest.mark.parametrize(
    ("allowed", "feeds"), [(5500, 5000), (1024, 524), (1000, 500), (500, 250), (128, 64), (80, 16), (20, 1)]
)
def test_other_uses_keep_a_reserve_if_few_files_are_allowed(allowed: int, feeds: int) -> None:
    assert files_for_feeds(allowed, others=500) == feeds
