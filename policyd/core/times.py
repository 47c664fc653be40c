"""Instants as people read them."""

from __future__ import annotations

from datetime import UTC, datetime


def iso_time(at_ms: int) -> str:
    """ISO 8601 in UTC with milliseconds: `2026-11-21T09:30:00.250Z`."""
    instant = datetime.fromtimestamp(at_ms // 1000, tz=UTC)
    return f"{instant:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"
