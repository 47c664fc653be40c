"""`make accuracy`: replays all recorded traffic and prints how true policyd's numbers are."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from random import Random

from tests import recordings
from tests.accuracy.measured import Measured
from tests.accuracy.measuring import Measurer
from tests.accuracy.table import failures, misses, table


def main() -> str | None:
    """Prints the table; returns what is wrong, if anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.accuracy", description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print the table alone, in Markdown")
    parser.add_argument("--seed", type=int, default=Random().randrange(10**6), help="where the bodies are cut")
    options = parser.parse_args()
    if not recordings.PATH.exists():
        return f"no recordings at {recordings.PATH}: set POLICYD_RECORDINGS to the file (JSON lines, gzip)"
    processes = min(4, os.cpu_count() or 1)
    with ProcessPoolExecutor(processes) as pool:
        parts = pool.map(_measure, [(options.seed, part, processes) for part in range(processes)])
        measured = [each for part in parts for each in part]
    sys.stdout.write(table(measured, markdown=options.markdown))
    if not options.markdown:
        sys.stdout.write(misses(measured))
    sys.stderr.write(f"seed {options.seed}\n")
    return "\n".join(failures(measured)) or None


def _measure(work: tuple[int, int, int]) -> list[Measured]:
    seed, part, parts = work
    measurer = Measurer(seed=seed)
    return [measurer.measure(recording) for recording in recordings.every_recording()[part::parts]]


if __name__ == "__main__":
    sys.exit(main())
