"""Reading a request's body strictly: what decides the price has to be what it should be, or the request is refused.

Shared by the wire formats. Every function that refuses raises `BodyUnreadable` with a message that names the field and
what was expected. `null` counts as absent, as it does for the providers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

from policyd.core.errors import BodyUnreadable
from policyd.providers.base import CacheWrite
from policyd.providers.framing.json_edit import may_hold_any, members

Json = Mapping[str, Any]
"""A decoded JSON object."""


def decode_request(body: bytes, *, decisive: Sequence[str]) -> Json:
    """The request as a JSON object.

    `decisive` names the members that the price depends on. Parsers differ in which of two equal names counts, so a body
    that gives one of them two different values is refused: the provider could see another request than we do. So is one
    that spells such a name in another case: parsers in Go, Ollama's for one, take it for the same, and the last counts.
    """
    try:
        document = msgspec.json.decode(body)
    except UnicodeDecodeError:
        raise BodyUnreadable("the body is not UTF-8") from None
    except RecursionError:
        raise BodyUnreadable("the body is nested too deeply") from None
    except msgspec.DecodeError as error:
        raise BodyUnreadable(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BodyUnreadable("the body has to be a JSON object")
    names = tuple(decisive)
    _refuse_other_case(document, decisive=names)
    if may_hold_any(body, names, times=2):
        _refuse_contradictions(body, frozenset(decisive))
    return document


def _refuse_other_case(document: Json, *, decisive: tuple[str, ...]) -> None:
    by_folded = _by_folded(decisive)
    for name in document:
        if name not in decisive and (meant := by_folded.get(name.casefold())) is not None:
            raise BodyUnreadable(f"{meant}: spelt in another case")


@cache
def _by_folded(names: tuple[str, ...]) -> Mapping[str, str]:
    return {name.casefold(): name for name in names}


def _refuse_contradictions(body: bytes, decisive: frozenset[str]) -> None:
    values: dict[str, Any] = {}
    for member in members(body):
        if member.name in decisive:
            value = msgspec.json.decode(body[member.value_start : member.value_end])
            # Compared as JSON text: to Python 1, 1.0 and true are equal.
            text = msgspec.json.encode(value)
            if values.setdefault(member.name, text) != text:
                raise BodyUnreadable(f"{member.name}: given twice, with different values")


def required_text(document: Json, name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise BodyUnreadable(f"{name}: expected a text that is not empty, got {_kind(value)}")
    return value


def optional_text(document: Json, name: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise BodyUnreadable(f"{name}: expected a text, got {_kind(value)}")
    return value


def optional_integer(document: Json, name: str, *, minimum: int, maximum: int, inside: str = "") -> int | None:
    """`inside` says which object of the body `document` is (`tools[0].`)."""
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise BodyUnreadable(f"{inside}{name}: expected an integer, got {_kind(value)}")
    if not minimum <= value <= maximum:
        raise BodyUnreadable(f"{inside}{name}: expected an integer from {minimum} to {maximum}")
    return value


def optional_boolean(document: Json, name: str, *, inside: str = "") -> bool | None:
    """`inside` says which object of the body `document` is (`stream_options.`)."""
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise BodyUnreadable(f"{inside}{name}: expected true or false, got {_kind(value)}")
    return value


def optional_object(document: Json, name: str) -> Json:
    """The object; an empty one where it is absent."""
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BodyUnreadable(f"{name}: expected an object, got {_kind(value)}")
    return value


def optional_objects(document: Json, name: str) -> list[Json]:
    """The array of objects; an empty one where it is absent."""
    value = document.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise BodyUnreadable(f"{name}: expected an array of objects, got {_kind(value)}")
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise BodyUnreadable(f"{name}[{index}]: expected an object, got {_kind(item)}")
    return value


def required_objects(document: Json, name: str) -> list[Json]:
    if document.get(name) is None:
        raise BodyUnreadable(f"{name}: expected an array of objects, got {_kind(document.get(name))}")
    return optional_objects(document, name)


def fields_at(document: Json, paths: Sequence[str]) -> dict[str, str]:
    """The fields at the dotted `paths` that are present; numbers and booleans as JSON text, objects and arrays not."""
    fields = {}
    for path in paths:
        value: Any = document
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str):
            fields[path] = value
        elif isinstance(value, bool | int | float):
            fields[path] = msgspec.json.encode(value).decode()
    return fields


def cache_write_asked(value: Any) -> CacheWrite:
    """The cache write that an object's own `cache_control` asks for (Anthropic's form; five minutes unless it says)."""
    control = value.get("cache_control") if isinstance(value, dict) else None
    if not isinstance(control, dict):
        return CacheWrite.NONE
    return CacheWrite.LONG if control.get("ttl") == "1h" else CacheWrite.SHORT


def dearest_cache_write(asked: Collection[CacheWrite]) -> CacheWrite:
    """The dearest of the cache writes that are asked for; none where nothing is asked."""
    return next((kind for kind in (CacheWrite.LONG, CacheWrite.SHORT) if kind in asked), CacheWrite.NONE)


def _kind(value: Any) -> str:
    """What a value is, in JSON's words and without showing it."""
    return "an empty text" if value == "" else _KINDS[type(value)]


_KINDS = {
    type(None): "nothing",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "an array",
    dict: "an object",
}


def refuse_contradictions_inside(body: bytes, outer: Sequence[str], *, decisive: Sequence[str]) -> None:
    """Refuses a body in which a member named in `outer` gives one of `decisive` twice, with different values.

    `body` is valid JSON. As with its outermost members, the provider could heed another one than we do.
    """
    if not may_hold_any(body, tuple(decisive), times=2):
        return
    for member in members(body):
        if member.name not in outer or not body.startswith(b"{", member.value_start):
            continue
        values: dict[str, Any] = {}
        for inner in members(body, member.value_start):
            value = msgspec.json.decode(body[inner.value_start : inner.value_end])
            if inner.name in decisive and values.setdefault(inner.name, value) != value:
                raise BodyUnreadable(f"{member.name}.{inner.name}: given twice, with different values")
