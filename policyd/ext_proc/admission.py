"""An exchange up to its decision: which endpoint it is for, what its request says, and whether it may go upstream."""

from __future__ import annotations

from abc import abstractmethod

from msgspec import structs

from policyd.core.decision import NO_CHANGES
from policyd.core.errors import BodyTooSlow, BodyUnreadable, EndpointUnknown, RequestError
from policyd.core.policy import Policy
from policyd.core.policy import UnknownEndpoint as UnknownEndpointAction
from policyd.core.record import Outcome, Record, UsageSource
from policyd.core.runtime import Blocked
from policyd.enforcer import Ending, Verdict
from policyd.estimator import Ask
from policyd.ext_proc import messages as m
from policyd.ext_proc.headers import block_headers
from policyd.ext_proc.life import Life
from policyd.ext_proc.refusal import block_refusal, immediate
from policyd.ext_proc.request import NO_UPGRADE
from policyd.ext_proc.settings import CountText, ExchangeSettings
from policyd.ext_proc.states import State
from policyd.providers.base import RequestEdits, WireFormat
from policyd.providers.endpoint import Endpoint, UnknownEndpoint
from policyd.providers.registry import OPENAI_CHAT, might_be_priced, resolve

Step = tuple[State, list[m.Effect]]


class Admission(Life[State]):
    IDLE = State.IDLE
    AUTHENTICATING = State.AUTHENTICATING
    ENDED = State.ENDED

    # What a state relies on is set by the transition that leads there.
    _arrival: m.RequestHeaders
    _destination: Endpoint | UnknownEndpoint | None
    _endpoint: Endpoint
    _wire: WireFormat
    _ask: Ask
    _verdict: Verdict

    _holding = False
    """Whether the request was granted, so that `_verdict` has a hold."""

    def __init__(
        self, *, request_id: str, began_ms: int, policy: Policy, settings: ExchangeSettings, count_text: CountText
    ) -> None:
        super().__init__(
            request_id=request_id,
            began_ms=began_ms,
            policy=policy,
            settings=settings,
            count_text=count_text,
            error_wire=OPENAI_CHAT,
        )

    # --- the request ---

    def _begin(self, event: m.RequestHeaders) -> Step:
        self._arrival = event
        self._destination = endpoint = resolve(
            provider=event.provider,
            host=event.headers.get(":authority", ""),
            method=event.headers.get(":method", ""),
            path=event.headers.get(":path", ""),
        )
        if endpoint is not None:
            self._error_wire = endpoint.error_wire
            self._provider = endpoint.vendor.id
        metered = False
        if isinstance(endpoint, Endpoint):
            self._endpoint_name = endpoint.name
            metered = endpoint.wire is not None
        return self._authenticate(event, metered=metered)

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
            ask = self._request.ask(
                request_id=self.request_id, endpoint=self._endpoint, wire=self._wire, policy=self._policy
            )
            question = self._question(ask)
        except RequestError as error:
            return self._refuse(error)
        self._ask = ask
        self._model, self._attributes = ask.facts.model, ask.identity
        return State.DECIDING, [question]

    def _question(self, ask: Ask) -> m.Decide:
        """What the enforcer is asked. Raises `RequestError`s."""
        return m.Decide(ask)

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
        return self._forward(verdict)

    def _edits(self, verdict: Verdict) -> RequestEdits:
        """What is changed in the body that goes upstream."""
        return RequestEdits(
            request_usage=not verdict.facts.usage_requested,
            max_output_tokens=verdict.max_output_tokens,
            model=verdict.decision.changes.model,
            strip_fields=self._policy.identity.strip.body,
        )

    @abstractmethod
    def _forward(self, verdict: Verdict) -> Step:
        """Lets the request go upstream, with what it may cost held."""

    def _deny(self, verdict: Verdict) -> Step:
        reply = self._denial(verdict)
        return State.ENDED, [reply, m.Report(verdict.record._replace(status=reply.status))]

    def _rejected(self, event: m.Rejected) -> Step:
        if isinstance(event.error, Blocked):
            return self._deny_blocked(event.error)
        return self._refuse(event.error)

    def _deny_blocked(self, error: Blocked) -> Step:
        reply = immediate(
            self._error_wire,
            block_refusal(error, request_id=self.request_id),
            headers=block_headers(self.request_id, self._settings.header_prefix),
            retry_after_seconds=error.block.seconds_left(self._began_ms),
            retry=False,
        )
        record = self._unheld(Outcome.DENIED, status=error.status, denied_by=(error.block.name,))
        return State.ENDED, [reply, m.Report(record)]

    def _abandon(self, _: m.Closed) -> Step:
        return State.ABANDONED, []

    def _return_hold(self, event: m.Decided) -> Step:
        """The client went while the enforcer decided: the provider has seen nothing."""
        self._verdict = event.verdict
        if not event.verdict.decision.allowed:
            return State.ENDED, [m.Report(event.verdict.record)]
        ending = Ending(Outcome.DISCONNECTED, usage=None, source=UsageSource.NONE)
        return State.SETTLING, [m.Finish(event.verdict, ending)]

    # --- what does not get that far ---

    def _fail_undecided(self, event: m.Failed) -> Step:
        """policyd failed, and knows what the request says: the policy's `failure_mode` decides.

        What passes is charged the most that it can cost, also where its client hangs up meanwhile; what cannot be
        charged is refused, and so is what was held for as policy would have changed it: it would pass unchanged.
        """
        if not self._may_pass(event):
            return self._fail_closed(event)
        if not self._holding:
            return State.CHARGING, [m.ChargeMaximum(self._ask, event.error)]
        if self._verdict.decision.changes != NO_CHANGES:
            return self._fail_closed(event)
        maximum = self._verdict.decision.estimate.maximum
        ending = Ending(Outcome.UNMETERED, usage=maximum, source=UsageSource.NONE, error=event.error)
        state, passing = self._pass_undecided()
        return state, [*passing, m.Finish(self._verdict, ending)]

    def _pass_charged(self, _: m.Ended) -> Step:
        return self._pass_undecided()

    @abstractmethod
    def _pass_undecided(self) -> Step:
        """Lets the request go upstream as it came; its reply is not read."""

    def _conclude(self, record: Record) -> list[m.Effect]:
        if not self._holding:
            return [m.Report(record)]
        verdict = structs.replace(self._verdict, record=self._verdict.record._replace(decision=record.decision))
        ending = Ending(record.outcome, usage=None, source=UsageSource.NONE, status=record.status, error=record.error)
        return [m.Finish(verdict, ending)]

    def _pass_unmetered(self) -> Step:
        if self._request.upgrades:
            return self._refuse(BodyUnreadable(NO_UPGRADE))
        return State.PASSING, [self._request.pass_headers(), m.Report(self._unheld(Outcome.UNMETERED))]
