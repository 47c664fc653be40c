"""Whether policyd got worse: a short run's ratios against those that are committed in `tests/bench_baseline.json`.

Only ratios to something measured in the same round are compared, never times: they are much the same on every machine.
How far they scatter without any change was measured too, by whole runs one after the other, each with processes of its
own, and makes the tolerance. What looks worse is measured a second time, and counts if it is worse again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from tests.bench.part import Part
from tests.bench.samples import Samples, Spread
from tests.bench.tables import Column, Table

FILE: Final = Path(__file__).parents[1] / "bench_baseline.json"

RUNS: Final = 3
"""How many runs a baseline is made of."""

SCATTERS: Final = 2
"""How many times what those runs scattered by is tolerated: so few do not show the whole of it."""

TOLERANCE_MIN: Final = 0.1
"""What a ratio may get worse by at least, however little the runs scattered."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio as it was: how it may differ is a share of it."""

    median: float
    tolerance: float

    @classmethod
    def of(cls, medians: Sequence[float]) -> Self:
        """From those of several runs."""
        spread = Spread.of(medians)
        scatter = SCATTERS * (spread.most - spread.least) / spread.median
        return cls(round(spread.median, 4), round(max(TOLERANCE_MIN, scatter), 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    machine: Mapping[str, str | float]
    versions: Mapping[str, str]
    ratios: Mapping[str, Ratio]
    """By `name`."""

    @classmethod
    def load(cls) -> Self:
        """Raises `OSError`, `msgspec.ValidationError`."""
        return msgspec.json.decode(FILE.read_bytes(), type=cls)

    def save(self) -> None:
        FILE.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Worse:
    """A ratio that is worse than the baseline's by more than its tolerance."""

    name: str
    part: Part
    was: Ratio
    now: float
    percent: float
    """By how much it got worse."""

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.now:.3g}, was {self.was.median:.3g}: "
            f"worse by {self.percent:.0f} %, tolerated {self.was.tolerance * 100:.0f} %"
        )


def watched(parts: Iterable[Part], samples: Samples) -> Iterator[tuple[str, Part, Column, Spread]]:
    """Every ratio that is compared, by its name."""
    for part in parts:
        for table in part.tables:
            for row, column, spread in table.cells(samples):
                if column.watched and row not in table.yardsticks:
                    yield name(table, row, column), part, column, spread


def name(table: Table, row: str, column: Column) -> str:
    return f"{table.key} | {row} | {' '.join(column.heading)}"


def ratios(parts: Sequence[Part], runs: Sequence[Samples]) -> Mapping[str, Ratio]:
    """Those that every run measured."""
    medians = [{name: spread.median for name, _, _, spread in watched(parts, samples)} for samples in runs]
    return {
        name: Ratio.of([run[name] for run in medians]) for name in medians[0] if all(name in run for run in medians)
    }


def worse(baseline: Baseline, parts: Iterable[Part], samples: Samples) -> Iterator[Worse]:
    """What got worse; ratios that the baseline does not have are passed over."""
    for ratio, part, column, spread in watched(parts, samples):
        was = baseline.ratios.get(ratio)
        if was is None:
            continue
        grown = spread.median / was.median
        change = (1 / grown if column.figure.more_is_better else grown) - 1
        if change > was.tolerance:
            yield Worse(name=ratio, part=part, was=was, now=spread.median, percent=change * 100)


def worse_again(
    baseline: Baseline, parts: Sequence[Part], measure: Callable[[Sequence[Part]], Samples]
) -> tuple[Sequence[Worse], int]:
    """What is worse in two runs of `measure`, of which the second has only the suspects' parts; and how many ratios
    were compared."""
    samples = measure(parts)
    compared = sum(name in baseline.ratios for name, _, _, _ in watched(parts, samples))
    suspects = {each.name: each.part for each in worse(baseline, parts, samples)}
    if not suspects:
        return (), compared
    again = [part for part in parts if part in suspects.values()]
    return [each for each in worse(baseline, again, measure(again)) if each.name in suspects], compared
