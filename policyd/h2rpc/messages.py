"""gRPC over HTTP/2: messages in DATA, time-outs, status (grpc/doc/PROTOCOL-HTTP2.md)."""

from __future__ import annotations

import re
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple
from urllib.parse import quote

from policyd.h2rpc.codes import Status
from policyd.h2rpc.headers import RequestHead, header_block

PREFIX_BYTES: Final = 5
"""Before each message: whether it is compressed, and how long it is."""

REPLY_HEADERS: Final = header_block([(":status", "200"), ("content-type", "application/grpc")])

_PREFIX = Struct(">BL")
_OK: Final = header_block([("grpc-status", "0")])
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_NOT_ENCODED = "".join(map(chr, (*range(0x20, 0x25), *range(0x26, 0x7F))))
_MESSAGE_CHARACTERS_MAX = 1024


class CallFault(Exception):
    """The call ends with this status."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class MessageReader:
    """Cuts the DATA of a stream into messages. Holds no more than one that is not whole."""

    __slots__ = ("_message_bytes_max", "_missing_bytes", "_parts", "held_bytes")

    def __init__(self, *, message_bytes_max: int) -> None:
        self._message_bytes_max = message_bytes_max
        self._parts: list[bytes] = []
        self._missing_bytes = PREFIX_BYTES
        """How many bytes have to come before anything more can be said."""
        self.held_bytes = 0

    def read(self, data: bytes) -> list[bytes]:
        """The messages that are whole with `data`. Raises `CallFault`."""
        if len(data) < self._missing_bytes:
            self._hold(data)
            return []
        if self._parts:
            data = b"".join((*self._parts, data))
            self._parts.clear()
            self.held_bytes = 0
        messages: list[bytes] = []
        at, end = 0, len(data)
        while end - at >= PREFIX_BYTES:
            compressed, length = _PREFIX.unpack_from(data, at)
            self._check(compressed, length)
            following = at + PREFIX_BYTES + length
            if following > end:
                self._missing_bytes = following - at
                self._hold(data[at:])
                return messages
            messages.append(data[at + PREFIX_BYTES : following])
            at = following
        self._missing_bytes = PREFIX_BYTES
        if at < end:
            self._hold(data[at:])
        return messages

    def _hold(self, data: bytes) -> None:
        self._parts.append(data)
        self.held_bytes += len(data)
        self._missing_bytes -= len(data)

    def _check(self, compressed: int, length: int) -> None:
        if compressed:
            raise CallFault(Status.INTERNAL, "a message is said to be compressed, in an encoding that was not named")
        if length > self._message_bytes_max:
            raise CallFault(Status.RESOURCE_EXHAUSTED, f"a message has {length} bytes of {self._message_bytes_max}")


def prefixed(message: bytes) -> bytes:
    """A message as it stands in DATA."""
    return _PREFIX.pack(0, len(message)) + message


class CallTerms(NamedTuple):
    """What a request's headers say of a call."""

    refusal: bytes | None
    """The header block that answers a request which is no gRPC."""
    fault: tuple[Status, str] | None
    """How a call ends that cannot be served."""
    timeout_seconds: float | None
    """How long the caller waits."""


@lru_cache(maxsize=256)
def call_terms(head: RequestHead) -> CallTerms:
    """A proxy's requests are all alike, so that their headers are mostly looked at once."""
    block = _refusal(head)
    fault = _encoding_fault(head)
    seconds: float | None = None
    text = head.get("grpc-timeout")
    if text is not None and fault is None:
        matched = _TIMEOUT.fullmatch(text)
        if matched is None:
            fault = (Status.INTERNAL, "grpc-timeout is not up to 8 digits and a unit")
        else:
            seconds = int(matched[1]) * _SECONDS[matched[2]]
    return CallTerms(block, fault, seconds)


def _refusal(head: RequestHead) -> bytes | None:
    """The header block that answers a request which is no gRPC; `None` for one that is."""
    if head.method != "POST":
        return header_block([(":status", "405"), ("allow", "POST")])
    content_type = head.get("content-type") or ""
    if not re.fullmatch(r"application/grpc(\+proto)?(;.*)?", content_type, re.DOTALL):
        return header_block([(":status", "415")])
    return None


def _encoding_fault(head: RequestHead) -> tuple[Status, str] | None:
    """For any compression."""
    if (head.get("grpc-encoding") or "identity") == "identity":
        return None
    return Status.UNIMPLEMENTED, "messages may not be compressed: the only grpc-encoding is identity"


def trailers(status: Status, message: str = "") -> bytes:
    """The header block that ends a call whose reply headers were sent."""
    if status is Status.OK and not message:
        return _OK
    return header_block(_status_headers(status, message))


def trailers_only(status: Status, message: str = "") -> bytes:
    """The header block that is a whole reply."""
    return REPLY_HEADERS + header_block([*_status_headers(status, message), ("grpc-accept-encoding", "identity")])


def _status_headers(status: Status, message: str) -> list[tuple[str, str]]:
    headers = [("grpc-status", str(int(status)))]
    if message:
        # Cut before it is encoded: half a character cannot be decoded.
        encoded = quote(message[:_MESSAGE_CHARACTERS_MAX], safe=_NOT_ENCODED, errors="replace")
        headers.append(("grpc-message", encoded))
    return headers
