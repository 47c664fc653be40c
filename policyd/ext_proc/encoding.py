"""Content encodings: compressed replies, decoded as they come in."""

from __future__ import annotations

import zlib
from typing import Protocol

import brotli
import zstandard


class Decoder(Protocol):
    def feed(self, chunk: bytes) -> bytes:
        """The plain bytes that `chunk` completes. Raises `UndecodableReply`."""
        ...


class UndecodableReply(Exception):
    """The reply is not what its content-encoding says, or the encoding is unknown."""


class _Gzip:
    """gzip, of one member or several, and deflate in its zlib form."""

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._decoder = zlib.decompressobj(window_bits)

    def feed(self, chunk: bytes) -> bytes:
        plain = b""
        try:
            while chunk:
                if self._decoder.eof:
                    self._decoder = zlib.decompressobj(self._window_bits)
                plain += self._decoder.decompress(chunk)
                chunk = self._decoder.unused_data
        except zlib.error as error:
            raise UndecodableReply(str(error)) from error
        return plain


class _Brotli:
    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()

    def feed(self, chunk: bytes) -> bytes:
        try:
            return bytes(self._decoder.process(chunk))
        except brotli.error as error:
            raise UndecodableReply(str(error)) from error


class _Zstandard:
    def __init__(self) -> None:
        # Some servers end a frame with every flush.
        self._decoder = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True)

    def feed(self, chunk: bytes) -> bytes:
        try:
            return self._decoder.decompress(chunk)
        except zstandard.ZstdError as error:
            raise UndecodableReply(str(error)) from error


def decoder(content_encoding: str) -> Decoder | None:
    """A decoder for a `content-encoding` header; `None` for a reply that is not encoded.

    Raises `UndecodableReply` for an encoding that is unknown, and for several on top of each other.
    """
    match content_encoding.strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return _Gzip(16 + zlib.MAX_WBITS)
        case "deflate":
            return _Gzip(zlib.MAX_WBITS)
        case "br":
            return _Brotli()
        case "zstd":
            return _Zstandard()
        case other:
            raise UndecodableReply(f"unknown content-encoding {other!r}")
