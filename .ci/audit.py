"""Audit the pinned dependencies for known vulnerabilities, with pip-audit and the package index's advisories.

Exit status: 0 nothing known, 1 something is known or the audit itself is broken, 77 nobody answered for any of them.
A network without the advisories must not stop anybody's work, and must not look like a clean audit either.
"""

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parent / "constraints.txt"
# The constraints are the whole closure already. Nothing is installed or resolved, so nothing is built either.
COMMAND = ["pip-audit", "--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip", "--progress-spinner=off"]
NOT_AUDITED = 77
SECONDS_MAX = 60


def main() -> int:
    try:
        run = subprocess.run(
            [*COMMAND, "--format=json"], capture_output=True, text=True, check=False, timeout=SECONDS_MAX
        )
    except subprocess.TimeoutExpired:
        print(f"the advisories did not come within {SECONDS_MAX} s")
        return NOT_AUDITED
    last_line = (run.stderr.strip().splitlines() or [""])[-1]
    try:
        found = json.loads(run.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"pip-audit did not finish: {last_line}")
        return NOT_AUDITED if "ConnectionError" in last_line or "Timeout" in last_line else 1
    vulnerable = [
        f"{dependency['name']} {dependency['version']}: {known['id']}, mended in "
        + (", ".join(known["fix_versions"]) or "no version yet")
        for dependency in found
        for known in dependency.get("vulns", ())
    ]
    skipped = [dependency["name"] for dependency in found if "skip_reason" in dependency]
    if vulnerable:
        print("\n".join(vulnerable))
        return 1
    if len(skipped) == len(found):
        print(f"no advisories were to be had for any of {len(found)} dependencies")
        return NOT_AUDITED
    if skipped:
        print(f"no advisories were to be had for {', '.join(skipped)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
