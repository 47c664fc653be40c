from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from policyd.stores.base import Store
from policyd.stores.url import open_store

STORES = ("memory", "sqlite")


def store_url(kind: str, folder: Path) -> str:
    match kind:
        case "memory":
            return "memory://"
        case "sqlite":
            return f"sqlite:///{folder / 'store.db'}"
        case _:
            raise AssertionError(kind)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Every store in turn, empty."""
    opened = open_store(store_url(request.param, tmp_path))
    yield opened
    await opened.close()
