"""`pool` of a limit: limits that name one pool count on the same accounts, so they have to count the same."""

from collections.abc import Mapping, Sequence

from policyd.config.problems import Position, Problems
from policyd.config.section import Section
from policyd.core.policy import Limit

_ALIKE = ("metric", "window", "per", "hold", "action")


class Pools:
    """The pools of a file, as far as it has been read."""

    def __init__(self) -> None:
        self._first: dict[str, Limit] = {}
        self._positions: dict[str, Position] = {}

    def take(self, section: Section, limits: Sequence[Limit]) -> None:
        """Takes the limits that one entry of the file becomes; reports what they count otherwise than the pool."""
        for limit in limits:
            if limit.pool is None:
                continue
            first = self._first.setdefault(limit.pool, limit)
            self._positions.setdefault(limit.pool.partition("/")[0], section["pool"].at)
            for field in _ALIKE:
                if getattr(limit, field) != getattr(first, field):
                    message = f'"{limit.name}" has another {field} than "{first.name}", expected the same in one pool'
                    section.reject("pool", message)

    def report_names_taken(self, limits: Mapping[str, Position], problems: Problems) -> None:
        """Reports pools that are called like a limit: both would name the same accounts."""
        for pool, at in self._positions.items():
            if pool in limits:
                message = f'the limit on line {limits[pool].line} is named "{pool}" too, expected another name'
                problems.add(at, "limits", message)
