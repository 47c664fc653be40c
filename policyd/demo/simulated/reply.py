"""What a simulated provider answers, before it is decided how the bytes travel (see `transfer`)."""

import random
import string
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar

import msgspec

CountText = Callable[[str], int]
"""How many input tokens a piece of text makes."""

Decoded = TypeVar("Decoded")

_ID_ALPHABET = string.ascii_letters + string.digits


class BadRequestError(Exception):
    """The request cannot be served; the provider answers 400 with this message in its own error shape."""


class Chunk(NamedTuple):
    """A piece of a reply's body: one SSE event, or a JSON body or a part of it."""

    data: bytes
    output_tokens: int = 0
    """Tokens of generated text that this chunk is the first to carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole reply, its chunks made as they are asked for."""

    status: int = 200
    media_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    chunks: Iterable[Chunk]
    input_tokens: int = 0
    """What the provider bills for the request, once the reply begins."""
    fails: bool = False
    """Whether this is an error, or a stream that ends in one."""

    @property
    def streamed(self) -> bool:
        return self.media_type.startswith("text/event-stream")


def error_after(events: Iterable[Chunk], *, events_before: int, error: Chunk) -> Iterator[Chunk]:
    """The first events of a stream, then its error event as the last."""
    yield from islice(events, events_before)
    yield error


def identifier(prefix: str, *, characters: int) -> str:
    """An opaque id such as providers give to replies and requests."""
    return prefix + "".join(random.choices(_ID_ALPHABET, k=characters))


def decode_request(body: bytes, request_type: type[Decoded]) -> Decoded:
    """Reads a JSON request body, or raises BadRequestError."""
    try:
        return msgspec.json.decode(body, type=request_type)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequestError(f"We could not parse the JSON body of your request: {error}") from error
