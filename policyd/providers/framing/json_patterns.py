"""The regular expressions that skip over JSON: possessive throughout, so that none ever goes back over what it matched.

A string is one step however long it is, and so is a container of up to three levels.
"""

from __future__ import annotations

import re

STRING_BYTES = rb'"(?:[^"\\]++|\\.)*+"'
_FILLING = rb'[^"\[\]{}]++|' + STRING_BYTES
_CONTAINER = rb"[\[{](?:" + _FILLING + rb")*+[\]}]"
for _ in range(2):
    _CONTAINER = rb"[\[{](?:" + _FILLING + rb"|" + _CONTAINER + rb")*+[\]}]"

STRING = re.compile(STRING_BYTES, re.DOTALL)

NESTED = re.compile(rb"(?:" + _FILLING + rb"|" + _CONTAINER + rb")*+", re.DOTALL)
"""The inside of a container, up to its closing bracket, to the opening one of a deeper container, or to a string that
is cut short."""

WHITESPACE = re.compile(rb"[ \t\r\n]*+")

OPENING = b"[{"
QUOTE = ord('"')


def end_of(pattern: re.Pattern[bytes], body: bytes | bytearray, position: int) -> int:
    """Where `pattern` ends that begins at `position`; `position` itself where it does not match."""
    matched = pattern.match(body, position)
    return matched.end() if matched is not None else position
