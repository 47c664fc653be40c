"""Every scenario of this folder, on every store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from policyd.stores.base import Store
from policyd.stores.url import open_store
from tests.policy.language import load_scenario, play

SCENARIOS = sorted(Path(__file__).parent.glob("*.yaml"))


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened = open_store("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/store.db")
    yield opened
    await opened.close()


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
async def test_scenario(path: Path, store: Store) -> None:
    await play(load_scenario(path), store)
