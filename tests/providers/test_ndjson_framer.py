"""The framer of JSON lines: whole lines from any chunks, and every byte comes out as it went in."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.providers.framing.choice import framer_for
from policyd.providers.framing.frame import Frame
from policyd.providers.framing.ndjson import NdjsonFramer
from tests.providers.garbling import UNHURRIED
from tests.providers.replay import random_chunks, single_bytes

PIECES = st.sampled_from(
    [b'{"a":1}', b"\n", b"\r\n", b"\r", b" ", b"\t", b"junk", b"\xc3\xa9", b"\xe2\x80\xa8", b"\xff"]
)
STREAMS = st.lists(PIECES, max_size=24).map(b"".join)


def frames(*chunks: bytes) -> list[Frame]:
    framer = NdjsonFramer()
    return [frame for chunk in chunks for frame in framer.feed(chunk)] + framer.finish()


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"{}\n", [b"{}"]),
        (b"{}\r\n[]\r\n", [b"{}", b"[]"]),
        (b"{}\n\n\n[]\n", [b"{}", b"[]"]),
        (b" {} \t\n", [b"{}"]),
        (b"{}", [b"{}"]),
        (b'{}\n{"a', [b"{}", b'{"a']),
        (b"\n\n", []),
        (b" \r\n", []),
        (b'"\xe2\x80\xa8\x0b\xc2\x85"\n', [b'"\xe2\x80\xa8\x0b\xc2\x85"']),
        (b"", []),
    ],
)
def test_events(stream: bytes, expected: list[bytes]) -> None:
    seen = frames(stream)
    assert [frame.data for frame in seen if frame.data] == expected
    assert not any(frame.event for frame in seen)


@UNHURRIED
@given(STREAMS, st.integers(0, 2**32))
def test_frames_are_the_same_however_the_stream_is_cut(stream: bytes, seed: int) -> None:
    whole = frames(stream)
    assert frames(*single_bytes(stream)) == whole
    assert frames(*random_chunks(stream, Random(seed))) == whole
    half = Random(seed).randrange(len(stream) + 1)
    assert frames(stream[:half], stream[half:]) == whole


@UNHURRIED
@given(STREAMS, st.integers(0, 2**32), st.integers(1, 40))
def test_no_byte_is_lost_added_or_moved(stream: bytes, seed: int, line_bytes_max: int) -> None:
    for framer in (NdjsonFramer(), NdjsonFramer(line_bytes_max=line_bytes_max)):
        seen = [frame.raw for chunk in random_chunks(stream, Random(seed)) for frame in framer.feed(chunk)]
        assert b"".join(seen + [frame.raw for frame in framer.finish()]) == stream


def test_an_event_comes_out_with_the_end_of_its_line() -> None:
    framer = NdjsonFramer()
    assert framer.feed(b'{"a":') == []
    assert [frame.data for frame in framer.feed(b'1}\n{"b"')] == [b'{"a":1}']
    assert [frame.data for frame in framer.feed(b":2}\n")] == [b'{"b":2}']
    assert framer.finish() == []


def test_what_is_kept_of_an_endless_line_is_bounded() -> None:
    framer = NdjsonFramer(line_bytes_max=1000)
    seen = [frame for _ in range(100) for frame in framer.feed(b"x" * 100)]
    assert sum(len(frame.raw) for frame in seen) > 8500
    assert not any(frame.data for frame in seen), "a piece of a line passed for an event"
    assert [frame.data for frame in framer.feed(b"x\n{}\n")] == [b"", b"{}"], "the next line is read again"


def test_a_long_line_in_small_chunks_takes_time_in_proportion() -> None:
    framer = NdjsonFramer()
    for _ in range(8000):
        assert framer.feed(b"y" * 1024) == []
    assert len(framer.feed(b"\n")) == 1


@pytest.mark.parametrize(
    "content_type",
    ["application/x-ndjson", "application/ndjson", "application/jsonl", "Application/Stream+JSON; charset=utf-8"],
)
def test_is_chosen_by_the_content_type(content_type: str) -> None:
    assert isinstance(framer_for(content_type), NdjsonFramer)
