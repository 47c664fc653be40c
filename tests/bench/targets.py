"""What policyd is meant to reach, and by how much it does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from tests.bench.samples import Samples, Spread
from tests.bench.tables import Column, Table


class Bound(Enum):
    AT_MOST = "at most"
    AT_LEAST = "at least"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """That a figure of a table is on the right side of a bound, and, if it can be, of a goal beyond it."""

    what: str
    table: str
    row: str
    column: str
    bound: Bound
    value: float
    unit: str = ""
    goal: float | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """A target, and the figure that was measured."""

    target: Target
    column: Column
    spread: Spread

    @property
    def met(self) -> bool:
        return self._reaches(self.target.value)

    @property
    def goal_met(self) -> bool:
        return self.target.goal is not None and self._reaches(self.target.goal)

    @property
    def percent(self) -> float:
        """By how much of the bound the median is better than it, or, below 0, worse."""
        better = self.spread.median - self.target.value
        return (better if self.target.bound is Bound.AT_LEAST else -better) / self.target.value * 100

    @property
    def bound_text(self) -> str:
        """Such as `at most 200 us (goal 110)`."""
        target = self.target
        goal = "" if target.goal is None else f" (goal {target.goal:g})"
        return f"{target.bound.value} {target.value:g} {target.unit}".rstrip() + goal

    @property
    def measured_text(self) -> str:
        """Such as `187 (175-203)`."""
        number, spread = self.column.number, self.spread
        return f"{number(spread.median)} ({number(spread.least)}-{number(spread.most)})"

    def __str__(self) -> str:
        """Such as `missed by 12 %`."""
        goal = ", and so is the goal" if self.goal_met else ""
        return f"{'met' if self.met else 'missed'} by {abs(self.percent):,.0f} %{goal}"

    def _reaches(self, value: float) -> bool:
        median = self.spread.median
        return median >= value if self.target.bound is Bound.AT_LEAST else median <= value


def standings(targets: Iterable[Target], tables: Iterable[Table], samples: Samples) -> Iterator[Standing]:
    """Of those targets whose figure was measured."""
    by_key = {table.key: table for table in tables}
    for target in targets:
        column = by_key[target.table].column(target.column)
        if (spread := column.cell(samples, target.row)) is not None:
            yield Standing(target, column, spread)
