"""The framer of AWS event streams: whole messages from any chunks, and every byte comes out as it went in."""

from __future__ import annotations

from random import Random
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.providers.framing.event_stream import EventStreamFramer, encode_message
from policyd.providers.framing.frame import Frame
from tests.providers.garbling import UNHURRIED, garbled
from tests.providers.replay import random_chunks, single_bytes

CHUNK = bytes.fromhex(
    "0000004a 0000002a acda5657"
    "0b 3a6576656e742d74797065 07 0005 6368756e6b"
    "0d 3a6d6573736167652d74797065 07 0005 6576656e74"
    "7b226279746573223a226533303d227d ae919f38"
)
"""A message, byte for byte, that AWS's own decoder reads."""

NAMES = st.sampled_from(["messageStart", "contentBlockDelta", "metadata", "chunk", "é", ""])
MESSAGES = st.builds(
    lambda name, payload: encode_message({":event-type": name, ":message-type": "event"}, payload),
    NAMES,
    st.binary(max_size=300),
)
STREAMS = st.lists(MESSAGES, max_size=8).map(b"".join)


def message(name: str, payload: bytes = b"{}", *, kind: str = "event", header: str = ":event-type") -> bytes:
    return encode_message({header: name, ":content-type": "application/json", ":message-type": kind}, payload)


def sealed(headers: bytes, payload: bytes = b"{}") -> bytes:
    """A message with headers that are given as they are on the wire."""
    lengths = (16 + len(headers) + len(payload)).to_bytes(4) + len(headers).to_bytes(4)
    prelude = lengths + crc32(lengths).to_bytes(4)
    content = prelude + headers + payload
    return content + crc32(content).to_bytes(4)


def frames(*chunks: bytes) -> list[Frame]:
    framer = EventStreamFramer()
    return [frame for chunk in chunks for frame in framer.feed(chunk)] + framer.finish()


def events(stream: bytes) -> list[tuple[str, bytes]]:
    return [(frame.event, frame.data) for frame in frames(stream)]


def test_a_message_on_the_wire() -> None:
    payload = b'{"bytes":"e30="}'
    assert frames(CHUNK) == [Frame(CHUNK, "chunk", payload)]
    assert encode_message({":event-type": "chunk", ":message-type": "event"}, payload) == CHUNK


def test_a_message_is_named_by_what_it_is() -> None:
    stream = b"".join(
        (
            message("chunk", b"1"),
            message("throttlingException", b"2", kind="exception", header=":exception-type"),
            message("InternalFailure", b"", kind="error", header=":error-code"),
            message("chunk", b"4", kind="unheard-of"),
            encode_message({":event-type": "plain"}, b"5"),
            encode_message({}, b"6"),
        )
    )
    assert events(stream) == [
        ("chunk", b"1"),
        ("throttlingException", b"2"),
        ("InternalFailure", b""),
        ("", b"4"),
        ("plain", b"5"),
        ("", b"6"),
    ]


def test_headers_of_every_type_are_passed_over() -> None:
    types = [(0, b""), (1, b""), (2, b"1"), (3, b"12"), (4, b"1234"), (5, b"12345678"), (6, b"\x00\x02ab")]
    types += [(8, b"12345678"), (9, b"1234567812345678")]
    headers = b"".join(b"\x01a" + bytes([kind]) + value for kind, value in types)
    named = b"\x0b:event-type\x07\x00\x05chunk"
    assert events(sealed(headers + named)) == [("chunk", b"{}")]


@pytest.mark.parametrize(
    "headers",
    [
        b"\x01",
        b"\x05ab",
        b"\x01a",
        b"\x01a\x0a",
        b"\x01a\x07\x00",
        b"\x01a\x07\x00\x05chun",
        b"\x01a\x09short",
        b"\x01a\x07\x00\x01\xff",
        b"\x01\xff\x07\x00\x01a",
    ],
)
def test_a_message_with_unreadable_headers_is_no_event(headers: bytes) -> None:
    broken, good = sealed(headers), message("chunk")
    assert frames(broken + good) == [Frame(broken, "", b""), Frame(good, "chunk", b"{}")]


def test_a_message_with_a_wrong_checksum_passes_and_is_no_event() -> None:
    good = message("chunk", b"payload")
    for position in range(12, len(good)):
        wrong = bytearray(good)
        wrong[position] ^= 1
        assert frames(bytes(wrong) + good) == [Frame(bytes(wrong), "", b""), Frame(good, "chunk", b"payload")]


def test_after_a_wrong_prelude_nothing_is_an_event() -> None:
    good = message("chunk")
    for position in range(12):
        wrong = bytearray(good)
        wrong[position] ^= 1
        found = frames(bytes(wrong), good)
        assert [(frame.event, frame.data) for frame in found] == [("", b"")] * len(found)
        assert b"".join(frame.raw for frame in found) == bytes(wrong) + good


def test_headers_longer_than_their_message_are_a_wrong_prelude() -> None:
    lengths = (16).to_bytes(4) + (1).to_bytes(4)
    stream = lengths + crc32(lengths).to_bytes(4) + b"1234" + message("chunk")
    assert {frame.event for frame in frames(stream)} == {""}


def test_a_message_that_broke_off_passes() -> None:
    good = message("chunk")
    for end in range(1, len(good)):
        assert frames(good[:end]) == [Frame(good[:end], "", b"")]
    assert frames() == []


def test_a_message_comes_out_with_its_last_byte() -> None:
    framer = EventStreamFramer()
    good = message("chunk")
    assert framer.feed(good[:-1]) == []
    assert framer.feed(good[-1:] + good[:5]) == [Frame(good, "chunk", b"{}")]


def test_an_endless_message_is_not_kept() -> None:
    framer = EventStreamFramer(message_bytes_max=100)
    large, good = message("chunk", b"x" * 1000), message("next", b"1")
    found = [frame for chunk in single_bytes(large + good) for frame in framer.feed(chunk)]
    assert b"".join(frame.raw for frame in found) == large + good
    assert [frame.event for frame in found if frame.event] == ["next"]
    # As soon as its length is known it passes as it comes.
    assert [len(frame.raw) for frame in found[:-1]] == [12] + [1] * (len(large) - 12)


@UNHURRIED
@given(STREAMS, st.randoms(use_true_random=False))
def test_chunks_make_no_difference(stream: bytes, random: Random) -> None:
    whole = frames(stream)
    assert frames(*random_chunks(stream, random)) == whole
    assert frames(*single_bytes(stream)) == whole
    assert b"".join(frame.raw for frame in whole) == stream


@UNHURRIED
@given(STREAMS, st.randoms(use_true_random=False))
def test_garbled_streams_pass_byte_for_byte(stream: bytes, random: Random) -> None:
    broken = garbled(stream, random)
    found = frames(*random_chunks(broken, random))
    assert b"".join(frame.raw for frame in found) == broken
