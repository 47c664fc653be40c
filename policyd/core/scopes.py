"""Scopes as text: `project=acme,user=ann`, the same in accounts, messages and commands.

Values are percent-encoded, so that no value can pass for another scope. In patterns (`model=gpt-4o*`) the characters of
shell-style patterns stand for themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

EVERYTHING = "all"
"""How people write the scope of no attribute, whose name is empty."""

_SAFE = "@.:/"
_PATTERN_CHARACTERS = "*?[]!"
_WILDCARD = re.compile(r"([*?\[])")
_ESCAPED = re.compile(r"\[([*?\[])\]")


def scope_name(values: Mapping[str, str]) -> str:
    """The scope of these attributes, in their order."""
    return _name(values, safe=_SAFE)


def pattern_name(patterns: Mapping[str, str]) -> str:
    """The scope of the requests whose attributes fit these patterns; the order of the attributes does not matter."""
    return _name(dict(sorted(patterns.items())), safe=_SAFE + _PATTERN_CHARACTERS)


def exact_name(values: Mapping[str, str]) -> str:
    """The scope of the requests that have exactly these attributes, whatever characters are in them."""
    return pattern_name({name: _WILDCARD.sub(r"[\1]", value) for name, value in values.items()})


def literal(pattern: str) -> str | None:
    """The one value that a pattern fits; `None` if it can fit several."""
    return None if is_pattern(_ESCAPED.sub("", pattern)) else _ESCAPED.sub(r"\1", pattern)


def is_pattern(text: str) -> bool:
    """Whether `text` can fit anything but itself."""
    return any(character in text for character in "*?[")


def parse_scope(text: str) -> dict[str, str]:
    """The attributes that a scope names; none for `all` and the empty one. Raises `ValueError`."""
    if text in ("", EVERYTHING):
        return {}
    values: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not name or not equals:
            raise ValueError(f"found {part!r}, expected {EVERYTHING}, or attributes such as project=acme,user=ann")
        if name in values:
            raise ValueError(f"{name} stands there twice")
        values[name] = unquote(value, errors="strict")
    return values


def shown(scope: str) -> str:
    """A scope as people write it."""
    return scope or EVERYTHING


def _name(values: Mapping[str, str], *, safe: str) -> str:
    return ",".join(f"{name}={quote(value, safe=safe)}" for name, value in values.items())
