"""Picking members out of JSON that goes by in chunks: the same as decoding it whole, for any chunks and any JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.providers.framing.json_members import JsonMembers
from tests.providers.garbling import UNHURRIED
from tests.providers.replay import random_chunks, single_bytes

WANTED = ("usage", "model", 'é"\\')
BYTES_MAX = 65_536

# Names that are wanted, that begin or end like one, and that need escapes.
NAMES = st.sampled_from([*WANTED, "usag", "usages", "a", "", "\n", "\N{SNOWMAN}"]) | st.text(max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=24,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=8)


def found(chunks: Iterable[bytes], *, bytes_max: int = BYTES_MAX) -> dict[str, Any]:
    members = JsonMembers(WANTED, bytes_max=bytes_max)
    for chunk in chunks:
        members.feed(chunk)
    return members.found


@UNHURRIED
@given(OBJECTS, st.sampled_from([None, 1]), st.booleans(), st.integers(0, 2**32))
def test_finds_what_decoding_the_whole_finds(
    document: dict[str, Any], indent: int | None, ascii_only: bool, seed: int
) -> None:
    body = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    expected = {name: value for name, value in document.items() if name in WANTED}
    assert found([body]) == expected
    assert found(single_bytes(body)) == expected
    assert found(random_chunks(body, Random(seed))) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"usage": 1}', {"usage": 1}),
        (b' \n{ "usage" : 1 , "model":"m" } trailing', {"usage": 1, "model": "m"}),
        (b'{"usage":-1.5e3,"model":null}', {"usage": -1500.0, "model": None}),
        (b'{"\\u0075sage":[1,{"usage":2}]}', {"usage": [1, {"usage": 2}]}),
        (b'{"a":{"usage":1},"b":["usage"],"c":"\\"usage\\":1"}', {}),
        (b'{"usage":1,"usage":2}', {"usage": 2}),
        (b'{"usage":1,"usage":nope}', {}),
        (b'{"usage":{"a":1},"model":"m"', {"usage": {"a": 1}, "model": "m"}),
        (b'{"usage":{"a":1', {}),
        (b'{"usage":12', {}),
        (b'{"usage":"\\', {}),
        (b'{"a":"\\\\","model":"m"}', {"model": "m"}),
        (b'[{"usage":1}]', {}),
        (b'"usage"', {}),
        (b'{usage:1,"model":"m"}', {}),
        (b'{"usage" 1,"model":"m"}', {}),
        (b'{"model":"m"]', {"model": "m"}),
        (b"", {}),
        (b"\xff\xfe", {}),
    ],
)
def test_finds_only_complete_members_of_the_outermost_object(body: bytes, expected: dict[str, Any]) -> None:
    assert found([body]) == expected
    assert found(single_bytes(body)) == expected


@UNHURRIED
@given(OBJECTS, st.integers(0, 2**32))
def test_never_raises_on_garbage(document: dict[str, Any], seed: int) -> None:
    random = Random(seed)
    body = bytearray(json.dumps(document).encode())
    for _ in range(random.randrange(1, 6)):
        at = random.randrange(len(body))
        body[at : at + random.randrange(3)] = random.choice((b"", b'"', b"{", b"]", b"\\", b",", b":", b"\xff"))
        if not body:
            return
    whole = found([bytes(body)])
    assert set(whole) <= set(WANTED)
    assert found(single_bytes(bytes(body))) == whole, "garbage is read alike however it is cut"


def test_a_member_larger_than_the_bound_is_left_out_and_the_others_are_not() -> None:
    body = json.dumps({"model": "m", "usage": {"a": "x" * 200}, 'é"\\': 1}).encode()
    assert found([body], bytes_max=100) == {"model": "m", 'é"\\': 1}
    assert found(single_bytes(body), bytes_max=100) == {"model": "m", 'é"\\': 1}
    assert found([b'{"usage":1,"usage":"' + b"x" * 200 + b'"}'], bytes_max=100) == {}


def test_an_endless_name_is_not_kept() -> None:
    members = JsonMembers(WANTED, bytes_max=100)
    members.feed(b'{"')
    for _ in range(1000):
        members.feed(b"usage\\n" * 100)
    members.feed(b'":1,"usage":2}')
    assert members.found == {"usage": 2}


TAIL = b',"usage":{"a":[1,{"b":"x"}]},"model":"m"}'
MEGABYTES = 3
LARGE = {
    "one long string": (b'{"x":"', b"a" * 1000, b'"'),
    "one long string with escapes": (b'{"x":"', b'\\"\\\\' * 250, b'"'),
    "small numbers": (b'{"x":[0', b",1" * 500, b"]"),
    "small strings": (b'{"x":[0', b',"a"' * 250, b"]"),
    "small objects": (b'{"x":[0', b',{"a":[1]}' * 100, b"]"),
    "containers in containers": (b'{"x":[0', b",[[[[]]]]" * 110, b"]"),
    "small members": (b'{"x":0', b',"a":1' * 170, b""),
}


@pytest.mark.parametrize("kind", LARGE)
def test_takes_time_in_proportion_to_the_bytes(kind: str) -> None:
    """30 MB pass in five seconds at most; 3 MB get two here, for slow machines."""
    head, piece, close = LARGE[kind]
    chunk = piece * (65_536 // len(piece))
    started = time.process_time()
    members = JsonMembers(WANTED, bytes_max=BYTES_MAX)
    members.feed(head)
    for _ in range(MEGABYTES * 16):
        members.feed(chunk)
    members.feed(close + TAIL)
    assert members.found == {"usage": {"a": [1, {"b": "x"}]}, "model": "m"}
    assert time.process_time() - started < 2


def test_deep_nesting_takes_time_in_proportion() -> None:
    members = JsonMembers(WANTED, bytes_max=BYTES_MAX)
    members.feed(b'{"x":')
    for bracket in (b"[", b"]"):
        for _ in range(30):
            members.feed(bracket * 65_536)
    members.feed(TAIL)
    assert members.found["model"] == "m"
