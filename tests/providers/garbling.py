"""Making broken input out of good input: bytes garbled, values replaced."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

UNHURRIED = settings(suppress_health_check=[HealthCheck.too_slow])
"""For property tests: a machine that does much else at the same time is no failure."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)

_FRAGMENTS = (b"", b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"-1", b"1e999", b"\\", b"\xff", b"\n\n", b"\r")


def garbled(body: bytes, random: Random) -> bytes:
    """`body` with some bytes changed, left out or repeated, and perhaps cut short."""
    pieces = bytearray(body)
    for _ in range(random.randrange(1, 6)):
        at = random.randrange(len(pieces) + 1)
        pieces[at : at + random.randrange(4)] = random.choice((*_FRAGMENTS, bytes(pieces[: at % 40])))
    if random.randrange(3) == 0:
        del pieces[random.randrange(len(pieces) + 1) :]
    return bytes(pieces)


def with_other_values(data: st.DataObject, value: Any) -> Any:
    """`value` with any JSON in place of some of what is inside."""
    if isinstance(value, dict):
        return {name: _perhaps_other(data, inner) for name, inner in value.items()}
    return [_perhaps_other(data, inner) for inner in value] if isinstance(value, list) else value


def _perhaps_other(data: st.DataObject, value: Any) -> Any:
    return data.draw(JSON) if data.draw(st.integers(0, 9)) == 0 else with_other_values(data, value)
