"""Fixtures of the end-to-end tests."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.e2e.programs import STUCK_SECONDS


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=STUCK_SECONDS) as client:
        yield client
