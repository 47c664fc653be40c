"""Editing JSON by splicing: the result means what was asked for, and the rest keeps every byte."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.providers.framing.json_edit import may_hold, members, remove_member, set_member
from tests.providers.garbling import UNHURRIED

NAMES = st.sampled_from(["a", "b", "c", "x_1", ""]) | st.text(max_size=3)
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=6)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=16
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=6)
PATHS = st.lists(st.sampled_from(["a", "b", "c", "x_1"]), min_size=1, max_size=3)


class Writer:
    """Writes JSON in any of the ways it may be written: white space, escapes, repeated names."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def write(self, value: Any) -> str:
        space = self._space
        if isinstance(value, dict):
            parts = [
                f"{space()}{self._text(name)}{space()}:{space()}{self.write(inner)}{space()}"
                for name, inner in value.items()
            ]
            return "{" + (",".join(parts) or space()) + "}"
        if isinstance(value, list):
            return "[" + (",".join(f"{space()}{self.write(inner)}{space()}" for inner in value) or space()) + "]"
        return self._text(value) if isinstance(value, str) else json.dumps(value)

    def _space(self) -> str:
        return self._random.choice(("", "", " ", "\n\t", "\r\n "))

    def _text(self, text: str) -> str:
        units = text.encode("utf-16-be", "surrogatepass")
        escaped = "".join(f"\\u{units[at]:02x}{units[at + 1]:02X}" for at in range(0, len(units), 2))
        return self._random.choice((json.dumps(text), json.dumps(text, ensure_ascii=False), f'"{escaped}"'))


def written(document: dict[str, Any], seed: int) -> bytes:
    return f" {Writer(seed).write(document)}\n".encode("utf-8", "surrogatepass")


def with_set(document: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    inside = document if isinstance(document, dict) else {}
    return {**inside, path[0]: with_set(inside.get(path[0]), path[1:], value)}


def without(document: Any, path: Sequence[str]) -> Any:
    if not isinstance(document, dict):
        return document
    if len(path) == 1:
        return {name: value for name, value in document.items() if name != path[0]}
    return {name: without(value, path[1:]) if name == path[0] else value for name, value in document.items()}


def is_subsequence(part: bytes, whole: bytes) -> bool:
    rest = iter(whole)
    return all(byte in rest for byte in part)


@UNHURRIED
@given(OBJECTS, PATHS, VALUES, st.integers(0, 2**32))
def test_set_means_what_it_says(document: dict[str, Any], path: list[str], value: Any, seed: int) -> None:
    body = written(document, seed)
    edited = set_member(body, path, json.dumps(value).encode())
    assert json.loads(edited) == with_set(document, path, value)
    unedited = {name: span for name, span in spans(body).items() if name != path[0]}
    assert {name: span for name, span in spans(edited).items() if name != path[0]} == unedited


@UNHURRIED
@given(OBJECTS, PATHS, st.integers(0, 2**32))
def test_remove_means_what_it_says(document: dict[str, Any], path: list[str], seed: int) -> None:
    body = written(document, seed)
    edited = remove_member(body, path)
    assert json.loads(edited) == without(document, path)
    assert is_subsequence(edited, body), "something was added or changed"
    if json.loads(edited) == json.loads(body):
        assert edited == body


@UNHURRIED
@given(OBJECTS, PATHS, st.integers(0, 2**32))
def test_removing_what_was_added_gives_the_same_bytes_back(
    document: dict[str, Any], path: list[str], seed: int
) -> None:
    document.pop(path[0], None)
    body = written(document, seed)
    assert remove_member(set_member(body, path, b"1"), path[:1]) == body


def spans(body: bytes) -> dict[str, bytes]:
    """Each member of the outermost object, exactly as it is written."""
    return {member.name: body[member.start : member.value_end] for member in members(body)}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", b'{"o":{"u":true}}'),
        (b" { \n} ", b' {"o":{"u":true} \n} '),
        (b'{"a":1}', b'{"o":{"u":true},"a":1}'),
        (b'{"a":1,"o":null}', b'{"a":1,"o":{"u":true}}'),
        (b'{"o" : {} ,"a":1}', b'{"o" : {"u":true} ,"a":1}'),
        (b'{"o":{"v":1}}', b'{"o":{"u":true,"v":1}}'),
        (b'{"o":{ "u" : false }}', b'{"o":{ "u" : true }}'),
        (b'{"o":{"u":1,"u":2},"o":3}', b'{"o":{"u":true,"u":true},"o":{"u":true}}'),
        (b'{"\\u006f":{"\\u0075":false}}', b'{"\\u006f":{"\\u0075":true}}'),
        (b'{"a":"\\"o\\":{}","b":[{"o":1}]}', b'{"o":{"u":true},"a":"\\"o\\":{}","b":[{"o":1}]}'),
    ],
)
def test_set(body: bytes, expected: bytes) -> None:
    assert set_member(body, ("o", "u"), b"true") == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a":1}', b"{}"),
        (b'{ "a" : 1 }', b"{  }"),
        (b'{"a":1,"b":2}', b'{"b":2}'),
        (b'{"b":2, "a":1}', b'{"b":2}'),
        (b'{"b":2 ,"a":1 , "c":3}', b'{"b":2 , "c":3}'),
        (b'{ "a":1 , "b":2}', b'{  "b":2}'),
        (b'{"a":1,"a":2,"b":3,"a":4}', b'{"b":3}'),
        (b'{"b":{"a":1}}', b'{"b":{"a":1}}'),
        (b'{"\\u0061":[{"x":"}"}],"b":1}', b'{"b":1}'),
    ],
)
def test_remove(body: bytes, expected: bytes) -> None:
    assert remove_member(body, ("a",)) == expected


def test_remove_goes_into_every_object_on_the_way() -> None:
    body = b'{"m":{"u":1,"v":2},"m":{"u":3},"m":[{"u":4}],"u":5}'
    assert remove_member(body, ("m", "u")) == b'{"m":{"v":2},"m":{},"m":[{"u":4}],"u":5}'


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b'{"a"', b'{"a":', b'{"a":1', b'{"a":{"b":1}', b"{a:1}", b'{"a":"'])
def test_what_is_no_json_object_is_an_error_and_never_a_loop(body: bytes) -> None:
    with pytest.raises(ValueError, match="not"):
        remove_member(body, ("a",))


def test_whether_a_name_may_be_there() -> None:
    assert may_hold(b'{"model":1}', "model")
    assert may_hold(b'{"model":1,"model":2}', "model", times=2)
    assert not may_hold(b'{"model":1,"text":"the \\"model\\""}', "model", times=2)
    assert not may_hold(b'{"modell":1}', "model")
    for escaped in (b"\\u006dodel", b"mode\\u006C", b"mod\\u0065l"):
        assert may_hold(b'{"' + escaped + b'":1}', "model")
    assert may_hold(b'{"max\\u005ftokens":1}', "max_tokens")
    assert not may_hold(b'{"a":"\\u00e9\\u2603"}', "model"), "other escapes are common and hide no name"
