"""What all tests share: how hypothesis searches, whom TLS trusts, and logs that stay out of the way."""

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

# No deadlines: the machine may be busy. A developer runs the tests often: few examples, others each time. On CI
# more, and the same every time, so red means red. `--hypothesis-profile=thorough` searches for minutes.
settings.register_profile("developer", deadline=None, max_examples=30)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile("ci" if os.environ.get("CI") else "developer")


# TLS trusts one authority whose key nobody has: the machine's own 140 take 50 ms in each context, of which every
# HTTP client makes one, and decide nothing here.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "data" / "nobody.pem")


@pytest.fixture(scope="module")
def quiet_logs() -> Iterator[None]:
    """Log lines of no interest, thousands of times: left unwritten while a module's tests run."""
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        cache_logger_on_first_use=False,  # or loggers that are first used meanwhile stay quiet for good
    )
    yield
    structlog.configure(**before)


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """What a test configures about logs, as every command does, ends with it."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def calm_collector() -> Iterator[None]:
    """Keep what other tests have made out of the garbage collector, as a running exporter does at its start:
    a collection that walks all of it would count as a step of the part under test.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
