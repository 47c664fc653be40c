"""What a session holds, and how it ends: its reservations, and what is charged when it is over or is cut.

A session takes a reservation for itself, which holds its place (`requests`, `concurrent_requests`), and one for each
response, which holds tokens and cost. The next response's is taken as soon as the last one is settled, because the
provider may begin to answer at any time. So each response is charged in full when it ends, in the window in which it
was held for; a crash loses no more than the one hold of each session, which expires and is charged; and one session of
an hour does not put all it spends into its first minute. Where there is no room for another response the session is
cut: the client gets an error in the provider's shape and a close frame, code 1008 (policy violation).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from msgspec import structs

from policyd.core.policy import Metric, Policy
from policyd.core.record import Outcome, Record, UsageSource
from policyd.core.usage import Usage
from policyd.enforcer import Ending, Verdict
from policyd.estimator import Ask
from policyd.ext_proc import messages as m
from policyd.ext_proc.life import Life
from policyd.ext_proc.session_meter import SessionMeter
from policyd.ext_proc.session_traffic import Traffic
from policyd.ext_proc.settings import CountText, ExchangeSettings
from policyd.ext_proc.states import SessionState as State
from policyd.providers.base import ErrorInfo, Prompt, RequestFacts
from policyd.providers.endpoint import Endpoint
from policyd.providers.framing.websocket import Violation, encode_close, encode_ping, encode_text
from policyd.providers.realtime import RealtimeFormat, RealtimeReader, Transcription

SESSION_METRICS = (Metric.REQUESTS, Metric.CONCURRENT_REQUESTS)
"""What a session itself is held for, once; its responses are held for the rest."""

RESPONSE_METRICS = tuple(metric for metric in Metric if metric not in SESSION_METRICS)

SWITCHING = 101

# Close codes (RFC 6455, section 7.4.1).
GONE = 1001
UNREADABLE = 1007
POLICY = 1008
INTERNAL = 1011

Step = tuple[State, list[m.Effect]]


class HoldingSession(Life[State]):
    IDLE = State.IDLE
    AUTHENTICATING = State.AUTHENTICATING
    ENDED = State.ENDED

    # What a state relies on is set by the transition that leads there.
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
        super().__init__(
            request_id=request_id,
            began_ms=began_ms,
            policy=policy,
            settings=settings,
            count_text=count_text,
            error_wire=endpoint.error_wire,
        )
        self._endpoint = endpoint
        self._format = realtime
        self._provider, self._endpoint_name = endpoint.vendor.id, endpoint.name
        self._traffic = Traffic()
        self._place: Verdict | None = None
        """The reservation of the session itself."""
        self._hold: Verdict | None = None
        """The reservation of the current response, or of the next one."""
        self._responses = 0
        """How many were held for; it numbers their reservations."""
        self._connected = False
        """Whether the handshake went upstream."""
        self._last_words: list[m.Effect] = []
        """How a session that was cut is ended, once the provider has answered."""

    # --- what is asked of the enforcer ---

    def _place_ask(self) -> Ask:
        facts = RequestFacts(model=self._reader.model, streamed=True, prompt=Prompt(texts=()), max_output_tokens=0)
        return replace(self._ask(self.request_id, facts, SESSION_METRICS), input_tokens=0)

    def _next_response_ask(self, facts: RequestFacts) -> Ask:
        self._responses += 1
        return self._ask(f"{self.request_id}-{self._responses}", facts, RESPONSE_METRICS)

    def _charge(self, transcription: Transcription) -> m.Charge:
        facts = RequestFacts(
            model=transcription.model or self._reader.model,
            streamed=True,
            prompt=Prompt(texts=()),
            max_output_tokens=0,
        )
        return m.Charge(self._next_response_ask(facts), transcription.usage)

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

    # --- the end ---

    def _hang_up(self, _: m.Closed) -> Step:
        outcome = Outcome.SERVED if self._traffic.is_closed else Outcome.DISCONNECTED
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
        passing = self._traffic.passing
        came = [] if passing is None else [passing.received]
        for message in self._traffic.received_unread():
            came.append(self._reader.read_received(message))
            self._meter.received(came[-1])
        ended = next((received.ended for received in came if received.ended is not None), None)
        if ended is not None:
            return self._meter.end_response(ended)
        # An orderly end of the connection is none of a response that was under way.
        outcome = Outcome.DISCONNECTED if ending.outcome is Outcome.SERVED else ending.outcome
        cut_short = self._meter.end_session(outcome, on_disconnect=self._policy.on_disconnect, verdict=hold)
        return structs.replace(cut_short, error=ending.error)

    def _place_ending(self, outcome: Outcome, *, error: str | None = None) -> Ending:
        """The ending of the session itself, which costs nothing; one that never went upstream did not take place."""
        usage = Usage() if self._connected else None
        status = SWITCHING if self._connected else None
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
            m.StreamedBody(response=False, body=encode_close(GONE, "", from_client=True), end_of_stream=False),
            m.StreamedBody(response=True, body=b"", end_of_stream=True),
        ]
        if not self._traffic.provider_has_spoken:
            self._last_words = words
            words = [m.StreamedBody(response=False, body=encode_ping(from_client=True), end_of_stream=False)]
        return State.ENDED, [*before, *words, *self._finish_all(self._place_ending(outcome, error=error.reason))]

    def _say_last_words(self, _: m.ResponseBody) -> Step:
        words, self._last_words = self._last_words, []
        return State.ENDED, words

    def _cut_violation(self, violation: Violation, *, from_client: bool, before: Collection[m.Effect]) -> Step:
        who = "client" if from_client else "provider"
        message = f"The {who} broke the WebSocket protocol: {violation.message}."
        error = self._info(400, "websocket_invalid", message)
        outcome = Outcome.REJECTED if from_client else Outcome.PROVIDER_ERROR
        return self._cut(error, code=violation.code if from_client else INTERNAL, outcome=outcome, before=before)

    def _turn_away(self, verdict: Verdict) -> Step:
        """A limit has no room: for the session, or for its next response."""
        info = self._denial_info(verdict)
        report = m.Report(verdict.record._replace(status=info.status))
        if self._connected:
            state, effects = self._cut(info, code=POLICY, outcome=Outcome.CUT)
            return state, [*effects, report]
        return State.ENDED, [self._denial(verdict), *self._finish_all(self._place_ending(Outcome.DENIED)), report]

    def _conclude(self, record: Record) -> list[m.Effect]:
        ending = Ending(
            record.outcome,
            usage=None,
            source=UsageSource.NONE,
            status=record.status,
            streamed=True,
            error=record.error,
        )
        return self._finish_all(ending) or [m.Report(record)]

    def _return_hold(self, event: m.Decided) -> Step:
        """The session had ended when the enforcer decided."""
        if not event.verdict.decision.allowed:
            return State.ENDED, [m.Report(event.verdict.record)]
        ending = Ending(Outcome.RELEASED, usage=None, source=UsageSource.NONE)
        return State.ENDED, [m.Finish(event.verdict, ending)]
