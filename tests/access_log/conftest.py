from __future__ import annotations

import pytest

from tests.builders import COUNTER, World, published_prices


@pytest.fixture(scope="session", autouse=True)
def loaded() -> None:
    """Vocabularies and prices are loaded once, and not on the time of whichever test comes first."""
    COUNTER.preload()
    published_prices()


@pytest.fixture
def world() -> World:
    """An enforcer with 10 USD for everybody, over an empty store."""
    return World()
