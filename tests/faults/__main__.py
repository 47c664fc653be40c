"""`make test-faults`: every fault, its line as it ends, and what is promised beside what came of it."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from policyd.core.record import Outcome
from tests.faults.faults import FAULTS
from tests.faults.running import FINDINGS_SHOWN, Report, play

SECONDS_MAX = 600
"""No fault begins after so long."""

HEAD = (
    f"{'fault':<26}{'setting':<48}{'asked':>6}{'failed':>7}{'holds':>6}{'back s':>7}"
    f"{'billed USD':>12}{'charged':>11}{'difference':>12}{'took s':>8}  promised"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-faults", description="Breaks one part of a mesh after the other.")
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="those whose name has this in it (default: all)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS_MAX, help=f"none begins later (default: {SECONDS_MAX})"
    )
    parser.add_argument("--list", action="store_true", help="name them, and play none")
    options = parser.parse_args()
    names = [name for name in FAULTS if not options.faults or any(part in name for part in options.faults)]
    if options.list:
        print("\n".join(names))
        return 0
    return _play(names, ends_at=time.monotonic() + options.seconds)


def _play(names: list[str], *, ends_at: float) -> int:
    print(HEAD, flush=True)
    began = time.monotonic()
    broken: list[str] = []
    played = 0
    for name in names:
        if time.monotonic() > ends_at:
            break
        report = asyncio.run(play(FAULTS[name]))
        played += 1
        print(_line(report), flush=True)
        for problem in report.problems[:FINDINGS_SHOWN]:
            print(f"    {problem}", flush=True)
        if report.problems:
            broken.append(name)
    print(f"{played} of {len(names)} faults in {time.monotonic() - began:.0f} s, {len(broken)} of them broke a promise")
    return 1 if broken or played < len(names) or not played else 0


def _line(report: Report) -> str:
    fault, books = report.fault, report.books
    failed = sum(count for outcome, count in report.outcomes.items() if outcome not in {"200", "402"})
    return (
        f"{fault.name:<26}{fault.setting!s:<48}{report.outcomes.total():>6}{failed:>7}"
        f"{books.outcomes[Outcome.EXPIRED]:>6}{report.back_seconds:>7.1f}"
        f"{_usd(books.billed_nanos):>12}{_usd(books.charged_nanos):>11}{_usd(report.difference_nanos, sign='+'):>12}"
        f"{report.seconds:>8.0f}  {fault.expected.promise.value}{'' if not report.problems else '  BROKEN'}"
    )


def _usd(nanos: int, *, sign: str = "-") -> str:
    return f"{nanos / 1e9:{sign}.6f}"


if __name__ == "__main__":
    sys.exit(main())
