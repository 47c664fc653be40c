"""One HTTP exchange as a state machine: no I/O, no clock, no transport.

Envoy's messages and the enforcer's answers come in as events; replies to Envoy and questions to the enforcer go out as
effects. The life of an exchange is `TABLE`, and nothing else:

    IDLE ----> READING_REQUEST ----> DECIDING ----> FORWARDED ----> METERING <---> TOPPING_UP
      |               |                 |  |            |               |              |
      |               |                 |  +--> ABANDONED -------> +----+-----> SETTLING -----> ENDED
      +---------------+-----------------+-----> ENDED (refused)
      +---------------+-----------------+-----> PASSING ----> ENDED
      +--> AUTHENTICATING, from there on like IDLE

    IDLE             nothing has come yet
    AUTHENTICATING   the enforcer was asked what the request's API key stands for
    READING_REQUEST  a metered request, its body not yet whole
    DECIDING         the enforcer was asked whether it fits
    ABANDONED        the same, but the client has gone: what is granted will be returned
    FORWARDED        the request went upstream with its hold taken
    METERING         the reply passes and is read
    TOPPING_UP       the reply outgrows its hold; the enforcer was asked for more
    SETTLING         the enforcer was asked to settle or release
    PASSING          not metered: everything passes as it is
    ENDED            nothing more will be done

An event without a row is a `ProtocolError`. A failure has a row in every state: before the request went upstream
`failure_mode` decides, after that what was seen is charged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from policyd.core.errors import (
    BodyTooSlow,
    BodyUnreadable,
    EndpointUnknown,
    RequestError,
    RequestSigned,
)
from policyd.core.policy import ApiKeys, FailureMode, OnDisconnect, Policy
from policyd.core.policy import UnknownEndpoint as UnknownEndpointAction
from policyd.core.record import Outcome, Record, UsageSource
from policyd.core.runtime import Blocked
from policyd.enforcer import Ending, Verdict
from policyd.estimator import Ask
from policyd.ext_proc import messages as m
from policyd.ext_proc.charging import charged_at_least, disconnected, ended
from policyd.ext_proc.encoding import UndecodableReply
from policyd.ext_proc.headers import block_headers, cost_headers, decision_headers, request_id_header
from policyd.ext_proc.meter import ReplyMeter
from policyd.ext_proc.refusal import block_refusal, denial, error_info, immediate, worth_retrying
from policyd.ext_proc.reply import NO_REPLY, ReplyHead, ReplySide
from policyd.ext_proc.request import NO_UPGRADE, UNMETERED, RequestSide
from policyd.ext_proc.table import Table, row, step
from policyd.providers.base import ErrorInfo, HeaderReader, RequestEdits, WireFormat
from policyd.providers.endpoint import Endpoint, UnknownEndpoint
from policyd.providers.registry import OPENAI_CHAT, might_be_priced, resolve


class State(StrEnum):
    IDLE = "idle"
    AUTHENTICATING = "authenticating"
    READING_REQUEST = "reading_request"
    DECIDING = "deciding"
    ABANDONED = "abandoned"
    FORWARDED = "forwarded"
    METERING = "metering"
    TOPPING_UP = "topping_up"
    SETTLING = "settling"
    PASSING = "passing"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class ExchangeSettings:
    """What is the same for every exchange of a process."""

    header_prefix: str = "x-policyd-"
    request_body_bytes_max: int = 16 * 1024 * 1024
    request_body_seconds_max: float = 300
    """How long a request's body may take to come: a client that dribbles it must not hold a stream for ever."""
    response_buffer_bytes_max: int = 512 * 1024
    """Largest JSON reply that Envoy is asked to buffer, so that the cost can go into its headers."""


CountText = Callable[[str, str, str], int]
"""`(text, provider, model) -> tokens`."""

Step = tuple[State, list[m.Effect]]


class Exchange:
    """`receive` takes an event and returns the effects to carry out, in order."""

    # What a state relies on is set by the transition that leads there.
    _arrival: m.RequestHeaders
    _destination: Endpoint | UnknownEndpoint | None
    _request: RequestSide
    _reply_mode: m.BodyMode
    _endpoint: Endpoint
    _wire: WireFormat
    _ask: Ask
    _verdict: Verdict
    _reply: ReplySide

    def __init__(
        self, *, request_id: str, began_ms: int, policy: Policy, settings: ExchangeSettings, count_text: CountText
    ) -> None:
        self.request_id = request_id
        self.state = State.IDLE
        self._policy = policy
        self._settings = settings
        self._count_text = count_text
        self._error_wire: WireFormat = OPENAI_CHAT
        self._unheld = Record(
            request_id=request_id,
            at_ms=began_ms,
            outcome=Outcome.UNMETERED,
            decision="allow",
            provider="",
            endpoint="",
            model="",
            attributes={},
        )
        self._holding = False
        self._usage_added = False
        self._head = NO_REPLY
        self._waiting_reply: m.BodyReply | None = None
        """Lets a whole reply pass, once its cost is known."""
        self._is_cut = False

    def receive(self, event: m.Event) -> list[m.Effect]:
        """Raises `ProtocolError` for an event that the state does not allow. Any other exception is a defect."""
        self.state, effects = step(TABLE, self, self.state, event)
        return effects

    def give_up(self) -> None:
        """Ends without another word: what is held expires, and is charged."""
        self.state = State.ENDED

    # --- the request ---

    def _begin(self, event: m.RequestHeaders) -> Step:
        self._arrival = event
        self._request = request = RequestSide(event, policy=self._policy)
        self._destination = endpoint = resolve(
            provider=event.provider,
            host=event.headers.get(":authority", ""),
            method=event.headers.get(":method", ""),
            path=request.path,
        )
        if endpoint is not None:
            self._error_wire = endpoint.error_wire
            self._unheld = replace(self._unheld, provider=endpoint.vendor.id)
        name = endpoint.name if isinstance(endpoint, Endpoint) else ""
        self._unheld = replace(self._unheld, endpoint=name)
        try:
            digest = request.key_digest()
        except RequestError as error:
            return self._refuse(error)
        if digest is None:
            return self._enter()
        metered = isinstance(endpoint, Endpoint) and endpoint.wire is not None
        return State.AUTHENTICATING, [m.Authenticate(digest, name, metered=metered)]

    def _identified(self, event: m.Identified) -> Step:
        self._request.identify(event.key)
        return self._enter()

    def _enter(self) -> Step:
        request, endpoint = self._request, self._destination
        if not isinstance(endpoint, Endpoint):
            return self._meet_unknown_endpoint(self._arrival)
        if endpoint.realtime is not None:
            return self._refuse(BodyUnreadable("this endpoint takes a WebSocket, and the request asks for none"))
        try:
            request.check_signature()
            if endpoint.wire is None:
                return self._pass_unmetered()
            self._endpoint, self._wire = endpoint, endpoint.wire
            request.check(body_bytes_max=self._settings.request_body_bytes_max)
        except RequestError as error:
            return self._refuse(error)
        return State.READING_REQUEST, request.withhold()

    def _meet_unknown_endpoint(self, event: m.RequestHeaders) -> Step:
        if self._policy.unknown_endpoint is UnknownEndpointAction.PASS and not self._might_be_priced(event):
            return self._pass_unmetered()
        what = ascii(f"{event.headers.get(':method', '')} {self._request.path}")
        message = f"{what} is not an endpoint that policyd can price, and the policy refuses such requests"
        return self._refuse(EndpointUnknown(message))

    def _might_be_priced(self, event: m.RequestHeaders) -> bool:
        """Whether what the table does not know may be one of its endpoints, spelt so that it does not know it."""
        return might_be_priced(
            provider=event.provider,
            host=event.headers.get(":authority", ""),
            method=event.headers.get(":method", ""),
            path=self._request.path,
        )

    def _read_request(self, event: m.RequestBody) -> Step:
        try:
            if not self._request.take(event, body_bytes_max=self._settings.request_body_bytes_max):
                return State.READING_REQUEST, self._request.await_more()
            self._ask = self._request.ask(
                request_id=self.request_id, endpoint=self._endpoint, wire=self._wire, policy=self._policy
            )
        except RequestError as error:
            return self._refuse(error)
        self._unheld = replace(self._unheld, model=self._ask.facts.model, attributes=self._ask.identity)
        return State.DECIDING, [m.Decide(self._ask)]

    def _refuse_slowness(self, _: m.RequestTimedOut) -> Step:
        return self._refuse(BodyTooSlow(f"the body did not come within {self._settings.request_body_seconds_max} s"))

    def _refuse_trailers(self, _: m.RequestTrailers) -> Step:
        return self._refuse(BodyUnreadable("the request has trailers; they are not supported here"))

    # --- the decision ---

    def _decided(self, event: m.Decided) -> Step:
        verdict = self._verdict = event.verdict
        if not verdict.decision.allowed:
            return self._deny(verdict)
        self._holding = True
        # What it takes to change the request is not kept while the reply passes.
        self._ask = replace(self._ask, facts=verdict.facts, reread=None)
        self._usage_added = not verdict.facts.usage_requested
        edits = RequestEdits(
            request_usage=self._usage_added,
            max_output_tokens=verdict.max_output_tokens,
            model=verdict.decision.changes.model,
            strip_fields=self._policy.identity.strip.body,
        )
        try:
            return State.FORWARDED, self._request.forward(self._endpoint, self._wire, edits)
        except RequestSigned as error:
            return self._refuse(error)

    def _deny(self, verdict: Verdict) -> Step:
        decision = verdict.decision
        error = denial(decision, request_id=self.request_id)
        reply = immediate(
            self._wire,
            error,
            headers=decision_headers(verdict, self._settings.header_prefix),
            retry_after_seconds=decision.retry_after_seconds,
            retry=worth_retrying(decision),
        )
        return State.ENDED, [reply, m.Report(replace(verdict.record, status=error.status))]

    def _rejected(self, event: m.Rejected) -> Step:
        if isinstance(event.error, Blocked):
            return self._deny_blocked(event.error)
        return self._refuse(event.error)

    def _deny_blocked(self, error: Blocked) -> Step:
        reply = immediate(
            self._wire,
            block_refusal(error, request_id=self.request_id),
            headers=block_headers(self.request_id, self._settings.header_prefix),
            retry_after_seconds=error.block.seconds_left(self._unheld.at_ms),
            retry=False,
        )
        record = replace(
            self._unheld,
            outcome=Outcome.DENIED,
            decision="deny",
            status=error.status,
            denied_by=(error.block.name,),
        )
        return State.ENDED, [reply, m.Report(record)]

    def _abandon(self, _: m.Closed) -> Step:
        return State.ABANDONED, []

    def _return_hold(self, event: m.Decided) -> Step:
        """The client went while the enforcer decided: the provider has seen nothing."""
        self._verdict = event.verdict
        if not event.verdict.decision.allowed:
            return State.ENDED, [m.Report(event.verdict.record)]
        return State.SETTLING, [self._finish(Ending(Outcome.DISCONNECTED, usage=None, source=UsageSource.NONE))]

    # --- the reply ---

    def _begin_reply(self, event: m.ResponseHeaders) -> Step:
        facts, vendor = self._ask.facts, self._endpoint.vendor
        head = ReplyHead.of(event)
        reader = self._wire.reply_reader(facts, usage_added=self._usage_added)
        if isinstance(reader, HeaderReader):
            reader.read_headers(event.headers)
        self._reply = ReplySide(
            head,
            buffer_bytes_max=self._settings.response_buffer_bytes_max,
            reader=reader,
            verdict=self._verdict,
            streamed=facts.streamed,
            count_text=lambda text: self._count_text(text, vendor.id, facts.model),
        )
        self._head = head
        headers = self._reply.headers(decision_headers(self._verdict, self._settings.header_prefix))
        if event.end_of_stream:
            return State.SETTLING, [headers, self._finish(self._ending())]
        return State.METERING, [headers]

    def _meter(self, event: m.ResponseBody) -> Step:
        reply = self._reply
        if reply.is_whole(event):
            self._waiting_reply = m.BodyReply(response=True, body=reply.read_whole(event.chunk))
            return State.SETTLING, [self._finish(self._ending())]
        if reply.breaks_off(event):
            reply.meter = None
            return State.SETTLING, [m.BodyReply(response=True), self._finish(self._ending())]
        try:
            passing = reply.feed(event)
        except UndecodableReply:
            return self._cut_unreadable()
        if event.end_of_stream:
            return State.SETTLING, [reply.piece(passing, end_of_stream=True), self._finish(self._ending())]
        return self._go_on(passing)

    def _go_on(self, passing: bytes) -> Step:
        """Lets `passing` go to the client, once more is held where the reply needs it."""
        reply, meter = self._reply, self._reply.meter
        if meter is not None and meter.is_stream and (short := meter.shortfall_tokens()):
            reply.withhold(passing)
            wanted = meter.top_up_tokens(short)
            return State.TOPPING_UP, [m.TopUp(self._verdict, wanted_tokens=wanted, at_least_tokens=short)]
        return State.METERING, reply.pieces(passing, end_of_stream=False)

    def _topped_up(self, event: m.Extended) -> Step:
        passing, meter = self._reply.take_withheld(), self._reply.meter
        if meter is not None and event.tokens:
            meter.grant(event.tokens)
            return self._go_on(passing + meter.read_on())
        message = "The budget was used up during this reply; it ends here."
        error = self._error_info(402, "budget_exceeded", message)
        return self._cut(passing, error, self._ending(), Outcome.CUT)

    def _cut_unreadable(self) -> Step:
        error = self._error_info(502, "reply_unreadable", "The provider's reply could not be decoded.")
        return self._cut(b"", error, self._ending(), Outcome.PROVIDER_ERROR)

    def _cut(self, passing: bytes, error: ErrorInfo, ending: Ending, outcome: Outcome) -> Step:
        """Ends the stream in an orderly way, with an error in the provider's own words as its last event."""
        self._is_cut = True
        last = self._reply.piece(self._reply.last_words(passing, self._wire, error), end_of_stream=True)
        return State.SETTLING, [last, self._finish(replace(ending, outcome=outcome, error=error.reason))]

    def _end_with_trailers(self, _: m.ResponseTrailers) -> Step:
        rest = self._reply.finish()
        # Only in full duplex can bytes be sent that are no answer to a body message.
        pieces = self._reply.pieces(rest, end_of_stream=False) if self._reply.in_full_duplex else []
        return State.SETTLING, [*pieces, m.TrailersReply(response=True), self._finish(self._ending())]

    # --- the end ---

    def _settled(self, event: m.Ended) -> Step:
        return State.ENDED, self._last_reply(event.record)

    def _settling_failed(self, _: m.Failed) -> Step:
        """The reply goes out all the same. The hold stays, and its expiry charges it."""
        return State.ENDED, self._last_reply(self._verdict.record)

    def _last_reply(self, record: Record) -> list[m.Effect]:
        if self._waiting_reply is None:
            return []
        return [replace(self._waiting_reply, set_headers=cost_headers(record, self._settings.header_prefix))]

    def _hang_up(self, _: m.Closed) -> Step:
        if (meter := self._running_meter) is not None:
            # What had come of an event, or of a document, was seen as well.
            meter.finish()
        return State.SETTLING, [self._finish(self._disconnected())]

    def _finish(self, ending: Ending) -> m.Finish:
        return m.Finish(self._verdict, ending)

    def _ending(self) -> Ending:
        estimate, meter = self._verdict.decision.estimate, self._running_meter
        ending = ended(self._head, meter, estimate)
        if self._ask.facts.outlives_client:
            return charged_at_least(estimate.maximum, ending, meter)
        return ending

    def _disconnected(self) -> Ending:
        estimate, on_disconnect = self._verdict.decision.estimate, self._policy.on_disconnect
        if self._ask.facts.outlives_client:
            on_disconnect = OnDisconnect.MAXIMUM
        return disconnected(self._head, self._running_meter, estimate, on_disconnect=on_disconnect)

    @property
    def _running_meter(self) -> ReplyMeter | None:
        return self._reply.meter if self._head is not NO_REPLY else None

    # --- failures ---

    def _fail_before(self, event: m.Failed) -> Step:
        """policyd failed before the request went upstream: the policy's `failure_mode` decides."""
        # Nobody passes because it could not be found out who they are.
        unknown = self._policy.api_keys is not ApiKeys.OFF and self.state in {State.IDLE, State.AUTHENTICATING}
        if self._policy.failure_mode is FailureMode.CLOSED or unknown or event.closes:
            message = "The spending policy could not be checked; try again later."
            info = self._error_info(503, "policy_unavailable", message)
            return self._answer(info, Outcome.FAILED, error=event.error, retry_after_seconds=1)
        passing: list[m.Effect] = [m.HeadersReply(response=False, mode=UNMETERED)]
        if self.state is not State.IDLE:
            passing = self._request.forward_unread()
        return State.PASSING, [*passing, self._conclude(replace(self._unheld, error=event.error))]

    def _fail_after(self, event: m.Failed) -> Step:
        """policyd failed in mid-reply: what was seen is charged, and the gRPC stream ends with an error."""
        ending = replace(self._disconnected(), outcome=Outcome.FAILED, error=event.error)
        return State.SETTLING, [self._finish(ending), m.Abort(event.error)]

    # --- refusing and passing ---

    def _refuse(self, error: RequestError) -> Step:
        outcome = Outcome.FAILED if error.status >= 500 else Outcome.REJECTED
        return self._answer(self._error_info(error.status, error.reason, str(error)), outcome, error=error.reason)

    def _answer(self, info: ErrorInfo, outcome: Outcome, *, error: str, retry_after_seconds: int | None = None) -> Step:
        reply = immediate(
            self._error_wire,
            info,
            headers=request_id_header(self.request_id, self._settings.header_prefix),
            retry_after_seconds=retry_after_seconds,
            retry=retry_after_seconds is not None,
        )
        record = replace(self._unheld, outcome=outcome, decision="deny", status=info.status, error=error)
        return State.ENDED, [reply, self._conclude(record)]

    def _conclude(self, record: Record) -> m.Effect:
        """The one record of a request that is not metered; if something is held for it already, that is returned."""
        if not self._holding:
            return m.Report(record)
        verdict = replace(self._verdict, record=replace(self._verdict.record, decision=record.decision))
        ending = Ending(record.outcome, usage=None, source=UsageSource.NONE, status=record.status, error=record.error)
        return m.Finish(verdict, ending)

    def _error_info(self, status: int, reason: str, message: str) -> ErrorInfo:
        return error_info(status=status, reason=reason, message=message, request_id=self.request_id)

    def _pass_unmetered(self) -> Step:
        if self._request.upgrades:
            return self._refuse(BodyUnreadable(NO_UPGRADE))
        return State.PASSING, [self._request.pass_headers(), m.Report(self._unheld)]

    def _pass_request_body(self, event: m.RequestBody) -> Step:
        return State.PASSING, [self._request.pass_body(event)]

    def _pass_early_reply(self, event: m.ResponseHeaders) -> Step:
        """A reply before the request was decided: Envoy's own (a body over its buffer, a filter that refused)."""
        status = ReplyHead.of(event).status
        record = replace(
            self._unheld, outcome=Outcome.REJECTED, decision="deny", status=status, error="answered_before_decision"
        )
        following, passing = self._pass_response_headers(event)
        return following, [*passing, m.Report(record)]

    def _pass_response_headers(self, event: m.ResponseHeaders) -> Step:
        self._reply_mode = event.body_mode
        return State.PASSING, [m.HeadersReply(response=True, mode=UNMETERED)]

    def _pass_response_body(self, event: m.ResponseBody) -> Step:
        if self._reply_mode is m.BodyMode.FULL_DUPLEX_STREAMED:
            return State.PASSING, [m.StreamedBody(response=True, body=event.chunk, end_of_stream=event.end_of_stream)]
        return State.PASSING, [m.BodyReply(response=True)]

    def _pass_trailers(self, event: m.RequestTrailers | m.ResponseTrailers) -> Step:
        return self.state, [m.TrailersReply(response=isinstance(event, m.ResponseTrailers))]

    def _pass_rest(self, _: m.ResponseBody) -> Step:
        """What still comes once the reply is settled. After a cut it cancels the provider."""
        if self._head is NO_REPLY or self._reply.in_full_duplex:
            return self.state, []
        return self.state, [m.ImmediateReply(502, {}, b"") if self._is_cut else m.BodyReply(response=True)]

    def _stop(self, _: m.Event) -> Step:
        return State.ENDED, []

    def _ignore(self, _: m.Event) -> Step:
        return self.state, []


_S, _X = State, Exchange


TABLE: Table[State, Exchange] = {
    (_S.IDLE, m.RequestHeaders): row(_X._begin, _S.AUTHENTICATING, _S.READING_REQUEST, _S.PASSING, _S.ENDED),
    (_S.IDLE, m.ResponseHeaders): row(_X._pass_early_reply, _S.PASSING),
    (_S.IDLE, m.Failed): row(_X._fail_before, _S.PASSING, _S.ENDED),
    (_S.IDLE, m.Closed): row(_X._stop, _S.ENDED),
    (_S.AUTHENTICATING, m.Identified): row(_X._identified, _S.READING_REQUEST, _S.PASSING, _S.ENDED),
    (_S.AUTHENTICATING, m.Rejected): row(_X._rejected, _S.ENDED),
    (_S.AUTHENTICATING, m.Failed): row(_X._fail_before, _S.ENDED),
    (_S.AUTHENTICATING, m.Closed): row(_X._stop, _S.ENDED),
    (_S.READING_REQUEST, m.RequestBody): row(_X._read_request, _S.READING_REQUEST, _S.DECIDING, _S.ENDED),
    (_S.READING_REQUEST, m.RequestTrailers): row(_X._refuse_trailers, _S.ENDED),
    (_S.READING_REQUEST, m.RequestTimedOut): row(_X._refuse_slowness, _S.ENDED),
    (_S.READING_REQUEST, m.ResponseHeaders): row(_X._pass_early_reply, _S.PASSING),
    (_S.READING_REQUEST, m.Failed): row(_X._fail_before, _S.PASSING, _S.ENDED),
    (_S.READING_REQUEST, m.Closed): row(_X._stop, _S.ENDED),
    (_S.DECIDING, m.Decided): row(_X._decided, _S.FORWARDED, _S.ENDED),
    (_S.DECIDING, m.Rejected): row(_X._rejected, _S.ENDED),
    (_S.DECIDING, m.Failed): row(_X._fail_before, _S.PASSING, _S.ENDED),
    (_S.DECIDING, m.Closed): row(_X._abandon, _S.ABANDONED),
    (_S.ABANDONED, m.Decided): row(_X._return_hold, _S.SETTLING, _S.ENDED),
    (_S.ABANDONED, m.Rejected): row(_X._stop, _S.ENDED),
    (_S.ABANDONED, m.Failed): row(_X._stop, _S.ENDED),
    (_S.ABANDONED, m.Closed): row(_X._ignore, _S.ABANDONED),
    (_S.FORWARDED, m.RequestTrailers): row(_X._pass_trailers, _S.FORWARDED),
    (_S.FORWARDED, m.ResponseHeaders): row(_X._begin_reply, _S.METERING, _S.SETTLING),
    (_S.FORWARDED, m.Failed): row(_X._fail_after, _S.SETTLING),
    (_S.FORWARDED, m.Closed): row(_X._hang_up, _S.SETTLING),
    (_S.METERING, m.ResponseBody): row(_X._meter, _S.METERING, _S.TOPPING_UP, _S.SETTLING),
    (_S.METERING, m.ResponseTrailers): row(_X._end_with_trailers, _S.SETTLING),
    (_S.METERING, m.Failed): row(_X._fail_after, _S.SETTLING),
    (_S.METERING, m.Closed): row(_X._hang_up, _S.SETTLING),
    (_S.TOPPING_UP, m.Extended): row(_X._topped_up, _S.METERING, _S.TOPPING_UP, _S.SETTLING),
    (_S.TOPPING_UP, m.Failed): row(_X._fail_after, _S.SETTLING),
    (_S.TOPPING_UP, m.Closed): row(_X._hang_up, _S.SETTLING),
    (_S.SETTLING, m.Ended): row(_X._settled, _S.ENDED),
    (_S.SETTLING, m.Failed): row(_X._settling_failed, _S.ENDED),
    (_S.SETTLING, m.Extended): row(_X._ignore, _S.SETTLING),
    (_S.SETTLING, m.Closed): row(_X._ignore, _S.SETTLING),
    (_S.PASSING, m.RequestBody): row(_X._pass_request_body, _S.PASSING),
    (_S.PASSING, m.RequestTrailers): row(_X._pass_trailers, _S.PASSING),
    (_S.PASSING, m.ResponseHeaders): row(_X._pass_response_headers, _S.PASSING),
    (_S.PASSING, m.ResponseBody): row(_X._pass_response_body, _S.PASSING),
    (_S.PASSING, m.ResponseTrailers): row(_X._pass_trailers, _S.PASSING),
    (_S.PASSING, m.Ended): row(_X._ignore, _S.PASSING),
    (_S.PASSING, m.Failed): row(_X._ignore, _S.PASSING),
    (_S.PASSING, m.Closed): row(_X._stop, _S.ENDED),
    (_S.ENDED, m.Identified): row(_X._ignore, _S.ENDED),
    (_S.ENDED, m.Rejected): row(_X._ignore, _S.ENDED),
    (_S.ENDED, m.RequestBody): row(_X._ignore, _S.ENDED),
    (_S.ENDED, m.RequestTrailers): row(_X._pass_trailers, _S.ENDED),
    (_S.ENDED, m.ResponseHeaders): row(_X._ignore, _S.ENDED),
    (_S.ENDED, m.ResponseBody): row(_X._pass_rest, _S.ENDED),
    (_S.ENDED, m.ResponseTrailers): row(_X._pass_trailers, _S.ENDED),
    (_S.ENDED, m.Ended): row(_X._ignore, _S.ENDED),
    (_S.ENDED, m.Failed): row(_X._ignore, _S.ENDED),
    (_S.ENDED, m.Closed): row(_X._ignore, _S.ENDED),
}
