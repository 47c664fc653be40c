"""Whatever comes in: frames of the server's own, an orderly end at worst, no exception, and bounded memory."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from policyd.h2rpc import frames
from policyd.h2rpc.limits import Limits
from policyd.h2rpc.messages import prefixed
from policyd.h2rpc.session import Session
from tests.h2rpc.peer import PATH, REQUEST, Peer, continuation, data, headers, ping, rst_stream, window_update
from tests.h2rpc.services import Echo, NoEdge

LIMITS = Limits(
    streams_max=5, message_bytes_max=1000, received_bytes_max=3000, stream_window_bytes=65_535, nuisances_max=50
)

stream_ids = st.sampled_from([0, 1, 1, 3, 3, 5, 7, 2, 2**31 - 1])

any_frame = st.builds(
    frames.frame,
    st.integers(0, 12),
    st.integers(0, 255),
    stream_ids,
    st.one_of(st.binary(max_size=20), st.just(REQUEST), st.binary(min_size=8, max_size=8)),
)

good_frame = st.one_of(
    st.builds(headers, stream_ids, end_stream=st.booleans(), end_headers=st.booleans()),
    st.builds(continuation, stream_ids, st.just(b""), end_headers=st.booleans()),
    st.builds(data, stream_ids, st.binary(max_size=40).map(prefixed), end_stream=st.booleans()),
    st.builds(data, stream_ids, st.binary(max_size=1500)),
    st.builds(rst_stream, stream_ids),
    st.builds(window_update, stream_ids, st.sampled_from([0, 1, 70_000, 2**31 - 1])),
    st.builds(ping),
    st.builds(frames.settings, st.dictionaries(st.integers(1, 6), st.sampled_from([0, 1, 100, 16_384, 2**31 - 1]))),
)


def mutated(content: bytes, places: list[tuple[int, int]]) -> bytes:
    changed = bytearray(content)
    for place, value in places:
        if changed:
            changed[place % len(changed)] = value
    return bytes(changed)


conversations = st.builds(
    mutated,
    st.lists(st.one_of(good_frame, good_frame, any_frame), max_size=30).map(b"".join),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=3),
)


@given(content=st.one_of(conversations, st.binary(max_size=300)), greets=st.booleans(), size=st.integers(1, 400))
@settings(max_examples=500)
def test_any_bytes(content: bytes, greets: bool, size: int) -> None:
    session = Session({PATH: Echo}, LIMITS, NoEdge())
    if greets:
        session.receive(frames.PREFACE + frames.settings({}) + frames.SETTINGS_ACK, now_ms=0)
    output = session.connection.take_output()
    for at in range(0, len(content), size):
        session.receive(content[at : at + size], now_ms=0)
        output += session.connection.take_output()
        assert session.open_calls <= session.connection.open_streams <= LIMITS.streams_max
        assert 0 <= session._received_bytes <= LIMITS.received_bytes_max + LIMITS.stream_window_bytes
    # What the server says are whole frames, and a last word where it closes the connection.
    said = list(frames.FrameReader(frame_bytes_max=2**24 - 1).frames(output))
    assert sum(frames.HEADER_BYTES + len(frame.payload) for frame in said) == len(output)
    if session.connection.is_closed:
        assert said[-1].kind == frames.GOAWAY
        assert session.open_calls == 0
    session.abandon()
    assert (session.open_calls, session._received_bytes) == (0, 0)


@given(blocks=st.lists(st.binary(max_size=60), max_size=5))
@settings(max_examples=300)
def test_any_header_blocks(blocks: list[bytes]) -> None:
    peer = Peer()
    peer.say(frames.PREFACE + frames.settings({}))
    for number, block in enumerate(blocks):
        peer.say(headers(1 + 2 * number, block))
    assert peer.connection.fault is None or peer.connection.is_closed


def test_the_echo_is_one() -> None:
    """What the fuzzing above would not notice if it were broken."""
    session = Session({PATH: Echo}, LIMITS, NoEdge())
    session.receive(frames.PREFACE + frames.settings({}) + frames.SETTINGS_ACK, now_ms=0)
    session.connection.take_output()
    session.receive(headers(1) + data(1, prefixed(b"hello"), end_stream=True), now_ms=0)
    assert prefixed(b"hello") in session.connection.take_output()
