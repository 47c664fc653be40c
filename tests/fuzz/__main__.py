"""`make fuzz SECONDS=60`: every target for its share of the time, and one table at the end.

What grows under `.fuzz/corpus` is where the next run goes on. An input that fails is kept under `.fuzz/failures`;
`python -m tests.fuzz --replay TARGET FILE` runs it again, with no atheris.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.targets import TARGETS

FOLDER = Path(__file__).parents[2] / ".fuzz"

START_SECONDS_MAX = 60
"""What a worker may take beside its time: it loads vocabularies, and instruments what it imports."""

INPUT_BYTES_MAX = 16_384
INPUT_SECONDS_MAX = 20
MEMORY_MIB_MAX = 2048

NO_ATHERIS = (
    "fuzz: atheris is not installed. It has wheels for some versions of CPython on Linux only:\n"
    "      make PYTHON=python3.12 clean fuzz.\n"
    "      What needs no atheris, seeds and their random mutations, runs in make test: make test ARGS=tests/fuzz"
)


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    runs: int
    coverage: int
    failures: tuple[Path, ...]
    last_words: str


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz everything that reads bytes.")
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together (default 60)")
    parser.add_argument("--replay", nargs=2, metavar=("TARGET", "FILE"), help="run one input again")
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)} (default all)")
    given = parser.parse_args()
    if given.replay is not None:
        name, file = given.replay
        TARGETS[name].run(Path(file).read_bytes())
        return 0
    if find_spec("atheris") is None:
        print(NO_ATHERIS, file=sys.stderr)
        return 2
    names = given.targets or list(TARGETS)
    results = [fuzz(name, seconds=max(1, given.seconds // len(names))) for name in names]
    show(results)
    return any(result.failures or not result.runs for result in results)


def fuzz(name: str, *, seconds: int) -> Result:
    """Runs one target in a process of its own: what fails there, or takes all memory, ends no other."""
    corpus, seeds, failures = (FOLDER / part / name for part in ("corpus", "seeds", "failures"))
    for folder in (corpus, seeds, failures):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds()):
        (seeds / str(number)).write_bytes(seed)
    before = set(failures.iterdir())
    command = [sys.executable, "-m", "tests.fuzz.worker", name, str(corpus), str(seeds)]
    command += [f"-max_total_time={seconds}", f"-artifact_prefix={failures}/", f"-max_len={INPUT_BYTES_MAX}"]
    command += [f"-timeout={INPUT_SECONDS_MAX}", f"-rss_limit_mb={MEMORY_MIB_MAX}", "-print_final_stats=1"]
    ended = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=seconds + START_SECONDS_MAX, check=False
    )
    said = ended.stderr + ended.stdout
    return Result(
        name,
        runs=_last_number(r"stat::number_of_executed_units:\s+(\d+)", said),
        coverage=_last_number(r"cov: (\d+)", said),
        failures=tuple(sorted(set(failures.iterdir()) - before)),
        last_words="" if ended.returncode == 0 else said[-4000:],
    )


def _last_number(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def show(results: list[Result]) -> None:
    print(f"{'target':<12}{'inputs':>10}{'coverage':>10}  failures")
    for result in results:
        print(f"{result.name:<12}{result.runs:>10}{result.coverage:>10}  {len(result.failures) or '-'}")
    for result in results:
        if result.last_words:
            print(f"\n{result.name} ended with:\n{result.last_words}")
        for failure in result.failures:
            print(f"\nreplay: .venv/bin/python -m tests.fuzz --replay {result.name} {failure}")


if __name__ == "__main__":
    sys.exit(main())
