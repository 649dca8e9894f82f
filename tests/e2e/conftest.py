"""Fixtures and order of the end-to-end tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.programs import STUCK_SECONDS

_LAST = "test_dashboards_live.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the scenarios of the dashboards last: beside them are then tests without other programs, which disturb
    them least, and no test of kills, which would take three times as long.
    """
    here = Path(__file__).parent
    items.sort(key=lambda item: (item.path.parent != here, item.path.name == _LAST and item.path.parent == here))


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=STUCK_SECONDS) as client:
        yield client
