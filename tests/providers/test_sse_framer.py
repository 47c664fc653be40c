"""The framer of server-sent events: whole events from any chunks, and every byte comes out as it went in."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.providers.framing.frame import Frame
from policyd.providers.framing.sse import SseFramer
from tests.providers.garbling import UNHURRIED
from tests.providers.replay import random_chunks, single_bytes

LINES = (b"data: a", b"data:b", b"data", b"event: x", b"event:", b": comment", b"id: 1", b"retry: 5", b"junk", b"\xff")
ENDS = (b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"")
PIECES = st.sampled_from([*LINES, *ENDS, b"data: \xc3\xa9", b"\xef\xbb\xbf", b" "])
STREAMS = st.lists(PIECES, max_size=24).map(b"".join)


def frames(*chunks: bytes) -> list[Frame]:
    framer = SseFramer()
    return [frame for chunk in chunks for frame in framer.feed(chunk)] + framer.finish()


def events(stream: bytes) -> list[tuple[str, bytes]]:
    return [(frame.event, frame.data) for frame in frames(stream) if frame.data]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [("", b"a")]),
        (b"data: a\r\n\r\n", [("", b"a")]),
        (b"data: a\r\r", [("", b"a")]),
        (b"data: a\n\r\ndata: b\r\n\n", [("", b"a"), ("", b"b")]),
        (b"event: x\ndata: a\n\ndata: b\n\n", [("x", b"a"), ("", b"b")]),
        (b"data: a\ndata: b\n\n", [("", b"a\nb")]),
        (b"data:a\n\n", [("", b"a")]),
        (b"data:  a \n\n", [("", b" a ")]),
        (b": comment\n\ndata: a\n\n", [("", b"a")]),
        (b": comment\ndata: a\n: another\n\n", [("", b"a")]),
        (b"id: 1\nretry: 9\nunknown: z\ndata: a\n\n", [("", b"a")]),
        (b"data\ndata: a\n\n", [("", b"\na")]),
        (b"data: \n\n", []),
        (b"event: x\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [("", b"a")]),
        (b"\n\n\n\ndata: a\n\n\n\n\n", [("", b"a")]),
        (b"data: a", [("", b"a")]),
        (b"data: a\n", [("", b"a")]),
        (b"data: a\n\ndata: b", [("", b"a"), ("", b"b")]),
        (b'data: {"a": 1}\n\ndata: [DONE]\n\n', [("", b'{"a": 1}'), ("", b"[DONE]")]),
        (b"event: \xff\ndata: \xff\n\n", [("\N{REPLACEMENT CHARACTER}", b"\xff")]),
        (b"data: a\x0bb\x1cc\xc2\x85\n\n", [("", b"a\x0bb\x1cc\xc2\x85")]),
        (b"", []),
    ],
)
def test_events(stream: bytes, expected: list[tuple[str, bytes]]) -> None:
    assert events(stream) == expected


@UNHURRIED
@given(STREAMS, st.integers(0, 2**32))
def test_frames_are_the_same_however_the_stream_is_cut(stream: bytes, seed: int) -> None:
    whole = frames(stream)
    assert frames(*single_bytes(stream)) == whole
    assert frames(*random_chunks(stream, Random(seed))) == whole
    half = Random(seed).randrange(len(stream) + 1)
    assert frames(stream[:half], stream[half:]) == whole


@UNHURRIED
@given(STREAMS, st.integers(0, 2**32), st.integers(4, 40))
def test_no_byte_is_lost_added_or_moved(stream: bytes, seed: int, event_bytes_max: int) -> None:
    for framer in (SseFramer(), SseFramer(event_bytes_max=event_bytes_max)):
        seen = b"".join(
            frame.raw for chunk in random_chunks(stream, Random(seed)) for frame in framer.feed(chunk)
        ) + b"".join(frame.raw for frame in framer.finish())
        assert seen == stream


def test_an_event_comes_out_with_its_last_byte() -> None:
    framer = SseFramer()
    assert framer.feed(b"data: a\n") == []
    assert [frame.data for frame in framer.feed(b"\ndata: b")] == [b"a"]
    assert [frame.data for frame in framer.feed(b"\r\n\r\n")] == [b"b"]


def test_a_cr_that_may_be_half_of_a_crlf_is_waited_for() -> None:
    framer = SseFramer()
    assert framer.feed(b"data: a\r\n\r") == []
    assert [frame.raw for frame in framer.feed(b"\n")] == [b"data: a\r\n\r\n"]
    assert framer.finish() == []


def test_what_is_kept_of_an_endless_event_is_bounded() -> None:
    framer = SseFramer(event_bytes_max=1000)
    seen = [frame for _ in range(100) for frame in framer.feed(b"data: " + b"x" * 94)]
    assert sum(len(frame.raw) for frame in seen) > 8500
    assert not any(frame.data for frame in seen), "a piece of an event passed for an event"
    seen = framer.feed(b"\n\ndata: b\n\n")
    assert [frame.data for frame in seen] == [b"", b"b"], "the next event is read again"


def test_a_large_event_in_small_chunks_takes_time_in_proportion() -> None:
    framer = SseFramer()
    for _ in range(8000):
        assert framer.feed(b"y" * 1024) == []
    assert len(framer.feed(b"\n\n")) == 1
