"""python -m tests.bench [PART]... [--peers] [--quick] [--readme | --check | --write-baseline]"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvloop

from policyd.core.errors import PolicydError
from policyd.up import EnvoyFailed
from tests.bench.baseline import FILE, RUNS, Baseline, ratios, worse_again
from tests.bench.load import UnexpectedReply
from tests.bench.machine import describe_machine, describe_versions
from tests.bench.part import Part
from tests.bench.parts.registry import PARTS, USUAL
from tests.bench.plan import FULL, QUICK, Plan
from tests.bench.processes import ChildFailed
from tests.bench.readme import README, with_figures
from tests.bench.report import Report
from tests.bench.run import Outcome, run

FOLDER: Final = Path(__file__).parents[2] / ".bench"


def main() -> None:
    parser = _parser()
    given = parser.parse_args()
    parts: list[Part] = given.parts or [PARTS[name] for name in USUAL]
    if given.readme and not set(USUAL) <= {part.name for part in parts}:
        parser.error("the README shows every part: name none")
    if given.peers and PARTS["peers"] not in parts:
        parts.append(PARTS["peers"])
    try:
        if given.check:
            _check(parts)
        elif given.write_baseline:
            _write_baseline(parts)
        else:
            _report(QUICK if given.quick else FULL, parts, into_readme=given.readme)
    except* (UnexpectedReply, ChildFailed, EnvoyFailed, PolicydError, OSError) as errors:
        sys.exit(f"bench: {_first(errors)}")


def _parser() -> argparse.ArgumentParser:
    about = "\n".join(f"  {part.name:<10}{part.about}" for part in PARTS.values())
    parser = argparse.ArgumentParser(
        prog="make bench",
        usage="make bench [PARTS='PART ...'] [PEERS=1] [ARGS='--quick --readme']",
        description=(
            "Measures what policyd costs: under ten minutes, --quick three; two more with PEERS=1, and at its first\n"
            f"time those that installing takes. The parts:\n\n{about}"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", type=_part, help=argparse.SUPPRESS)
    parser.add_argument("--peers", action="store_true", help="measure peers too")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--readme", action="store_true", help="write the figures into README.md")
    what.add_argument("--check", action="store_true", help="compare a quick run with tests/bench_baseline.json")
    what.add_argument("--write-baseline", action="store_true", help="write that file, of three quick runs")
    return parser


def _part(name: str) -> Part:
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"there is no part {name!r}; there are: {', '.join(PARTS)}")
    return PARTS[name]


def _measured(plan: Plan, parts: Sequence[Part]) -> Outcome:
    return uvloop.run(run(plan, parts, progress=_progress))


def _report(plan: Plan, parts: Sequence[Part], *, into_readme: bool) -> None:
    started = datetime.now(UTC)
    machine = describe_machine()
    report = Report(
        started_at=started.isoformat(timespec="seconds"),
        machine=machine,
        versions=describe_versions(),
        outcome=_measured(plan, parts),
    )
    print(report.as_text())
    FOLDER.mkdir(exist_ok=True)
    file = FOLDER / f"{started:%Y%m%dT%H%M%SZ}.json"
    file.write_bytes(report.as_json())
    print(f"Every sample is in {file}.")
    if into_readme:
        README.write_text(with_figures(README.read_text(), report))
        print("README.md has the figures.")


def _check(parts: Sequence[Part]) -> None:
    found, compared = worse_again(Baseline.load(), parts, lambda each: _measured(QUICK, each).samples)
    if found:
        sys.exit("\n".join(("bench-check: worse than the baseline, in two runs:", *map(str, found))))
    print(f"bench-check: none of {compared} ratios got worse than the baseline's beyond its tolerance.")


def _write_baseline(parts: Sequence[Part]) -> None:
    machine = describe_machine()
    runs = [_measured(QUICK, parts).samples for _ in range(RUNS)]
    Baseline(machine=machine, versions=describe_versions(), ratios=ratios(parts, runs)).save()
    print(f"Wrote {FILE}.")


def _progress(text: str) -> None:
    print(f"bench: {text} ...", file=sys.stderr)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    main()
