"""One HTTP exchange as a state machine: no I/O, no clock, no transport.

Envoy's messages and the enforcer's answers come in as events; replies to Envoy and questions to the enforcer go out as
effects. The life of an exchange is `TABLE`, and nothing else:

    IDLE ----> READING_REQUEST ----> DECIDING ----> FORWARDED ----> METERING <---> TOPPING_UP
      |               |                 |  |            |               |              |
      |               |                 |  +--> ABANDONED -------> +----+-----> SETTLING -----> ENDED
      |               |                 |  +--> CHARGING ---> PASSING or ENDED
      +---------------+-----------------+-----> ENDED (refused)
      +---------------+-----------------+-----> PASSING ----> ENDED
      +--> AUTHENTICATING, from there on like IDLE

    IDLE             nothing has come yet
    AUTHENTICATING   the enforcer was asked what the request's API key stands for
    READING_REQUEST  a metered request, its body not yet whole
    DECIDING         the enforcer was asked whether it fits
    CHARGING         policyd failed, and the policy lets pass: the enforcer was asked to charge the most it can cost
    ABANDONED        as DECIDING, but the client has gone: what is granted will be returned
    FORWARDED        the request went upstream with its hold taken
    METERING         the reply passes and is read
    TOPPING_UP       the reply outgrows its hold; the enforcer was asked for more
    SETTLING         the enforcer was asked to settle or release
    PASSING          not metered: everything passes as it is
    ENDED            nothing more will be done

An event without a row is a `ProtocolError`. A failure has a row in every state: before it is known what the request
says it is refused, whatever `failure_mode` says, for nobody could charge it; from then until it goes upstream
`failure_mode` decides; after that what was seen is charged.
"""

from __future__ import annotations

from msgspec import structs

from policyd.core.errors import RequestSigned
from policyd.core.policy import OnDisconnect, Policy
from policyd.core.record import Outcome, Record
from policyd.enforcer import Ending, Verdict
from policyd.ext_proc import messages as m
from policyd.ext_proc.admission import Admission, Step
from policyd.ext_proc.charging import charged_at_least, disconnected, ended
from policyd.ext_proc.encoding import UndecodableReply
from policyd.ext_proc.headers import cost_headers, decision_headers
from policyd.ext_proc.meter import ReplyMeter
from policyd.ext_proc.reply import NO_REPLY, ReplyHead, ReplySide
from policyd.ext_proc.request import UNMETERED
from policyd.ext_proc.settings import CountText, ExchangeSettings
from policyd.ext_proc.states import State
from policyd.ext_proc.table import Table, row, step
from policyd.providers.base import ErrorInfo, reads_headers


class Exchange(Admission):
    """An exchange whose messages all come here, in whichever body modes."""

    # What a state relies on is set by the transition that leads there.
    _reply_mode: m.BodyMode
    _reply: ReplySide

    def __init__(
        self, *, request_id: str, began_ms: int, policy: Policy, settings: ExchangeSettings, count_text: CountText
    ) -> None:
        super().__init__(
            request_id=request_id, began_ms=began_ms, policy=policy, settings=settings, count_text=count_text
        )
        self._usage_added = False
        self._head = NO_REPLY
        self._waiting_reply: m.BodyReply | None = None
        """Lets a whole reply pass, once its cost is known."""
        self._is_cut = False

    def receive(self, event: m.Event) -> list[m.Effect]:
        self.state, effects = step(TABLE, self, self.state, event)
        return effects

    def _forward(self, verdict: Verdict) -> Step:
        self._usage_added = not verdict.facts.usage_requested
        try:
            return State.FORWARDED, self._request.forward(self._endpoint, self._wire, self._edits(verdict))
        except RequestSigned as error:
            return self._refuse(error)

    # --- the reply ---

    def _begin_reply(self, event: m.ResponseHeaders) -> Step:
        facts, vendor, count_text = self._verdict.facts, self._endpoint.vendor, self._count_text
        head = ReplyHead.of(event)
        reader = self._wire.reply_reader(facts, usage_added=self._usage_added)
        if reads_headers(reader):
            reader.read_headers(event.headers)
        self._reply = ReplySide(
            head,
            buffer_bytes_max=self._settings.response_buffer_bytes_max,
            reader=reader,
            verdict=self._verdict,
            streamed=facts.streamed,
            # Without `self`, which would hold itself by this.
            count_text=lambda text: count_text(text, vendor.id, facts.model),
        )
        self._head = head
        headers = self._reply.headers(decision_headers(self._verdict, self._settings.header_prefix))
        if event.end_of_stream:
            return State.SETTLING, [headers, self._finish(self._ending())]
        return State.METERING, [headers]

    def _meter(self, event: m.ResponseBody) -> Step:
        reply = self._reply
        if reply.passes_unread(event):
            return State.METERING, [reply.piece(event.chunk, end_of_stream=False)]
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
        error = self._info(402, "budget_exceeded", message)
        return self._cut(passing, error, self._ending(), Outcome.CUT)

    def _cut_unreadable(self) -> Step:
        error = self._info(502, "reply_unreadable", "The provider's reply could not be decoded.")
        return self._cut(b"", error, self._ending(), Outcome.PROVIDER_ERROR)

    def _cut(self, passing: bytes, error: ErrorInfo, ending: Ending, outcome: Outcome) -> Step:
        """Ends the stream in an orderly way, with an error in the provider's own words as its last event."""
        self._is_cut = True
        last = self._reply.piece(self._reply.last_words(passing, self._wire, error), end_of_stream=True)
        return State.SETTLING, [last, self._finish(structs.replace(ending, outcome=outcome, error=error.reason))]

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
        return [structs.replace(self._waiting_reply, set_headers=cost_headers(record, self._settings.header_prefix))]

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
        if self._verdict.facts.outlives_client:
            return charged_at_least(estimate.maximum, ending, meter)
        return ending

    def _disconnected(self) -> Ending:
        estimate, on_disconnect = self._verdict.decision.estimate, self._policy.on_disconnect
        if self._verdict.facts.outlives_client:
            on_disconnect = OnDisconnect.MAXIMUM
        return disconnected(self._head, self._running_meter, estimate, on_disconnect=on_disconnect)

    @property
    def _running_meter(self) -> ReplyMeter | None:
        return self._reply.meter if self._head is not NO_REPLY else None

    def _fail_after(self, event: m.Failed) -> Step:
        """policyd failed in mid-reply: what was seen is charged, and the gRPC stream ends with an error."""
        ending = structs.replace(self._disconnected(), outcome=Outcome.FAILED, error=event.error)
        return State.SETTLING, [self._finish(ending), m.Abort(event.error)]

    # --- what passes unmetered ---

    def _pass_undecided(self) -> Step:
        return State.PASSING, self._request.forward_unread()

    def _pass_request_body(self, event: m.RequestBody) -> Step:
        return State.PASSING, [self._request.pass_body(event)]

    def _pass_early_reply(self, event: m.ResponseHeaders) -> Step:
        """A reply before the request was decided: Envoy's own (a body over its buffer, a filter that refused)."""
        status = ReplyHead.of(event).status
        record = self._unheld(Outcome.REJECTED, status=status, error="answered_before_decision")
        following, passing = self._pass_response_headers(event)
        return following, [*passing, m.Report(record)]

    def _pass_response_headers(self, event: m.ResponseHeaders) -> Step:
        self._reply_mode = event.body_mode
        return State.PASSING, [m.HeadersReply(response=True, mode=UNMETERED)]

    def _pass_response_body(self, event: m.ResponseBody) -> Step:
        if self._reply_mode is m.BodyMode.FULL_DUPLEX_STREAMED:
            return State.PASSING, [m.StreamedBody(response=True, body=event.chunk, end_of_stream=event.end_of_stream)]
        return State.PASSING, [m.BodyReply(response=True)]

    def _pass_rest(self, _: m.ResponseBody) -> Step:
        """What still comes once the reply is settled. After a cut it cancels the provider."""
        if self._head is NO_REPLY or self._reply.in_full_duplex:
            return self.state, []
        return self.state, [m.ImmediateReply(502, {}, b"") if self._is_cut else m.BodyReply(response=True)]


_S, _X = State, Exchange


TABLE: Table[State, Exchange] = {
    (_S.IDLE, m.RequestHeaders): row(_X._begin, _S.AUTHENTICATING, _S.READING_REQUEST, _S.PASSING, _S.ENDED),
    (_S.IDLE, m.ResponseHeaders): row(_X._pass_early_reply, _S.PASSING),
    (_S.IDLE, m.Failed): row(_X._fail_closed, _S.ENDED),
    (_S.IDLE, m.Closed): row(_X._stop, _S.ENDED),
    (_S.AUTHENTICATING, m.Identified): row(_X._identified, _S.READING_REQUEST, _S.PASSING, _S.ENDED),
    (_S.AUTHENTICATING, m.Rejected): row(_X._rejected, _S.ENDED),
    (_S.AUTHENTICATING, m.Failed): row(_X._fail_closed, _S.ENDED),
    (_S.AUTHENTICATING, m.Closed): row(_X._stop, _S.ENDED),
    (_S.READING_REQUEST, m.RequestBody): row(_X._read_request, _S.READING_REQUEST, _S.DECIDING, _S.ENDED),
    (_S.READING_REQUEST, m.RequestTrailers): row(_X._refuse_trailers, _S.ENDED),
    (_S.READING_REQUEST, m.RequestTimedOut): row(_X._refuse_slowness, _S.ENDED),
    (_S.READING_REQUEST, m.ResponseHeaders): row(_X._pass_early_reply, _S.PASSING),
    (_S.READING_REQUEST, m.Failed): row(_X._fail_closed, _S.ENDED),
    (_S.READING_REQUEST, m.Closed): row(_X._stop, _S.ENDED),
    (_S.DECIDING, m.Decided): row(_X._decided, _S.FORWARDED, _S.ENDED),
    (_S.DECIDING, m.Rejected): row(_X._rejected, _S.ENDED),
    (_S.DECIDING, m.Failed): row(_X._fail_undecided, _S.CHARGING, _S.PASSING, _S.ENDED),
    (_S.DECIDING, m.Closed): row(_X._abandon, _S.ABANDONED),
    (_S.CHARGING, m.Ended): row(_X._pass_charged, _S.PASSING),
    (_S.CHARGING, m.Rejected): row(_X._rejected, _S.ENDED),
    (_S.CHARGING, m.Failed): row(_X._fail_closed, _S.ENDED),
    (_S.CHARGING, m.Closed): row(_X._stop, _S.ENDED),
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
