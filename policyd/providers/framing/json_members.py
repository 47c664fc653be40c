"""Chosen members of a JSON object that is too large to be kept.

The object comes in chunks of any size and goes by; only the wanted members of its outermost level are kept, each up to
a bound. The work is linear in the bytes and nearly all of it happens inside regular expressions: a string is one step
however long it is, and so are a container of few levels and a run of small members that nobody wants.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum, auto
from functools import lru_cache
from typing import Any

import msgspec

from policyd.providers.framing.json_patterns import NESTED, OPENING, QUOTE, STRING_BYTES, WHITESPACE, end_of

_STRING_REST = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
"""The rest of a string, up to its closing quote, to the end of the chunk or to a lone backslash there."""

_SMALL_VALUE = rb'(?:[^,"\[\]{}]++|' + STRING_BYTES + rb"[ \t\r\n]*+)"
_SCALAR_REST = re.compile(rb"[^,}\]]*+")
_OPENINGS = re.compile(rb"[\[{]++")
_CLOSINGS = re.compile(rb"[\]}]++")

_NAME_BYTES_MAX = 256
"""A longer name is nobody's wanted member."""


class _At(Enum):
    """Where in the outermost object the next byte stands."""

    START = auto()
    """Before its opening brace."""
    NAME = auto()
    """Before a member's name, or the closing brace."""
    IN_NAME = auto()
    COLON = auto()
    VALUE = auto()
    """Before a member's value."""
    IN_SCALAR = auto()
    IN_STRING = auto()
    """In a string that is a member's value."""
    NESTED = auto()
    """In a container that is a member's value, outside any string."""
    NESTED_STRING = auto()
    COMMA = auto()
    """After a member's value."""
    END = auto()
    """After the object, or after something that is no JSON object."""


class JsonMembers:
    """Picks the members named `wanted` out of one JSON object, fed in chunks. Never raises on what is fed."""

    __slots__ = ("_at", "_bytes_max", "_depth", "_escaped", "_found", "_name", "_unwanted", "_value", "_wanted")

    def __init__(self, wanted: Iterable[str], *, bytes_max: int) -> None:
        self._wanted = frozenset(wanted)
        self._unwanted = _unwanted_members(self._wanted)
        self._bytes_max = bytes_max
        self._at = _At.START
        self._depth = 0
        """How many containers are open inside the outermost object."""
        self._escaped = False
        """Whether the last byte was a backslash that escapes the next one."""
        self._name = bytearray()
        self._value: bytearray | None = None
        """What was seen of a wanted member's value; `None` while no wanted one is being read."""
        self._found: dict[str, Any] = {}

    @property
    def found(self) -> dict[str, Any]:
        """The wanted members that are complete, decoded, but for those larger than `bytes_max`."""
        return self._found

    def feed(self, chunk: bytes) -> None:
        position = 0
        while position < len(chunk) and self._at is not _At.END:
            position = self._step(chunk, position)

    def _step(self, chunk: bytes, position: int) -> int:
        """Takes one stretch of the chunk and returns where the next one begins."""
        match self._at:
            case _At.IN_NAME | _At.IN_STRING | _At.NESTED_STRING:
                return self._string(chunk, position)
            case _At.NESTED:
                return self._nested(chunk, position)
            case _At.IN_SCALAR:
                return self._scalar(chunk, position)
            case _At.NAME:
                return self._between(chunk, end_of(self._unwanted, chunk, position))
            case _:
                return self._between(chunk, position)

    def _between(self, chunk: bytes, position: int) -> int:
        """Takes white space and the one byte of punctuation, or the first byte of a name or value, that follows."""
        position = end_of(WHITESPACE, chunk, position)
        if position == len(chunk):
            return position
        byte = chunk[position : position + 1]
        self._at = (
            self._begin_value(byte) if self._at is _At.VALUE else _AFTER_PUNCTUATION.get((self._at, byte), _At.END)
        )
        if self._at is _At.IN_SCALAR:
            return position
        if self._at is _At.IN_NAME:
            self._name.clear()
        self._keep(chunk, position, position + 1)
        return position + 1

    def _begin_value(self, byte: bytes) -> _At:
        self._value = bytearray() if self._name_read() in self._wanted else None
        if byte == b'"':
            return _At.IN_STRING
        if byte in (b"{", b"["):
            self._depth = 1
            return _At.NESTED
        return _At.IN_SCALAR

    def _string(self, chunk: bytes, position: int) -> int:
        start = position
        if self._escaped:
            self._escaped = False
            position += 1
        end = end_of(_STRING_REST, chunk, position)
        closed = False
        if end < len(chunk):
            closed = chunk[end : end + 1] == b'"'
            self._escaped = not closed
            end += 1
        self._keep(chunk, start, end)
        if closed:
            self._close_string()
        return end

    def _close_string(self) -> None:
        if self._at is _At.IN_NAME:
            self._at = _At.COLON
        elif self._at is _At.NESTED_STRING:
            self._at = _At.NESTED
        else:
            self._close_value()

    def _nested(self, chunk: bytes, position: int) -> int:
        end, depth = position, self._depth
        while depth and self._at is _At.NESTED:
            end = end_of(NESTED, chunk, end)
            if end == len(chunk):
                break
            start, byte = end, chunk[end]
            if byte == QUOTE:
                end += 1
                self._at = _At.NESTED_STRING
            elif byte in OPENING:
                end = end_of(_OPENINGS, chunk, start)
                depth += end - start
            else:
                end = min(end_of(_CLOSINGS, chunk, start), start + depth)
                depth -= end - start
        self._depth = depth
        self._keep(chunk, position, end)
        if not depth:
            self._close_value()
        return end

    def _scalar(self, chunk: bytes, position: int) -> int:
        end = end_of(_SCALAR_REST, chunk, position)
        self._keep(chunk, position, end)
        if end < len(chunk):
            self._close_value()
        return end

    def _close_value(self) -> None:
        self._at = _At.COMMA
        if self._value is None:
            return
        try:
            self._found[self._name_read()] = msgspec.json.decode(self._value)
        except (ValueError, RecursionError):
            self._found.pop(self._name_read(), None)
        self._value = None

    def _keep(self, chunk: bytes, start: int, end: int) -> None:
        """Remembers a stretch of the name or of the wanted value that is being read, as far as the bound allows."""
        if self._at is _At.IN_NAME:
            self._name += chunk[start : min(end, start + _NAME_BYTES_MAX + 1 - len(self._name))]
        elif self._value is not None:
            if len(self._value) + end - start > self._bytes_max:
                self._found.pop(self._name_read(), None)
                self._value = None
            else:
                self._value += chunk[start:end]

    def _name_read(self) -> str:
        if len(self._name) > _NAME_BYTES_MAX:
            return ""
        try:
            return msgspec.json.decode(self._name, type=str)
        except ValueError:
            return ""


_AFTER_PUNCTUATION = {
    (_At.START, b"{"): _At.NAME,
    (_At.NAME, b'"'): _At.IN_NAME,
    (_At.COLON, b":"): _At.VALUE,
    (_At.COMMA, b","): _At.NAME,
}
"""What follows a byte between names and values; anything else ends the object, or shows that there is none."""


@lru_cache
def _unwanted_members(wanted: frozenset[str]) -> re.Pattern[bytes]:
    """A run of members that are not wanted, have plain names and small values, and stand in one chunk."""
    names = rb"|".join(re.escape(name.encode()) for name in sorted(wanted))
    name = rb'"(?!(?:' + names + rb')")[^"\\]*+"'
    return re.compile(rb"(?:\s*+" + name + rb"\s*+:\s*+" + _SMALL_VALUE + rb",)*+", re.DOTALL)
