"""Reading a reply tolerantly: what is not as expected counts as not there, and nothing raises.

Shared by the wire formats' reply readers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import ceil
from types import MappingProxyType
from typing import Any

import msgspec

Json = Mapping[str, Any]
"""A decoded JSON object."""

NOTHING: Json = MappingProxyType({})

COUNT_MAX = 1_000_000_000
"""More units than one exchange can have: a larger number is an error of whoever sent it and does not count."""

_WORD = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")


def decode(document: bytes) -> Any:
    """The JSON value, or `None` if it is none."""
    try:
        return msgspec.json.decode(document)
    except (ValueError, RecursionError):
        return None


def mapping(value: Any) -> Json:
    """The object; an empty one for anything else."""
    return value if isinstance(value, dict) else NOTHING


def objects(value: Any) -> list[Json]:
    """The objects in an array; none for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def count(value: Any) -> int | None:
    """A non-negative number of units; `None` for anything else. Some vendors write whole numbers as `12.0`."""
    if type(value) is int:
        return value if 0 <= value <= COUNT_MAX else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= COUNT_MAX:
        return value
    return None


def first_count(*values: Any) -> int:
    """The first of the values that is a count; zero if none is."""
    for value in values:
        if value is not None and (number := count(value)) is not None:
            return number
    return 0


def milliseconds(seconds: Any) -> int | None:
    """A length in seconds, whole or not, in milliseconds; a fraction of one counts as one. `None` for anything else."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= COUNT_MAX // 1_000:
        return None
    return ceil(seconds * 1_000)


def text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def json_text(value: Any) -> str:
    """The value as JSON; nothing for one that is nested too deeply to be written."""
    try:
        return msgspec.json.encode(value).decode()
    except RecursionError:
        return ""


def word(value: Any) -> str | None:
    """A name or code (`rate_limit_error`), never prose: what may be logged of a text that others wrote."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def term(name: str, value: Any) -> dict[str, str]:
    """The term of the price that is so named, where the reply has one."""
    return {name: found} if (found := word(value)) else {}
