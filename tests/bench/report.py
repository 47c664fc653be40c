"""A run as text for people and as JSON for programs; both say the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from tests.bench.plan import Plan
from tests.bench.run import Outcome
from tests.bench.samples import Samples, Spread
from tests.bench.tables import Column, Table
from tests.bench.targets import Standing, standings

_GAP = "  "


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    started_at: str
    """ISO 8601, UTC."""
    machine: Mapping[str, str | float]
    versions: Mapping[str, str]
    outcome: Outcome

    @property
    def tables(self) -> Sequence[Table]:
        """Those that have a figure."""
        tables = (table for part in self.outcome.parts for table in part.tables)
        return [table for table in tables if table.measured(self.samples)]

    @property
    def samples(self) -> Samples:
        return self.outcome.samples

    @property
    def plan(self) -> Plan:
        return self.outcome.plan

    def standings(self) -> Iterator[Standing]:
        targets = (target for part in self.outcome.parts for target in part.targets)
        tables = (table for part in self.outcome.parts for table in part.tables)
        return standings(targets, tables, self.samples)

    def as_json(self) -> bytes:
        """Medians with their spread, and every sample that they were made of."""
        told = {
            "started_at": self.started_at,
            "machine": self.machine,
            "versions": self.versions,
            "plan": self.plan,
            "generator": self.outcome.generator,
            "tables": {table.key: _cells(table, self.samples) for table in self.tables},
            "targets": [
                {"what": each.target.what, "met": each.met, "percent": each.percent, "measured": each.spread}
                for each in self.standings()
            ],
            "samples": self.samples.all,
        }
        return msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n"

    def as_text(self) -> str:
        about = "\n".join(f"{label:<9}{text}" for label, text in self.about().items())
        texts = [_text(table, self.samples) for table in self.tables]
        return "\n\n".join((about, *texts, *_targets(list(self.standings())))) + "\n"

    def about(self) -> Mapping[str, str]:
        machine = self.machine
        return {
            "at": self.started_at,
            "on": f"{machine['processor']}, {machine['cpus']} CPUs, {machine['system']}, load {machine['load']} before",
            "of": ", ".join(f"{name} {version}" for name, version in self.versions.items()),
            "load by": self.outcome.generator,
            "figures": f"medians of {self.plan.rounds} rounds, under them the least and the most; "
            "ratios and differences are taken within a round",
        }


def _cells(table: Table, samples: Samples) -> Mapping[str, Mapping[str, Spread | None]]:
    return {row: {column.key: column.cell(samples, row) for column in table.columns} for row in table.rows}


def _text(table: Table, samples: Samples) -> str:
    lines = [[first, *(column.heading[line] for column in table.columns)] for line, first in enumerate(table.title)]
    measured = {row for row, _, _ in table.cells(samples)}
    for row in (each for each in table.rows if each in measured):
        cells = [(column, column.cell(samples, row)) for column in table.columns]
        lines.append([row, *(_median(column, spread) for column, spread in cells)])
        lines.append(["", *(_extremes(column, spread) for column, spread in cells)])
    return _aligned(lines)


def _targets(standings: Sequence[Standing]) -> Iterator[str]:
    if not standings:
        return
    rows = ([each.target.what, each.bound_text, each.measured_text, str(each)] for each in standings)
    yield _aligned([["Targets", "", "measured", ""], *rows])


def _median(column: Column, spread: Spread | None) -> str:
    return "-" if spread is None else column.number(spread.median)


def _extremes(column: Column, spread: Spread | None) -> str:
    return "" if spread is None else f"{column.number(spread.least)}-{column.number(spread.most)}"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        _GAP.join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]).rstrip() for first, *others in lines
    )
