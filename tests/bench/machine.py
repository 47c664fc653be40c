"""Where and what was measured: without it a figure says nothing."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from policyd import __version__
from policyd.up import find_envoy

_ROOT: Final = Path(__file__).parents[2]
_COMMAND_SECONDS_MAX: Final = 10


def describe_machine() -> Mapping[str, str | float]:
    """`load` is the average of the last minute."""
    return {
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 2),
    }


def describe_versions() -> Mapping[str, str]:
    return {
        "policyd": f"{__version__} ({_commit()})",
        "Envoy": _envoy_version(),
        "Python": platform.python_version(),
        "grpcio": metadata.version("grpcio"),
        "uvloop": metadata.version("uvloop"),
        "SQLite": sqlite3.sqlite_version,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _envoy_version() -> str:
    # PATH  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL
    return _output(str(find_envoy()), "--version").rpartition("version: ")[2].split("/")[1]


def _commit() -> str:
    if shutil.which("git") is None or not (_ROOT / ".git").exists():
        return "commit unknown"
    commit = _output("git", "rev-parse", "--short", "HEAD")
    return f"{commit}, changed" if _output("git", "status", "--porcelain", "--", "policyd") else commit


def _output(*command: str) -> str:
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True, timeout=_COMMAND_SECONDS_MAX)
    return done.stdout.strip()
