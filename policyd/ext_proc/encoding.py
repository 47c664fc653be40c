"""Content encodings: compressed replies, decoded as they come in.

A few bytes can stand for gigabytes. So no piece of a reply may make more than `PIECE_BYTES_MAX` plain bytes, and a
reply as a whole no more than `EXPANSION_MAX` times what has come of it, `ALLOWANCE_BYTES` aside: what is held in memory
and what is read stay in proportion to what a provider really sends. A reply beyond either is taken for undecodable.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Protocol

import brotli
import zstandard

PIECE_BYTES_MAX = 32 * 1024 * 1024
"""More than the largest event that is read."""

EXPANSION_MAX = 256
"""More than text comes to that somebody would read. (What gzip can come to is about 1,000, the others far more.)"""

ALLOWANCE_BYTES = 32 * 1024 * 1024
"""What a reply may make whatever little has come: one that repeats itself to its maximum shrinks to nearly nothing."""

_WINDOW_BYTES_MAX = 8 * 1024 * 1024
"""Of zstd: what RFC 9659 lets a server use. A frame may ask for gigabytes otherwise."""

_ZSTD_SLICE_BYTES = 256
"""Its decoder takes no bound. A block is four bytes at least and makes 128 KiB at most, so a slice makes 8 MiB."""


class UndecodableReply(Exception):
    """The reply is not what its content-encoding says, expands beyond measure, or its encoding is unknown."""


class Decoder:
    """Decodes one reply, piece by piece."""

    def __init__(self, encoding: _Encoding) -> None:
        self._encoding = encoding
        self._come_bytes = 0
        self._made_bytes = 0

    def feed(self, chunk: bytes) -> bytes:
        """The plain bytes that `chunk` completes. Raises `UndecodableReply`."""
        self._come_bytes += len(chunk)
        due = ALLOWANCE_BYTES + EXPANSION_MAX * self._come_bytes - self._made_bytes
        room = min(PIECE_BYTES_MAX, due)
        try:
            plain = self._encoding.decode(chunk, bytes_max=room + 1)
        except (zlib.error, brotli.error, zstandard.ZstdError) as error:
            raise UndecodableReply(str(error)) from error
        if len(plain) > room:
            raise UndecodableReply(f"{self._come_bytes} bytes came, and stand for more than is read of a reply")
        self._made_bytes += len(plain)
        return plain


class _Encoding(Protocol):
    def decode(self, chunk: bytes, *, bytes_max: int) -> bytes:
        """What `chunk` completes; where that is `bytes_max` bytes or more, at least as many of them and not all."""
        ...


class _Zlib:
    """gzip, of one member or several, and deflate in its zlib form."""

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._decoder = zlib.decompressobj(window_bits)

    def decode(self, chunk: bytes, *, bytes_max: int) -> bytes:
        plain = bytearray()
        while chunk and len(plain) < bytes_max:
            if self._decoder.eof:
                self._decoder = zlib.decompressobj(self._window_bits)
            plain += self._decoder.decompress(chunk, bytes_max - len(plain))
            chunk = self._decoder.unused_data
        return bytes(plain)


class _Brotli:
    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()

    def decode(self, chunk: bytes, *, bytes_max: int) -> bytes:
        return bytes(self._decoder.process(chunk, output_buffer_limit=bytes_max))


class _Zstandard:
    def __init__(self) -> None:
        # Some servers end a frame with every flush.
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX)
        self._decoder = decompressor.decompressobj(read_across_frames=True)

    def decode(self, chunk: bytes, *, bytes_max: int) -> bytes:
        plain = bytearray()
        for start in range(0, len(chunk), _ZSTD_SLICE_BYTES):
            if len(plain) >= bytes_max:
                break
            plain += self._decoder.decompress(chunk[start : start + _ZSTD_SLICE_BYTES])
        return bytes(plain)


_ENCODINGS: Mapping[str, Callable[[], _Encoding]] = {
    "gzip": lambda: _Zlib(16 + zlib.MAX_WBITS),
    "x-gzip": lambda: _Zlib(16 + zlib.MAX_WBITS),
    "deflate": lambda: _Zlib(zlib.MAX_WBITS),
    "br": _Brotli,
    "zstd": _Zstandard,
}


def decoder(content_encoding: str) -> Decoder | None:
    """A decoder for a `content-encoding` header; `None` for a reply that is not encoded.

    Raises `UndecodableReply` for an encoding that is unknown, and for several on top of each other.
    """
    name = content_encoding.strip().lower()
    if name in ("", "identity"):
        return None
    encoding = _ENCODINGS.get(name)
    if encoding is None:
        raise UndecodableReply(f"unknown content-encoding {name!r}")
    return Decoder(encoding())
