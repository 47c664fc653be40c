"""How a broken promise is told."""

from __future__ import annotations


class Broken(Exception):
    """A promise that did not hold."""


def check(holds: bool, promise: str, detail: object = "") -> None:
    """Raises `Broken` if the promise does not hold."""
    if not holds:
        raise Broken(f"{promise}: {detail}" if detail != "" else promise)
