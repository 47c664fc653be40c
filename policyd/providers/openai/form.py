"""Requests that OpenAI takes as a form, for the files in them, and some vendors as JSON too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policyd.providers.base import RawRequest
from policyd.providers.multipart import is_form, read_form
from policyd.providers.request_body import Json, decode_request

_INTEGER_DIGITS_MAX = 9
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class FormRequest:
    document: Json
    """The members of the body; of a form, its fields, with integers and booleans where they are expected."""
    file_bytes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """The sizes of a form's files, by the name of their field."""


def read_form_request(
    request: RawRequest, *, decisive: Sequence[str], integers: Sequence[str] = (), booleans: Sequence[str] = ()
) -> FormRequest:
    """The request. `integers` and `booleans` name the fields of a form that are no texts. Raises `BodyUnreadable`."""
    if not is_form(request.content_type):
        return FormRequest(decode_request(request.body, decisive=decisive))
    form = read_form(request.body, request.content_type)
    document: dict[str, Any] = dict(form.fields)
    for name in document.keys() & set(integers):
        document[name] = _integer(document[name])
    for name in document.keys() & set(booleans):
        document[name] = _BOOLEANS.get(document[name].lower(), document[name])
    return FormRequest(document, form.file_bytes)


def _integer(text: str) -> int | str:
    """The number that a text is; anything else as it is, to be refused by whoever expects one."""
    plain = text.isascii() and text.isdigit() and len(text) <= _INTEGER_DIGITS_MAX
    return int(text) if plain else text
