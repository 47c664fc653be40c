"""Feeding replies to readers, cut into chunks anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

import msgspec

from policyd.core.usage import NO_USAGE, Usage
from policyd.providers.base import Prompt, ReplyReader, RequestFacts
from policyd.providers.framing.frame import Framer
from policyd.providers.framing.json_members import JsonMembers
from policyd.providers.framing.sse import SseFramer

NO_PROMPT = Prompt(texts=())


def some_facts(*, choices: int = 1, pieces_min: Usage = NO_USAGE, pieces_max: Usage = NO_USAGE) -> RequestFacts:
    """The facts of a request of which nothing matters but what a reply's reader looks at."""
    return RequestFacts(
        model="m",
        streamed=True,
        prompt=NO_PROMPT,
        max_output_tokens=None,
        choices=choices,
        pieces_min=pieces_min,
        pieces_max=pieces_max,
    )


def random_chunks(data: bytes, random: Random) -> Iterator[bytes]:
    """`data` in chunks of random size, most of them small and some large."""
    position = 0
    while position < len(data):
        end = position + random.choice((1, 2, 3, 16, 64, 256, 1024, 4096, 65536))
        yield data[position:end]
        position = end


def single_bytes(data: bytes) -> Iterator[bytes]:
    for position in range(len(data)):
        yield data[position : position + 1]


def read_stream(reader: ReplyReader, chunks: Iterable[bytes], *, framer: Framer | None = None) -> bytes:
    """Feeds an event stream, server-sent events unless `framer` says otherwise; returns what the client may see."""
    framer = framer or SseFramer()
    seen = []
    for chunk in chunks:
        seen += [frame.raw for frame in framer.feed(chunk) if reader.read_frame(frame)]
    seen += [frame.raw for frame in framer.finish() if reader.read_frame(frame)]
    return b"".join(seen)


def read_document(reader: ReplyReader, body: bytes) -> None:
    document: Any = msgspec.json.decode(body)
    reader.read_document(document)


def read_members(reader: ReplyReader, chunks: Iterable[bytes]) -> None:
    """Feeds a JSON reply that is taken to be too large to be kept."""
    members = JsonMembers(reader.document_members, bytes_max=65536)
    for chunk in chunks:
        members.feed(chunk)
    reader.read_document(members.found, partial=True)


def event_stream(*events: tuple[str, Any] | Any) -> bytes:
    """An event stream of JSON values, with event names where given; text goes in as it is."""
    lines = []
    for item in events:
        name, value = item if isinstance(item, tuple) else ("", item)
        data = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        lines.append(f"event: {name}\ndata: {data}\n\n" if name else f"data: {data}\n\n")
    return "".join(lines).encode()


def usage_of(reader: ReplyReader) -> Usage:
    usage = reader.usage
    assert usage is not None
    return usage
