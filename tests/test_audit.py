"""The audit of dependencies tells a clean answer from none, whatever pip-audit says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parent.parent / ".ci" / "audit.py"
CLEAN = {"name": "h11", "version": "1", "vulns": []}
UNKNOWN = {"name": "brotli", "skip_reason": "not found"}
KNOWN = {"name": "pyyaml", "version": "5.3", "vulns": [{"id": "PYSEC-2021-142", "fix_versions": ["5.4"]}]}


def audit(folder: Path, *, out: str, err: str = "") -> subprocess.CompletedProcess[str]:
    """What the audit makes of a pip-audit that writes `out` and `err`."""
    folder.joinpath("out").write_text(out)
    folder.joinpath("err").write_text(err)
    stand_in = folder / "pip-audit"
    stand_in.write_text(f"#!/bin/sh\ncat {folder}/out; cat {folder}/err >&2; exit 1\n")
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run([sys.executable, str(AUDIT)], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("dependencies", "status", "told"),
    [
        ([CLEAN], 0, ""),
        ([CLEAN, UNKNOWN], 0, "no advisories were to be had for brotli"),
        ([UNKNOWN], 77, "no advisories were to be had for any of 1 dependencies"),
        ([CLEAN, UNKNOWN, KNOWN], 1, "pyyaml 5.3: PYSEC-2021-142, mended in 5.4"),
    ],
)
def test_what_is_known_fails_and_no_answer_is_no_clean_one(
    tmp_path: Path, dependencies: list[object], status: int, told: str
) -> None:
    run = audit(tmp_path, out=json.dumps({"dependencies": dependencies, "fixes": []}))
    assert (run.returncode, run.stdout.strip()) == (status, told)


@pytest.mark.parametrize(
    ("last_line", "status"),
    [("requests.exceptions.ConnectionError: no route", 77), ("TypeError: its own mistake", 1)],
)
def test_an_audit_that_breaks_off_is_excused_by_the_network_alone(tmp_path: Path, last_line: str, status: int) -> None:
    assert audit(tmp_path, out="", err=f"Traceback\n{last_line}\n").returncode == status
