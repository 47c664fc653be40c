"""Stores that are slow or fail, put between an enforcer and a real one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from policyd.core.errors import StoreUnavailable
from policyd.stores.base import Store


class Turnstile:
    """Lets what passes go on one step at a time: a test waits until something stands at it, then opens it."""

    def __init__(self) -> None:
        self.passed = 0
        self._arrived = asyncio.Event()
        self._open: asyncio.Event | None = None

    async def pass_through(self) -> None:
        """Waits here until it is opened, every time."""
        self.passed += 1
        self._open = asyncio.Event()
        self._arrived.set()
        await self._open.wait()

    async def arrival(self) -> None:
        """Waits until something stands here."""
        await self._arrived.wait()
        self._arrived.clear()

    def open(self) -> None:
        """Lets go on what stands here, if anything does."""
        if self._open is not None:
            self._open.set()


@dataclass
class SlowStore:
    """A store each of whose calls waits at a turnstile, before it takes effect or after it."""

    inner: Store
    turnstile: Turnstile
    waits_before: bool

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        call = getattr(self.inner, name)

        async def slow(*arguments: Any, **keywords: Any) -> Any:
            if self.waits_before:
                await self.turnstile.pass_through()
            result = await call(*arguments, **keywords)
            if not self.waits_before:
                await self.turnstile.pass_through()
            return result

        return slow


def slow(turnstile: Turnstile, *, waits_before: bool) -> Callable[[Store], Store]:
    return lambda store: SlowStore(store, turnstile, waits_before)  # type: ignore[return-value]


@dataclass
class FailingStore:
    """A store one of whose operations fails: without an effect, or after it."""

    inner: Store
    operation: str
    after: bool
    error: Exception

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        call = getattr(self.inner, name)

        async def failing(*arguments: Any, **keywords: Any) -> Any:
            if name != self.operation:
                return await call(*arguments, **keywords)
            if self.after:
                await call(*arguments, **keywords)
            raise self.error

        return failing


def failing(operation: str, *, after: bool = False, error: Exception | None = None) -> Callable[[Store], Store]:
    cause = error or StoreUnavailable("the disk is full")
    return lambda store: FailingStore(store, operation, after, cause)  # type: ignore[return-value]
