"""When windows that start at first use began: asked of the store once, then remembered.

A window under way keeps its beginning until it ends, whatever happens, so what one process remembers is what all others
would be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from policyd.core.limits import NONE_BEGUN, FirstUse

WINDOWS_KEPT_MAX = 100_000
"""How many windows are remembered, about 20 MB; those asked for first are forgotten first."""


class BeginWindow(Protocol):
    """`Store.begin_window`."""

    async def __call__(self, key: str, *, now_ms: int, length_ms: int, begin: bool) -> int | None: ...


class FirstUseWindows:
    def __init__(self, begin_window: BeginWindow) -> None:
        self._begin_window = begin_window
        self._begun: dict[str, int] = {}

    async def begun(self, wanted: Sequence[FirstUse], *, now_ms: int, begin: bool) -> Mapping[str, int]:
        """The beginnings of the windows of `wanted` that contain `now_ms`, by their keys.

        One that has not begun begins now in the store if `begin`, else it is left out. Raises `StoreError`s.
        """
        if not wanted:
            return NONE_BEGUN
        found = {each.key: await self._starts_at_ms(each, now_ms=now_ms, begin=begin) for each in wanted}
        return {key: starts_at_ms for key, starts_at_ms in found.items() if starts_at_ms is not None}

    async def _starts_at_ms(self, window: FirstUse, *, now_ms: int, begin: bool) -> int | None:
        remembered = self._begun.get(window.key)
        if remembered is not None and now_ms < remembered + window.length_ms:
            return remembered
        starts_at_ms = await self._begin_window(window.key, now_ms=now_ms, length_ms=window.length_ms, begin=begin)
        if starts_at_ms is not None:
            self._remember(window.key, starts_at_ms)
        return starts_at_ms

    def _remember(self, key: str, starts_at_ms: int) -> None:
        self._begun.pop(key, None)
        while len(self._begun) >= WINDOWS_KEPT_MAX:
            del self._begun[next(iter(self._begun))]
        self._begun[key] = starts_at_ms
