"""Header blocks to requests, and replies to header blocks (RFC 7541; RFC 9113, 8.2 and 8.3).

The server allows no dynamic table. Once the peer has taken note of that, equal blocks mean equal headers; and since a
proxy sends nearly the same headers for every stream, the meaning of a block is remembered, which costs a fiftieth of
reading it again. What the server sends refers to no dynamic table either, and is mostly made once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from hpack import Decoder, HPACKError, OversizedHeaderListError

from policyd.h2rpc.codes import ConnectionFault, ErrorCode
from policyd.h2rpc.limits import Limits

Headers = tuple[tuple[str, str], ...]

NO_DYNAMIC_TABLE: Final = b"\x20"
"""Said once, before the first header: whatever size of table the peer allows, nothing is put into it (6.3)."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"(?:[^\x00\n\r \t](?:[^\x00\n\r]*[^\x00\n\r \t])?)?", re.DOTALL)
_PSEUDO_HEADERS = frozenset({":method", ":scheme", ":path", ":authority"})
_OF_A_CONNECTION = frozenset({"connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"})
_INTEGER_PREFIX_7 = 127


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestHead:
    """A request's headers, found well formed. Names are in lower case; bytes that are not ASCII are as in Latin-1.

    Equal to itself alone, so that what is remembered by it is found without looking at every header.
    """

    method: str
    path: str
    headers: Headers
    """Without those whose names begin with a colon, in their order."""

    def get(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for each, value in self.headers if each == name), None)


class HeaderAssembly:
    """A header block whose frames are coming."""

    __slots__ = ("_bytes", "_fragments", "_limits", "ends_stream", "stream_id")

    def __init__(self, stream_id: int, *, ends_stream: bool, limits: Limits) -> None:
        self.stream_id = stream_id
        self.ends_stream = ends_stream
        self._limits = limits
        self._fragments: list[bytes] = []
        self._bytes = 0

    def add(self, fragment: bytes) -> None:
        """Raises `ConnectionFault` where it becomes too much."""
        self._fragments.append(fragment)
        self._bytes += len(fragment)
        if self._bytes > self._limits.header_block_bytes_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too large")
        if len(self._fragments) > self._limits.header_frames_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block has too many frames")

    def block(self) -> bytes:
        return b"".join(self._fragments)


class HeaderBlockReader:
    """Reads the header blocks of a connection, which have to be read in their order, all of them."""

    def __init__(self, limits: Limits) -> None:
        self._decoder = Decoder(max_header_list_size=limits.header_list_bytes_max)
        self._kept_max = limits.header_blocks_kept_max
        self._kept: dict[bytes, RequestHead | None] = {}

    def forbid_table(self) -> None:
        """The peer has acknowledged that there is to be no dynamic table."""
        self._decoder.max_allowed_table_size = 0

    def read(self, block: bytes) -> RequestHead | None:
        """A request's headers, or `None` where they are not well formed (8.1.1).

        Raises `ConnectionFault` if the block cannot be read: what comes after it could not be either.
        """
        if block in self._kept:
            return self._kept[block]
        try:
            fields = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except OversizedHeaderListError as error:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header list is larger than SETTINGS allow") from error
        except HPACKError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "a header block cannot be read") from error
        head = _request_head(fields)
        if self._decoder.max_allowed_table_size == 0 and self._kept_max:
            if len(self._kept) >= self._kept_max:
                self._kept.clear()
            self._kept[block] = head
        return head


def _request_head(fields: Iterable[tuple[bytes, bytes]]) -> RequestHead | None:
    pseudo: dict[str, str] = {}
    headers: list[tuple[str, str]] = []
    for raw_name, raw_value in fields:
        if _VALUE.fullmatch(raw_value) is None:
            return None
        value = raw_value.decode("latin-1")
        if raw_name.startswith(b":"):
            name = raw_name.decode("latin-1")
            if headers or name in pseudo or name not in _PSEUDO_HEADERS:
                return None
            pseudo[name] = value
            continue
        if _NAME.fullmatch(raw_name) is None:
            return None
        name = raw_name.decode("ascii")
        if name in _OF_A_CONNECTION or (name == "te" and value.lower() != "trailers"):
            return None
        headers.append((name, value))
    if not (pseudo.get(":method") and pseudo.get(":scheme") and pseudo.get(":path")):
        return None
    return RequestHead(method=pseudo[":method"], path=pseudo[":path"], headers=tuple(headers))


def header_block(headers: Sequence[tuple[str, str]]) -> bytes:
    """A block of literals that are indexed nowhere (6.2.2). Names in lower case, everything in ASCII."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in headers)


def _string(text: str) -> bytes:
    """Without Huffman's code (5.2)."""
    content = text.encode("ascii")
    length = len(content)
    if length < _INTEGER_PREFIX_7:
        return bytes((length,)) + content
    # The length as an integer with a prefix of 7 bits (5.1).
    prefix, length = bytearray((_INTEGER_PREFIX_7,)), length - _INTEGER_PREFIX_7
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + content
