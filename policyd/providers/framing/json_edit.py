"""Editing a JSON object by splicing bytes: what is not edited stays as it was written, white space and escapes too.

The bodies edited here were decoded before, so they are known to be valid JSON; anything else may raise `ValueError`. An
object can name a member twice, and parsers differ in which one counts, so an edit applies to every occurrence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import msgspec

from policyd.providers.framing.json_patterns import NESTED, OPENING, STRING, WHITESPACE, end_of

_SCALAR = re.compile(rb"[^,\[\]{} \t\r\n]++")
_COLON = re.compile(rb"[ \t\r\n]*+:[ \t\r\n]*+")
_COMMA = re.compile(rb"[ \t\r\n]*+,")
_BRACE = ord("{")
_ESCAPED_NAME_BYTE = re.compile(rb"\\u00[3-7]")


class Member(NamedTuple):
    """One member of an object, as offsets into the body: `body[start:value_end]` is the whole of it."""

    name: str
    start: int
    value_start: int
    value_end: int


class Splice(NamedTuple):
    """`body[start:end]` is replaced by `replacement`."""

    start: int
    end: int
    replacement: bytes


def members(body: bytes, start: int = 0) -> list[Member]:
    """The members of the object that begins at or after `start`, in order, repeated names included."""
    return list(_walk(body, _open(body, start)))


def may_hold(body: bytes, name: str, *, times: int = 1) -> bool:
    """Whether a member can be named `name` so many times; a plain "no" is cheap, a "yes" only means to look closer.

    `name` is in ASCII letters, digits and underscores; a client may have written some of them as escapes.
    """
    return may_hold_any(body, (name,), times=times)


def may_hold_any(body: bytes, names: tuple[str, ...], *, times: int = 1) -> bool:
    """The same of any of several names."""
    # One pass for all names. In JSON none begins with the quotation mark that another one ends with.
    found = dict.fromkeys(names, 0)
    for match in _quoted(names).finditer(body):
        name = match[1].decode()
        found[name] += 1
        if found[name] >= times:
            return True
    return b"\\u00" in body and _ESCAPED_NAME_BYTE.search(body) is not None


@cache
def _quoted(names: tuple[str, ...]) -> re.Pattern[bytes]:
    return re.compile(b'"(%b)"' % b"|".join(re.escape(name.encode()) for name in names))


def set_member(body: bytes, path: Sequence[str], value: bytes) -> bytes:
    """`body` with the member at `path` set to the JSON `value`, in every place that the path leads to.

    A missing member is put first in its object; what stands on the way and is no object is replaced by one.
    """
    return _apply(body, _set_splices(body, 0, path, value))


def remove_member(body: bytes, path: Sequence[str]) -> bytes:
    """`body` without the member at `path`, in every place that the path leads to."""
    return _apply(body, _remove_splices(body, 0, path))


def _set_splices(body: bytes, start: int, path: Sequence[str], value: bytes) -> Iterator[Splice]:
    name, rest = path[0], path[1:]
    named = [member for member in members(body, start) if member.name == name] if may_hold(body, name) else []
    for member in named:
        if rest and body[member.value_start] == _BRACE:
            yield from _set_splices(body, member.value_start, rest, value)
        else:
            yield Splice(member.value_start, member.value_end, _nest(rest, value))
    if not named:
        inside = _open(body, start)
        empty = body.startswith(b"}", end_of(WHITESPACE, body, inside))
        yield Splice(inside, inside, _nest(path, value)[1:-1] + (b"" if empty else b","))


def _remove_splices(body: bytes, start: int, path: Sequence[str]) -> Iterator[Splice]:
    name, rest = path[0], path[1:]
    found = members(body, start)
    if rest:
        for member in found:
            if member.name == name and body[member.value_start] == _BRACE:
                yield from _remove_splices(body, member.value_start, rest)
        return
    kept = False
    for index, member in enumerate(found):
        if member.name != name:
            kept = True
        elif kept:
            # With the comma before it: there is a member that stays in front.
            yield Splice(found[index - 1].value_end, member.value_end, b"")
        else:
            # With the comma after it, if there is one.
            end = end_of(_COMMA, body, member.value_end) if index + 1 < len(found) else member.value_end
            yield Splice(member.start, end, b"")


def _nest(path: Sequence[str], value: bytes) -> bytes:
    for name in reversed(path):
        value = b"{" + msgspec.json.encode(name) + b":" + value + b"}"
    return value


def _apply(body: bytes, splices: Iterable[Splice]) -> bytes:
    pieces = []
    position = 0
    for splice in splices:
        pieces += [body[position : splice.start], splice.replacement]
        position = splice.end
    return b"".join([*pieces, body[position:]])


def _open(body: bytes, start: int) -> int:
    """Where the inside of the object begins."""
    position = end_of(WHITESPACE, body, start)
    if not body.startswith(b"{", position):
        raise ValueError("not a JSON object")
    return position + 1


def _walk(body: bytes, position: int) -> Iterator[Member]:
    """The members from `position`, just inside an object, on."""
    position = end_of(WHITESPACE, body, position)
    while not body.startswith(b"}", position):
        name_end = _past(STRING, body, position)
        value_start = _past(_COLON, body, name_end)
        value_end = _value_end(body, value_start)
        yield Member(msgspec.json.decode(body[position:name_end], type=str), position, value_start, value_end)
        position = end_of(WHITESPACE, body, value_end)
        if body.startswith(b",", position):
            position = end_of(WHITESPACE, body, position + 1)


def _value_end(body: bytes, start: int) -> int:
    byte = body[start : start + 1]
    if byte == b'"':
        return _past(STRING, body, start)
    if byte not in (b"{", b"["):
        return _past(_SCALAR, body, start)
    depth, position = 1, start + 1
    while depth:
        position = end_of(NESTED, body, position)
        if position == len(body):
            raise ValueError("not JSON: a container is not closed")
        depth += 1 if body[position] in OPENING else -1
        position += 1
    return position


def _past(pattern: re.Pattern[bytes], body: bytes, position: int) -> int:
    """Where `pattern` ends, which has to match."""
    end = end_of(pattern, body, position)
    if end == position:
        raise ValueError(f"not JSON at byte {position}")
    return end
