"""The connection: its two tables, and every rule of RFC 9113 that a peer can break."""

from __future__ import annotations

from itertools import product

import pytest

from policyd.h2rpc import frames, lifecycle, streams
from policyd.h2rpc.codes import ErrorCode, StreamFault
from policyd.h2rpc.events import DataReceived, OutboxEmptied, RequestEnded, RequestReceived, StreamReset
from policyd.h2rpc.headers import header_block
from policyd.h2rpc.lifecycle import ConnectionInput, ConnectionState
from policyd.h2rpc.limits import Limits
from policyd.h2rpc.settings import ENABLE_PUSH, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE
from policyd.h2rpc.streams import Stream, StreamInput, StreamState
from tests.h2rpc.peer import (
    PATH,
    REPLY,
    REQUEST,
    REQUEST_HEADERS,
    TRAILERS,
    Peer,
    block_of,
    continuation,
    data,
    greeted,
    headers,
    ping,
    rst_stream,
    window_update,
)


class TestTables:
    @pytest.mark.parametrize(("state", "event"), [*product(StreamState, StreamInput)])
    def test_a_stream_takes_what_has_a_row(self, state: StreamState, event: StreamInput) -> None:
        stream = Stream(1, send_window_bytes=0, receive_window_bytes=0)
        stream.state = state
        following = streams.TABLE.get((state, event))
        if following is None:
            with pytest.raises(StreamFault) as raised:
                stream.step(event)
            assert raised.value.code is ErrorCode.STREAM_CLOSED
        else:
            stream.step(event)
        assert stream.state is (following or state)

    def test_nothing_leads_out_of_closed(self) -> None:
        assert not [state for state, _ in streams.TABLE if state is StreamState.CLOSED]
        outcomes = {to for (state, _), to in lifecycle.TABLE.items() if state is ConnectionState.CLOSED}
        assert outcomes == {ConnectionState.CLOSED}

    @pytest.mark.parametrize("state", ConnectionState)
    def test_a_connection_can_fail_and_drain_in_every_state(self, state: ConnectionState) -> None:
        assert lifecycle.TABLE[state, ConnectionInput.FAULT] is ConnectionState.CLOSED
        assert (state, ConnectionInput.DRAIN) in lifecycle.TABLE


class TestAnExchange:
    def test_from_end_to_end(self) -> None:
        peer = greeted()
        assert peer.connection.state is ConnectionState.OPEN
        (event,) = peer.say(headers(1))
        assert isinstance(event, RequestReceived)
        assert (event.stream_id, event.head.method, event.head.path) == (1, "POST", PATH)
        assert event.head.headers == (("te", "trailers"), ("content-type", "application/grpc"))
        assert peer.say(data(1, b"hello", end_stream=True)) == [DataReceived(1, b"hello", 5), RequestEnded(1)]
        peer.connection.send_headers(1, REPLY)
        assert peer.connection.send_data(1, b"world")
        peer.connection.end(1, TRAILERS)
        peer.look()
        reply, content, trailers = peer.received[-3:]
        assert (reply.kind, reply.flags, reply.payload) == (frames.HEADERS, frames.END_HEADERS, b"\x20" + REPLY)
        assert (content.kind, content.flags, content.payload) == (frames.DATA, 0, b"world")
        assert (trailers.kind, trailers.flags) == (frames.HEADERS, frames.END_HEADERS | frames.END_STREAM)
        assert peer.connection.open_streams == 0
        assert peer.resets == {}

    def test_a_reply_before_the_request_has_ended_resets_it_without_an_error(self) -> None:
        peer = greeted()
        peer.say(headers(1))
        peer.connection.end(1, REPLY)
        peer.look()
        assert peer.resets == {1: ErrorCode.NO_ERROR}
        # What was on its way is no fault.
        assert peer.say(data(1, b"late", end_stream=True), window_update(1, 5), rst_stream(1)) == []
        assert peer.goaway is None

    def test_a_request_without_a_body(self) -> None:
        peer = greeted()
        request, end = peer.say(headers(1, end_stream=True))
        assert isinstance(request, RequestReceived)
        assert end == RequestEnded(1)

    def test_trailers_of_a_request(self) -> None:
        peer = greeted()
        peer.say(headers(1), data(1, b"a"))
        assert peer.say(headers(1, block_of([("x", "y")]), end_stream=True)) == [RequestEnded(1)]

    def test_a_reset_tells_once(self) -> None:
        peer = greeted()
        peer.say(headers(1))
        assert peer.say(rst_stream(1), rst_stream(1)) == [StreamReset(1)]
        peer.connection.send_headers(1, REPLY)
        peer.connection.send_data(1, b"gone")
        peer.connection.end(1, TRAILERS)
        peer.look()
        assert not peer.of(frames.HEADERS)

    def test_padding_and_priority_are_taken_off(self) -> None:
        peer = greeted()
        padded = frames.PADDED | frames.HAS_PRIORITY | frames.END_HEADERS
        peer.say(frames.frame(frames.HEADERS, padded, 1, b"\x03" + b"\x80\x00\x00\x00\x10" + REQUEST + b"\x00" * 3))
        (event,) = peer.say(frames.frame(frames.DATA, frames.PADDED, 1, b"\x02hi\x00\x00"))
        assert event == DataReceived(1, b"hi", 5)

    def test_headers_in_pieces(self) -> None:
        peer = greeted()
        pieces = REQUEST[:9], REQUEST[9:20], REQUEST[20:]
        peer.say(headers(1, pieces[0], end_headers=False), continuation(1, pieces[1]))
        (event,) = peer.say(continuation(1, pieces[2], end_headers=True))
        assert isinstance(event, RequestReceived)

    @pytest.mark.parametrize("size", [1, 7, 100])
    def test_bytes_may_come_in_any_pieces(self, size: int) -> None:
        peer = Peer()
        whole = frames.PREFACE + frames.settings({}) + headers(1) + data(1, b"hello", end_stream=True)
        for at in range(0, len(whole), size):
            peer.say(whole[at : at + size])
        assert peer.events[1:] == [DataReceived(1, b"hello", 5), RequestEnded(1)]

    def test_what_is_unknown_is_ignored(self) -> None:
        peer = greeted(settings={0x99: 7})
        assert peer.say(frames.frame(0x99, 0xFF, 1, b"anything")) == []
        assert peer.goaway is None


class TestFlow:
    def test_data_waits_for_the_streams_window_and_then_for_the_connections(self) -> None:
        peer = greeted(settings={INITIAL_WINDOW_SIZE: 10})
        peer.say(headers(1), headers(3))
        for stream_id in (1, 3):
            peer.connection.send_headers(stream_id, REPLY)
        assert not peer.connection.send_data(1, b"x" * 15)
        peer.look()
        assert peer.sent_bytes == 10
        assert peer.connection.waiting() == {1: 5}
        assert peer.say(window_update(1, 4)) == []
        assert peer.say(window_update(1, 1)) == [OutboxEmptied(1)]
        assert peer.sent_bytes == 15
        # The connection's window, as every peer's, began with 65,535 bytes.
        peer.say(window_update(1, 70_000), window_update(3, 70_000))
        peer.connection.send_data(1, b"y" * 65_520)
        assert not peer.connection.send_data(3, b"z" * 5)
        assert peer.say(window_update(0, 5)) == [OutboxEmptied(3)]
        assert peer.sent_bytes == 65_540

    def test_streams_take_turns_on_the_connections_window(self) -> None:
        peer = greeted(settings={INITIAL_WINDOW_SIZE: 2**31 - 1})
        peer.say(*(headers(stream_id) for stream_id in (1, 3, 5)))
        for stream_id in (1, 3, 5):
            peer.connection.send_data(stream_id, b"x" * 100_000)
        peer.look()
        seen = len(peer.of(frames.DATA))
        peer.say(window_update(0, 6 * 16_384))
        turns = [frame.stream_id for frame in peer.of(frames.DATA)[seen:]]
        assert turns == [1, 3, 5, 1, 3, 5]

    def test_trailers_come_after_what_waits(self) -> None:
        peer = greeted(settings={INITIAL_WINDOW_SIZE: 0})
        peer.say(headers(1, end_stream=True))
        peer.connection.send_headers(1, REPLY)
        peer.connection.send_data(1, b"hello")
        peer.connection.end(1, TRAILERS)
        assert peer.connection.open_streams == 1
        peer.say(window_update(1, 5))
        assert [frame.kind for frame in peer.received[-3:]] == [frames.HEADERS, frames.DATA, frames.HEADERS]
        assert peer.connection.open_streams == 0

    def test_settings_change_the_windows_of_open_streams_also_below_zero(self) -> None:
        peer = greeted(settings={INITIAL_WINDOW_SIZE: 10})
        peer.say(headers(1))
        peer.connection.send_data(1, b"x" * 10)
        peer.say(frames.settings({INITIAL_WINDOW_SIZE: 4}))
        peer.connection.send_data(1, b"y" * 3)
        peer.say(window_update(1, 6))
        assert peer.sent_bytes == 10
        peer.say(frames.settings({INITIAL_WINDOW_SIZE: 7}))
        assert peer.sent_bytes == 13

    def test_frames_are_no_larger_than_the_peer_takes(self) -> None:
        peer = greeted(settings={MAX_FRAME_SIZE: 20_000, INITIAL_WINDOW_SIZE: 100_000})
        peer.say(headers(1))
        peer.connection.send_headers(1, header_block([(":status", "200"), ("x", "y" * 30_000)]))
        peer.connection.send_data(1, b"x" * 45_000)
        peer.look()
        assert [len(frame.payload) for frame in peer.of(frames.DATA)] == [20_000, 20_000, 5_000]
        first, second = peer.of(frames.HEADERS)[0], peer.of(frames.CONTINUATION)[0]
        assert (len(first.payload), first.flags, second.flags) == (20_000, 0, frames.END_HEADERS)

    def test_windows_are_given_back_as_what_came_is_taken(self) -> None:
        peer = greeted(Limits(stream_window_bytes=65_535, connection_window_bytes=65_535 * 3))
        peer.say(headers(1), *(data(1, b"x" * 16_384) for _ in range(3)))
        assert [frame.stream_id for frame in peer.of(frames.WINDOW_UPDATE)] == [0]
        peer.connection.taken(1, 3 * 16_384)
        peer.look()
        assert [frame.stream_id for frame in peer.of(frames.WINDOW_UPDATE)] == [0, 1]
        assert frames.number_in(peer.of(frames.WINDOW_UPDATE)[-1]) == 3 * 16_384


def raw(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return frames.frame(kind, flags, stream_id, payload)


OPEN = headers(1)

CONNECTION_FAULTS = {
    "DATA on stream 0": (data(0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "DATA on a stream that was not opened": (data(5, b"x"), ErrorCode.PROTOCOL_ERROR),
    "HEADERS on stream 0": (headers(0), ErrorCode.PROTOCOL_ERROR),
    "HEADERS on an even stream": (headers(2), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM on a stream that was not opened": (rst_stream(5), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM of 3 bytes": (OPEN + raw(frames.RST_STREAM, 0, 1, b"123"), ErrorCode.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE on a stream that was not opened": (window_update(5, 1), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE by 0": (window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE over the top": (window_update(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE of 5 bytes": (raw(frames.WINDOW_UPDATE, 0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
    "SETTINGS on a stream": (raw(frames.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS of 5 bytes": (raw(frames.SETTINGS, 0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
    "an acknowledgement with content": (raw(frames.SETTINGS, frames.ACK, 0, b"1" * 6), ErrorCode.FRAME_SIZE_ERROR),
    "too large a window": (frames.settings({INITIAL_WINDOW_SIZE: 2**31}), ErrorCode.FLOW_CONTROL_ERROR),
    "a window over the top": (
        OPEN + window_update(1, 2**31 - 1 - 65_535) + frames.settings({INITIAL_WINDOW_SIZE: 70_000}),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "too small a frame size": (frames.settings({MAX_FRAME_SIZE: 16_383}), ErrorCode.PROTOCOL_ERROR),
    "too large a frame size": (frames.settings({MAX_FRAME_SIZE: 2**24}), ErrorCode.PROTOCOL_ERROR),
    "push neither on nor off": (frames.settings({ENABLE_PUSH: 2}), ErrorCode.PROTOCOL_ERROR),
    "PING on a stream": (raw(frames.PING, 0, 1, b"12345678"), ErrorCode.PROTOCOL_ERROR),
    "PING of 7 bytes": (raw(frames.PING, 0, 0, b"1234567"), ErrorCode.FRAME_SIZE_ERROR),
    "PRIORITY of 4 bytes": (raw(frames.PRIORITY, 0, 1, b"1234"), ErrorCode.FRAME_SIZE_ERROR),
    "GOAWAY of 7 bytes": (raw(frames.GOAWAY, 0, 0, b"1234567"), ErrorCode.FRAME_SIZE_ERROR),
    "PUSH_PROMISE": (raw(frames.PUSH_PROMISE, 0, 1, b"1234"), ErrorCode.PROTOCOL_ERROR),
    "CONTINUATION of nothing": (continuation(1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "CONTINUATION of another stream": (
        headers(1, b"", end_headers=False) + continuation(3, b"x"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "an interrupted header block": (headers(1, b"", end_headers=False) + ping(), ErrorCode.PROTOCOL_ERROR),
    "a header block that cannot be read": (headers(1, b"\xff\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
    "a dynamic table": (headers(1, b"\x3f\xe1\x1f" + REQUEST), ErrorCode.COMPRESSION_ERROR),
    "padding without its length": (OPEN + raw(frames.DATA, frames.PADDED, 1), ErrorCode.FRAME_SIZE_ERROR),
    "more padding than frame": (OPEN + raw(frames.DATA, frames.PADDED, 1, b"\x05abc"), ErrorCode.PROTOCOL_ERROR),
    "HEADERS shorter than their priority": (
        raw(frames.HEADERS, frames.HAS_PRIORITY, 1, b"123"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "a frame larger than allowed": (raw(frames.DATA, 0, 1, b"x" * 16_385), ErrorCode.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize(("content", "code"), CONNECTION_FAULTS.values(), ids=CONNECTION_FAULTS)
def test_faults_that_close_the_connection(content: bytes, code: ErrorCode) -> None:
    peer = greeted()
    peer.say(content)
    assert peer.goaway is code
    assert peer.connection.is_closed
    assert peer.say(headers(7), ping()) == []


STREAM_FAULTS = {
    "WINDOW_UPDATE by 0": (OPEN + window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE over the top": (OPEN + window_update(1, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "DATA after the end": (headers(1, end_stream=True) + data(1, b"x"), ErrorCode.STREAM_CLOSED),
    "HEADERS after the end": (headers(1, end_stream=True) + headers(1), ErrorCode.STREAM_CLOSED),
    "trailers that are not the end": (OPEN + headers(1, TRAILERS), ErrorCode.PROTOCOL_ERROR),
}


@pytest.mark.parametrize(("content", "code"), STREAM_FAULTS.values(), ids=STREAM_FAULTS)
def test_faults_that_reset_one_stream(content: bytes, code: ErrorCode) -> None:
    peer = greeted()
    peer.say(content)
    assert peer.resets == {1: code}
    assert StreamReset(1) in peer.events
    assert peer.goaway is None
    assert [event.stream_id for event in peer.say(headers(3))] == [3]


def without(name: str) -> list[tuple[str, str]]:
    return [header for header in REQUEST_HEADERS if header[0] != name]


MALFORMED = {
    "no method": without(":method"),
    "no path": without(":path"),
    "no scheme": without(":scheme"),
    "an empty path": [*without(":path"), (":path", "")],
    "two paths": [(":path", "/"), *REQUEST_HEADERS],
    "an unknown pseudo-header": [(":status", "200"), *REQUEST_HEADERS],
    "a pseudo-header after a header": [*without(":path"), (":path", "/")],
    "an upper-case name": [*REQUEST_HEADERS, ("X-Y", "z")],
    "an empty name": [*REQUEST_HEADERS, ("", "z")],
    "a line break": [*REQUEST_HEADERS, ("x", "y\r\nz: 1")],
    "a zero byte": [*REQUEST_HEADERS, ("x", "y\x00")],
    "a space at the end": [*REQUEST_HEADERS, ("x", "y ")],
    "a connection's header": [*REQUEST_HEADERS, ("connection", "close")],
    "another te": [*without("te"), ("te", "gzip")],
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("again", [False, True], ids=["once", "again"])
def test_a_malformed_request_is_reset(fields: list[tuple[str, str]], again: bool) -> None:
    """Also when its block is remembered."""
    peer = greeted()
    block = block_of(fields)
    if again:
        peer.say(headers(1, block))
    assert peer.say(headers(3, block)) == []
    assert peer.resets[3] is ErrorCode.PROTOCOL_ERROR
    assert peer.goaway is None


class TestBeginning:
    def test_another_protocol(self) -> None:
        peer = Peer()
        peer.say(b"GET / HTTP/1.1\r\n\r\n")
        assert peer.goaway is ErrorCode.PROTOCOL_ERROR

    def test_another_frame_than_settings(self) -> None:
        peer = Peer()
        peer.say(frames.PREFACE + ping())
        assert peer.goaway is ErrorCode.PROTOCOL_ERROR

    def test_an_acknowledgement_is_not_settings(self) -> None:
        peer = Peer()
        peer.say(frames.PREFACE + frames.SETTINGS_ACK)
        assert peer.goaway is ErrorCode.PROTOCOL_ERROR


class TestDraining:
    def test_streams_on_their_way_are_taken_and_later_ones_are_not(self) -> None:
        peer = greeted()
        peer.say(headers(1, end_stream=True))
        peer.connection.drain()
        peer.connection.drain()
        peer.look()
        assert peer.goaway is ErrorCode.NO_ERROR
        assert peer.say(headers(3, end_stream=True))
        (question,) = peer.of(frames.PING)
        assert peer.say(frames.ping(question.payload, ack=True)) == []
        assert peer.say(headers(5), data(5, b"x"), rst_stream(5)) == []
        assert peer.opened == [1, 3]
        for stream_id in (1, 3):
            assert not peer.connection.is_closed
            peer.connection.end(stream_id, REPLY)
        assert peer.connection.is_closed
        assert peer.connection.fault is None

    def test_an_idle_connection_is_closed_when_the_peer_has_heard(self) -> None:
        peer = greeted()
        peer.connection.drain()
        peer.look()
        peer.say(frames.ping(peer.of(frames.PING)[0].payload, ack=True))
        assert peer.connection.is_closed

    def test_a_connection_that_has_not_begun_is_closed_at_once(self) -> None:
        peer = Peer()
        peer.connection.drain()
        assert peer.connection.is_closed

    def test_closing_at_once(self) -> None:
        peer = greeted()
        peer.say(headers(1))
        peer.connection.close()
        peer.look()
        assert peer.goaway is ErrorCode.NO_ERROR
        assert (peer.connection.open_streams, peer.connection.fault) == (0, None)
