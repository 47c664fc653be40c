"""Reading a `multipart/form-data` body (RFC 7578): its small fields, and how large its files are.

Strict, because parsers differ in what they make of odd bodies, and the provider must not see another form than we do:
lines end in CRLF, a part has one plain disposition and no encoding, nothing stands before the first part or after the
last one. What clients' libraries write is all of that.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from policyd.core.errors import BodyUnreadable

PARTS_MAX = 128
"""More than any endpoint takes."""

_HEADERS_BYTES_MAX = 4_096
_BOUNDARY = re.compile(r'multipart/form-data\s*;\s*boundary=(?:"([^"\\]{1,70})"|([^\s";,]{1,70}))\s*', re.IGNORECASE)
_DISPOSITION = re.compile(
    rb'form-data[ \t]*;[ \t]*name=(?P<quote>"?)(?P<name>[\w.\[\]-]{1,64})(?P=quote)'
    rb'(?P<file>[ \t]*;[ \t]*filename=(?:"(?:[^"\\\r\n]|\\[^\r\n])*"|[^\s;"]+)'
    rb'(?:[ \t]*;[ \t]*filename\*=[^\s;"]+)?)?[ \t]*',
    re.ASCII | re.IGNORECASE,
)
_IDENTITY_ENCODINGS = (b"7bit", b"8bit", b"binary")


@dataclass(frozen=True, slots=True)
class Form:
    """A form's fields by name, as text, and the sizes of its files by the name of their field."""

    fields: dict[str, str]
    file_bytes: dict[str, tuple[int, ...]]


class _Part(NamedTuple):
    """`body[start:end]` is the whole part with the delimiter before it, `body[content_start:end]` its content."""

    name: str
    is_file: bool
    start: int
    content_start: int
    end: int


def is_form(content_type: str) -> bool:
    """Whether a body of that type is a form."""
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


def read_form(body: bytes, content_type: str) -> Form:
    """The form. Raises `BodyUnreadable`, for a field that is given twice with different values too."""
    fields: dict[str, str] = {}
    files: dict[str, tuple[int, ...]] = {}
    for part in _parts(body, _boundary(content_type)):
        if part.is_file:
            files[part.name] = (*files.get(part.name, ()), part.end - part.content_start)
            continue
        try:
            value = body[part.content_start : part.end].decode()
        except UnicodeDecodeError:
            raise BodyUnreadable(f"{part.name}: the field is not UTF-8") from None
        # A name in brackets is that of an array.
        if fields.setdefault(part.name, value) != value and not part.name.endswith("[]"):
            raise BodyUnreadable(f"{part.name}: given twice, with different values")
    both = fields.keys() & files.keys()
    if both:
        raise BodyUnreadable(f"{min(both)}: given as a field and as a file")
    return Form(fields, files)


def remove_fields(body: bytes, names: Collection[str]) -> bytes:
    """`body`, which `read_form` has read, without the parts so named."""
    boundary = body[2 : body.index(b"\r\n")]
    kept = body
    for part in reversed(list(_parts(body, boundary))):
        if part.name in names:
            kept = kept[: part.start] + kept[part.end :]
    # A delimiter begins with the end of the line before it, but for the first one.
    return kept.removeprefix(b"\r\n")


def _boundary(content_type: str) -> bytes:
    found = _BOUNDARY.fullmatch(content_type.strip())
    if found is None or not content_type.isascii():
        raise BodyUnreadable("the content-type gives the form no plain boundary")
    return (found[1] or found[2]).encode()


def _parts(body: bytes, boundary: bytes) -> Iterator[_Part]:
    delimiter = b"\r\n--" + boundary
    if not body.startswith(delimiter[2:]):
        raise BodyUnreadable("the form does not begin with its boundary")
    start, position = 0, len(delimiter) - 2
    for _ in range(PARTS_MAX + 1):
        if body.startswith(b"--", position):
            if body[position + 2 :].strip(b"\r\n"):
                raise BodyUnreadable("the form goes on after its end")
            return
        end = body.find(delimiter, position)
        if end < 0:
            raise BodyUnreadable("the form does not end with its boundary")
        yield _part(body, start, position, end)
        start, position = end, end + len(delimiter)
    raise BodyUnreadable(f"the form has more than {PARTS_MAX} parts")


def _part(body: bytes, start: int, position: int, end: int) -> _Part:
    """The part whose headers begin with the end of the delimiter's line at `position`."""
    headers_end = body.find(b"\r\n\r\n", position, min(end, position + _HEADERS_BYTES_MAX))
    lines = body[position:headers_end].split(b"\r\n") if headers_end >= 0 else []
    headers = [tuple(line.partition(b":")[::2]) for line in lines[1:]]
    named = [(name.lower(), value.strip(b" \t")) for name, value in headers]
    dispositions = [value for name, value in named if name == b"content-disposition"]
    disposition = _DISPOSITION.fullmatch(dispositions[0]) if len(dispositions) == 1 else None
    encodings = [value.lower() for name, value in named if name == b"content-transfer-encoding"]
    if not lines or lines[0] or disposition is None or any(one not in _IDENTITY_ENCODINGS for one in encodings):
        raise BodyUnreadable("a part of the form has headers that are not plain")
    return _Part(disposition["name"].decode(), disposition["file"] is not None, start, headers_end + 4, end)
