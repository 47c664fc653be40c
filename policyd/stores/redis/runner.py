"""Runs scripts on shards, and keeps count of the calls under way, so that closing can wait for them."""

from __future__ import annotations

import asyncio
from types import TracebackType

import hiredis

from policyd.core.errors import StoreUnavailable
from policyd.stores.redis.connection import Argument, Reply
from policyd.stores.redis.nodes import Nodes
from policyd.stores.redis.scripts import script
from policyd.stores.redis.shards import Shard


class Runner:
    """Runs scripts on `nodes`."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    async def run(self, name: str, shard: Shard, *arguments: Argument) -> Reply:
        """Runs `lua/NAME.lua` on `shard`. Raises `StoreUnavailable`, `StoreError`."""
        operation = script(name)
        try:
            return await self._nodes.call(shard, "EVALSHA", operation.digest, 1, shard.base, *arguments)
        except hiredis.ReplyError:  # NOSCRIPT, the only one that comes this far
            return await self._nodes.call(shard, "EVAL", operation.text, 1, shard.base, *arguments)

    async def ping(self, shard: Shard) -> None:
        await self._nodes.call(shard, "PING")

    async def close(self) -> None:
        await self._nodes.close()


class Gate:
    """`with gate:` around all that one call does. Raises `StoreUnavailable` once the gate is closed."""

    def __init__(self) -> None:
        self._closed = False
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def __enter__(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        self._inside += 1
        self._empty.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside -= 1
        if not self._inside:
            self._empty.set()

    async def close(self) -> None:
        """Returns once all that were inside are done."""
        self._closed = True
        await self._empty.wait()
