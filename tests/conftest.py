"""Fixtures and settings of all tests: hypothesis profiles, trusted certificates, logging."""

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import settings

if TYPE_CHECKING:  # some fast tests run without psycopg
    from tests.postgres import Database, Postgres

# No deadlines, because the machine may be busy. Developers run the tests often, so they get few examples,
# different ones each time. CI gets more, always the same, so that failures are reproducible.
# `--hypothesis-profile=thorough` searches for minutes.
settings.register_profile("developer", deadline=None, max_examples=30)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile("ci" if os.environ.get("CI") else "developer")


# Trust a single authority, which is used for no certificate: loading the system's authorities takes 50 ms for each
# TLS context, and every HTTP client makes one.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "data" / "unused_authority.pem")


@pytest.fixture(scope="module")
def quiet_logs() -> Iterator[None]:
    """Suppress logs while the tests of a module run that would log thousands of lines."""
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        cache_logger_on_first_use=False,  # else loggers first used meanwhile would stay quiet
    )
    yield
    structlog.configure(**before)


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """Restore the configuration of logging after each test, because every command changes it."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def calm_collector() -> Iterator[None]:
    """Exclude the objects of other tests from garbage collection, as the exporter does at its start: otherwise a
    collection that visits them would count as a step of the code under test.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def postgres() -> "Iterator[Postgres]":
    """A PostgreSQL for all tests that need one. A test that stops its server runs one of its own."""
    from tests.postgres import running

    with running() as server:
        yield server


@pytest.fixture
def database(postgres: "Postgres", tmp_path: Path) -> "Iterator[Database]":
    """An empty database, which is dropped after the test."""
    from tests.postgres import fresh_database

    with fresh_database(postgres, tmp_path) as fresh:
        yield fresh
