"""One realtime session as a state machine: a WebSocket, from its handshake to its end. No I/O, no clock, no transport.

Events and effects are those of an exchange. Both directions come in full duplex, so that either can be answered at any
time; what is asked of the enforcer is answered before anything more passes. The life of a session is `TABLE`:

    IDLE ---> ADMITTING ---> HOLDING ---> OPEN <---> TOPPING_UP
      |           |             |  ^       |  <----> CHARGING
      |           |             |  +-------|-------- SETTLING
      |           |             |          |  -----> ANSWERED ---> ENDED
      |           +-------------+----------+-------> ENDED
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
    ENDED        nothing more passes

What it holds, and how it is charged and cut, stands in `session_holds`.
"""

from __future__ import annotations

from policyd.core.attributes import check_value
from policyd.core.errors import BodyUnreadable, RequestError
from policyd.core.record import Outcome, UsageSource
from policyd.enforcer import Ending
from policyd.ext_proc import messages as m
from policyd.ext_proc.headers import decision_headers, request_id_header
from policyd.ext_proc.reply import ReplyHead
from policyd.ext_proc.session_holds import INTERNAL, POLICY, SWITCHING, UNREADABLE, HoldingSession, Step
from policyd.ext_proc.session_meter import SessionMeter
from policyd.ext_proc.session_traffic import Passing
from policyd.ext_proc.states import SessionState as State
from policyd.ext_proc.table import Table, row, step
from policyd.providers.base import ErrorInfo
from policyd.providers.endpoint import Endpoint
from policyd.providers.framing.websocket import Kind, Unit
from policyd.providers.realtime import RealtimeFormat
from policyd.providers.registry import resolve


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


class Session(HoldingSession):
    _topping_up_input = False
    """Whether it is for input that more was asked."""

    def receive(self, event: m.Event) -> list[m.Effect]:
        self.state, effects = step(TABLE, self, self.state, event)
        return effects

    # --- the handshake ---

    def _begin(self, event: m.RequestHeaders) -> Step:
        return self._authenticate(event, metered=True)

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
        self._model, self._attributes = reader.model, self._identity
        return self._admit() if reader.model else self._connect()

    def _admit(self) -> Step:
        return State.ADMITTING, [m.Decide(self._place_ask())]

    def _admitted(self, event: m.Decided) -> Step:
        if not event.verdict.decision.allowed:
            return self._turn_away(event.verdict)
        self._place = event.verdict
        return self._hold_next()

    def _hold_next(self) -> Step:
        return State.HOLDING, [m.Decide(self._next_response_ask(self._meter.facts()))]

    def _held(self, event: m.Decided) -> Step:
        if not event.verdict.decision.allowed:
            return self._turn_away(event.verdict)
        self._hold = event.verdict
        self._meter.hold(event.verdict)
        return self._go_on() if self._connected else self._connect()

    def _connect(self) -> Step:
        self._connected = True
        return State.OPEN, self._request.open_session()

    def _answered(self, event: m.ResponseHeaders) -> Step:
        status = ReplyHead.of(event).status
        prefix = self._settings.header_prefix
        headers = request_id_header(self.request_id, prefix)
        if self._hold is not None:
            headers = {**decision_headers(self._hold, prefix), **headers}
        reply = m.HeadersReply(response=True, set_headers=headers)
        if status == SWITCHING:
            return State.OPEN, [reply, *self._request.release_headers(response=True)]
        ending = Ending(
            Outcome.PROVIDER_ERROR, usage=None, source=UsageSource.NONE, status=status, error=f"http_{status}"
        )
        return State.ANSWERED, [reply, *self._finish_all(ending)]

    # --- what passes ---

    def _take(self, event: m.RequestBody | m.ResponseBody) -> Step:
        self._traffic.take(event)
        return self._go_on()

    def _go_on(self) -> Step:
        """Reads what waits and lets it pass, until the enforcer has to be asked."""
        effects: list[m.Effect] = []
        traffic = self._traffic
        while traffic.passing is not None or traffic.waiting:
            if traffic.passing is None:
                try:
                    traffic.passing = self._read(*traffic.waiting.popleft())
                except RequestError as error:
                    return self._cut(self._error(error), code=UNREADABLE, outcome=Outcome.REJECTED, before=effects)
            state, asked = self._ask_for(traffic.passing)
            if state in _BEFORE_IT_PASSES:
                return state, [*effects, *asked]
            effects.append(traffic.passing.effect)
            traffic.passing = None
            if asked:
                return state, [*effects, *asked]
        for from_client, violation in traffic.violations():
            return self._cut_violation(violation, from_client=from_client, before=effects)
        return State.OPEN, [*effects, *traffic.tell_ends()]

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
        if self._place is None and passing.is_clients_message:
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

    def _topped_up(self, event: m.Extended) -> Step:
        if event.tokens:
            self._meter.grant(event.tokens, of_input=self._topping_up_input)
            return self._go_on()
        return self._cut(self._used_up(), code=POLICY, outcome=Outcome.CUT)

    def _settled(self, _: m.Ended) -> Step:
        if self._traffic.is_closed:
            return self._go_on()
        return self._hold_next()

    def _charged(self, _: m.Ended) -> Step:
        return self._go_on()

    # --- what goes wrong ---

    def _rejected(self, event: m.Rejected) -> Step:
        if self._connected:
            return self._cut(self._error(event.error), code=POLICY, outcome=Outcome.REJECTED)
        return self._refuse(event.error)

    def _fail(self, event: m.Failed) -> Step:
        """policyd failed: a handshake is refused, whatever `failure_mode` says, for nobody knows what a session that is
        not read will cost; one that is under way is cut."""
        if self._connected:
            return self._cut(self._unavailable(), code=INTERNAL, outcome=Outcome.FAILED)
        return self._fail_closed(event)

    def _used_up(self) -> ErrorInfo:
        return self._info(402, "budget_exceeded", "The budget was used up during this session; it ends here.")

    # --- what is not metered ---

    def _pass_reply(self, event: m.ResponseBody) -> Step:
        return self.state, [m.StreamedBody(response=True, body=event.chunk, end_of_stream=event.end_of_stream)]


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
    (_S.ADMITTING, m.Failed): row(_X._fail, _S.ENDED),
    (_S.ADMITTING, m.Closed): row(_X._hang_up, _S.ENDED),
    (_S.HOLDING, m.Decided): row(_X._held, *_ON),
    (_S.HOLDING, m.Rejected): row(_X._rejected, _S.ENDED),
    (_S.HOLDING, m.Failed): row(_X._fail, _S.ENDED),
    (_S.HOLDING, m.Closed): row(_X._hang_up, _S.ENDED),
    (_S.OPEN, m.ResponseHeaders): row(_X._answered, _S.OPEN, _S.ANSWERED),
    (_S.OPEN, m.RequestBody): row(_X._take, *_ON),
    (_S.OPEN, m.ResponseBody): row(_X._take, *_ON),
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
