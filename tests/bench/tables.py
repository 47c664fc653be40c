"""What is shown of the samples: tables of rows and columns, each cell a figure with its spread over the rounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from tests.bench.samples import Figure, Samples, Spread

Heading = tuple[str, str]
"""Two lines."""


class Show(Enum):
    """What of a row's figure is shown."""

    ITSELF = auto()
    RATIO = auto()
    """To that of another row."""
    DIFFERENCE = auto()
    """From that of another row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    key: str
    heading: Heading
    workload: str
    figure: Figure
    show: Show = Show.ITSELF
    to: str | Mapping[str, str] = ""
    """The row that all others are compared with, or the one for each."""
    decimals: int = 0
    watched: bool = False
    """Whether `make bench-check` fails when this ratio gets worse."""

    def cell(self, samples: Samples, row: str) -> Spread | None:
        """The figure of a row; `None` where that row has none."""
        to = self.to if isinstance(self.to, str) else self.to.get(row, "")
        match self.show:
            case Show.ITSELF:
                return samples.spread(self.workload, row, self.figure)
            case Show.RATIO:
                return samples.ratio(self.workload, row, self.figure, to=to)
            case Show.DIFFERENCE:
                return samples.difference(self.workload, row, self.figure, to=to)

    def number(self, value: float) -> str:
        return f"{value:,.{self.decimals}f}"


def itself(key: str, heading: Heading, workload: str, figure: Figure, *, decimals: int = 0) -> Column:
    return Column(key=key, heading=heading, workload=workload, figure=figure, decimals=decimals)


def ratio(
    key: str,
    heading: Heading,
    workload: str,
    figure: Figure,
    *,
    to: str | Mapping[str, str],
    decimals: int = 2,
    watched: bool = True,
) -> Column:
    return Column(
        key=key,
        heading=heading,
        workload=workload,
        figure=figure,
        show=Show.RATIO,
        to=to,
        decimals=decimals,
        watched=watched,
    )


def added(
    key: str,
    heading: Heading,
    workload: str,
    figure: Figure,
    *,
    to: str | Mapping[str, str],
    decimals: int = 0,
) -> Column:
    return Column(
        key=key, heading=heading, workload=workload, figure=figure, show=Show.DIFFERENCE, to=to, decimals=decimals
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    key: str
    title: Heading
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    yardsticks: tuple[str, ...] = ()
    """Rows that others are compared with. How they do among themselves is none of policyd's doing."""

    def column(self, key: str) -> Column:
        """Raises `StopIteration` if there is none."""
        return next(column for column in self.columns if column.key == key)

    def cells(self, samples: Samples) -> Iterator[tuple[str, Column, Spread]]:
        """Every cell that has a figure, row by row."""
        for row in self.rows:
            for column in self.columns:
                if (spread := column.cell(samples, row)) is not None:
                    yield row, column, spread

    def measured(self, samples: Samples) -> bool:
        return any(True for _ in self.cells(samples))
