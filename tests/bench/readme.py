"""The README's section of figures: `make bench ARGS=--readme` writes it anew."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.bench.plan import COMPARED_AT
from tests.bench.report import Report
from tests.bench.tables import Column, Table

README: Final = Path(__file__).parents[2] / "README.md"

BEGIN: Final = "<!-- The figures up to the end mark are written by: make bench PEERS=1 ARGS=--readme -->\n"
END: Final = "<!-- end of the figures -->\n"

LINE_CHARACTERS_MAX: Final = 120

COLUMNS: Final = (
    ("requests", "per_second_at_16", "requests/s"),
    ("requests", "to_floor", "x floor"),
    ("requests", "to_envoy_alone", "x Envoy alone"),
    ("requests", "p50_ms", "p50 ms"),
    ("requests", "added_p50_ms", "added p50, ms at 1"),
    ("requests", "server_cpu_us", "server CPU, us a request"),
    ("streams", "server_cpu_us", "us a streamed chunk"),
)
"""What the README shows of each arrangement: a table's column, and what it is called there."""


def with_figures(text: str, report: Report) -> str:
    """The README's `text` with the figures of a run. Raises `ValueError` if it has no place for them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README has no lines {BEGIN.strip()} and {END.strip()}")
    return "".join((before, begin, "\n", figures(report), "\n", end, after))


def figures(report: Report) -> str:
    tables = {table.key: table for table in report.tables}
    blocks = (_about(report), _markdown(_arrangements(tables["requests"], tables["streams"], report)), _targets(report))
    return "\n\n".join(blocks) + "\n"


def _about(report: Report) -> str:
    about = report.about()
    return textwrap.fill(
        f"Measured on {about['on']}; {about['of']}; load by {about['load by']}; medians of {report.plan.rounds} "
        f"interleaved rounds, {COMPARED_AT} requests at once, with the least and the most:",
        width=LINE_CHARACTERS_MAX,
    )


def _arrangements(requests: Table, streams: Table, report: Report) -> Iterator[Sequence[str]]:
    tables = {table.key: table for table in (requests, streams)}
    columns = [tables[key].column(column) for key, column, _ in COLUMNS]
    yield ["arrangement", *(name for _, _, name in COLUMNS)]
    for row in requests.rows:
        yield [row, *(_cell(column, report, row) for column in columns)]


def _cell(column: Column, report: Report, row: str) -> str:
    spread = column.cell(report.samples, row)
    if spread is None:
        return "-"
    return f"{column.number(spread.median)} ({column.number(spread.least)}-{column.number(spread.most)})"


def _targets(report: Report) -> str:
    lines = [["target", "", "measured", ""]]
    lines += [[each.target.what, each.bound_text, each.measured_text, str(each)] for each in report.standings()]
    return _markdown(lines)


def _markdown(lines: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    heading, *rows = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, ["---"] * len(heading), *rows))
