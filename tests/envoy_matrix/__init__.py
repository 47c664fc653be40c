"""The end-to-end tests on every supported version of Envoy: `make test-envoy-matrix`."""

from __future__ import annotations

from pathlib import Path

VERSIONS = ("1.36.4", "1.37.0", "1.38.3", "1.39.3", "1.40.0")
"""One of each supported minor version. What is missing on which stands in `envoy/README.md`."""

FOLDER = Path(__file__).parents[2] / ".envoy"


def binary(version: str) -> Path:
    """Where the Envoy of that version is, or would be."""
    return FOLDER / version / "envoy" / "_bin" / "envoy"
