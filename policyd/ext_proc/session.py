"""One realtime session as a state machine: a WebSocket, from its handshake to its end. No I/O, no clock, no transport.

Events and effects are those of an exchange. Both directions come in full duplex, so that either can be answered at any
time; what is asked of the enforcer is answered before anything more passes. The life of a session is `TABLE`:

    IDLE ---> ADMITTING ---> HOLDING ---> OPEN <---> TOPPING_UP
      |           |             |  ^       |  <----> CHARGING
      |           |             |  +-------|-------- SETTLING
      |           |             |          |  -----> ANSWERED ---> ENDED
      |           +-------------+----------+-------> ENDED
      |           +-------------+------------------> PASSING ----> ENDED
      +--> OPEN (the model is not known yet), from there to ADMITTING
      +--> AUTHENTICATING, from there on like IDLE

    IDLE         nothing has come yet
    AUTHENTICATING  the enforcer was asked what the handshake's API key stands for
    ADMITTING    the enforcer was asked whether there may be one session more
    HOLDING      the enforcer was asked for what the next response may cost
    OPEN         messages pass and are read
    TOPPING_UP   a response, or what the client sends for it, outgrows its hold; the enforcer was asked for more
    SETTLING     a response has ended; the enforcer was asked to charge it
    CHARGING     the enforcer was asked to charge what is not a response's (a transcription)
    ANSWERED     the provider answered with something else than a session
    PASSING      not metered: policyd failed, and the policy lets requests pass then
    ENDED        nothing more passes

**Money.** A session takes a reservation for itself, which holds its place (`requests`, `concurrent_requests`), and one
for each response, which holds tokens and cost. The next response's is taken as soon as the last one is settled, because
the provider may begin to answer at any time. So each response is charged in full when it ends, in the window in which
it was held for; a crash loses no more than the one hold of each session, which expires and is charged; and one session
of an hour does not put all it spends into its first minute. Where there is no room for another response the session is
cut: the client gets an error in the provider's shape and a close frame, code 1008 (policy violation).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum

from policyd.core.attributes import check_value
from policyd.core.errors import BodyUnreadable, RequestError
from policyd.core.policy import FailureMode, Metric, Policy
from policyd.core.record import Outcome, Record, UsageSource
from policyd.core.usage import Usage
from policyd.enforcer import Ending, Verdict
from policyd.estimator import Ask
from policyd.ext_proc import messages as m
from policyd.ext_proc.exchange import CountText, ExchangeSettings
from policyd.ext_proc.headers import decision_headers, request_id_header
from policyd.ext_proc.refusal import denial, error_info, immediate, worth_retrying
from policyd.ext_proc.reply import ReplyHead
from policyd.ext_proc.request import RequestSide
from policyd.ext_proc.session_meter import SessionMeter
from policyd.ext_proc.table import Table, row, step
from policyd.providers.base import ErrorInfo, Prompt, RequestFacts
from policyd.providers.endpoint import Endpoint
from policyd.providers.framing.websocket import (
    Kind,
    Unit,
    Violation,
    WebSocketFramer,
    encode_close,
    encode_ping,
    encode_text,
)
from policyd.providers.realtime import NOTHING_RECEIVED, RealtimeFormat, RealtimeReader, Received, Transcription
from policyd.providers.registry import resolve

SESSION_METRICS = (Metric.REQUESTS, Metric.CONCURRENT_REQUESTS)
"""What a session itself is held for, once; its responses are held for the rest."""

RESPONSE_METRICS = tuple(metric for metric in Metric if metric not in SESSION_METRICS)

_UNREADABLE = 1007
_POLICY = 1008
_INTERNAL = 1011
_GONE = 1001
"""Close codes (RFC 6455, section 7.4.1)."""

_SWITCHING = 101


class State(StrEnum):
    IDLE = "idle"
    AUTHENTICATING = "authenticating"
    ADMITTING = "admitting"
    HOLDING = "holding"
    OPEN = "open"
    TOPPING_UP = "topping_up"
    SETTLING = "settling"
    CHARGING = "charging"
    ANSWERED = "answered"
    PASSING = "passing"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Passing:
    """What is about to pass, and what it says if it is the provider's."""

    from_client: bool
    unit: Unit
    received: Received = NOTHING_RECEIVED

    @property
    def effect(self) -> m.Effect:
        return m.StreamedBody(response=not self.from_client, body=self.unit.raw, end_of_stream=False)


Step = tuple[State, list[m.Effect]]


def session_wanted(event: m.RequestHeaders) -> tuple[Endpoint, RealtimeFormat] | None:
    """The endpoint of a request for a session, and what reads it; `None` for any other request."""
    if event.headers.get("upgrade", "").strip().lower() != "websocket":
        return None
    endpoint = resolve(
        provider=event.provider,
        host=event.headers.get(":authority", ""),
        method=event.headers.get(":method", ""),
        path=event.headers.get(":path", ""),
    )
    if not isinstance(endpoint, Endpoint) or endpoint.realtime is None:
        return None
    return endpoint, endpoint.realtime


class Session:
    """`receive` takes an event and returns the effects to carry out, in order."""

    # What a state relies on is set by the transition that leads there.
    _request: RequestSide
    _identity: dict[str, str]
    _reader: RealtimeReader
    _meter: SessionMeter

    def __init__(
        self,
        endpoint: Endpoint,
        realtime: RealtimeFormat,
        *,
        request_id: str,
        began_ms: int,
        policy: Policy,
        settings: ExchangeSettings,
        count_text: CountText,
    ) -> None:
        self.request_id = request_id
        self.state = State.IDLE
        self._endpoint = endpoint
        self._format = realtime
        self._policy = policy
        self._settings = settings
        self._count_text = count_text
        self._unheld = Record(
            request_id=request_id,
            at_ms=began_ms,
            outcome=Outcome.UNMETERED,
            decision="allow",
            provider=endpoint.vendor.id,
            endpoint=endpoint.name,
            model="",
            attributes={},
        )
        self._framers = {True: WebSocketFramer(from_client=True), False: WebSocketFramer(from_client=False)}
        """By whether they read what comes from the client."""
        self._waiting: deque[tuple[bool, Unit]] = deque()
        """What has come and has not been read."""
        self._passing: Passing | None = None
        """What was read, and waits for what the enforcer was asked."""
        self._ended_sides: set[bool] = set()
        """Whose bytes have ended, in the same terms as the framers, and have not been told to the other side."""
        self._place: Verdict | None = None
        """The reservation of the session itself."""
        self._hold: Verdict | None = None
        """The reservation of the current response, or of the next one."""
        self._responses = 0
        """How many were held for; it numbers their reservations."""
        self._connected = False
        """Whether the handshake went upstream."""
        self._topping_up_input = False
        self._has_answered = False
        """Whether anything of the provider's has come, beside the answer to the handshake."""
        self._last_words: list[m.Effect] = []
        """How a session that was cut is ended, once the provider has answered."""

    def receive(self, event: m.Event) -> list[m.Effect]:
        """Raises `ProtocolError` for an event that the state does not allow. Any other exception is a defect."""
        self.state, effects = step(TABLE, self, self.state, event)
        return effects

    def give_up(self) -> None:
        """Ends without another word: what is held expires, and is charged."""
        self.state = State.ENDED

    # --- the handshake ---

    def _begin(self, event: m.RequestHeaders) -> Step:
        self._request = request = RequestSide(event, policy=self._policy)
        try:
            digest = request.key_digest()
        except RequestError as error:
            return self._refuse(error)
        if digest is None:
            return self._enter()
        return State.AUTHENTICATING, [m.Authenticate(digest, self._endpoint.name, metered=True)]

    def _identified(self, event: m.Identified) -> Step:
        self._request.identify(event.key)
        return self._enter()

    def _enter(self) -> Step:
        request = self._request
        try:
            self._identity = request.identity(self._policy, body={})
            self._reader = reader = self._format.reader(request.handshake(self._endpoint))
            check_value("model", reader.model)
        except RequestError as error:
            return self._refuse(error)
        vendor = self._endpoint.vendor
        self._meter = SessionMeter(reader, count_text=lambda text: self._count_text(text, vendor.id, reader.model))
        self._unheld = replace(self._unheld, model=reader.model, attributes=self._identity)
        return self._admit() if reader.model else self._connect()

    def _admit(self) -> Step:
        facts = RequestFacts(model=self._reader.model, streamed=True, prompt=Prompt(texts=()), max_output_tokens=0)
        ask = self._ask(self.request_id, facts, SESSION_METRICS)
        return State.ADMITTING, [m.Decide(replace(ask, input_tokens=0))]

    def _admitted(self, event: m.Decided) -> Step:
        if not event.verdict.decision.allowed:
            return self._turn_away(event.verdict)
        self._place = event.verdict
        return self._hold_next()

    def _hold_next(self) -> Step:
        self._responses += 1
        ask = self._ask(f"{self.request_id}-{self._responses}", self._meter.facts(), RESPONSE_METRICS)
        return State.HOLDING, [m.Decide(ask)]

    def _held(self, event: m.Decided) -> Step:
        if not event.verdict.decision.allowed:
            return self._turn_away(event.verdict)
        self._hold = event.verdict
        self._meter.hold(event.verdict)
        return self._go_on() if self._connected else self._connect()

    def _connect(self) -> Step:
        self._connected = True
        return State.OPEN, self._request.open_session()

    def _ask(self, request_id: str, facts: RequestFacts, metrics: Collection[Metric]) -> Ask:
        return Ask(
            request_id=request_id,
            provider=self._endpoint.vendor.id,
            endpoint=self._endpoint.name,
            facts=facts,
            identity=self._identity,
            policy=self._policy,
            key_digest=self._request.identified_digest,
            metrics=metrics,
        )

    def _answered(self, event: m.ResponseHeaders) -> Step:
        status = ReplyHead.of(event).status
        prefix = self._settings.header_prefix
        headers = request_id_header(self.request_id, prefix)
        if self._hold is not None:
            headers = {**decision_headers(self._hold, prefix), **headers}
        reply = m.HeadersReply(response=True, set_headers=headers)
        if status == _SWITCHING:
            return State.OPEN, [reply, *self._request.release_headers(response=True)]
        ending = Ending(
            Outcome.PROVIDER_ERROR, usage=None, source=UsageSource.NONE, status=status, error=f"http_{status}"
        )
        return State.ANSWERED, [reply, *self._finish_all(ending)]

    # --- what passes ---

    def _take_sent(self, event: m.RequestBody) -> Step:
        return self._take(event, from_client=True)

    def _take_received(self, event: m.ResponseBody) -> Step:
        self._has_answered = True
        return self._take(event, from_client=False)

    def _take(self, event: m.RequestBody | m.ResponseBody, *, from_client: bool) -> Step:
        self._waiting += [(from_client, unit) for unit in self._framers[from_client].feed(event.chunk)]
        if event.end_of_stream:
            self._ended_sides.add(from_client)
        return self._go_on()

    def _go_on(self) -> Step:
        """Reads what waits and lets it pass, until the enforcer has to be asked."""
        effects: list[m.Effect] = []
        while self._passing is not None or self._waiting:
            if self._passing is None:
                try:
                    self._passing = self._read(*self._waiting.popleft())
                except RequestError as error:
                    return self._cut(self._error(error), code=_UNREADABLE, outcome=Outcome.REJECTED, before=effects)
            state, asked = self._ask_for(self._passing)
            if state in _BEFORE_IT_PASSES:
                return state, [*effects, *asked]
            effects.append(self._passing.effect)
            self._passing = None
            if asked:
                return state, [*effects, *asked]
        for from_client, framer in self._framers.items():
            if framer.violation is not None:
                return self._cut_violation(framer.violation, from_client=from_client, before=effects)
        return State.OPEN, [*effects, *self._ends()]

    def _read(self, from_client: bool, unit: Unit) -> Passing:
        """Raises `RequestError`s for a client's message that cannot be metered."""
        if unit.kind is not Kind.MESSAGE:
            return Passing(from_client, unit)
        if not from_client:
            received = self._reader.read_received(unit.data)
            self._meter.received(received)
            return Passing(from_client, unit, received)
        self._meter.sent(self._reader.read_sent(unit.data))
        check_value("model", self._reader.model)
        if not self._reader.model:
            raise BodyUnreadable("the first message has to name the model")
        return Passing(from_client, unit)

    def _ask_for(self, passing: Passing) -> Step:
        """What has to be asked of the enforcer because of `passing`: before it passes, or after."""
        received = passing.received
        if self._place is None and passing.from_client and passing.unit.kind is Kind.MESSAGE:
            return self._admit()
        if self._hold is None:
            used = received.began or received.ended is not None
            return self._hold_next() if used and self._place is not None else (State.OPEN, [])
        for of_input in (True, False):
            short = self._meter.shortfall_tokens(of_input=of_input)
            if short:
                self._topping_up_input = of_input
                wanted = self._meter.top_up_tokens(short, of_input=of_input)
                return State.TOPPING_UP, [m.TopUp(self._hold, wanted, at_least_tokens=short, of_input=of_input)]
        if received.ended is not None:
            finish = m.Finish(self._hold, self._meter.end_response(received.ended))
            self._hold = None
            return State.SETTLING, [finish]
        if received.transcription is not None:
            return State.CHARGING, [self._charge(received.transcription)]
        return State.OPEN, []

    def _charge(self, transcription: Transcription) -> m.Charge:
        facts = RequestFacts(
            model=transcription.model or self._reader.model,
            streamed=True,
            prompt=Prompt(texts=()),
            max_output_tokens=0,
        )
        self._responses += 1
        ask = self._ask(f"{self.request_id}-{self._responses}", facts, RESPONSE_METRICS)
        return m.Charge(ask, transcription.usage)

    def _topped_up(self, event: m.Extended) -> Step:
        if event.tokens:
            self._meter.grant(event.tokens, of_input=self._topping_up_input)
            return self._go_on()
        return self._cut(self._used_up(), code=_POLICY, outcome=Outcome.CUT)

    def _settled(self, _: m.Ended) -> Step:
        if any(framer.is_closed for framer in self._framers.values()):
            return self._go_on()
        return self._hold_next()

    def _charged(self, _: m.Ended) -> Step:
        return self._go_on()

    def _ends(self) -> list[m.Effect]:
        """Tells each side that the other one's bytes have ended."""
        ended = [m.StreamedBody(response=not side, body=b"", end_of_stream=True) for side in sorted(self._ended_sides)]
        self._ended_sides.clear()
        return list(ended)

    # --- the end ---

    def _hang_up(self, _: m.Closed) -> Step:
        closed = any(framer.is_closed for framer in self._framers.values())
        outcome = Outcome.SERVED if closed else Outcome.DISCONNECTED
        return State.ENDED, self._finish_all(self._place_ending(outcome))

    def _finish_all(self, ending: Ending) -> list[m.Effect]:
        """Ends both reservations, as far as they are there. `ending` is that of the session itself."""
        finishes: list[m.Effect] = []
        if self._hold is not None:
            finishes.append(m.Finish(self._hold, self._response_ending(self._hold, ending)))
        if self._place is not None:
            finishes.append(m.Finish(self._place, ending))
        self._hold = self._place = None
        return finishes

    def _response_ending(self, hold: Verdict, ending: Ending) -> Ending:
        """What the current response is charged when the session ends; what has come of it has been generated."""
        if ending.usage is None:
            return ending
        came = [] if self._passing is None else [self._passing.received]
        for from_client, unit in self._waiting:
            if not from_client and unit.kind is Kind.MESSAGE:
                came.append(self._reader.read_received(unit.data))
                self._meter.received(came[-1])
        ended = next((received.ended for received in came if received.ended is not None), None)
        if ended is not None:
            return self._meter.end_response(ended)
        # An orderly end of the connection is none of a response that was under way.
        outcome = Outcome.DISCONNECTED if ending.outcome is Outcome.SERVED else ending.outcome
        cut_short = self._meter.end_session(outcome, on_disconnect=self._policy.on_disconnect, verdict=hold)
        return replace(cut_short, error=ending.error)

    def _place_ending(self, outcome: Outcome, *, error: str | None = None) -> Ending:
        """The ending of the session itself, which costs nothing; one that never went upstream did not take place."""
        usage = Usage() if self._connected else None
        status = _SWITCHING if self._connected else None
        return Ending(outcome, usage, UsageSource.NONE, status=status, streamed=True, error=error)

    def _cut(self, error: ErrorInfo, *, code: int, outcome: Outcome, before: Collection[m.Effect] = ()) -> Step:
        """Ends both connections in an orderly way, the client's with an error in the provider's own words.

        The client's comes first: once the provider closes, nothing more reaches the client. But Envoy takes nothing for
        the client before it has shown something of the provider's; where nothing has come yet, a ping asks for it.
        """
        message = self._format.error_message(error)
        last = encode_text(message, from_client=False) if message else b""
        last += encode_close(code, error.message, from_client=False)
        words: list[m.Effect] = [
            m.StreamedBody(response=True, body=last, end_of_stream=False),
            m.StreamedBody(response=False, body=encode_close(_GONE, "", from_client=True), end_of_stream=False),
            m.StreamedBody(response=True, body=b"", end_of_stream=True),
        ]
        if not self._has_answered:
            self._last_words = words
            words = [m.StreamedBody(response=False, body=encode_ping(from_client=True), end_of_stream=False)]
        return State.ENDED, [*before, *words, *self._finish_all(self._place_ending(outcome, error=error.reason))]

    def _say_last_words(self, _: m.ResponseBody) -> Step:
        words, self._last_words = self._last_words, []
        return State.ENDED, words

    def _cut_violation(self, violation: Violation, *, from_client: bool, before: Collection[m.Effect]) -> Step:
        who = "client" if from_client else "provider"
        message = f"The {who} broke the WebSocket protocol: {violation.message}."
        error = error_info(status=400, reason="websocket_invalid", message=message, request_id=self.request_id)
        outcome = Outcome.REJECTED if from_client else Outcome.PROVIDER_ERROR
        return self._cut(error, code=violation.code if from_client else _INTERNAL, outcome=outcome, before=before)

    def _turn_away(self, verdict: Verdict) -> Step:
        """A limit has no room: for the session, or for its next response."""
        decision = verdict.decision
        error = denial(decision, request_id=self.request_id)
        report = m.Report(replace(verdict.record, status=error.status))
        if self._connected:
            state, effects = self._cut(error, code=_POLICY, outcome=Outcome.CUT)
            return state, [*effects, report]
        reply = immediate(
            self._endpoint.error_wire,
            error,
            headers={
                **decision_headers(verdict, self._settings.header_prefix),
                **request_id_header(self.request_id, self._settings.header_prefix),
            },
            retry_after_seconds=decision.retry_after_seconds,
            retry=worth_retrying(decision),
        )
        return State.ENDED, [reply, *self._finish_all(self._place_ending(Outcome.DENIED)), report]

    def _rejected(self, event: m.Rejected) -> Step:
        if self._connected:
            return self._cut(self._error(event.error), code=_POLICY, outcome=Outcome.REJECTED)
        return self._refuse(event.error)

    def _refuse(self, error: RequestError) -> Step:
        return self._answer(self._error(error), Outcome.REJECTED, error=error.reason)

    def _fail(self, event: m.Failed) -> Step:
        """policyd failed: `failure_mode` decides of a handshake; a session that is under way is cut."""
        message = "The spending policy could not be checked; try again later."
        info = error_info(status=503, reason="policy_unavailable", message=message, request_id=self.request_id)
        if self._connected:
            return self._cut(info, code=_INTERNAL, outcome=Outcome.FAILED)
        is_known = self.state not in {State.IDLE, State.AUTHENTICATING}
        if is_known and not event.closes and self._policy.failure_mode is FailureMode.OPEN:
            ending = Ending(Outcome.UNMETERED, usage=None, source=UsageSource.NONE, error=event.error)
            concluded = self._finish_all(ending) or [m.Report(replace(self._unheld, error=event.error))]
            return State.PASSING, [self._request.pass_headers(), *concluded]
        return self._answer(info, Outcome.FAILED, error=event.error, retry_after_seconds=1)

    def _answer(self, info: ErrorInfo, outcome: Outcome, *, error: str, retry_after_seconds: int | None = None) -> Step:
        """Answers a handshake that does not go upstream."""
        reply = immediate(
            self._endpoint.error_wire,
            info,
            headers=request_id_header(self.request_id, self._settings.header_prefix),
            retry_after_seconds=retry_after_seconds,
            retry=retry_after_seconds is not None,
        )
        record = replace(self._unheld, outcome=outcome, decision="deny", status=info.status, error=error)
        ending = replace(self._place_ending(outcome, error=error), status=info.status)
        return State.ENDED, [reply, *(self._finish_all(ending) or [m.Report(record)])]

    def _used_up(self) -> ErrorInfo:
        message = "The budget was used up during this session; it ends here."
        return error_info(status=402, reason="budget_exceeded", message=message, request_id=self.request_id)

    def _error(self, error: RequestError) -> ErrorInfo:
        return error_info(status=error.status, reason=error.reason, message=str(error), request_id=self.request_id)

    def _return_hold(self, event: m.Decided) -> Step:
        """The session had ended when the enforcer decided."""
        if not event.verdict.decision.allowed:
            return State.ENDED, [m.Report(event.verdict.record)]
        ending = Ending(Outcome.RELEASED, usage=None, source=UsageSource.NONE)
        return State.ENDED, [m.Finish(event.verdict, ending)]

    # --- what is not metered ---

    def _pass_reply(self, event: m.ResponseBody) -> Step:
        return self.state, [m.StreamedBody(response=True, body=event.chunk, end_of_stream=event.end_of_stream)]

    def _pass_trailers(self, event: m.RequestTrailers | m.ResponseTrailers) -> Step:
        return self.state, [m.TrailersReply(response=isinstance(event, m.ResponseTrailers))]

    def _ignore(self, _: m.Event) -> Step:
        return self.state, []

    def _stop(self, _: m.Event) -> Step:
        return State.ENDED, []


_S, _X = State, Session

_BEFORE_IT_PASSES = (_S.ADMITTING, _S.HOLDING, _S.TOPPING_UP)
_ON = (_S.OPEN, _S.ADMITTING, _S.HOLDING, _S.TOPPING_UP, _S.SETTLING, _S.CHARGING, _S.ENDED)
"""Where reading on may lead."""

TABLE: Table[State, Session] = {
    (_S.IDLE, m.RequestHeaders): row(_X._begin, _S.AUTHENTICATING, _S.ADMITTING, _S.OPEN, _S.ENDED),
    (_S.IDLE, m.Failed): row(_X._fail, _S.ENDED),
    (_S.IDLE, m.Closed): row(_X._stop, _S.ENDED),
    (_S.AUTHENTICATING, m.Identified): row(_X._identified, _S.ADMITTING, _S.OPEN, _S.ENDED),
    (_S.AUTHENTICATING, m.Rejected): row(_X._rejected, _S.ENDED),
    (_S.AUTHENTICATING, m.Failed): row(_X._fail, _S.ENDED),
    (_S.AUTHENTICATING, m.Closed): row(_X._stop, _S.ENDED),
    (_S.ADMITTING, m.Decided): row(_X._admitted, _S.HOLDING, _S.ENDED),
    (_S.ADMITTING, m.Rejected): row(_X._rejected, _S.ENDED),
    (_S.ADMITTING, m.Failed): row(_X._fail, _S.PASSING, _S.ENDED),
    (_S.ADMITTING, m.Closed): row(_X._hang_up, _S.ENDED),
    (_S.HOLDING, m.Decided): row(_X._held, *_ON),
    (_S.HOLDING, m.Rejected): row(_X._rejected, _S.ENDED),
    (_S.HOLDING, m.Failed): row(_X._fail, _S.PASSING, _S.ENDED),
    (_S.HOLDING, m.Closed): row(_X._hang_up, _S.ENDED),
    (_S.OPEN, m.ResponseHeaders): row(_X._answered, _S.OPEN, _S.ANSWERED),
    (_S.OPEN, m.RequestBody): row(_X._take_sent, *_ON),
    (_S.OPEN, m.ResponseBody): row(_X._take_received, *_ON),
    (_S.OPEN, m.RequestTrailers): row(_X._pass_trailers, _S.OPEN),
    (_S.OPEN, m.ResponseTrailers): row(_X._pass_trailers, _S.OPEN),
    (_S.OPEN, m.Failed): row(_X._fail, _S.ENDED),
    (_S.OPEN, m.Closed): row(_X._hang_up, _S.ENDED),
    (_S.TOPPING_UP, m.Extended): row(_X._topped_up, *_ON),
    (_S.TOPPING_UP, m.Failed): row(_X._fail, _S.ENDED),
    (_S.TOPPING_UP, m.Closed): row(_X._hang_up, _S.ENDED),
    (_S.SETTLING, m.Ended): row(_X._settled, *_ON),
    (_S.SETTLING, m.Failed): row(_X._fail, _S.ENDED),
    (_S.SETTLING, m.Closed): row(_X._hang_up, _S.ENDED),
    (_S.CHARGING, m.Ended): row(_X._charged, *_ON),
    (_S.CHARGING, m.Rejected): row(_X._rejected, _S.ENDED),
    (_S.CHARGING, m.Failed): row(_X._fail, _S.ENDED),
    (_S.CHARGING, m.Closed): row(_X._hang_up, _S.ENDED),
    (_S.ANSWERED, m.RequestBody): row(_X._ignore, _S.ANSWERED),
    (_S.ANSWERED, m.RequestTrailers): row(_X._pass_trailers, _S.ANSWERED),
    (_S.ANSWERED, m.ResponseBody): row(_X._pass_reply, _S.ANSWERED),
    (_S.ANSWERED, m.ResponseTrailers): row(_X._pass_trailers, _S.ANSWERED),
    (_S.ANSWERED, m.Ended): row(_X._ignore, _S.ANSWERED),
    (_S.ANSWERED, m.Failed): row(_X._ignore, _S.ANSWERED),
    (_S.ANSWERED, m.Closed): row(_X._stop, _S.ENDED),
    (_S.PASSING, m.Ended): row(_X._ignore, _S.PASSING),
    (_S.PASSING, m.Failed): row(_X._ignore, _S.PASSING),
    (_S.PASSING, m.Closed): row(_X._stop, _S.ENDED),
    (_S.ENDED, m.Decided): row(_X._return_hold, _S.ENDED),
    **{
        (_S.ENDED, late): row(_X._ignore, _S.ENDED)
        for late in (
            m.Identified,
            m.RequestBody,
            m.ResponseHeaders,
            m.Rejected,
            m.Extended,
            m.Ended,
            m.Failed,
            m.Closed,
        )
    },
    (_S.ENDED, m.ResponseBody): row(_X._say_last_words, _S.ENDED),
    (_S.ENDED, m.RequestTrailers): row(_X._pass_trailers, _S.ENDED),
    (_S.ENDED, m.ResponseTrailers): row(_X._pass_trailers, _S.ENDED),
}
