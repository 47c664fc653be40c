"""What has to be looked at once a time has come."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush


class Agenda:
    """Names by the time that they are due. None is taken off before that: who takes it sees whether it still is."""

    def __init__(self) -> None:
        self._names: dict[int, list[str]] = {}
        self._times_ms: list[int] = []  # a heap: many names are due at one time, such as the end of a month

    def add(self, at_ms: int, name: str) -> None:
        names = self._names.get(at_ms)
        if names is None:
            self._names[at_ms] = [name]
            heappush(self._times_ms, at_ms)
        else:
            names.append(name)

    def take(self, *, before_ms: int) -> Iterator[str]:
        """Takes off the names that are due before then, the earliest first."""
        while self._times_ms and self._times_ms[0] < before_ms:
            yield from self._names.pop(heappop(self._times_ms))
