"""How a reply travels: line ends, compression, where its bytes are cut, whether it comes to an orderly end.

Pure: chunks in, chunks out, one function a variation. The order is that of a real path: the provider writes events,
something compresses them, the network cuts the bytes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

from policyd.demo.simulated.encoding import compressed
from policyd.demo.simulated.reply import Chunk, Reply
from policyd.demo.simulated.script import Script

_JSON_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A reply as it is sent: a status, headers, and one or more writes."""

    status: int
    headers: list[tuple[bytes, bytes]]
    chunks: Iterable[Chunk]
    breaks_off: bool
    """Whether the connection dies after the chunks, in place of an orderly end."""


def transfer(reply: Reply, script: Script) -> Transfer:
    """Applies what the script says about the bytes of a reply."""
    headers = [*reply.headers, ("content-type", reply.media_type)]
    chunks = reply.chunks
    if reply.streamed and script.crlf:
        chunks = _with_crlf(chunks)
    if script.encoding is not None:
        headers.append(("content-encoding", script.encoding))
        chunks = compressed(chunks, encoding=script.encoding)
    if not reply.streamed and not script.unknown_length:
        chunks = list(chunks)
        headers.append(("content-length", str(sum(len(chunk.data) for chunk in chunks))))
    if script.chunk_bytes is not None:
        chunks = _cut(chunks, chunk_bytes=script.chunk_bytes)
    elif not reply.streamed:
        chunks = _cut(chunks, chunk_bytes=_JSON_CHUNK_BYTES)
    if script.reset_after_chunks is not None:
        chunks = _broken_off(chunks, after=script.reset_after_chunks)
    return Transfer(
        status=reply.status,
        headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        chunks=chunks,
        breaks_off=script.reset_after_chunks is not None,
    )


def _with_crlf(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    # JSON never holds a bare line feed, so every one of them ends a line of SSE.
    return (Chunk(chunk.data.replace(b"\n", b"\r\n"), chunk.output_tokens) for chunk in chunks)


def _cut(chunks: Iterable[Chunk], *, chunk_bytes: int) -> Iterator[Chunk]:
    """The same bytes in chunks of `chunk_bytes`, the last one shorter; tokens go with the first byte of their event."""
    waiting = bytearray()
    output_tokens = 0
    for chunk in chunks:
        waiting += chunk.data
        output_tokens += chunk.output_tokens
        while len(waiting) >= chunk_bytes:
            yield Chunk(bytes(waiting[:chunk_bytes]), output_tokens)
            del waiting[:chunk_bytes]
            output_tokens = 0
    if waiting:
        yield Chunk(bytes(waiting), output_tokens)


def _broken_off(chunks: Iterable[Chunk], *, after: int) -> Iterator[Chunk]:
    """The first `after` chunks but never the last one: with it the client would have the whole reply."""
    return (chunk for chunk, _following in islice(pairwise(chunks), after))
