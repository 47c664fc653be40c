"""Peers that mean harm: what they do has a defined end, and costs bounded memory until then."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from policyd.h2rpc import frames
from policyd.h2rpc.codes import ErrorCode
from policyd.h2rpc.events import RequestReceived
from policyd.h2rpc.headers import NO_DYNAMIC_TABLE, header_block
from policyd.h2rpc.limits import Limits
from policyd.h2rpc.settings import INITIAL_WINDOW_SIZE
from tests.h2rpc.peer import (
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

LIMITS = Limits(nuisances_max=1000, nuisances_per_second=100)

MANY = LIMITS.nuisances_max + 1

FLOODS: dict[str, tuple[bytes, bytes]] = {
    "PING": (b"", ping()),
    "SETTINGS": (b"", frames.settings({})),
    "SETTINGS that move windows": (headers(1), frames.settings({INITIAL_WINDOW_SIZE: 1})),
    "PRIORITY": (b"", frames.frame(frames.PRIORITY, 0, 1, b"12345")),
    "GOAWAY": (b"", frames.goaway(0, ErrorCode.NO_ERROR)),
    "an unknown kind": (b"", frames.frame(0x50, 0, 0, b"")),
    "empty DATA": (headers(1), data(1, b"")),
    "DATA of padding alone": (headers(1), frames.frame(frames.DATA, frames.PADDED, 1, b"\x00")),
    "frames for a stream that is gone": (headers(1) + rst_stream(1), window_update(1, 1)),
    "DATA for a stream that is gone": (headers(1) + rst_stream(1), data(1, b"x")),
}


@pytest.mark.parametrize(("before", "frame"), FLOODS.values(), ids=FLOODS)
def test_a_flood_ends_the_connection(before: bytes, frame: bytes) -> None:
    peer = greeted(LIMITS)
    peer.say(before, *[frame] * (MANY - 10))
    assert not peer.connection.is_closed
    peer.say(*[frame] * 10)
    assert peer.goaway is ErrorCode.ENHANCE_YOUR_CALM
    assert peer.connection.is_closed


@pytest.mark.parametrize(("before", "frame"), FLOODS.values(), ids=FLOODS)
def test_the_same_in_its_own_time_does_not(before: bytes, frame: bytes) -> None:
    peer = greeted(LIMITS)
    peer.say(before)
    for _ in range(3 * MANY):
        peer.now_ms += 1000 // LIMITS.nuisances_per_second
        peer.say(frame)
    assert peer.goaway is None


def requests(count: int, *after_each: bytes) -> Iterable[bytes]:
    for number in range(count):
        stream_id = 1 + 2 * number
        yield headers(stream_id)
        yield from after_each
        yield rst_stream(stream_id)


class TestRapidReset:
    def test_streams_that_are_reset_before_they_are_answered(self) -> None:
        peer = greeted(LIMITS)
        peer.say(*requests(MANY))
        assert peer.goaway is ErrorCode.ENHANCE_YOUR_CALM
        assert peer.connection.open_streams == 0

    def test_data_before_each_reset_does_not_help(self) -> None:
        peer = greeted(LIMITS)
        for number in range(MANY):
            stream_id = 1 + 2 * number
            peer.say(headers(stream_id), data(stream_id, b"x"), data(stream_id, b"x"), rst_stream(stream_id))
        assert peer.goaway is ErrorCode.ENHANCE_YOUR_CALM

    def test_streams_that_were_answered_may_be_reset(self) -> None:
        """A proxy ends most of its streams so."""
        peer = greeted(LIMITS)
        for number in range(3 * MANY):
            stream_id = 1 + 2 * number
            peer.say(headers(stream_id), data(stream_id, b"x"))
            peer.connection.send_headers(stream_id, REPLY)
            peer.say(rst_stream(stream_id))
        assert peer.goaway is None

    def test_replies_that_cross_the_clients_last_frames(self) -> None:
        """What comes for a stream that has ended meanwhile is made up for by the DATA before it."""
        peer = greeted(LIMITS)
        for number in range(3 * MANY):
            stream_id = 1 + 2 * number
            peer.say(headers(stream_id), data(stream_id, b"x"), data(stream_id, b"y"))
            peer.connection.end(stream_id, REPLY)
            peer.say(data(stream_id, b"", end_stream=True))
        assert peer.goaway is None


class TestHeaders:
    def test_continuation_without_end(self) -> None:
        peer = greeted(LIMITS)
        peer.say(headers(1, REQUEST, end_headers=False))
        peer.say(*[continuation(1, b"") for _ in range(LIMITS.header_frames_max)])
        assert peer.goaway is ErrorCode.ENHANCE_YOUR_CALM

    def test_a_block_that_grows(self) -> None:
        peer = greeted(LIMITS)
        peer.say(headers(1, REQUEST, end_headers=False), continuation(1, b"x" * LIMITS.header_block_bytes_max))
        assert peer.goaway is ErrorCode.ENHANCE_YOUR_CALM

    def test_a_bomb_of_references(self) -> None:
        """Before the peer knows that there is no table: one large entry in it, referred to again and again."""
        peer = Peer()
        peer.say(frames.PREFACE + frames.settings({}))
        entry = b"\x40" + header_block([("x-bomb", "y" * 3000)])[1:]
        block = header_block(REQUEST_HEADERS) + entry + b"\xbe" * 5000
        peer.say(headers(1, block))
        assert peer.goaway is ErrorCode.ENHANCE_YOUR_CALM

    def test_a_list_of_many_small_headers(self) -> None:
        peer = greeted(LIMITS)
        peer.say(headers(1, REQUEST + b"\x82" * 1000))
        assert peer.goaway is ErrorCode.ENHANCE_YOUR_CALM

    def test_blocks_that_are_all_different_are_not_kept_for_ever(self) -> None:
        peer = greeted(LIMITS)
        for number in range(4 * LIMITS.header_blocks_kept_max):
            stream_id = 1 + 2 * number
            peer.say(headers(stream_id, block_of([*REQUEST_HEADERS, ("x", str(number))]), end_stream=True))
            peer.connection.end(stream_id, REPLY)
        assert len(peer.connection._header_blocks._kept) <= LIMITS.header_blocks_kept_max

    def test_a_peer_may_use_a_table_until_it_knows_better(self) -> None:
        """And what it meant then is not what equal bytes mean later."""
        peer = Peer()
        peer.say(frames.PREFACE + frames.settings({}))
        added = header_block(REQUEST_HEADERS) + b"\x40" + header_block([("x", "first")])[1:]
        for stream_id in (1, 3):
            peer.say(headers(stream_id, added))
        peer.say(headers(5, header_block(REQUEST_HEADERS) + b"\xbe"))
        assert last_request(peer).head.get("x") == "first"
        peer.say(frames.SETTINGS_ACK)
        peer.say(headers(7, block_of([*REQUEST_HEADERS, ("x", "literal")])))
        assert last_request(peer).head.get("x") == "literal"
        peer.say(headers(9, header_block(REQUEST_HEADERS) + b"\xbe"))
        assert peer.goaway is ErrorCode.COMPRESSION_ERROR


def last_request(peer: Peer) -> RequestReceived:
    event = peer.events[-1]
    assert isinstance(event, RequestReceived)
    return event


def test_a_block_is_not_remembered_while_a_table_may_still_come() -> None:
    """A peer that gives its table up may take it again, until it knows that there is none."""
    peer = Peer()
    peer.say(frames.PREFACE + frames.settings({}))
    adding = header_block(REQUEST_HEADERS) + b"\x40" + header_block([("x", "added")])[1:]
    peer.say(headers(1, NO_DYNAMIC_TABLE + header_block(REQUEST_HEADERS)), headers(3, adding))
    peer.say(headers(5, b"\x3f\xe1\x1f" + header_block(REQUEST_HEADERS)), headers(7, adding))
    peer.say(headers(9, header_block(REQUEST_HEADERS) + b"\xbe"))
    assert last_request(peer).head.get("x") == "added"


class TestStreams:
    def test_more_than_are_allowed_at_a_time(self) -> None:
        peer = greeted(Limits(streams_max=3))
        peer.say(*(headers(stream_id) for stream_id in (1, 3, 5, 7)))
        assert peer.opened == [1, 3, 5]
        assert peer.resets == {7: ErrorCode.REFUSED_STREAM}
        peer.say(rst_stream(1), headers(9))
        assert peer.opened == [1, 3, 5, 9]

    def test_refusals_are_counted(self) -> None:
        peer = greeted(replace(LIMITS, streams_max=0))
        peer.say(*(headers(1 + 2 * number) for number in range(MANY)))
        assert peer.goaway is ErrorCode.ENHANCE_YOUR_CALM


class TestWindows:
    def test_more_data_than_a_streams_window(self) -> None:
        peer = greeted(Limits(stream_window_bytes=65_535))
        peer.say(headers(1), *(data(1, b"x" * 16_384) for _ in range(3)), data(1, b"x" * 16_383))
        assert peer.resets == {}
        peer.say(data(1, b"x"))
        assert peer.resets == {1: ErrorCode.FLOW_CONTROL_ERROR}
        assert peer.goaway is None

    def test_more_data_than_the_connections_window_at_once(self) -> None:
        """It is given back as DATA comes, so that only a peer that ignores it passes its end."""
        peer = greeted(Limits(connection_window_bytes=65_535, stream_window_bytes=2**20))
        peer.connection._window._left_bytes = 100
        peer.say(headers(1), data(1, b"x" * 101))
        assert peer.goaway is ErrorCode.FLOW_CONTROL_ERROR

    def test_a_reply_that_nobody_takes_waits_in_one_copy(self) -> None:
        peer = greeted(settings={INITIAL_WINDOW_SIZE: 0})
        peer.say(headers(1, end_stream=True))
        peer.connection.send_headers(1, REPLY)
        assert not peer.connection.send_data(1, b"x" * 1000)
        peer.connection.end(1, TRAILERS)
        peer.look()
        assert peer.sent_bytes == 0
        assert peer.connection.waiting() == {1: 1000}
        peer.say(rst_stream(1))
        assert peer.connection.waiting() == {}

    def test_a_window_of_a_byte_at_a_time(self) -> None:
        """It is served, in frames of a byte: the peer's own loss."""
        peer = greeted(settings={INITIAL_WINDOW_SIZE: 0})
        peer.say(headers(1, end_stream=True))
        peer.connection.send_headers(1, REPLY)
        peer.connection.send_data(1, b"hello")
        peer.connection.end(1, TRAILERS)
        for sent in range(5):
            assert peer.sent_bytes == sent
            peer.say(window_update(1, 1))
        assert b"".join(frame.payload for frame in peer.of(frames.DATA)) == b"hello"
        assert peer.connection.open_streams == 0
