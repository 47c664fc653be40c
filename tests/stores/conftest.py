from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from policyd.stores.base import Store
from policyd.stores.url import open_store
from tests.stores.redis_server import VALKEY_EXECUTABLE, running, running_cluster

STORES = ("memory", "sqlite", "redis", "redis-cluster", "valkey")

StoreUrl = Callable[[str, Path], str]
"""The URL of an empty store: of which kind, and where it may put files."""


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield f"redis://{server.address}/3"


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("valkey"), executable=VALKEY_EXECUTABLE) as server:
        yield f"redis://{server.address}/3"


@pytest.fixture(scope="session")
def redis_cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_cluster(tmp_path_factory.mktemp("redis-cluster")) as servers:
        yield f"redis+cluster://{servers[0].address},{servers[1].address}"


@pytest.fixture(scope="session")
def store_url(request: pytest.FixtureRequest) -> StoreUrl:
    prefixes = (f"test{number}:" for number in count())

    def url(kind: str, folder: Path) -> str:
        match kind:
            case "memory":
                return "memory://"
            case "sqlite":
                return f"sqlite:///{folder / 'store.db'}"
            case "redis" | "redis-cluster" | "valkey":
                # Started when it is first asked for. Stores with different prefixes know nothing of each other.
                server_url = request.getfixturevalue(f"{kind.replace('-', '_')}_url")
                return f"{server_url}?prefix={next(prefixes)}&timeout=20s&connect_timeout=20s"
            case _:
                raise AssertionError(kind)

    return url


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, store_url: StoreUrl, tmp_path: Path) -> AsyncIterator[Store]:
    """Every store in turn, empty."""
    opened = open_store(store_url(request.param, tmp_path))
    yield opened
    await opened.close()
