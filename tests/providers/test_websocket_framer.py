"""WebSocket frames: any chunking gives the same units, nothing is lost, and what breaks the protocol is told."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol

from policyd.providers.framing.websocket import Kind, Unit, WebSocketFramer, encode_close, encode_text
from tests.providers.frames import BINARY, CLOSE, CONTINUATION, FIN, PING, TEXT, frame


def read(stream: bytes, *, from_client: bool = False) -> tuple[list[Unit], WebSocketFramer]:
    framer = WebSocketFramer(from_client=from_client)
    return framer.feed(stream), framer


@st.composite
def traffic(draw: st.DrawFn) -> tuple[bool, bytes, list[bytes]]:
    """Who speaks, the bytes, and the messages in them: fragmented, with control frames in between."""
    from_client = draw(st.booleans())
    messages = draw(st.lists(st.text(max_size=200), max_size=6))
    protocol = FrameProtocol(client=from_client, extensions=[])
    stream = b""
    for message in messages:
        cuts = sorted(draw(st.sets(st.integers(0, len(message)), max_size=3)))
        pieces = [message[a:b] for a, b in pairwise([0, *cuts, len(message)])]
        for index, piece in enumerate(pieces):
            stream += bytes(protocol.send_data(piece, fin=index == len(pieces) - 1))
            if draw(st.booleans()):
                stream += bytes(protocol.ping(b"still there?") if draw(st.booleans()) else protocol.pong())
    return from_client, stream, [message.encode() for message in messages]


@given(traffic(), st.data())
def test_any_chunking_gives_the_same_messages_and_keeps_every_byte(
    said: tuple[bool, bytes, list[bytes]], data: st.DataObject
) -> None:
    from_client, stream, messages = said
    framer = WebSocketFramer(from_client=from_client)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=20)))
    units = [unit for a, b in pairwise([0, *cuts, len(stream)]) for unit in framer.feed(stream[a:b])]
    assert framer.violation is None
    assert [unit.data for unit in units if unit.kind is Kind.MESSAGE] == messages
    assert sum(len(unit.raw) for unit in units) == len(stream)
    # What went on is the same traffic to whoever reads it next.
    again, _ = read(b"".join(unit.raw for unit in units), from_client=from_client)
    assert again == units


@given(traffic())
def test_one_byte_at_a_time(said: tuple[bool, bytes, list[bytes]]) -> None:
    from_client, stream, _ = said
    framer = WebSocketFramer(from_client=from_client)
    slowly = [unit for index in range(len(stream)) for unit in framer.feed(stream[index : index + 1])]
    assert slowly == read(stream, from_client=from_client)[0]


@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_make_it_raise(stream: bytes, from_client: bool) -> None:
    units, framer = read(stream, from_client=from_client)
    assert stream.startswith(b"".join(unit.raw for unit in units)) or any(u.kind is Kind.CONTROL for u in units)
    if framer.violation is not None:
        assert framer.feed(b"more") == []


def test_a_control_frame_overtakes_the_message_that_it_interrupts() -> None:
    first, ping, last = frame(b"one ", first=TEXT), frame(b"?", opcode=PING), frame(b"message", first=FIN)
    units, _ = read(first + ping + last)
    assert units == [Unit(Kind.CONTROL, ping), Unit(Kind.MESSAGE, first + last, b"one message")]


def test_a_binary_message_is_read_like_a_text() -> None:
    units, _ = read(frame(b"{}", opcode=BINARY))
    assert [unit.data for unit in units] == [b"{}"]


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe8bye", b"\x0f\xa0"])
def test_nothing_is_read_after_a_close(payload: bytes) -> None:
    close = frame(payload, opcode=CLOSE)
    units, framer = read(close + frame(b"late"))
    assert units == [Unit(Kind.CLOSE, close)]
    assert framer.is_closed
    assert framer.violation is None
    assert framer.feed(frame(b"later")) == []


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (frame(b"masked by a server", masked=True), 1002),
        (frame(b"compressed", first=FIN | 0x40 | TEXT), 1002),
        (frame(b"", first=FIN | 3), 1002),
        (frame(b"", first=FIN | 11), 1002),
        (frame(b"", first=PING), 1002),
        (frame(b"x" * 126, opcode=PING), 1002),
        (frame(b"nothing to go on with", opcode=CONTINUATION), 1002),
        (frame(b"one", first=TEXT) + frame(b"another"), 1002),
        (frame(b"\x03", opcode=CLOSE), 1002),
        (frame(b"\x03\xec", opcode=CLOSE), 1002),
        (frame(b"\x03\xe8\xff", opcode=CLOSE), 1007),
        (frame(b"\xff\xfe"), 1007),
        (frame(b"\xc3"), 1007),
        (frame(b"\xc3", first=TEXT) + frame(b"", first=FIN), 1007),
        (b"\x81\x7e\x00\x05hello", 1002),
        (b"\x81\x7f" + (1 << 40).to_bytes(8), 1009),
        (b"\x81\x7f" + (1 << 63).to_bytes(8), 1009),
    ],
)
def test_a_violation_ends_it(stream: bytes, code: int) -> None:
    units, framer = read(frame(b"before") + stream + frame(b"after"))
    assert [unit.data for unit in units if unit.kind is Kind.MESSAGE] == [b"before"]
    assert framer.violation is not None
    assert framer.violation.code == code
    assert framer.feed(frame(b"later")) == []


def test_a_client_has_to_mask() -> None:
    _, framer = read(frame(b"in clear"), from_client=True)
    assert framer.violation is not None
    assert framer.violation.code == 1002


@pytest.mark.parametrize("fragment", [b"", b"x" * 90])
def test_endless_fragments_are_ended(fragment: bytes) -> None:
    framer = WebSocketFramer(from_client=False, message_bytes_max=1_000)
    framer.feed(frame(fragment, first=TEXT))
    kept = 0
    while framer.violation is None:
        assert framer.feed(frame(fragment, first=CONTINUATION)) == []
        kept += 1
        assert kept <= 1_000
    assert framer.violation.code == 1009


def test_a_flood_of_pings_is_passed_and_not_kept() -> None:
    framer = WebSocketFramer(from_client=False, message_bytes_max=1_000)
    flood = frame(b"!" * 125, opcode=PING) * 1_000
    assert b"".join(unit.raw for unit in framer.feed(flood)) == flood
    assert framer.violation is None


@pytest.mark.parametrize("from_client", [True, False])
def test_what_is_written_is_read(from_client: bool) -> None:
    units, framer = read(
        encode_text("zażółć".encode(), from_client=from_client)
        + encode_close(1008, "é" * 100, from_client=from_client),
        from_client=from_client,
    )
    assert [unit.kind for unit in units] == [Kind.MESSAGE, Kind.CLOSE]
    assert units[0].data == "zażółć".encode()
    assert framer.violation is None
