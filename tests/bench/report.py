"""A run as text for people and as JSON for programs; both say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from tests.bench.plan import COMPARED_AT, Plan
from tests.bench.run import Outcome
from tests.bench.samples import Spread
from tests.bench.tables import TABLES, Column, Table

_GAP = "  "


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    started_at: str
    """ISO 8601, UTC."""
    machine: Mapping[str, str | float]
    versions: Mapping[str, str]
    plan: Plan
    outcome: Outcome

    def as_json(self) -> bytes:
        """Medians with their spread, and every sample that they were made of."""
        outcome = self.outcome
        told = {
            "started_at": self.started_at,
            "machine": self.machine,
            "versions": self.versions,
            "plan": self.plan,
            "generator": outcome.generator,
            "requests_per_second_without_envoy": outcome.ceiling.per_second,
            **{table.key: _cells(table, outcome) for table in TABLES},
            "samples": outcome.samples.all,
        }
        return msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n"

    def as_text(self) -> str:
        about = "\n".join(f"{label:<9}{text}" for label, text in self._about().items())
        return "\n\n".join((about, *(_text(table, self.outcome) for table in TABLES))) + "\n"

    def _about(self) -> Mapping[str, str]:
        machine, ceiling = self.machine, f"{self.outcome.ceiling.per_second:,.0f} req/s at {COMPARED_AT}"
        return {
            "at": self.started_at,
            "on": f"{machine['processor']}, {machine['cpus']} CPUs, {machine['system']}, load {machine['load']} before",
            "of": ", ".join(f"{name} {version}" for name, version in self.versions.items()),
            "load by": f"{self.outcome.generator}; straight to the provider it gets {ceiling}",
            "figures": f"medians of {self.plan.rounds} rounds, under them the least and the most; "
            "ratios and differences are taken within a round",
        }


def _cells(table: Table, outcome: Outcome) -> Mapping[str, Mapping[str, Spread | None]]:
    return {row: {column.key: column.cell(outcome.samples, row) for column in table.columns} for row in table.rows}


def _text(table: Table, outcome: Outcome) -> str:
    lines = [[first, *(column.heading[line] for column in table.columns)] for line, first in enumerate(table.title)]
    for row in table.rows:
        cells = [(column, column.cell(outcome.samples, row)) for column in table.columns]
        lines.append([row, *(_median(column, spread) for column, spread in cells)])
        lines.append(["", *(_extremes(column, spread) for column, spread in cells)])
    return _aligned(lines)


def _median(column: Column, spread: Spread | None) -> str:
    return "-" if spread is None else _number(spread.median, column)


def _extremes(column: Column, spread: Spread | None) -> str:
    return "" if spread is None else f"{_number(spread.least, column)}-{_number(spread.most, column)}"


def _number(value: float, column: Column) -> str:
    return f"{value:,.{column.decimals}f}"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        _GAP.join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]).rstrip() for first, *others in lines
    )
