"""JSON for people to read, with every number as it was sent: `0.00`, not `0.0`."""

from collections.abc import Iterator
from typing import Final

import msgspec

INDENT: Final = 2


def json_lines(document: bytes) -> Iterator[tuple[int, str]]:
    """The document's lines, each with its indentation. What has nothing nested inside stays on one line."""
    return _lines(document, before="", after="", indent=0)


def _lines(value: bytes, *, before: str, after: str, indent: int) -> Iterator[tuple[int, str]]:
    members = list(_members(value))
    if not any(_is_container(member) for _, member in members):
        yield indent, before + msgspec.json.format(value, indent=0).decode() + after
        return
    opening, closing = ("{", "}") if value.startswith(b"{") else ("[", "]")
    yield indent, before + opening
    for index, (name, member) in enumerate(members):
        comma = "," if index < len(members) - 1 else ""
        yield from _lines(member, before=name, after=comma, indent=indent + INDENT)
    yield indent, closing + after


def _members(value: bytes) -> Iterator[tuple[str, bytes]]:
    """What an object or an array holds, each with its name as it is written before it; nothing of other values."""
    if value.startswith(b"{"):
        for name, member in msgspec.json.decode(value, type=dict[str, msgspec.Raw]).items():
            yield f"{msgspec.json.encode(name).decode()}: ", bytes(member)
    elif value.startswith(b"["):
        for member in msgspec.json.decode(value, type=list[msgspec.Raw]):
            yield "", bytes(member)


def _is_container(value: bytes) -> bool:
    return value.startswith((b"{", b"["))
