"""The framer of a stream that is one JSON array: whole elements from any chunks, every byte comes out as it went in."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.providers.framing.frame import Frame
from policyd.providers.framing.json_array import JsonArrayFramer
from tests.providers.garbling import JSON, UNHURRIED, garbled
from tests.providers.replay import random_chunks, single_bytes

OBJECTS = st.dictionaries(st.text(max_size=5), JSON, max_size=3)
TRICKY: list[Any] = [{"a": '"]}[{,\\'}, {'b\\": [': {"c": [[[{"d": "}]"}]]]}}, [], {}, {"é\n": "\\\\"}]


def frames(*chunks: bytes) -> list[Frame]:
    framer = JsonArrayFramer()
    return [frame for chunk in chunks for frame in framer.feed(chunk)] + framer.finish()


def elements(*chunks: bytes) -> list[bytes]:
    return [frame.data for frame in frames(*chunks) if frame.data]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b'[{"a":1}]', [b'{"a":1}']),
        (b'[{"a":1}\n,\r\n{"b":2}\n]\n', [b'{"a":1}', b'{"b":2}']),
        (b' \n[ {"a": [1, {}]} ]', [b'{"a": [1, {}]}']),
        (b"[]", []),
        (b"[[1],[2]]", [b"[1]", b"[2]"]),
        (b'[1,"{]",{"a":1},null,"\\"{"]', [b'{"a":1}']),
        (b'[{"a":"\\"}"}]', [b'{"a":"\\"}"}']),
        (b'[{"a":1}]{"b":2}', [b'{"a":1}']),
        (b'{"error":{"code":400}}', []),
        (b"data: x\n\n", []),
        (b'[{"a":1},{"b":', [b'{"a":1}']),
        (b"", []),
    ],
)
def test_elements(stream: bytes, expected: list[bytes]) -> None:
    assert elements(stream) == expected
    assert elements(*single_bytes(stream)) == expected


@UNHURRIED
@given(st.lists(OBJECTS, max_size=6), st.integers(0, 2**32), st.sampled_from([None, 0, 2]))
def test_elements_are_the_same_however_the_stream_is_cut(value: list[Any], seed: int, indent: int | None) -> None:
    stream = json.dumps(value + TRICKY, indent=indent).encode()
    for chunks in ([stream], single_bytes(stream), random_chunks(stream, Random(seed))):
        assert [json.loads(element) for element in elements(*chunks)] == value + TRICKY


@UNHURRIED
@given(st.lists(OBJECTS, max_size=6), st.integers(0, 2**32), st.integers(4, 40))
def test_no_byte_is_lost_added_or_moved(value: list[Any], seed: int, element_bytes_max: int) -> None:
    random = Random(seed)
    stream = garbled(json.dumps(value + TRICKY).encode(), random)
    for framer in (JsonArrayFramer(), JsonArrayFramer(element_bytes_max=element_bytes_max)):
        seen = [frame for chunk in random_chunks(stream, random) for frame in framer.feed(chunk)] + framer.finish()
        assert b"".join(frame.raw for frame in seen) == stream
        assert all(frame.data in frame.raw for frame in seen)


def test_an_element_comes_out_with_its_last_byte_and_the_end_with_its_bracket() -> None:
    framer = JsonArrayFramer()
    assert framer.feed(b'[{"a":') == []
    assert [frame.raw for frame in framer.feed(b'1}\n,{"b"')] == [b'[{"a":1}']
    assert [frame.raw for frame in framer.feed(b":2}\n]")] == [b'\n,{"b":2}', b"\n]"]
    assert framer.finish() == []


def test_what_is_no_array_passes_at_once() -> None:
    framer = JsonArrayFramer()
    assert framer.feed(b'{"error":') == [Frame(b'{"error":', "", b"")]
    assert framer.feed(b"{}}") == [Frame(b"{}}", "", b"")]


@pytest.mark.parametrize("whole", [[], [{"a": 1}], [{"a": 1}, {"b": 2}]])
def test_a_cut_array_ends_with_one_more_element(whole: list[Any]) -> None:
    framer = JsonArrayFramer()
    cut_short = json.dumps([*whole, {"c": 3}])[:-3].encode()
    passed = b"".join(frame.raw for frame in framer.feed(cut_short))
    assert json.loads(passed + framer.end_with(b'{"error":{}}')) == [*whole, {"error": {}}]


def test_what_is_kept_of_an_endless_element_is_bounded() -> None:
    framer = JsonArrayFramer(element_bytes_max=1000)
    framer.feed(b'[{"a":"')
    seen = [frame for _ in range(100) for frame in framer.feed(b"\\n}]" * 25)]
    assert sum(len(frame.raw) for frame in seen) > 8500
    seen += framer.feed(b'"},{"b":1}]')
    assert [frame.data for frame in seen if frame.data] == [b'{"b":1}'], "the next element is read again"


def test_a_large_element_in_small_chunks_takes_time_in_proportion() -> None:
    framer = JsonArrayFramer()
    framer.feed(b'[{"a":[{"b":"')
    for _ in range(8000):
        assert framer.feed(b"y" * 1024) == []
    assert len(framer.feed(b'"}]}]')[0].data) > 8_000_000


def test_deep_nesting_is_gone_over_once() -> None:
    stream = b"[" * 100_000 + b"]" * 100_000
    assert len(elements(stream)[0]) == 199_998
    assert elements(b"[" * 1_000_000) == []
