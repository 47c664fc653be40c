"""python -m tests.bench [--quick]"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvloop

from policyd.core.errors import PolicydError
from tests.bench.load import UnexpectedReply
from tests.bench.machine import describe_machine, describe_versions
from tests.bench.plan import FULL, QUICK
from tests.bench.processes import ChildFailed
from tests.bench.report import Report
from tests.bench.run import run

FOLDER: Final = Path(__file__).parents[2] / ".bench"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description="Measures what policyd costs a request.")
    parser.add_argument("--quick", action="store_true", help="half a minute in place of three")
    plan = QUICK if parser.parse_args().quick else FULL
    started = datetime.now(UTC)
    machine = describe_machine()
    try:
        outcome = uvloop.run(run(plan, progress=_progress))
    except* (UnexpectedReply, ChildFailed, PolicydError, OSError) as errors:
        sys.exit(f"bench: {_first(errors)}")
    report = Report(
        started_at=started.isoformat(timespec="seconds"),
        machine=machine,
        versions=describe_versions(),
        plan=plan,
        outcome=outcome,
    )
    print(report.as_text())
    FOLDER.mkdir(exist_ok=True)
    file = FOLDER / f"{started:%Y%m%dT%H%M%SZ}.json"
    file.write_bytes(report.as_json())
    print(f"Every sample is in {file}.")


def _progress(text: str) -> None:
    print(f"bench: {text} ...", file=sys.stderr)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    main()
