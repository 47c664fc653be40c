"""What Envoy and an exchange say to each other, in plain types: no protobuf, no transport.

Events come in, effects go out. Header names are lower-case; values are text, with bytes that are not UTF-8 as surrogate
escapes. All of them are structs: an exchange makes some twenty, and a frozen dataclass takes ten times as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

from policyd.core.errors import RequestError
from policyd.core.record import Record
from policyd.core.runtime import ApiKey
from policyd.core.usage import Usage
from policyd.enforcer import Ending, Verdict
from policyd.estimator import Ask


class BodyMode(StrEnum):
    """How Envoy passes a body. The names are Envoy's."""

    NONE = "NONE"
    STREAMED = "STREAMED"
    BUFFERED = "BUFFERED"
    BUFFERED_PARTIAL = "BUFFERED_PARTIAL"
    FULL_DUPLEX_STREAMED = "FULL_DUPLEX_STREAMED"


# --- events: from Envoy ---


class RequestHeaders(Struct, frozen=True):
    headers: Mapping[str, str]
    end_of_stream: bool
    """The request has no body."""
    request_body_mode: BodyMode = BodyMode.BUFFERED
    response_body_mode: BodyMode = BodyMode.STREAMED
    provider: str | None = None
    """The provider that the route names; a client cannot set it."""
    envoy_minor: int | None = None
    """40 of Envoy 1.40; `None` where Envoy is not configured to tell."""
    envoy_attributes: Mapping[str, str] = {}
    """What Envoy is configured to tell of a request beside its headers, by Envoy's names."""
    claims: Mapping[str, str] = {}
    """Of the tokens that Envoy has verified, by dotted path."""


class RequestBody(Struct, frozen=True):
    chunk: bytes
    end_of_stream: bool


class WholeRequest(Struct, frozen=True):
    """A request in one message, the only one of its exchange: that is how the lean profile asks."""

    head: RequestHeaders
    """With those headers that Envoy is configured to tell with the body."""
    body: bytes
    """As far as Envoy has it: all of it, if its configuration is right."""
    end_of_stream: bool


class RequestTrailers(Struct, frozen=True):
    pass


class RequestTimedOut(Struct, frozen=True):
    """The request's body did not come in time. Of policyd's own clock: Envoy has none for a body in full duplex."""


class ResponseHeaders(Struct, frozen=True):
    headers: Mapping[str, str]
    end_of_stream: bool
    """The reply has no body."""
    body_mode: BodyMode = BodyMode.STREAMED
    mode_fixed: bool = False
    """Whether Envoy's configuration shows that it takes no mode override."""


class ResponseBody(Struct, frozen=True):
    chunk: bytes
    end_of_stream: bool


class ResponseTrailers(Struct, frozen=True):
    pass


class Closed(Struct, frozen=True):
    """Envoy closed the stream, or it broke. A normal end and a client's hang-up look the same."""


# --- events: answers to what the exchange asked for ---


class Identified(Struct, frozen=True):
    """The API key holds, and this is what it stands for."""

    key: ApiKey


class Decided(Struct, frozen=True):
    verdict: Verdict


class Rejected(Struct, frozen=True):
    """The request cannot be priced, or the policy does not allow its like."""

    error: RequestError


class Failed(Struct, frozen=True):
    """policyd itself failed: its store, or a defect. `error` is a name for people, without content."""

    error: str
    closes: bool = False
    """Whether nothing may pass, whatever `failure_mode` says."""


class Extended(Struct, frozen=True):
    """`tokens` more are held, of what was asked for; 0: the budget is used up."""

    tokens: int


class Ended(Struct, frozen=True):
    """The exchange is settled or released, and its record is durable."""

    record: Record


Event = (
    RequestHeaders
    | RequestBody
    | WholeRequest
    | RequestTrailers
    | RequestTimedOut
    | ResponseHeaders
    | ResponseBody
    | ResponseTrailers
    | Closed
    | Identified
    | Decided
    | Rejected
    | Failed
    | Extended
    | Ended
)


# --- effects: to Envoy ---


class ModeOverride(Struct, frozen=True):
    """Body modes from here on. Every mode is set: Envoy takes one left out as NONE."""

    response_body: BodyMode
    response_trailers: bool = False
    response_headers: bool = True
    request_body: BodyMode = BodyMode.BUFFERED
    request_trailers: bool = False


class HeadersReply(Struct, frozen=True):
    """Lets headers pass, changed as told."""

    response: bool
    set_headers: Mapping[str, str] = {}
    remove_headers: tuple[str, ...] = ()
    mode: ModeOverride | None = None


class BodyReply(Struct, frozen=True):
    """Lets a body message pass; `body` replaces its content, `None` leaves it."""

    response: bool
    body: bytes | None = None
    set_headers: Mapping[str, str] = {}


class MarkedBody(Struct, frozen=True):
    """Lets a whole request pass, and has Envoy keep `marks` with it, for the reply's headers and the access log.

    `body` replaces its content, `None` leaves it.
    """

    body: bytes | None
    marks: Mapping[str, str]


class StreamedBody(Struct, frozen=True):
    """A piece of body in full duplex. Independent of what came in; `end_of_stream` ends the body for good."""

    response: bool
    body: bytes
    end_of_stream: bool


class TrailersReply(Struct, frozen=True):
    response: bool


class ImmediateReply(Struct, frozen=True):
    """Envoy answers the client itself; the provider sees nothing, or is cancelled."""

    status: int
    headers: Mapping[str, str]
    body: bytes


# --- effects: asked of the enforcer; each is answered by an event ---


class Authenticate(Struct, frozen=True):
    """Answered by `Identified`, `Rejected` or `Failed`."""

    key_digest: str
    endpoint: str
    metered: bool


class Decide(Struct, frozen=True):
    """Answered by `Decided`, `Rejected` or `Failed`."""

    ask: Ask
    unattended: bool = False
    """Whether policyd sees nothing of the exchange from then on."""


class TopUp(Struct, frozen=True):
    """Answered by `Extended` or `Failed`."""

    verdict: Verdict
    wanted_tokens: int
    at_least_tokens: int
    of_input: bool = False
    """Whether it is the input that grows (of a session), and not the output."""


class Finish(Struct, frozen=True):
    """Settle or release. Answered by `Ended` or `Failed`."""

    verdict: Verdict
    ending: Ending


class Charge(Struct, frozen=True):
    """Charge what nothing is held for. Answered by `Ended`, `Rejected` or `Failed`."""

    ask: Ask
    usage: Usage


class ChargeMaximum(Struct, frozen=True):
    """Charge the most that a request can cost, for it passes though it could not be decided on.

    Answered like `Charge`.
    """

    ask: Ask
    error: str
    """Why it could not, as in `Failed`."""


class Report(Struct, frozen=True):
    """Store and report an exchange that holds nothing. Answered by nothing."""

    record: Record


class Abort(Struct, frozen=True):
    """End the gRPC stream with an error status: an orderly end would let the request pass unmetered."""

    message: str


Reply = HeadersReply | BodyReply | MarkedBody | StreamedBody | TrailersReply | ImmediateReply
Request = Authenticate | Decide | TopUp | Finish | Charge | ChargeMaximum | Report
Effect = Reply | Request | Abort
