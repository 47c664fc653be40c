"""One call of a provider's SDK: what to ask, what the provider answers, and what has to come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, TypeVar

import msgspec

from policyd.core.usage import Usage
from tests.builders import price_of
from tests.e2e.sdks import CERTIFICATES, REPLY_SECONDS_MAX

API_KEY = "sk-made-up"

QUESTION = "Which birds stand on one leg?"
WORDS = ("Störche", ", Flamingos", " und 鶴", " 🦩.")
ANSWER = "".join(WORDS)

SSE = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider answers: the chunks of a body, each sent by itself."""

    chunks: Sequence[bytes]
    content_type: str = "application/json"
    ends: bool = True
    """Whether the provider ends the reply, and does not wait for its client to hang up."""


def document(members: Any) -> Answer:
    """A JSON reply."""
    return Answer((msgspec.json.encode(members),))


def events(*members: Any, done: bool = False) -> Answer:
    """A stream of server-sent events, named where the member `type` names them, with `[DONE]` last if asked for."""
    chunks = [_event(item) for item in members]
    return Answer((*chunks, *([b"data: [DONE]\n\n"] if done else [])), SSE)


def lines(*members: Any, content_type: str = "application/x-ndjson") -> Answer:
    """A stream of JSON lines."""
    return Answer([msgspec.json.encode(item) + b"\n" for item in members], content_type)


def _event(members: Mapping[str, Any]) -> bytes:
    name = f"event: {members['type']}\n".encode() if "type" in members else b""
    return name + b"data: " + msgspec.json.encode(members) + b"\n\n"


class Closable(Protocol):
    def close(self) -> object: ...


_Client = TypeVar("_Client", bound=Closable)


@dataclass(slots=True)
class Caller:
    """Whoever calls: through which Envoy, as whom, and what was sent."""

    url: str
    headers: Mapping[str, str]
    upstream: str
    """Where the provider itself is, for an SDK that takes Envoy for a proxy on the way to it."""
    sent: list[bytes] = field(default_factory=list)
    """The body of each request, as the SDK sent it."""
    _open: ExitStack = field(default_factory=ExitStack)

    def http(self, kind: Callable[..., _Client], **options: Any) -> _Client:
        """An HTTP client, of the library that the SDK uses, for the SDK to send its requests by."""
        return self.closing(
            kind(
                verify=CERTIFICATES,
                timeout=REPLY_SECONDS_MAX,
                event_hooks={"request": [self.about_to_send]},
                **options,
            )
        )

    def about_to_send(self, request: Any) -> None:
        """Adds who calls, and notes what is sent. What an SDK signs it has signed by now."""
        request.headers.update(self.headers)
        self.sent.append(request.read())

    def closing(self, client: _Client) -> _Client:
        """Closes it when the caller is done."""
        self._open.callback(client.close)
        return client

    def close(self) -> None:
        self._open.close()


class Charge(Enum):
    """What is charged where it is not what the provider reports."""

    NOTHING = "nothing"
    """The endpoint is free."""
    HOLD = "hold"
    """The reply tells no usage: what was held is charged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sdk:
    """How one SDK tells of errors."""

    refused: type[Exception]
    """What it raises for a 402."""
    told: Callable[[Any], Mapping[str, Any]] | None
    """The `policyd` object in that exception; `None` for an SDK that hands out the message alone."""
    cut: type[Exception] | None
    """What it raises where a stream ends in an error; `None` for an SDK that takes it for an ordinary end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call."""

    id: str
    sdk: Sdk
    upstream: str
    model: str
    """The name that it is priced by."""
    target: str
    """Path and query at the provider."""
    ask: Callable[[Caller], Any]
    """Calls the SDK; returns what it made of the reply."""
    answer: Answer
    heard: Any = ANSWER
    charged: Usage | Charge
    stream: Callable[[Sequence[str]], Answer] | None = None
    """The answer with other text, a word in each event; `None` where it is no stream."""
    adds_usage: bool = False
    """Whether policyd asks for the usage in the client's place."""
    own_price: bool = False
    """Whether the price is the policy's own, `OWN_PRICE`, and not a published one."""
    method: str = "POST"

    def __str__(self) -> str:
        return self.id

    def endless(self, words: Sequence[str]) -> Answer:
        """The stream with these words, up to its last events: those that end it do not come."""
        assert self.stream is not None
        whole = self.stream(words)
        return Answer(whole.chunks[: len(words)], whole.content_type, ends=False)

    @property
    def cost_nanos(self) -> int:
        """What the reported usage costs."""
        assert isinstance(self.charged, Usage)
        if self.own_price:
            return self.charged.input * OWN_INPUT_NANOS + self.charged.output * OWN_OUTPUT_NANOS
        return price_of(self.model, self.upstream).cost_nanos(self.charged)


OWN_INPUT_NANOS, OWN_OUTPUT_NANOS = 1000, 2000
OWN_PRICE = "{input: 1, output: 2}"
"""The same, in USD for a million tokens, as a policy file has it."""
