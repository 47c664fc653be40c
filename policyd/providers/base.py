"""What a wire format is: how one provider's requests and replies are read, and how it words a refusal.

A wire format is pure: bytes in, facts out. It knows nothing of money, limits or Envoy. Each lives in a module of its
own and is registered in `policyd.providers.registry`.

Reading never trusts: every field may be missing, of another type, negative or huge. A request that cannot be read
raises `BodyUnreadable`; a reply that cannot be read leaves its facts unset and never raises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Any, Protocol, TypeGuard, runtime_checkable

from msgspec import Struct

from policyd.core.usage import NO_USAGE, Usage
from policyd.providers.framing.frame import Frame

OUTPUT_TOKENS_MAX = 100_000_000
"""More output than any provider serves: a larger maximum in a request is refused, so that no cost leaves 64 bits."""


class Detail(StrEnum):
    """How finely a provider is asked to look at an image."""

    AUTO = "auto"
    LOW = "low"
    HIGH = "high"
    ORIGINAL = "original"
    """As it is, as far as the model goes."""


class Image(Struct, frozen=True):
    """An image of the prompt."""

    head: bytes
    """The image's first bytes, enough for its dimensions; empty for one given by address."""
    detail: Detail = Detail.AUTO


class Prompt(Struct, frozen=True):
    """What has to be counted to know a request's input tokens. Held in memory until it is counted, never stored."""

    texts: tuple[str, ...]
    """Every piece of text that the provider turns into tokens, as it does so: each piece is counted by itself."""
    overhead_tokens: int = 0
    """Tokens that the provider adds around the pieces (roles, separators)."""
    possible_tokens: int = 0
    """Tokens that it adds on some requests and on most not: they are part of the bound alone."""
    images: tuple[Image, ...] = ()
    unread_bytes: int = 0
    """Bytes of parts that cannot be counted (audio, documents), each at most one token; allowances for what the request
    does not show count as bytes too."""
    exact: bool = True
    """Whether counting the pieces exactly gives what the provider will report."""
    has_tools: bool = False
    """Whether tools are defined in a format that models of other makers are given in one of their own."""
    hides_input: bool = False
    """Whether there is input that the request only refers to, and for which an allowance stands in `unread_bytes`."""


class CacheWrite(StrEnum):
    """Which cache writes a request can cause: what an upper bound has to price its input as."""

    NONE = "none"
    SHORT = "cache_write_5m"
    LONG = "cache_write_1h"


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What a request's body says, as far as pricing and metering need it."""

    model: str
    streamed: bool
    prompt: Prompt
    max_output_tokens: int | None
    """The client's own maximum for one choice; `None` where it gave none."""
    choices: int = 1
    """How many replies are generated for one prompt."""
    usage_requested: bool = True
    """Whether the reply will carry usage as the request stands."""
    cache_write: CacheWrite = CacheWrite.NONE
    input_kinds: tuple[str, ...] = ("input",)
    """The kinds of usage that its input can be charged as, cache writes aside: an upper bound takes the dearest."""
    output_kinds: tuple[str, ...] = ("output", "reasoning")
    """The kinds of usage that its output can be charged as."""
    outlives_client: bool = False
    """Whether the provider goes on with it, and charges for it, when the client hangs up."""
    lists_usage: bool = False
    """Whether the reply may tell a part of what it costs in a list, where only who sees the whole reply finds it."""
    pieces_min: Usage = NO_USAGE
    """What is charged by the piece, beside the tokens or in their place, whatever the reply says of it."""
    pieces: Usage = NO_USAGE
    """What is expected to be, where that is more."""
    pieces_max: Usage = NO_USAGE
    """The most that it can be, where that is more: with the calls that tools of the provider's may make."""
    terms: Mapping[str, str] = field(default_factory=dict)
    """Terms that change the price (`service_tier`), as the price book names them."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """The identity body fields that are present, by dotted path; numbers and booleans as JSON text."""


class RawRequest(Struct, frozen=True):
    """A request as it came: everything that says what it asks for, which some formats say in the path."""

    body: bytes
    path: str = ""
    """Without the query, and without a first segment that only named the vendor."""
    query: str = ""
    content_type: str = "application/json"


class RequestEdits(Struct, frozen=True):
    """What policy changes in a request's body. Everything else stays byte for byte the client's."""

    request_usage: bool = False
    """Ask the provider to report usage in the stream."""
    max_output_tokens: int | None = None
    """Set as the request's own maximum."""
    model: str | None = None
    """Set in place of the model in the body."""
    strip_fields: tuple[str, ...] = ()
    """Identity body fields to take out, as dotted paths."""


class ReplyReader(Protocol):
    """Reads one reply and keeps what it says. Fed either one document or the frames of a stream, in order."""

    @property
    def document_members(self) -> tuple[str, ...]:
        """The top-level members that `read_document` needs where the whole reply is too large to be kept."""
        ...

    @property
    def telling(self) -> re.Pattern[bytes] | None:
        """What is in the bytes of every event of a stream that says more than output text, once the model is known.

        An event without it may be read later, or never. `None`: each has to be read as it comes.
        """
        ...

    @property
    def usage(self) -> Usage | None:
        """What the provider has reported so far; `None` until it reported anything. Explicit zeros stay zeros."""
        ...

    @property
    def usage_complete(self) -> bool:
        """Whether `usage` is the whole exchange's: input and output, final.

        Until then it is what the provider had counted when it last reported: a stream that ends early may owe more
        output than that, so the larger of it and the output that was seen is the better number.
        """
        ...

    @property
    def model(self) -> str | None:
        """The model that the reply names."""
        ...

    @property
    def terms(self) -> Mapping[str, str]:
        """Terms that the reply says were applied (`service_tier`); each overrides the request's of the same name."""
        ...

    @property
    def error(self) -> str | None:
        """The type or code of an error that the reply carries, inside a 200 stream too. Never its message."""
        ...

    def read_document(self, document: Mapping[str, Any], *, partial: bool = False) -> None:
        """Takes a JSON reply. `partial`: it holds only `document_members`, as far as the reply has them."""
        ...

    def read_frame(self, frame: Frame) -> bool:
        """Takes one event of a stream; returns whether the client may see it.

        False for an event that is there only because policyd asked for usage on the client's behalf.
        """
        ...

    def take_text(self) -> str:
        """The output text (reasoning and tool calls included) that came since the last call; it is not kept."""
        ...


@runtime_checkable
class HeaderReader(Protocol):
    """What a `ReplyReader` is as well where a reply's headers say something that its body may not."""

    def read_headers(self, headers: Mapping[str, str]) -> None:
        """Takes the reply's headers, by their names in lower case, before anything else of the reply."""
        ...


@cache
def _is_header_reader(reader: type[ReplyReader]) -> bool:
    return issubclass(reader, HeaderReader)


def reads_headers(reader: ReplyReader) -> TypeGuard[HeaderReader]:
    """What `isinstance` would say, in a fraction of its time."""
    return _is_header_reader(type(reader))


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """A refusal to be worded in a provider's own error shape.

    `policyd` is put into the error object under that name; it holds JSON-ready values.
    """

    status: int
    reason: str
    message: str
    policyd: Mapping[str, Any] = field(default_factory=dict)


class WireFormat(Protocol):
    """One provider's wire format for one kind of endpoint."""

    name: str
    """`openai-chat`, `anthropic-messages`, ..."""
    exact_vocabulary: bool
    """Whether the models behind it use a public vocabulary, so that text can be counted exactly."""

    def read_request(self, request: RawRequest, *, vendor: Vendor, identity_fields: Sequence[str] = ()) -> RequestFacts:
        """Reads a request. Raises `BodyUnreadable` for one that the provider could not serve either."""
        ...

    def edit_request(self, body: bytes, edits: RequestEdits, *, vendor: Vendor) -> bytes:
        """`body`, which `read_request` has read, with `edits` spliced in; the model is `providers.editing`'s to set."""
        ...

    def reply_reader(self, facts: RequestFacts, *, usage_added: bool) -> ReplyReader:
        """A reader for the reply to `facts`. `usage_added`: usage was asked for by policyd and not by the client."""
        ...

    def error_body(self, error: ErrorInfo) -> bytes:
        """A JSON body in the provider's error shape."""
        ...

    def error_event(self, error: ErrorInfo) -> bytes:
        """Bytes that end an event stream with an error, as the provider would, framing included."""
        ...


class Api(StrEnum):
    """A family of endpoints with paths and error shapes of one maker, which other vendors adopt."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GOOGLE = "google"
    BEDROCK = "bedrock"
    COHERE = "cohere"
    MISTRAL = "mistral"
    OLLAMA = "ollama"


BEARER_HEADER = "authorization"
"""The header that most providers take keys in, after the word Bearer."""

_KEY_HEADER_BY_API = {Api.ANTHROPIC: "x-api-key", Api.GOOGLE: "x-goog-api-key"}


@dataclass(frozen=True, slots=True)
class Vendor:
    """One row of the vendor table: who answers, where, and how it deviates from the wire format's maker."""

    id: str
    """As genai-prices names it, where it does."""
    names: tuple[str, ...] = ()
    """What else it is called by those who route to it."""
    hosts: tuple[str, ...] = ()
    host_patterns: tuple[str, ...] = ()
    """Regular expressions of hosts that have a name of their own for each customer or region; in lower case."""
    bases: tuple[str, ...] = ()
    """Base paths of its endpoints, beside those that are common."""
    base_patterns: tuple[str, ...] = ()
    """Regular expressions of base paths that have a name of their own for each customer."""
    apis: tuple[Api, ...] = (Api.OPENAI,)
    """Whose APIs it serves, its own first: that one words refusals of paths that nothing else tells apart."""
    stream_options: bool = True
    """Whether a stream reports usage only where `stream_options.include_usage` asks for it.

    False for a vendor that reports it unasked, whether it would accept the field or not.
    """
    output_maximum: str = "max_tokens"
    """The member of a chat completion request by which policy sets the maximum of its output."""
    output_floor: int = 0
    """Tokens that a reply can have though a smaller maximum was asked for: the vendor raises it or thinks beside it."""
    served_as: Mapping[str, str] = field(default_factory=dict)
    """Retired models that it goes on taking requests for, in lower case, and which dearer model serves them."""
    resells: bool = False
    """Whether it calls models `maker/model` and sells those it has no price of its own for at their makers' prices."""
    completion_maximum: int | None = None
    """What bounds the output of a legacy completion whose request does not; `None` where it is not known."""
    key_header: str | None = None
    """The header that its keys go in, where that is not the one of its first API."""
    transcript_ms_min: int = 0
    """What a transcript is charged for at least, in milliseconds of audio."""
    exact_prompts: bool = False
    """Whether its models see a prompt as the wire format's maker documents it, so that it can be counted exactly."""

    @property
    def key_headers(self) -> tuple[str, ...]:
        """The headers in which it takes keys, its own first."""
        own = () if self.key_header is None else (self.key_header,)
        return (*own, *(_KEY_HEADER_BY_API.get(api, BEARER_HEADER) for api in self.apis))
