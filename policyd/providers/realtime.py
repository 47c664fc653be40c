"""What a realtime format is: how the messages of one provider's WebSocket sessions are read.

A session has many responses, and each is charged by itself: it has a beginning, output, and an end that tells its
usage. As with every wire format, a format is pure, and what the provider sends is read tolerantly and never raises.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from policyd.core.usage import Usage
from policyd.providers.base import ErrorInfo, RawRequest

INPUT_KINDS = ("input", "audio_input", "image_input")
OUTPUT_KINDS = ("output", "reasoning", "audio_output")
"""The kinds that a session's input and output can be charged as."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a client's message adds to the input of the responses that follow."""

    text: str = ""
    """Still to be counted."""
    tokens: int = 0
    """Of audio and images, by their length and number."""
    responses: int = 0
    """How many responses it asks for."""


@dataclass(frozen=True, slots=True)
class ResponseEnd:
    """A response is over. Without `usage` it has to be counted."""

    usage: Usage | None
    complete: bool = True
    """Whether `usage` tells the output too."""
    error: str | None = None
    """The code of an error that ended it. Never its message."""
    is_remembered: bool = True
    """Whether the responses that follow read what it read and wrote."""


@dataclass(frozen=True, slots=True)
class Transcription:
    """Speech of the client's was written down, by a model of its own that is charged beside the session's."""

    model: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Received:
    """What a provider's message says."""

    began: bool = False
    """A response has begun."""
    text: str = ""
    """Output, still to be counted."""
    audio_tokens: int = 0
    """Output, by its length."""
    ended: ResponseEnd | None = None
    transcription: Transcription | None = None
    refused: bool = False
    """Something that the client asked for was refused, and comes to nothing."""


NOTHING_SENT = Sent()
NOTHING_RECEIVED = Received()


class RealtimeReader(Protocol):
    """Reads the messages of one session, of both directions, in the order in which they pass."""

    @property
    def model(self) -> str:
        """The model that the client asked for; empty until it has named one."""
        ...

    @property
    def response_model(self) -> str | None:
        """The model that the provider says it runs."""
        ...

    @property
    def max_output_tokens(self) -> int | None:
        """What bounds the output of a response; `None` where nothing does."""
        ...

    def read_sent(self, message: bytes) -> Sent:
        """Takes a client's message. Raises `BodyUnreadable` for one that cannot be metered."""
        ...

    def read_received(self, message: bytes) -> Received:
        """Takes a provider's message. What is not as expected counts as not there."""
        ...


class RealtimeFormat(Protocol):
    """One provider's kind of session."""

    name: str

    def reader(self, request: RawRequest) -> RealtimeReader:
        """A reader for the session that the handshake asks for. Raises `BodyUnreadable` for one it cannot meter."""
        ...

    def error_message(self, error: ErrorInfo) -> bytes:
        """A message that tells an error as the provider would; empty where it would only close."""
        ...


def base64_bytes(text: Any) -> int:
    """How many bytes base64 stands for, rounded up; none for what is no text."""
    return -(-len(text) * 3 // 4) if isinstance(text, str) else 0


def texts_of(value: Any, *, media: Collection[str]) -> str:
    """The text of a JSON value: its names and its strings, without the members that hold `media`."""
    texts = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            texts.append(one)
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            texts += one
            waiting += [inner for name, inner in one.items() if name not in media]
    return " ".join(texts)
