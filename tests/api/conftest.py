from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from policyd.core.policy import Limit
from policyd.stores.base import Store
from policyd.stores.url import open_store
from tests.api.serving import Api, limit, serving


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Each store in turn, empty."""
    opened = open_store("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/store.db")
    yield opened
    await opened.close()


@pytest.fixture
def limits() -> tuple[Limit, ...]:
    """The policy's limits: 10 USD a project. Tests override it."""
    return (limit(amount=10_000_000_000),)


@pytest.fixture
async def api(store: Store, limits: tuple[Limit, ...]) -> AsyncIterator[Api]:
    async with serving(store, *limits) as running:
        yield running
