"""gRPC's own framing: messages in any pieces, time-outs, and what is no gRPC."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd.h2rpc.codes import Status
from policyd.h2rpc.headers import RequestHead
from policyd.h2rpc.limits import Limits
from policyd.h2rpc.messages import (
    CallFault,
    MessageReader,
    call_terms,
    prefixed,
)


def head(*headers: tuple[str, str], method: str = "POST", content_type: str = "application/grpc") -> RequestHead:
    return RequestHead(method=method, path="/", headers=(("content-type", content_type), *headers))


@given(messages=st.lists(st.binary(max_size=50), max_size=6), sizes=st.lists(st.integers(1, 30), min_size=1))
def test_messages_in_any_pieces(messages: list[bytes], sizes: list[int]) -> None:
    reader = MessageReader(message_bytes_max=50)
    content = b"".join(map(prefixed, messages))
    found: list[bytes] = []
    at = turn = 0
    while at < len(content):
        size = sizes[turn % len(sizes)]
        found += reader.read(content[at : at + size])
        assert reader.held_bytes < 5 + 50
        at, turn = at + size, turn + 1
    assert (found, reader.held_bytes) == (messages, 0)


@pytest.mark.parametrize("flag", [1, 2, 255])
def test_a_compressed_message(flag: int) -> None:
    with pytest.raises(CallFault) as raised:
        MessageReader(message_bytes_max=50).read(bytes([flag]) + prefixed(b"x")[1:])
    assert raised.value.status is Status.INTERNAL


def test_a_message_that_is_too_large_is_refused_by_its_length() -> None:
    with pytest.raises(CallFault) as raised:
        MessageReader(message_bytes_max=50).read(prefixed(b"x" * 51)[:5])
    assert raised.value.status is Status.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("text", "seconds"), [("1H", 3600), ("2M", 120), ("3S", 3), ("4m", 0.004), ("5u", 5e-6), ("99999999n", 0.099999999)]
)
def test_timeouts(text: str, seconds: float) -> None:
    assert call_terms(head(("grpc-timeout", text))).timeout_seconds == pytest.approx(seconds)


def test_no_timeout() -> None:
    assert call_terms(head()).timeout_seconds is None


@pytest.mark.parametrize("text", ["", "1", "H", "123456789S", "1s", "-1S", "1.5S", " 1S"])
def test_timeouts_that_are_none(text: str) -> None:
    fault = call_terms(head(("grpc-timeout", text))).fault
    assert fault is not None
    assert fault[0] is Status.INTERNAL


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", "application/grpc;v=1"])
def test_what_is_grpc(content_type: str) -> None:
    assert call_terms(head(content_type=content_type)).refusal is None


@pytest.mark.parametrize("content_type", ["", "application/json", "application/grpc-web", "application/grpc+json"])
def test_another_type_of_content_is_answered_with_415(content_type: str) -> None:
    assert b"415" in (call_terms(head(content_type=content_type)).refusal or b"")


def test_another_method_is_answered_with_405() -> None:
    assert b"405" in (call_terms(head(method="GET")).refusal or b"")


@pytest.mark.parametrize(("encoding", "good"), [("identity", True), ("", True), ("gzip", False)])
def test_encodings(encoding: str, good: bool) -> None:
    fault = call_terms(head(("grpc-encoding", encoding))).fault
    if good:
        assert fault is None
    else:
        assert fault is not None
        assert fault[0] is Status.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frame_bytes_max", 16_383),
        ("frame_bytes_max", 2**24),
        ("stream_window_bytes", 65_534),
        ("connection_window_bytes", 2**31),
    ],
)
def test_limits_that_http2_does_not_allow(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}: found {value}"):
        Limits(**{name: value})
