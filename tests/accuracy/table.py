"""The figures of all exchanges as one table, by wire format, and every miss with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.accuracy.measured import Measured, Miss, Number

FLOORS_PERMILLE = {Number.USAGE: 1000, Number.PRICE: 1000, Number.COUNT: 980, Number.HOLD: 999}
"""The least share of exchanges, of 1,000, for which a number has to be right; excused misses aside."""

RARE_RECORDS = 150
"""A wire format with fewer records has no line of its own in Markdown."""

_COLUMNS = ("wire format", "records", "usage", "price", "count", "input p50", "input p95", "hold")


@dataclass(frozen=True, slots=True)
class Share:
    """Of how many exchanges a number was right, and of how many it was not and could have been."""

    right: int
    wrong: int
    excused: int

    @property
    def meets(self) -> int:
        """Of 1,000."""
        return self.right * 1000 // (self.right + self.wrong) if self.wrong else 1000

    def __str__(self) -> str:
        total = self.right + self.wrong
        if not total:
            return "-"
        excused = f" ({self.excused} excused)" if self.excused else ""
        return f"{self.right * 10_000 // total / 100:g} % of {total}{excused}"


def share(number: Number, measured: Iterable[Measured]) -> Share:
    right = wrong = excused = 0
    for each in measured:
        misses = [miss for miss in each.misses if miss.number is number]
        right += number in each.right and not misses
        wrong += any(not miss.excuse for miss in misses)
        excused += bool(misses) and all(miss.excuse for miss in misses)
    return Share(right, wrong, excused)


def failures(measured: Sequence[Measured]) -> list[str]:
    """The numbers that fall short of their floors."""
    return [
        f"{number}: {found}, expected at least {floor / 10:g} %"
        for number, floor in FLOORS_PERMILLE.items()
        if (found := share(number, measured)).meets < floor
    ]


def table(measured: Sequence[Measured], *, markdown: bool) -> str:
    """One line a wire format, the most frequent first, and one for all together; in Markdown the rare ones in one."""
    rows: list[tuple[str, ...]] = [_COLUMNS]
    metered = [each for each in measured if not each.unmetered]
    counts = Counter(each.wire for each in metered)
    shown = sorted(
        (wire for wire, count in counts.items() if not markdown or count >= RARE_RECORDS),
        key=lambda wire: (-counts[wire], wire),
    )
    rows += [_row(wire, [each for each in metered if each.wire == wire]) for wire in shown]
    if len(shown) < len(counts):
        rest = [each for each in metered if each.wire not in shown]
        rows.append(_row(f"{len(counts) - len(shown)} others", rest))
    rows.append(_row("all", metered))
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([lines[0], "|" + "---|" * len(_COLUMNS), *lines[1:]]) + "\n"
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return "".join("  ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in rows)


def misses(measured: Sequence[Measured]) -> str:
    """What was not measured, then every miss: those that are excused under the name of their class."""
    unmetered = Counter((each.unmetered, each.wire) for each in measured if each.unmetered)
    unread = Counter((each.request_unread, each.wire) for each in measured if each.request_unread)
    lines: list[str] = []
    for title, counts in (("Not metered", unmetered), ("Measured by the reply's usage alone", unread)):
        lines += [f"\n{title}:", *(f"  {count:5} {wire}: {why}" for (why, wire), count in sorted(counts.items()))]
    found: list[tuple[Measured, Miss]] = [(each, miss) for each in measured for miss in each.misses]
    for excuse in sorted({miss.excuse for _, miss in found}):
        lines.append(f"\n{f'Excused: {excuse}' if excuse else 'Missed'}:")
        lines += [
            f"  {each.id} {each.wire} {miss.number}: {miss.reason}" for each, miss in found if miss.excuse == excuse
        ]
    return "\n".join(lines) + "\n"


def _row(name: str, measured: Sequence[Measured]) -> tuple[str, ...]:
    errors = sorted(each.input_error for each in measured if each.input_error is not None)
    numbers = {number: str(share(number, measured)) for number in Number}
    return (
        name,
        str(len(measured)),
        numbers[Number.USAGE],
        numbers[Number.PRICE],
        numbers[Number.COUNT],
        _percentile(errors, 50),
        _percentile(errors, 95),
        numbers[Number.HOLD],
    )


def _percentile(errors: Sequence[float], percent: int) -> str:
    return f"{errors[min(len(errors) - 1, len(errors) * percent // 100)]:.0%}" if errors else "-"
