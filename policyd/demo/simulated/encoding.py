"""Content encodings that can be flushed after every chunk, as a proxy in front of a stream does it."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from policyd.demo.simulated.reply import Chunk


@dataclass(frozen=True, slots=True)
class _Compressor:
    """`add` returns everything needed to decode what was added so far; `finish` returns the trailer."""

    add: Callable[[bytes], bytes]
    finish: Callable[[], bytes]


def _gzip() -> _Compressor:
    compressor = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    return _Compressor(
        add=lambda data: compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH),
        finish=compressor.flush,
    )


def _brotli() -> _Compressor:
    # Loaded when first asked for: most runs never compress. At its default quality 30 MB would take minutes.
    compressor: Any = import_module("brotli").Compressor(quality=4)
    return _Compressor(
        add=lambda data: compressor.process(data) + compressor.flush(),
        finish=compressor.finish,
    )


def _zstd() -> _Compressor:
    zstandard: Any = import_module("zstandard")
    compressor = zstandard.ZstdCompressor().compressobj()
    return _Compressor(
        add=lambda data: compressor.compress(data) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK),
        finish=compressor.flush,
    )


ENCODINGS: Mapping[str, Callable[[], _Compressor]] = {"gzip": _gzip, "br": _brotli, "zstd": _zstd}
"""What opens a compressor, by its name in `content-encoding`."""


def compressed(chunks: Iterable[Chunk], *, encoding: str) -> Iterator[Chunk]:
    """Each chunk compressed and flushed, then the trailer of the encoding as a last chunk."""
    compressor = ENCODINGS[encoding]()
    for chunk in chunks:
        yield Chunk(compressor.add(chunk.data), chunk.output_tokens)
    yield Chunk(compressor.finish())
